// The expected code and status of every number, decided by definition, in rationals. Includes nothing of formats/.
//
// A format is a grid of magnitudes, counted up from code 0: first, then gap after gap,
//
//   gap(v) = max(step, 2^floor(log2 v) / per_binade)
//
// until max; the grid goes on beyond max for the rounding (IEEE 754-2019, 7.4: overflow is decided as though the
// exponent had no bound). Everything else follows from where x lies between its two neighbours.
#pragma once

#include <gmpxx.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace fp4scope::oracle {

struct Grid {
  const char* name;
  int bits;
  double first;         ///< the value of code 0
  double step;          ///< the gap above it
  int per_binade;       ///< values from a power of two, included, to the next
  double max;           ///< the largest finite value
  double min_normal;    ///< for integers 1: no integer is subnormal
  std::uint32_t sign;   ///< the sign bit, 0 where there is none
  bool twos_complement;
  std::uint32_t inf;    ///< 0 where there is none
  std::uint32_t nan;    ///< the canonical NaN, 0 where there is none
};

// clang-format off
inline constexpr Grid grids[] = {
    // name      bits  first      step       binade  max           min normal  sign    2's    inf     nan
    {"e2m1",      4,   0,         0.5,       2,      6,            1,          0x8,    false, 0,      0},
    {"e2m3",      6,   0,         0.125,     8,      7.5,          1,          0x20,   false, 0,      0},
    {"e3m2",      6,   0,         0.0625,    4,      28,           0.25,       0x20,   false, 0,      0},
    {"e3m4",      8,   0,         0x1p-6,    16,     15.5,         0.25,       0x80,   false, 0x70,   0x78},
    {"e4m3",      8,   0,         0x1p-9,    8,      448,          0x1p-6,     0x80,   false, 0,      0x7F},
    {"e4m3_ieee", 8,   0,         0x1p-9,    8,      240,          0x1p-6,     0x80,   false, 0x78,   0x7C},
    {"e5m2",      8,   0,         0x1p-16,   4,      57344,        0x1p-14,    0x80,   false, 0x7C,   0x7E},
    {"ue8m0",     8,   0x1p-127,  0x1p-127,  1,      0x1p127,      0x1p-127,   0,      false, 0,      0xFF},
    {"ue4m3",     7,   0,         0x1p-9,    8,      448,          0x1p-6,     0,      false, 0,      0x7F},
    {"ue5m3",     8,   0,         0x1p-17,   8,      114688,       0x1p-14,    0,      false, 0,      0xFF},
    {"ue4m4",     8,   0,         0x1p-10,   16,     480,          0x1p-6,     0,      false, 0,      0xFF},
    {"e1m2",      4,   0,         0.5,       4,      3.5,          2,          0x8,    false, 0,      0},
    {"int4",      4,   0,         1,         8,      7,            1,          0x8,    true,  0,      0},
    {"int8",      8,   0,         1,         128,    127,          1,          0x80,   true,  0,      0},
    {"bf16",      16,  0,         0x1p-133,  128,    0x1.FEp127,   0x1p-126,   0x8000, false, 0x7F80, 0x7FC0},
    {"fp16",      16,  0,         0x1p-24,   1024,   65504,        0x1p-14,    0x8000, false, 0x7C00, 0x7E00},
};
// clang-format on

enum class Mode { nearest_even, nearest_away, toward_zero, up, down, stochastic };

inline constexpr std::uint8_t inexact = 1, underflow = 2, overflow = 4, was_nan = 8;

struct Answer {
  std::uint32_t code;
  std::uint8_t status;
  bool operator==(const Answer&) const = default;
};

/// Where a magnitude lies: value[below] <= it < value[below + 1], `part` of the way.
struct Place {
  bool tiny = false;       ///< below value[0], which only a grid without zero has
  bool huge = false;       ///< at or above the first value beyond max
  std::size_t below = 0;
  bool on_grid = false;
  int against_half = 0;    ///< the sign of part - 1/2
  std::uint32_t part = 0;  ///< floor(2^32 * part)
};

class Oracle {
 public:
  explicit Oracle(const Grid& g) : grid(g) {
    double v = g.first;
    for (; v < g.max; v += gap(v)) values.push_back(v);
    if (v != g.max) std::abort();  // a misprint in the table
    values.push_back(v);
    next = v + gap(v);
  }

  /// The magnitude's value for index <= max_index() + 1, where the last one is the first beyond max.
  double value(std::size_t index) const { return index < values.size() ? values[index] : next; }
  std::size_t max_index() const { return values.size() - 1; }

  Place locate(double magnitude) const {
    Place p;
    p.huge = magnitude >= next;
    p.tiny = magnitude < values[0];
    if (p.huge || p.tiny) return p;
    p.below = static_cast<std::size_t>(std::upper_bound(values.begin(), values.end(), magnitude) - values.begin()) - 1;
    p.on_grid = magnitude == values[p.below];
    const mpq_class lower(value(p.below));
    const mpq_class part = (mpq_class(magnitude) - lower) / (mpq_class(value(p.below + 1)) - lower);
    p.against_half = cmp(part, mpq_class(1, 2));
    const mpq_class scaled = part * mpq_class(0x1p32);
    p.part = static_cast<std::uint32_t>(mpz_class(scaled.get_num() / scaled.get_den()).get_ui());
    return p;
  }

  /// `p` is locate(|x|), unused for NaN, Inf and 0. `to_nan`: the overflow policy.
  Answer answer(double x, const Place& p, Mode mode, bool to_nan, std::uint32_t word) const {
    const auto max = static_cast<std::uint32_t>(max_index());
    const bool negative = std::signbit(x);
    const std::uint32_t outside = to_nan ? grid.nan : 0;
    if (std::isnan(x)) return {grid.nan ? grid.nan : max, was_nan};
    if (negative && x != 0 && !grid.sign) return {outside, overflow | inexact};
    if (x == 0 && grid.first > 0) return {outside, underflow | inexact};
    if (x == 0) return {with_sign(0, negative), 0};
    const std::uint32_t beyond = with_sign(!outside ? max : grid.inf ? grid.inf : grid.nan, negative);
    if (std::isinf(x)) return {beyond, to_nan && grid.inf ? std::uint8_t{0} : static_cast<std::uint8_t>(overflow | inexact)};
    if (p.tiny) return {0, underflow | inexact};

    const bool inwards = mode == Mode::toward_zero || mode == (negative ? Mode::up : Mode::down);
    const Answer overflowed = {inwards ? with_sign(max, negative) : beyond, overflow | inexact};
    if (p.huge) return overflowed;
    const auto index = static_cast<std::uint32_t>(p.below) + (rounds_outwards(p, mode, negative, word) ? 1 : 0);
    if (index > max) return overflowed;
    const bool below_normal = std::fabs(x) < grid.min_normal;
    const std::uint8_t status = p.on_grid ? 0 : below_normal ? inexact | underflow : inexact;
    return {with_sign(index, negative), status};
  }

  Answer answer(double x, Mode mode, bool to_nan, std::uint32_t word = 0) const {
    const bool ordinary = std::isfinite(x) && x != 0;
    return answer(x, ordinary ? locate(std::fabs(x)) : Place{}, mode, to_nan, word);
  }

  /// Neighbours of a tie differ in the last digit's parity, which the count from zero shares. Where every significand
  /// is 1 they don't, and the larger is taken (IEEE 754-2019, 4.3.1).
  bool tie_goes_outwards(std::size_t below) const { return grid.per_binade == 1 || below % 2 == 1; }

  const Grid grid;
  std::vector<double> values;  ///< the finite magnitudes; the index is the code with the sign clear
  double next = 0;             ///< the first value beyond max, had the format one more

 private:
  double gap(double v) const {
    return v > 0 ? std::max(grid.step, std::ldexp(1.0, std::ilogb(v)) / grid.per_binade) : grid.step;
  }

  bool rounds_outwards(const Place& p, Mode mode, bool negative, std::uint32_t word) const {
    if (p.on_grid) return false;
    switch (mode) {
      case Mode::nearest_even: return p.against_half > 0 || (p.against_half == 0 && tie_goes_outwards(p.below));
      case Mode::nearest_away: return p.against_half >= 0;
      case Mode::toward_zero: return false;
      case Mode::up: return !negative;
      case Mode::down: return negative;
      case Mode::stochastic: return word < p.part;
    }
    return false;
  }

  std::uint32_t with_sign(std::uint32_t magnitude, bool negative) const {
    if (!negative) return magnitude;
    return grid.twos_complement ? (2 * grid.sign - magnitude) % (2 * grid.sign) : magnitude | grid.sign;
  }
};

/// How GoogleTest names a Grid.
inline void PrintTo(const Grid& g, std::ostream* out) { *out << g.name; }

inline const Grid& grid_named(std::string_view name) {
  for (const Grid& g : grids) {
    if (name == g.name) return g;
  }
  std::abort();
}

/// A reproducible stream of 64-bit words (SplitMix64).
class Words {
 public:
  explicit Words(std::uint64_t seed) : state(seed) {}
  std::uint64_t operator()() {
    std::uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }

 private:
  std::uint64_t state;
};

/// x and its neighbours up to two units in the last place away, in T's own precision.
template <class T>
void append_neighbours(T x, std::vector<double>& out) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const T below = std::nextafter(x, -infinity), above = std::nextafter(x, infinity);
  for (const T y : {std::nextafter(below, -infinity), below, x, above, std::nextafter(above, infinity)}) {
    out.push_back(static_cast<double>(y));
  }
}

/// Every value, every midpoint, the places around half and quarter of the smallest and around the first value beyond
/// max; each with its float and double neighbours; both signs; zeros, infinities and NaNs of both signs.
inline std::vector<double> boundary_points(const Oracle& oracle) {
  std::vector<double> magnitudes;
  const auto around = [&](double x) {
    append_neighbours(x, magnitudes);
    append_neighbours(static_cast<float>(x), magnitudes);
  };
  const double smallest = oracle.value(oracle.value(0) > 0 ? 0 : 1);
  for (const double x : {smallest / 4, smallest / 2, 0.75 * smallest, oracle.next, oracle.next / 2 + oracle.next,
                         2 * oracle.next, 4 * oracle.next, 0x1p-149, 0x1p-126, 0x1.FFFFFEp127, 0x1p128}) {
    around(x);
  }
  for (std::size_t i = 0; i <= oracle.max_index(); ++i) {
    around(oracle.value(i));
    around(oracle.value(i) + (oracle.value(i + 1) - oracle.value(i)) / 2);
  }
  magnitudes.insert(magnitudes.end(), {0x1p-1074, 0x1p-1022, 0x1p1023, 0x1.FFFFFFFFFFFFFp1023, HUGE_VAL, 0.0});

  std::vector<double> points;
  points.reserve(2 * magnitudes.size() + 2);
  for (const double x : magnitudes) {
    points.push_back(std::fabs(x));
    points.push_back(-std::fabs(x));
  }
  points.push_back(std::numeric_limits<double>::quiet_NaN());
  points.push_back(-std::numeric_limits<double>::quiet_NaN());
  return points;
}

/// Both signs of `count` doubles for every exponent field but the last; half of them end in zeros, so that ties occur.
inline std::vector<double> stratified_points(std::uint64_t seed, int count) {
  Words words(seed);
  std::vector<double> points;
  for (std::uint64_t field = 0; field < 0x7FF; ++field) {
    for (int i = 0; i < count; ++i) {
      const int zeros = i % 2 ? static_cast<int>(words() % 52) : 0;
      const std::uint64_t mantissa = (words() & ((std::uint64_t{1} << 52) - 1)) >> zeros << zeros;
      const double x = __builtin_bit_cast(double, field << 52 | mantissa);
      points.push_back(x);
      points.push_back(-x);
    }
  }
  return points;
}

/// A double for a failure message: bits, hexadecimal, decimal.
inline std::string show(double x) {
  char text[128];
  std::snprintf(text, sizeof text, "0x%016llX = %a = %.17g",
                static_cast<unsigned long long>(__builtin_bit_cast(std::uint64_t, x)), x, x);
  return text;
}

}  // namespace fp4scope::oracle
