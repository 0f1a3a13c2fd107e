#include "search/row_bound.hpp"

#include <algorithm>
#include <cmath>

#include "search/closest_vector.hpp"
#include "search/factor.hpp"
#include "search/hessian.hpp"

namespace fp4scope::search {

namespace {

constexpr double tiny_damping = 0x1p-36;

/// (H^-1)_bb = V^T D^-1 V, V the block's columns of U^-1: rows 0 .. first + n - 1.
void inverse_block(const Factor& f, std::int64_t first, int n, double* inverse) {
  const std::int64_t rows = first + n;
  std::vector<double> v(static_cast<std::size_t>(rows * n), 0.0);
  for (std::int64_t p = rows - 1; p >= 0; --p) {
    double* const vp = v.data() + p * n;
    if (p >= first) vp[p - first] = 1;
    for (std::int64_t k = p + 1; k < rows; ++k) {
      for (int i = 0; i < n; ++i) vp[i] -= f.row(p)[k] * v[k * n + i];
    }
  }
  std::fill_n(inverse, n * n, 0.0);
  for (std::int64_t p = 0; p < rows; ++p) {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) inverse[i * n + j] += v[p * n + i] * v[p * n + j] / f.d[static_cast<std::size_t>(p)];
    }
  }
}

/// m [n, n], positive definite, becomes its inverse: Gauss and Jordan, then made symmetric.
void invert(double* m, int n) {
  for (int k = 0; k < n; ++k) {
    const double pivot = 1 / m[k * n + k];
    for (int i = 0; i < n; ++i) {
      const double factor = m[i * n + k] * pivot;
      for (int j = 0; j < n; ++j) {
        if (i != k && j != k) m[i * n + j] -= factor * m[k * n + j];
      }
    }
    for (int i = 0; i < n; ++i) {
      if (i == k) continue;
      m[i * n + k] *= -pivot;
      m[k * n + i] *= pivot;
    }
    m[k * n + k] = pivot;
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < i; ++j) m[i * n + j] = m[j * n + i] = (m[i * n + j] + m[j * n + i]) / 2;
  }
}

std::vector<double> envelope_of(const FullHessian& hessian) {
  std::vector<double> envelope(static_cast<std::size_t>(hessian.cols));
  set_envelope(hessian.h.data(), static_cast<int>(hessian.cols), envelope.data());
  return envelope;
}

/// Whether the factorisation proves H - theta B >= 0.
bool certifies(const FullHessian& hessian, const std::vector<double>& envelope, const Hessians& minorant, double theta,
               std::vector<double>& m, std::vector<double>& d) {
  const std::int64_t n = hessian.cols, block = minorant.block;
  double size = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double e = envelope[static_cast<std::size_t>(i)], f = minorant.envelope[static_cast<std::size_t>(i)];
    size += e * e + theta * (f * f);
  }
  const double c = static_cast<double>(n + 12) * 0x1p-51 * size;
  m = hessian.h;
  for (std::int64_t i = 0; i < n; ++i) {
    const double* const row = minorant.of(static_cast<std::size_t>(i / block)) + i % block * block;
    for (std::int64_t j = 0; j < block; ++j) m[i * n + i / block * block + j] -= theta * row[j];
    m[i * n + i] -= c;
  }
  return std::isfinite(c) && factor_in_place(m.data(), n, d.data()) < 0;
}

/// At most the block's least loss under B_b. mu I <= B_b.
double block_bound(const SearchSpace& space, const BlockHessian& b, const float* x, int n, double mu,
                   std::int64_t node_limit, ClosestVectorRoom& room, std::int64_t& unproved) {
  double target[max_joint_block];
  std::copy_n(x, n, target);
  ClosestVectorOptions limits;
  limits.node_limit = node_limit;
  const BlockSolution s = closest_vector(space, {n, target, b.h, nullptr}, limits, room);
  if (s.proved) {
    double size = 0;
    for (int i = 0; i < n; ++i) {
      size += b.envelope[i] * std::fabs(target[i] - signed_level(space, s.level[i]) * space.step(s.code));
    }
    return std::max(s.loss - (2 * n + 16) * 0x1p-52 * size * size, 0.0);
  }
  ++unproved;
  const Block block = {x, n, sim::amax(x, n)};
  const double step = space.step(sse_code(space, block));
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  double sse = 0;
  for (int i = 0; i < n; ++i) {
    const double error = std::fabs(target[i]) - nearest_value(space, thresholds, step, std::fabs(target[i]));
    sse += error * error;
  }
  return mu * sse * (1 - 0x1p-40);
}

/// mu I <= B_b for every block.
std::vector<double> certified_spectra(const Hessians& minorant) {
  const int n = minorant.block;
  Hessians identity = {n, std::vector<double>(static_cast<std::size_t>(n * n), 0.0),
                       std::vector<double>(static_cast<std::size_t>(n), 1.0)};
  for (int i = 0; i < n; ++i) identity.h[static_cast<std::size_t>(i * n + i)] = 1;
  std::vector<double> mu(minorant.count());
  for (std::size_t b = 0; b < mu.size(); ++b) {
    mu[b] = certified_theta({n, {minorant.of(b), minorant.of(b) + n * n}}, identity);
  }
  return mu;
}

}  // namespace

Hessians minorant_blocks(const FullHessian& hessian, int block, Minorant minorant) {
  Hessians blocks = diagonal_blocks(hessian, block);
  if (minorant == Minorant::blocks) return blocks;
  const Factor f = minorant == Minorant::conditional ? factor(hessian, tiny_damping) : Factor{};
  const auto count = static_cast<std::int64_t>(blocks.count());
#pragma omp parallel for schedule(dynamic, 1) if (count > 8)
  for (std::int64_t b = 0; b < count; ++b) {
    double* const h = blocks.of(static_cast<std::size_t>(b));
    if (minorant == Minorant::identity || f.bad_pivot >= 0) {
      for (int i = 0; i < block * block; ++i) h[i] = i % (block + 1) == 0 ? 1 : 0;
    } else {
      inverse_block(f, b * block, block, h);
      invert(h, block);
    }
    set_envelope(h, block, blocks.envelope.data() + b * block);
  }
  return blocks;
}

double certified_theta(const FullHessian& hessian, const Hessians& minorant) {
  const std::int64_t n = hessian.cols, block = minorant.block;
  const std::vector<double> envelope = envelope_of(hessian);
  double high = __builtin_inf();
  for (std::int64_t i = 0; i < n; ++i) {
    const double b = minorant.of(static_cast<std::size_t>(i / block))[i % block * (block + 1)];
    high = std::min(high, hessian.row(i)[i] / b);
  }
  if (!(high > 0 && high < __builtin_inf())) return 0;
  std::vector<double> m, d(static_cast<std::size_t>(n));
  double low = high;
  int halvings = 0;
  while (!certifies(hessian, envelope, minorant, low, m, d)) {
    high = low;
    low /= 2;
    if (++halvings > 30) return 0;
  }
  while (low < 0.98 * high) {
    const double middle = (low + high) / 2;
    (certifies(hessian, envelope, minorant, middle, m, d) ? low : high) = middle;
  }
  return low;
}

RowBound row_bound(const SearchSpace& space, const FullHessian& hessian, int block, Minorant minorant, const float* x,
                   std::int64_t rows, std::int64_t node_limit) {
  const Hessians b = minorant_blocks(hessian, block, minorant);
  RowBound result = {certified_theta(hessian, b), std::vector<double>(static_cast<std::size_t>(rows), 0.0), 0};
  if (result.theta == 0) return result;
  const std::vector<double> mu = certified_spectra(b);
  std::int64_t unproved = 0;
#pragma omp parallel reduction(+ : unproved) if (rows > 1)
  {
    ClosestVectorRoom room;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (std::size_t k = 0; k < b.count(); ++k) {
        const float* const values = x + row * hessian.cols + static_cast<std::int64_t>(k) * block;
        const BlockHessian h = {b.of(k), b.envelope.data() + k * block};
        sum += block_bound(space, h, values, block, mu[k], node_limit, room, unproved);
      }
      result.bound[static_cast<std::size_t>(row)] = result.theta * sum * (1 - 0x1p-40);
    }
  }
  result.unproved = unproved;
  return result;
}

}  // namespace fp4scope::search
