// What the kinds of `crosscheck` share; for app/crosscheck*.cpp.
#pragma once

#include <string>
#include <vector>

#include "io/results.hpp"

namespace fp4scope::app {

/// `crosscheck --device cuda`.
struct DeviceCrosscheckWords {
  int device = 0;
  bool full = false;
  std::vector<std::string> only;
  std::string out;
};
int run_device_crosscheck(const DeviceCrosscheckWords& words, bool json);

/// A table as a results file, with what it is of.
void write_crosscheck(const std::string& path, const std::string& kind, const io::Table& table,
                      const io::Attributes& more);

}  // namespace fp4scope::app
