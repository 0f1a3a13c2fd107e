// formats::encode on all 2^32 binary32 patterns: the code is the number of thresholds at or below |x|; threshold k
// is the least binary32 that rounds to code k or more. The thresholds come from the oracle's grid, not from formats/.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "formats/codec.hpp"
#include "tests/oracle/oracle.hpp"

namespace fp4scope {
namespace {

using formats::Overflow;
using formats::Rounding;
using oracle::Oracle;

constexpr std::uint32_t infinity_bits = 0x7F800000;

std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }

/// The least binary32 that is >= x, or > x; as bits, which order like the magnitudes.
std::uint32_t least_float(double x, bool or_equal) {
  if (x > 0x1.FFFFFEp127) return infinity_bits;
  const auto y = static_cast<float>(x);
  const bool reached = or_equal ? y >= x : y > x;
  return reached ? bits_of(y) : bits_of(y) + 1;
}

/// Thresholds of codes 1 .. max_code + 1, for magnitudes of one sign. The last is where finite values end.
std::vector<std::uint32_t> thresholds(const Oracle& oracle, Rounding mode, bool negative) {
  const bool outwards = mode == (negative ? Rounding::down : Rounding::up);
  std::vector<std::uint32_t> out;
  for (std::size_t i = 0; i <= oracle.max_index(); ++i) {
    const double low = oracle.value(i), high = oracle.value(i + 1), middle = low + (high - low) / 2;
    if (outwards) {
      out.push_back(least_float(low, false));
    } else if (mode == Rounding::nearest_even || mode == Rounding::nearest_away) {
      out.push_back(least_float(middle, mode == Rounding::nearest_away || oracle.tie_goes_outwards(i)));
    } else {
      out.push_back(least_float(high, true));
    }
  }
  return out;
}

/// The patterns from the previous segment's end to this one's; they all have the same code.
struct Segment {
  std::uint64_t end;
  std::uint32_t code;
};

std::vector<Segment> segments(const Oracle& oracle, Rounding mode, bool to_nan) {
  const oracle::Grid& g = oracle.grid;
  const auto max = static_cast<std::uint32_t>(oracle.max_index());
  const std::uint32_t beyond = !to_nan || !g.nan ? max : g.inf ? g.inf : g.nan;
  std::vector<Segment> out;
  const std::uint32_t zero_code = g.first > 0 && to_nan ? g.nan : 0;
  for (const bool negative : {false, true}) {
    const std::uint64_t base = negative ? 0x80000000u : 0;
    const std::uint32_t sign = negative ? g.sign : 0;
    if (negative && !g.sign) {
      out.push_back({base + 1, zero_code});
      out.push_back({base + infinity_bits + 1, to_nan ? g.nan : 0});
    } else {
      const bool inwards = mode == Rounding::toward_zero || mode == (negative ? Rounding::up : Rounding::down);
      std::uint32_t code = 0;
      out.push_back({base + 1, zero_code | sign});
      for (const std::uint32_t bound : thresholds(oracle, mode, negative)) out.push_back({base + bound, code++ | sign});
      out.push_back({base + infinity_bits, (inwards ? max : beyond) | sign});
      out.push_back({base + infinity_bits + 1, beyond | sign});
    }
    out.push_back({base + 0x80000000u, g.nan ? g.nan : max});
  }
  return out;
}

template <const formats::Format& F>
void report(std::uint32_t bits, std::uint32_t got, std::uint32_t want) {
  const double x = __builtin_bit_cast(float, bits);
  std::printf("%s of 0x%08X = %a = %.9g: got 0x%X = %g, want 0x%X = %g\n", F.name, bits, x, x, got,
              formats::decode_double(F, got), want, formats::decode_double(F, want));
}

/// Every `stride`-th pattern.
template <const formats::Format& F, Rounding R, Overflow P>
void compare_floats(std::int64_t stride) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Segment> expected = segments(Oracle(oracle::grid_named(F.name)), R, P == Overflow::nan);
  constexpr std::int64_t chunk = 1 << 18;
  const std::int64_t total = ((std::int64_t{1} << 32) + stride - 1) / stride;
  std::int64_t compared = 0, different = 0;
#pragma omp parallel for schedule(dynamic, 16) reduction(+ : compared, different)
  for (std::int64_t first = 0; first < total; first += chunk) {
    const auto after = [](std::int64_t bits, const Segment& s) { return bits < static_cast<std::int64_t>(s.end); };
    auto segment = std::upper_bound(expected.begin(), expected.end(), first * stride, after);
    for (std::int64_t k = first; k < std::min(first + chunk, total); ++k, ++compared) {
      while (k * stride >= static_cast<std::int64_t>(segment->end)) ++segment;
      const auto bits = static_cast<std::uint32_t>(k * stride);
      const std::uint32_t got = formats::encode(F, __builtin_bit_cast(float, bits), R, P).code;
      if (got == segment->code) continue;
      if (++different <= 3) report<F>(bits, got, segment->code);
    }
  }
  EXPECT_EQ(different, 0) << F.name;
  EXPECT_EQ(compared, total) << F.name;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (stride == 1) {
    std::printf("%s: %lld codes compared in %.1f s\n", F.name, static_cast<long long>(compared), seconds.count());
  }
}

template <Rounding R, Overflow P>
void compare_formats(std::int64_t stride) {
  compare_floats<formats::e2m1, R, P>(stride);
  compare_floats<formats::e2m3, R, P>(stride);
  compare_floats<formats::e3m2, R, P>(stride);
  compare_floats<formats::e4m3, R, P>(stride);
  compare_floats<formats::e5m2, R, P>(stride);
  compare_floats<formats::ue8m0, R, P>(stride);
}

template <Rounding R>
void compare_policies(std::int64_t stride) {
  compare_formats<R, Overflow::saturate>(stride);
  compare_formats<R, Overflow::nan>(stride);
}

TEST(EveryFloat, rounds_to_nearest_even) { compare_formats<Rounding::nearest_even, Overflow::saturate>(1); }

// The other directions and the other policy in a few seconds; an odd stride meets every pattern of the low bits.
constexpr std::int64_t stride = 257;
TEST(Every257thFloat, rounds_to_nearest_even) { compare_policies<Rounding::nearest_even>(stride); }
TEST(Every257thFloat, rounds_to_nearest_away) { compare_policies<Rounding::nearest_away>(stride); }
TEST(Every257thFloat, rounds_toward_zero) { compare_policies<Rounding::toward_zero>(stride); }
TEST(Every257thFloat, rounds_up) { compare_policies<Rounding::up>(stride); }
TEST(Every257thFloat, rounds_down) { compare_policies<Rounding::down>(stride); }

}  // namespace
}  // namespace fp4scope
