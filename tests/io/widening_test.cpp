// Every F16 and BF16 is widened to the value that formats/codec.hpp gives its code; F64 is rounded once.

#include <cmath>
#include <limits>

#include "formats/codec.hpp"
#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::as_bytes;
using testing::bits_of;

class Widening : public testing::TempFolder {
 protected:
  Values read(const std::string& dtype, std::int64_t count, std::span<const std::byte> bytes) const {
    SafetensorsWriter writer(path("t.safetensors"), {{"a", dtype, {count}}}, {});
    writer.write("a", bytes);
    writer.commit();
    const auto opened = open_tensors(path("t.safetensors"));
    return opened->read(opened->tensors()[0]);
  }

  void expect_all_codes(const std::string& dtype, const formats::Format& format) const {
    std::vector<std::uint16_t> codes(65536);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint16_t>(i);
    const Values values = read(dtype, 65536, std::as_bytes(std::span(codes)));
    ASSERT_EQ(values.data.size(), codes.size());
    EXPECT_EQ(values.changed, 0);
    for (const std::uint16_t code : codes) {
      const float expected = formats::decode_float(format, code);
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(values.data[code])) << code;
      } else {
        ASSERT_EQ(bits_of<std::uint32_t>(values.data[code]), bits_of<std::uint32_t>(expected)) << code;
      }
    }
  }
};

TEST_F(Widening, EveryF16IsExact) { expect_all_codes("F16", formats::fp16); }

TEST_F(Widening, EveryBF16IsExact) { expect_all_codes("BF16", formats::bf16); }

TEST_F(Widening, F64IsRoundedOnceAndCounted) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string bytes =
      as_bytes({1.0, 1.0 + 0x1p-24, 1.0 + 0x3p-24, 0.1, inf, -inf, nan, 1e300, 0x1p-149, 0x1p-150, -0.0});
  const Values values = read("F64", 11, std::as_bytes(std::span(bytes)));
  EXPECT_EQ(values.changed, 5);  // the two ties, 0.1, 1e300 and half the smallest subnormal
  EXPECT_EQ(values.data[1], 1.0f);
  EXPECT_EQ(values.data[2], 1.0f + 0x2p-23f);
  EXPECT_EQ(values.data[3], 0.1f);
  EXPECT_EQ(values.data[4], std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(values.data[6]));
  EXPECT_EQ(values.data[7], std::numeric_limits<float>::infinity());
  EXPECT_EQ(values.data[8], 0x1p-149f);
  EXPECT_EQ(values.data[9], 0.0f);
  EXPECT_TRUE(std::signbit(values.data[10]));
}

}  // namespace
}  // namespace fp4scope::io
