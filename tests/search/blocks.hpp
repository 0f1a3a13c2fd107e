// Blocks that are hard for a scale search, by family, around every scale code. Includes nothing of sim/ or search/.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace fp4scope::blocks {

enum class Family {
  normal,
  normal_bf16,
  student,
  lattice,
  midpoints,
  near_midpoints,
  dominance_edge,
  zero,
  equal,
  one_nonzero,
  tiny,
  huge,
  mixed_exponents,
  whole_range
};

struct FamilyRow {
  Family family;
  const char* name;
};

inline constexpr FamilyRow all_families[] = {
    {Family::normal, "normal"},
    {Family::normal_bf16, "normal_bf16"},
    {Family::student, "student_t3"},
    {Family::lattice, "lattice"},                // bf16 multiples of half a scale: ties between codes are dense
    {Family::midpoints, "midpoints"},            // on midpoints at several scales
    {Family::near_midpoints, "near_midpoints"},  // on them or one float beside
    {Family::dominance_edge, "dominance_edge"},  // amax on, or one float beside, the dominance constant of a code
    {Family::zero, "zero"},                      // with both signs
    {Family::equal, "equal"},
    {Family::one_nonzero, "one_nonzero"},
    {Family::tiny, "tiny"},                        // subnormal floats
    {Family::huge, "huge"},                        // up to FLT_MAX
    {Family::mixed_exponents, "mixed_exponents"},  // twelve octaves around a scale
    {Family::whole_range, "whole_range"},          // any finite float
};

/// 1, powers of two, full significands, the least and the largest float.
inline constexpr float tensor_scales[] = {1,         0x1p-9f,     0x1.234566p-11f, 0x1.fffffep-20f, 0x1.000002p3f,
                                          0x1p-149f, 0x1.8p-148f, 0x1p100f,        FLT_MAX};

class Maker {
 public:
  Maker(std::string_view format, std::uint64_t seed)
      : power_of_two_(format == "mxfp4"), integer_(format == "nvint4"), words_(seed) {}

  std::vector<float> make(Family family, float tensor_scale, int n) {
    const int code = below(power_of_two_ ? 255 : 127);
    const double unit = tensor_scale * scale(std::max(code, power_of_two_ ? 0 : 1));
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& value : x) {
      const float magnitude = element(family, tensor_scale, code, unit);
      value = below(2) ? -magnitude : magnitude;
    }
    if (family == Family::equal) std::fill(x.begin(), x.end(), x[0]);
    if (family == Family::one_nonzero) x[static_cast<std::size_t>(below(n))] = to_float(unit * 16 * uniform());
    if (family == Family::dominance_edge) x[static_cast<std::size_t>(below(n))] = beside((integer_ ? 7.5 : 7) * unit);
    return x;
  }

  int below(int n) { return static_cast<int>(words_() % static_cast<unsigned>(n)); }
  double uniform() { return (static_cast<double>(words_() >> 11) + 0.5) * 0x1p-53; }
  double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()); }

 private:
  float element(Family family, float tensor_scale, int code, double unit) {
    switch (family) {
      case Family::normal: return to_float(2 * unit * normal());
      case Family::normal_bf16: return to_bf16(2 * unit * normal());
      case Family::student: return to_float(unit * normal() / std::sqrt((square() + square() + square()) / 3));
      case Family::lattice: return to_bf16(unit * below(16) / (below(4) ? 2 : 4));
      case Family::midpoints: return to_float(tensor_scale * nearby_scale(code) * midpoint());
      case Family::near_midpoints: return beside(tensor_scale * nearby_scale(code) * midpoint());
      case Family::dominance_edge: return below(2) ? 0 : to_float(unit * below(14) / 2);
      case Family::zero:
      case Family::one_nonzero: return 0;
      case Family::equal: return to_float(unit * 16 * uniform());
      case Family::tiny: return from_bits(static_cast<std::uint32_t>(words_()) & ((2u << below(23)) - 1));
      case Family::huge: return to_float(FLT_MAX * (1 - uniform() * uniform()));
      case Family::mixed_exponents: return to_float(unit * std::ldexp(1 + uniform(), below(13) - 8));
      case Family::whole_range: return from_bits(static_cast<std::uint32_t>(words_() % 0x7F800000));
    }
    return 0;
  }

  double scale(int code) const {
    if (power_of_two_) return std::ldexp(1, code - 127);
    return code < 8 ? std::ldexp(code, -9) : std::ldexp(8 + code % 8, code / 8 - 10);
  }

  double nearby_scale(int code) {
    const int nearby = code + below(power_of_two_ ? 4 : 18) - (power_of_two_ ? 1 : 8);
    return scale(std::clamp(nearby, power_of_two_ ? 0 : 1, power_of_two_ ? 254 : 126));
  }

  double midpoint() {
    constexpr double of_e2m1[] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5};
    const int k = below(7);
    return integer_ ? k + 0.5 : of_e2m1[k];
  }

  double square() {
    const double z = normal();
    return z * z;
  }

  static float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
  static float to_float(double x) { return static_cast<float>(std::min(std::fabs(x), static_cast<double>(FLT_MAX))); }
  static float to_bf16(double x) { return from_bits(__builtin_bit_cast(std::uint32_t, to_float(x)) & 0xFFFF0000u); }

  float beside(double x) {
    const float here = to_float(x);
    const int side = below(3);
    if (side == 0) return here;
    return side == 1 ? std::nextafter(here, 0.0f) : std::min(std::nextafter(here, INFINITY), FLT_MAX);
  }

  bool power_of_two_;
  bool integer_;
  std::mt19937_64 words_;
};

/// For messages: "nvfp4 lattice, tensor scale 0x1p+0, block { ... }".
inline std::string describe(std::string_view format, const char* family, float tensor_scale,
                            const std::vector<float>& x) {
  char number[40];
  std::snprintf(number, sizeof number, "%a", static_cast<double>(tensor_scale));
  std::string text = std::string(format) + " " + family + ", tensor scale " + number + ", block {";
  for (const float value : x) {
    std::snprintf(number, sizeof number, " %a", static_cast<double>(value));
    text += number;
  }
  return text + " }";
}

}  // namespace fp4scope::blocks
