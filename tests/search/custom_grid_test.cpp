// Grids of one's own: the search's answer is the definition's, by brute force in integers that share no code with it.
#include <gmpxx.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>
#include <vector>

#include "search/hessian.hpp"
#include "search/sse.hpp"
#include "sim/block.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

/// A scale format as its definition has it; ue8m0 has no zero.
struct ScaleRow {
  const char* name;
  const formats::Format* format;
  int mantissa_bits, bias, last_code;

  int first_code() const { return mantissa_bits == 0 ? 0 : 1; }
  /// In units of 2^-127.
  mpz_class units(int code) const {
    if (mantissa_bits == 0) return mpz_class(1) << static_cast<unsigned>(code);
    const int field = code >> mantissa_bits, fraction = code & ((1 << mantissa_bits) - 1);
    const int significand = field == 0 ? fraction : fraction + (1 << mantissa_bits);
    return mpz_class(significand) << static_cast<unsigned>(std::max(field, 1) - bias - mantissa_bits + 127);
  }
  double value(int code) const { return oracle::approximate(units(code), -127); }
};

const ScaleRow e4m3 = {"e4m3", &formats::e4m3, 3, 7, 126};
const ScaleRow ue5m3 = {"ue5m3", &formats::ue5m3, 3, 15, 254};
const ScaleRow ue4m4 = {"ue4m4", &formats::ue4m4, 4, 7, 254};
const ScaleRow ue8m0 = {"ue8m0", &formats::ue8m0, 0, 127, 254};
const ScaleRow e3m4 = {"e3m4", &formats::e3m4, 4, 3, 0x6F};
const ScaleRow e5m2 = {"e5m2", &formats::e5m2, 2, 15, 0x7B};

/// Levels in units of 2^-8.
struct GridRow {
  const char* name;
  std::vector<int> levels;
  const ScaleRow* scale;
  bool nests;
};

const GridRow grids[] = {
    {"two levels, 8 bits", {0, 255}, &ue4m4, true},
    {"one and three", {0, 256, 768}, &e4m3, false},
    {"e2m1's", {0, 128, 256, 384, 512, 768, 1024, 1536}, &ue5m3, true},
    {"e1m2's", {0, 128, 256, 384, 512, 640, 768, 896}, &ue8m0, true},
    {"normal quantiles of 8 bits", {0, 20, 41, 63, 87, 113, 144, 185}, &e4m3, false},
    {"8 bits, all odd", {0, 1, 3, 7, 31, 101, 203, 255}, &ue4m4, false},
    {"whole numbers of 8 bits",
     {0, 3 * 256, 17 * 256, 55 * 256, 119 * 256, 200 * 256, 254 * 256, 255 * 256},
     &ue5m3,
     false},
    {"powers of two", {0, 64, 128, 256, 512, 1024, 2048, 4096}, &ue8m0, true},
    {"a gap at the end", {0, 256, 512, 1792}, &ue8m0, false},
    {"five levels", {0, 100, 200, 300, 1000}, &e3m4, false},
    {"thirds of a binade", {0, 160, 200, 256, 320, 400, 512}, &e5m2, true},
    {"the widest range", {0, 1, 255}, &ue8m0, false},
};

formats::BlockFormat format_of(const GridRow& row) {
  formats::Format element = formats::e2m1;
  element.max_code = static_cast<std::uint32_t>(row.levels.size() - 1);
  formats::BlockFormat f = {row.name, element, *row.scale->format, 16, true, 1};
  f.levels.count = static_cast<int>(row.levels.size());
  for (std::size_t k = 0; k < row.levels.size(); ++k) f.levels.value[k] = row.levels[k] / 256.0;
  return f;
}

/// amax to the largest level; for powers of two as OCP has it.
sim::ScaleRule rule_of(const GridRow& row) {
  const double top = row.levels.back() / 256.0;
  if (row.scale->mantissa_bits != 0) return {top, formats::Rounding::nearest_even};
  return {std::exp2(std::floor(std::log2(top))), formats::Rounding::toward_zero};
}

/// One block: magnitudes and values in units of 2^-(149 + 127 + 8).
class Oracle {
 public:
  Oracle(const GridRow& row, float tensor_scale, const std::vector<float>& x)
      : row_(row), tensor_scale_(oracle::float_units(tensor_scale)) {
    for (const float value : x) {
      x_.push_back(oracle::float_units(value) << 135);
      negative_.push_back(std::signbit(value));
      amax_ = std::max(amax_, x_.back());
    }
  }

  mpz_class step(int code) const { return tensor_scale_ * row_.scale->units(code); }

  /// The index of the nearest level, a tie to the even one.
  int nearest(const mpz_class& magnitude, const mpz_class& step) const {
    int best = 0;
    mpz_class least = magnitude, error;
    for (std::size_t k = 1; k < row_.levels.size(); ++k) {
      error = magnitude - row_.levels[k] * step;
      error = abs(error);
      if (error < least || (error == least && k % 2 == 0)) best = static_cast<int>(k);
      if (error > least) break;
      least = error;
    }
    return best;
  }

  std::vector<mpz_class> residuals(int code) const {
    const mpz_class s = step(code);
    std::vector<mpz_class> r;
    for (std::size_t i = 0; i < x_.size(); ++i) {
      const mpz_class error = x_[i] - row_.levels[static_cast<std::size_t>(nearest(x_[i], s))] * s;
      r.push_back(negative_[i] ? mpz_class(-error) : error);
    }
    return r;
  }

  mpz_class sse(int code) const {
    mpz_class sum = 0;
    for (const mpz_class& r : residuals(code)) sum += r * r;
    return sum;
  }

  template <class Loss>
  int best(const Loss& loss) const {
    if (amax_ == 0) return 0;
    int best = row_.scale->first_code();
    mpz_class least = loss(best);
    for (int code = best + 1; code <= row_.scale->last_code; ++code) {
      const mpz_class here = loss(code);
      if (here >= least) continue;
      best = code;
      least = here;
    }
    return best;
  }
  int best_sse() const {
    return best([this](int code) { return sse(code); });
  }

  /// The code of the rule: amax to the largest level, to nearest even, or OCP's floor.
  int naive() const {
    if (amax_ == 0) return 0;
    const bool power_of_two = row_.scale->mantissa_bits == 0;
    int divisor = row_.levels.back();
    if (power_of_two) divisor = 1 << static_cast<int>(std::floor(std::log2(divisor)));
    int best = 0;
    mpz_class least = -1;
    for (int code = 0; code <= row_.scale->last_code; ++code) {
      const mpz_class distance = divisor * step(code) - amax_;
      if (power_of_two) {
        if (distance <= 0) best = code;
      } else if (least < 0 || abs(distance) < least || (abs(distance) == least && code % 2 == 0)) {
        best = code;
        least = abs(distance);
      }
    }
    return best;
  }

 private:
  const GridRow& row_;
  mpz_class tensor_scale_, amax_ = 0;
  std::vector<mpz_class> x_;
  std::vector<bool> negative_;
};

/// Blocks around every scale code, many of them on levels or on midpoints of several scales at once.
class Maker {
 public:
  Maker(const GridRow& row, std::uint64_t seed) : row_(row), words_(seed) {}

  std::vector<float> make(float tensor_scale, int n) {
    const int family = below(8), code = std::max(row_.scale->first_code(), below(row_.scale->last_code + 1));
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& value : x) value = element(family, tensor_scale, code);
    if (family == 5) std::fill(x.begin(), x.end(), x[0]);
    if (family == 6) x[0] = edge(tensor_scale, code);
    return x;
  }

  int below(int n) { return static_cast<int>(words_() % static_cast<unsigned>(n)); }

 private:
  double level(int k) const { return row_.levels[static_cast<std::size_t>(k)] / 256.0; }
  double normal() {
    const double u = (static_cast<double>(words_() >> 11) + 0.5) * 0x1p-53, v = static_cast<double>(words_() >> 11);
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * v * 0x1p-53);
  }
  double nearby(int code) {
    const int reach = row_.scale->mantissa_bits == 0 ? 2 : 16;
    return row_.scale->value(
        std::clamp(code + below(2 * reach + 1) - reach, row_.scale->first_code(), row_.scale->last_code));
  }
  static float to_float(double x) {
    const double limit = FLT_MAX;
    return static_cast<float>(std::clamp(x, -limit, limit));
  }
  float beside(double x) {
    const float here = to_float(x);
    const int side = below(3);
    return side == 0 ? here : to_float(std::nextafter(here, side == 1 ? 0.0f : INFINITY));
  }
  /// Where the dominance theorem stops, for grids that nest.
  float edge(float tensor_scale, int code) {
    const double top = level(static_cast<int>(row_.levels.size()) - 1);
    return beside(1.25 * top * tensor_scale * row_.scale->value(code));
  }

  float element(int family, float tensor_scale, int code) {
    const double unit = tensor_scale * row_.scale->value(code), top = row_.levels.back() / 256.0;
    const int last = static_cast<int>(row_.levels.size()) - 1, k = below(last);
    const float sign = below(2) ? -1 : 1;
    switch (family) {
      case 0: return to_float(unit * top / 2 * normal());
      case 1: return sign * to_float(tensor_scale * nearby(code) * level(below(last + 1)));
      case 2: return sign * to_float(tensor_scale * nearby(code) * (level(k) + level(k + 1)) / 2);
      case 3: return sign * beside(tensor_scale * nearby(code) * (level(k) + level(k + 1)) / 2);
      case 4: return sign * to_float(unit * level(below(last + 1)) * (below(2) ? 1 : 0.5));
      case 5: return sign * to_float(unit * top * 1.5 * std::fabs(normal()));
      case 6: return sign * to_float(unit * level(below(last + 1)));
      default: return __builtin_bit_cast(float, static_cast<std::uint32_t>(words_() % 0x7F800000));
    }
  }

  const GridRow& row_;
  std::mt19937_64 words_;
};

constexpr float tensor_scales[] = {1, 0x1.234566p-11f, 0x1.fffffep3f, 0x1p-149f, FLT_MAX};

search::SearchSpace space_of(const GridRow& row, float tensor_scale) {
  return search::make_space(format_of(row), tensor_scale, rule_of(row));
}

TEST(CustomGrid, has_a_dominance_constant_only_where_it_nests) {
  for (const GridRow& row : grids) EXPECT_EQ(space_of(row, 1).dominance > 0, row.nests) << row.name;
  EXPECT_EQ(space_of(grids[0], 1).dominance, 1.5 * 255 / 256);
  EXPECT_EQ(space_of(grids[2], 1).dominance, 7);
}

TEST(CustomGrid, scale_values_are_the_formats_own) {
  for (const GridRow& row : grids) {
    const search::SearchSpace s = space_of(row, 1);
    ASSERT_EQ(s.first_code, row.scale->first_code());
    ASSERT_EQ(s.last_code, row.scale->last_code);
    for (int code = s.first_code; code <= s.last_code; ++code) {
      ASSERT_EQ(mpq_class(s.scale_value[code]) * (mpz_class(1) << 127), row.scale->units(code))
          << row.scale->name << code;
    }
  }
}

TEST(CustomGrid, sse_is_the_least_by_brute_force) {
  for (const GridRow& row : grids) {
    Maker maker(row, 11);
    for (int i = 0; i < 450; ++i) {
      const float t = i % 2 ? 1 : tensor_scales[maker.below(std::size(tensor_scales))];
      const int n = i % 16 == 0 ? 16 : 2 + maker.below(5);
      const std::vector<float> x = maker.make(t, n);
      const search::Block block = {x.data(), n, sim::amax(x.data(), n)};
      const Oracle oracle(row, t, x);
      ASSERT_EQ(search::sse_code(space_of(row, t), block), oracle.best_sse())
          << blocks::describe(row.name, row.scale->name, t, x);
    }
  }
}

TEST(CustomGrid, the_pruned_search_is_the_full_one) {
  for (const GridRow& row : grids) {
    Maker maker(row, 12);
    for (const float t : tensor_scales) {
      const search::SearchSpace space = space_of(row, t);
      for (int i = 0; i < 500; ++i) {
        const std::vector<float> x = maker.make(t, 16);
        const search::Block block = {x.data(), 16, sim::amax(x.data(), 16)};
        ASSERT_EQ(search::sse_code(space, block), search::sse_code_ref(space, block))
            << blocks::describe(row.name, row.scale->name, t, x);
      }
    }
  }
}

TEST(CustomGrid, codes_are_nearest_and_naive_scales_are_the_rules) {
  for (const GridRow& row : grids) {
    Maker maker(row, 13);
    const formats::BlockFormat format = format_of(row);
    const sim::Grid grid = sim::make_grid(format);
    for (int i = 0; i < 200; ++i) {
      const float t = tensor_scales[maker.below(std::size(tensor_scales))];
      const std::vector<float> x = maker.make(t, 8);
      const Oracle oracle(row, t, x);
      const int naive = sim::scale_code(format.scale, rule_of(row), sim::amax(x.data(), 8), t);
      ASSERT_EQ(naive, oracle.naive()) << blocks::describe(row.name, row.scale->name, t, x);
      const int code = std::max(naive, row.scale->first_code());
      const double step = t * formats::decode_double(format.scale, static_cast<std::uint32_t>(code));
      std::uint8_t codes[8];
      sim::quantize_block(format.element, grid, x.data(), 8, step, codes);
      for (std::size_t k = 0; k < 8; ++k) {
        const int index = oracle.nearest(oracle::float_units(x[k]) << 135, oracle.step(code));
        ASSERT_EQ(codes[k], std::signbit(x[k]) ? index | 8 : index)
            << blocks::describe(row.name, row.scale->name, t, x);
        const mpq_class value = mpq_class(sim::dequantize(format, codes[k], step)) * (mpz_class(1) << 284);
        const mpz_class magnitude = row.levels[static_cast<std::size_t>(index)] * oracle.step(code);
        ASSERT_EQ(value, std::signbit(x[k]) ? mpz_class(-magnitude) : magnitude);
      }
    }
  }
}

TEST(CustomGrid, hessian_is_the_least_by_brute_force) {
  for (const GridRow& row : grids) {
    Maker maker(row, 14);
    for (int i = 0; i < 12; ++i) {
      constexpr int n = 4;
      const std::vector<float> x = maker.make(1, n), a = maker.make(1, n), b = maker.make(1, n);
      double h[n * n], envelope[n], room[2 * n];
      for (int j = 0; j < n * n; ++j) h[j] = i % 3 == 0 ? (j / n == j % n) : 0;
      const auto bounded = [](float v) { return std::fmod(std::fabs(double{v}), 64); };
      for (int j = 0; j < n * n && i % 3 != 0; ++j) {
        const double product = bounded(a[j / n]) * bounded(a[j % n]) + bounded(b[j / n]) * bounded(b[j % n]);
        h[j] = product * std::pow(-1, j / n + j % n);
      }
      for (int j = 0; j < n; ++j) envelope[j] = std::sqrt(h[j * n + j]) * (1 + 0x1p-20);
      search::LossInterval loss[256];
      const search::Block block = {x.data(), n, sim::amax(x.data(), n)};
      const std::vector<mpz_class> units = oracle::matrix_units(h, n);
      const Oracle oracle(row, 1, x);
      const int want = oracle.best([&](int code) {
        const std::vector<mpz_class> r = oracle.residuals(code);
        mpz_class sum = 0;
        for (int j = 0; j < n * n; ++j) sum += units[static_cast<std::size_t>(j)] * r[j / n] * r[j % n];
        return sum;
      });
      ASSERT_EQ(search::hessian_code(space_of(row, 1), block, {h, envelope}, room, loss), want)
          << blocks::describe(row.name, row.scale->name, 1, x);
    }
  }
}

/// A denominator of 8 + 20 bits, the longest there is: amax on and beside multiples of it that end on a midpoint.
TEST(CustomGrid, tensor_scale_is_the_nearest_binary32_to_the_real_quotient) {
  std::mt19937_64 words(15);
  const auto odd = [&words](int bits) { return (words() >> (64 - bits)) | 1 | (std::uint64_t{1} << (bits - 1)); };
  for (int i = 0; i < 200000; ++i) {
    const std::uint64_t top = odd(8), scale_max = odd(20);
    const bool unbiased = i % 2 == 1;
    const mpz_class d = mpz_class(static_cast<unsigned long>(top * scale_max)) * (unbiased ? 16 : 1);
    // amax near m d for a midpoint m of 25 bits: the quotient comes as close to m as 24 bits of amax allow.
    const double m = static_cast<double>(odd(25));
    const auto amax = static_cast<float>(m * d.get_d() / (unbiased ? 17 : 1));
    const float got = sim::tensor_scale(amax, static_cast<double>(top) * (unbiased ? 16 : 1),
                                        static_cast<double>(scale_max), unbiased ? 17 : 1);
    const mpq_class real = mpq_class(amax) * (unbiased ? 17 : 1) / d;
    const mpq_class error = abs(real - mpq_class(got));
    const float down = std::nextafter(got, 0.0f), up = std::nextafter(got, INFINITY);
    const mpq_class below = abs(real - mpq_class(down)), above = abs(real - mpq_class(up));
    const bool even = (__builtin_bit_cast(std::uint32_t, got) & 1) == 0;
    ASSERT_TRUE(even ? error <= below && error <= above : error < below && error < above)
        << top << " " << scale_max << " " << amax;
  }
}

}  // namespace
}  // namespace fp4scope
