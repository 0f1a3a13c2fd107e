// How often another library's converter differs from encode, over all 2^32 binary32 patterns: exact counts, by class.
// Where a count stands in a library's own analysis it is a check of the row; the others were measured here, and a test
// keeps them. What is said of encode holds of the recipe cuda, whose rows are encode's but for a few NaNs and UE8M0.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string_view>

#include "sim/converter.hpp"

// The widest vectors that the processor has, chosen when the program starts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FP4SCOPE_CLONES __attribute__((noinline, flatten, target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FP4SCOPE_CLONES
#endif

namespace fp4scope {
namespace {

using formats::Overflow;
using formats::Rounding;
using sim::Converter;

/// A row of the table in one direction against encode in another: all known when this is compiled, so that the loop is
/// one of vectors.
struct Pair {
  std::size_t row;
  Rounding mode;
  Overflow policy;
  Rounding encode_mode;
  Overflow encode_policy;
};

constexpr std::size_t row_of(std::string_view recipe, std::string_view element) {
  return static_cast<std::size_t>(sim::find_converter(recipe, element) - sim::all_converters);
}

/// A row in its default direction against encode in another.
constexpr Pair against(std::string_view recipe, std::string_view element, Rounding mode,
                       Overflow policy = Overflow::saturate) {
  const Converter& c = *sim::find_converter(recipe, element);
  return {row_of(recipe, element), c.rounding, c.overflow, mode, policy};
}

/// Both in this direction, or both in the row's.
constexpr Pair both(std::string_view recipe, std::string_view element, Rounding mode) {
  const Converter& c = *sim::find_converter(recipe, element);
  return {row_of(recipe, element), mode, c.overflow, mode, c.overflow};
}
constexpr Pair both(std::string_view recipe, std::string_view element) {
  return both(recipe, element, sim::find_converter(recipe, element)->rounding);
}

template <Pair P>
FP4SCOPE_CLONES std::uint32_t count_run(std::uint32_t first, std::uint32_t count) {
  constexpr Converter row = sim::all_converters[P.row];
  constexpr formats::FloatEncoder encoder = formats::float_encoder(row.element, P.encode_mode, P.encode_policy);
  std::uint32_t different = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t bits = first + i;
    different += sim::convert(row, __builtin_bit_cast(float, bits), P.mode, P.policy) != encoder(bits) ? 1 : 0;
  }
  return different;
}

/// Patterns first .. end - 1 whose codes differ.
template <Pair P>
std::int64_t differing(std::int64_t first, std::int64_t end) {
  constexpr std::int64_t run = 1 << 20;
  std::int64_t total = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : total)
  for (std::int64_t at = first; at < end; at += run) {
    total += count_run<P>(static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(end - at < run ? end - at : run));
  }
  return total;
}

/// Differences among the zeros, the positive and the negative finite numbers, the two Infs, the NaNs of either sign.
struct Counts {
  std::int64_t zero = 0, negative_zero = 0, positive = 0, negative = 0, infinite = 0, nan = 0, negative_nan = 0;
  bool operator==(const Counts&) const = default;
};

void PrintTo(const Counts& c, std::ostream* out) {
  *out << "{zero " << c.zero << ", -0 " << c.negative_zero << ", positive " << c.positive << ", negative " << c.negative
       << ", Inf " << c.infinite << ", NaN " << c.nan << ", -NaN " << c.negative_nan << '}';
}

template <Pair P>
Counts counts() {
  constexpr std::int64_t minus = 0x80000000, infinity = 0x7F800000;
  const auto start = std::chrono::steady_clock::now();
  Counts c = {};
  c.zero = differing<P>(0, 1);
  c.negative_zero = differing<P>(minus, minus + 1);
  c.positive = differing<P>(1, infinity);
  c.negative = differing<P>(minus + 1, minus + infinity);
  c.infinite = differing<P>(infinity, infinity + 1) + differing<P>(minus + infinity, minus + infinity + 1);
  c.nan = differing<P>(infinity + 1, minus);
  c.negative_nan = differing<P>(minus + infinity + 1, 2 * minus);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%s %s: %.2f s\n", sim::all_converters[P.row].recipe, sim::all_converters[P.row].element.name,
              seconds.count());
  return c;
}

constexpr std::int64_t nans = 8388607;  // of one sign

TEST(Cutlass, e2m1_differs_in_the_negative_nans_alone_and_e4m3_nowhere) {
  EXPECT_EQ((counts<both("cutlass", "e2m1")>()), (Counts{.negative_nan = nans}));
  EXPECT_EQ((counts<both("cutlass", "e4m3")>()), (Counts{}));
}

TEST(Cutlass, ue4m3_differs_in_every_negative_number_that_is_not_rounded_to_0) {
  const std::int64_t above_least_half = 0x7F800000 - 0x3A800001;
  EXPECT_EQ((counts<both("cutlass", "ue4m3")>()), (Counts{.negative = above_least_half, .infinite = 1}));
}

TEST(MlDtypes, e4m3_differs_in_the_negative_nans_alone) {
  EXPECT_EQ((counts<both("ml_dtypes", "e4m3")>()), (Counts{.negative_nan = nans}));
}

TEST(MlDtypes, e2m1_differs_in_the_nans_alone) {
  EXPECT_EQ((counts<both("ml_dtypes", "e2m1")>()), (Counts{.nan = nans, .negative_nan = nans}));
}

TEST(MlDtypes, ue8m0_differs_from_the_nearest_in_the_subnormals_nearer_to_the_first_power) {
  EXPECT_EQ((counts<both("ml_dtypes", "ue8m0")>()), (Counts{.positive = 0x5FFFFF - 0x400000}));
}

TEST(Torchao, e2m1_differs_in_the_nans_alone) {
  EXPECT_EQ((counts<both("torchao", "e2m1")>()), (Counts{.nan = nans, .negative_nan = nans}));
}

TEST(ModelOpt, nvfp4_differs_in_minus_0_alone) {
  EXPECT_EQ((counts<both("modelopt", "e2m1")>()), (Counts{.negative_zero = 1}));
}

TEST(ModelOpt, mxfp4_differs_in_three_ties_of_either_sign_in_0_and_in_the_nans) {
  EXPECT_EQ((counts<both("modelopt_mxfp4", "e2m1")>()),
            (Counts{.zero = 1, .positive = 3, .negative = 3, .nan = nans, .negative_nan = nans}));
}

TEST(Qwantize, differs_in_three_ties_of_either_sign_in_minus_0_and_in_the_nans) {
  EXPECT_EQ((counts<both("qwantize", "e2m1")>()),
            (Counts{.negative_zero = 1, .positive = 3, .negative = 3, .nan = nans, .negative_nan = nans}));
}

// Measured: from 7 on all differ but for those whose code is by chance 7, or -7's. NaN is undefined there.
TEST(FourOverSix, differs_in_minus_0_and_from_7_on) {
  constexpr Pair pair = both("fouroversix", "e2m1");
  constexpr std::int64_t seven = 0x40E00000, infinity = 0x7F800000, minus = 0x80000000;
  EXPECT_EQ(differing<pair>(0, seven), 0);
  EXPECT_EQ(differing<pair>(minus, minus + 1), 1);
  EXPECT_EQ(differing<pair>(minus + 1, minus + seven), 0);
  EXPECT_EQ(differing<pair>(seven, infinity), 987758592);
  EXPECT_EQ(differing<pair>(minus + seven, minus + infinity), 920649728);
}

// Measured. Small negative numbers, -0 included, are 0 and not 8 = -0; huge numbers have other codes than 7, and from
// 2^28 on the code 0.
TEST(Ggml, e2m1_differs_in_three_ties_in_negative_zeros_and_in_huge_numbers) {
  constexpr Pair pair = both("ggml", "e2m1");
  constexpr std::int64_t quarter = 0x3E800000, huge = 0x4B800000, end = 0x80000000, minus = 0x80000000;
  EXPECT_EQ(differing<pair>(0, huge), 3);  // up to 2^24
  EXPECT_EQ(differing<pair>(minus, minus + quarter + 1), quarter + 1);
  EXPECT_EQ(differing<pair>(minus + quarter + 1, minus + huge), 3);
  EXPECT_EQ(differing<pair>(huge, end), 855638014 + 1 + nans);  // and Inf and the NaNs
  EXPECT_EQ(differing<pair>(minus + huge, minus + end), 855638014 + 1 + nans);
}

TEST(Ggml, ue4m3_differs_in_7340093_positive_numbers_and_the_nans) {
  EXPECT_EQ((counts<against("ggml", "ue4m3", Rounding::nearest_even)>()),
            (Counts{.positive = 7340093, .nan = nans, .negative_nan = nans}));
}

TEST(Microxcaling, differs_in_minus_0_and_in_the_number_below_the_least_half) {
  const Counts expected = {.negative_zero = 1, .positive = 1, .negative = 1};
  EXPECT_EQ((counts<both("microxcaling", "e2m1", Rounding::nearest_away)>()), expected);
  EXPECT_EQ((counts<both("microxcaling", "e2m1", Rounding::nearest_even)>()), expected);
}

// Measured from 2^-10 to 2^10; below, both codes are 0, and above, the largest.
TEST(Microxcaling, rtz_differs_in_few_numbers_just_below_powers_of_two) {
  constexpr std::int64_t first = 0x3A800000, end = 0x44800000, minus = 0x80000000;
  EXPECT_EQ((differing<both("microxcaling", "e2m1", Rounding::toward_zero)>(first, end)), 1);
  EXPECT_EQ((differing<both("microxcaling", "e4m3", Rounding::toward_zero)>(first, end)), 16);
  EXPECT_EQ((differing<both("microxcaling", "e4m3", Rounding::toward_zero)>(minus + first, minus + end)), 16);
}

}  // namespace
}  // namespace fp4scope
