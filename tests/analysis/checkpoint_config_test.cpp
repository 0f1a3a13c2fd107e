// Claims of analysis/checkpoint_config.hpp: the stored S is the best that there is, and JSON keeps what it had.
#include "analysis/checkpoint_config.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

/// |RNE32(1 / s) - d| by a division in binary64 rounded again: with 24-bit operands that rounds as once (Figueroa 1995).
double distance(float s, float d) {
  const auto decoded = static_cast<float>(1.0 / static_cast<double>(s));
  return std::fabs(static_cast<double>(decoded) - static_cast<double>(d));
}

TEST(EncodeScale, EveryMantissaGetsTheClosestDecode) {
  std::int64_t met = 0;
  for (std::uint32_t mantissa = 0; mantissa < (1u << 23); ++mantissa) {
    const float d = from_bits(0x38000000u | mantissa);
    const float s = encode_scale_of(d);
    const double reached = distance(s, d);
    met += reached == 0;
    for (std::uint32_t step = 1; step <= 3; ++step) {
      const auto bits = std::bit_cast<std::uint32_t>(s);
      ASSERT_LE(reached, distance(from_bits(bits + step), d)) << "d " << d << " S " << s << " + " << step;
      ASSERT_LE(reached, distance(from_bits(bits - step), d)) << "d " << d << " S " << s << " - " << step;
    }
  }
  EXPECT_EQ(met, 6'949'350);
}

TEST(EncodeScale, EveryExponentGivesAFiniteScaleAndDecode) {
  for (std::uint32_t field = 0; field < 255; ++field) {
    for (const std::uint32_t mantissa : {1u, 0x400000u, 0x7FFFFFu}) {
      const float d = from_bits(field << 23 | mantissa);
      const float s = encode_scale_of(d);
      ASSERT_TRUE(s > 0 && std::isfinite(s)) << d;
      ASSERT_TRUE(decode_scale_of(s) > 0 && std::isfinite(decode_scale_of(s))) << d;
    }
  }
  EXPECT_EQ(encode_scale_of(1.0f), 1.0f);
}

TEST(Config, KeysKeepTheirOrderAndTheRest) {
  const std::string old = R"({"z": 1e-05, "a": {"y": [1, 2.0], "b": null}, "n": 18446744073709551615})";
  const std::string added = with_quantization_config(old, R"({"quant_method": "x"})", "c");
  auto j = nlohmann::ordered_json::parse(added);
  std::vector<std::string> keys;
  for (const auto& [name, value] : j.items()) keys.push_back(name);
  EXPECT_EQ(keys, (std::vector<std::string>{"z", "a", "n", "quantization_config"}));
  EXPECT_THROW(with_quantization_config(added, "{}", "c"), Error);
  EXPECT_NO_THROW(with_quantization_config(added, "{}", "c", true));
  EXPECT_NO_THROW(with_quantization_config(R"({"quantization_config": null})", "{}", "c"));
  j.erase("quantization_config");
  EXPECT_EQ(j, nlohmann::ordered_json::parse(old));
  EXPECT_THROW(with_quantization_config("[]", "{}", "c"), Error);
  EXPECT_THROW(with_quantization_config("{", "{}", "c"), Error);
}

TEST(Config, EmbeddingsAndModules) {
  EXPECT_TRUE(is_embedding("model.embed_tokens.weight"));
  EXPECT_TRUE(is_embedding("transformer.wte.weight"));
  EXPECT_FALSE(is_embedding("lm_head.weight"));
  EXPECT_EQ(module_of("a.b.weight"), "a.b");
  EXPECT_EQ(module_of("weight"), "weight");
}

}  // namespace
}  // namespace fp4scope::analysis
