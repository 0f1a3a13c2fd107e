// formats::encode against the host code of NVIDIA's cuda_fp4.h, cuda_fp6.h and cuda_fp8.h. What those headers do
// differently with NaN, signs and zero is data in the rows below; all else has to be equal.
#include <gtest/gtest.h>

#ifdef FP4SCOPE_CUDA_HEADERS

#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "formats/codec.hpp"
#include "tests/oracle/oracle.hpp"

namespace fp4scope {
namespace {

using formats::Overflow;
using formats::Rounding;

struct Converter {
  const char* name;
  formats::Format format;
  Rounding mode;
  Overflow policy;
  std::uint32_t (*from_float)(float);
  std::uint32_t (*from_double)(double);
  std::uint32_t float_nan;            ///< the code of every binary32 NaN
  std::uint32_t double_nan;           ///< of a positive binary64 NaN
  std::uint32_t negative_double_nan;  ///< of a negative one
  bool ignores_sign;                  ///< converts |x|, and 0 to the smallest power
};

template <cudaRoundMode R>
constexpr Converter fp4(const char* name, Rounding mode) {
  return {name, formats::e2m1, mode, Overflow::saturate,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp4(x, __NV_E2M1, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp4(x, __NV_E2M1, R)}; },
          0x7, 0x7, 0x7, false};
}

template <__nv_fp6_interpretation_t I, cudaRoundMode R>
constexpr Converter fp6(const char* name, const formats::Format& format, Rounding mode) {
  return {name, format, mode, Overflow::saturate,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp6(x, I, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp6(x, I, R)}; },
          0x1F, 0x1F, 0x1F, false};
}

template <__nv_fp8_interpretation_t I, __nv_saturation_t S>
constexpr Converter fp8(const char* name, const formats::Format& format, std::uint32_t double_nan) {
  return {name, format, Rounding::nearest_even, S == __NV_SATFINITE ? Overflow::saturate : Overflow::nan,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp8(x, S, I)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp8(x, S, I)}; },
          0x7F, double_nan, double_nan | 0x80, false};
}

template <cudaRoundMode R, __nv_saturation_t S>
constexpr Converter e8m0(const char* name, Rounding mode) {
  return {name, formats::ue8m0, mode, S == __NV_SATFINITE ? Overflow::saturate : Overflow::nan,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_e8m0(x, S, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_e8m0(x, S, R)}; },
          0xFF, 0xFF, 0xFF, true};
}

const Converter converters[] = {
    fp4<cudaRoundNearest>("E2M1_nearest", Rounding::nearest_even),
    fp4<cudaRoundZero>("E2M1_zero", Rounding::toward_zero),
    fp6<__NV_E2M3, cudaRoundNearest>("E2M3_nearest", formats::e2m3, Rounding::nearest_even),
    fp6<__NV_E2M3, cudaRoundZero>("E2M3_zero", formats::e2m3, Rounding::toward_zero),
    fp6<__NV_E3M2, cudaRoundNearest>("E3M2_nearest", formats::e3m2, Rounding::nearest_even),
    fp6<__NV_E3M2, cudaRoundZero>("E3M2_zero", formats::e3m2, Rounding::toward_zero),
    fp8<__NV_E4M3, __NV_SATFINITE>("E4M3_satfinite", formats::e4m3, 0x7F),
    fp8<__NV_E4M3, __NV_NOSAT>("E4M3_nosat", formats::e4m3, 0x7F),
    fp8<__NV_E5M2, __NV_SATFINITE>("E5M2_satfinite", formats::e5m2, 0x7E),
    fp8<__NV_E5M2, __NV_NOSAT>("E5M2_nosat", formats::e5m2, 0x7E),
    e8m0<cudaRoundZero, __NV_SATFINITE>("E8M0_zero_satfinite", Rounding::toward_zero),
    e8m0<cudaRoundZero, __NV_NOSAT>("E8M0_zero_nosat", Rounding::toward_zero),
    e8m0<cudaRoundPosInf, __NV_SATFINITE>("E8M0_up_satfinite", Rounding::up),
    e8m0<cudaRoundPosInf, __NV_NOSAT>("E8M0_up_nosat", Rounding::up),
};

void PrintTo(const Converter& c, std::ostream* out) { *out << c.name; }

class Cuda : public testing::TestWithParam<Converter> {
 protected:
  const Converter& converter = GetParam();
  const oracle::Oracle oracle{oracle::grid_named(converter.format.name)};
  int failures = 0;

  /// What encode gives, or what the row says of NaN, signs and zero.
  std::uint32_t expected(double x, bool is_double) const {
    if (std::isnan(x) && !is_double) return converter.float_nan;
    if (std::isnan(x)) return std::signbit(x) ? converter.negative_double_nan : converter.double_nan;
    if (converter.ignores_sign && x == 0) return 0;
    if (converter.ignores_sign) x = std::fabs(x);
    return formats::encode(converter.format, x, converter.mode, converter.policy).code;
  }

  void compare(double x, bool is_double) {
    const std::uint32_t theirs = is_double ? converter.from_double(x) : converter.from_float(static_cast<float>(x));
    const std::uint32_t ours = expected(x, is_double);
    if (ours == theirs || ++failures > 10) return;
    ADD_FAILURE() << converter.name << " of " << (is_double ? "double " : "float ") << oracle::show(x) << std::hex
                  << "\n  ours   0x" << ours << " value " << formats::decode_double(converter.format, ours)
                  << "\n  theirs 0x" << theirs << " value " << formats::decode_double(converter.format, theirs);
  }
};

TEST_P(Cuda, converts_floats_as_encode_does) {
  oracle::Words words(3);
  long compared = 0;
  for (const double x : oracle::boundary_points(oracle)) {
    compare(static_cast<double>(static_cast<float>(x)), false);
    ++compared;
  }
  for (int i = 0; i < 1 << 21; ++i, ++compared) {
    compare(static_cast<double>(__builtin_bit_cast(float, static_cast<std::uint32_t>(words()))), false);
  }
  EXPECT_EQ(failures, 0);
  std::cout << compared << " floats compared\n";
}

TEST_P(Cuda, converts_doubles_as_encode_does) {
  long compared = 0;
  for (const std::vector<double>& points : {oracle::boundary_points(oracle), oracle::stratified_points(5, 128)}) {
    for (const double x : points) compare(x, true);
    compared += static_cast<long>(points.size());
  }
  EXPECT_EQ(failures, 0);
  std::cout << compared << " doubles compared\n";
}

INSTANTIATE_TEST_SUITE_P(converters, Cuda, testing::ValuesIn(converters),
                         [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace fp4scope

#else

TEST(Cuda, converts_as_encode_does) { GTEST_SKIP() << "skipped: built without CUDA's headers"; }

#endif
