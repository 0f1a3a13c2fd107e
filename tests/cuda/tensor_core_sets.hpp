// Operands that make every choice of a tensor core visible: sets of A [m, k], B [k, n], C [m, n] by their number, the
// same on every machine. Each kind is aimed at one choice.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "formats/codec.hpp"
#include "sim/tensor_core.hpp"

namespace fp4scope::probe {

enum class Kind : std::uint8_t {
  random,       ///< any finite code
  spread,       ///< exponents over up to 31 binades
  cancelling,   ///< pairs of products that cancel; what is left lies far below
  opposite,     ///< C near the sum of the products, with the other sign
  subnormal,    ///< subnormals, few normal numbers; in two sets of three one operand's meet large ones of the other
  zeros,        ///< zeros that meet the largest numbers
  special,      ///< NaN, Inf, -0 among others
  two_terms,    ///< two products, every gap of exponents, both signs, all pairs of places
  one_product,  ///< one product and C, every gap from -40 to 40
  three_terms,  ///< a product, its opposite (a product or C), and a small one: what is left of it
  all_pairs,    ///< every pair of 8-bit codes in one product, C from a grid; pairs of any codes in wider formats
  huge,         ///< results about the largest number
  tiny,         ///< results about the smallest
};
inline constexpr int kind_count = 13;
inline constexpr const char* kind_names[kind_count] = {
    "random",  "spread",    "cancelling",  "opposite",    "subnormal", "zeros", "special",
    "two_terms", "one_product", "three_terms", "all_pairs", "huge",      "tiny"};
/// Kinds of 16 consecutive sets.
inline constexpr std::array<Kind, 16> schedule = {
    Kind::random,    Kind::three_terms, Kind::spread,      Kind::cancelling, Kind::one_product, Kind::two_terms,
    Kind::all_pairs, Kind::opposite,    Kind::three_terms, Kind::cancelling, Kind::subnormal,   Kind::zeros,
    Kind::special,   Kind::spread,      Kind::huge,        Kind::tiny};

/// Numbers that look random, of a seed (SplitMix64).
class Words {
 public:
  explicit Words(std::uint64_t seed) : state_(seed) {}
  std::uint64_t operator()() {
    std::uint64_t x = state_ += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
  }
  int below(int n) { return static_cast<int>((*this)() >> 33) % n; }
  bool one_in(int n) { return below(n) == 0; }
  int between(int low, int high) { return low + below(high - low + 1); }

 private:
  std::uint64_t state_;
};

/// A matrix instruction's arrays, as cuda::MmaSets takes them.
struct Batch {
  std::int64_t first = 0, count = 0;
  std::vector<std::uint8_t> a, b, c, d, scale_a, scale_b;
};

inline int width_of(const formats::Format& f) { return f.bits <= 8 ? 1 : f.bits == 16 ? 2 : 4; }
inline int width_of_c(const sim::Instruction& r) { return r.f16_addend ? 2 : 4; }
inline int width_of_d(const sim::Instruction& r) { return r.f16_result() ? 2 : 4; }
/// Bits that a code is stored above: tf32's are the upper ones of 32.
inline int place_of(const formats::Format& f) { return f.bits == 19 ? 13 : 0; }

inline std::uint32_t stored(const std::vector<std::uint8_t>& from, std::int64_t i, int width) {
  std::uint32_t x = 0;
  std::memcpy(&x, from.data() + i * width, static_cast<std::size_t>(width));
  return x;
}
inline void store(std::vector<std::uint8_t>& to, std::int64_t i, int width, std::uint32_t x) {
  std::memcpy(to.data() + i * width, &x, static_cast<std::size_t>(width));
}

inline Batch empty_batch(const sim::Instruction& r, std::int64_t first, std::int64_t count) {
  const auto size = [count](std::int64_t n) { return static_cast<std::size_t>(count * n); };
  Batch out = {first, count, {}, {}, {}, {}, {}, {}};
  out.a.resize(size(std::int64_t{r.m} * r.k * width_of(r.a)));
  out.b.resize(size(std::int64_t{r.k} * r.n * width_of(r.b)));
  out.c.resize(size(std::int64_t{r.m} * r.n * width_of_c(r)));
  out.d.resize(size(std::int64_t{r.m} * r.n * width_of_d(r)));
  const auto one = static_cast<std::uint8_t>(r.scale.bias << r.scale.mantissa_bits);
  if (r.scaled) out.scale_a.resize(size(std::int64_t{r.m} * (r.k / r.block)), one);
  if (r.scaled) out.scale_b.resize(size(std::int64_t{r.k / r.block} * r.n), one);
  return out;
}

/// Makes set after set of an instruction.
class SetMaker {
 public:
  SetMaker(const sim::Instruction& row, std::int64_t number, std::uint64_t seed)
      : r_(row), index_(number / 16), words_((seed << 40) ^ static_cast<std::uint64_t>(number)),
        kind_(schedule[static_cast<std::size_t>(number % 16)]) {}

  Kind kind() const { return kind_; }

  void operator()(Batch& out, std::int64_t s) {
    a_.assign(static_cast<std::size_t>(r_.m * r_.k), 0);
    b_.assign(static_cast<std::size_t>(r_.k * r_.n), 0);
    c_.assign(static_cast<std::size_t>(r_.m * r_.n), 0);
    fill();
    for (std::int64_t i = 0; i < r_.m * r_.k; ++i) {
      store(out.a, s * r_.m * r_.k + i, width_of(r_.a), a_[static_cast<std::size_t>(i)] << place_of(r_.a));
    }
    for (std::int64_t i = 0; i < r_.k * r_.n; ++i) {
      store(out.b, s * r_.k * r_.n + i, width_of(r_.b), b_[static_cast<std::size_t>(i)] << place_of(r_.b));
    }
    for (std::int64_t i = 0; i < r_.m * r_.n; ++i) {
      store(out.c, s * r_.m * r_.n + i, width_of_c(r_), c_[static_cast<std::size_t>(i)]);
    }
    if (!r_.scaled) return;
    const int blocks = r_.k / r_.block;
    for (int i = 0; i < r_.m * blocks; ++i) out.scale_a[static_cast<std::size_t>(s * r_.m * blocks + i)] = scale();
    for (int i = 0; i < r_.n * blocks; ++i) out.scale_b[static_cast<std::size_t>(s * r_.n * blocks + i)] = scale();
  }

 private:
  const sim::Instruction& r_;
  std::int64_t index_;
  Words words_;
  Kind kind_;
  std::vector<std::uint32_t> a_, b_, c_;

  std::uint32_t& a(int i, int k) { return a_[static_cast<std::size_t>(i * r_.k + k)]; }
  std::uint32_t& b(int k, int j) { return b_[static_cast<std::size_t>(k * r_.n + j)]; }
  std::uint32_t& c(int i, int j) { return c_[static_cast<std::size_t>(i * r_.n + j)]; }

  static int least(const formats::Format& f) { return 1 - f.bias - f.mantissa_bits; }
  static int most(const formats::Format& f) { return static_cast<int>(f.max_code >> f.mantissa_bits) - f.bias; }
  static std::uint32_t sign_of(const formats::Format& f) { return 1u << (f.bits - 1); }
  std::uint32_t random_sign(const formats::Format& f) { return words_.one_in(2) ? sign_of(f) : 0; }

  /// A number of that exponent, clamped to what the format has; a sparse mantissa now and then.
  std::uint32_t with_exponent(const formats::Format& f, int e) {
    e = std::clamp(e, least(f), most(f));
    const auto bits = static_cast<std::uint32_t>(words_());
    const std::uint32_t all = (1u << f.mantissa_bits) - 1;
    std::uint32_t mantissa = bits & all;
    if (bits >> 30 == 0) mantissa &= all << words_.below(f.mantissa_bits + 1);
    const int normal = 1 - f.bias;
    const auto field = static_cast<std::uint32_t>(e + f.bias);
    if (e >= normal) return std::min((field << f.mantissa_bits) | mantissa, f.max_code);
    return ((1u << f.mantissa_bits) | mantissa) >> (normal - e);
  }
  std::uint32_t signed_exponent(const formats::Format& f, int low, int high) {
    return with_exponent(f, words_.between(low, high)) | random_sign(f);
  }
  std::uint32_t finite(const formats::Format& f) {
    for (;;) {
      const std::uint32_t code =
          static_cast<std::uint32_t>(words_()) & static_cast<std::uint32_t>((1ull << f.bits) - 1);
      const formats::CodeClass cls = formats::decode(f, code).cls;
      if (cls != formats::CodeClass::nan && cls != formats::CodeClass::infinite) return code;
    }
  }
  static int exponent_of(const formats::Format& f, std::uint32_t code) {
    const formats::Decoded d = formats::decode(f, code);
    return d.value.significand == 0 ? -4096 : std::ilogb(static_cast<double>(d.value.significand)) + d.value.exponent;
  }

  const formats::Format& c_format() const { return r_.f16_addend ? formats::fp16 : sim::binary32; }
  std::uint32_t addend(int e) { return with_exponent(c_format(), e) | random_sign(c_format()); }
  std::uint32_t addend_of(double x) {
    if (r_.f16_addend) {
      const auto f = static_cast<float>(x);
      const int e = f == 0 ? 0 : std::ilogb(f);
      const double unit = std::ldexp(1.0, std::max(e, -14) - 10);
      const double q = std::nearbyint(std::fabs(x) / unit);
      const auto code = static_cast<std::uint32_t>(q) + (e < -14 ? 0u : static_cast<std::uint32_t>(e + 14) << 10);
      return std::min(code, 0x7BFFu) | (x < 0 ? 0x8000u : 0u);
    }
    return __builtin_bit_cast(std::uint32_t, static_cast<float>(x));
  }
  std::uint8_t scale() {
    if (kind_ == Kind::special && words_.one_in(32)) return r_.scale.bits == 8 ? 0xFF : 0x7F;
    if (r_.scale.bits == 8) return static_cast<std::uint8_t>(words_.between(112, 142));
    return static_cast<std::uint8_t>(words_.below(0x7F));
  }

  void fill() {
    switch (kind_) {
      case Kind::all_pairs: return fill_all_pairs();
      case Kind::one_product: return fill_one_product();
      case Kind::two_terms: return fill_two_terms();
      case Kind::three_terms: return fill_three_terms();
      default: break;
    }
    const int reach = words_.below(31), share = words_.between(2, 12);
    for (std::uint32_t& x : a_) x = code(r_.a, reach, share, true);
    for (std::uint32_t& x : b_) x = code(r_.b, reach, share, false);
    if (kind_ == Kind::cancelling) cancel();
    fill_c();
  }

  /// An element of the kinds whose elements are alike.
  std::uint32_t code(const formats::Format& f, int reach, int share, bool of_a) {
    const bool wide = f.bias > 15;
    const int top = wide ? 12 : most(f);
    switch (kind_) {
      case Kind::random: return wide && words_.one_in(2) ? signed_exponent(f, -6, 6) : finite(f);
      case Kind::spread:
      case Kind::opposite: return signed_exponent(f, top - 2 - reach / 2, top - 2);
      case Kind::cancelling: return signed_exponent(f, top - 2 - reach, top - 2);
      case Kind::subnormal:
        if (index_ % 3 == (of_a ? 2 : 1)) return signed_exponent(f, -8, top);
        if (words_.one_in(share)) return signed_exponent(f, -2, 2);
        return signed_exponent(f, least(f), -f.bias);
      case Kind::zeros:
        if (words_.one_in(2)) return random_sign(f);
        return words_.one_in(share) ? signed_exponent(f, most(f) - 2, most(f)) : signed_exponent(f, -8, 0);
      case Kind::special:
        if (words_.one_in(4 * r_.k)) return f.max_code + 1 + static_cast<std::uint32_t>(words_.one_in(2));
        return words_.one_in(8) ? random_sign(f) : signed_exponent(f, -3, 3);
      case Kind::huge: return signed_exponent(f, huge_exponent(f) - 2, huge_exponent(f));
      case Kind::tiny: {
        if (of_a && words_.one_in(share)) return 0;
        const int top_of_tiny = tiny_exponent(f) - reach / 2;
        return signed_exponent(f, top_of_tiny - 4, top_of_tiny);
      }
      default: return 0;
    }
  }
  /// Of factors whose products are about the result's largest, or smallest, number; as far as the format goes.
  int huge_exponent(const formats::Format& f) const { return std::min(most(f), r_.f16_result() ? 7 : 63); }
  int tiny_exponent(const formats::Format& f) const { return std::max(least(f) + 4, r_.f16_result() ? -7 : -61); }

  /// In each of two halves of some pairs of places a row of A repeats and a column of B changes sign.
  void cancel() {
    std::vector<int> places(static_cast<std::size_t>(r_.k));
    for (int k = 0; k < r_.k; ++k) places[static_cast<std::size_t>(k)] = k;
    for (int k = r_.k - 1; k > 0; --k)
      std::swap(places[static_cast<std::size_t>(k)], places[static_cast<std::size_t>(words_.below(k + 1))]);
    const int left = words_.below(3);
    for (int p = 0; p + 1 < r_.k - left; p += 2) {
      const int from = places[static_cast<std::size_t>(p)], to = places[static_cast<std::size_t>(p + 1)];
      for (int i = 0; i < r_.m; ++i) a(i, to) = a(i, from);
      for (int j = 0; j < r_.n; ++j) b(to, j) = b(from, j) ^ sign_of(r_.b);
    }
  }

  void fill_c() {
    std::vector<int> row_max(static_cast<std::size_t>(r_.m), -4096), column_max(static_cast<std::size_t>(r_.n), -4096);
    for (int i = 0; i < r_.m; ++i) {
      for (int k = 0; k < r_.k; ++k)
        row_max[static_cast<std::size_t>(i)] =
            std::max(row_max[static_cast<std::size_t>(i)], exponent_of(r_.a, a(i, k)));
    }
    for (int j = 0; j < r_.n; ++j) {
      for (int k = 0; k < r_.k; ++k)
        column_max[static_cast<std::size_t>(j)] =
            std::max(column_max[static_cast<std::size_t>(j)], exponent_of(r_.b, b(k, j)));
    }
    const bool none = words_.one_in(4);
    for (int i = 0; i < r_.m; ++i) {
      for (int j = 0; j < r_.n; ++j) {
        const int e = row_max[static_cast<std::size_t>(i)] + column_max[static_cast<std::size_t>(j)];
        c(i, j) = none ? random_sign(c_format()) : c_code(i, j, e);
      }
    }
  }
  std::uint32_t c_code(int i, int j, int e) {
    const bool half = r_.f16_addend;
    if (kind_ == Kind::opposite) {
      double sum = 0;
      for (int k = 0; k < r_.k; ++k) {
        sum += formats::decode_double(r_.a, a(i, k)) * formats::decode_double(r_.b, b(k, j));
      }
      return addend_of(-sum);
    }
    if (kind_ == Kind::special && words_.one_in(16)) {
      const std::uint32_t infinity = half ? 0x7C00u : 0x7F800000u;
      return random_sign(c_format()) | (infinity + static_cast<std::uint32_t>(words_.one_in(2)));
    }
    if (kind_ == Kind::huge && words_.one_in(2)) return addend(most(c_format()) - words_.below(4));
    if (kind_ == Kind::tiny && words_.one_in(2)) return addend(least(c_format()) + words_.below(half ? 14 : 30));
    if (words_.one_in(8)) return random_sign(c_format());
    return addend(e + words_.between(-30, 30));
  }

  int some_place() { return words_.below(r_.k); }

  void fill_all_pairs() {
    const int k = static_cast<int>(index_ % r_.k);
    for (int i = 0; i < r_.m; ++i) a(i, k) = any_code(r_.a, index_ * r_.m + i);
    for (int j = 0; j < r_.n; ++j) b(k, j) = any_code(r_.b, index_ * r_.m / 256 * r_.n + j);
    const std::int64_t grid = index_ * r_.m / 256 * r_.n / 256;
    for (int i = 0; i < r_.m; ++i) {
      for (int j = 0; j < r_.n; ++j) c(i, j) = grid == 0 ? 0 : addend(static_cast<int>(grid % 48) - 24);
    }
  }
  std::uint32_t any_code(const formats::Format& f, std::int64_t i) {
    if (f.bits <= 8) return static_cast<std::uint32_t>(i) & ((1u << f.bits) - 1);
    return static_cast<std::uint32_t>(words_()) & ((1u << f.bits) - 1);
  }

  /// Exponents of one factor such that products reach 31 binades.
  int low_of(const formats::Format& f) const { return std::max(least(f), -16); }
  int high_of(const formats::Format& f) const { return std::min(most(f), 15); }

  void fill_one_product() {
    const int k = some_place();
    for (int i = 0; i < r_.m; ++i) a(i, k) = signed_exponent(r_.a, low_of(r_.a), high_of(r_.a));
    for (int j = 0; j < r_.n; ++j) b(k, j) = signed_exponent(r_.b, low_of(r_.b), high_of(r_.b));
    for (int i = 0; i < r_.m; ++i) {
      for (int j = 0; j < r_.n; ++j) {
        const int e = exponent_of(r_.a, a(i, k)) + exponent_of(r_.b, b(k, j));
        c(i, j) = addend(e + static_cast<int>((index_ * r_.m * r_.n + i * r_.n + j) % 81) - 40);
      }
    }
  }

  void fill_two_terms() {
    const auto pairs = static_cast<std::int64_t>(r_.k) * (r_.k - 1);
    const auto pair = static_cast<int>(index_ % pairs);
    const int high = pair / (r_.k - 1), other = pair % (r_.k - 1), low = other + (other >= high);
    const bool with_c = words_.one_in(2);
    for (int i = 0; i < r_.m; ++i) {
      a(i, high) = signed_exponent(r_.a, high_of(r_.a) - 2, high_of(r_.a));
      a(i, low) = with_exponent(r_.a, high_of(r_.a) - static_cast<int>((index_ * r_.m + i) % 31)) | random_sign(r_.a);
    }
    for (int j = 0; j < r_.n; ++j) {
      b(high, j) = signed_exponent(r_.b, high_of(r_.b) - 2, high_of(r_.b));
      b(low, j) = signed_exponent(r_.b, low_of(r_.b), high_of(r_.b));
      for (int i = 0; i < r_.m && with_c; ++i) c(i, j) = addend(words_.between(-15, 30));
    }
  }

  void fill_three_terms() {
    const int big = some_place();
    int other = some_place(), small = some_place();
    while (r_.k > 2 && other == big) other = some_place();
    while (r_.k > 2 && (small == big || small == other)) small = some_place();
    const bool c_cancels = words_.one_in(3), c_there = words_.one_in(2);
    for (int i = 0; i < r_.m; ++i) {
      a(i, big) = a(i, other) = signed_exponent(r_.a, high_of(r_.a) - 6, high_of(r_.a));
      a(i, small) = signed_exponent(r_.a, low_of(r_.a), high_of(r_.a));
    }
    for (int j = 0; j < r_.n; ++j) {
      b(big, j) = signed_exponent(r_.b, high_of(r_.b) - 6, high_of(r_.b));
      b(other, j) = c_cancels ? 0 : b(big, j) ^ sign_of(r_.b);
      b(small, j) = signed_exponent(r_.b, low_of(r_.b), high_of(r_.b));
    }
    for (int i = 0; i < r_.m; ++i) {
      for (int j = 0; j < r_.n; ++j) {
        const double product = formats::decode_double(r_.a, a(i, big)) * formats::decode_double(r_.b, b(big, j));
        const int e = exponent_of(r_.a, a(i, small)) + exponent_of(r_.b, b(small, j));
        if (c_cancels) c(i, j) = addend_of(-product);
        else if (c_there) c(i, j) = addend(e + words_.between(-12, 12));
      }
    }
  }
};

/// Sets first, first + 1, ...
inline Batch make_batch(const sim::Instruction& r, std::uint64_t seed, std::int64_t first, std::int64_t count) {
  Batch out = empty_batch(r, first, count);
#pragma omp parallel for schedule(dynamic, 64)
  for (std::int64_t s = 0; s < count; ++s) SetMaker(r, first + s, seed)(out, s);
  return out;
}
inline Kind kind_of(std::int64_t number) { return schedule[static_cast<std::size_t>(number % 16)]; }

}  // namespace fp4scope::probe
