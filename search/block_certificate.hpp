// The proof that a block's scale code is optimal, in four numbers that a checker can confirm without a search.
//
//   lo, hi  every code outside [lo, hi] is excluded by a bound at one end
//   loss    the loss of the code, rounded to nearest
//   gap     at least this much more is lost by any other code (of IF4: any other pair of code and element); the
//           difference to the second best in real numbers, rounded down; 0 for a tie, which the lowest code wins
//
// Squared error, C and Z as in pruning.hpp:
//   below lo  lo is the first code, or C(lo - 1) - loss > 0 and >= gap. C grows as s falls.
//   above hi  hi is the last code, or one of
//             Z(hi + 1) - loss >= gap. Z grows as s grows.
//             amax <= (L + D) / 2 * s(hi + 1) / 2. Then each code above whose half is a code loses at least what its
//             half loses, and so on down to a code that is in [lo, hi], or below lo, or has no half. So it is enough
//             that the codes without a half above hi, and the code of twice the scale, whose half is the optimum
//             itself, lose at least loss + gap.
// Hessian loss, a diagonal minorant in place of squared error (hessian_bounds.hpp): the same C and Z weighted by d, no
// dominance (a smaller residual of every element need not make a smaller r^T H r).
// An all-zero block has code, lo, hi, loss and gap 0. A block of non-finite data has the NaN code, loss NaN, gap 0.
#pragma once

#include "search/hessian_bounds.hpp"
#include "search/if4.hpp"

namespace fp4scope::search {

struct BlockCertificate {
  int lo = 0;
  int hi = 0;
  double loss = 0;
  double gap = 0;
};

/// `code` as sse_code or selecting_sse_code found it, bit 7 the selection of formats that select. It is not searched
/// again: a code that is not optimal gives a certificate that no checker accepts.
BlockCertificate certify_sse(const SelectingSpace& spaces, bool selects, const Block& block, int code);

/// `code` as hessian_code found it; minorant[n] >= 0 with H - diag(minorant) >= 0. `loss`: room for 256,
/// `room`: for 2 n values, as of hessian_code.
BlockCertificate certify_hessian(const SearchSpace& space, const Block& block, const BlockHessian& hessian,
                                 const double* minorant, int code, double* room, LossInterval* loss);

}  // namespace fp4scope::search
