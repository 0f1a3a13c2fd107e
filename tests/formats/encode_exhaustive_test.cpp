// All 2^32 binary32 patterns against the table of thresholds that MPFR proves (tests/oracle/thresholds.hpp): between
// two thresholds the code is one number, so that a run of patterns is compared with it in one vector loop.
//
//   encode_float   every pattern, five directions, and the stochastic one at stated words, each with both policies
//   encode         every pattern to the nearest; the other directions and the other policy on every 257th
//
// A fixed word makes stochastic rounding as monotone as any other: up iff lost >= (word + 1) / 2^32.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "formats/codec.hpp"
#include "formats/encode_float.hpp"
#include "tests/oracle/mpfr_rounding.hpp"
#include "tests/oracle/thresholds.hpp"

// The widest vectors that the processor has, chosen when the program starts. clang makes no clones of templates, and
// the choice comes before AddressSanitizer is up.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FP4SCOPE_CLONES __attribute__((noinline, target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FP4SCOPE_CLONES
#endif

namespace fp4scope {
namespace {

using formats::Overflow;
using formats::Rounding;

float float_of(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// first, first + stride, ...: a run of `count` patterns whose code should be `code`.
struct Run {
  std::uint32_t first, count, code;
};

/// Has every pattern of the run its code? All that depends on the format is a constant here.
template <const formats::Format& F, Rounding R, Overflow P>
FP4SCOPE_CLONES bool encode_float_agrees(Run run, std::uint32_t word) {
  constexpr formats::FloatEncoder encoder = formats::float_encoder(F, R, P);
  std::uint32_t different = 0;
  for (std::uint32_t i = 0; i < run.count; ++i) different |= encoder(run.first + i, word) ^ run.code;
  return different == 0;
}

template <const formats::Format& F, Rounding R, Overflow P>
std::uint32_t encode_float_code(std::uint32_t bits, std::uint32_t word) {
  return formats::encode_float(F, float_of(bits), R, P, word);
}

template <const formats::Format& F, Rounding R, Overflow P, std::uint32_t Stride>
bool encode_agrees(Run run, std::uint32_t word) {
  std::uint32_t different = 0;
  for (std::uint32_t i = 0; i < run.count; ++i) {
    different |= formats::encode(F, float_of(run.first + i * Stride), R, P, word).code ^ run.code;
  }
  return different == 0;
}

template <const formats::Format& F, Rounding R, Overflow P>
std::uint32_t encode_code(std::uint32_t bits, std::uint32_t word) {
  return formats::encode(F, float_of(bits), R, P, word).code;
}

/// One function under test and the codes it should give.
struct Conversion {
  formats::Format format;
  Rounding direction;
  Overflow policy;
  std::uint32_t word;
  bool (*agrees)(Run, std::uint32_t word);
  std::uint32_t (*code)(std::uint32_t bits, std::uint32_t word);
  std::vector<oracle::Segment> expected;
};

template <const formats::Format& F, Rounding R, Overflow P>
Conversion conversion(std::uint32_t word, bool (*agrees)(Run, std::uint32_t),
                      std::uint32_t (*code)(std::uint32_t, std::uint32_t)) {
  oracle::MpfrEncoder mpfr(F, R, P, word);
  return {F, R, P, word, agrees, code, oracle::CodeTable(mpfr).segments};
}

/// Calls visit.template operator()<F, R, P>() for the six formats.
template <Rounding R, Overflow P, class Visit>
void for_formats(Visit visit) {
  visit.template operator()<formats::e2m1, R, P>();
  visit.template operator()<formats::e2m3, R, P>();
  visit.template operator()<formats::e3m2, R, P>();
  visit.template operator()<formats::e4m3, R, P>();
  visit.template operator()<formats::e5m2, R, P>();
  visit.template operator()<formats::ue8m0, R, P>();
}

template <Rounding R, class Visit>
void for_policies(Visit visit) {
  for_formats<R, Overflow::saturate>(visit);
  for_formats<R, Overflow::nan>(visit);
}

template <class Visit>
void for_directions(Visit visit) {
  for_policies<Rounding::nearest_even>(visit);
  for_policies<Rounding::nearest_away>(visit);
  for_policies<Rounding::toward_zero>(visit);
  for_policies<Rounding::up>(visit);
  for_policies<Rounding::down>(visit);
}

/// The patterns of a run that have another code; the first few of a conversion are printed.
std::int64_t count_different(const Conversion& c, Run run, std::uint32_t stride, std::int64_t already) {
  constexpr const char* names[] = {"nearest_even", "nearest_away", "toward_zero", "up", "down", "stochastic"};
  std::int64_t different = 0;
  for (std::uint32_t i = 0; i < run.count; ++i) {
    const std::uint32_t bits = run.first + i * stride, got = c.code(bits, c.word);
    if (got == run.code || already + ++different > 3) continue;
    std::printf("%s, %s, overflow %s, word 0x%X: of 0x%08X = %a = %.9g got 0x%X = %g, want 0x%X = %g\n", c.format.name,
                names[static_cast<int>(c.direction)], c.policy == Overflow::nan ? "nan" : "saturate", c.word, bits,
                static_cast<double>(float_of(bits)), static_cast<double>(float_of(bits)), got,
                formats::decode_double(c.format, got), run.code, formats::decode_double(c.format, run.code));
  }
  return different;
}

struct Tally {
  std::int64_t compared = 0, different = 0;
};

/// Patterns first .. last, run by run.
Tally compare_range(const Conversion& c, std::uint64_t first, std::uint64_t last, std::uint32_t stride) {
  Tally tally;
  const auto ends_later = [](std::uint64_t bits, const oracle::Segment& s) { return bits < s.end; };
  auto segment = std::upper_bound(c.expected.begin(), c.expected.end(), first, ends_later);
  for (; first < last; ++segment) {
    const std::uint64_t end = std::min(segment->end, last);
    if (end <= first) continue;  // a segment between two patterns of the stride
    const auto count = static_cast<std::uint32_t>((end - first + stride - 1) / stride);
    const Run run = {static_cast<std::uint32_t>(first), count, segment->code};
    if (!c.agrees(run, c.word)) tally.different += count_different(c, run, stride, tally.different);
    tally.compared += count;
    first += std::uint64_t{count} * stride;
  }
  return tally;
}

/// Every `stride`-th of the 2^32 patterns, for all conversions while they are at hand.
void compare_all(const char* name, const std::vector<Conversion>& conversions, std::uint32_t stride) {
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t patterns = ((std::int64_t{1} << 32) + stride - 1) / stride;
  constexpr std::int64_t chunk = 1 << 20;
  std::int64_t compared = 0, different = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : compared, different)
  for (std::int64_t first = 0; first < patterns; first += chunk) {
    const auto from = static_cast<std::uint64_t>(first) * stride;
    const auto to = std::min(from + static_cast<std::uint64_t>(chunk) * stride, std::uint64_t{1} << 32);
    for (const Conversion& c : conversions) {
      const Tally tally = compare_range(c, from, to, stride);
      compared += tally.compared;
      different += tally.different;
    }
  }
  const auto count = static_cast<std::int64_t>(conversions.size());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%s: %lld floats x %lld conversions, %lld different, %.1f s\n", name, static_cast<long long>(patterns),
              static_cast<long long>(count), static_cast<long long>(different), seconds.count());
  EXPECT_EQ(different, 0);
  EXPECT_EQ(compared, patterns * count);
}

TEST(EveryFloat, has_the_code_of_mpfrs_table_from_encode_float_in_every_direction_and_policy) {
  std::vector<Conversion> conversions;
  for_directions([&]<const formats::Format& F, Rounding R, Overflow P>() {
    conversions.push_back(conversion<F, R, P>(0, encode_float_agrees<F, R, P>, encode_float_code<F, R, P>));
  });
  ASSERT_EQ(conversions.size(), 6u * 5u * 2u);
  compare_all("encode_float", conversions, 1);
}

TEST(EveryFloat, has_the_code_of_mpfrs_table_from_encode_float_rounding_stochastically_at_stated_words) {
  std::vector<Conversion> conversions;
  for (const std::uint32_t word : {0u, 0x7FFFFFFFu, 0x9E3779B9u, 0xFFFFFFFEu}) {
    for_policies<Rounding::stochastic>([&]<const formats::Format& F, Rounding R, Overflow P>() {
      conversions.push_back(conversion<F, R, P>(word, encode_float_agrees<F, R, P>, encode_float_code<F, R, P>));
    });
  }
  compare_all("encode_float, stochastic", conversions, 1);
}

TEST(EveryFloat, has_the_code_of_mpfrs_table_from_encode_to_the_nearest) {
  std::vector<Conversion> conversions;
  for_formats<Rounding::nearest_even, Overflow::saturate>([&]<const formats::Format& F, Rounding R, Overflow P>() {
    conversions.push_back(conversion<F, R, P>(0, encode_agrees<F, R, P, 1>, encode_code<F, R, P>));
  });
  compare_all("encode", conversions, 1);
}

/// An odd stride meets every pattern of the low bits.
TEST(Every257thFloat, has_the_code_of_mpfrs_table_from_encode_in_every_direction_and_policy) {
  constexpr std::uint32_t stride = 257;
  std::vector<Conversion> conversions;
  for_directions([&]<const formats::Format& F, Rounding R, Overflow P>() {
    conversions.push_back(conversion<F, R, P>(0, encode_agrees<F, R, P, stride>, encode_code<F, R, P>));
  });
  compare_all("encode", conversions, stride);
}

// ---- Rounding twice -------------------------------------------------------------------------------------------------

constexpr std::int64_t block = 1 << 12;
using Codes = std::uint16_t[block];

/// The codes of the patterns first, first + 1, ...
template <const formats::Format& F, Overflow P>
FP4SCOPE_CLONES void encode_block(std::uint32_t first, Codes& out) {
  constexpr formats::FloatEncoder encoder = formats::float_encoder(F, Rounding::nearest_even, P);
  for (std::uint32_t i = 0; i < block; ++i) out[i] = static_cast<std::uint16_t>(encoder(first + i));
}

/// How many of the first `patterns` binary32 patterns get another code by way of a 16-bit format, whose code says all
/// that the second step needs.
template <const formats::Format& F, const formats::Format& Middle, Overflow P>
std::int64_t count_changed(std::int64_t patterns) {
  std::vector<std::uint16_t> second(Middle.code_count());
  for (std::uint32_t code = 0; code < Middle.code_count(); ++code) {
    const double value = formats::decode_double(Middle, code);
    second[code] = static_cast<std::uint16_t>(formats::encode(F, value, Rounding::nearest_even, P).code);
  }
  std::int64_t changed = 0;
#pragma omp parallel for reduction(+ : changed)
  for (std::int64_t first = 0; first < patterns; first += block) {
    Codes direct, narrowed;
    encode_block<F, P>(static_cast<std::uint32_t>(first), direct);
    encode_block<Middle, Overflow::nan>(static_cast<std::uint32_t>(first), narrowed);
    for (std::int64_t i = 0; i < block; ++i) changed += direct[i] != second[narrowed[i]];
  }
  return changed;
}

constexpr std::int64_t every_pattern = std::int64_t{1} << 32, positive_patterns = std::int64_t{1} << 31;

// Of each tie, the floats of one side that the middle format rounds to it: 2^15 of them by way of bf16, which drops 16
// bits, and 2^12 by way of fp16, which drops 13.

/// Seven ties, two signs. E2M1 has no NaN, so the policy is one.
TEST(RoundingTwice, by_way_of_bf16_changes_458752_floats_of_e2m1) {
  static_assert(7 * (1 << 15) * 2 == 458'752);
  EXPECT_EQ((count_changed<formats::e2m1, formats::bf16, Overflow::saturate>(every_pattern)), 458'752);
}

/// 126 ties between 127 finite values. Infinity, which fp16 makes of 65520 and more, saturates like them.
TEST(RoundingTwice, by_way_of_fp16_changes_516096_positive_floats_of_e4m3) {
  static_assert(126 * (1 << 12) == 516'096);
  EXPECT_EQ((count_changed<formats::e4m3, formats::fp16, Overflow::saturate>(positive_patterns)), 516'096);
}

TEST(RoundingTwice, by_way_of_bf16_changes_4128768_positive_floats_of_e4m3) {
  static_assert(126 * (1 << 15) == 4'128'768);
  EXPECT_EQ((count_changed<formats::e4m3, formats::bf16, Overflow::saturate>(positive_patterns)), 4'128'768);
}

/// Overflow::nan has one tie more: 464, between 448 and NaN.
TEST(RoundingTwice, changes_one_tie_more_of_e4m3_where_overflow_is_nan) {
  EXPECT_EQ((count_changed<formats::e4m3, formats::fp16, Overflow::nan>(positive_patterns)), 127 * (1 << 12));
  EXPECT_EQ((count_changed<formats::e4m3, formats::bf16, Overflow::nan>(positive_patterns)), 127 * (1 << 15));
}

}  // namespace
}  // namespace fp4scope
