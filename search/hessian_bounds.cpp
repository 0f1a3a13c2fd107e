#include "search/hessian_bounds.hpp"

#include <gmpxx.h>

#include <cmath>

#include "search/psd.hpp"

namespace fp4scope::search {

namespace {

/// A sum of n non-negative terms as a lower bound. Terms are rounded at most three times, so sum_error has room; below
/// 2^-900 underflow might have rounded upward, and 0 is as good.
double lowered(double sum, int n) { return sum < 0x1p-900 ? 0 : sum * (1 - sum_error(n)); }

/// The largest t of 2^-60 to 1, within 2 %, for which `holds(t)`, assumed to hold below; 0 where there is none.
template <typename Holds>
double largest_factor(const Holds& holds) {
  double t = 1;
  while (t > 0x1p-60 && !holds(t)) t /= 2;
  if (!(t > 0x1p-60)) return 0;
  if (t == 1) return t;
  const double first = t;
  for (double step = first / 2; step > first / 64; step /= 2) {
    if (holds(t + step)) t += step;
  }
  return t;
}

/// The minimum over n free residuals of a quadratic form in them and in one more variable at 1, the last (the held
/// ones as one direction): what their elimination leaves of form[n + 1][n + 1], lower triangle. Rounded down.
double eliminate(std::vector<mpq_class> form, int n) {
  const int width = n + 1;
  for (int k = 0; k < n; ++k) {
    const mpq_class pivot = form[k * width + k];
    if (pivot < 0) return -__builtin_inf();
    for (int i = k + 1; i < width; ++i) {
      if (form[i * width + k] == 0) continue;
      if (pivot == 0) return -__builtin_inf();
      const mpq_class factor = form[i * width + k] / pivot;
      for (int j = k + 1; j <= i; ++j) form[i * width + j] -= factor * form[j * width + k];
    }
  }
  const mpq_class& rest = form[n * width + n];
  const double truncated = rest.get_d();
  return mpq_class(truncated) > rest ? std::nextafter(truncated, -__builtin_inf()) : truncated;
}

double held_bound(const double* h, int n, const std::vector<mpq_class>& r, const std::vector<bool>& held) {
  std::vector<int> free;
  for (int i = 0; i < n; ++i) {
    if (!held[i]) free.push_back(i);
  }
  const auto m = static_cast<int>(free.size());
  std::vector<mpq_class> form(static_cast<std::size_t>((m + 1) * (m + 1)));
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j <= i; ++j) form[i * (m + 1) + j] = h[free[i] * n + free[j]];
    mpq_class& mixed = form[m * (m + 1) + i];
    for (int j = 0; j < n; ++j) {
      if (held[j]) mixed += mpq_class(h[free[i] * n + j]) * r[j];
    }
  }
  mpq_class& corner = form[m * (m + 1) + m];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      if (held[i] && held[j]) corner += mpq_class(h[i * n + j]) * r[i] * r[j];
    }
  }
  return eliminate(std::move(form), m);
}

}  // namespace

void diagonal_minorant(const double* h, int n, double* d) {
  // A channel without activity has a zero row, and d_i = 0 is all that it allows.
  const auto set = [&](double theta) {
    for (int i = 0; i < n; ++i) d[i] = h[i * n + i] > 0 ? theta * h[i * n + i] : 0;
  };
  const double theta = largest_factor([&](double t) {
    set(t);
    return is_psd_quick(h, n, d);
  });
  set(theta);
}

double element_minorant(const double* h, int n, int k) {
  std::vector<double> d(static_cast<std::size_t>(n), 0.0);
  const double largest = h[k * n + k];
  if (!(largest > 0)) return 0;
  return largest * largest_factor([&](double t) {
           d[k] = t * largest;
           return is_psd_quick(h, n, d.data());
         });
}

double clipped_bound(const SearchSpace& space, const Block& block, const double* d, int code) {
  const double limit = space.top() * space.step(code);
  double sum = 0;
  for (int i = 0; i < block.n; ++i) {
    const double over = space.magnitude(block.x[i]) - limit;
    if (over > 0) sum += (d ? d[i] : 1) * (over * over);
  }
  return lowered(sum, block.n);
}

double zeroed_bound(const SearchSpace& space, const Block& block, const double* d, int code) {
  const double limit = space.grid.midpoint[0] * space.step(code);
  double sum = 0;
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    if (magnitude <= limit) sum += (d ? d[i] : 1) * (magnitude * magnitude);
  }
  return lowered(sum, block.n);
}

double held_bound(const double* h, int n, const double* r, const bool* held) {
  std::vector<mpq_class> values(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) values[i] = held[i] ? r[i] : 0;
  return held_bound(h, n, values, std::vector<bool>(held, held + n));
}

double held_bound(const SearchSpace& space, const Block& block, const double* h, int code) {
  const double step = space.step(code);
  std::vector<mpq_class> r(static_cast<std::size_t>(block.n));
  std::vector<bool> held(static_cast<std::size_t>(block.n));
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const bool clipped = magnitude > space.top() * step;
    held[i] = clipped || magnitude <= space.grid.midpoint[0] * step;
    r[i] = mpq_class(magnitude) - (clipped ? mpq_class(space.top() * step) : mpq_class(0));
    if (block.x[i] < 0) r[i] = -r[i];
  }
  return held_bound(h, block.n, r, held);
}

double free_codes_bound(const SearchSpace& space, const Block& block, double lambda_min, int code) {
  return lambda_min > 0 ? lowered(lambda_min * nearest_sse(space, block, code), block.n) : 0;
}

double nearest_sse(const SearchSpace& space, const Block& block, int code) {
  const double step = space.step(code);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  double sum = 0;
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const double r = magnitude - nearest_value(space, thresholds, step, magnitude);
    sum += r * r;
  }
  return sum;
}

}  // namespace fp4scope::search
