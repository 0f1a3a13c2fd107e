// formats::encode against ml_dtypes' own casts (golden/ml_dtypes.safetensors, 262,318 binary32 patterns; committed are
// 18,446 of them, every NaN and subnormal included and so every deviation): nearest even, overflow to Inf or NaN. Where
// the two differ by design, the rows below say how and exactly how often.
#include <gtest/gtest.h>

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "formats/codec.hpp"
#include "tests/oracle/golden_casts.hpp"

namespace fp4scope {
namespace {

using formats::Format;
using golden::Golden;
using golden::golden_file;
using golden::Tensors;

/// Inputs whose bits lie in [first, last] give `theirs` there and `ours` here, `count` times in either file.
struct Deviation {
  std::uint32_t first, last;
  std::uint32_t ours, theirs;
  long count;
};

struct Type {
  const char* tensor;
  Format format;
  std::vector<Deviation> deviations;
};

constexpr Deviation positive_nan(std::uint32_t ours, std::uint32_t theirs) {
  return {0x7F800001, 0x7FFFFFFF, ours, theirs, 508};
}

constexpr Deviation negative_nan(std::uint32_t ours, std::uint32_t theirs) {
  return {0xFF800001, 0xFFFFFFFF, ours, theirs, 484};
}

// Where there is no NaN code ml_dtypes writes the zero of the other sign, fp4scope the largest value (cuda_fp4.h does);
// where there is one, ml_dtypes keeps the sign and fp4scope's NaN is canonical. ml_dtypes rounds all of binary32's
// subnormals above 2^-127 to the power 2^-126, those nearer to 2^-127 too.
const Type types[] = {
    {"float4_e2m1fn", formats::e2m1, {positive_nan(0x7, 0x8), negative_nan(0x7, 0x0)}},
    {"float6_e2m3fn", formats::e2m3, {positive_nan(0x1F, 0x20), negative_nan(0x1F, 0x00)}},
    {"float6_e3m2fn", formats::e3m2, {positive_nan(0x1F, 0x20), negative_nan(0x1F, 0x00)}},
    {"float8_e3m4", formats::e3m4, {negative_nan(0x78, 0xF8)}},
    {"float8_e4m3", formats::e4m3_ieee, {negative_nan(0x7C, 0xFC)}},
    {"float8_e4m3fn", formats::e4m3, {negative_nan(0x7F, 0xFF)}},
    {"float8_e5m2", formats::e5m2, {negative_nan(0x7E, 0xFE)}},
    {"float8_e8m0fnu", formats::ue8m0, {{0x00400001, 0x005FFFFF, 0x00, 0x01, 124}}},
    {"bfloat16", formats::bf16, {negative_nan(0x7FC0, 0xFFC0)}},
};

TEST(MlDtypes, casts_equal_encode_but_for_the_counted_deviations) {
  const Golden golden = golden_file();
  if (golden.path.empty()) GTEST_SKIP() << "skipped: FP4SCOPE_SHARED is not set";

  const Tensors tensors(golden.path);
  const std::vector<std::uint32_t> inputs = tensors.bits("bits");
  ASSERT_EQ(inputs.size(), golden.patterns);
  long compared = 0, explained = 0;
  for (const Type& type : types) {
    const std::vector<std::uint32_t> theirs = tensors.bits(type.tensor);
    ASSERT_EQ(theirs.size(), inputs.size()) << type.tensor;
    std::vector<long> counts(type.deviations.size());
    int unexplained = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i, ++compared) {
      const float x = __builtin_bit_cast(float, inputs[i]);
      const std::uint32_t ours =
          formats::encode(type.format, x, formats::Rounding::nearest_even, formats::Overflow::nan).code;
      if (ours == theirs[i]) continue;
      std::size_t row = 0;
      const auto explains = [&](const Deviation& d) {
        return d.first <= inputs[i] && inputs[i] <= d.last && ours == d.ours && theirs[i] == d.theirs;
      };
      while (row < counts.size() && !explains(type.deviations[row])) ++row;
      if (row < counts.size()) {
        ++counts[row];
        ++explained;
      } else if (++unexplained <= 10) {
        ADD_FAILURE() << type.tensor << " of 0x" << std::hex << inputs[i] << " = " << std::hexfloat << x << " = "
                      << std::defaultfloat << x << "\n  ours   0x" << ours << " value "
                      << formats::decode_double(type.format, ours) << "\n  theirs 0x" << theirs[i] << " value "
                      << formats::decode_double(type.format, theirs[i]);
      }
    }
    EXPECT_EQ(unexplained, 0) << type.tensor;
    for (std::size_t row = 0; row < counts.size(); ++row) {
      EXPECT_EQ(counts[row], type.deviations[row].count) << type.tensor << ", deviation " << row;
    }
  }
  std::cout << compared << " codes compared, " << explained << " differ as documented\n";
}

}  // namespace
}  // namespace fp4scope
