// Matrix instructions by hand: examples that a pencil can follow, evaluated by the compiler; and the table's shape.
#include "sim/instructions.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <string_view>

namespace fp4scope {
namespace {

using sim::Architecture;
using sim::Instruction;

/// Operands that are zero but for a few, all given as codes.
struct Example {
  std::uint32_t a[64] = {}, b[64] = {}, scale_a[4] = {}, scale_b[4] = {};
  std::uint32_t c = 0;

  constexpr Example& at(int k, std::uint32_t a_code, std::uint32_t b_code) {
    a[k] = a_code;
    b[k] = b_code;
    return *this;
  }
  constexpr Example& scales(int i, std::uint32_t a_code, std::uint32_t b_code) {
    scale_a[i] = a_code;
    scale_b[i] = b_code;
    return *this;
  }
  constexpr Example& plus(std::uint32_t bits) {
    c = bits;
    return *this;
  }
  constexpr std::uint32_t on(const Instruction& r) const {
    return sim::multiply_accumulate(r, a, 1, b, 1, c, scale_a, 1, scale_b, 1);
  }
};

constexpr const Instruction& row(std::string_view name, Architecture architecture) {
  return *sim::find_instruction(name, architecture);
}

constexpr Instruction hopper = row("mma.m16n8k16.f32.f16.f16.f32", Architecture::hopper);
constexpr Instruction ampere = row("mma.m16n8k16.f32.f16.f16.f32", Architecture::ampere);
constexpr Instruction volta = row("mma.m8n8k4.f32.f16.f16.f32", Architecture::volta);
constexpr Instruction wgmma = row("wgmma.m64n8k32.f32.e4m3.e4m3", Architecture::hopper);
constexpr Instruction wgmma_half = row("wgmma.m64n8k32.f16.e4m3.e4m3", Architecture::hopper);
constexpr Instruction unpacked = row("mma.m16n8k32.f32.e4m3.e4m3.f32", Architecture::hopper);
constexpr Instruction converted = row("mma.m16n8k32.f32.e4m3.e5m2.f32", Architecture::hopper);
constexpr Instruction mxfp8 = row("mma.m16n8k32.block32.f32.e4m3.e4m3.f32.ue8m0", Architecture::rtx_blackwell);
constexpr Instruction nvfp4 = row("mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3", Architecture::rtx_blackwell);

constexpr std::uint32_t one_f16 = 0x3C00, one_e4m3 = 0x38, one_e2m1 = 0x2, one_ue4m3 = 0x38, one_f32 = 0x3F800000;

// 1 - 2^-24 (a subnormal fp16 times 1) in 25 and in 23 bits: the small term is whole, or lost before it is subtracted.
static_assert(Example().at(0, one_f16, one_f16).at(1, 0x8001, one_f16).on(hopper) == 0x3F7FFFFF);
static_assert(Example().at(0, one_f16, one_f16).at(1, 0x8001, one_f16).on(volta) == one_f32);
// 1 + 2^-24 + 2^-24: one sum gives 1 + 2^-23, two steps drop each half.
static_assert(Example().at(0, one_f16, one_f16).at(1, 1, one_f16).at(9, 1, one_f16).on(hopper) == one_f32 + 1);
static_assert(Example().at(0, one_f16, one_f16).at(1, 1, one_f16).at(9, 1, one_f16).on(ampere) == one_f32);
// Toward zero, not to nearest: 1 + 3/4 of a last place.
static_assert(Example().at(0, one_f16, one_f16).at(1, 0x0001, 0x3E00).plus(0).on(hopper) == one_f32);
// 3 * 3 with max 2^2: a product's exponent is the operands', though it is 9: 2^-23 lies 25 below 2^2 and counts.
static_assert(Example().at(0, 0x4200, 0x4200).at(1, 0x0001, 0x4000).on(hopper) == 0x41100000);

// 13 bits below 2^0: 2^-13 stays and 2^-14 goes, with C too; the low ten bits of D are 0.
static_assert(Example().at(0, one_e4m3, one_e4m3).plus(0x39000000).on(wgmma) == (one_f32 | 1 << 10));
static_assert(Example().at(0, one_e4m3, one_e4m3).plus(0x38FFFFFF).on(wgmma) == one_f32);
// 2^-6 * 2^-6 * 1.5: the f16 result is rounded to nearest.
static_assert(Example().at(0, 0x08, 0x0C).on(wgmma_half) == 0x0E00);

// The two steps by k mod 4, C after them to nearest even: 2^24 + 1 stays 2^24, 2^24 + 3 (code 0x44) becomes 2^24 + 4.
static_assert(Example().at(0, one_e4m3, one_e4m3).plus(0x4B800000).on(unpacked) == 0x4B800000);
static_assert(Example().at(0, one_e4m3, 0x44).plus(0x4B800000).on(unpacked) == 0x4B800002);
// e4m3's 2^-9 is no subnormal once it is binary16: beside 2^-9 * 2^15 a product of 2^-17 counts.
static_assert(Example().at(0, 0x01, 0x78).at(1, 0x08, 0x10).on(converted) == 0x42800001);
static_assert(unpacked.place(0) == 0 && unpacked.place(1) == 1 && unpacked.place(4) == 2 && unpacked.place(2) == 16);

// A scale's exponent joins the maximum, a zero's exponent is -126 beside it: 2^127 * 2^127 * 0 hides 2^-24.
static_assert(Example().scales(0, 254, 254).plus(0x33800000).on(mxfp8) == 0);
static_assert(Example().scales(0, 254, 253).plus(0x34000000).on(mxfp8) == 0x34000000);
static_assert(Example().scales(0, 0xFF, 127).on(mxfp8) == 0x7FFFFFFF);

// Sixteen products of 6 * 6 under scales 448 * 448, four times: 64 * 36 * 448^2 = 462,422,016.
constexpr std::uint32_t largest_nvfp4() {
  Example x;
  for (int k = 0; k < 64; ++k) x.at(k, 7, 7);
  for (int i = 0; i < 4; ++i) x.scales(i, 0x7E, 0xFE);
  return x.on(nvfp4);
}
static_assert(__builtin_bit_cast(float, largest_nvfp4()) == 462422016.0f);
// 1 * 1 + 2^-24 is truncated to 1; 1 * 1 - 2^-24 is a binary32 number.
constexpr Example one_nvfp4 = Example().at(0, one_e2m1, one_e2m1).scales(0, one_ue4m3, one_ue4m3);
static_assert(Example(one_nvfp4).plus(0x33800000).on(nvfp4) == one_f32);
static_assert(Example(one_nvfp4).plus(0xB3800000).on(nvfp4) == 0x3F7FFFFF);

// Specials.
static_assert(Example().at(0, 0x7C00, 0).on(hopper) == 0x7FFFFFFF);
static_assert(Example().at(0, 0xFC00, one_f16).on(hopper) == 0xFF800000);
static_assert(Example().at(0, 0x7C00, one_f16).at(15, 0xFC00, one_f16).on(hopper) == 0x7FFFFFFF);
static_assert(Example().at(0, 0x7C00, one_f16).plus(0xFF800000).on(hopper) == 0x7FFFFFFF);
static_assert(Example().plus(0x80000000).on(hopper) == 0);
static_assert(Example().at(0, 0x7BFF, 0x7BFF).plus(0x7F7FFFFF).on(hopper) == 0x7F7FFFFF);

// In real numbers: 2^127 - 2^127 + 2^-149 with bf16 operands, which no alignment keeps.
constexpr Instruction exact = sim::reference_accumulator(sim::Sum::exact, formats::bf16, formats::bf16, 16);
static_assert(Example().at(0, 0x7F00, 0x3F80).at(1, 0xFF00, 0x3F80).plus(1).on(exact) == 1);
// 1 + 2^-24 is a tie; 2^-80 beside it, or 2^-120, decides it.
static_assert(Example().at(0, 0x3980, 0x3980).plus(one_f32).on(exact) == one_f32);
static_assert(Example().at(0, 0x3980, 0x3980).at(1, 0x2B80, 0x2B80).plus(one_f32).on(exact) == one_f32 + 1);
static_assert(Example().at(0, 0x3980, 0x3980).at(1, 0x2180, 0x2180).plus(one_f32).on(exact) == one_f32 + 1);
static_assert(Example().at(0, 0x3980, 0x3980).at(1, 0x2B80, 0xAB80).plus(one_f32).on(exact) == one_f32);
constexpr Instruction chained = sim::reference_accumulator(sim::Sum::sequential, formats::fp16, formats::fp16, 4);
constexpr Instruction tree = sim::reference_accumulator(sim::Sum::pairwise, formats::fp16, formats::fp16, 4);
// C = 2^24 and three times 1: one after the other each is lost; a tree has 3, and 2^24 + 3 is a tie.
constexpr Example three_ones =
    Example().at(0, one_f16, one_f16).at(1, one_f16, one_f16).at(2, one_f16, one_f16).plus(0x4B800000);
static_assert(three_ones.on(chained) == 0x4B800000);
static_assert(three_ones.on(tree) == 0x4B800002);

constexpr Instruction cdna3 = *sim::find_instruction("mfma.m16n16k16.f32.f16.f16", Architecture::cdna3);
// 1 and a C that is far smaller: cut downward to 2^-24, not toward zero.
static_assert(Example().at(3, one_f16, one_f16).plus(0xB0800000).on(cdna3) == 0x3F7FFFFF);
static_assert(Example().at(3, one_f16, one_f16).plus(0x30800000).on(cdna3) == 0x3F800000);

TEST(Instructions, have_names_of_their_own) {
  for (const Instruction& r : sim::all_instructions) {
    EXPECT_EQ(sim::find_instruction(r.name, r.architecture), &r) << r.name;
    EXPECT_LT(std::string_view(r.name).size(), sizeof r.name - 8) << r.name;
    EXPECT_NE(std::string_view(r.evidence.model), "") << r.name;
  }
}

TEST(Instructions, every_measurement_has_its_row) {
  for (const sim::Measurement& m : sim::measurements) {
    const Instruction* r = sim::find_instruction(m.name, m.architecture);
    ASSERT_NE(r, nullptr) << m.name;
    EXPECT_EQ(r->evidence.measured, m.outputs) << m.name;
    EXPECT_EQ(r->evidence.differ, m.differ) << m.name;
  }
}

TEST(Instructions, every_k_has_one_place) {
  for (const Instruction& r : sim::all_instructions) {
    std::string seen(static_cast<std::size_t>(r.k), ' ');
    for (int k = 0; k < r.k; ++k) seen.at(static_cast<std::size_t>(r.place(k))) = 'x';
    EXPECT_EQ(seen, std::string(static_cast<std::size_t>(r.k), 'x')) << r.name;
  }
}

TEST(TensorCore, binary32_is_a_format_like_the_others) {
  static_assert(formats::decode_double(sim::binary32, 0xBFC00000) == -1.5);
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 0x10001) {
    const auto code = static_cast<std::uint32_t>(bits);
    const double x = formats::decode_double(sim::binary32, code);
    const auto want = static_cast<double>(__builtin_bit_cast(float, code));
    EXPECT_TRUE(x == want || (std::isnan(x) && std::isnan(want))) << std::hex << code;
  }
}

TEST(TensorCore, decoded_operands_and_codes_give_the_same) {
  Example x;
  for (int k = 0; k < 32; ++k) {
    x.at(k, static_cast<std::uint32_t>(k * 7 % 127), static_cast<std::uint32_t>(126 - k * 3));
  }
  x.plus(0x41234567);
  for (const Instruction* r : {&wgmma, &unpacked}) {
    std::int32_t words[4][32];
    sim::decode_elements(*r, r->a, x.a, 1, words[0], words[1]);
    sim::decode_elements(*r, r->b, x.b, 1, words[2], words[3]);
    EXPECT_EQ(sim::accumulate(*r, {words[0], words[1]}, {words[2], words[3]}, x.c), x.on(*r)) << r->name;
  }
}

}  // namespace
}  // namespace fp4scope
