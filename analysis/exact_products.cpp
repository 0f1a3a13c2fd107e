#include "analysis/exact_products.hpp"

#include <gmpxx.h>

#include <algorithm>
#include <cmath>

namespace fp4scope::analysis {

namespace {

/// The sum in units of 2^ProductSum::lowest.
mpz_class units_of(ProductSum sum) {
  sum.carry();
  mpz_class n = static_cast<long>(sum.limb(ProductSum::limbs - 1));
  for (int i = ProductSum::limbs - 2; i >= 0; --i) n = (n << 32) + static_cast<long>(sum.limb(i));
  return n;
}

}  // namespace

double rounded(ProductSum sum, int exponent, std::uint64_t divisor) {
  const mpz_class n = units_of(sum);
  if (n == 0) return 0;
  const mpz_class d = mpz_class(static_cast<unsigned long>(divisor)) * static_cast<unsigned long>(divisor);
  const mpz_class magnitude = abs(n);
  const int bits =
      static_cast<int>(mpz_sizeinbase(magnitude.get_mpz_t(), 2)) - static_cast<int>(mpz_sizeinbase(d.get_mpz_t(), 2));
  const int shift = 56 - bits;  // the quotient has 56 or 57 bits, and its last one stands for all that follow
  const mpz_class top = shift >= 0 ? mpz_class(magnitude << shift) : magnitude;
  const mpz_class bottom = shift >= 0 ? d : mpz_class(d << -shift);
  mpz_class quotient = top / bottom;
  if (quotient * bottom != top) mpz_setbit(quotient.get_mpz_t(), 0);
  const double value = std::ldexp(static_cast<double>(quotient.get_si()), ProductSum::lowest + exponent - shift);
  return n < 0 ? -value : value;
}

double rounded_to_odd(ProductSum sum, double factor) {
  sum.carry();
  const formats::Unpacked f = formats::unpack(factor);
  const mpz_class magnitude = abs(units_of(sum)) * static_cast<unsigned long>(f.significand);
  if (magnitude == 0) return 0;
  const int cut = std::max(0, static_cast<int>(mpz_sizeinbase(magnitude.get_mpz_t(), 2)) - 53);
  mpz_class kept = magnitude >> cut;
  if ((kept << cut) != magnitude) mpz_setbit(kept.get_mpz_t(), 0);
  const double value = std::ldexp(static_cast<double>(kept.get_si()), ProductSum::lowest + f.exponent + cut);
  return (sum.negative() != f.negative) ? -value : value;
}

}  // namespace fp4scope::analysis
