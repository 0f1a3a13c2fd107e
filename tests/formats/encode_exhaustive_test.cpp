// formats::encode on all 2^32 binary32 patterns: the code is the number of thresholds at or below |x|, where threshold k
// is the least binary32 that rounds to code k or more. The thresholds come from the oracle's grid, not from formats/.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
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
constexpr std::uint32_t sign_bit = 0x80000000;

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

struct Tally {
  std::atomic<long> compared = 0;
  std::atomic<long> different = 0;

  void report(const char* format, std::uint32_t bits, std::uint32_t got, std::uint32_t want) {
    if (++different > 10) return;
    const double x = static_cast<double>(__builtin_bit_cast(float, bits));
    const formats::Format& f = *formats::find_format(format);
    std::printf("%s of 0x%08X = %a = %.9g: got 0x%X = %g, want 0x%X = %g\n", format, bits, x, x, got,
                formats::decode_double(f, got), want, formats::decode_double(f, want));
  }
};

/// All binary32 patterns in [first, last) have to encode to `want`.
template <const formats::Format& F, Rounding R, Overflow P>
void compare_range(std::uint32_t first, std::uint32_t last, std::uint32_t want, Tally& tally) {
  constexpr std::uint32_t chunk = 1 << 20;
  const std::int64_t chunks = (static_cast<std::int64_t>(last) - first + chunk - 1) / chunk;
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t c = 0; c < chunks; ++c) {
    const auto begin = static_cast<std::uint32_t>(first + c * chunk);
    const std::uint32_t count = std::min(chunk, last - begin);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t bits = begin + i;
      const std::uint32_t got = formats::encode(F, __builtin_bit_cast(float, bits), R, P).code;
      if (got != want) tally.report(F.name, bits, got, want);
    }
    tally.compared += count;
  }
}

template <const formats::Format& F, Rounding R, Overflow P = Overflow::saturate>
void all_floats() {
  const auto start = std::chrono::steady_clock::now();
  const Oracle oracle(oracle::grid_named(F.name));
  const oracle::Grid& g = oracle.grid;
  const auto max = static_cast<std::uint32_t>(oracle.max_index());
  const bool to_nan = P == Overflow::nan && g.nan;
  Tally tally;
  for (const bool negative : {false, true}) {
    const std::uint32_t sign = negative ? sign_bit : 0, code_sign = negative ? g.sign : 0;
    const bool inwards = R == Rounding::toward_zero || R == (negative ? Rounding::up : Rounding::down);
    const std::uint32_t beyond = !to_nan ? max : g.inf ? g.inf : g.nan;
    std::vector<std::uint32_t> bounds = thresholds(oracle, R, negative);
    if (negative && !g.sign) bounds.clear();
    std::uint32_t first = 0, code = 0;
    for (const std::uint32_t bound : bounds) {
      compare_range<F, R, P>(sign | first, sign | bound, code++ | code_sign, tally);
      first = bound;
    }
    const std::uint32_t last_code = bounds.empty() ? 0 : (inwards ? max : beyond) | code_sign;
    const std::uint32_t infinity_code = bounds.empty() ? 0 : beyond | code_sign;
    compare_range<F, R, P>(sign | first, sign | infinity_bits, last_code, tally);
    compare_range<F, R, P>(sign | infinity_bits, sign | (infinity_bits + 1), infinity_code, tally);
    compare_range<F, R, P>(sign | (infinity_bits + 1), negative ? 0xFFFFFFFF : sign_bit, g.nan ? g.nan : max, tally);
  }
  compare_range<F, R, P>(0xFFFFFFFE, 0xFFFFFFFF, g.nan ? g.nan : max, tally);
  EXPECT_EQ(tally.different, 0);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%-5s %ld codes compared in %.1f s\n", g.name, tally.compared.load(), seconds.count());
}

}  // namespace
}  // namespace fp4scope
