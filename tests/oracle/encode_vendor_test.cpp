// formats::encode against the host code of NVIDIA's cuda_fp4.h, cuda_fp6.h and cuda_fp8.h. What those headers do
// differently with NaN, signs and zero is data in the rows below; all else has to be equal. The tests named
// CudaHeader hold what the headers document, typed out.
#include <gtest/gtest.h>

#ifdef FP4SCOPE_CUDA_HEADERS

#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
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
  std::uint32_t (*from_half)(__half_raw);  ///< nullptr where there is none
  std::uint32_t (*from_bfloat16)(__nv_bfloat16_raw);
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
          [](__half_raw x) { return std::uint32_t{__nv_cvt_halfraw_to_fp4(x, __NV_E2M1, R)}; },
          [](__nv_bfloat16_raw x) { return std::uint32_t{__nv_cvt_bfloat16raw_to_fp4(x, __NV_E2M1, R)}; },
          0x7, 0x7, 0x7, false};
}

template <__nv_fp6_interpretation_t I, cudaRoundMode R>
constexpr Converter fp6(const char* name, const formats::Format& format, Rounding mode) {
  return {name, format, mode, Overflow::saturate,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp6(x, I, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp6(x, I, R)}; },
          [](__half_raw x) { return std::uint32_t{__nv_cvt_halfraw_to_fp6(x, I, R)}; },
          [](__nv_bfloat16_raw x) { return std::uint32_t{__nv_cvt_bfloat16raw_to_fp6(x, I, R)}; },
          0x1F, 0x1F, 0x1F, false};
}

template <__nv_fp8_interpretation_t I, __nv_saturation_t S>
constexpr Converter fp8(const char* name, const formats::Format& format, std::uint32_t double_nan) {
  return {name, format, Rounding::nearest_even, S == __NV_SATFINITE ? Overflow::saturate : Overflow::nan,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_fp8(x, S, I)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_fp8(x, S, I)}; },
          [](__half_raw x) { return std::uint32_t{__nv_cvt_halfraw_to_fp8(x, S, I)}; },
          [](__nv_bfloat16_raw x) { return std::uint32_t{__nv_cvt_bfloat16raw_to_fp8(x, S, I)}; },
          0x7F, double_nan, double_nan | 0x80, false};
}

template <cudaRoundMode R, __nv_saturation_t S>
constexpr Converter e8m0(const char* name, Rounding mode) {
  return {name, formats::ue8m0, mode, S == __NV_SATFINITE ? Overflow::saturate : Overflow::nan,
          [](float x) { return std::uint32_t{__nv_cvt_float_to_e8m0(x, S, R)}; },
          [](double x) { return std::uint32_t{__nv_cvt_double_to_e8m0(x, S, R)}; },
          nullptr,
          [](__nv_bfloat16_raw x) { return std::uint32_t{__nv_cvt_bfloat16raw_to_e8m0(x, S, R)}; },
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
    compare(is_double ? "double" : "float", x, theirs, expected(x, is_double));
  }

  void compare(const char* source, double x, std::uint32_t theirs, std::uint32_t ours) {
    if (ours == theirs || ++failures > 10) return;
    ADD_FAILURE() << converter.name << " of " << source << ' ' << oracle::show(x) << std::hex
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

/// They are widened to binary32 first, which is exact.
TEST_P(Cuda, converts_every_half_and_every_bfloat16_as_its_float) {
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    const auto bits = static_cast<unsigned short>(code);
    const double half = formats::decode_double(formats::fp16, code);
    const double bfloat16 = formats::decode_double(formats::bf16, code);
    if (converter.from_half) compare("half", half, converter.from_half(__half_raw{bits}), expected(half, false));
    compare("bfloat16", bfloat16, converter.from_bfloat16(__nv_bfloat16_raw{bits}), expected(bfloat16, false));
  }
  EXPECT_EQ(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(converters, Cuda, testing::ValuesIn(converters),
                         [](const auto& row) { return std::string(row.param.name); });

// ---- What the headers document, typed out ---------------------------------------------------------------------------

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double double_nan = std::numeric_limits<double>::quiet_NaN();

float float_of(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// Quiet and signalling, of both signs.
const float float_nans[] = {float_of(0x7FC00000), float_of(0x7F800001), float_of(0x7FFFFFFF),
                            float_of(0xFFC00000), float_of(0xFF800001), float_of(0xFFFFFFFF)};

struct Typed {
  float x;
  unsigned code;
};

unsigned to_fp4(float x, cudaRoundMode mode) { return __nv_cvt_float_to_fp4(x, __NV_E2M1, mode); }
unsigned to_e4m3(float x, __nv_saturation_t overflow) { return __nv_cvt_float_to_fp8(x, overflow, __NV_E4M3); }
unsigned double_to_e4m3(double x, __nv_saturation_t overflow) { return __nv_cvt_double_to_fp8(x, overflow, __NV_E4M3); }

TEST(CudaHeader, float_to_fp4_rounds_to_nearest_even_saturates_and_keeps_the_sign_of_zero) {
  for (const auto& [x, code] : {Typed{0.25f, 0}, {0.75f, 2}, {1.25f, 2}, {1.75f, 4}, {2.5f, 4}, {3.5f, 6}, {5.0f, 6},
                                {6.0f, 7}, {7.0f, 7}, {1e30f, 7}, {infinity, 7}, {0.0f, 0}, {0x1p-149f, 0}}) {
    EXPECT_EQ(to_fp4(x, cudaRoundNearest), code) << x;
    EXPECT_EQ(to_fp4(-x, cudaRoundNearest), code | 8) << -x;
  }
}

TEST(CudaHeader, float_to_fp4_toward_zero_truncates_the_magnitude_and_is_the_same_otherwise) {
  for (const auto& [x, code] : {Typed{0.25f, 0}, {0.4999f, 0}, {0.5f, 1}, {0.75f, 1}, {1.25f, 2}, {1.75f, 3}, {2.5f, 4},
                                {3.5f, 5}, {5.999f, 6}, {6.0f, 7}, {1e30f, 7}, {infinity, 7}, {0.0f, 0}}) {
    EXPECT_EQ(to_fp4(x, cudaRoundZero), code) << x;
    EXPECT_EQ(to_fp4(-x, cudaRoundZero), code | 8) << -x;
  }
}

TEST(CudaHeader, every_nan_is_plus_6_in_fp4) {
  for (const cudaRoundMode mode : {cudaRoundNearest, cudaRoundZero}) {
    for (const float nan : float_nans) EXPECT_EQ(to_fp4(nan, mode), 0x7u);
    EXPECT_EQ(__nv_cvt_double_to_fp4(double_nan, __NV_E2M1, mode), 0x7u);
    EXPECT_EQ(__nv_cvt_double_to_fp4(-double_nan, __NV_E2M1, mode), 0x7u);
  }
}

TEST(CudaHeader, float_to_e4m3_satfinite_rounds_subnormals_and_ends_at_448) {
  for (const auto& [x, code] : {Typed{0x1p-9f, 0x01}, {0x1p-10f, 0x00}, {0x1.8p-9f, 0x02}, {0x1.4p-8f, 0x02},
                                {0x1.Ep-7f, 0x08}, {448.0f, 0x7E}, {464.0f, 0x7E}, {465.0f, 0x7E}, {infinity, 0x7E}}) {
    EXPECT_EQ(to_e4m3(x, __NV_SATFINITE), code) << x;
    EXPECT_EQ(to_e4m3(-x, __NV_SATFINITE), code | 0x80) << -x;
  }
}

TEST(CudaHeader, float_to_e4m3_nosat_is_nan_with_the_sign_above_464_which_is_a_tie_and_goes_to_448) {
  for (const auto& [x, code] : {Typed{464.0f, 0x7E}, {std::nextafter(464.0f, infinity), 0x7F}, {1e30f, 0x7F},
                                {infinity, 0x7F}}) {
    EXPECT_EQ(to_e4m3(x, __NV_NOSAT), code) << x;
    EXPECT_EQ(to_e4m3(-x, __NV_NOSAT), code | 0x80) << -x;
  }
}

TEST(CudaHeader, double_to_e4m3_rounds_once) {
  const double x = std::nextafter(464.0, 1e3), y = std::nextafter(1.0625, 2.0);
  EXPECT_EQ(double_to_e4m3(x, __NV_NOSAT), 0x7Fu);
  EXPECT_EQ(to_e4m3(static_cast<float>(x), __NV_NOSAT), 0x7Eu);
  EXPECT_EQ(double_to_e4m3(y, __NV_SATFINITE), 0x39u);
  EXPECT_EQ(to_e4m3(static_cast<float>(y), __NV_SATFINITE), 0x38u);
}

TEST(CudaHeader, a_nan_in_e4m3_loses_its_sign_from_a_float_and_keeps_it_from_a_double) {
  for (const __nv_saturation_t overflow : {__NV_SATFINITE, __NV_NOSAT}) {
    for (const float nan : float_nans) EXPECT_EQ(to_e4m3(nan, overflow), 0x7Fu);
    EXPECT_EQ(double_to_e4m3(double_nan, overflow), 0x7Fu);
    EXPECT_EQ(double_to_e4m3(-double_nan, overflow), 0xFFu);
  }
}

TEST(CudaHeader, e8m0_ignores_the_sign_and_takes_what_is_at_most_2_to_the_minus_127_to_code_0) {
  for (const cudaRoundMode mode : {cudaRoundZero, cudaRoundPosInf}) {
    for (const __nv_saturation_t overflow : {__NV_SATFINITE, __NV_NOSAT}) {
      const auto code = [&](float x) { return unsigned{__nv_cvt_float_to_e8m0(x, overflow, mode)}; };
      for (const float nan : float_nans) EXPECT_EQ(code(nan), 0xFFu);
      const unsigned beyond = overflow == __NV_SATFINITE ? 0xFE : 0xFF, up = mode == cudaRoundPosInf ? 1 : 0;
      for (const auto& [x, want] : {Typed{infinity, beyond}, {0.0f, 0}, {0x1p-149f, 0}, {0x1p-127f, 0}, {1.0f, 0x7F},
                                    {0x1.8p-127f, up}, {0x1.000002p0f, 0x7F + up}, {0x1p127f, 0xFE}}) {
        EXPECT_EQ(code(x), want) << x;
        EXPECT_EQ(code(-x), want) << -x;
      }
    }
  }
}

TEST(CudaHeader, the_e8m0_constructor_saturates_and_rounds_up_once) {
  EXPECT_EQ(__nv_fp8_e8m0(std::nextafter(1.0f, 2.0f)).__x, 0x80);
  EXPECT_EQ(__nv_fp8_e8m0(std::nextafter(1.0, 2.0)).__x, 0x80);  // by way of binary32 it would be 0x7F
  EXPECT_EQ(__nv_fp8_e8m0(infinity).__x, 0xFE);
}

TEST(CudaHeader, decodes_every_code_to_the_value_that_decode_gives) {
  const auto expect_half = [](const formats::Format& f, std::uint32_t code, __half_raw half) {
    const double theirs = formats::decode_double(formats::fp16, half.x), ours = formats::decode_double(f, code);
    EXPECT_TRUE(theirs == ours || (std::isnan(theirs) && std::isnan(ours))) << f.name << ' ' << code;
  };
  for (std::uint32_t code = 0; code < 256; ++code) {
    const auto x = static_cast<std::uint8_t>(code);
    if (code < 16) expect_half(formats::e2m1, code, __nv_cvt_fp4_to_halfraw(x, __NV_E2M1));
    if (code < 64) expect_half(formats::e2m3, code, __nv_cvt_fp6_to_halfraw(x, __NV_E2M3));
    if (code < 64) expect_half(formats::e3m2, code, __nv_cvt_fp6_to_halfraw(x, __NV_E3M2));
    expect_half(formats::e4m3, code, __nv_cvt_fp8_to_halfraw(x, __NV_E4M3));
    expect_half(formats::e5m2, code, __nv_cvt_fp8_to_halfraw(x, __NV_E5M2));
    const double theirs = formats::decode_double(formats::bf16, __nv_cvt_e8m0_to_bf16raw(x).x);
    EXPECT_TRUE(code == 0xFF ? std::isnan(theirs) : theirs == formats::decode_double(formats::ue8m0, code)) << code;
  }
  EXPECT_EQ(__nv_cvt_e8m0_to_bf16raw(0x00).x, 0x0040);  // 2^-127, a subnormal
  EXPECT_EQ(__nv_cvt_e8m0_to_bf16raw(0xFF).x, 0x7FFF);
}

TEST(CudaHeader, packs_the_first_number_into_the_low_nibble) {
  EXPECT_EQ(__nv_cvt_float2_to_fp4x2(float2{0.5f, 6.0f}, __NV_E2M1, cudaRoundNearest), 0x71);
}

}  // namespace
}  // namespace fp4scope

#else

TEST(Cuda, converts_as_encode_does) { GTEST_SKIP() << "skipped: built without CUDA's headers"; }

#endif
