// The SystemVerilog beside this file against sim/mac.hpp and the host's binary32, bit for bit:
// 10^6 beats of the unit in segments of 5 or more, and its adder and multiplier on corners and random operands.
#include <gtest/gtest.h>
#include <verilated.h>

#include <cmath>
#include <deque>
#include <iomanip>
#include <random>
#include <sstream>

#include "Vrtl_test_top.h"
#include "analysis/mac_golden.hpp"

/// Verilator asks for the time of $time.
double sc_time_stamp() { return 0; }

namespace fp4scope {
namespace {

using sim::MacFirst;
using sim::MacFormat;

float as_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

std::string hex(std::uint32_t bits) {
  std::ostringstream text;
  text << "0x" << std::hex << std::setw(8) << std::setfill('0') << bits << " (" << as_float(bits) << ")";
  return text.str();
}

std::uint32_t as_bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }

/// Before a model is made: registers begin with random bits, so that only a reset can be what sets them.
struct Anything {
  Anything() {
    Verilated::randReset(2);
    Verilated::randSeed(1);
  }
};

/// The unit, clocked.
class Unit {
 public:
  Unit() {
    top_.clk = 0;
    top_.eval();
    top_.reset = 1;
    top_.enable = 0;
    tick();
    top_.reset = 0;
  }

  void idle() {
    top_.enable = 0;
    tick();
  }

  void beat(bool first, const std::uint8_t* a, const std::uint8_t* w, std::uint8_t a_scale, std::uint8_t w_scale) {
    top_.enable = 1;
    top_.first = first;
    top_.a = packed(a);
    top_.w = packed(w);
    top_.a_scale = a_scale;
    top_.w_scale = w_scale;
    tick();
  }

  /// A beat of zeros that closes the last segment, and cycles enough to add it up.
  void flush() {
    const std::uint8_t zeros[sim::mac_lanes] = {};
    beat(true, zeros, zeros, 0, 0);
    for (int i = 0; i < 8; ++i) idle();
  }

  bool illegal() const { return top_.illegal; }

  std::vector<std::uint32_t> words;  ///< of `done`, in order
  int lost = 0;

 private:
  static std::uint64_t packed(const std::uint8_t* codes) {
    std::uint64_t all = 0;
    for (int i = 0; i < sim::mac_lanes; ++i) all |= std::uint64_t{codes[i]} << (4 * i);
    return all;
  }

  void tick() {
    top_.clk = 0;
    top_.eval();
    top_.clk = 1;
    top_.eval();
    if (top_.done) words.push_back(top_.word);
    lost += top_.lost;
  }

  Anything anything_;
  Vrtl_test_top top_;
};

void drive(Unit& unit, const analysis::MacBeats& beats, std::mt19937_64* pauses) {
  for (std::size_t i = 0; i < beats.size(); ++i) {
    while (pauses && (*pauses)() % 16 == 0) unit.idle();
    unit.beat(beats.first[i] != 0, &beats.a[i * 16], &beats.w[i * 16], beats.a_scale[i], beats.w_scale[i]);
  }
  unit.flush();
}

/// Segments of every kind that could be rounded, cancelled or signed wrongly.
enum Kind { uniform, cancelling, extreme, falling, zeros, minus_zero, kinds };

std::uint8_t any_code(std::mt19937_64& random) {
  const auto choice = static_cast<std::uint8_t>(random() % 15);
  return choice < 8 ? choice : static_cast<std::uint8_t>(choice + 1);
}

std::uint8_t scale_of(Kind kind, int beat, std::mt19937_64& random) {
  static constexpr std::uint8_t ends[] = {0x00, 0x01, 0x07, 0x08, 0x09, 0x7E, 0x7F, 0x80, 0x81, 0x87, 0xFE, 0xFF};
  const auto byte = static_cast<std::uint8_t>(random());
  if (kind == extreme) return ends[random() % std::size(ends)];
  if (kind == falling) return beat == 0 ? byte | 0x70 : byte & (beat == 1 ? 0x7F : 0x1F);
  return byte;
}

void add_segment(analysis::MacBeats& beats, Kind kind, int length, std::mt19937_64& random) {
  for (int i = 0; i < length; ++i) {
    const std::size_t twin = beats.size() - static_cast<std::size_t>(i > 0);  // cancelling: odd beats undo even ones
    const bool undo = kind == cancelling && i % 2 == 1 && random() % 8 != 0;
    beats.a_scale.push_back(undo ? beats.a_scale[twin] : scale_of(kind, i, random));
    beats.w_scale.push_back(undo ? beats.w_scale[twin] : scale_of(kind, i, random));
    for (int lane = 0; lane < 16; ++lane) {
      const std::uint8_t code = any_code(random), sign = static_cast<std::uint8_t>(random() & 8);
      std::uint8_t a = code, w = any_code(random);
      if (undo) {
        a = beats.a[twin * 16 + static_cast<std::size_t>(lane)];
        w = beats.w[twin * 16 + static_cast<std::size_t>(lane)];
        if (w != 0) w ^= 8;
      }
      if (kind == zeros && random() % 16 != 0) a = 0;
      if (kind == minus_zero) a = 0, w = static_cast<std::uint8_t>(8 | (1 + random() % 7));
      if (kind == cancelling && !undo && sign) a = 0;
      beats.a.push_back(a);
      beats.w.push_back(w);
    }
    beats.first.push_back(i == 0);
  }
}

analysis::MacBeats random_beats(std::size_t least, std::mt19937_64& random) {
  analysis::MacBeats beats;
  while (beats.size() < least) {
    const int length = sim::mac_least_segment + static_cast<int>(random() % (random() % 16 == 0 ? 100 : 8));
    add_segment(beats, static_cast<Kind>(random() % kinds), length, random);
  }
  return beats;
}

/// Every word, in order; on the first difference the segment.
void expect_the_model(const analysis::MacBeats& beats, const Unit& unit) {
  const std::vector<float> words = analysis::run_mac(MacFormat::nvfp4, MacFirst::loads, beats, false).words;
  ASSERT_EQ(unit.words.size(), words.size());
  for (std::size_t i = 0; i < words.size(); ++i) {
    ASSERT_EQ(unit.words[i], as_bits(words[i])) << "segment " << i << ": unit " << hex(unit.words[i]) << ", model "
                                                << hex(as_bits(words[i]));
  }
  EXPECT_EQ(unit.lost, 0);
}

TEST(NvFp4MacRtl, AMillionBeatsBackToBackHaveTheModelsWords) {
  std::mt19937_64 random(1);
  std::size_t beats = 0, signed_zeros = 0;
  for (int part = 0; part < 10; ++part) {
    Unit unit;
    const analysis::MacBeats some = random_beats(100000, random);
    drive(unit, some, nullptr);
    expect_the_model(some, unit);
    beats += some.size();
    for (const std::uint32_t word : unit.words) signed_zeros += word == 0x80000000u;
  }
  EXPECT_GE(beats, 1000000u);
  EXPECT_GT(signed_zeros, 100u);  // the beats reach what distinguishes loading from adding
}

TEST(NvFp4MacRtl, PausesChangeNothing) {
  std::mt19937_64 random(2);
  Unit unit;
  const analysis::MacBeats beats = random_beats(50000, random);
  drive(unit, beats, &random);
  expect_the_model(beats, unit);
}

TEST(NvFp4MacRtl, ThePublishedBeatsGiveThePublishedWords) {
  Unit unit;
  drive(unit, analysis::mac_golden_beats(MacFormat::nvfp4), nullptr);
  const auto words = analysis::mac_golden(MacFormat::nvfp4).words;
  EXPECT_EQ(unit.words, std::vector(words.begin(), words.end()));
}

TEST(NvFp4MacRtl, EveryPairOfScalesAndOfLegalCodes) {
  analysis::MacBeats beats;
  for (int a = 0; a < 256; ++a) {
    for (int w = 0; w < 256; ++w) {  // beat by beat all pairs of scales, and with them all pairs of codes
      beats.first.push_back(w % 8 == 0);
      beats.a_scale.push_back(static_cast<std::uint8_t>(a));
      beats.w_scale.push_back(static_cast<std::uint8_t>(w));
      for (int lane = 0; lane < 16; ++lane) {
        const int x = (w + a / 16) % 16, y = (lane + a) % 16;
        beats.a.push_back(static_cast<std::uint8_t>(x == 8 || lane >= 11 ? 0 : x));  // all 16 y would add up to 0
        beats.w.push_back(static_cast<std::uint8_t>(y == 8 ? 0 : y));
      }
    }
  }
  Unit unit;
  drive(unit, beats, nullptr);
  expect_the_model(beats, unit);
}

TEST(NvFp4MacRtl, ASegmentBelowFourBeatsIsReportedLost) {
  for (int length = 1; length <= 6; ++length) {
    std::mt19937_64 random(3);
    analysis::MacBeats beats;
    for (int i = 0; i < 20; ++i) add_segment(beats, uniform, length, random);
    Unit unit;
    drive(unit, beats, nullptr);
    if (length >= 4) expect_the_model(beats, unit);
    else EXPECT_GT(unit.lost, 0) << "length " << length;
  }
}

TEST(NvFp4MacRtl, ACode8IsIllegalInEveryPlace) {
  Unit unit;
  for (int place = 0; place < 32; ++place) {
    std::uint8_t codes[32] = {};
    unit.beat(false, codes, codes + 16, 0x38, 0x38);
    EXPECT_FALSE(unit.illegal());
    codes[place] = 8;
    unit.beat(false, codes, codes + 16, 0x38, 0x38);
    EXPECT_TRUE(unit.illegal()) << "place " << place;
  }
}

/// The operators' rules: subnormal numbers count as zeros with their signs, one NaN.
float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
std::uint32_t canonical(float x) { return std::isnan(x) ? 0x7FC00000u : as_bits(x); }

/// Below 2^-126 after rounding to 24 bits; the product of two binary32 is exact in binary64.
std::uint32_t host_product(float x, float y) {
  const double exact = static_cast<double>(flushed(x)) * static_cast<double>(flushed(y));
  if (std::fabs(static_cast<float>(exact * 0x1p64)) < 0x1p-62f) return std::signbit(exact) ? 0x80000000u : 0;
  return canonical(static_cast<float>(exact));
}

std::uint32_t host_sum(float x, float y) { return canonical(flushed(flushed(x) + flushed(y))); }

class Operators {
 public:
  ::testing::AssertionResult agree(std::uint32_t x, std::uint32_t y) {
    top_.x = x;
    top_.y = y;
    top_.eval();
    const std::uint32_t sum = host_sum(as_float(x), as_float(y)), product = host_product(as_float(x), as_float(y));
    if (top_.sum == sum && top_.product == product) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << hex(x) << " and " << hex(y) << ": sum " << hex(top_.sum) << ", host "
                                         << hex(sum) << "; product " << hex(top_.product) << ", host " << hex(product);
  }

 private:
  Vrtl_test_top top_;
};

TEST(Binary32Rtl, CornersOfAddAndMultiplyAreTheHosts) {
  std::vector<std::uint32_t> corners;
  for (const std::uint32_t exponent :
       {0u,   1u,   2u,   23u,  24u,  25u,  63u,  64u,  102u, 103u, 104u, 125u, 126u, 127u, 128u,
        129u, 150u, 151u, 152u, 153u, 190u, 191u, 192u, 229u, 230u, 231u, 252u, 253u, 254u, 255u}) {
    for (const std::uint32_t fraction :
         {0u, 1u, 2u, 3u, 0x3FFFFFu, 0x400000u, 0x400001u, 0x555555u, 0x7FFFFEu, 0x7FFFFFu}) {
      for (const std::uint32_t sign : {0u, 1u}) corners.push_back(sign << 31 | exponent << 23 | fraction);
    }
  }
  Operators operators;
  for (const std::uint32_t x : corners) {
    for (const std::uint32_t y : corners) ASSERT_TRUE(operators.agree(x, y));
  }
}

TEST(Binary32Rtl, RandomOperandsNearAndFarAreTheHosts) {
  std::mt19937_64 random(4);
  Operators operators;
  for (int i = 0; i < 1000000; ++i) {
    const std::uint64_t word = random();
    const auto x = static_cast<std::uint32_t>(word), any = static_cast<std::uint32_t>(word >> 32);
    ASSERT_TRUE(operators.agree(x, any));
    // Exponents at most 31 apart, few or many fraction bits: alignment, ties, cancellation.
    const std::uint32_t exponent = ((x >> 23 & 0xFF) + (any & 31)) & 0xFF;
    const std::uint32_t fraction = (any >> 5 & 0x7FFFFF) & ~((1u << (any >> 28) * 2 % 24) - 1);
    ASSERT_TRUE(operators.agree(x, (any & 0x80000000u) | exponent << 23 | fraction));
    ASSERT_TRUE(operators.agree(x, x ^ 0x80000000u ^ (any & 0x80000007u)));
  }
}

/// What a sum is rounded by: binary32's ties, on both sides of every distance.
TEST(Binary32Rtl, TiesAtEveryDistanceAreTheHosts) {
  Operators operators;
  for (std::uint32_t distance = 0; distance <= 30; ++distance) {
    for (const std::uint32_t fraction : {0u, 1u, 2u, 3u, 0x7FFFFDu, 0x7FFFFEu, 0x7FFFFFu}) {
      for (const std::uint32_t low :
           {0u, 1u, 2u, 4u, 0x400000u, 0x3FFFFFu, 0x400001u, 0x7FFFFFu, 0x600000u, 0x200000u}) {
        for (const std::uint32_t sign : {0u, 0x80000000u}) {
          ASSERT_TRUE(operators.agree(127u << 23 | fraction, sign | (127 - distance) << 23 | low));
        }
      }
    }
  }
}

}  // namespace
}  // namespace fp4scope
