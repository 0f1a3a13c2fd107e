// x / d to E2M1 without a division an element:
//
//   q0 = fl(x r), q = fl(q0 + r fl(x - d q0)), r = fl(1 / d)
//
// With u = 2^-24, q0 is x / d within 2.01 u of itself, and so q within 4.1 u^2 before it is rounded: where q isn't
// fl(x / d) it is the binary32 number next to it. The E2M1 code, ties to even, is that of fl(x / d): only next to one
// of the seven thresholds could it differ, and quotient_test goes through all x there, for every significand of d.
// Needs d in 2^-60 .. 2^60: an x with x / d near a threshold is above 2^-63 then, and x - d q0 above 2^-111.
#pragma once

#include "formats/host_device.hpp"

namespace fp4scope::sim {

/// `reciprocal`: fl(1 / d). Not a constant expression in every compiler.
FP4SCOPE_HD inline float quotient(float x, float d, float reciprocal) noexcept {
  const float guess = x * reciprocal;
  return __builtin_fmaf(__builtin_fmaf(-d, guess, x), reciprocal, guess);
}

}  // namespace fp4scope::sim
