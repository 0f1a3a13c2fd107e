// The code of a number, by MPFR. Of formats/ it takes the rows, as data, and no arithmetic.
//
//   precision M + 1, least exponent that of the subnormals' last place, no greatest exponent
//   y = mpfr_set(x) in the direction, mpfr_subnormalize(y)       rounded once, as though the exponent had no end
//   |y| is looked up among the values of the codes 0 .. max_code; beyond the last is overflow
//
// MPFR has no nearest-away and no stochastic rounding. Both follow from the two neighbours, RNDZ and RNDA, in exact
// arithmetic: away from zero iff lost >= 1/2, or floor(2^32 * lost) > word, of lost = (|x| - |RNDZ|) / (|RNDA| -
// |RNDZ|).
//
// MPFR's convention is x = 0.1bbb * 2^exp, so a number with leading bit 2^e has exp = e + 1. At one digit of precision
// its RNDN breaks ties to the larger (manual, 4.4), which is the rule of a format without mantissa bits.
#pragma once

#include <mpfr.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "formats/codec.hpp"
#include "formats/format.hpp"

namespace fp4scope::oracle {

/// An MPFR number that cleans up after itself.
class Real {
 public:
  explicit Real(mpfr_prec_t precision) { mpfr_init2(value, precision); }
  ~Real() { mpfr_clear(value); }
  Real(const Real&) = delete;
  Real& operator=(const Real&) = delete;
  operator mpfr_ptr() { return value; }
  operator mpfr_srcptr() const { return value; }

 private:
  mpfr_t value;
};

/// The value of a magnitude's code by the equation at the top of format.hpp; exact in a binary64, which is checked.
inline double value_by_definition(const formats::Format& f, std::uint32_t code) {
  if (f.twos_complement) return code;
  Real fraction(64), power(64);
  const long field = code >> f.mantissa_bits, mantissa = code % (1u << f.mantissa_bits);
  const bool normal = field > 0 || !f.has_zero;
  int rounded = mpfr_set_si_2exp(fraction, mantissa, -f.mantissa_bits, MPFR_RNDN);
  rounded |= mpfr_add_ui(fraction, fraction, normal ? 1 : 0, MPFR_RNDN);
  rounded |= mpfr_set_si_2exp(power, 1, (f.has_zero ? std::max(field, 1L) : field) - f.bias, MPFR_RNDN);
  rounded |= mpfr_mul(fraction, fraction, power, MPFR_RNDN);
  const double value = mpfr_get_d(fraction, MPFR_RNDN);
  if (rounded || mpfr_cmp_d(fraction, value) != 0) std::abort();
  return value;
}

/// One conversion: a row, a direction, a policy and, for the stochastic direction, the word.
class MpfrEncoder {
 public:
  MpfrEncoder(const formats::Format& row, formats::Rounding direction, formats::Overflow policy,
              std::uint32_t random_word = 0)
      : f(row), mode(direction), to_nan(policy == formats::Overflow::nan && row.has_nan()), word(random_word) {
    for (std::uint32_t code = 0; code <= f.max_code; ++code) values.push_back(value_by_definition(f, code));
    const int leading = f.has_zero ? 1 - f.bias : -f.bias;  // of the least normal number
    least_exponent = leading - f.mantissa_bits + 1;
  }

  std::uint32_t operator()(double x) {
    const bool negative = std::signbit(x);
    if (std::isnan(x)) return f.has_nan() ? f.nan_code() : f.max_code;
    if (negative && x != 0 && !f.is_signed) return to_nan ? f.nan_code() : 0;
    if (x == 0 && !f.has_zero) return to_nan ? f.nan_code() : 0;
    if (std::isinf(x)) return with_sign(beyond(), negative);
    const double magnitude = std::fabs(round(x));
    const bool inwards =
        mode == formats::Rounding::toward_zero || mode == (negative ? formats::Rounding::up : formats::Rounding::down);
    if (magnitude > values.back()) return with_sign(inwards ? f.max_code : beyond(), negative);
    if (magnitude < values.front()) return 0;  // only in a format without zero
    const auto place = std::lower_bound(values.begin(), values.end(), magnitude);
    if (*place != magnitude) std::abort();  // what MPFR rounds to has a code
    return with_sign(static_cast<std::uint32_t>(place - values.begin()), negative);
  }

  /// The values of the codes 0 .. max_code.
  const std::vector<double>& magnitudes() const { return values; }

 private:
  std::uint32_t beyond() const { return !to_nan ? f.max_code : f.has_inf() ? f.inf_code() : f.nan_code(); }

  std::uint32_t with_sign(std::uint32_t magnitude, bool negative) const {
    if (!negative) return magnitude;
    return f.twos_complement ? (f.code_count() - magnitude) % f.code_count() : magnitude + f.sign_bit();
  }

  /// x rounded by MPFR in one of its own directions.
  double round_by(double x, mpfr_rnd_t direction) {
    const mpfr_exp_t emin = mpfr_get_emin();
    mpfr_set_emin(least_exponent);
    const int ternary = mpfr_set_d(rounded, x, direction);
    mpfr_subnormalize(rounded, ternary, direction);
    mpfr_set_emin(emin);
    return mpfr_get_d(rounded, MPFR_RNDN);  // exact: at most 11 bits; Inf only beyond binary64, where all overflow
  }

  double round(double x) {
    switch (mode) {
      case formats::Rounding::nearest_even: return round_by(x, MPFR_RNDN);
      case formats::Rounding::toward_zero: return round_by(x, MPFR_RNDZ);
      case formats::Rounding::up: return round_by(x, MPFR_RNDU);
      case formats::Rounding::down: return round_by(x, MPFR_RNDD);
      default: break;
    }
    const double inner = std::fabs(round_by(x, MPFR_RNDZ)), outer = std::fabs(round_by(x, MPFR_RNDA));
    return inner != outer && goes_outwards(std::fabs(x), inner, outer) ? outer : inner;
  }

  /// 2200 bits hold any difference of binary64 numbers and its product with 2^32.
  bool goes_outwards(double magnitude, double inner, double outer) {
    int inexact = mpfr_set_d(lost, magnitude, MPFR_RNDN);
    inexact |= mpfr_sub_d(lost, lost, inner, MPFR_RNDN);
    inexact |= mpfr_set_d(gap, outer, MPFR_RNDN);
    inexact |= mpfr_sub_d(gap, gap, inner, MPFR_RNDN);
    if (mode == formats::Rounding::nearest_away) {
      inexact |= mpfr_mul_2ui(lost, lost, 1, MPFR_RNDN);
      if (inexact) std::abort();
      return mpfr_cmp(lost, gap) >= 0;
    }
    // floor(2^32 lost / gap) > word iff 2^32 lost >= (word + 1) gap
    inexact |= mpfr_mul_2ui(lost, lost, 32, MPFR_RNDN);
    inexact |= mpfr_mul_ui(gap, gap, static_cast<unsigned long>(word) + 1, MPFR_RNDN);
    if (inexact) std::abort();
    return mpfr_cmp(lost, gap) >= 0;
  }

  const formats::Format f;
  const formats::Rounding mode;
  const bool to_nan;
  const std::uint32_t word;
  std::vector<double> values;
  mpfr_exp_t least_exponent;
  Real rounded{f.mantissa_bits + 1}, lost{2200}, gap{2200};
};

}  // namespace fp4scope::oracle
