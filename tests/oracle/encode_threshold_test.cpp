// formats::encode and encode_float where the code of a binary32 changes. The table of these places comes from MPFR
// (thresholds.hpp) and is held against MPFR again, and against the rationals of oracle.hpp, on both sides of each.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "formats/codec.hpp"
#include "formats/encode_float.hpp"
#include "tests/oracle/mpfr_rounding.hpp"
#include "tests/oracle/oracle.hpp"
#include "tests/oracle/thresholds.hpp"

namespace fp4scope {
namespace {

using formats::Format;
using formats::Overflow;
using formats::Rounding;
using oracle::CodeTable;
using oracle::MpfrEncoder;

struct Direction {
  const char* name;
  Rounding tested;
  oracle::Mode expected;
  std::uint32_t word;
};

constexpr Direction directions[] = {
    {"nearest_even", Rounding::nearest_even, oracle::Mode::nearest_even, 0},
    {"nearest_away", Rounding::nearest_away, oracle::Mode::nearest_away, 0},
    {"toward_zero", Rounding::toward_zero, oracle::Mode::toward_zero, 0},
    {"up", Rounding::up, oracle::Mode::up, 0},
    {"down", Rounding::down, oracle::Mode::down, 0},
    {"stochastic, word 0", Rounding::stochastic, oracle::Mode::stochastic, 0},
    {"stochastic, word 1", Rounding::stochastic, oracle::Mode::stochastic, 1},
    {"stochastic, word 0x7FFFFFFF", Rounding::stochastic, oracle::Mode::stochastic, 0x7FFFFFFF},
    {"stochastic, word 0x9E3779B9", Rounding::stochastic, oracle::Mode::stochastic, 0x9E3779B9},
    {"stochastic, word 0xFFFFFFFF", Rounding::stochastic, oracle::Mode::stochastic, 0xFFFFFFFF},
};

std::vector<Format> rows(int most_bits) {
  std::vector<Format> out;
  for (const Format& f : formats::all_formats) {
    if (f.bits <= most_bits) out.push_back(f);
  }
  return out;
}

/// The patterns around every place where the code changes, and the special ones.
std::vector<std::uint32_t> points(const CodeTable& table) {
  std::vector<std::uint32_t> out = {0,          1,          0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000,
                                    0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0x80000000, 0x80000001, 0x807FFFFF,
                                    0x80800000, 0xFF7FFFFF, 0xFF800000, 0xFF800001, 0xFFC00000, 0xFFFFFFFF};
  for (const oracle::Segment& s : table.segments) {
    for (int ulps = -2; ulps <= 2; ++ulps) out.push_back(static_cast<std::uint32_t>(s.end) + ulps);
  }
  return out;
}

class EveryThreshold : public testing::TestWithParam<Format> {
 protected:
  const Format format = GetParam();
  long boundaries = 0, compared = 0;
  int failures = 0;

  void expect(std::uint32_t got, std::uint32_t want, const char* who, std::uint32_t bits, const Direction& direction) {
    ++compared;
    if (got == want || ++failures > 10) return;
    std::ostringstream text;
    text << format.name << ", " << direction.name << ", " << who << " of 0x" << std::hex << bits << " = "
         << std::hexfloat << oracle::float_value(bits) << std::defaultfloat << ": got 0x" << got << " = "
         << formats::decode_double(format, got) << ", want 0x" << want << " = " << formats::decode_double(format, want);
    ADD_FAILURE() << text.str();
  }

  template <class Check>
  void for_every_point(Check check) {
    for (const Direction& direction : directions) {
      for (const Overflow policy : {Overflow::saturate, Overflow::nan}) {
        MpfrEncoder mpfr(format, direction.tested, policy, direction.word);
        const CodeTable table(mpfr);
        boundaries += static_cast<long>(table.segments.size()) - 1;
        for (const std::uint32_t bits : points(table)) check(bits, table.code(bits), direction, policy, mpfr);
      }
    }
    EXPECT_EQ(failures, 0);
    std::cout << format.name << ": " << boundaries << " boundaries, " << compared << " codes compared\n";
  }
};

TEST_P(EveryThreshold, is_where_mpfr_and_the_rationals_change_the_code) {
  const oracle::Oracle rationals(oracle::grid_named(format.name));
  for_every_point(
      [&](std::uint32_t bits, std::uint32_t want, const Direction& direction, Overflow policy, MpfrEncoder& mpfr) {
        const double x = oracle::float_value(bits);
        expect(mpfr(x), want, "MPFR", bits, direction);
        const oracle::Answer answer = rationals.answer(x, direction.expected, policy == Overflow::nan, direction.word);
        expect(answer.code, want, "the rationals'", bits, direction);
      });
}

TEST_P(EveryThreshold, is_where_encode_and_encode_float_change_the_code) {
  for_every_point([&](std::uint32_t bits, std::uint32_t want, const Direction& direction, Overflow policy,
                      MpfrEncoder&) {
    const float x = __builtin_bit_cast(float, bits);
    expect(formats::encode(format, x, direction.tested, policy, direction.word).code, want, "encode", bits, direction);
    expect(formats::encode_float(format, x, direction.tested, policy, direction.word), want, "encode_float", bits,
           direction);
  });
}

INSTANTIATE_TEST_SUITE_P(formats, EveryThreshold, testing::ValuesIn(rows(8)),
                         [](const auto& row) { return std::string(row.param.name); });

class EveryRow : public testing::TestWithParam<Format> {};

TEST_P(EveryRow, decodes_every_code_to_the_value_of_its_definition) {
  const Format& f = GetParam();
  for (std::uint32_t code = 0; code < f.code_count(); ++code) {
    const bool negative = (code & f.sign_bit()) != 0;
    const std::uint32_t magnitude = f.twos_complement && negative ? f.code_count() - code : code & ~f.sign_bit();
    const double got = formats::decode_double(f, code);
    if (magnitude > f.max_code && !f.twos_complement) {
      const bool infinite = f.has_inf() && magnitude == f.max_code + 1;
      EXPECT_TRUE(infinite ? std::isinf(got) && std::signbit(got) == negative : std::isnan(got))
          << f.name << ' ' << code;
      continue;
    }
    const double value = oracle::value_by_definition(f, magnitude);
    EXPECT_EQ(got, negative ? -value : value) << f.name << " code 0x" << std::hex << code;
  }
}

TEST_P(EveryRow, has_the_same_codes_from_encode_float_as_from_encode) {
  const Format& f = GetParam();
  oracle::Words words(11);
  std::vector<double> xs = oracle::boundary_points(oracle::Oracle(oracle::grid_named(f.name)));
  for (int i = 0; i < 1 << 18; ++i) xs.push_back(oracle::float_value(words() >> 32));
  long compared = 0, different = 0;
  for (const double y : xs) {
    const auto x = static_cast<float>(y);
    for (const Direction& direction : directions) {
      const auto any = static_cast<std::uint32_t>(words() >> (words() % 4 ? 32 : 56));
      for (const Overflow policy : {Overflow::saturate, Overflow::nan}) {
        for (const std::uint32_t word : {direction.word, any}) {
          const std::uint32_t want = formats::encode(f, x, direction.tested, policy, word).code;
          const std::uint32_t got = formats::encode_float(f, x, direction.tested, policy, word);
          ++compared;
          if (got == want || ++different > 10) continue;
          ADD_FAILURE() << f.name << " of " << oracle::show(x) << ", " << direction.name << std::hex << ", word 0x"
                        << word << ": encode_float 0x" << got << ", encode 0x" << want;
        }
      }
    }
  }
  EXPECT_EQ(different, 0);
  std::cout << f.name << ": " << compared << " codes compared\n";
}

INSTANTIATE_TEST_SUITE_P(formats, EveryRow, testing::ValuesIn(rows(16)),
                         [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace fp4scope
