#include "search/factor.hpp"

#include <algorithm>

namespace fp4scope::search {

namespace {

constexpr std::int64_t tile = 64;

/// The rows of the panel [first, last), last row first. negative[k] and product[k] are -U^T and D U^T of row last-1-k.
std::int64_t factor_panel(double* m, std::int64_t n, double* d, std::int64_t first, std::int64_t last, double* negative,
                          double* product) {
  for (std::int64_t i = last - 1; i >= first; --i) {
    double* const row = m + i * n;
    const std::int64_t k = last - 1 - i;
    add_products(row, n, negative + i, n, product, n, 1, i + 1, k);
    d[i] = row[i];
    if (!(d[i] > 0)) return i;
    for (std::int64_t q = 0; q <= i; ++q) {
      product[k * n + q] = row[q];
      row[q] = q == i ? 1 : row[q] / d[i];
      negative[k * n + q] = -row[q];
    }
  }
  return -1;
}

/// What the panel means for the rows before it: a tile of the lower triangle at a time.
void update_rows(double* m, std::int64_t n, std::int64_t rows, std::int64_t depth, const double* negative,
                 const double* product) {
#pragma omp parallel for schedule(dynamic, 1) if (rows > 2 * tile)
  for (std::int64_t back = 0; back < (rows + tile - 1) / tile; ++back) {
    const std::int64_t p = ((rows - 1) / tile - back) * tile;  // the longest first
    for (std::int64_t q = 0; q <= p; q += tile) {
      add_products(m + p * n + q, n, negative + p, n, product + q, n, std::min(tile, rows - p),
                   std::min(tile, rows - q), depth);
    }
  }
}

}  // namespace

std::int64_t factor_in_place(double* m, std::int64_t n, double* d, std::int64_t panel) {
  std::vector<double> negative(static_cast<std::size_t>(panel * n)), product(static_cast<std::size_t>(panel * n));
  for (std::int64_t last = n; last > 0; last -= panel) {
    const std::int64_t first = std::max<std::int64_t>(last - panel, 0);
    const std::int64_t bad = factor_panel(m, n, d, first, last, negative.data(), product.data());
    if (bad >= 0) return bad;
    update_rows(m, n, first, last - first, negative.data(), product.data());
  }
  return -1;
}

Factor factor(const FullHessian& hessian, double damping, std::int64_t panel) {
  const std::int64_t n = hessian.cols;
  Factor f;
  f.cols = n;
  double trace = 0;
  for (std::int64_t i = 0; i < n; ++i) trace += hessian.row(i)[i];
  f.shift = damping * (trace / static_cast<double>(n));
  f.upper = hessian.h;
  f.d.resize(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) f.upper[i * n + i] += f.shift;
  f.bad_pivot = factor_in_place(f.upper.data(), n, f.d.data(), panel);
#pragma omp parallel for schedule(dynamic, 1) if (n > 2 * tile)
  for (std::int64_t first = 0; first < n; first += tile) {  // transposes the triangle, a tile of columns at a time
    for (std::int64_t i = first; i < n; ++i) {
      for (std::int64_t j = first; j < std::min(first + tile, i); ++j) {
        f.upper[j * n + i] = f.upper[i * n + j];
        f.upper[i * n + j] = 0;
      }
    }
  }
  return f;
}

void conditional_block(const Factor& factor, std::int64_t first, int block, double* s) {
  for (int p = 0; p < block; ++p) {
    for (int q = 0; q <= p; ++q) {
      double sum = 0;
      for (int k = block - 1; k >= p; --k) {
        sum += factor.row(first + p)[first + k] * (factor.d[first + k] * factor.row(first + q)[first + k]);
      }
      s[p * block + q] = s[q * block + p] = sum;
    }
  }
}

}  // namespace fp4scope::search
