#include "search/hessian.hpp"

#include <gmpxx.h>

#include <vector>

namespace fp4scope::search {

namespace {

/// r at a code, as rationals.
std::vector<mpq_class> residuals(const SearchSpace& space, const Block& block, int code) {
  const double step = space.step(code);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  std::vector<mpq_class> r(static_cast<std::size_t>(block.n));
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.magnitude(block.x[i]);
    const double value = nearest_value(space, thresholds, step, magnitude);
    r[i] = mpq_class(magnitude) - mpq_class(value);
    if (block.x[i] < 0) r[i] = -r[i];
  }
  return r;
}

mpq_class loss_exact(const std::vector<mpq_class>& r, const BlockHessian& hessian) {
  const std::size_t n = r.size();
  mpq_class loss = 0;
  for (std::size_t i = 0; i < n; ++i) {
    mpq_class dot = 0;
    for (std::size_t j = 0; j < n; ++j) dot += mpq_class(hessian.h[i * n + j]) * r[j];
    loss += r[i] * dot;
  }
  return loss;
}

}  // namespace

int compare_hessian_exact(const SearchSpace& space, const Block& block, const BlockHessian& hessian, int a, int b) {
  const std::vector<mpq_class> at_a = residuals(space, block, a), at_b = residuals(space, block, b);
  if (at_a == at_b) return 0;  // the usual tie: both codes give the same values
  const mpq_class difference = loss_exact(at_a, hessian) - loss_exact(at_b, hessian);
  return sgn(difference);
}

int hessian_code(const SearchSpace& space, const Block& block, const BlockHessian& hessian, double* room,
                 LossInterval* loss, SearchCount* count) {
  if (block.amax == 0) return 0;
  double activity = 0;
  for (int i = 0; i < block.n; ++i) activity += hessian.envelope[i];
  if (activity == 0) return space.first_code;  // H = 0: every loss is 0
  double least_upper = __builtin_inf();
  for (int code = space.first_code; code <= space.last_code; ++code) {
    loss[code] = hessian_loss(space, block, hessian, code, room);
    const double upper = loss[code].value + loss[code].radius;
    if (upper < least_upper) least_upper = upper;
  }
  if (count) count->candidates += space.last_code - space.first_code + 1;

  int best = -1;
  for (int code = space.first_code; code <= space.last_code; ++code) {
    // The subtraction rounds by far less than the radius's spare factor of two.
    if (loss[code].value - loss[code].radius > least_upper) continue;
    if (best < 0) {
      best = code;
      continue;
    }
    if (count) ++count->exact;
    if (compare_hessian_exact(space, block, hessian, code, best) < 0) best = code;
  }
  return best;
}

}  // namespace fp4scope::search
