#include "analysis/verify.hpp"

#include <fmt/format.h>
#include <gmpxx.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>

namespace fp4scope::analysis {

namespace {

__extension__ typedef __int128 Int128;

struct Narrow {
  using Value = std::int64_t;
  using Sum = Int128;
};
struct Wide {
  using Value = mpz_class;
  using Sum = mpz_class;
};

/// significand * 2^exponent, the significand odd or 0.
struct Number {
  std::uint64_t significand = 0;
  int exponent = 0;

  int end() const { return exponent + static_cast<int>(std::bit_width(significand)); }
};

Number number(double x) {
  const formats::Unpacked u = formats::unpack(x);
  if (u.significand == 0) return {};
  const int zeros = std::countr_zero(u.significand);
  return {u.significand >> zeros, u.exponent + zeros};
}

mpz_class whole(const Number& n, int unit) {
  return n.significand == 0 ? mpz_class(0)
                            : mpz_class(static_cast<unsigned long>(n.significand)) << (n.exponent - unit);
}

mpz_class to_mpz(const mpz_class& n) { return n; }
mpz_class to_mpz(Int128 n) {
  const mpz_class high = static_cast<long>(n >> 64);
  return (high << 64) + mpz_class(static_cast<unsigned long>(n));
}
double to_double(const mpz_class& n) { return n.get_d(); }
double to_double(std::int64_t n) { return static_cast<double>(n); }

/// n * 2^exponent.
mpq_class scaled(const mpz_class& n, int exponent) {
  if (exponent >= 0) return mpq_class(mpz_class(n << exponent));
  mpq_class q(n, mpz_class(1) << -exponent);
  q.canonicalize();
  return q;
}

/// Whether a double is the one nearest to q, ties to even. A loss below 0, of an H that is not positive semidefinite,
/// has none: all bounds would fail for it.
bool is_nearest(double x, const mpq_class& q) {
  if (!(x >= 0) || std::isinf(x) || q < 0) return false;
  const mpq_class here(x), error = abs(q - here);
  for (const double other : {std::nextafter(x, -1.0), std::nextafter(x, INFINITY)}) {
    if (other < 0 || std::isinf(other)) continue;
    const mpq_class their_error = abs(q - mpq_class(other));
    if (their_error < error || (their_error == error && (std::bit_cast<std::uint64_t>(x) & 1) != 0)) return false;
  }
  return true;
}

/// tensor scale * block scale / 2^places, in units of factor: what a level is multiplied with.
Number step_of(const VerifyRules& rules, int code) {
  const Number t = number(rules.tensor_scale);
  const Number v = number(formats::decode_double(rules.format.scale, static_cast<std::uint32_t>(code)));
  return {t.significand * v.significand, v.significand == 0 ? 0 : t.exponent + v.exponent - rules.places};
}

/// The unit in which a block and some codes are whole, and whether Narrow holds them.
struct Units {
  int unit;
  bool narrow;
};

Units units_of(const VerifyRules& rules, const float* x, int n, const std::vector<int>& codes) {
  int unit = 1 << 12, end = -(1 << 12);
  const auto include = [&](const Number& v, std::uint64_t largest) {
    if (v.significand == 0) return;
    unit = std::min(unit, v.exponent);
    end = std::max(end, v.end() + static_cast<int>(std::bit_width(largest)));
  };
  std::int64_t top = 0;
  for (const auto& grid : rules.grids) top = std::max(top, grid.back());
  for (int i = 0; i < n; ++i) include(number(x[i]), static_cast<std::uint64_t>(rules.factor));
  for (const int code : codes) include(step_of(rules, code), static_cast<std::uint64_t>(top));
  const int width = end - unit;  // of the larger of a magnitude and a value: residuals need no more
  return {unit, width <= 59 && 2 * width + std::bit_width(static_cast<unsigned>(n)) <= 126};
}

/// A block in whole units.
template <class N>
struct Block {
  using Value = typename N::Value;
  using Sum = typename N::Sum;

  const VerifyRules& rules;
  int unit;
  std::vector<Value> x;  ///< magnitudes times factor
  std::vector<bool> negative;

  Value step(int code) const {
    const Number s = step_of(rules, code);
    if constexpr (std::is_same_v<N, Narrow>) {
      return s.significand == 0 ? 0 : static_cast<std::int64_t>(s.significand << (s.exponent - unit));
    } else {
      return whole(s, unit);
    }
  }
};

template <class N>
Block<N> make_block(const VerifyRules& rules, const float* x, int n, int unit) {
  Block<N> b = {rules, unit, {}, {}};
  for (int i = 0; i < n; ++i) {
    const Number v = number(x[i]);
    if constexpr (std::is_same_v<N, Narrow>) {
      b.x.push_back(v.significand == 0 ? 0 : static_cast<std::int64_t>(v.significand << (v.exponent - unit)));
    } else {
      b.x.push_back(whole(v, unit));
    }
    b.x.back() *= rules.factor;
    b.negative.push_back(std::signbit(x[i]));
  }
  return b;
}

/// The code of the level nearest to x: a boundary between levels k - 1 and k belongs to the even one.
template <class Value>
int nearest_level(const std::vector<std::int64_t>& levels, const Value& x, const Value& step) {
  const Value twice = 2 * x;
  int k = 0;
  for (const int last = static_cast<int>(levels.size()) - 1; k < last; ++k) {
    const Value boundary = (levels[k] + levels[k + 1]) * step;
    if (twice < boundary || (twice == boundary && k % 2 == 0)) break;
  }
  return k;
}

template <class N>
typename N::Value residual(const Block<N>& b, int grid, const typename N::Value& step, std::size_t i) {
  const std::vector<std::int64_t>& levels = b.rules.grids[grid];
  return b.x[i] - levels[nearest_level(levels, b.x[i], step)] * step;
}

template <class N>
typename N::Sum squared_error(const Block<N>& b, int grid, int code) {
  const typename N::Value step = b.step(code);
  typename N::Sum sum = 0;
  for (std::size_t i = 0; i < b.x.size(); ++i) {
    const typename N::Sum r = residual(b, grid, step, i);
    sum += r * r;
  }
  return sum;
}

/// sum over clipped elements of (|x| - L s)^2, weight[i] times where there are weights.
template <class Sum, class N>
Sum clipped(const Block<N>& b, int grid, int code, const mpz_class* weight = nullptr) {
  const typename N::Value limit = b.rules.grids[grid].back() * b.step(code);
  Sum sum = 0;
  for (std::size_t i = 0; i < b.x.size(); ++i) {
    if (!(b.x[i] > limit)) continue;
    const typename N::Sum over = typename N::Sum(b.x[i]) - limit;
    if constexpr (std::is_same_v<Sum, typename N::Sum>) {
      if (!weight) {
        sum += over * over;
        continue;
      }
    }
    if constexpr (std::is_same_v<Sum, mpz_class>) sum += to_mpz(over) * to_mpz(over) * weight[i];
  }
  return sum;
}

/// sum over the elements whose nearest level is 0 of x^2: up to half the first level.
template <class Sum, class N>
Sum zeroed(const Block<N>& b, int grid, int code, const mpz_class* weight = nullptr) {
  const typename N::Value limit = b.rules.grids[grid][1] * b.step(code);
  Sum sum = 0;
  for (std::size_t i = 0; i < b.x.size(); ++i) {
    if (2 * b.x[i] > limit) continue;
    const typename N::Sum x = b.x[i];
    if constexpr (std::is_same_v<Sum, typename N::Sum>) {
      if (!weight) {
        sum += x * x;
        continue;
      }
    }
    if constexpr (std::is_same_v<Sum, mpz_class>) sum += to_mpz(x) * to_mpz(x) * weight[i];
  }
  return sum;
}

std::string hex(const VerifyRules& rules, int code, int grid) {
  return fmt::format("0x{:02x}", grid == 1 && rules.format.selects() ? code | formats::selection_bit : code);
}

/// What else a block's code has to be held against, as it appears.
struct Margin {
  std::optional<mpq_class> least;  ///< how much more any other code loses, at least
  bool tie = false;

  void lose(const mpq_class& more) {
    if (!least || more < *least) least = more;
  }
};

/// A stored scale taken apart.
struct Chosen {
  int code;
  int grid;
};

Chosen chosen_of(const VerifyRules& rules, int scale) {
  if (!rules.format.selects()) return {scale, 0};
  return {scale & ~formats::selection_bit, (scale & formats::selection_bit) != 0 ? 1 : 0};
}

std::string check_interval(const VerifyRules& rules, const Chosen& best, const BlockClaim& claim) {
  if (claim.lo < rules.first_code || claim.hi > rules.last_code) {
    return fmt::format("its interval 0x{:02x} .. 0x{:02x} leaves the scale's positive codes", claim.lo, claim.hi);
  }
  if (best.code < claim.lo || best.code > claim.hi) {
    return fmt::format("its scale 0x{:02x} lies outside its interval 0x{:02x} .. 0x{:02x}", best.code, claim.lo,
                       claim.hi);
  }
  return "";
}

/// The numbers of the claim against exact ones; losses in true units.
std::string check_numbers(const BlockClaim& claim, const mpq_class& loss, const Margin& margin) {
  if (!is_nearest(claim.loss, loss)) {
    return fmt::format("its loss is {}, its record says {}", loss.get_d(), claim.loss);
  }
  if (!(claim.gap >= 0) || std::isinf(claim.gap)) return fmt::format("its gap {} is no distance", claim.gap);
  if (margin.least && *margin.least < mpq_class(claim.gap)) {
    return fmt::format("its gap {} is not proved, {} is", claim.gap, margin.least->get_d());
  }
  return "";
}

template <class N>
struct SquaredErrorCheck {
  using Sum = typename N::Sum;

  const Block<N>& block;
  const Chosen best;
  const BlockClaim& claim;
  const Sum loss;
  std::optional<Sum> least = {};
  bool tie = false;

  mpq_class true_units(const Sum& sum) const {
    return scaled(to_mpz(sum), 2 * block.unit) / mpq_class(block.rules.factor * block.rules.factor);
  }
  void lose(const Sum& more) {
    if (!least || more < *least) least = more;
  }
  std::string better(int grid, int code, const Sum& theirs) const {
    return fmt::format("scale {} loses {}, {} loses {}", hex(block.rules, best.code, best.grid),
                       true_units(loss).get_d(), hex(block.rules, code, grid), true_units(theirs).get_d());
  }

  std::string check_inside() {
    for (int code = claim.lo; code <= claim.hi; ++code) {
      for (int grid = 0; grid < static_cast<int>(block.rules.grids.size()); ++grid) {
        if (code == best.code && grid == best.grid) continue;
        const Sum theirs = squared_error(block, grid, code);
        const bool before = code < best.code || (code == best.code && grid < best.grid);
        if (theirs < loss || (theirs == loss && before)) return better(grid, code, theirs);
        tie = tie || theirs == loss;
        lose(theirs - loss);
      }
    }
    return "";
  }

  std::string check_below(int grid) {
    if (claim.lo == block.rules.first_code) return "";
    const Sum bound = clipped<Sum>(block, grid, claim.lo - 1);
    if (!(bound > loss)) {
      return fmt::format("codes below 0x{:02x} are not excluded: scale {} loses {}, their bound is {}", claim.lo,
                         hex(block.rules, best.code, best.grid), true_units(loss).get_d(), true_units(bound).get_d());
    }
    lose(bound - loss);
    return "";
  }

  bool dominated(int grid) const {
    const std::int64_t reach = block.rules.overhang[grid] + block.rules.grids[grid].back();
    if (block.rules.overhang[grid] == 0) return false;
    const typename N::Value amax = *std::max_element(block.x.begin(), block.x.end());
    return 4 * Sum(amax) <= Sum(block.step(claim.hi + 1)) * reach;
  }

  std::string check_above(int grid) {
    if (claim.hi == block.rules.last_code) return "";
    const Sum bound = zeroed<Sum>(block, grid, claim.hi + 1);
    if (!dominated(grid)) {
      if (bound < loss) {
        return fmt::format("codes above 0x{:02x} are not excluded: scale {} loses {}, their bound is {}", claim.hi,
                           hex(block.rules, best.code, best.grid), true_units(loss).get_d(), true_units(bound).get_d());
      }
      lose(bound - loss);
      return "";
    }
    std::optional<Sum> least_above;
    for (int code = claim.hi + 1; code <= block.rules.last_code; ++code) {
      const int half = block.rules.half[code];
      if (half >= 0 && (grid != best.grid || half != best.code)) continue;
      const Sum theirs = squared_error(block, grid, code);
      if (theirs < loss) return better(grid, code, theirs);
      tie = tie || theirs == loss;
      if (!least_above || theirs < *least_above) least_above = theirs;
    }
    if (least_above) lose(std::max<Sum>(*least_above, bound) - loss);
    return "";
  }

  BlockFinding run() {
    std::string problem = check_inside();
    for (int grid = 0; problem.empty() && grid < static_cast<int>(block.rules.grids.size()); ++grid) {
      problem = check_below(grid);
      if (problem.empty()) problem = check_above(grid);
    }
    Margin margin;
    if (least) margin.lose(true_units(*least));
    if (problem.empty()) problem = check_numbers(claim, true_units(loss), margin);
    return {problem, tie};
  }
};

template <class N>
BlockFinding check_squared_error(const Block<N>& block, const Chosen& best, const BlockClaim& claim) {
  return SquaredErrorCheck<N>{block, best, claim, squared_error(block, best.grid, best.code)}.run();
}

/// Doubles as whole numbers of 2^unit.
struct WholeNumbers {
  std::vector<mpz_class> value;
  int unit = 0;
};

WholeNumbers whole_numbers(const double* values, int n) {
  WholeNumbers w;
  w.unit = 1 << 12;
  for (int i = 0; i < n; ++i) {
    if (values[i] != 0) w.unit = std::min(w.unit, number(values[i]).exponent);
  }
  for (int i = 0; i < n; ++i) {
    w.value.push_back(whole(number(values[i]), w.unit));
    if (values[i] < 0) w.value.back() = -w.value.back();
  }
  return w;
}

/// r^T H r of one block, exactly or between bounds, in units of 2^(2 block.unit).
template <class N>
struct HessianLoss {
  const Block<N>& block;
  const double* h;
  WholeNumbers exact_h = {};  ///< made when first needed
  std::vector<double> r = {};

  mpq_class exact(int code) {
    const std::size_t n = block.x.size();
    if (exact_h.value.empty()) exact_h = whole_numbers(h, static_cast<int>(n * n));
    const typename N::Value step = block.step(code);
    std::vector<mpz_class> rest;
    for (std::size_t i = 0; i < n; ++i) {
      rest.push_back(to_mpz(typename N::Sum(residual(block, 0, step, i))));
      if (block.negative[i]) rest.back() = -rest.back();
    }
    mpz_class sum = 0, dot;
    for (std::size_t i = 0; i < n; ++i) {
      dot = 0;
      for (std::size_t j = 0; j < n; ++j) {
        mpz_addmul(dot.get_mpz_t(), exact_h.value[i * n + j].get_mpz_t(), rest[j].get_mpz_t());
      }
      mpz_addmul(sum.get_mpz_t(), dot.get_mpz_t(), rest[i].get_mpz_t());
    }
    return scaled(sum, exact_h.unit);
  }

  /// A lower bound. Residuals are converted within 2^-52 of themselves; each product of three and the sums round at
  /// most 2 n + 2 times along any path: with the conversions (2 n + 8) 2^-53 of sum |r_i h_ij r_j| and more than twice
  /// that is taken off.
  double lower(int code) {
    const std::size_t n = block.x.size();
    const typename N::Value step = block.step(code);
    r.resize(n);
    for (std::size_t i = 0; i < n; ++i) {
      const double magnitude = to_double(residual(block, 0, step, i));
      r[i] = block.negative[i] ? -magnitude : magnitude;
    }
    double sum = 0, size = 0;
    for (std::size_t i = 0; i < n; ++i) {
      double dot = 0, absolute = 0;
      for (std::size_t j = 0; j < n; ++j) {
        const double term = h[i * n + j] * r[j];
        dot += term;
        absolute += std::fabs(term);
      }
      sum += dot * r[i];
      size += absolute * std::fabs(r[i]);
    }
    return sum - static_cast<double>(2 * n + 16) * 0x1p-52 * size;
  }
};

template <class N>
BlockFinding check_hessian(const Block<N>& block, const Chosen& best, const BlockClaim& claim, const double* h,
                           const double* minorant) {
  HessianLoss<N> losses = {block, h};
  const mpq_class loss = losses.exact(best.code);
  const auto true_units = [&](const mpq_class& q) { return mpq_class(q * scaled(1, 2 * block.unit)); };
  const mpq_class needed = loss + mpq_class(claim.gap) / scaled(1, 2 * block.unit);
  const double clearly = needed.get_d() + std::fabs(needed.get_d()) * 0x1p-40;
  BlockFinding found;
  Margin margin;
  for (int code = claim.lo; code <= claim.hi; ++code) {
    if (code == best.code) continue;
    if (const double lower = losses.lower(code); lower > clearly && lower > 0x1p-900) continue;
    const mpq_class theirs = losses.exact(code);
    if (theirs < loss || (theirs == loss && code < best.code)) {
      return {fmt::format("scale 0x{:02x} loses {}, 0x{:02x} loses {}", best.code, true_units(loss).get_d(), code,
                          true_units(theirs).get_d())};
    }
    found.tie = found.tie || theirs == loss;
    margin.lose(true_units(theirs - loss));
  }
  const WholeNumbers d = whole_numbers(minorant, static_cast<int>(block.x.size()));
  const auto refuse = [&](const char* side, int code, const mpq_class& bound) -> BlockFinding {
    return {fmt::format("codes {} 0x{:02x} are not excluded: scale 0x{:02x} loses {}, their bound is {}", side, code,
                        best.code, true_units(loss).get_d(), true_units(bound).get_d())};
  };
  if (claim.lo > block.rules.first_code) {
    const mpq_class bound = scaled(clipped<mpz_class>(block, 0, claim.lo - 1, d.value.data()), d.unit);
    if (!(bound > loss)) return refuse("below", claim.lo, bound);
    margin.lose(true_units(bound - loss));
  }
  if (claim.hi < block.rules.last_code) {
    const mpq_class bound = scaled(zeroed<mpz_class>(block, 0, claim.hi + 1, d.value.data()), d.unit);
    if (bound < loss) return refuse("above", claim.hi, bound);
    margin.lose(true_units(bound - loss));
  }
  found.problem = check_numbers(claim, true_units(loss), margin);
  return found;
}

/// Blocks that no search decides: "" where there is nothing to add, or what is wrong; nothing for all others.
std::optional<std::string> check_special(const VerifyRules& rules, const float* x, int n, int scale,
                                         const BlockClaim* claim) {
  const bool finite = std::all_of(x, x + n, [](float v) { return std::isfinite(v); });
  const bool zero = std::all_of(x, x + n, [](float v) { return v == 0; });
  if (finite && !zero) return std::nullopt;
  const int wanted = finite ? 0 : static_cast<int>(rules.format.scale.nan_code());
  if (scale != wanted) {
    return fmt::format("a block {} has scale 0x{:02x}, not 0x{:02x}", finite ? "of zeros" : "with a NaN or an Inf",
                       wanted, scale);
  }
  if (!claim) return "";
  const bool loss = finite ? claim->loss == 0 : std::isnan(claim->loss);
  if (claim->lo != wanted || claim->hi != wanted || claim->gap != 0 || !loss) {
    return fmt::format("a block {} has nothing to choose, its record says otherwise",
                       finite ? "of zeros" : "with a NaN or an Inf");
  }
  return "";
}

/// The codes that a claim for squared error makes someone look at.
std::vector<int> codes_of(const VerifyRules& rules, const Chosen& best, const BlockClaim& claim) {
  std::vector<int> codes;
  for (int code = std::max(claim.lo - 1, rules.first_code); code <= rules.last_code; ++code) {
    const int half = rules.half[code];
    if (code <= claim.hi + 1 || half < 0 || half == best.code) codes.push_back(code);
  }
  return codes;
}

}  // namespace

VerifyRules make_rules(const formats::BlockFormat& format, float tensor_scale) {
  const bool selects = format.selects();
  VerifyRules rules = {format, tensor_scale, selects ? 7 : 1, 0, {}, {}, {}, 0, 0};
  std::vector<double> levels(format.levels.value, format.levels.value + format.levels.count);
  for (std::uint32_t code = 0; format.levels.count == 0 && code <= format.element.max_code; ++code) {
    levels.push_back(formats::decode_double(format.element, code));
  }
  const auto fraction = [&](double level) {
    return std::ldexp(level, rules.places) != std::floor(std::ldexp(level, rules.places));
  };
  while (std::any_of(levels.begin(), levels.end(), fraction)) ++rules.places;
  rules.grids.resize(selects ? 2 : 1);
  for (const double level : levels) {
    rules.grids[0].push_back(static_cast<std::int64_t>(std::ldexp(level, rules.places)) * rules.factor);
  }
  for (std::int64_t k = 0; selects && k < 8; ++k) rules.grids[1].push_back((6 * k) << rules.places);
  for (const auto& grid : rules.grids) {
    const auto above = std::find_if(grid.begin(), grid.end(), [&](std::int64_t l) { return 2 * l > grid.back(); });
    const bool nests = std::all_of(grid.begin(), above,
                                   [&](std::int64_t l) { return std::count(grid.begin(), grid.end(), 2 * l) > 0; });
    rules.overhang.push_back(nests ? 2 * *above : 0);
  }
  rules.first_code = format.scale.has_zero ? 1 : 0;
  rules.last_code = static_cast<int>(format.scale.max_code);
  std::vector<double> values;
  for (int c = 0; c <= rules.last_code; ++c)
    values.push_back(formats::decode_double(format.scale, static_cast<std::uint32_t>(c)));
  for (const double value : values) {
    const auto half = std::find(values.begin() + rules.first_code, values.end(), value / 2);
    rules.half.push_back(half == values.end() ? -1 : static_cast<int>(half - values.begin()));
  }
  return rules;
}

std::string check_elements(const VerifyRules& rules, const float* x, int n, int scale, const std::uint8_t* codes) {
  const auto special = check_special(rules, x, n, scale, nullptr);
  if (special && !special->empty()) return *special;
  if (special && scale != 0) return "";
  const Chosen chosen = chosen_of(rules, scale);
  if (chosen.code > rules.last_code) return fmt::format("its scale 0x{:02x} is no number", scale);
  const Units units = units_of(rules, x, n, {chosen.code});
  const Block<Wide> wide = units.narrow ? Block<Wide>{rules, 0, {}, {}} : make_block<Wide>(rules, x, n, units.unit);
  const Block<Narrow> narrow =
      units.narrow ? make_block<Narrow>(rules, x, n, units.unit) : Block<Narrow>{rules, 0, {}, {}};
  const formats::Format& element = chosen.grid == 1 ? formats::int4 : rules.format.element;
  const std::vector<std::int64_t>& grid = rules.grids[chosen.grid];
  const bool vanishes = formats::decode_double(rules.format.scale, static_cast<std::uint32_t>(chosen.code)) == 0;
  for (int i = 0; i < n; ++i) {
    std::uint32_t want = 0;
    if (!vanishes) {
      want = static_cast<std::uint32_t>(units.narrow ? nearest_level(grid, narrow.x[i], narrow.step(chosen.code))
                                                     : nearest_level(grid, wide.x[i], wide.step(chosen.code)));
    }
    if (std::signbit(x[i]))
      want = element.twos_complement ? (0 - want) & (element.code_count() - 1) : want | element.sign_bit();
    if (codes[i] != want) {
      return fmt::format("at scale 0x{:02x}, element {} has code 0x{:x}, the nearest to {} is 0x{:x}", scale, i,
                         codes[i], x[i], want);
    }
  }
  return "";
}

BlockFinding check_claim(const VerifyRules& rules, const float* x, int n, int scale, const BlockClaim& claim) {
  if (const auto special = check_special(rules, x, n, scale, &claim)) return {*special};
  const Chosen best = chosen_of(rules, scale);
  std::string problem = check_interval(rules, best, claim);
  if (!problem.empty()) return {problem};
  const Units units = units_of(rules, x, n, codes_of(rules, best, claim));
  if (units.narrow) return check_squared_error(make_block<Narrow>(rules, x, n, units.unit), best, claim);
  return check_squared_error(make_block<Wide>(rules, x, n, units.unit), best, claim);
}

BlockFinding check_claim(const VerifyRules& rules, const float* x, int n, int scale, const BlockClaim& claim,
                         const double* h, const double* minorant) {
  if (const auto special = check_special(rules, x, n, scale, &claim)) return {*special};
  std::string problem = check_interval(rules, {scale, 0}, claim);
  if (!problem.empty()) return {problem};
  if (!(claim.gap >= 0) || std::isinf(claim.gap)) return {fmt::format("its gap {} is no distance", claim.gap)};
  std::vector<int> codes(
      static_cast<std::size_t>(std::min(claim.hi + 1, rules.last_code) - std::max(claim.lo - 1, rules.first_code) + 1));
  std::iota(codes.begin(), codes.end(), std::max(claim.lo - 1, rules.first_code));
  const Units units = units_of(rules, x, n, codes);
  if (units.narrow) return check_hessian(make_block<Narrow>(rules, x, n, units.unit), {scale, 0}, claim, h, minorant);
  return check_hessian(make_block<Wide>(rules, x, n, units.unit), {scale, 0}, claim, h, minorant);
}

bool check_minorant(const double* h, int n, const double* d) {
  std::vector<double> numbers(h, h + n * n);
  for (int i = 0; i < n; ++i) {
    if (!(d[i] >= 0) || std::isinf(d[i])) return false;
    numbers.push_back(d[i]);
  }
  std::vector<mpz_class> a = whole_numbers(numbers.data(), n * n + n).value;
  for (int i = 0; i < n; ++i) a[i * n + i] -= a[n * n + i];
  // Fractions are avoided as Bareiss does: each step divides by the pivot before, without a rest.
  mpz_class before = 1;
  std::vector<int> left(static_cast<std::size_t>(n));
  std::iota(left.begin(), left.end(), 0);
  while (!left.empty()) {
    const int k = left.front();
    left.erase(left.begin());
    const mpz_class pivot = a[k * n + k];
    if (pivot < 0) return false;
    for (const int i : left) {
      if (pivot == 0 && a[k * n + i] != 0) return false;
      for (const int j : left) {
        if (pivot != 0) a[i * n + j] = (pivot * a[i * n + j] - a[i * n + k] * a[k * n + j]) / before;
      }
    }
    if (pivot != 0) before = pivot;
  }
  return true;
}

float amax_tensor_scale(const formats::BlockFormat& format, float amax, int scale_max) {
  if (amax == 0) return 1;
  const mpq_class quotient = mpq_class(amax) / (mpq_class(format.element_max()) * mpq_class(scale_max));
  float below = static_cast<float>(quotient.get_d());
  while (mpq_class(below) > quotient) below = std::nextafter(below, 0.0f);
  const float above = std::nextafter(below, INFINITY);
  if (std::isinf(above)) return below;
  const mpq_class twice = 2 * quotient, sum = mpq_class(below) + mpq_class(above);
  const bool up = twice > sum || (twice == sum && (std::bit_cast<std::uint32_t>(below) & 1) != 0);
  return std::max(up ? above : below, 0x1p-149f);
}

}  // namespace fp4scope::analysis
