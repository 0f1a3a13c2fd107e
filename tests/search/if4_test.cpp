// search/if4.hpp: the best scale and element type of an IF4 block, against all 126 codes of both types in integers.
//
// The oracle takes everything times 7: magnitudes 7 |x|, E2M1 levels 7 q, INT4 levels 6 k (its values are 6 k / 7).
#include "search/if4.hpp"

#include <gtest/gtest.h>

#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using search::Select;

/// Twice the levels, times 7.
constexpr int twice_levels[2][8] = {{0, 7, 14, 21, 28, 42, 56, 84}, {0, 12, 24, 36, 48, 60, 72, 84}};

class Oracle {
 public:
  Oracle(float tensor_scale, const std::vector<float>& x) : tensor_scale_(oracle::float_units(tensor_scale)) {
    for (const float v : x) magnitudes_.push_back(7 * oracle::float_units(v) << 128);
  }

  /// The errors of a code in units of 2^-277 / 7.
  std::vector<mpz_class> errors(bool integer, int code) const {
    const mpz_class step = tensor_scale_ * oracle::scale_units(oracle::scaled_format("nvfp4"), code);
    std::vector<mpz_class> e;
    for (const mpz_class& magnitude : magnitudes_) {
      mpz_class least = magnitude, here;
      for (int k = 1; k < 8; ++k) {
        here = magnitude - twice_levels[integer][k] * step;
        const bool beyond = here < 0;
        here = abs(here);
        if (here < least) least = here;
        if (beyond) break;  // the levels ascend
      }
      e.push_back(least);
    }
    return e;
  }

  mpz_class loss(Select select, bool integer, int code) const {
    mpz_class loss = 0;
    for (const mpz_class& e : errors(integer, code)) {
      if (select == Select::mse) loss += e * e;
      if (select == Select::mae) loss += e;
      if (select == Select::absmax) loss = std::max(loss, e);
    }
    return loss;
  }

  bool zero() const {
    return std::all_of(magnitudes_.begin(), magnitudes_.end(), [](const mpz_class& m) { return m == 0; });
  }

  /// Of equal losses the lower code, then E2M1.
  int best() const {
    if (zero()) return 0;
    int best = 0;
    mpz_class least = -1;
    for (int code = 1; code <= 126; ++code) {
      for (const bool integer : {false, true}) {
        const mpz_class here = loss(Select::mse, integer, code);
        if (least >= 0 && here >= least) continue;
        least = here;
        best = integer ? code | 0x80 : code;
      }
    }
    return best;
  }

 private:
  mpz_class tensor_scale_;
  std::vector<mpz_class> magnitudes_;
};

search::SelectingSpace spaces_of(float t) { return search::make_selecting_space(formats::if4, t, sim::six_rule); }

search::Block block_of(const std::vector<float>& x) {
  const int n = static_cast<int>(x.size());
  return {x.data(), n, sim::amax(x.data(), n)};
}

std::string losses(const Oracle& o, Select select, int got, int want) {
  char text[160];
  const auto loss = [&](int byte) {
    return oracle::approximate(o.loss(select, byte >= 0x80, byte & 0x7F), select == Select::mse ? -554 : -277);
  };
  std::snprintf(text, sizeof text, ": got 0x%02X with loss %.17g, want 0x%02X with loss %.17g", got, loss(got), want,
                loss(want));
  return text;
}

/// The byte of both searches, compared with each other and with the definition.
int expect_best(const char* family, float t, const std::vector<float>& x) {
  const Oracle o(t, x);
  const search::SelectingSpace spaces = spaces_of(t);
  const int got = search::selecting_sse_code(spaces, block_of(x)), want = o.best();
  const int twin = search::selecting_sse_code_ref(spaces, block_of(x));
  EXPECT_EQ(got, want) << blocks::describe("if4", family, t, x) << losses(o, Select::mse, got, want);
  EXPECT_EQ(twin, want) << "the slow twin, " << blocks::describe("if4", family, t, x)
                        << losses(o, Select::mse, twin, want);
  return got;
}

TEST(If4, finds_the_best_of_126_codes_and_two_types_on_every_family) {
  int compared = 0, integers = 0;
  for (const char* midpoints_of : {"nvfp4", "nvint4"}) {
    blocks::Maker maker(midpoints_of, 61);
    for (const blocks::FamilyRow& family : blocks::all_families) {
      for (const float t : blocks::tensor_scales) {
        for (int i = 0; i < 8 && !testing::Test::HasFailure(); ++i, ++compared) {
          integers += expect_best(family.name, t, maker.make(family.family, t, i % 2 ? 16 : 6)) >= 0x80;
        }
      }
    }
  }
  EXPECT_GE(compared, 2000);
  EXPECT_GT(integers, compared / 10);
  EXPECT_LT(integers, compared - compared / 10);
}

TEST(If4, stays_exact_for_tiles_of_256) {
  blocks::Maker maker("nvfp4", 62);
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (int i = 0; i < 3 && !testing::Test::HasFailure(); ++i) {
      const float t = blocks::tensor_scales[i];
      expect_best(family.name, t, maker.make(family.family, t, 256));
    }
  }
}

/// The error of a magnitude up to 6 at scale 1, roughly: to steer the test below.
double rough_error(bool integer, double x) {
  double least = x;
  for (const int twice : twice_levels[integer]) least = std::min(least, std::fabs(x - twice / 14.0));
  return least;
}

/// 1.5 is E2M1's, 12 / 7 is INT4's: elements of the two, so that the losses of 255 of them nearly agree.
std::vector<float> balanced_block(blocks::Maker& maker, Select select) {
  std::vector<float> x(256);
  double difference = 0;
  for (std::size_t k = 0; k < x.size(); ++k) {
    x[k] = k < 64 ? static_cast<float>(6 * maker.uniform()) : difference > 0 ? 12.0f / 7 : 1.5f;
    if (k == 1) continue;
    const double a = rough_error(true, x[k]), b = rough_error(false, x[k]);
    difference += select == Select::mse ? a * a - b * b : a - b;
  }
  return x;
}

/// One element moves the losses of a tile across each other: on both sides of that float the type is right, though
/// they differ by less than 2^-24 of one of 256 terms.
TEST(If4, tells_types_apart_by_one_float_in_a_tile_of_256) {
  blocks::Maker maker("nvfp4", 63);
  int crossings = 0;
  for (int i = 0; i < 40 && !testing::Test::HasFailure(); ++i) {
    const Select select = i % 2 ? Select::mse : Select::mae;
    std::vector<float> x = balanced_block(maker, select);
    const auto integer_wins = [&](std::uint32_t bits) {
      x[1] = __builtin_bit_cast(float, bits);
      const Oracle o(1, x);
      return o.loss(select, true, 0x38) < o.loss(select, false, 0x38);
    };
    auto low = __builtin_bit_cast(std::uint32_t, 1.5f), high = __builtin_bit_cast(std::uint32_t, 12.0f / 7);
    if (integer_wins(low) == integer_wins(high)) continue;
    ++crossings;
    while (high - low > 1) {
      const std::uint32_t middle = low + (high - low) / 2;
      (integer_wins(middle) ? high : low) = middle;
    }
    for (const std::uint32_t bits : {low, high}) {
      const int want = integer_wins(bits) ? 0xB8 : 0x38;
      EXPECT_EQ(search::select_element(spaces_of(1), block_of(x), select, 0x38), want)
          << blocks::describe("if4", "crossing", 1, x);
    }
  }
  EXPECT_GT(crossings, 20);
}

TEST(If4, selects_the_type_of_less_error_by_each_criterion) {
  int compared = 0, integers = 0, ties = 0;
  blocks::Maker maker("nvfp4", 64);
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (const float t : blocks::tensor_scales) {
      for (int i = 0; i < 12 && !testing::Test::HasFailure(); ++i) {
        const std::vector<float> x = maker.make(family.family, t, i % 4 == 3 ? 64 : 16);
        const Oracle o(t, x);
        const int code = 1 + maker.below(126);
        for (const Select select : {Select::mse, Select::mae, Select::absmax}) {
          const int order = cmp(o.loss(select, true, code), o.loss(select, false, code));
          const int want = order < 0 ? code | 0x80 : code;
          const int got = search::select_element(spaces_of(t), block_of(x), select, code);
          EXPECT_EQ(got, want) << blocks::describe("if4", family.name, t, x) << losses(o, select, got, want);
          ++compared;
          integers += order < 0;
          ties += order == 0;
        }
      }
    }
  }
  EXPECT_GT(integers, compared / 20);
  EXPECT_GT(ties, compared / 20);
}

TEST(If4, ties_go_to_e2m1) {
  // Multiples of 6 are in both grids; 0 is; what clips errs alike at both.
  const std::vector<float> ties[] = {{6, 0, -6, 0}, {0, -0.0f, 0, 0}, {7, -7, 100, 6}, {0x1p-149f, 0, 0, 0}};
  for (const auto& x : ties) {
    for (const Select select : {Select::mse, Select::mae, Select::absmax}) {
      EXPECT_EQ(search::select_element(spaces_of(1), block_of(x), select, 0x38), 0x38)
          << blocks::describe("if4", "tie", 1, x);
    }
  }
  EXPECT_EQ(search::select_element(spaces_of(1), block_of({3, 0}), Select::mse, 0), 0);  // code 0 has no type
}

/// 6 is 6 * 1 in both types, and 4 * 1.5, 3 * 2, 2 * 3, ... at higher codes, all without error.
TEST(If4, ties_go_to_the_lower_code) {
  const std::vector<float> same = {6, -6, 6, 0};
  EXPECT_EQ(expect_best("tie", 1, same), 0x38);
  EXPECT_EQ(expect_best("zero", 1, {0, -0.0f}), 0);
}

/// INT4 at scale 7/8 errs by nothing on multiples of 3/4, where E2M1 errs at every scale.
TEST(If4, integer_blocks_are_int4_at_their_own_scale) {
  const std::vector<float> x = {5.25f, -4.5f, 3.75f, -3, 2.25f, 1.5f, -0.75f, 0};  // 7 ... 0 times 3/4
  const int got = expect_best("integers", 1, x);
  EXPECT_EQ(got, 0xB6);  // 7/8 = 1.75 / 2
  EXPECT_EQ(Oracle(1, x).loss(Select::mse, true, 0x36), 0);
}

TEST(If4, a_tensor_s_start_does_not_change_what_is_found) {
  blocks::Maker maker("nvfp4", 65);
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (int i = 0; i < 20; ++i) {
      const std::vector<float> x = maker.make(family.family, 1, 16);
      const int want = search::selecting_sse_code_ref(spaces_of(1), block_of(x));
      for (const sim::ScaleRule start : {sim::ScaleRule{1e-30, formats::Rounding::up}, sim::seven_rule,
                                         sim::ScaleRule{1e30, formats::Rounding::toward_zero}}) {
        const search::SelectingSpace spaces = search::make_selecting_space(formats::if4, 1, start);
        ASSERT_EQ(search::selecting_sse_code(spaces, block_of(x)), want) << blocks::describe("if4", family.name, 1, x);
      }
    }
  }
}

}  // namespace
}  // namespace fp4scope
