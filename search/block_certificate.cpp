#include "search/block_certificate.hpp"

#include <gmpxx.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace fp4scope::search {

namespace {

constexpr double infinity = __builtin_inf();

int lowest_exponent(double x) {
  const formats::Unpacked u = formats::unpack(x);
  return u.significand == 0 ? 1 << 12 : u.exponent + std::countr_zero(u.significand);
}

/// Residuals as whole multiples of 2^unit, with their signs.
struct WholeResiduals {
  std::vector<mpz_class> r;
  int unit;
};

WholeResiduals whole_residuals(const SearchSpace& space, const Block& block, int code) {
  const double step = space.step(code);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  std::vector<double> magnitudes(static_cast<std::size_t>(block.n)), values(magnitudes);
  WholeResiduals w = {std::vector<mpz_class>(magnitudes.size()), 1 << 12};
  for (int i = 0; i < block.n; ++i) {
    magnitudes[i] = space.magnitude(block.x[i]);
    values[i] = nearest_value(space, thresholds, step, magnitudes[i]);
    w.unit = std::min({w.unit, lowest_exponent(magnitudes[i]), lowest_exponent(values[i])});
  }
  for (int i = 0; i < block.n; ++i) {  // both are whole numbers below 2^1023 then: at most 2^(131 + 300)
    w.r[i] = std::ldexp(magnitudes[i], -w.unit);
    w.r[i] -= mpz_class(std::ldexp(values[i], -w.unit));
    if (block.x[i] < 0) w.r[i] = -w.r[i];
  }
  return w;
}

/// n * 2^exponent.
mpq_class scaled(const mpz_class& n, int exponent) {
  if (exponent >= 0) return mpq_class(mpz_class(n << exponent));
  mpq_class q(n, mpz_class(1) << -exponent);
  q.canonicalize();
  return q;
}

mpq_class exact_sse(const SearchSpace& space, const Block& block, int code) {
  const WholeResiduals w = whole_residuals(space, block, code);
  mpz_class sum = 0;
  for (const mpz_class& r : w.r) mpz_addmul(sum.get_mpz_t(), r.get_mpz_t(), r.get_mpz_t());
  return scaled(sum, 2 * w.unit);
}

mpq_class exact_hessian(const SearchSpace& space, const Block& block, const double* h, int code) {
  const WholeResiduals w = whole_residuals(space, block, code);
  const int n = block.n;
  int unit = 1 << 12;
  for (int i = 0; i < n * n; ++i) unit = std::min(unit, lowest_exponent(h[i]));
  mpz_class sum = 0, dot, entry;
  for (int i = 0; i < n; ++i) {
    if (w.r[i] == 0) continue;
    dot = 0;
    for (int j = 0; j < n; ++j) {
      const formats::Unpacked u = formats::unpack(h[i * n + j]);
      if (u.significand == 0) continue;
      const int zeros = std::countr_zero(u.significand);
      entry = static_cast<unsigned long>(u.significand >> zeros);
      entry <<= u.exponent + zeros - unit;
      if (u.negative) mpz_submul(dot.get_mpz_t(), entry.get_mpz_t(), w.r[j].get_mpz_t());
      else mpz_addmul(dot.get_mpz_t(), entry.get_mpz_t(), w.r[j].get_mpz_t());
    }
    mpz_addmul(sum.get_mpz_t(), dot.get_mpz_t(), w.r[i].get_mpz_t());
  }
  return scaled(sum, unit + 2 * w.unit);
}

/// The largest double at most q >= 0.
double rounded_down(const mpq_class& q) { return q.get_d(); }  // GMP truncates

/// The double nearest to q >= 0, a tie to the even one.
double nearest(const mpq_class& q) {
  const double below = rounded_down(q), above = std::nextafter(below, infinity);
  if (std::isinf(above)) return below;
  const mpq_class twice = 2 * q, sum = mpq_class(below) + mpq_class(above);
  if (twice == sum) return (std::bit_cast<std::uint64_t>(below) & 1) == 0 ? below : above;
  return twice < sum ? below : above;
}

/// A code that was evaluated, of one of a block's element grids.
struct Candidate {
  const SearchSpace* space;
  int code;
  double sse;  ///< within sum_error of itself
};

/// What certify_sse gathers; errors in units of factor^2.
struct Evidence {
  const Block& block;
  const SearchSpace* grids[2];
  int count;  ///< of grids
  const SearchSpace* best_grid;
  int best_code;
  double error;  ///< sum_error
  double loss = 0;
  double second = infinity;  ///< the least upper bound of any other code's loss so far
  std::vector<Candidate> others = {};

  void consider(const SearchSpace* grid, int code) {
    if (grid == best_grid && code == best_code) return;
    const double sse = nearest_sse(*grid, block, code);
    others.push_back({grid, code, sse});
    second = std::min(second, sse * (1 + error));
  }
  void consider(int code) {
    for (int g = 0; g < count; ++g) consider(grids[g], code);
  }
  /// What a bound has to reach so that the second best lies inside.
  double wanted() const { return std::max(loss * (1 + error), second); }

  bool excluded_below(int code) const {
    for (int g = 0; g < count; ++g) {
      if (!(clipped_bound(*grids[g], block, nullptr, code) > wanted())) return false;
    }
    return true;
  }
  bool dominated(const SearchSpace& s, int code) const {  // exact: 29 bits against 10 + 5 + 24
    return s.dominance > 0 && 2 * s.factor * block.amax <= s.dominance * s.step(code);
  }
  bool excluded_above(int code) const {
    for (int g = 0; g < count; ++g) {
      const SearchSpace& s = *grids[g];
      if (!dominated(s, code) && !(zeroed_bound(s, block, nullptr, code) >= wanted())) return false;
    }
    return true;
  }
};

/// The codes above hi that dominance leaves: without a half, and with the optimum as their half.
void consider_undominated(Evidence& e, int hi) {
  for (int g = 0; g < e.count; ++g) {
    const SearchSpace& s = *e.grids[g];
    const bool theirs = e.grids[g] == e.best_grid;
    const int doubled =
        s.scale.has_zero ? std::max(2 * e.best_code, e.best_code + (1 << s.scale.mantissa_bits)) + 1 : e.best_code + 1;
    const int end = std::min(s.last_code, std::max(first_always_halved(s.scale), theirs ? doubled : 0));
    for (int code = hi + 1; code <= end; ++code) {
      const int half = half_code(s.scale, code);
      if (half < 0 || (theirs && half == e.best_code)) e.consider(&s, code);
    }
  }
}

/// loss and gap in real numbers: of the others, those that may be second best are taken exactly.
void set_loss_and_gap(const Evidence& e, BlockCertificate& c) {
  const mpq_class unit = mpq_class(e.best_grid->factor) * mpq_class(e.best_grid->factor);
  const mpq_class loss = exact_sse(*e.best_grid, e.block, e.best_code);
  c.loss = nearest(loss / unit);
  mpq_class second = -1;
  for (const Candidate& other : e.others) {
    if (other.sse * (1 - e.error) > e.second) continue;
    mpq_class sse = exact_sse(*other.space, e.block, other.code);
    if (second < 0 || sse < second) second = std::move(sse);
  }
  c.gap = second > loss ? rounded_down((second - loss) / unit) : 0;
}

BlockCertificate without_search(const SearchSpace& space, const Block& block) {
  if (block.amax == 0) return {};
  const auto nan = static_cast<int>(space.scale.nan_code());
  return {nan, nan, __builtin_nan(""), 0};
}

}  // namespace

BlockCertificate certify_sse(const SelectingSpace& spaces, bool selects, const Block& block, int code) {
  if (block.amax == 0 || !std::isfinite(block.amax)) return without_search(spaces.floating, block);
  const bool integer = selects && (code & formats::selection_bit) != 0;
  const int plain = integer ? code & ~formats::selection_bit : code;
  Evidence e = {block,           {&spaces.floating, &spaces.integer},
                selects ? 2 : 1, integer ? &spaces.integer : &spaces.floating,
                plain,           2 * sum_error(block.n)};
  const SearchSpace& space = spaces.floating;
  e.loss = nearest_sse(*e.best_grid, block, plain);
  BlockCertificate c = {plain, plain, 0, 0};
  e.consider(plain);
  while (c.hi < space.last_code && !e.excluded_above(c.hi + 1)) e.consider(++c.hi);
  while (c.lo > space.first_code && !e.excluded_below(c.lo - 1)) e.consider(--c.lo);
  if (c.hi < space.last_code) consider_undominated(e, c.hi);
  set_loss_and_gap(e, c);
  return c;
}

BlockCertificate certify_hessian(const SearchSpace& space, const Block& block, const BlockHessian& hessian,
                                 const double* minorant, int code, double* room, LossInterval* loss) {
  if (block.amax == 0 || !std::isfinite(block.amax)) return without_search(space, block);
  double second = infinity;
  for (int c = space.first_code; c <= space.last_code; ++c) {
    loss[c] = hessian_loss(space, block, hessian, c, room);
    if (c != code) second = std::min(second, loss[c].value + loss[c].radius);
  }
  // No bound has to reach further than the second best; the optimum's own loss is at most that, up to its radius.
  const double wanted = std::max(second, loss[code].value + loss[code].radius) * (1 + 0x1p-50);
  BlockCertificate c = {code, code, 0, 0};
  while (c.lo > space.first_code && !(clipped_bound(space, block, minorant, c.lo - 1) > wanted)) --c.lo;
  while (c.hi < space.last_code && !(zeroed_bound(space, block, minorant, c.hi + 1) >= wanted)) ++c.hi;

  const mpq_class best = exact_hessian(space, block, hessian.h, code);
  c.loss = nearest(best);
  mpq_class least = -1;
  for (int other = c.lo; other <= c.hi; ++other) {
    if (other == code || (loss[other].value - loss[other].radius) * (1 - 0x1p-50) > second) continue;
    mpq_class exact = exact_hessian(space, block, hessian.h, other);
    if (least < 0 || exact < least) least = std::move(exact);
  }
  c.gap = least > best ? rounded_down(mpq_class(least - best)) : 0;
  return c;
}

}  // namespace fp4scope::search
