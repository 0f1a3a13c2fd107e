// formats::encode and decode against tests/oracle/oracle.hpp: every format, every rounding direction, both overflow
// policies; codes and statuses.
#include <gtest/gtest.h>

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "formats/codec.hpp"
#include "tests/oracle/oracle.hpp"

namespace fp4scope {
namespace {

using formats::Format;
using oracle::Answer;
using oracle::Mode;
using oracle::Oracle;
using oracle::Place;

struct ModeRow {
  const char* name;
  Mode expected;
  formats::Rounding tested;
};

constexpr ModeRow deterministic_modes[] = {
    {"nearest_even", Mode::nearest_even, formats::Rounding::nearest_even},
    {"nearest_away", Mode::nearest_away, formats::Rounding::nearest_away},
    {"toward_zero", Mode::toward_zero, formats::Rounding::toward_zero},
    {"up", Mode::up, formats::Rounding::up},
    {"down", Mode::down, formats::Rounding::down},
};
constexpr ModeRow stochastic_mode = {"stochastic", Mode::stochastic, formats::Rounding::stochastic};
constexpr std::uint32_t stated_words[] = {0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};

static_assert(formats::exact == 0 && formats::inexact == oracle::inexact && formats::underflow == oracle::underflow &&
              formats::overflow == oracle::overflow && formats::was_nan == oracle::was_nan);

class EveryFormat : public testing::TestWithParam<oracle::Grid> {
 protected:
  const Oracle oracle{GetParam()};
  const Format format = *formats::find_format(GetParam().name);
  oracle::Words words{1};
  long compared = 0;
  int failures = 0;

  void compare(double x, const Place& place, const ModeRow& mode, std::uint32_t word) {
    for (const bool to_nan : {false, true}) {
      const formats::Overflow policy = to_nan ? formats::Overflow::nan : formats::Overflow::saturate;
      const formats::Encoded got = formats::encode(format, x, mode.tested, policy, word);
      const Answer want = oracle.answer(x, place, mode.expected, to_nan, word);
      ++compared;
      if (got.code == want.code && got.status == want.status) continue;
      if (++failures <= 10) ADD_FAILURE() << describe(x, mode, to_nan, word, got, want);
    }
  }

  void compare_all_modes(const std::vector<double>& points) {
    for (const double x : points) {
      const Place place = std::isfinite(x) && x != 0 ? oracle.locate(std::fabs(x)) : Place{};
      for (const ModeRow& mode : deterministic_modes) compare(x, place, mode, 0);
      for (const std::uint32_t word : stated_words) compare(x, place, stochastic_mode, word);
      const auto any = static_cast<std::uint32_t>(words());
      for (const std::uint32_t word : {place.part - 1, place.part, place.part + 1, any}) {
        compare(x, place, stochastic_mode, word);
      }
    }
    RecordProperty("compared", std::to_string(compared));
    EXPECT_EQ(failures, 0) << "of " << compared << " compared";
  }

  std::string describe(double x, const ModeRow& mode, bool to_nan, std::uint32_t word, formats::Encoded got,
                       Answer want) const {
    std::ostringstream text;
    text << format.name << " of " << oracle::show(x) << ", " << mode.name << ", overflow "
         << (to_nan ? "nan" : "saturate") << std::hex << ", word 0x" << word << "\n  got  code 0x" << got.code
         << " status 0x" << int{got.status} << " value " << formats::decode_double(format, got.code)
         << "\n  want code 0x" << want.code << " status 0x" << int{want.status} << " value "
         << formats::decode_double(format, want.code);
    return text.str();
  }
};

TEST_P(EveryFormat, decodes_every_code_to_the_grid_and_its_mirror_image) {
  const oracle::Grid& g = GetParam();
  const auto max = static_cast<std::uint32_t>(oracle.max_index());
  ASSERT_EQ(format.max_code, max);
  for (std::uint32_t code = 0; code <= max; ++code) {
    const double value = oracle.value(code);
    EXPECT_EQ(formats::decode_double(format, code), value) << g.name << " code 0x" << std::hex << code;
    if (!g.sign) continue;
    const std::uint32_t mirror = g.twos_complement ? (2 * g.sign - code) % (2 * g.sign) : code | g.sign;
    EXPECT_EQ(formats::decode_double(format, mirror), -value) << g.name << " code 0x" << std::hex << mirror;
  }
}

TEST_P(EveryFormat, encodes_values_and_midpoints_and_their_neighbours_as_the_rationals_say) {
  compare_all_modes(oracle::boundary_points(oracle));
}

TEST_P(EveryFormat, encodes_random_numbers_of_every_exponent_as_the_rationals_say) {
  compare_all_modes(oracle::stratified_points(4, 64));
}

/// Thirty-two bits hold every fraction here, so the share of words that round away is the fraction itself.
TEST_P(EveryFormat, rounds_away_for_exactly_the_words_below_the_fraction) {
  const double low = oracle.value(1), high = oracle.value(2);
  for (const double part : {0x1p-32, 0.25, 0.5, 0.75, 1 - 0x1p-32}) {
    const double x = low + part * (high - low);
    const auto limit = static_cast<std::uint32_t>(part * 0x1p32);
    for (const std::uint32_t word : {0u, limit / 2, limit - 1, limit, limit + 1, 0xFFFFFFFFu}) {
      const auto got = formats::encode(format, x, formats::Rounding::stochastic, formats::Overflow::saturate, word);
      EXPECT_EQ(got.code, word < limit ? 2u : 1u) << format.name << " of " << oracle::show(x) << ", word " << word;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(formats, EveryFormat, testing::ValuesIn(oracle::grids),
                         [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace fp4scope
