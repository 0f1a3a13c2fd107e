// H = U D U^T, U unit upper triangular, D diagonal and positive: the factorisation that begins at the last column.
//
//   r^T H r = sum_i D_i (r_i + sum_{j < i} U_ji r_j)^2
//
// Whoever decides the columns from first to last meets each D_i once all earlier r are known: that is GPTQ's feedback
// (arXiv 2210.17323). Its own factor is the upper Cholesky factor C of the inverse, H^-1 = C^T C, C = D^-1/2 U^-T: both
// say the same in real numbers, and U needs no inverse. D_i is also the Schur complement: what H says about column i
// once all later columns are free to compensate; (U D U^T restricted to a block's own rows and columns) the same for
// a block.
//
// Order: entry (p, q), p >= q, is h_pq - sum over k = n-1 down to p+1 of U_pk D_k U_qk, one rounding a product (U_pk
// times the rounded D_k U_qk) and one a difference; U_qp is its quotient by D_p. Neither threads nor panels enter.
#pragma once

#include "search/full_hessian.hpp"

namespace fp4scope::search {

struct Factor {
  std::int64_t cols = 0;
  std::vector<double> upper;    ///< U [cols, cols] row-major, ones on the diagonal, zeros below it
  std::vector<double> d;        ///< [cols]
  double shift = 0;             ///< what was added to H's diagonal
  std::int64_t bad_pivot = -1;  ///< the first column whose D is not positive; the rest is then undefined

  const double* row(std::int64_t j) const { return upper.data() + j * cols; }
};

/// GPTQ's share of the mean diagonal that is added to the diagonal.
inline constexpr double default_damping = 0.01;

/// The factors of H + damping * mean(diag H) * I.
Factor factor(const FullHessian& hessian, double damping = default_damping, std::int64_t panel = 64);

/// In place: m [n, n], of which the lower triangle is read, becomes U^T, ones included; d [n]. What stands above the
/// diagonal is undefined. Returns the first bad pivot, counted from the last column on, or -1.
std::int64_t factor_in_place(double* m, std::int64_t n, double* d, std::int64_t panel = 64);

/// Column i of a block decided after its earlier columns: the block's Schur complement, U_b D_b U_b^T over columns
/// [first, first + block), summed from the last column on. s [block, block].
void conditional_block(const Factor& factor, std::int64_t first, int block, double* s);

}  // namespace fp4scope::search
