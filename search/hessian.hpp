// The block scale of least r^T H r, r = x - value with nearest elements, H the block's diagonal block of X^T X.
// A diagonal H gives the weighted squared error, decided in the same way.
//
// The loss of each code is computed in binary64 as an interval that holds the real one; a code whose interval lies
// above another's cannot be the optimum. What survives is compared pairwise: codes of the same values tie (s and 2s, as
// a rule); else the difference of the losses is taken in pairs of doubles with a proven bound; what that cannot tell
// apart, real ties of different values as a rule, is summed without rounding: in expansions of doubles, or in rationals
// where H leaves their range (hessian.cpp).
// No bound on SSE prunes here: a nearer element need not have the smaller r^T H r. hessian_lanes.hpp has many rows at
// once.
#pragma once

#include "search/sse.hpp"

namespace fp4scope::search {

/// H of one block: h[n * n] row-major, symmetric, and an envelope with |h[i * n + j]| <= envelope[i] * envelope[j].
struct BlockHessian {
  const double* h;
  const double* envelope;
};

/// The real loss lies in [value - radius, value + radius].
struct LossInterval {
  double value;
  double radius;
};

/// Error: r_i is one rounding of a difference of exact doubles; each product of three factors and sum of n^2 terms
/// rounds at most 2 n + 6 times along any path, so |error| <= (2 n + 6) u (1 + small) sum |r_i| |h_ij| |r_j|, and that
/// sum is at most (sum envelope_i |r_i|)^2. The radius takes (2 n + 16) 2^-52, twice as much.
FP4SCOPE_HD constexpr LossInterval hessian_loss(const SearchSpace& space, const Block& block,
                                                const BlockHessian& hessian, int code, double* room) noexcept {
  double* const r = room;
  double* const hr = room + block.n;
  const double step = space.step(code);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  double size = 0;
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const double value = nearest_value(space, thresholds, step, magnitude);
    const bool negative = (__builtin_bit_cast(std::uint32_t, block.x[i]) >> 31) != 0;
    r[i] = negative ? value - magnitude : magnitude - value;
    size += hessian.envelope[i] * (r[i] < 0 ? -r[i] : r[i]);
    hr[i] = 0;
  }
  for (int i = 0; i < block.n; ++i) {  // H's columns side by side, so that nothing is summed horizontally
    const double* row = hessian.h + static_cast<std::int64_t>(i) * block.n;
    for (int j = 0; j < block.n; ++j) hr[j] += row[j] * r[i];
  }
  double loss = 0;
  for (int i = 0; i < block.n; ++i) loss += r[i] * hr[i];
  return {loss, (2 * block.n + 16) * 0x1p-52 * size * size};
}

/// The sign of the loss at code a less that at code b, in rationals.
int compare_hessian_exact(const SearchSpace& space, const Block& block, const BlockHessian& hessian, int a, int b);

/// The same sign: of equal values, in pairs of doubles, in expansions, or in rationals, the first that can tell.
int compare_hessian(const SearchSpace& space, const Block& block, const BlockHessian& hessian, int a, int b,
                    SearchCount* count = nullptr);

/// The code of least loss among codes[number], ascending and at least one; ties to the lowest.
/// `room`: for 2 * block.n values. `loss`: for `number`.
int best_hessian_code(const SearchSpace& space, const Block& block, const BlockHessian& hessian, const int* codes,
                      int number, double* room, LossInterval* loss, SearchCount* count = nullptr);

/// Whether H = 0: then every loss is 0 and the lowest positive code is the answer, as the definition says.
FP4SCOPE_HD constexpr bool hessian_is_zero(const BlockHessian& hessian, int n) noexcept {
  for (int i = 0; i < n; ++i) {
    if (hessian.envelope[i] != 0) return false;
  }
  return true;
}

/// The code of least loss over all positive codes, ties to the lowest; 0 for an all-zero block. With no activation
/// (H = 0) every code ties and the lowest positive one is the answer, as the definition says.
/// `room`: for 2 * block.n values. `loss`: for 256.
int hessian_code(const SearchSpace& space, const Block& block, const BlockHessian& hessian, double* room,
                 LossInterval* loss, SearchCount* count = nullptr);

}  // namespace fp4scope::search
