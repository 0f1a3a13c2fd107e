// search/macro.hpp against its definition in integers: factors, scales, and the search's choice among squared errors.
#include "search/macro.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

const bool one_thread = (omp_set_num_threads(1), true);  // one row is no work for two

using oracle::float_units;

/// Some columns of a row, magnitudes in units of 2^-150, scales 2^(code - 127) likewise. Finite data.
class MacroOracle {
 public:
  MacroOracle(const std::vector<float>& x, int block, int divisor) : block_(block), divisor_(divisor) {
    for (const float v : x) magnitude_.push_back(2 * float_units(v));
  }

  /// The first 8 bits after the leading one of 6 / amax: the largest m with (256 + m) amax <= 256 * 6 * 2^k.
  int mantissa() const {
    const mpz_class amax = *std::max_element(magnitude_.begin(), magnitude_.end());
    if (amax == 0) return 0;
    mpz_class top = mpz_class(6) << 500;  // the same significand
    while (top >= 2 * amax) top >>= 1;
    return static_cast<int>(mpz_class(256 * top / amax).get_si()) - 256;
  }

  /// The least scale at which `divisor` reaches the block's f amax.
  int scale(int m, int first) const {
    mpz_class amax = 0;
    for (int i = first; i < first + block_; ++i) amax = std::max(amax, magnitude_[static_cast<std::size_t>(i)]);
    int code = 0;
    while (code < 254 && 256 * divisor_ * unit(code) < (256 + m) * amax) ++code;
    return amax == 0 ? 0 : code;
  }

  /// The sum of (512 f |x| - 512 value f)^2.
  mpz_class energy(int m) const {
    static const int twice[] = {0, 1, 2, 3, 4, 6, 8, 12};
    mpz_class sum = 0;
    for (int first = 0; first < size(); first += block_) {
      const mpz_class half = 256 * unit(scale(m, first));
      for (int i = first; i < first + block_; ++i) {
        const mpz_class x = 2 * (256 + m) * magnitude_[static_cast<std::size_t>(i)];
        mpz_class least = x;
        for (const int level : twice) least = std::min(least, mpz_class(abs(mpz_class(x - level * half))));
        sum += least * least;
      }
    }
    return sum;
  }

  int best_mantissa() const {
    int best = 0;
    for (int m = 16; m < 256; m += 16) {
      if (energy(m) * ((256 + best) * (256 + best)) < energy(best) * ((256 + m) * (256 + m))) best = m;
    }
    return best;
  }

  int size() const { return static_cast<int>(magnitude_.size()); }

 private:
  static mpz_class unit(int code) { return mpz_class(1) << static_cast<unsigned>(code + 23); }

  int block_, divisor_;
  std::vector<mpz_class> magnitude_;
};

search::SearchResult search_one(const char* method, int block, const std::vector<float>& x) {
  search::SearchTask task = {&formats::mxfp4, search::find_method("mxfp4", method)};
  task.block = block;
  return search::search_scales(task, x.data(), 1, static_cast<std::int64_t>(x.size()));
}

/// Compares factor and scales with the definition; the factor.
int expect_the_definition(const char* method, int block, const char* family, const std::vector<float>& x) {
  const MacroOracle macro(x, block, std::string_view(method) == "macro_oas_search" ? 7 : 6);
  const int want = std::string_view(method) == "macro" ? macro.mantissa() : macro.best_mantissa();
  const search::SearchResult got = search_one(method, block, x);
  EXPECT_EQ(got.macro.size(), 1u);
  EXPECT_EQ(int{got.macro.at(0)}, want) << method << ' ' << blocks::describe("mxfp4", family, 1, x) << " energies "
                                        << macro.energy(got.macro.at(0)) << ", " << macro.energy(want);
  for (int first = 0; first < macro.size(); first += block) {
    EXPECT_EQ(int{got.scales.at(static_cast<std::size_t>(first / block))}, macro.scale(want, first))
        << method << ' ' << blocks::describe("mxfp4", family, 1, x) << " at " << first;
  }
  return want;
}

/// Columns of several families and magnitudes beside one another, as rows have them.
std::vector<float> columns_of(blocks::Maker& maker, blocks::Family family, int n) {
  std::vector<float> x = maker.make(family, 1, n);
  for (int i = 0; i < n; i += 16) {
    for (int k = i; k < i + 16; ++k) {
      const float scaled = std::ldexp(x[static_cast<std::size_t>(k)], -(i / 16 % 3));
      x[static_cast<std::size_t>(k)] = scaled;
    }
  }
  return x;
}

TEST(Macro, factor_and_scales_are_their_definition_on_every_family) {
  blocks::Maker maker("mxfp4", 61);
  for (int i = 0; i < 60; ++i) {
    for (const blocks::FamilyRow& family : blocks::all_families) {
      const int block = i % 3 == 0 ? 32 : i % 3 == 1 ? 16 : 64;
      expect_the_definition("macro", block, family.name, columns_of(maker, family.family, i % 2 ? 128 : 64));
    }
    if (HasFailure()) return;
  }
}

TEST(Macro, search_finds_the_least_squared_error_and_the_lowest_factor_among_equals_on_every_family) {
  blocks::Maker maker("mxfp4", 62);
  int kinds[16] = {};
  for (int i = 0; i < 6; ++i) {
    for (const blocks::FamilyRow& family : blocks::all_families) {
      const std::vector<float> x = columns_of(maker, family.family, i % 2 ? 32 : 64);
      const char* const method = i % 3 == 2 ? "macro_oas_search" : "macro_search";
      ++kinds[expect_the_definition(method, i % 2 ? 16 : 32, family.name, x) / 16];
    }
    if (HasFailure()) return;
  }
  for (int j = 1; j < 16; j += 7) EXPECT_GT(kinds[j], 0) << j;
}

/// 1, 2 and 4 are levels at f = 1 and, times 1.5, at f = 1.5: the same values, the same errors of what is beside them.
/// A sum that rounds gives them in different last bits.
TEST(Macro, search_sends_constructed_ties_of_different_sums_to_the_lowest_factor) {
  blocks::Maker maker("mxfp4", 63);
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    std::vector<float> x(32, 4);
    for (std::size_t k = 1; k < x.size(); ++k) {
      const auto level = static_cast<float>(1 << maker.below(2));
      x[k] = level * static_cast<float>(1 + maker.uniform() * 0x1p-8);
    }
    EXPECT_EQ(expect_the_definition("macro_search", 32, "tie", x), 0);
    const MacroOracle macro(x, 32, 6);
    EXPECT_EQ(macro.energy(0) * (384 * 384), macro.energy(128) * (256 * 256));
  }
}

TEST(Macro, blocks_of_the_next_128_columns_have_a_factor_of_their_own_and_the_last_may_be_short) {
  blocks::Maker maker("mxfp4", 64);
  std::vector<float> x = maker.make(blocks::Family::normal, 1, 160);
  for (std::size_t i = 128; i < 160; ++i) x[i] *= 1.37f;
  const search::SearchResult got = search_one("macro", 32, x);
  ASSERT_EQ(got.macro.size(), 2u);
  const std::vector<float> first(x.begin(), x.begin() + 128), last(x.begin() + 128, x.end());
  EXPECT_EQ(got.macro[0], search_one("macro", 32, first).macro.at(0));
  EXPECT_EQ(got.macro[1], search_one("macro", 32, last).macro.at(0));
  EXPECT_NE(got.macro[0], got.macro[1]);
}

TEST(Macro, a_block_that_is_not_finite_has_no_part_in_the_factor) {
  blocks::Maker maker("mxfp4", 65);
  const std::vector<float> x = maker.make(blocks::Family::normal, 1, 128), rest(x.begin() + 32, x.end());
  for (const char* const method : {"macro", "macro_search"}) {
    for (const float bad : {NAN, INFINITY}) {
      std::vector<float> with_bad = x;
      with_bad[7] = bad;
      const search::SearchResult got = search_one(method, 32, with_bad), want = search_one(method, 32, rest);
      EXPECT_EQ(got.macro, want.macro) << method;
      EXPECT_EQ(int{got.scales[0]}, 0xFF);
      EXPECT_TRUE(std::equal(want.scales.begin(), want.scales.end(), got.scales.begin() + 1)) << method;
    }
  }
  EXPECT_EQ(search_one("macro", 32, std::vector<float>(32, NAN)).macro.at(0), 0);
}

}  // namespace
}  // namespace fp4scope
