// Lower bounds of the Hessian loss r^T H r that hold without knowing all of r. H is positive semidefinite (psd.hpp).
// At step s the nearest element of a clipped |x_i| > L s is the largest level L, so r_i = sign(x_i) (|x_i| - L s); that
// of a zeroed |x_i| <= m s, m the first midpoint, is 0, so r_i = x_i. Three kinds of bound, all rounded down:
//
// 1. A diagonal minorant, H - diag(d) >= 0 with d >= 0:  r^T H r >= sum d_i r_i^2, whatever r is. So
//      loss(s) >= clipped(s) = sum over |x_i| > L s of d_i (|x_i| - L s)^2, which grows as s falls, and
//      loss(s) >= zeroed(s) = sum over |x_i| <= m s of d_i x_i^2, which grows as s grows;
//    each term does, and each set does. These two alone exclude a whole range of codes by its end. d = lambda_min is
//    the bound by squared error; d_k = 1 / (H^-1)_kk for one k, 0 elsewhere, is what one element's residual costs at
//    least (minimise over the others), so a single clipped element, amax, is monotone too.
// 2. Several residuals held at once, the others free: the minimum over the free ones, r_S^T (H_SS - H_SF H_FF^+ H_FS)
//    r_S, one Schur complement of the union of clipped and zeroed elements. (Two complements, of each set by itself, do
//    not add: the free residuals that serve one do not serve the other. H = [[1,.9],[.9,1]], s = 4, x = (25,-1): loss
//    .20, sum of the two .38.) It holds at the one s whose residuals it is given and is not monotone: residuals of
//    clipped elements all grow as s falls, but each by the same amount, not the same factor, so with H's off-diagonals
//    their form may fall. H = [[1,-1.8],[-1.8,4]], x = (9,1.5): 50.6 at L s = 1, r = (8,.5), and 45.65 at L s = .5.
// 3. Codes that need not be the nearest ones: nothing is known of r_i but |r_i| >= the distance to the nearest level,
// so
//    only lambda_min * SSE of nearest elements holds. (A held set does not: the neighbour may be chosen so that its
//    error cancels. H = [[1,-.99],[-.99,1]], s = 1, x = (8,6.25): held 3.07, optimum .15.)
#pragma once

#include "search/hessian.hpp"

namespace fp4scope::search {

/// d_i = theta h_ii with the largest theta, within 2 %, for which H - diag(d) >= 0 is certified; 0 where none is.
void diagonal_minorant(const double* h, int n, double* d);

/// The largest d_k, within 2 %, for which H - d_k e_k e_k^T >= 0 is certified: 1 / (H^-1)_kk from below, 0 where H is
/// singular in that direction.
double element_minorant(const double* h, int n, int k);

/// Kind 1 at a code, d[n] >= 0 certified; null for d = 1, the same bounds of squared error. In units of
/// space.factor^2, as every error of a space.
double clipped_bound(const SearchSpace& space, const Block& block, const double* d, int code);
double zeroed_bound(const SearchSpace& space, const Block& block, const double* d, int code);

/// Kind 2: the least r^T H r over all r with r[i] as given where held[i]. In rationals, so that a singular H_FF is no
/// matter: a pivot of 0 has zeros beside it, as the pseudo-inverse has. Minus infinity where H is not positive
/// semidefinite on the free elements.
double held_bound(const double* h, int n, const double* r, const bool* held);

/// The same with the clipped and zeroed elements of a code held.
double held_bound(const SearchSpace& space, const Block& block, const double* h, int code);

/// Kind 3: lambda_min * SSE of nearest elements, a lower bound whatever codes are chosen at that scale.
double free_codes_bound(const SearchSpace& space, const Block& block, double lambda_min, int code);

/// Squared error of nearest elements at a code, each residual rounded once: within sum_error(n) of itself.
double nearest_sse(const SearchSpace& space, const Block& block, int code);

}  // namespace fp4scope::search
