// ScaleSweep's window: the least SSE among the codes from three below naive's to seven above (arXiv 2606.07618).
//
// For comparison, not for use: it is not the optimum. The bound above (a scale of at least 2 amax / 7 loses to its
// half, pruning.hpp) needs the half to be a code, and odd codes below 16 have none: {13 * 2^-10, 0, ...} without a
// tensor scale has naive code 1 and SSE 0 at code 13. With an amax tensor scale such blocks are rare; the errors are
// compared exactly.
#pragma once

#include "search/sse.hpp"

namespace fp4scope::search {

inline constexpr int scalesweep_below = 3, scalesweep_above = 7;

/// The code of least SSE in the window, ties to the lowest; 0 for an all-zero block.
FP4SCOPE_HD constexpr int scalesweep_code(const SearchSpace& space, const Block& block,
                                          SearchCount* count = nullptr) noexcept {
  if (block.amax == 0) return 0;
  const int naive = sim::scale_code(space.scale, space.start, block.amax, static_cast<float>(space.tensor_scale));
  const int low = naive - scalesweep_below, first = low < space.first_code ? space.first_code : low;
  const int high = naive + scalesweep_above, last = high > space.last_code ? space.last_code : high;
  Best best = {first, sums_at(space, block, first)};
  if (count) ++count->candidates;
  for (int code = first + 1; code <= last; ++code) keep_better(space, block, code, best, count);
  return best.code;
}

}  // namespace fp4scope::search
