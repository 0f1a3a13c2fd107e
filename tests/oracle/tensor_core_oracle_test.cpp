// Every row of instructions.hpp against the model as the publications word it, in GMP integers (tensor_core_model.hpp),
// on operands of seven kinds; mutants of rows must show; the reference accumulators against MPFR and the processor.
#include <gtest/gtest.h>
#include <mpfr.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "sim/instructions.hpp"
#include "tests/oracle/mpfr_rounding.hpp"
#include "tests/oracle/tensor_core_problems.hpp"

namespace fp4scope {
namespace {

using oracle::Kind;
using oracle::Problem;
using sim::Architecture;
using sim::Instruction;
using sim::Sum;

std::uint32_t computed(const Instruction& r, const Problem& p) {
  return sim::multiply_accumulate(r, p.a.data(), 1, p.b.data(), 1, p.c, p.scale_a.data(), 1, p.scale_b.data(), 1);
}

std::string listed(const char* name, const std::vector<std::uint32_t>& codes) {
  std::ostringstream text;
  text << ' ' << name << std::hex;
  for (const std::uint32_t code : codes) text << ' ' << code;
  return text.str();
}

std::string shown(std::uint32_t bits, bool half) {
  std::ostringstream text;
  text << "0x" << std::hex << bits << " = " << oracle::float_of(bits, half);
  return text.str();
}

TEST(TensorCore, every_row_is_its_published_model) {
  constexpr int each = 60;
  std::int64_t compared = 0, differ = 0;
  std::uint64_t seed = 1;
  for (const Instruction& r : sim::all_instructions) {
    const oracle::Model model = oracle::expected(r);
    oracle::Problems problems(r, seed++);
    for (const Kind kind : oracle::kinds) {
      for (int i = 0; i < each; ++i, ++compared) {
        const Problem p = problems(kind);
        const std::uint32_t got = computed(r, p), want = oracle::modelled(r, model, p);
        if (got == want || ++differ > 5) continue;
        ADD_FAILURE() << sim::architecture_names[static_cast<int>(r.architecture)] << ' ' << r.name << ", "
                      << oracle::kind_names[static_cast<int>(kind)] << ' ' << i << ": " << shown(got, r.f16_result())
                      << ", the model has " << shown(want, r.f16_result()) << listed("A", p.a) << listed("B", p.b)
                      << listed("SA", p.scale_a) << listed("SB", p.scale_b) << listed("C", {p.c});
      }
    }
  }
  EXPECT_EQ(differ, 0);
  std::cout << sim::InstructionTable::count << " rows, " << compared << " outputs compared, " << differ << " differ\n";
}

/// The share of outputs, in %, where a changed row differs from the model of the unchanged one.
double visible(const Instruction& row, const Instruction& mutant, std::initializer_list<Kind> kinds) {
  const oracle::Model model = oracle::expected(row);
  oracle::Problems problems(row, 77);
  int differ = 0, compared = 0;
  for (const Kind kind : kinds) {
    for (int i = 0; i < 3000; ++i, ++compared) {
      const Problem p = problems(kind);
      differ += computed(mutant, p) != oracle::modelled(row, model, p);
    }
  }
  return 100.0 * differ / compared;
}

struct Mutation {
  const char* name;
  Architecture architecture;
  const char* what;
  void (*change)(Instruction&);
  double at_least;  ///< % of outputs of two kinds of operands
  Kind one = Kind::spread, other = Kind::cancelling;
};

constexpr const char* nvfp4 = "mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3";
constexpr const char* mxfp4 = "mma.m16n8k64.block32.f32.e2m1.e2m1.f32.ue8m0";
constexpr const char* mxfp8 = "mma.m16n8k32.block32.f32.e4m3.e4m3.f32.ue8m0";
constexpr const char* wgmma = "wgmma.m64n8k32.f32.e4m3.e4m3";
constexpr const char* unpacked = "mma.m16n8k32.f32.e4m3.e4m3.f32";

const Mutation mutations[] = {
    {"mma.m16n8k16.f32.f16.f16.f32", Architecture::hopper, "F - 1", [](Instruction& r) { --r.fraction_bits; }, 5},
    {"mma.m16n8k16.f32.f16.f16.f32", Architecture::hopper, "F + 1", [](Instruction& r) { ++r.fraction_bits; }, 2},
    {"mma.m16n8k16.f32.f16.f16.f32", Architecture::hopper, "two steps", [](Instruction& r) { r.group = r.run = 8; }, 5},
    {"mma.m16n8k16.f32.f16.f16.f32", Architecture::ampere, "one step", [](Instruction& r) { r.group = r.run = 16; }, 5},
    {"mma.m16n8k16.f32.f16.f16.f32", Architecture::hopper, "C last",
     [](Instruction& r) { r.addend = sim::Addend::last; }, 5},
    {"mma.m8n8k4.f32.f16.f16.f32", Architecture::volta, "F + 1", [](Instruction& r) { ++r.fraction_bits; }, 5},
    {wgmma, Architecture::hopper, "F - 1", [](Instruction& r) { --r.fraction_bits; }, 5},
    {wgmma, Architecture::hopper, "F + 1", [](Instruction& r) { ++r.fraction_bits; }, 5},
    {wgmma, Architecture::hopper, "binary32", [](Instruction& r) { r.result = sim::Result::f32_truncated; }, 5},
    {wgmma, Architecture::hopper, "interleaved", [](Instruction& r) { r.group = 16, r.run = 1; }, 5},
    {wgmma, Architecture::hopper, "two in a row", [](Instruction& r) { r.group = r.run = 16; }, 5},
    {"mma.m16n8k32.f32.e4m3.e5m2.f32", Architecture::hopper, "e4m3's own subnormals",
     [](Instruction& r) { r.as_f16 = false; }, 0.5, Kind::subnormal, Kind::spread},
    {unpacked, Architecture::hopper, "C first", [](Instruction& r) { r.addend = sim::Addend::first_step; }, 5},
    {unpacked, Architecture::hopper, "two in a row", [](Instruction& r) { r.run = 16; }, 0.5},
    {unpacked, Architecture::hopper, "one step", [](Instruction& r) { r.group = 32; }, 0.5},
    {unpacked, Architecture::rtx_blackwell, "F - 1", [](Instruction& r) { --r.fraction_bits; }, 2},
    {mxfp8, Architecture::rtx_blackwell, "F + 1", [](Instruction& r) { ++r.fraction_bits; }, 2},
    {mxfp4, Architecture::rtx_blackwell, "F - 1", [](Instruction& r) { --r.fraction_bits; }, 0.03},
    {mxfp4, Architecture::rtx_blackwell, "F + 1", [](Instruction& r) { ++r.fraction_bits; }, 0.03},
    {nvfp4, Architecture::rtx_blackwell, "to nearest", [](Instruction& r) { r.result = sim::Result::f32_nearest; }, 5},
    {nvfp4, Architecture::rtx_blackwell, "F = 25", [](Instruction& r) { r.fraction_bits = 25; }, 1},
    {nvfp4, Architecture::rtx_blackwell, "block 32", [](Instruction& r) { r.block = 32; }, 50},
    {"mma.m16n8k16.f32.bf16.bf16.f32", Architecture::hopper, "no least exponent",
     [](Instruction& r) { r.least_exponent = sim::no_exponent; }, 0.01, Kind::tiny, Kind::zeros},
    {"mma.m16n8k16.f32.bf16.bf16.f32", Architecture::hopper, "zeros count as 2^-126",
     [](Instruction& r) { r.zero_exponent = r.zero_addend = -126; }, 0.5, Kind::tiny, Kind::zeros},
    {mxfp8, Architecture::rtx_blackwell, "zeros don't count",
     [](Instruction& r) { r.zero_exponent = r.zero_addend = sim::no_exponent; }, 0.1, Kind::tiny, Kind::zeros},
};

TEST(TensorCore, changed_rows_are_seen) {
  for (const Mutation& m : mutations) {
    const Instruction* row = sim::find_instruction(m.name, m.architecture);
    ASSERT_NE(row, nullptr) << m.name;
    Instruction mutant = *row;
    m.change(mutant);
    const double share = visible(*row, mutant, {m.one, m.other});
    std::cout << m.name << ", " << m.what << ": " << share << " % of outputs differ\n";
    EXPECT_GE(share, m.at_least) << m.name << ", " << m.what;
  }
}

const formats::Format reference_formats[] = {formats::fp16, formats::bf16, sim::tf32,     formats::e4m3,
                                             formats::e5m2, formats::e2m1, formats::e2m3, formats::e3m2};

/// C + the sum of all products, correctly rounded: mpfr_sum.
std::uint32_t summed_by_mpfr(const Instruction& r, const Problem& p) {
  std::vector<double> terms = {oracle::float_of(p.c, false)};
  for (int k = 0; k < r.k; ++k) {
    const auto i = static_cast<std::size_t>(k), block = r.scaled ? i / static_cast<std::size_t>(r.block) : 0;
    double x = oracle::value_of(r.a, p.a[i]) * oracle::value_of(r.b, p.b[i]);
    if (r.scaled) x *= oracle::value_of(r.scale, p.scale_a[block]) * oracle::value_of(r.scale, p.scale_b[block]);
    terms.push_back(x);
  }
  std::vector<mpfr_t> numbers(terms.size());
  std::vector<mpfr_ptr> pointers;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    mpfr_init2(numbers[i], 53);
    mpfr_set_d(numbers[i], terms[i], MPFR_RNDN);
    pointers.push_back(numbers[i]);
  }
  oracle::Real sum(24);
  const mpfr_exp_t emin = mpfr_get_emin(), emax = mpfr_get_emax();
  const int ternary = mpfr_sum(sum, pointers.data(), pointers.size(), MPFR_RNDN);
  mpfr_set_emin(-148);
  mpfr_set_emax(128);
  mpfr_subnormalize(sum, mpfr_check_range(sum, ternary, MPFR_RNDN), MPFR_RNDN);
  mpfr_set_emin(emin);
  mpfr_set_emax(emax);
  const double x = mpfr_get_d(sum, MPFR_RNDN);
  for (mpfr_t& n : numbers) mpfr_clear(n);
  return std::isnan(x) ? 0x7FFFFFFF : x == 0 ? 0 : oracle::bits_of(x, false);
}

/// The processor's fma and addition.
std::uint32_t by_the_processor(const Instruction& r, const Problem& p) {
  std::vector<float> products;
  float running = __builtin_bit_cast(float, p.c);
  for (int k = 0; k < r.k; ++k) {
    const auto i = static_cast<std::size_t>(k);
    const auto a = static_cast<float>(oracle::value_of(r.a, p.a[i]));
    const auto b = static_cast<float>(oracle::value_of(r.b, p.b[i]));
    if (r.sum == Sum::sequential) running = std::fma(a, b, running);
    products.push_back(std::fma(a, b, 0.0f));
  }
  if (r.sum == Sum::pairwise) running += oracle::tree_sum(products, 0, products.size(), false);
  return std::isnan(running) ? 0x7FFFFFFF : running == 0 ? 0 : __builtin_bit_cast(std::uint32_t, running);
}

TEST(ReferenceAccumulator, exact_is_the_correctly_rounded_sum) {
  std::int64_t compared = 0, differ = 0;
  for (const formats::Format& f : reference_formats) {
    for (const int block : {0, 16, 32}) {
      if (block > 0 && f.bits > 8) continue;
      const Instruction r =
          sim::reference_accumulator(Sum::exact, f, f, 64, block == 16 ? formats::ue4m3 : formats::ue8m0, block);
      oracle::Problems problems(r, 5);
      for (const Kind kind : oracle::kinds) {
        for (int i = 0; i < 300; ++i, ++compared) {
          const Problem p = problems(kind);
          const std::uint32_t got = computed(r, p), want = summed_by_mpfr(r, p);
          if (got == want || ++differ > 5) continue;
          ADD_FAILURE() << f.name << " block " << block << ", " << oracle::kind_names[static_cast<int>(kind)] << ' '
                        << i << ": " << shown(got, false) << ", MPFR has " << shown(want, false);
        }
      }
    }
  }
  EXPECT_EQ(differ, 0);
  std::cout << compared << " sums compared\n";
}

TEST(ReferenceAccumulator, sequential_and_pairwise_are_the_processors) {
  std::int64_t compared = 0, differ = 0;
  for (const formats::Format& f : reference_formats) {
    for (const Sum sum : {Sum::sequential, Sum::pairwise}) {
      const Instruction r = sim::reference_accumulator(sum, f, f, 32);
      oracle::Problems problems(r, 6);
      for (const Kind kind : oracle::kinds) {
        for (int i = 0; i < 1000; ++i, ++compared) {
          const Problem p = problems(kind);
          const std::uint32_t got = computed(r, p), want = by_the_processor(r, p);
          if (got == want || ++differ > 5) continue;
          ADD_FAILURE() << f.name << (sum == Sum::pairwise ? " pairwise, " : " sequential, ")
                        << oracle::kind_names[static_cast<int>(kind)] << ' ' << i << ": " << shown(got, false)
                        << ", the processor has " << shown(want, false);
        }
      }
    }
  }
  EXPECT_EQ(differ, 0);
  std::cout << compared << " sums compared\n";
}

}  // namespace
}  // namespace fp4scope
