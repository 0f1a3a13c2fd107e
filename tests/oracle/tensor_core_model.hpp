// A matrix instruction as the publications describe it, in GMP integers: of sim/ and formats/ it takes the formats'
// parameters and an instruction's name, and neither arithmetic nor the row's parameters, which are written down again.
//
//   a term is an exact binary64; in units of 2^-700 it is a whole number of at most 1,000 bits
//   cut: toward zero to a multiple of 2^(max - F)      rounding: the quotient and remainder by 2^(last place)
#pragma once

#include <gmpxx.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.hpp"
#include "sim/instructions.hpp"

namespace fp4scope::oracle {

using sim::Architecture;
using sim::Instruction;

inline constexpr int least_unit = -700;
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// A code's value by the equation at the top of format.hpp; Inf, NaN, and -0 as 0.
inline double value_of(const formats::Format& f, std::uint32_t code) {
  const std::uint32_t sign = f.is_signed ? 1u << (f.bits - 1) : 0;
  const std::uint32_t magnitude = code & (2 * (1u << (f.bits - 1)) - 1) & ~sign;
  const double s = (code & sign) != 0 ? -1 : 1;
  if (magnitude > f.max_code) {
    return f.specials == formats::Specials::ieee && magnitude == f.max_code + 1 ? s * HUGE_VAL : not_a_number;
  }
  const int field = static_cast<int>(magnitude >> f.mantissa_bits);
  const double fraction = std::ldexp(magnitude % (1u << f.mantissa_bits), -f.mantissa_bits);
  if (!f.has_zero) return std::ldexp(1 + fraction, field - f.bias);
  return s * std::ldexp((field > 0) + fraction, std::max(field, 1) - f.bias);
}

inline double float_of(std::uint32_t bits, bool half) {
  if (!half) return static_cast<double>(__builtin_bit_cast(float, bits));
  return value_of(formats::fp16, bits);
}

/// floor(log2 |x|), at least `least`; a zero's is `zero`.
inline int exponent_of(double x, int least, int zero) {
  return x == 0 ? zero : std::max(std::ilogb(x), least);
}

inline int least_normal(const formats::Format& f) { return f.has_zero ? 1 - f.bias : -f.bias; }

inline mpz_class in_units(double x) { return mpz_class(std::ldexp(x, -least_unit)); }

/// x toward zero to a multiple of 2^exponent.
inline mpz_class cut_to(const mpz_class& x, int exponent) {
  if (exponent <= least_unit) return x;
  mpz_class out;
  mpz_tdiv_q_2exp(out.get_mpz_t(), x.get_mpz_t(), static_cast<mp_bitcnt_t>(exponent - least_unit));
  return out << static_cast<mp_bitcnt_t>(exponent - least_unit);
}

enum class To { f32_truncated, f32_nearest, e8m13_truncated, f16_nearest };

inline std::uint32_t bits_of(double x, bool half) {
  if (!half) return __builtin_bit_cast(std::uint32_t, static_cast<float>(x));
  const std::uint32_t sign = std::signbit(x) ? 0x8000 : 0;
  x = std::fabs(x);
  if (x > 65504) return sign | 0x7C00;
  if (x < 0x1p-14) return sign | static_cast<std::uint32_t>(std::ldexp(x, 24));
  const int e = std::ilogb(x);
  return sign | static_cast<std::uint32_t>((e + 14) * 1024 + std::ldexp(x, 10 - e));
}

/// A sum rounded to a format; 0 is +0, too large is Inf.
inline std::uint32_t rounded(const mpz_class& sum, To to) {
  if (sum == 0) return 0;
  const bool half = to == To::f16_nearest;
  const int digits = half ? 10 : to == To::e8m13_truncated ? 13 : 23;
  const int top = static_cast<int>(mpz_sizeinbase(sum.get_mpz_t(), 2)) - 1 + least_unit;
  const int last = std::max(top, half ? -14 : -126) - digits;
  mpz_class kept = cut_to(sum, last);
  if (half || to == To::f32_nearest) {
    const mpz_class unit = mpz_class(1) << static_cast<mp_bitcnt_t>(last - least_unit);
    const mpz_class lost = abs(sum - kept), quotient = abs(kept) / unit;
    if (2 * lost > unit || (2 * lost == unit && mpz_odd_p(quotient.get_mpz_t()))) kept += sgn(sum) * unit;
  }
  if (kept == 0) return 0;
  mpz_class significand;
  mpz_tdiv_q_2exp(significand.get_mpz_t(), kept.get_mpz_t(), static_cast<mp_bitcnt_t>(last - least_unit));
  const double x = std::ldexp(significand.get_d(), last);
  return bits_of(std::fabs(x) >= 0x1p128 || (half && std::fabs(x) > 65504) ? std::copysign(HUGE_VAL, x) : x, half);
}

/// What hardware.md and the publications say of an instruction; see expected().
struct Model {
  std::vector<std::vector<int>> steps;  ///< the k's of each
  int fraction = 0;
  To to = To::f32_truncated;
  bool after = false;    ///< C is added to what all steps gave
  int least = -100000;   ///< the greatest exponent counts as at least this
  int zero = -100000;    ///< a zero's exponent
  int scale_block = 0;   ///< k's with a scale of their own
  bool block_sums = false;  ///< 16 products are summed exactly
  bool tree = false, exact = false, flush = false;
  bool two_stage = false;  ///< C joins the products' sum, both rounded down
  bool f16_elements = false;  ///< FP8 is converted to binary16 before anything else
};

inline std::vector<std::vector<int>> in_a_row(int k, int group) {
  std::vector<std::vector<int>> steps;
  for (int i = 0; i < k; ++i) {
    if (i % group == 0) steps.emplace_back();
    steps.back().push_back(i);
  }
  return steps;
}

/// k by remainder: the steps take those whose remainder by `modulus` is in one of `classes`.
inline std::vector<std::vector<int>> by_remainder(int k, int modulus, const std::vector<std::vector<int>>& classes) {
  std::vector<std::vector<int>> steps(classes.size());
  for (std::size_t s = 0; s < classes.size(); ++s) {
    for (int i = 0; i < k; ++i) {
      if (std::count(classes[s].begin(), classes[s].end(), i % modulus)) steps[s].push_back(i);
    }
  }
  return steps;
}

inline Model amd_model(const Instruction& r, std::string_view name) {
  Model m;
  if (r.architecture == Architecture::cdna3) {
    m.steps = in_a_row(r.k, std::min(r.k, name.find("tf32") != name.npos ? 4 : 8));
    m.to = To::f32_nearest;
    m.fraction = 24;
    m.two_stage = true;
    return m;
  }
  const bool narrow = name.find("bf16") != name.npos && name.find("@1k") == name.npos;
  m.steps = in_a_row(r.k, narrow ? 2 : 4);
  m.to = To::f32_nearest;
  m.exact = name.find("@exact") != name.npos;
  m.tree = !m.exact;
  m.flush = r.architecture == Architecture::cdna2;
  return m;
}

inline Model scaled_model(const Instruction& r, std::string_view name) {
  Model m;
  m.zero = -126;
  m.steps = in_a_row(r.k, r.k);
  m.block_sums = name.find("k64") != name.npos;
  m.fraction = m.block_sums ? 35 : 25;
  m.scale_block = name.find("block16") != name.npos ? 16 : 32;
  return m;
}

inline Model expected(const Instruction& r) {
  const std::string_view name = r.name;
  const auto has = [&name](std::string_view part) { return name.find(part) != name.npos; };
  if (has("mfma")) return amd_model(r, name);
  if (has("block")) return scaled_model(r, name);
  const bool half = name.substr(name.find('.', name.find('.') + 1), 5) == ".f16.";
  const bool eight_bits = has("e4m3") || has("e5m2") || has("e2m1") || has("e2m3") || has("e3m2");
  Model m;
  m.to = half ? To::f16_nearest : To::f32_truncated;
  m.steps = in_a_row(r.k, r.k);
  switch (r.architecture) {
    case Architecture::volta:
      m.fraction = 23;
      if (half) m.least = -19;
      return m;
    case Architecture::turing:
      m.fraction = 24;
      m.zero = -126;
      return m;
    case Architecture::ampere:
    case Architecture::ada:
      m.fraction = eight_bits ? 13 : 24;
      m.steps = in_a_row(r.k, eight_bits ? 16 : has("tf32") ? 4 : 8);
      m.least = half && !eight_bits ? -20 : -132;
      if (eight_bits && !half) m.to = To::e8m13_truncated;
      return m;
    default: break;
  }
  m.least = half ? -21 : -133;
  m.fraction = 25;
  if (has("wgmma") && eight_bits) {
    m.fraction = 13;
    m.least = -133;
    if (!half) m.to = To::e8m13_truncated;
    if (has("@interleaved")) m.steps = by_remainder(r.k, 2, {{0}, {1}});
  } else if (has("mma.") && !has("tcgen05") && eight_bits && r.architecture != Architecture::rtx_blackwell) {
    m.steps = by_remainder(r.k, 4, {{0, 1}, {2, 3}});
    m.after = m.f16_elements = true;
  }
  return m;
}

/// One D: the codes of a row of A, a column of B, their scales, and C's bits.
struct Problem {
  std::vector<std::uint32_t> a, b, scale_a, scale_b;
  std::uint32_t c = 0;
};

/// Terms with the exponents that they are aligned by.
struct Term {
  double value;
  int exponent;
};

inline std::uint32_t aligned_sum(const std::vector<Term>& terms, const Model& m) {
  int greatest = m.least;
  for (const Term& t : terms) greatest = std::max(greatest, t.exponent);
  mpz_class sum = 0;
  for (const Term& t : terms) sum += cut_to(in_units(t.value), greatest - m.fraction);
  return rounded(sum, m.to);
}

/// x downward to a multiple of 2^exponent.
inline mpz_class floor_to(const mpz_class& x, int exponent) {
  if (exponent <= least_unit) return x;
  const auto bits = static_cast<mp_bitcnt_t>(exponent - least_unit);
  mpz_class out;
  mpz_fdiv_q_2exp(out.get_mpz_t(), x.get_mpz_t(), bits);
  return out << bits;
}

/// CDNA3; terms[0] is the running value.
inline std::uint32_t two_stage_sum(const std::vector<Term>& terms, const Model& m) {
  const auto beyond = [&](double sign) {
    return std::any_of(terms.begin() + 1, terms.end(), [&](const Term& t) { return sign * t.value >= 0x1p128; });
  };
  if (beyond(1) && beyond(-1)) return 0x7FC00000;
  if (beyond(1) || beyond(-1)) return bits_of(beyond(1) ? HUGE_VAL : -HUGE_VAL, false);
  int greatest = -100000;
  for (std::size_t i = 1; i < terms.size(); ++i) greatest = std::max(greatest, terms[i].exponent);
  mpz_class products = 0;
  for (std::size_t i = 1; i < terms.size(); ++i) products += cut_to(in_units(terms[i].value), greatest - m.fraction);
  const int top = std::max({greatest, terms[0].exponent, -126});
  return rounded(floor_to(products, top - 31) + floor_to(in_units(terms[0].value), top - 24), m.to);
}

inline double flushed_float(double x, bool flush) { return flush && std::fabs(x) < 0x1p-126 ? 0 : x; }

/// A tree of binary32 additions; the processor's own.
inline float tree_sum(const std::vector<float>& x, std::size_t first, std::size_t n, bool flush) {
  if (n == 1) return static_cast<float>(flushed_float(static_cast<double>(x[first]), flush));
  const float sum = tree_sum(x, first, n / 2, flush) + tree_sum(x, first + n / 2, n / 2, flush);
  return static_cast<float>(flushed_float(static_cast<double>(sum), flush));
}

/// D's bits as the model has them.
inline std::uint32_t modelled(const Instruction& r, const Model& m, const Problem& p) {
  const std::string_view name = r.name;
  const bool half_c = r.f16_addend, half_d = m.to == To::f16_nearest;
  const std::uint32_t nan = name.find("mfma") != name.npos ? 0x7FC00000 : half_d ? 0x7FFF : 0x7FFFFFFF;
  std::vector<double> a, b, sa, sb;
  const auto least = [&m](const formats::Format& f) { return least_normal(m.f16_elements ? formats::fp16 : f); };
  const auto operand = [&m](const formats::Format& f, std::uint32_t code) {
    const double x = value_of(f, code);
    return m.flush && std::fabs(x) < std::ldexp(1.0, least_normal(f)) ? 0 : x;
  };
  for (int k = 0; k < r.k; ++k) a.push_back(operand(r.a, p.a[static_cast<std::size_t>(k)]));
  for (int k = 0; k < r.k; ++k) b.push_back(operand(r.b, p.b[static_cast<std::size_t>(k)]));
  for (int k = 0; k < r.k; ++k) {
    const auto i = static_cast<std::size_t>(m.scale_block ? k / m.scale_block : 0);
    sa.push_back(m.scale_block ? std::fabs(value_of(r.scale, p.scale_a[i])) : 1);
    sb.push_back(m.scale_block ? std::fabs(value_of(r.scale, p.scale_b[i])) : 1);
  }
  const double c = flushed_float(float_of(p.c, half_c), m.flush);
  double running = m.after ? 0 : c;
  bool half_running = m.after ? half_d : half_c;
  std::uint32_t bits = 0;
  for (const std::vector<int>& step : m.steps) {
    double sum = running;
    std::vector<Term> terms = {{running, exponent_of(running, half_running ? -14 : -126, m.zero)}};
    std::vector<float> products;
    for (const int k : step) {
      const auto i = static_cast<std::size_t>(k);
      const double product = a[i] * b[i] * sa[i] * sb[i];
      sum += product;
      const int scale = m.scale_block ? exponent_of(sa[i], least_normal(r.scale), m.zero) +
                                            exponent_of(sb[i], least_normal(r.scale), m.zero)
                                      : 0;
      if (m.block_sums) {
        if (k % 16 == 0) terms.push_back({0, scale});
        terms.back().value += product;
      } else if (std::isfinite(product)) {
        terms.push_back({product, exponent_of(a[i], least(r.a), m.zero) + exponent_of(b[i], least(r.b), m.zero) + scale});
      }
      products.push_back(static_cast<float>(product));
    }
    half_running = half_d;
    if (m.tree) {
      const float tree = static_cast<float>(running) + tree_sum(products, 0, products.size(), m.flush);
      bits = std::isnan(tree) ? nan : bits_of(flushed_float(static_cast<double>(tree), m.flush) + 0.0, false);
    } else if (std::isnan(sum) || std::isinf(sum)) {
      bits = std::isnan(sum) ? nan : bits_of(sum, half_d);
    } else if (m.two_stage) {
      bits = two_stage_sum(terms, m);
    } else if (m.exact) {
      mpz_class total = 0;
      for (const Term& t : terms) total += in_units(t.value);
      bits = rounded(total, m.to);
    } else {
      bits = aligned_sum(terms, m);
    }
    running = float_of(bits, half_d);
  }
  if (!m.after) return bits;
  if (std::isnan(running + c)) return nan;
  if (std::isinf(running + c)) return bits_of(running + c, half_d);
  return rounded(in_units(running) + in_units(c), half_d ? To::f16_nearest : To::f32_nearest);
}

}  // namespace fp4scope::oracle
