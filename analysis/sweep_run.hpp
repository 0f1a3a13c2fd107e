// The runs of a plan within a bound on memory.
//
// A tensor that fits is read once and kept while its runs pass, each stored when it is done. A larger one is read in
// pieces of rows, by some runs at a time: every piece is quantized and measured by each of them before the next is
// read. What is decided and summed is the same (quantize.hpp, metrics.hpp). Small tensors are in flight together, each
// on one core; the others follow one by one on all cores.
//
// With GPUs a few threads of each take tensors, the most work first; what a GPU can't do these threads do on their
// share of the cores. A tensor's rows are on the GPU while its runs pass; what they became comes back only where more
// is asked for than the GPU measures.
#pragma once

#include "analysis/sweep.hpp"
#include "analysis/sweep_log.hpp"
#include "analysis/sweep_plan.hpp"

namespace fp4scope::analysis {

/// Runs what `store` has no record of. Throws Error: the first in the plan's order of the tensors in flight.
void run_plan(const SweepConfig& config, const SweepOptions& options, const Plan& plan, io::RecordStore& store,
              SweepLog& log, const Notice& notice);

}  // namespace fp4scope::analysis
