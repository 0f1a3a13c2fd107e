// The random Hadamard transform of a run of n values, n a power of two from 2 to 1024:
//
//   y_j = sum_i x_i s_i H_ij / sqrt(n),   H_ij = (-1)^popcount(i & j)   (natural order, Sylvester),   s_i = +1 or -1
//
// H is symmetric and H H = n I, so x_i = s_i sum_j y_j H_ij / sqrt(n) goes back. The sum in the order i = 0 .. n - 1 is
// the definition in every arithmetic; there is no butterfly, whose partial sums are others.
//
//   exact             sum in binary64, times 1/sqrt(n), rounded once to binary32
//   float32           sum of fl(x_i / sqrt(n)) s_i H_ij in binary32, each addition rounded
//   float32_to_bf16   the same, and the sum rounded to bf16
//   float32_to_fp16   the same, and the sum rounded to fp16
//
// Bit budget of `exact`: with e the exponent of a leading bit, every partial sum is a multiple of 2^(e_min - 23) below
// n 2^(e_max + 1), so no addition rounds while e_max - e_min <= 53 - 24 - log2 n, e_min over the x that aren't 0: 25
// for n = 16, 19 for n = 1024, and 16 more where x is bf16. For n = 4^k, 1/sqrt(n) is a power of two, the product is
// exact, and y is the real number rounded once. For other n, 1/sqrt(n) is the double nearest to it and y is the
// binary32 nearest to the binary64 product: within 1/2 + 2^-27 units in its last place. Beyond that spread each
// addition rounds to binary64, in index order.
//
// The float32 ways are the recipes: n = 16, entries of +-1/4, terms added in index order in binary32, the sum rounded
// to the tensor's dtype (fouroversix 1.1.0, CUDA; TransformerEngine multiplies by the same matrix). For n other than
// 4^k, 1/sqrt(n) is the binary32 nearest to it. A sum too large for its dtype is Inf; Inf - Inf is NaN. Every sum
// starts from +0, so a sum of zeros is +0.
//
// No product here is added before it is rounded, so contraction into fused multiply-adds finds nothing to contract.
#pragma once

#include <cstdint>

#include "formats/codec.hpp"

namespace fp4scope::sim {

inline constexpr int max_hadamard_size = 1024;

/// 2, 4, .. 1024.
FP4SCOPE_HD constexpr bool is_hadamard_size(std::int64_t n) noexcept {
  return n >= 2 && n <= max_hadamard_size && (n & (n - 1)) == 0;
}

enum class HadamardArithmetic : std::uint8_t { exact, float32, float32_to_bf16, float32_to_fp16 };

/// H_ij: +1 or -1.
FP4SCOPE_HD constexpr int hadamard_sign(std::uint32_t i, std::uint32_t j) noexcept {
  std::uint32_t bits = i & j;
  for (int shift = 16; shift > 0; shift /= 2) bits ^= bits >> shift;  // the parity gathers in bit 0
  return (bits & 1) != 0 ? -1 : 1;
}

/// Signs of the 16-point transform without a seed: + + + - + - - - - - - + - + - -, bit i of 0xD7E8 set for a minus.
/// TransformerEngine, get_wgrad_sign_vector ("hard-coded random signs"); fouroversix and torchao have the same.
FP4SCOPE_HD constexpr std::int8_t fixed_sign_16(int i) noexcept {
  return static_cast<std::int8_t>((0xD7E8u >> i & 1) != 0 ? -1 : 1);
}

/// The double nearest to 1/sqrt(n), a power of two for n = 4^k.
FP4SCOPE_HD constexpr double hadamard_scale(int n) noexcept {
  double scale = 1;
  for (; n >= 4; n /= 4) scale /= 2;
  return n == 2 ? scale * 0x1.6a09e667f3bcdp-1 : scale;  // 1/sqrt(2) = 0x1.6a09e667f3bcc908b2fb..p-1
}

/// sum_i x_i s_i H_ij / sqrt(n), `signs` null for all +1.
FP4SCOPE_HD constexpr float hadamard_point(const float* x, const std::int8_t* signs, int n, int j,
                                           HadamardArithmetic arithmetic) noexcept {
  const double scale = hadamard_scale(n);
  const float scale32 = static_cast<float>(scale);
  double sum = 0;
  float sum32 = 0;
  for (int i = 0; i < n; ++i) {
    const int h = hadamard_sign(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(j));
    const bool plus = h == (signs != nullptr ? signs[i] : 1);  // the product of the two is +1
    if (arithmetic == HadamardArithmetic::exact) {
      sum += plus ? x[i] : -x[i];
    } else {
      const float term = static_cast<float>(static_cast<double>(x[i]) * scale32);  // 48 bits, so rounded once
      sum32 += plus ? term : -term;
    }
  }
  if (arithmetic == HadamardArithmetic::exact) return static_cast<float>(sum * scale);
  if (arithmetic == HadamardArithmetic::float32) return sum32;
  constexpr formats::Format bf16 = formats::bf16, fp16 = formats::fp16;
  const formats::Format& dtype = arithmetic == HadamardArithmetic::float32_to_bf16 ? bf16 : fp16;
  return formats::round_to(dtype, sum32);
}

/// x[n], signs[n] of +1 and -1 -> y[n], which doesn't overlap x.
FP4SCOPE_HD constexpr void rotate(const float* x, const std::int8_t* signs, int n, HadamardArithmetic arithmetic,
                                  float* y) noexcept {
  for (int j = 0; j < n; ++j) y[j] = hadamard_point(x, signs, n, j, arithmetic);
}

/// The transpose, which is the inverse in real numbers: y[n] -> x[n].
FP4SCOPE_HD constexpr void rotate_back(const float* y, const std::int8_t* signs, int n, HadamardArithmetic arithmetic,
                                       float* x) noexcept {
  for (int i = 0; i < n; ++i) {
    const float sum = hadamard_point(y, nullptr, n, i, arithmetic);
    x[i] = signs[i] > 0 ? sum : 0 - sum;  // a difference, so that +0 stays
  }
}

static_assert(hadamard_scale(16) == 0.25 && hadamard_scale(1024) == 0x1p-5);
static_assert(hadamard_sign(3, 3) == 1 && hadamard_sign(3, 5) == -1 && fixed_sign_16(3) == -1 && fixed_sign_16(4) == 1);

}  // namespace fp4scope::sim
