// Recipe cuda against the host code of cuda_fp4.h, cuda_fp6.h and cuda_fp8.h, binary32 and binary64: no difference in
// any pattern of bf16 and its neighbours, any threshold and its neighbours, NaNs of both signs, zeros, Infs,
// subnormals.
#include <gtest/gtest.h>

#ifdef FP4SCOPE_CUDA_HEADERS

#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "sim/converter.hpp"
#include "tests/oracle/oracle.hpp"

namespace fp4scope {
namespace {

using formats::Overflow;
using formats::Rounding;

struct Vendor {
  const char* name;
  const char* element;
  Rounding mode;
  Overflow policy;
  std::uint32_t (*from_float)(float);
  std::uint32_t (*from_double)(double);
};

template <cudaRoundMode R>
constexpr Vendor fp4(const char* name, Rounding mode) {
  return {name,
          "e2m1",
          mode,
          Overflow::saturate,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp4(x, __NV_E2M1, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp4(x, __NV_E2M1, R)}; }};
}

template <__nv_fp6_interpretation_t I, cudaRoundMode R>
constexpr Vendor fp6(const char* name, const char* element, Rounding mode) {
  return {name,
          element,
          mode,
          Overflow::saturate,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp6(x, I, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp6(x, I, R)}; }};
}

template <__nv_fp8_interpretation_t I, __nv_saturation_t S>
constexpr Vendor fp8(const char* name, const char* element) {
  return {name,
          element,
          Rounding::nearest_even,
          S == __NV_SATFINITE ? Overflow::saturate : Overflow::nan,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp8(x, S, I)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp8(x, S, I)}; }};
}

template <cudaRoundMode R, __nv_saturation_t S>
constexpr Vendor e8m0(const char* name, Rounding mode) {
  return {name,
          "ue8m0",
          mode,
          S == __NV_SATFINITE ? Overflow::saturate : Overflow::nan,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_e8m0(x, S, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_e8m0(x, S, R)}; }};
}

const Vendor vendors[] = {
    fp4<cudaRoundNearest>("E2M1_nearest", Rounding::nearest_even),
    fp4<cudaRoundZero>("E2M1_zero", Rounding::toward_zero),
    fp6<__NV_E2M3, cudaRoundNearest>("E2M3_nearest", "e2m3", Rounding::nearest_even),
    fp6<__NV_E2M3, cudaRoundZero>("E2M3_zero", "e2m3", Rounding::toward_zero),
    fp6<__NV_E3M2, cudaRoundNearest>("E3M2_nearest", "e3m2", Rounding::nearest_even),
    fp6<__NV_E3M2, cudaRoundZero>("E3M2_zero", "e3m2", Rounding::toward_zero),
    fp8<__NV_E4M3, __NV_SATFINITE>("E4M3_satfinite", "e4m3"),
    fp8<__NV_E4M3, __NV_NOSAT>("E4M3_nosat", "e4m3"),
    fp8<__NV_E5M2, __NV_SATFINITE>("E5M2_satfinite", "e5m2"),
    fp8<__NV_E5M2, __NV_NOSAT>("E5M2_nosat", "e5m2"),
    e8m0<cudaRoundZero, __NV_SATFINITE>("E8M0_zero_satfinite", Rounding::toward_zero),
    e8m0<cudaRoundZero, __NV_NOSAT>("E8M0_zero_nosat", Rounding::toward_zero),
    e8m0<cudaRoundPosInf, __NV_SATFINITE>("E8M0_up_satfinite", Rounding::up),
    e8m0<cudaRoundPosInf, __NV_NOSAT>("E8M0_up_nosat", Rounding::up),
};

void PrintTo(const Vendor& v, std::ostream* out) { *out << v.name; }

class CudaRecipe : public testing::TestWithParam<Vendor> {
 protected:
  const Vendor& vendor = GetParam();
  const sim::Converter* const row = sim::find_converter("cuda", vendor.element);
  int failures = 0;
  long compared = 0;

  template <class Real>
  void compare(Real x, std::uint32_t theirs) {
    ++compared;
    const std::uint32_t ours = sim::convert(*row, x, vendor.mode, vendor.policy);
    if (ours == theirs || ++failures > 10) return;
    ADD_FAILURE() << vendor.name << " of " << sizeof(Real) * 8 << " bits " << oracle::show(static_cast<double>(x))
                  << std::hex << "\n  ours   0x" << ours << " value " << formats::decode_double(row->element, ours)
                  << "\n  theirs 0x" << theirs << " value " << formats::decode_double(row->element, theirs);
  }
  void compare_float(float x) { compare(x, vendor.from_float(x)); }
  void compare_double(double x) { compare(x, vendor.from_double(x)); }
};

TEST_P(CudaRecipe, gives_the_headers_codes) {
  ASSERT_TRUE(row);
  EXPECT_TRUE(row->offers(vendor.mode) && row->offers(vendor.policy));
  // Every threshold of these formats is a bf16 pattern or half way between two.
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    for (const std::uint32_t low : {0xFFFFFFFEu, 0xFFFFFFFFu, 0u, 1u, 2u, 0x7FFFu, 0x8000u, 0x8001u}) {
      const float x = __builtin_bit_cast(float, (high << 16) + low);
      compare_float(x);
      if (low <= 1) compare_double(static_cast<double>(x));
    }
  }
  const oracle::Oracle oracle{oracle::grid_named(vendor.element)};
  for (const double x : oracle::boundary_points(oracle)) {
    compare_float(static_cast<float>(x));
    compare_double(x);
  }
  EXPECT_EQ(failures, 0);
  std::cout << compared << " codes compared\n";
}

INSTANTIATE_TEST_SUITE_P(rows, CudaRecipe, testing::ValuesIn(vendors),
                         [](const auto& vendor) { return std::string(vendor.param.name); });

}  // namespace
}  // namespace fp4scope

#else

TEST(CudaRecipe, gives_the_headers_codes) { GTEST_SKIP() << "skipped: built without CUDA's headers"; }

#endif
