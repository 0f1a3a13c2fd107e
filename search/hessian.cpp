#include "search/hessian.hpp"

#include <gmpxx.h>

#include <cmath>
#include <vector>

#include "search/hessian_wide.hpp"

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

/// A real number as a sum of doubles, ascending in magnitude, no two of which overlap (Shewchuk 1997): exact as long as
/// nothing under- or overflows.
class Expansion {
 public:
  void add(double x) {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < part_.size(); ++k) {
      const Pair sum = exact_sum(x, part_[k]);
      if (sum.lo != 0) part_[kept++] = sum.lo;
      x = sum.hi;
    }
    part_.resize(kept);
    if (x != 0) part_.push_back(x);
  }

  void add_product(double a, double b) {
    const double hi = a * b;
    add(std::fma(a, b, -hi));
    add(hi);
  }

  void clear() { part_.clear(); }
  const std::vector<double>& parts() const { return part_; }
  int sign() const { return part_.empty() ? 0 : part_.back() > 0 ? 1 : -1; }

 private:
  std::vector<double> part_;
};

/// Whether nothing under- or overflows in expanded_sign. Values and magnitudes are multiples of 2^-284 (block scales of
/// 2^-127, tensor scales of 2^-149, levels of 2^-8) below 2^132, entries of H from 2^-300 to 2^300 multiples of 2^-352:
/// all terms are multiples of 2^-920, their sum is below 2^(132 + 300 + 132 + 24).
bool expandable(const BlockHessian& hessian, int n) {
  for (int i = 0; i < n * n; ++i) {
    const double entry = std::fabs(hessian.h[i]);
    if (entry != 0 && !(entry > 0x1p-300 && entry < 0x1p300)) return false;
  }
  return true;
}

/// The sign of (r_a - r_b)^T H (r_a + r_b), H symmetric, without any rounding. H (r_a - r_b) comes first: of a singular
/// H it is often zero.
int expanded_sign(const SearchSpace& space, const Block& block, const BlockHessian& hessian, int a, int b,
                  const std::vector<ElementPair>& elements) {
  const double step_a = space.step(a), step_b = space.step(b);
  const sim::Thresholds at_a = sim::make_thresholds(space.grid, step_a),
                        at_b = sim::make_thresholds(space.grid, step_b);
  Expansion total, dot;
  for (int j = 0; j < block.n; ++j) {
    const double* row = hessian.h + static_cast<std::int64_t>(j) * block.n;
    dot.clear();
    for (int i = 0; i < block.n; ++i) {
      const Pair difference = elements[static_cast<std::size_t>(i)].difference;
      if (row[i] == 0 || difference.hi == 0) continue;
      dot.add_product(row[i], difference.hi);
      if (difference.lo != 0) dot.add_product(row[i], difference.lo);
    }
    const double sign = block.x[j] < 0 ? -1 : 1, magnitude = space.magnitude(block.x[j]);
    for (const double part : dot.parts()) {
      total.add_product(part, sign * 2 * magnitude);
      total.add_product(part, -sign * nearest_value(space, at_a, step_a, magnitude));
      total.add_product(part, -sign * nearest_value(space, at_b, step_b, magnitude));
    }
  }
  return total.sign();
}

}  // namespace

int compare_hessian_exact(const SearchSpace& space, const Block& block, const BlockHessian& hessian, int a, int b) {
  const std::vector<mpq_class> at_a = residuals(space, block, a), at_b = residuals(space, block, b);
  if (at_a == at_b) return 0;
  const mpq_class difference = loss_exact(at_a, hessian) - loss_exact(at_b, hessian);
  return sgn(difference);
}

int compare_hessian(const SearchSpace& space, const Block& block, const BlockHessian& hessian, int a, int b,
                    SearchCount* count) {
  std::vector<ElementPair> elements(static_cast<std::size_t>(block.n));
  if (compare_elements(space, block, hessian, a, b, elements.data())) return 0;
  if (count) ++count->wide;
  const int sign = wide_sign(block, hessian, elements.data());
  if (sign != 0) return sign;
  if (count) ++count->exact;
  if (expandable(hessian, block.n)) return expanded_sign(space, block, hessian, a, b, elements);
  return compare_hessian_exact(space, block, hessian, a, b);
}

int best_hessian_code(const SearchSpace& space, const Block& block, const BlockHessian& hessian, const int* codes,
                      int number, double* room, LossInterval* loss, SearchCount* count) {
  double least_upper = __builtin_inf();
  for (int k = 0; k < number; ++k) {
    loss[k] = hessian_loss(space, block, hessian, codes[k], room);
    const double upper = loss[k].value + loss[k].radius;
    if (upper < least_upper) least_upper = upper;
  }
  if (count) count->candidates += number;
  int best = -1;
  for (int k = 0; k < number; ++k) {
    // The subtraction rounds by far less than the radius's spare factor of two.
    if (loss[k].value - loss[k].radius > least_upper) continue;
    if (best < 0 || compare_hessian(space, block, hessian, codes[k], best, count) < 0) best = codes[k];
  }
  return best;
}

int hessian_code(const SearchSpace& space, const Block& block, const BlockHessian& hessian, double* room,
                 LossInterval* loss, SearchCount* count) {
  if (block.amax == 0) return 0;
  if (hessian_is_zero(hessian, block.n)) return space.first_code;
  int codes[256];
  for (int code = space.first_code; code <= space.last_code; ++code) codes[code - space.first_code] = code;
  return best_hessian_code(space, block, hessian, codes, space.last_code - space.first_code + 1, room, loss, count);
}

}  // namespace fp4scope::search
