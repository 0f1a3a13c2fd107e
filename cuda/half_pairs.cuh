// Two half-precision numbers in a word: each operation rounds once, subnormals are kept, nothing is fused unasked.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace fp4scope::cuda {

using HalfPair = std::uint32_t;

__device__ inline HalfPair twice(std::uint32_t half_bits) { return half_bits * 0x10001u; }

__device__ inline HalfPair mul2(HalfPair a, HalfPair b) {
  HalfPair d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ inline HalfPair sub2(HalfPair a, HalfPair b) {
  HalfPair d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ inline HalfPair add2(HalfPair a, HalfPair b) {
  HalfPair d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ inline HalfPair fma2(HalfPair a, HalfPair b, HalfPair c) {
  HalfPair d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/// 1 where a >= b, 0 elsewhere.
__device__ inline HalfPair at_least2(HalfPair a, HalfPair b) {
  HalfPair d;
  asm("set.ge.f16x2.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ inline float half_value(std::uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<std::uint16_t>(bits)));
}

/// The sum of both, in binary32.
__device__ inline float sum_of(HalfPair pair) { return half_value(pair & 0xFFFF) + half_value(pair >> 16); }

/// The larger of each half as a signed whole number: of magnitudes in bfloat16 or half precision, the larger magnitude.
__device__ inline std::uint32_t larger2(std::uint32_t a, std::uint32_t b) { return __vmaxs2(a, b); }

}  // namespace fp4scope::cuda
