// sim/converter.hpp: each way in which another library's converter is not formats::encode, by witnesses; and the table
// itself: one row for a recipe and element, defaults that are on offer, words that say the same as the bits.
#include "sim/converter.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>

namespace fp4scope {
namespace {

using formats::Overflow;
using formats::Rounding;
using sim::Converter;

constexpr float infinity = std::numeric_limits<float>::infinity();

float float_of(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
float below(float x) { return std::nextafter(x, -infinity); }
float above(float x) { return std::nextafter(x, infinity); }

const float nan_of_either_sign[] = {float_of(0x7FC00000), float_of(0xFFC00000)};
const float positive_nan = nan_of_either_sign[0], negative_nan = nan_of_either_sign[1];

/// A row, found once, and the code that it gives in its default or another direction.
class Row {
 public:
  Row(const char* recipe, const char* element) : converter_(sim::find_converter(recipe, element)) {
    if (!converter_) throw std::runtime_error(std::string(recipe) + " has no " + element);
  }
  std::uint32_t operator()(float x) const { return (*this)(x, converter_->rounding, converter_->overflow); }
  std::uint32_t operator()(float x, Rounding r) const { return (*this)(x, r, converter_->overflow); }
  std::uint32_t operator()(float x, Overflow o) const { return (*this)(x, converter_->rounding, o); }
  std::uint32_t operator()(float x, Rounding r, Overflow o) const { return sim::convert(*converter_, x, r, o); }
  std::uint32_t of_double(double x) const {
    return sim::convert(*converter_, x, converter_->rounding, converter_->overflow);
  }
  const Converter& converter() const { return *converter_; }

 private:
  const Converter* converter_;
};

/// Input bits, both codes, both values.
std::string told(const Row& row, float x, std::uint32_t got, std::uint32_t want) {
  const formats::Format& f = row.converter().element;
  std::ostringstream out;
  out << row.converter().recipe << ' ' << f.name << " of 0x" << std::hex << __builtin_bit_cast(std::uint32_t, x)
      << " = " << std::hexfloat << x << " = " << std::defaultfloat << x << ": got 0x" << got << " value "
      << formats::decode_double(f, got) << ", want 0x" << want << " value " << formats::decode_double(f, want);
  return out.str();
}

#define EXPECT_CODE(row, x, want) EXPECT_EQ((row)(x), std::uint32_t{want}) << told(row, x, (row)(x), want)

TEST(Converters, have_one_row_for_a_recipe_and_element_with_defaults_on_offer) {
  for (const Converter& c : sim::all_converters) {
    SCOPED_TRACE(std::string(c.recipe) + " " + c.element.name);
    EXPECT_EQ(sim::find_converter(c.recipe, c.element.name), &c);
    EXPECT_TRUE(formats::find_format(c.element.name));
    EXPECT_TRUE(c.offers(c.rounding) || c.rounding_set == 0);
    EXPECT_NE(std::string_view(c.meaning), "");
  }
  EXPECT_EQ(sim::find_converter("ggml", "e5m2"), nullptr);
  EXPECT_EQ(sim::find_converter("gmgl", "e2m1"), nullptr);
}

TEST(Converters, say_in_words_the_roundings_that_they_offer) {
  const char* const names[] = {"rne", "rna", "rtz", "rup", "rdn", "stochastic"};
  for (const Converter& c : sim::all_converters) {
    if (c.rounding_set == 0) continue;  // a description
    std::istringstream words(c.roundings);
    std::uint8_t set = 0;
    std::string word;
    for (bool first = true; words >> word; first = false) {
      int which = 0;
      while (which < 6 && word != names[which]) ++which;
      ASSERT_LT(which, 6) << c.recipe << ' ' << word;
      set = static_cast<std::uint8_t>(set | 1 << which);
      if (first) {
        EXPECT_EQ(static_cast<int>(c.rounding), which) << c.recipe << ' ' << c.element.name;
      }
    }
    EXPECT_EQ(set, c.rounding_set) << c.recipe << ' ' << c.element.name;
  }
}

TEST(Converters, offer_no_overflow_that_has_no_effect) {
  for (const Converter& c : sim::all_converters) {
    if (std::string_view(c.recipe) == "exact" || c.element.has_nan()) continue;
    EXPECT_FALSE(c.offers(Overflow::nan)) << c.recipe << ' ' << c.element.name;
  }
}

TEST(Converters, give_codes_of_their_format_to_every_kind_of_input) {
  for (const Converter& c : sim::all_converters) {
    for (std::uint32_t high = 0; high < 0x10000; ++high) {
      for (const std::uint32_t low : {0x0000u, 0x0001u, 0x8000u, 0xFFFFu}) {
        const float x = float_of(high << 16 | low);
        ASSERT_LT(sim::convert(c, x, c.rounding, c.overflow), c.element.code_count())
            << c.recipe << ' ' << c.element.name << " of 0x" << std::hex << (high << 16 | low);
      }
    }
  }
}

TEST(Exact, is_encode) {
  for (const formats::Format& f : formats::all_formats) {
    const Row row("exact", f.name);
    for (const float x : {0.0f, -0.0f, 0.25f, -5.0f, 464.0f, 1e30f, infinity, -infinity, positive_nan, negative_nan}) {
      for (const Overflow o : {Overflow::saturate, Overflow::nan}) {
        EXPECT_EQ(row(x, Rounding::down, o), formats::encode(f, x, Rounding::down, o).code) << f.name << ' ' << x;
      }
    }
    EXPECT_EQ(sim::convert(row.converter(), 0.3, Rounding::stochastic, Overflow::saturate, 12345u),
              formats::encode(f, 0.3, Rounding::stochastic, Overflow::saturate, 12345u).code);
    EXPECT_EQ(sim::convert(row.converter(), 0.3f, Rounding::stochastic, Overflow::saturate, 12345u),
              formats::encode(f, 0.3f, Rounding::stochastic, Overflow::saturate, 12345u).code);
  }
}

TEST(Cuda, e2m1_rounds_to_nearest_even_or_toward_zero_and_every_nan_is_6) {
  const Row row("cuda", "e2m1");
  EXPECT_CODE(row, 0.25f, 0x0);
  EXPECT_CODE(row, 0.75f, 0x2);
  EXPECT_CODE(row, 5.0f, 0x6);
  EXPECT_CODE(row, -infinity, 0xF);
  EXPECT_CODE(row, -0.0f, 0x8);
  EXPECT_CODE(row, positive_nan, 0x7);
  EXPECT_CODE(row, negative_nan, 0x7);
  EXPECT_EQ(row(5.99f, Rounding::toward_zero), 0x6u);
  EXPECT_EQ(row.of_double(-std::numeric_limits<double>::quiet_NaN()), 0x7u);
}

TEST(Cuda, fp8_saturates_or_goes_to_nan_and_drops_the_sign_of_a_binary32_nan_alone) {
  const Row e4m3("cuda", "e4m3"), e5m2("cuda", "e5m2");
  EXPECT_CODE(e4m3, 465.0f, 0x7E);
  EXPECT_EQ(e4m3(464.0f, Overflow::nan), 0x7Eu);
  EXPECT_EQ(e4m3(above(464.0f), Overflow::nan), 0x7Fu);
  EXPECT_EQ(e4m3(-infinity, Overflow::nan), 0xFFu);
  EXPECT_EQ(e5m2(infinity, Overflow::nan), 0x7Cu);
  EXPECT_CODE(e4m3, negative_nan, 0x7F);
  EXPECT_CODE(e5m2, negative_nan, 0x7F);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(e4m3.of_double(-nan), 0xFFu);
  EXPECT_EQ(e5m2.of_double(nan), 0x7Eu);
  EXPECT_EQ(e5m2.of_double(-nan), 0xFEu);
  EXPECT_EQ(e5m2.of_double(__builtin_bit_cast(double, 0x7FFC000000000000u)), 0x7Fu);  // two bits of the payload stay
}

TEST(Cuda, takes_a_binary64_in_one_rounding) {
  EXPECT_EQ(Row("cuda", "e2m1").of_double(0.25 + 0x1p-50), 0x1u);     // by way of binary32: the tie 0.25
  EXPECT_EQ(Row("cutlass", "e2m1").of_double(0.25 + 0x1p-50), 0x0u);  // which CUTLASS goes
}

TEST(Cuda, ue8m0_ignores_the_sign_and_has_0_at_the_bottom) {
  const Row row("cuda", "ue8m0");
  EXPECT_CODE(row, 0.0f, 0x00);
  EXPECT_CODE(row, -0.0f, 0x00);
  EXPECT_EQ(row(0.0f, Overflow::nan), 0x00u);
  EXPECT_CODE(row, -3.0f, 0x81);
  EXPECT_EQ(row(-3.0f, Rounding::toward_zero), 0x80u);
  EXPECT_CODE(row, infinity, 0xFE);
  EXPECT_EQ(row(-infinity, Overflow::nan), 0xFFu);
  EXPECT_CODE(row, negative_nan, 0xFF);
  EXPECT_CODE(row, 0x1p-127f, 0x00);
  EXPECT_CODE(row, above(0x1p-127f), 0x01);
}

TEST(Cutlass, a_negative_nan_is_minus_the_largest_value_where_there_is_no_nan) {
  const Row e2m1("cutlass", "e2m1"), e2m3("cutlass", "e2m3"), e3m2("cutlass", "e3m2");
  EXPECT_CODE(e2m1, negative_nan, 0xF);
  EXPECT_CODE(e2m1, positive_nan, 0x7);
  EXPECT_CODE(e2m3, negative_nan, 0x3F);
  EXPECT_CODE(e3m2, negative_nan, 0x3F);
  EXPECT_CODE(Row("cutlass", "e4m3"), negative_nan, 0x7F);
  EXPECT_CODE(Row("cutlass", "e5m2"), negative_nan, 0x7F);
}

TEST(Cutlass, ue4m3_drops_the_sign) {
  const Row row("cutlass", "ue4m3");
  EXPECT_CODE(row, -1.0f, 0x38);
  EXPECT_CODE(row, -448.0f, 0x7E);
  EXPECT_CODE(row, -infinity, 0x7E);
  EXPECT_CODE(row, negative_nan, 0x7F);
}

TEST(Cutlass, ue8m0_takes_inf_to_nan) {
  const Row row("cutlass", "ue8m0");
  EXPECT_CODE(row, infinity, 0xFF);
  EXPECT_CODE(row, -infinity, 0xFF);
  EXPECT_CODE(row, std::numeric_limits<float>::max(), 0xFE);
  EXPECT_CODE(row, -3.0f, 0x81);
}

TEST(MlDtypes, e4m3_never_saturates_and_its_nan_keeps_the_sign) {
  const Row row("ml_dtypes", "e4m3");
  EXPECT_CODE(row, 464.0f, 0x7E);
  EXPECT_CODE(row, above(464.0f), 0x7F);
  EXPECT_CODE(row, -1000.0f, 0xFF);
  EXPECT_CODE(row, negative_nan, 0xFF);
  EXPECT_CODE(row, positive_nan, 0x7F);
  EXPECT_FALSE(row.converter().offers(Overflow::saturate));
}

TEST(MlDtypes, a_nan_without_a_code_is_the_zero_of_the_other_sign) {
  const Row e2m1("ml_dtypes", "e2m1"), e3m2("ml_dtypes", "e3m2");
  EXPECT_CODE(e2m1, positive_nan, 0x8);
  EXPECT_CODE(e2m1, negative_nan, 0x0);
  EXPECT_CODE(e3m2, positive_nan, 0x20);
  EXPECT_CODE(e2m1, infinity, 0x7);
}

TEST(MlDtypes, ue8m0_is_to_nearest_with_all_subnormals_above_the_first_power_in_the_second) {
  const Row row("ml_dtypes", "ue8m0");
  EXPECT_CODE(row, below(1.5f), 0x7F);
  EXPECT_CODE(row, 1.5f, 0x80);
  EXPECT_CODE(row, 0.0f, 0xFF);
  EXPECT_CODE(row, -0.0f, 0xFF);
  EXPECT_CODE(row, -1.0f, 0xFF);
  EXPECT_CODE(row, infinity, 0xFF);
  EXPECT_CODE(row, 0x1p-127f, 0x00);
  EXPECT_CODE(row, above(0x1p-127f), 0x01);  // to nearest it is 2^-127
  EXPECT_CODE(Row("exact", "ue8m0"), above(0x1p-127f), 0x00);
}

TEST(Ggml, e2m1_ties_go_toward_zero_and_minus_0_is_never_written) {
  const Row row("ggml", "e2m1");
  const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  for (std::uint32_t k = 0; k < 7; ++k) {
    EXPECT_CODE(row, ties[k], k);
    EXPECT_CODE(row, above(ties[k]), k + 1);
    EXPECT_CODE(row, -ties[k], k == 0 ? 0 : k | 8);
  }
  for (const float x : {-0.0f, -0.1f, -0.25f}) EXPECT_CODE(row, x, 0x0);
}

TEST(Ggml, e2m1_of_huge_numbers_and_nan_is_0) {
  const Row row("ggml", "e2m1");
  EXPECT_CODE(row, 0x1p24f, 0x7);
  EXPECT_CODE(row, 0x1p28f, 0x0);
  EXPECT_CODE(row, -0x1p28f, 0x0);
  EXPECT_CODE(row, infinity, 0x0);
  EXPECT_CODE(row, positive_nan, 0x0);
}

TEST(Ggml, ue4m3_has_its_four_deviations) {
  const Row row("ggml", "ue4m3"), nearest("exact", "ue4m3");
  EXPECT_CODE(row, 1.0625f, 0x39);  // half up
  EXPECT_CODE(nearest, 1.0625f, 0x38);
  EXPECT_CODE(row, 256.0f, 0x7E);  // the last binade is its largest value
  EXPECT_CODE(row, 300.0f, 0x7E);
  EXPECT_CODE(row, 248.0f, 0x7E);  // what rounds up into it, too
  EXPECT_CODE(row, below(248.0f), 0x77);
  EXPECT_CODE(row, 0.0155f, 0x07);  // no carry out of the subnormals
  EXPECT_CODE(nearest, 0.0155f, 0x08);
  EXPECT_CODE(row, 0x1p-6f, 0x08);
  EXPECT_CODE(row, 0x1p-10f, 0x01);
  EXPECT_CODE(row, below(0x1p-10f), 0x01);  // x * 512 + 0.5 rounds to 1 in binary32
  EXPECT_CODE(row, below(below(0x1p-10f)), 0x00);
  for (const float x : {-1.0f, -below(0x1p-10f), -0.0f, positive_nan, negative_nan, -infinity})
    EXPECT_CODE(row, x, 0x00);
  EXPECT_CODE(row, infinity, 0x7E);
}

TEST(Torchao, a_nan_is_rounded_as_a_number) {
  const Row e2m1("torchao", "e2m1"), e2m3("torchao", "e2m3"), e3m2("torchao", "e3m2");
  EXPECT_CODE(e2m1, float_of(0x7F800001), 0x2);
  EXPECT_CODE(e2m1, float_of(0x7FA00000), 0x2);  // the tie, to even
  EXPECT_CODE(e2m1, float_of(0x7FA00001), 0x3);
  EXPECT_CODE(e2m1, positive_nan, 0x3);
  EXPECT_CODE(e2m1, float_of(0x7FE00000), 0x4);
  EXPECT_CODE(e2m1, float_of(0xFFFFFFFF), 0xC);
  EXPECT_CODE(e2m3, float_of(0x7F800001), 0x08);
  EXPECT_CODE(e2m3, float_of(0xFFFFFFFF), 0x30);
  EXPECT_CODE(e3m2, float_of(0x7F800001), 0x0C);
  EXPECT_CODE(e2m1, infinity, 0x7);
  EXPECT_CODE(e2m1, -0.0f, 0x8);
}

TEST(FourOverSix, up_to_6_only_minus_0_differs) {
  const Row row("fouroversix", "e2m1"), exact("exact", "e2m1");
  EXPECT_CODE(row, -0.0f, 0x0);
  EXPECT_CODE(row, -0.25f, 0x8);
  for (const float x : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f, -0.1f, -6.0f})
    EXPECT_CODE(row, x, exact(x));
}

TEST(FourOverSix, above_7_the_next_step_is_written_as_minus_0) {
  const Row row("fouroversix", "e2m1");
  EXPECT_CODE(row, below(7.0f), 0x7);
  EXPECT_CODE(row, 7.0f, 0x8);  // 8, to even
  EXPECT_CODE(row, -7.0f, 0x8);
  EXPECT_CODE(row, 9.0f, 0x8);
  EXPECT_CODE(row, above(9.0f), 0x8);  // 10
  EXPECT_CODE(row, 11.0f, 0x9);        // 12
  EXPECT_CODE(row, -12.0f, 0x9);
  EXPECT_CODE(row, 16.0f, 0xA);
  EXPECT_CODE(row, 126.0f, 0xF);
  EXPECT_CODE(row, 127.0f, 0x0);  // 128 has five bits
}

TEST(ModelOpt, nvfp4_writes_minus_0_as_0) {
  const Row row("modelopt", "e2m1"), exact("exact", "e2m1");
  EXPECT_CODE(row, -0.0f, 0x0);
  EXPECT_CODE(row, below(-0.0f), 0x8);
  EXPECT_CODE(row, negative_nan, 0x7);
  for (const float x : {0.75f, 1.75f, 3.5f, -3.5f}) EXPECT_CODE(row, x, exact(x));
}

TEST(ModelOpt, mxfp4_writes_0_and_nan_as_minus_0_and_sends_three_ties_toward_zero) {
  const Row row("modelopt_mxfp4", "e2m1");
  for (const float x : {0.0f, -0.0f, positive_nan, negative_nan}) EXPECT_CODE(row, x, 0x8);
  EXPECT_CODE(row, 0x1p-149f, 0x0);
  const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  for (std::uint32_t k = 0; k < 7; ++k) {
    EXPECT_CODE(row, ties[k], k);
    EXPECT_CODE(row, above(ties[k]), k + 1);
    EXPECT_CODE(row, below(ties[k]), k);
    EXPECT_CODE(row, -ties[k], k | 8);
  }
  EXPECT_CODE(row, -infinity, 0xF);
}

TEST(Qwantize, sends_three_ties_toward_zero_and_writes_minus_0_and_nan_as_0) {
  const Row row("qwantize", "e2m1");
  EXPECT_CODE(row, 0.75f, 0x1);
  EXPECT_CODE(row, 1.75f, 0x3);
  EXPECT_CODE(row, -3.5f, 0xD);
  EXPECT_CODE(row, -0.0f, 0x0);
  EXPECT_CODE(row, -0.1f, 0x8);
  EXPECT_CODE(row, positive_nan, 0x0);
}

TEST(Microxcaling, rounds_half_away_by_default_and_minus_0_to_0) {
  const Row row("microxcaling", "e2m1");
  EXPECT_CODE(row, 0.25f, 0x1);
  EXPECT_CODE(row, -2.5f, 0xD);
  EXPECT_CODE(row, 5.0f, 0x7);
  EXPECT_CODE(row, -0.0f, 0x0);
  EXPECT_CODE(row, -0.1f, 0x8);
  EXPECT_EQ(row(0.25f, Rounding::nearest_even), 0x0u);
  EXPECT_EQ(row(0.75f, Rounding::nearest_even), 0x2u);
  EXPECT_EQ(row(5.9f, Rounding::toward_zero), 0x6u);
}

TEST(Microxcaling, adds_one_half_in_binary32_so_that_the_number_below_the_least_half_goes_up) {
  const Row e2m1("microxcaling", "e2m1"), e5m2("microxcaling", "e5m2");
  EXPECT_CODE(e2m1, below(0.25f), 0x1);
  EXPECT_CODE(e2m1, below(below(0.25f)), 0x0);
  EXPECT_CODE(e2m1, -below(0.25f), 0x9);
  EXPECT_EQ(e2m1(below(0.25f), Rounding::nearest_even), 0x1u);
  EXPECT_EQ(e2m1(0.25f, Rounding::nearest_even), 0x0u);  // so that its even isn't monotone
  EXPECT_EQ(e2m1(below(0.25f), Rounding::toward_zero), 0x0u);
  EXPECT_CODE(e5m2, below(0x1p-17f), 0x01);
}

TEST(Microxcaling, rtz_loses_a_bit_where_a_binary32_logarithm_reaches_the_next_integer) {
  const Row e2m1("microxcaling", "e2m1"), e4m3("microxcaling", "e4m3");
  EXPECT_EQ(e2m1(below(8.0f), Rounding::toward_zero), 0x6u);         // 4, not 6
  EXPECT_EQ(e2m1(below(below(8.0f)), Rounding::toward_zero), 0x7u);  // 6
  EXPECT_EQ(e2m1(below(4.0f), Rounding::toward_zero), 0x5u);         // its logarithm stays below 2
  EXPECT_EQ(e4m3(below(8.0f), Rounding::toward_zero), 0x4Eu);        // 7, not 7.5
  EXPECT_EQ(e4m3(-below(8.0f), Rounding::toward_zero), 0xCEu);
  EXPECT_CODE(e4m3, below(8.0f), 0x50);
}

}  // namespace
}  // namespace fp4scope
