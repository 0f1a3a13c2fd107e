// Positive semidefinite by certificate: what every bound on r^T H r rests on.
//
//   H - diag(d) >= 0   (d = 0: H itself; d = lambda: a lower bound of the least eigenvalue; any d >= 0: a minorant)
//
// Two stages. The quick one is a Cholesky factorization in binary64 with a margin: if that of A - c I ends without a
// pivot <= 0, then R^T R = A - c I + E with |E_ij| <= g / (1 - g) sqrt(a_ii a_jj), g = (n + 1) u / (1 - (n + 1) u)
// (Higham, Accuracy and Stability of Numerical Algorithms, theorem 10.3 and (10.8); Rump, BIT 46, 2006), so that
// ||E|| <= g / (1 - g) trace A, and A >= c I - E >= 0 once c is at least that. The margin is four times as large, which
// covers its own roundings and underflow. A is scaled by powers of two to a diagonal in [1, 4) first: exact, and no
// channel's size hides another's.
// The exact one is an LDL^T in integers (Bareiss: no fractions). A pivot of 0 has to have zeros beside it, and is left
// out; a negative one is a proof that H is not positive semidefinite.
#pragma once

#include "search/search.hpp"

namespace fp4scope::search {

/// The largest matrix that the exact stage takes: n^3 / 3 steps on numbers of up to n * 53 bits and more.
inline constexpr int max_exact_psd = 64;

/// h[n][n] is symmetric and finite; d[n] finite, or null for 0. `quick` says yes only where it is proved; `exact` is
/// the truth, n at most max_exact_psd; `is_psd` asks the first, then, up to max_exact_psd, the second.
bool is_psd_quick(const double* h, int n, const double* d = nullptr);
bool is_psd_exact(const double* h, int n, const double* d = nullptr);
bool is_psd(const double* h, int n, const double* d = nullptr);

/// The least shift that makes H positive semidefinite: 0, or the first of 2^k m, k = -52, -51, ..., m the largest
/// magnitude of an entry (of a Gram matrix on its diagonal), for which the matrix with every h_ii + shift, rounded,
/// passes is_psd.
double psd_shift(const double* h, int n);

/// A certified lower bound of the least eigenvalue, negative where H is not positive semidefinite: what is_psd_quick
/// accepts, within 2 % of the largest that it does.
double eigenvalue_floor(const double* h, int n);

/// What certify did.
struct PsdReport {
  std::vector<double> shift;  ///< [blocks], 0 where none was needed
  std::int64_t shifted = 0;   ///< blocks with a shift
  double largest_shift = 0;
  std::uint64_t hash = 0;  ///< FNV-1a of block size, count and the bits of H as it is now
};

/// Makes every H positive semidefinite by adding its shift to the diagonal; envelopes are kept valid.
PsdReport certify(Hessians& hessians);

/// FNV-1a over 64-bit words: the block size, the number of blocks, the bits of every entry.
std::uint64_t content_hash(const Hessians& hessians);

}  // namespace fp4scope::search
