// sim/encode_lanes.hpp: the codes of quantize_block for every input, in every width of vector.
#include "sim/encode_lanes.hpp"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cfloat>
#include <cmath>
#include <vector>

#include "formats/pack.hpp"
#include "sim/block.hpp"
#include "sim/scale.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using blocks::Maker;
using Codes = std::vector<std::uint8_t>;

constexpr formats::BlockFormat thirds = {
    "thirds", formats::e2m1, formats::ue5m3, 16, true, 448, {}, {8, {0, 1, 3, 7, 20, 33, 100, 255}}};
constexpr formats::BlockFormat quarters = {"quarters", formats::e1m2, formats::ue4m4, 16, true, 448};
constexpr formats::BlockFormat six = {"six", formats::e2m1, formats::e4m3, 16, true, 448, {}, {6, {0, 1, 2, 3, 4, 6}}};

/// Formats in lanes, then two that are not.
const formats::BlockFormat format_rows[] = {
    formats::nvfp4, formats::mxfp4, formats::nvint4, formats::mxint4, thirds, quarters, six, formats::if4};

double step_of(const formats::BlockFormat& f, float tensor_scale, std::uint8_t scale) {
  const int code = f.selects() ? scale & ~formats::selection_bit : scale;
  return static_cast<double>(tensor_scale) * formats::decode_double(f.scale, static_cast<std::uint32_t>(code));
}

Codes plain_codes(const formats::BlockFormat& f, float tensor_scale, const std::vector<float>& x, int block,
                  const Codes& scales) {
  Codes codes(x.size());
  for (std::size_t b = 0; b < scales.size(); ++b) {
    const bool integer = f.selects() && (scales[b] & formats::selection_bit) != 0;
    sim::quantize_block(integer ? formats::int4 : f.element, sim::make_grid(f, integer),
                        x.data() + b * static_cast<std::size_t>(block), block, step_of(f, tensor_scale, scales[b]),
                        codes.data() + b * static_cast<std::size_t>(block), sim::grid_factor(f));
  }
  return codes;
}

/// Compares both functions with the plain codes, and whether what lies behind the codes stays as it was.
void check(const formats::BlockFormat& f, float t, const std::vector<float>& x, int block, const Codes& scales) {
  constexpr std::uint8_t untouched = 0x5A;
  const Codes want = plain_codes(f, t, x, block, scales);
  const auto n = x.size();
  Codes codes(n + 64, untouched), packed(n / 2 + 64, untouched);
  const auto count = static_cast<std::int64_t>(scales.size());
  sim::encode_blocks(f, t, x.data(), count, block, scales.data(), codes.data());
  sim::encode_blocks_packed(f, t, x.data(), count, block, scales.data(), packed.data());
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t b = i / static_cast<std::size_t>(block);
    const std::uint32_t nibble = formats::unpack_nibble(packed.data(), static_cast<std::int64_t>(i));
    if (codes[i] == want[i] && nibble == want[i]) continue;
    char text[200];
    std::snprintf(text, sizeof text, "block %zu of %zu, element %zu = %a, tensor scale %a, scale code 0x%02X", b,
                  scales.size(), i % static_cast<std::size_t>(block), static_cast<double>(x[i]), static_cast<double>(t),
                  scales[b]);
    FAIL() << f.name << " in blocks of " << block << ", " << text << std::hex << ": got 0x" << int{codes[i]}
           << ", packed 0x" << nibble << ", want 0x" << int{want[i]};
  }
  for (std::size_t i = 0; i < 64; ++i) {
    ASSERT_EQ(codes[n + i], untouched) << f.name << ": wrote behind " << n << " codes in blocks of " << block;
    ASSERT_EQ(packed[n / 2 + i], untouched) << f.name << ": wrote behind " << n << " packed codes";
  }
}

/// Each width that this machine has.
class InEveryWidth : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    if ((hwy::SupportedTargets() & GetParam()) == 0) GTEST_SKIP() << "not on this machine";
    hwy::GetChosenTarget().Update(GetParam());
  }
  void TearDown() override { hwy::GetChosenTarget().DeInit(); }
};

/// The scale that a rule would take, one beside it, or any byte at all.
std::uint8_t some_scale(Maker& maker, const formats::BlockFormat& f, const float* x, int n, float t) {
  const int way = maker.below(8);
  if (way == 0) return static_cast<std::uint8_t>(maker.below(256));
  const int code = sim::scale_code(f.scale, sim::six_rule, sim::amax(x, n), t) + (way < 4 ? maker.below(9) - 4 : 0);
  return static_cast<std::uint8_t>(std::clamp(code, 0, static_cast<int>(f.scale.max_code)));
}

TEST_P(InEveryWidth, the_codes_are_quantize_blocks_on_every_family) {
  for (const formats::BlockFormat& f : format_rows) {
    Maker maker(f.name, 1);
    for (const blocks::FamilyRow& family : blocks::all_families) {
      for (const float t : blocks::tensor_scales) {
        std::vector<float> x;
        Codes scales;
        for (int b = 0; b < 45; ++b) {  // more than a chunk of blocks, and not a whole one
          const std::vector<float> block = maker.make(family.family, t, f.block);
          scales.push_back(some_scale(maker, f, block.data(), f.block, t));
          x.insert(x.end(), block.begin(), block.end());
        }
        check(f, t, x, f.block, scales);
        if (HasFatalFailure()) FAIL() << "family " << family.name;
      }
    }
  }
}

/// Every threshold of a step, as a float and one unit beside it, and what has no neighbours; each with both signs.
std::vector<float> around_thresholds(const formats::BlockFormat& f, double step) {
  std::vector<float> x = {0, FLT_MAX, 0x1p-149f, 0x1p-126f, INFINITY, NAN};
  const sim::Thresholds thresholds = sim::make_thresholds(sim::make_grid(f), step);
  for (const double at : thresholds.at) {
    const float here = at < FLT_MAX ? static_cast<float>(at) : FLT_MAX;
    for (const float v : {std::nextafter(here, 0.0f), here, std::nextafter(here, INFINITY)}) x.push_back(v);
  }
  x.resize(32, 0);
  const std::size_t n = x.size();
  for (std::size_t i = 0; i < n; ++i) x.push_back(-x[i]);
  return x;
}

TEST_P(InEveryWidth, the_codes_are_quantize_blocks_beside_every_threshold_of_every_scale) {
  for (const formats::BlockFormat& f : format_rows) {
    for (const float t : blocks::tensor_scales) {
      std::vector<float> x;
      Codes scales;
      for (int code = 0; code < 256; ++code) {
        const std::vector<float> some = around_thresholds(f, step_of(f, t, static_cast<std::uint8_t>(code)));
        x.insert(x.end(), some.begin(), some.end());
        scales.insert(scales.end(), some.size() / 16, static_cast<std::uint8_t>(code));
      }
      check(f, t, x, 16, scales);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(InEveryWidth, any_block_size_and_any_number_of_blocks_will_do) {
  for (const formats::BlockFormat& f : format_rows) {
    Maker maker(f.name, 2);
    for (const int block : {2, 4, 6, 8, 10, 12, 16, 18, 24, 32, 40, 48, 64, 96, 128, 1022, 1024}) {
      for (int count = 0; count < (block < 100 ? 70 : 4); count = count < 9 ? count + 1 : 2 * count - 2) {
        std::vector<float> x;
        Codes scales;
        for (int b = 0; b < count; ++b) {
          const std::vector<float> values = maker.make(blocks::Family::normal_bf16, 1, block);
          scales.push_back(some_scale(maker, f, values.data(), block, 1));
          x.insert(x.end(), values.begin(), values.end());
        }
        check(f, 1, x, block, scales);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(InEveryWidth, a_tensor_scale_that_is_none_gives_zeros_with_signs) {
  const std::vector<float> x = {1, -1, 0, -0.0f, FLT_MAX, -INFINITY, NAN, 2,
                                1, -1, 0, -0.0f, FLT_MAX, -INFINITY, NAN, 2};
  for (const formats::BlockFormat& f : format_rows) {
    for (const float t : {0.0f, -1.0f, NAN, INFINITY}) check(f, t, x, 16, {0x38});
  }
}

TEST_P(InEveryWidth, bf16_bits_become_floats) {
  std::vector<std::uint16_t> bits(0x10000);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  for (const std::int64_t n : {0x10000, 1, 7, 8, 15, 16, 17, 31}) {
    const auto skipped = static_cast<std::int64_t>(bits.size()) - n;
    std::vector<float> x(static_cast<std::size_t>(n) + 1, 12345.0f);
    sim::widen_bf16(bits.data() + skipped, n, x.data());
    for (std::int64_t i = 0; i < n; ++i) {
      const auto got = __builtin_bit_cast(std::uint32_t, x[static_cast<std::size_t>(i)]);
      ASSERT_EQ(got, static_cast<std::uint32_t>(skipped + i) << 16) << "of " << n;
    }
    ASSERT_EQ(x.back(), 12345.0f) << "wrote behind " << n;
  }
}

INSTANTIATE_TEST_SUITE_P(EncodeLanes, InEveryWidth, testing::Values(HWY_AVX3, HWY_AVX2, HWY_SSE4, HWY_SCALAR),
                         [](const auto& row) { return std::string(hwy::TargetName(row.param)); });

}  // namespace
}  // namespace fp4scope
