// Where a run's errors come from, as the datasets of its group: notebooks-data/schema.md, "decomposed".
#pragma once

#include <string>

#include "analysis/run_sums.hpp"
#include "io/results.hpp"

namespace fp4scope::analysis {

/// Adds them to the record under `group` ("/runs/000007/"). `energy`: sum of w^2, which squared errors are divided by.
void add_parts(const Parts& parts, const formats::BlockFormat& format, double energy, const std::string& group,
               io::Record& record);

}  // namespace fp4scope::analysis
