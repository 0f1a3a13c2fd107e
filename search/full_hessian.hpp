// The output error of a whole row: r^T H r, r = x - value, H = X^T X over all columns.
//
// H is computed in binary64: products of floats are exact, each entry is summed over the tokens in order. An assignment
// gives every block a scale code and every element a signed level; it need not be the level nearest to the element.
// Formats whose blocks select an element type are outside: their grids are scaled by 7.
#pragma once

#include <cstdint>
#include <vector>

#include "search/block_problem.hpp"
#include "search/search.hpp"

namespace fp4scope::search {

/// h [cols, cols] row-major, symmetric. Not normalised.
struct FullHessian {
  std::int64_t cols = 0;
  std::vector<double> h;

  const double* row(std::int64_t i) const { return h.data() + i * cols; }
};

/// x [tokens, cols] row-major and finite.
FullHessian make_full_hessian(const float* x, std::int64_t tokens, std::int64_t cols);

/// The diagonal blocks, bit for bit what make_hessians gives for the same x. cols is a multiple of block.
Hessians diagonal_blocks(const FullHessian& hessian, int block);

/// An envelope with |h_ij| <= envelope_i envelope_j of a block h [n, n]: sqrt(h_ii), enlarged where an entry asks.
void set_envelope(const double* h, int n, double* envelope);

/// c[i][j] += sum over k of a[k][i] b[k][j], in the order of k with one rounding a product and one a sum. Tiling c in
/// any way leaves every bit as it is. Strides are in elements.
void add_products(double* c, std::int64_t c_stride, const double* a, std::int64_t a_stride, const double* b,
                  std::int64_t b_stride, std::int64_t rows, std::int64_t cols, std::int64_t depth);

/// Scale codes [rows, cols / block] and signed levels [rows, cols]: value = signed_level * step(code).
struct Assignment {
  std::vector<std::uint8_t> scales;
  std::vector<std::int8_t> levels;
};

/// Nearest elements at given scales: scales [rows, cols / block], x [rows, cols].
Assignment nearest_assignment(const SearchSpace& space, int block, const std::vector<std::uint8_t>& scales,
                              const float* x, std::int64_t rows, std::int64_t cols);

/// r = x - value [rows, cols], one rounding each.
std::vector<double> residuals(const SearchSpace& space, int block, const Assignment& assignment, const float* x,
                              std::int64_t rows, std::int64_t cols);

/// hr[n_rows][cols] = H r for a few rows at once: each entry is summed over H's rows in order.
void multiply_rows(const FullHessian& hessian, const double* r, std::int64_t n_rows, double* hr);

/// r^T H r of each row of r [rows, cols], in fixed order.
std::vector<double> row_losses(const FullHessian& hessian, const double* r, std::int64_t rows);

}  // namespace fp4scope::search
