// `crosscheck --recipes --format ELEMENT`: the element converters of sim/converter.hpp against each other, each by its
// defaults, on all 2^32 binary32 patterns.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/results.hpp"

namespace fp4scope::analysis {

/// How often two converters give different codes, and the first pattern (in the order of bits) that is no NaN.
struct ConverterPair {
  std::string element, first, second;
  std::int64_t nan = 0, zero = 0, infinite = 0, finite = 0;  ///< patterns of each kind whose codes differ
  bool has_example = false;                                  ///< a finite one
  std::uint32_t bits = 0, code = 0, other_code = 0;
};

/// Every pair of converters of one element; empty if it has fewer than two. Stopped: empty.
std::vector<ConverterPair> crosscheck_converters(const std::string& element,
                                                 const std::function<void(double)>& progress,
                                                 const std::atomic<bool>* stop);

io::Table converters_table(const std::vector<ConverterPair>& pairs);

/// "0.75 (0x3f400000): 0x2 (1) and 0x1 (0.5)"
std::string example_text(const ConverterPair& pair);

}  // namespace fp4scope::analysis
