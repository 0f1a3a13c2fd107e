// formats/: the rows, their values typed out by hand, and the laws that every code obeys.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "formats/block_format.hpp"
#include "formats/codec.hpp"
#include "formats/pack.hpp"

namespace fp4scope::formats {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Rounding every_rounding[] = {Rounding::nearest_even, Rounding::nearest_away, Rounding::toward_zero,
                                       Rounding::up,           Rounding::down,         Rounding::stochastic};
constexpr Overflow every_policy[] = {Overflow::saturate, Overflow::nan};

std::string show(const Format& f, std::uint32_t code) {
  std::ostringstream text;
  const double value = decode_double(f, code);
  text << f.name << " code 0x" << std::hex << code << " = " << std::hexfloat << value << " = " << std::defaultfloat
       << value;
  return text.str();
}

std::uint64_t bits_of(double x) { return __builtin_bit_cast(std::uint64_t, x); }

// ---- Values typed out by hand ---------------------------------------------------------------------------------------

struct ValueList {
  Format format;
  std::vector<double> values;  ///< of codes 0, 1, 2, ... with the sign clear
};

const ValueList value_lists[] = {
    {e2m1, {0, 0.5, 1, 1.5, 2, 3, 4, 6}},
    {e1m2, {0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5}},
    {e2m3, {0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875,
            2, 2.25,  2.5,  2.75,  3,   3.25,  3.5,  3.75,  4, 4.5,   5,    5.5,   6,   6.5,   7,    7.5}},
    {e3m2, {0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875, 1,  1.25, 1.5, 1.75,
            2, 2.5,    3,     3.5,    4,    5,      6,     7,      8,   10,    12,   14,    16, 20,   24,  28}},
};

TEST(Values, small_formats_hold_exactly_the_values_typed_here_and_their_negatives) {
  for (const auto& [f, values] : value_lists) {
    ASSERT_EQ(2 * values.size(), f.code_count()) << f.name;
    for (std::uint32_t code = 0; code < values.size(); ++code) {
      EXPECT_EQ(bits_of(decode_double(f, code)), bits_of(values[code])) << show(f, code);
      EXPECT_EQ(bits_of(decode_double(f, code | f.sign_bit())), bits_of(-values[code])) << show(f, code);
    }
  }
}

TEST(Values, int4_is_twos_complement) {
  const double values[] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
  for (std::uint32_t code = 0; code < 16; ++code) {
    EXPECT_EQ(bits_of(decode_double(int4, code)), bits_of(values[code])) << show(int4, code);
  }
}

/// Positive codes at the corners, and how many codes of each kind there are (both signs counted).
struct Corners {
  Format format;
  double max, min_normal, min_subnormal;  ///< min_subnormal: 0 where there is none
  std::uint32_t min_normal_code;
  std::uint32_t inf_code, nan_code;  ///< 0 where there is none
  int normals, subnormals, zeros, infinities, nans;
};

// clang-format off
const Corners corners[] = {
    // format    max           min normal  subnormal   code    Inf     NaN     normal subn. zero Inf NaN
    {e2m1,       6,            1,          0.5,        0x2,    0,      0,      12,    2,    2,   0,  0},
    {e2m3,       7.5,          1,          0.125,      0x8,    0,      0,      48,    14,   2,   0,  0},
    {e3m2,       28,           0.25,       0.0625,     0x4,    0,      0,      56,    6,    2,   0,  0},
    {e3m4,       15.5,         0.25,       0x1p-6,     0x10,   0x70,   0x78,   192,   30,   2,   2,  30},
    {e4m3,       448,          0x1p-6,     0x1p-9,     0x08,   0,      0x7F,   238,   14,   2,   0,  2},
    {e4m3_ieee,  240,          0x1p-6,     0x1p-9,     0x08,   0x78,   0x7C,   224,   14,   2,   2,  14},
    {e5m2,       57344,        0x1p-14,    0x1p-16,    0x04,   0x7C,   0x7E,   240,   6,    2,   2,  6},
    {ue8m0,      0x1p127,      0x1p-127,   0,          0x00,   0,      0xFF,   255,   0,    0,   0,  1},
    {ue4m3,      448,          0x1p-6,     0x1p-9,     0x08,   0,      0x7F,   119,   7,    1,   0,  1},
    {ue5m3,      114688,       0x1p-14,    0x1p-17,    0x08,   0,      0xFF,   247,   7,    1,   0,  1},
    {ue4m4,      480,          0x1p-6,     0x1p-10,    0x10,   0,      0xFF,   239,   15,   1,   0,  1},
    {e1m2,       3.5,          2,          0.5,        0x4,    0,      0,      8,     6,    2,   0,  0},
    {int4,       7,            1,          0,          0x1,    0,      0,      15,    0,    1,   0,  0},
    {int8,       127,          1,          0,          0x01,   0,      0,      255,   0,    1,   0,  0},
    {bf16,       0x1.FEp127,   0x1p-126,   0x1p-133,   0x0080, 0x7F80, 0x7FC0, 65024, 254,  2,   2,  254},
    {fp16,       65504,        0x1p-14,    0x1p-24,    0x0400, 0x7C00, 0x7E00, 61440, 2046, 2,   2,  2046},
};
// clang-format on

TEST(Values, every_format_has_the_corners_typed_here) {
  ASSERT_EQ(std::size(corners), std::size(all_formats));
  for (const Corners& c : corners) {
    const Format& f = c.format;
    EXPECT_EQ(decode_double(f, f.max_code), c.max) << show(f, f.max_code);
    EXPECT_EQ(decode_double(f, c.min_normal_code), c.min_normal) << show(f, c.min_normal_code);
    EXPECT_EQ(decode(f, c.min_normal_code).cls, CodeClass::normal) << show(f, c.min_normal_code);
    if (c.min_subnormal != 0) {
      EXPECT_EQ(decode_double(f, 1), c.min_subnormal) << show(f, 1);
      EXPECT_EQ(decode(f, 1).cls, CodeClass::subnormal) << show(f, 1);
      EXPECT_EQ(decode(f, c.min_normal_code - 1).cls, CodeClass::subnormal) << show(f, c.min_normal_code - 1);
    }
    EXPECT_EQ(f.has_inf(), c.inf_code != 0) << f.name;
    EXPECT_EQ(f.has_nan(), c.nan_code != 0) << f.name;
    if (c.inf_code) {
      EXPECT_EQ(f.inf_code(), c.inf_code) << f.name;
      EXPECT_EQ(decode_double(f, c.inf_code), infinity) << show(f, c.inf_code);
      EXPECT_EQ(decode_double(f, c.inf_code | f.sign_bit()), -infinity) << show(f, c.inf_code);
    }
    if (c.nan_code) {
      EXPECT_EQ(f.nan_code(), c.nan_code) << f.name;
      EXPECT_TRUE(std::isnan(decode_double(f, c.nan_code))) << show(f, c.nan_code);
    }
  }
}

TEST(Values, every_format_has_as_many_codes_of_each_kind_as_typed_here) {
  for (const Corners& c : corners) {
    int counts[5] = {};
    for (std::uint32_t code = 0; code < c.format.code_count(); ++code) {
      ++counts[static_cast<int>(decode(c.format, code).cls)];
    }
    EXPECT_EQ(counts[static_cast<int>(CodeClass::normal)], c.normals) << c.format.name;
    EXPECT_EQ(counts[static_cast<int>(CodeClass::subnormal)], c.subnormals) << c.format.name;
    EXPECT_EQ(counts[static_cast<int>(CodeClass::zero)], c.zeros) << c.format.name;
    EXPECT_EQ(counts[static_cast<int>(CodeClass::infinite)], c.infinities) << c.format.name;
    EXPECT_EQ(counts[static_cast<int>(CodeClass::nan)], c.nans) << c.format.name;
  }
}

// ---- Laws of every code ---------------------------------------------------------------------------------------------

TEST(EveryCode, survives_decode_and_encode_in_every_rounding_and_policy) {
  for (const Format& f : all_formats) {
    for (std::uint32_t code = 0; code < f.code_count(); ++code) {
      const Decoded d = decode(f, code);
      const double x = decode_double(f, code);
      for (const Rounding mode : every_rounding) {
        for (const Overflow policy : every_policy) {
          const bool most_negative = f.twos_complement && code == f.sign_bit();
          const bool clipped = d.cls == CodeClass::infinite && policy == Overflow::saturate;
          std::uint32_t want = code;
          if (d.cls == CodeClass::nan) want = f.nan_code();
          if (clipped) want = f.max_code | (code & f.sign_bit());
          if (most_negative) want = f.sign_bit() + 1;
          const Encoded got = encode(f, x, mode, policy, 0);
          EXPECT_EQ(got.code, want) << show(f, code) << ", mode " << int(mode) << ", got " << show(f, got.code);
          const bool finite = d.cls != CodeClass::infinite && d.cls != CodeClass::nan;
          if (!finite || most_negative) continue;
          EXPECT_EQ(got.status, exact) << show(f, code) << ", mode " << int(mode);
        }
      }
    }
  }
}

TEST(EveryCode, decodes_to_the_same_float_and_double_and_ignores_higher_bits) {
  for (const Format& f : all_formats) {
    for (std::uint32_t code = 0; code < f.code_count(); ++code) {
      const double x = decode_double(f, code);
      const double widened = static_cast<double>(decode_float(f, code));
      const double masked = decode_double(f, code | ~(f.code_count() - 1));
      EXPECT_TRUE(std::isnan(x) ? std::isnan(widened) && std::isnan(masked)
                                : bits_of(x) == bits_of(widened) && bits_of(x) == bits_of(masked))
          << show(f, code);
    }
  }
}

TEST(EveryCode, has_a_dyadic_equal_to_its_double_and_a_sign) {
  for (const Format& f : all_formats) {
    for (std::uint32_t code = 0; code < f.code_count(); ++code) {
      const Decoded d = decode(f, code);
      EXPECT_EQ(d.negative, (code & f.sign_bit()) != 0) << show(f, code);
      if (d.cls == CodeClass::nan) continue;
      const double x = decode_double(f, code);
      EXPECT_EQ(std::signbit(x), d.negative) << show(f, code);
      if (d.cls == CodeClass::infinite) continue;
      EXPECT_EQ(std::ldexp(static_cast<double>(d.value.significand), d.value.exponent), x) << show(f, code);
    }
  }
}

TEST(EveryCode, is_greater_in_value_than_the_code_before_it) {
  for (const Format& f : all_formats) {
    for (std::uint32_t code = 1; code <= f.max_code; ++code) {
      EXPECT_LT(decode_double(f, code - 1), decode_double(f, code)) << show(f, code);
      if (!f.is_signed) continue;
      const std::uint32_t sign = f.sign_bit();
      const auto mirror = [&](std::uint32_t c) { return f.twos_complement ? (2 * sign - c) % (2 * sign) : c | sign; };
      EXPECT_GT(decode_double(f, mirror(code - 1)), decode_double(f, mirror(code))) << show(f, code);
    }
  }
}

// ---- Zero, NaN, unsigned formats ------------------------------------------------------------------------------------

TEST(Encode, keeps_the_sign_of_zero_and_of_what_rounds_to_zero_where_there_is_a_sign) {
  for (const Format& f : all_formats) {
    if (!f.has_zero) continue;
    const std::uint32_t minus_zero = f.is_signed && !f.twos_complement ? f.sign_bit() : 0;
    EXPECT_EQ(encode(f, 0.0).code, 0u) << f.name;
    EXPECT_EQ(encode(f, -0.0).code, minus_zero) << f.name;
    EXPECT_EQ(encode(f, -0.0).status, exact) << f.name;
    EXPECT_EQ(encode(f, 0x1p-1074).code, 0u) << f.name;
    EXPECT_EQ(encode(f, -0x1p-1074).code, minus_zero) << f.name;
    EXPECT_EQ(encode(f, 0x1p-1074).status, inexact | underflow) << f.name;
  }
}

TEST(Encode, gives_the_canonical_nan_or_the_largest_code_for_every_nan) {
  for (const Format& f : all_formats) {
    for (const std::uint64_t bits : {0x7FF0000000000001u, 0x7FF8000000000000u, 0x7FFFFFFFFFFFFFFFu, 0xFFF0000000000001u,
                                     0xFFF8000000000000u, 0xFFFFFFFFFFFFFFFFu}) {
      for (const Overflow policy : every_policy) {
        const Encoded e = encode(f, __builtin_bit_cast(double, bits), Rounding::nearest_even, policy);
        EXPECT_EQ(e.code, f.has_nan() ? f.nan_code() : f.max_code) << f.name << " of 0x" << std::hex << bits;
        EXPECT_EQ(e.status, was_nan) << f.name << " of 0x" << std::hex << bits;
      }
    }
  }
}

struct Case {
  Format format;
  double x;
  Rounding mode;
  Overflow policy;
  std::uint32_t code;
  int status;
};

constexpr auto rne = Rounding::nearest_even;
constexpr auto rna = Rounding::nearest_away;
constexpr auto rtz = Rounding::toward_zero;
constexpr auto rup = Rounding::up;
constexpr auto rdn = Rounding::down;
constexpr auto sat = Overflow::saturate;
constexpr auto to_nan = Overflow::nan;

const Case cases[] = {
    // The seven ties of E2M1 and what lies beyond its largest value.
    {e2m1, 0.25, rne, sat, 0x0, inexact | underflow},
    {e2m1, 0.75, rne, sat, 0x2, inexact | underflow},
    {e2m1, 1.25, rne, sat, 0x2, inexact},
    {e2m1, 1.75, rne, sat, 0x4, inexact},
    {e2m1, 2.5, rne, sat, 0x4, inexact},
    {e2m1, 3.5, rne, sat, 0x6, inexact},
    {e2m1, 5, rne, sat, 0x6, inexact},
    {e2m1, 5, rna, sat, 0x7, inexact},
    {e2m1, -5, rtz, sat, 0xE, inexact},
    {e2m1, -5, rdn, sat, 0xF, inexact},
    {e2m1, -5, rup, sat, 0xE, inexact},
    {e2m1, 6.999, rne, sat, 0x7, inexact},
    {e2m1, 7, rne, sat, 0x7, inexact | overflow},
    {e2m1, infinity, rne, sat, 0x7, inexact | overflow},
    {e2m1, -infinity, rne, to_nan, 0xF, inexact | overflow},
    // E4M3: 464 is the tie between 448 and the 480 that would follow; directed rounding stops at the largest value.
    {e4m3, 464, rne, to_nan, 0x7E, inexact},
    {e4m3, std::nextafter(464, 500), rne, to_nan, 0x7F, inexact | overflow},
    {e4m3, -500, rne, to_nan, 0xFF, inexact | overflow},
    {e4m3, 464, rna, sat, 0x7E, inexact | overflow},
    {e4m3, 464, rna, to_nan, 0x7F, inexact | overflow},
    {e4m3, 1e300, rtz, to_nan, 0x7E, inexact | overflow},
    {e4m3, 1e300, rdn, to_nan, 0x7E, inexact | overflow},
    {e4m3, -1e300, rdn, to_nan, 0xFF, inexact | overflow},
    {e4m3, 0x1p-10, rne, sat, 0x00, inexact | underflow},
    {e4m3, 0x1.8p-9, rne, sat, 0x02, inexact | underflow},
    // E5M2 and binary16 have infinities.
    {e5m2, 61440, rne, to_nan, 0x7C, inexact | overflow},
    {e5m2, 61440, rne, sat, 0x7B, inexact | overflow},
    {e5m2, infinity, rne, to_nan, 0x7C, exact},
    {e5m2, infinity, rtz, to_nan, 0x7C, exact},
    {fp16, -65520, rne, to_nan, 0xFC00, inexact | overflow},
    {fp16, 65519.99, rne, to_nan, 0x7BFF, inexact},
    // UE8M0: ties go up, zero and negative numbers do not exist.
    {ue8m0, 1.5, rne, sat, 0x80, inexact},
    {ue8m0, 3, rne, sat, 0x81, inexact},
    {ue8m0, 3, rtz, sat, 0x80, inexact},
    {ue8m0, 0x1.0000000000001p0, rup, sat, 0x80, inexact},
    {ue8m0, 0, rne, sat, 0x00, inexact | underflow},
    {ue8m0, 0, rne, to_nan, 0xFF, inexact | underflow},
    {ue8m0, 0x1p-140, rne, sat, 0x00, inexact | underflow},
    {ue8m0, -1, rne, sat, 0x00, inexact | overflow},
    {ue8m0, -1, rne, to_nan, 0xFF, inexact | overflow},
    {ue8m0, 0x1.8p127, rne, sat, 0xFE, inexact | overflow},
    {ue4m3, -1, rne, sat, 0x00, inexact | overflow},
    {ue4m3, -0.0, rne, to_nan, 0x00, exact},
    // Integers: symmetric, and no integer is subnormal.
    {int4, -8, rne, sat, 0x9, inexact | overflow},
    {int4, 7.5, rne, sat, 0x7, inexact | overflow},
    {int4, -6.5, rne, sat, 0xA, inexact},
    {int4, 0.5, rna, sat, 0x1, inexact | underflow},
    {int8, 2.5, rne, sat, 0x02, inexact},
};

TEST(Encode, gives_the_codes_and_statuses_typed_here) {
  for (const Case& c : cases) {
    const Encoded got = encode(c.format, c.x, c.mode, c.policy);
    EXPECT_TRUE(got.code == c.code && got.status == c.status)
        << c.format.name << " of " << std::hexfloat << c.x << " = " << std::defaultfloat << c.x << ", mode "
        << int(c.mode) << "\n  got  " << show(c.format, got.code) << ", status " << int(got.status) << "\n  want "
        << show(c.format, c.code) << ", status " << c.status;
  }
}

TEST(Encode, is_usable_in_constant_expressions) {
  static_assert(encode(e2m1, 5.0).code == 6 && encode(e4m3, -448.0).code == 0xFE && decode_double(e2m1, 0xF) == -6.0);
}

// ---- Rows, dyadics, nibbles -----------------------------------------------------------------------------------------

TEST(Rows, are_found_by_their_names_and_by_no_other) {
  for (const Format& f : all_formats) {
    const Format* found = find_format(f.name);
    ASSERT_NE(found, nullptr) << f.name;
    EXPECT_TRUE(same_format(*found, f)) << f.name;
    EXPECT_EQ(f.bits, f.is_signed + f.exponent_bits + f.mantissa_bits) << f.name;
  }
  for (const char* name : {"", "E2M1", "e2m", "e2m11", "nvfp4"}) EXPECT_EQ(find_format(name), nullptr) << name;
}

TEST(Rows, of_block_formats_are_the_published_ones) {
  struct Row {
    const char *name, *element, *scale;
    int block;
    bool tensor_scaled;
    int scale_max;
    double element_max;
  };
  const Row rows[] = {
      {"nvfp4", "e2m1", "e4m3", 16, true, 448, 6},
      {"mxfp4", "e2m1", "ue8m0", 32, false, 0, 6},
      {"nvint4", "int4", "e4m3", 16, true, 448, 7},
  };
  for (const Row& row : rows) {
    const BlockFormat* f = find_block_format(row.name);
    ASSERT_NE(f, nullptr) << row.name;
    EXPECT_STREQ(f->element.name, row.element) << row.name;
    EXPECT_STREQ(f->scale.name, row.scale) << row.name;
    EXPECT_EQ(f->block, row.block) << row.name;
    EXPECT_EQ(f->tensor_scaled, row.tensor_scaled) << row.name;
    EXPECT_EQ(f->scale_max, row.scale_max) << row.name;
    EXPECT_EQ(f->element_max(), row.element_max) << row.name;
  }
  EXPECT_EQ(find_block_format("e2m1"), nullptr);
}

TEST(Dyadic, equality_is_of_values) {
  EXPECT_TRUE(same_value({3, 0}, {6, -1}));
  EXPECT_TRUE(same_value({0, 5}, {0, -7}));
  EXPECT_TRUE(same_value({-4, 0}, {-1, 2}));
  EXPECT_FALSE(same_value({3, 0}, {-3, 0}));
  EXPECT_FALSE(same_value({3, 0}, {3, 1}));
}

TEST(Dyadic, unpacking_keeps_every_double) {
  for (const double x : {1.0, -1.5, 0x1p-1074, 0x1.FFFFFFFFFFFFFp1023, -0x1p-1022, 0x1.8p-1040, 0.0, -0.0}) {
    const Unpacked u = unpack(x);
    const double back = std::ldexp(static_cast<double>(u.significand), u.exponent);
    EXPECT_EQ(bits_of(u.negative ? -back : back), bits_of(x)) << x;
    EXPECT_FALSE(u.nan || u.infinite) << x;
  }
  EXPECT_TRUE(unpack(-infinity).infinite && unpack(-infinity).negative);
  EXPECT_TRUE(unpack(std::nan("")).nan);
}

TEST(Dyadic, bit_length_and_powers_of_two_are_exact) {
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(bit_length(std::uint64_t{1} << i), i + 1);
    EXPECT_EQ(bit_length((std::uint64_t{1} << i) - 1), i);
  }
  for (int e = -1022; e <= 1023; ++e) EXPECT_EQ(exp2_exact(e), std::ldexp(1.0, e));
}

TEST(Nibbles, every_pair_packs_low_nibble_first_and_unpacks) {
  for (std::uint32_t even = 0; even < 16; ++even) {
    for (std::uint32_t odd = 0; odd < 16; ++odd) {
      const std::uint8_t packed[] = {0xA5, pack_nibbles(even, odd)};
      EXPECT_EQ(packed[1], even + 16 * odd) << even << ", " << odd;
      EXPECT_EQ(pack_nibbles(even | 0xF0, odd | 0xF0), packed[1]) << even << ", " << odd;
      EXPECT_EQ(unpack_nibble(packed, 0), 0x5u);
      EXPECT_EQ(unpack_nibble(packed, 1), 0xAu);
      EXPECT_EQ(unpack_nibble(packed, 2), even) << even << ", " << odd;
      EXPECT_EQ(unpack_nibble(packed, 3), odd) << even << ", " << odd;
    }
  }
}

}  // namespace
}  // namespace fp4scope::formats
