#include "search/full_hessian.hpp"

#include <algorithm>
#include <cmath>

namespace fp4scope::search {

namespace {

constexpr std::int64_t tile = 64;    // 64 x 64 doubles of H: 32 KiB
constexpr std::int64_t panel = 128;  // tokens that are widened to binary64 at a time
constexpr std::int64_t batch = 8;    // rows that share one reading of H

/// The tiles (i, j) with j <= i, numbered row by row.
struct TilePair {
  std::int64_t i;
  std::int64_t j;
};

std::vector<TilePair> lower_tiles(std::int64_t cols) {
  std::vector<TilePair> pairs;
  for (std::int64_t i = 0; i < cols; i += tile) {
    for (std::int64_t j = 0; j <= i; j += tile) pairs.push_back({i, j});
  }
  return pairs;
}

void mirror(FullHessian& hessian) {
  const std::int64_t n = hessian.cols;
#pragma omp parallel for schedule(static) if (n > 2 * tile)
  for (std::int64_t first = 0; first < n; first += tile) {
    for (std::int64_t i = 0; i < n; ++i) {  // a tile of columns at a time, so that both sides stay in the cache
      for (std::int64_t j = first; j < std::min(first + tile, i); ++j) hessian.h[j * n + i] = hessian.h[i * n + j];
    }
  }
}

}  // namespace

void add_products(double* c, std::int64_t c_stride, const double* a, std::int64_t a_stride, const double* b,
                  std::int64_t b_stride, std::int64_t rows, std::int64_t cols, std::int64_t depth) {
  std::int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {  // four products a visit of c, still one after the other
    const double* const left = a + k * a_stride;
    const double* const b0 = b + k * b_stride;
    const double *const b1 = b0 + b_stride, *const b2 = b1 + b_stride, *const b3 = b2 + b_stride;
    for (std::int64_t i = 0; i < rows; ++i) {
      double* __restrict const ci = c + i * c_stride;
      const double a0 = left[i], a1 = left[a_stride + i], a2 = left[2 * a_stride + i], a3 = left[3 * a_stride + i];
      for (std::int64_t j = 0; j < cols; ++j) {
        ci[j] = (((ci[j] + a0 * b0[j]) + a1 * b1[j]) + a2 * b2[j]) + a3 * b3[j];
      }
    }
  }
  for (; k < depth; ++k) {
    const double* const right = b + k * b_stride;
    for (std::int64_t i = 0; i < rows; ++i) {
      double* __restrict const ci = c + i * c_stride;
      const double factor = a[k * a_stride + i];
      for (std::int64_t j = 0; j < cols; ++j) ci[j] += factor * right[j];
    }
  }
}

FullHessian make_full_hessian(const float* x, std::int64_t tokens, std::int64_t cols) {
  FullHessian hessian = {cols, std::vector<double>(static_cast<std::size_t>(cols * cols), 0.0)};
  const std::vector<TilePair> tiles = lower_tiles(cols);
  const auto count = static_cast<std::int64_t>(tiles.size());
  std::vector<double> wide(static_cast<std::size_t>(panel * cols));
  for (std::int64_t first = 0; first < tokens; first += panel) {
    const std::int64_t depth = std::min(panel, tokens - first);
    std::copy_n(x + first * cols, depth * cols, wide.begin());
#pragma omp parallel for schedule(dynamic, 4) if (cols > 2 * tile)
    for (std::int64_t t = 0; t < count; ++t) {
      const auto [i, j] = tiles[static_cast<std::size_t>(t)];
      add_products(hessian.h.data() + i * cols + j, cols, wide.data() + i, cols, wide.data() + j, cols,
                   std::min(tile, cols - i), std::min(tile, cols - j), depth);
    }
  }
  mirror(hessian);
  return hessian;
}

void set_envelope(const double* h, int n, double* envelope) {
  for (int i = 0; i < n; ++i) envelope[i] = std::sqrt(h[i * n + i]) * (1 + 0x1p-40);
  double enlarge = 1;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      const double entry = std::fabs(h[i * n + j]);
      const double bound = envelope[i] * envelope[j];
      if (entry > bound) enlarge = std::fmax(enlarge, bound > 0 ? entry / bound : __builtin_inf());
    }
  }
  if (enlarge == 1) return;
  for (int i = 0; i < n; ++i) envelope[i] *= enlarge * (1 + 0x1p-40);
}

Hessians diagonal_blocks(const FullHessian& hessian, int block) {
  const std::int64_t cols = hessian.cols;
  Hessians blocks = {block, std::vector<double>(static_cast<std::size_t>(cols * block)),
                     std::vector<double>(static_cast<std::size_t>(cols))};
  for (std::int64_t b = 0; b < cols / block; ++b) {
    double* const h = blocks.of(static_cast<std::size_t>(b));
    for (int i = 0; i < block; ++i) std::copy_n(hessian.row(b * block + i) + b * block, block, h + i * block);
    set_envelope(h, block, blocks.envelope.data() + b * block);
  }
  return blocks;
}

Assignment nearest_assignment(const SearchSpace& space, int block, const std::vector<std::uint8_t>& scales,
                              const float* x, std::int64_t rows, std::int64_t cols) {
  Assignment assignment = {scales, std::vector<std::int8_t>(static_cast<std::size_t>(rows * cols))};
#pragma omp parallel for schedule(static) if (rows > batch)
  for (std::int64_t b = 0; b < rows * cols / block; ++b) {
    const double step = space.step(scales[static_cast<std::size_t>(b)]);
    const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
    for (std::int64_t i = b * block; i < (b + 1) * block; ++i) {
      assignment.levels[static_cast<std::size_t>(i)] =
          step > 0 ? nearest_level(thresholds, x[i]) : static_cast<std::int8_t>(0);
    }
  }
  return assignment;
}

std::vector<double> residuals(const SearchSpace& space, int block, const Assignment& assignment, const float* x,
                              std::int64_t rows, std::int64_t cols) {
  std::vector<double> r(static_cast<std::size_t>(rows * cols));
#pragma omp parallel for schedule(static) if (rows > batch)
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const double step = space.step(assignment.scales[static_cast<std::size_t>(i / block)]);
    r[i] = x[i] - signed_level(space, assignment.levels[static_cast<std::size_t>(i)]) * step;
  }
  return r;
}

void multiply_rows(const FullHessian& hessian, const double* r, std::int64_t n_rows, double* hr) {
  const std::int64_t n = hessian.cols;
  std::fill_n(hr, n_rows * n, 0.0);
  std::vector<double> across(static_cast<std::size_t>(n_rows * n));  // r transposed: entry k of every row together
  for (std::int64_t i = 0; i < n_rows; ++i) {
    for (std::int64_t k = 0; k < n; ++k) across[k * n_rows + i] = r[i * n + k];
  }
  constexpr std::int64_t depth = 32;
  for (std::int64_t k = 0; k < n; k += depth) {
    add_products(hr, n, across.data() + k * n_rows, n_rows, hessian.row(k), n, n_rows, n, std::min(depth, n - k));
  }
}

std::vector<double> row_losses(const FullHessian& hessian, const double* r, std::int64_t rows) {
  const std::int64_t n = hessian.cols;
  std::vector<double> loss(static_cast<std::size_t>(rows), 0.0);
#pragma omp parallel if (rows > batch)
  {
    std::vector<double> hr(static_cast<std::size_t>(batch * n));
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t first = 0; first < rows; first += batch) {
      const std::int64_t count = std::min(batch, rows - first);
      multiply_rows(hessian, r + first * n, count, hr.data());
      for (std::int64_t row = 0; row < count; ++row) {
        double sum = 0;
        for (std::int64_t i = 0; i < n; ++i) sum += r[(first + row) * n + i] * hr[row * n + i];
        loss[static_cast<std::size_t>(first + row)] = sum;
      }
    }
  }
  return loss;
}

}  // namespace fp4scope::search
