// Recipe ml_dtypes against ml_dtypes' own casts (golden/ml_dtypes.safetensors): every type, every input, no difference.
#include <gtest/gtest.h>

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "sim/converter.hpp"
#include "tests/oracle/golden_casts.hpp"

namespace fp4scope {
namespace {

struct Type {
  const char* tensor;
  const char* element;
};

const Type types[] = {
    {"float4_e2m1fn", "e2m1"}, {"float6_e2m3fn", "e2m3"},    {"float6_e3m2fn", "e3m2"},
    {"float8_e3m4", "e3m4"},   {"float8_e4m3", "e4m3_ieee"}, {"float8_e4m3fn", "e4m3"},
    {"float8_e5m2", "e5m2"},   {"float8_e8m0fnu", "ue8m0"},  {"bfloat16", "bf16"},
};

TEST(MlDtypes, casts_are_the_recipe_s_codes) {
  const golden::Golden golden = golden::golden_file();
  if (golden.path.empty()) GTEST_SKIP() << "skipped: FP4SCOPE_SHARED is not set";
  const golden::Tensors tensors(golden.path);
  const std::vector<std::uint32_t> inputs = tensors.bits("bits");
  ASSERT_EQ(inputs.size(), golden.patterns);
  long compared = 0;
  for (const Type& type : types) {
    const sim::Converter* row = sim::find_converter("ml_dtypes", type.element);
    ASSERT_TRUE(row) << type.element;
    const std::vector<std::uint32_t> theirs = tensors.bits(type.tensor);
    ASSERT_EQ(theirs.size(), inputs.size()) << type.tensor;
    int different = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i, ++compared) {
      const float x = __builtin_bit_cast(float, inputs[i]);
      const std::uint32_t ours = sim::convert(*row, x, row->rounding, row->overflow);
      if (ours == theirs[i] || ++different > 10) continue;
      ADD_FAILURE() << type.tensor << " of 0x" << std::hex << inputs[i] << " = " << std::hexfloat << x << " = "
                    << std::defaultfloat << x << "\n  ours   0x" << ours << " value "
                    << formats::decode_double(row->element, ours) << "\n  theirs 0x" << theirs[i] << " value "
                    << formats::decode_double(row->element, theirs[i]);
    }
    EXPECT_EQ(different, 0) << type.tensor;
  }
  std::cout << compared << " codes compared\n";
}

}  // namespace
}  // namespace fp4scope
