// The best block scale by definition, in integers. Includes nothing of formats/, sim/ or search/.
//
// Every number of a block is a rational over one denominator: |x| is a multiple of 2^-149, the tensor scale of 2^-149,
// a block scale of 2^-127 and a level of 2^-1. So magnitudes and values are counted in units of 2^-277, squared errors
// in units of 2^-554, and GMP integers hold them.
#pragma once

#include <gmpxx.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace fp4scope::oracle {

struct ScaledFormat {
  const char* name;
  std::array<int, 8> twice_level;
  bool power_of_two;  ///< E8M0: 2^(code - 127); else E4M3
  int last_code;

  int first_code() const { return power_of_two ? 0 : 1; }
};

inline constexpr std::array<int, 8> twice_e2m1 = {0, 1, 2, 3, 4, 6, 8, 12};
inline constexpr std::array<int, 8> twice_int4 = {0, 2, 4, 6, 8, 10, 12, 14};
inline constexpr ScaledFormat scaled_formats[] = {
    {"nvfp4", twice_e2m1, false, 126}, {"mxfp4", twice_e2m1, true, 254}, {"nvint4", twice_int4, false, 126}};

inline const ScaledFormat& scaled_format(std::string_view name) {
  for (const ScaledFormat& f : scaled_formats) {
    if (name == f.name) return f;
  }
  std::abort();
}

/// A block scale in units of 2^-127.
inline mpz_class scale_units(const ScaledFormat& f, int code) {
  if (f.power_of_two) return mpz_class(1) << static_cast<unsigned>(code);
  const int significand = code < 8 ? code : 8 + code % 8;  // in units of 2^-9 * 2^(binade - 1)
  return mpz_class(significand) << static_cast<unsigned>(118 + std::max(code / 8, 1) - 1);
}

/// |x| in units of 2^-149; x finite.
inline mpz_class float_units(float x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t field = bits >> 23 & 0xFF, fraction = bits & 0x7FFFFF;
  if (field == 0) return fraction;
  return mpz_class(fraction | 0x800000) << (field - 1);
}

/// units * 2^exponent, rounded: for messages.
inline double approximate(const mpz_class& units, int exponent) {
  long shift = 0;
  const double fraction = mpz_get_d_2exp(&shift, units.get_mpz_t());
  return std::ldexp(fraction, static_cast<int>(shift) + exponent);
}

/// A matrix of doubles as integers over one denominator.
inline std::vector<mpz_class> matrix_units(const double* h, int n) {
  std::vector<mpz_class> units;
  int lowest = 2000;
  for (int k = 0; k < n * n; ++k) {
    if (h[k] != 0) lowest = std::min(lowest, std::ilogb(h[k]) - 52);
  }
  for (int k = 0; k < n * n; ++k) {
    int exponent = 0;
    const double fraction = std::frexp(h[k], &exponent);
    const mpz_class significand(std::ldexp(fraction, 53));
    units.push_back(h[k] == 0 ? mpz_class(0) : significand << static_cast<unsigned>(exponent - 53 - lowest));
  }
  return units;
}

enum class Direction { nearest_even, down, up };

/// One block at one tensor scale.
class BlockOracle {
 public:
  BlockOracle(const ScaledFormat& format, float tensor_scale, const float* x, int n)
      : format_(format), tensor_scale_(float_units(tensor_scale)) {
    for (int i = 0; i < n; ++i) {
      magnitude_.push_back(float_units(x[i]) << 128);
      negative_.push_back(std::signbit(x[i]));
      if (magnitude_.back() > amax_) amax_ = magnitude_.back();
    }
  }

  /// The code of the scale amax / (twice_divisor / 2 * tensor scale), rounded by definition.
  int rule(int twice_divisor, Direction direction) const {
    if (amax_ == 0) return 0;
    int best = 0;
    mpz_class least = -1;
    for (int code = 0; code <= format_.last_code; ++code) {
      const mpz_class difference = twice_divisor * tensor_scale_ * scale_units(format_, code) - amax_;
      if (direction == Direction::up) {
        if (difference >= 0) return code;
        best = code;
      } else if (direction == Direction::down) {
        if (difference <= 0) best = code;
      } else if (least < 0 || abs(difference) < least || (abs(difference) == least && code % 2 == 0)) {
        best = code;
        least = abs(difference);
      }
    }
    return best;
  }

  /// The nearest level's code, by trying all eight; a tie goes to the even one.
  int nearest(const mpz_class& magnitude, const mpz_class& step) const {
    int best = 0;
    mpz_class least = magnitude;
    for (int k = 1; k < 8 && step != 0; ++k) {
      const mpz_class error = abs(mpz_class(magnitude - format_.twice_level[k] * step));
      if (error > least) break;  // the levels ascend
      if (error < least || k % 2 == 0) best = k;
      least = error;
    }
    return best;
  }

  /// x - value, signed.
  std::vector<mpz_class> residuals(int code) const {
    const mpz_class step = tensor_scale_ * scale_units(format_, code);
    std::vector<mpz_class> r;
    for (std::size_t i = 0; i < magnitude_.size(); ++i) {
      const mpz_class error = magnitude_[i] - format_.twice_level[nearest(magnitude_[i], step)] * step;
      r.push_back(negative_[i] ? mpz_class(-error) : error);
    }
    return r;
  }

  mpz_class sse(int code) const {
    mpz_class sum = 0;
    for (const mpz_class& r : residuals(code)) sum += r * r;
    return sum;
  }

  mpz_class mae(int code) const {
    mpz_class sum = 0;
    for (const mpz_class& r : residuals(code)) sum += abs(r);
    return sum;
  }

  mpz_class absmax(int code) const {
    mpz_class largest = 0;
    for (const mpz_class& r : residuals(code)) largest = std::max(largest, mpz_class(abs(r)));
    return largest;
  }

  /// r^T H r, h from matrix_units.
  mpz_class hessian(int code, const std::vector<mpz_class>& h) const {
    const std::vector<mpz_class> r = residuals(code);
    mpz_class sum = 0, dot;
    for (std::size_t i = 0; i < r.size(); ++i) {
      dot = 0;
      for (std::size_t j = 0; j < r.size(); ++j) dot += h[i * r.size() + j] * r[j];
      sum += r[i] * dot;
    }
    return sum;
  }

  /// The positive code of least loss, the lowest of them; 0 for an all-zero block.
  template <typename Loss>
  int best(const Loss& loss) const {
    if (amax_ == 0) return 0;
    int best = format_.first_code();
    mpz_class least = loss(best);
    for (int code = best + 1; code <= format_.last_code; ++code) {
      const mpz_class here = loss(code);
      if (here < least) {
        best = code;
        least = here;
      }
    }
    return best;
  }

  int best_sse() const {
    return best([this](int code) { return sse(code); });
  }
  int best_hessian(const std::vector<mpz_class>& h) const {
    return best([&](int code) { return hessian(code, h); });
  }

  /// Amax to 6, or to 4 where that errs strictly less.
  template <typename Loss>
  int four_over_six(const Loss& loss) const {
    const int six = rule(12, Direction::nearest_even), four = rule(8, Direction::nearest_even);
    return loss(four) < loss(six) ? four : six;
  }

  double shown_sse(int code) const { return approximate(sse(code), -554); }

 private:
  const ScaledFormat& format_;
  mpz_class tensor_scale_;  ///< in units of 2^-149
  mpz_class amax_ = 0;      ///< in units of 2^-277, as the magnitudes
  std::vector<mpz_class> magnitude_;
  std::vector<bool> negative_;
};

}  // namespace fp4scope::oracle
