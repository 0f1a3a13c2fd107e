// IF4: every block is E2M1 or INT4 * 6/7 at one E4M3 scale; the choice is bit 7 of the scale's code (arXiv 2603.28765).
// INT4 needs a strictly smaller error: ties stay with E2M1. Both error sums are taken times 7 (sim::grid_factor), so
// that 6/7 is a whole number and the comparison is exact.
//
// Bit budget: 7 |x| has 27 bits, 6 k step 2 + 3 + 28, levels at most 6, so every term of ExactSum is an exact double.
#pragma once

#include "search/four_over_six.hpp"

namespace fp4scope::search {

/// The two spaces of one tensor.
struct SelectingSpace {
  SearchSpace floating;
  SearchSpace integer;
};

FP4SCOPE_HD constexpr SelectingSpace make_selecting_space(const formats::BlockFormat& format, float tensor_scale,
                                                          sim::ScaleRule start) noexcept {
  return {make_space(format, tensor_scale, start, false), make_space(format, tensor_scale, start, true)};
}

/// The element type at a given code: the code, with the selection bit for INT4.
FP4SCOPE_HD constexpr int select_element(const SelectingSpace& spaces, const Block& block, Select select, int code,
                                         SearchCount* count = nullptr) noexcept {
  if (code == 0) return 0;
  const bool integer = compare_errors(spaces.integer, spaces.floating, block, select, code, code, count) < 0;
  return integer ? code | formats::selection_bit : code;
}

/// The better of the best of each type; of equals the lower code, then E2M1.
FP4SCOPE_HD constexpr int better_element(const SelectingSpace& spaces, const Block& block, int floating, int integer,
                                         SearchCount* count = nullptr) noexcept {
  if (block.amax == 0) return 0;
  const int order = compare_errors(spaces.integer, spaces.floating, block, Select::mse, integer, floating, count);
  return order < 0 || (order == 0 && integer < floating) ? integer | formats::selection_bit : floating;
}

/// Least squared error over all positive codes and both element types.
FP4SCOPE_HD constexpr int selecting_sse_code(const SelectingSpace& spaces, const Block& block,
                                             SearchCount* count = nullptr) noexcept {
  return better_element(spaces, block, sse_code(spaces.floating, block, count), sse_code(spaces.integer, block, count),
                        count);
}

/// The slow, obviously right twin.
FP4SCOPE_HD constexpr int selecting_sse_code_ref(const SelectingSpace& spaces, const Block& block,
                                                 SearchCount* count = nullptr) noexcept {
  return better_element(spaces, block, sse_code_ref(spaces.floating, block, count),
                        sse_code_ref(spaces.integer, block, count), count);
}

}  // namespace fp4scope::search
