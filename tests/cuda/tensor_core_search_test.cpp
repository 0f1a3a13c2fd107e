// The search for what a tensor core does finds it: a variant that no row has plays the device, and is named.
#include <gtest/gtest.h>

#include "tests/cuda/tensor_core_probe.hpp"

namespace fp4scope::probe {
namespace {

Rows rows_of(const std::string& name, sim::Architecture architecture = sim::Architecture::hopper) {
  for (const Rows& rows : instructions_of(architecture)) {
    if (name == rows[0]->name) return rows;
  }
  ADD_FAILURE() << "no row " << name;
  return {};
}

RunSets device_of(const Variant& v) {
  return [v](const sim::Instruction& r, Batch& batch, bool) { run_variant(r, v, batch); };
}

Limits small(std::int64_t outputs) {
  Limits limits;
  limits.outputs = outputs;
  return limits;
}

TEST(TensorCoreVariants, TheRowsVariantIsTheRow) {
  std::int64_t compared = 0;
  for (const auto architecture : {sim::Architecture::ampere, sim::Architecture::ada, sim::Architecture::hopper}) {
    for (const Rows& rows : instructions_of(architecture)) {
      for (const sim::Instruction* r : rows) {
        Batch batch = make_batch(*r, 7, 0, 64), model = batch;
        run_model(*r, model);
        run_variant(*r, variant_of(*r), batch);
        Tally tally;
        count_mismatches(*r, batch, model, tally);
        EXPECT_EQ(tally.mismatches, 0) << r->name;
        for (int kind = 0; kind < kind_count; ++kind) {
          EXPECT_EQ(tally.mismatches_of_kind[kind], 0) << r->name << " " << kind_names[kind];
        }
        compared += tally.outputs;
      }
    }
  }
  EXPECT_GT(compared, 500000);
}

TEST(TensorCoreSearch, ARowThatHoldsNeedsNoSearch) {
  const Rows rows = rows_of("wgmma.m64n8k32.f32.e4m3.e4m3");
  const Verdict x = examine(rows, device_of(variant_of(*rows[1])), small(100000));
  EXPECT_GT(x.tallies[0].mismatches, 0);
  EXPECT_EQ(x.tallies[1].mismatches, 0);
  EXPECT_EQ(x.best_row, 1);
  EXPECT_FALSE(x.searched);
}

struct Disguise {
  const char* name;
  void (*change)(Variant&);
};

constexpr Disguise disguises[] = {
    {"wgmma.m64n8k32.f32.e4m3.e4m3", [](Variant& v) { v.fraction_bits = 14; }},
    {"wgmma.m64n8k32.f32.e4m3.e5m2", [](Variant& v) { v.entry = Entry::after_nearest; }},
    {"wgmma.m64n8k32.f32.e4m3.e4m3", [](Variant& v) { v.group = 16, v.run = 1, v.entry = Entry::last_step; }},
    {"wgmma.m64n8k32.f32.e5m2.e5m2", [](Variant& v) { v.group = 8, v.run = 2, v.mantissa = 23; }},
    {"wgmma.m64n8k32.f32.e4m3.e4m3", [](Variant& v) { v.group = 16, v.run = 1, v.entry = Entry::apart_nearest; }},
    {"wgmma.m64n8k32.f16.e4m3.e4m3", [](Variant& v) { v.before = 13; }},
    {"mma.m16n8k16.f32.f16.f16.f32", [](Variant& v) { v.nearest = true; }},
    {"mma.m16n8k16.f32.bf16.bf16.f32", [](Variant& v) { v.least_exponent = -126; }},
    {"mma.m16n8k16.f32.bf16.bf16.f32", [](Variant& v) { v.floors = true, v.fraction_bits = 24; }},
    {"mma.m16n8k8.f32.tf32.tf32.f32", [](Variant& v) { v.flushes_operands = true; }},
    {"mma.m16n8k16.f16.f16.f16.f16", [](Variant& v) { v.saturates = true; }},
    {"mma.m16n8k32.f32.e4m3.e4m3.f32", [](Variant& v) { v.entry = Entry::after_truncated; }},
    {"mma.m16n8k32.f32.e4m3.e5m2.f32", [](Variant& v) { v.as_f16 = false; }},
    {"wgmma.m64n8k32.f32.e4m3.e5m2", [](Variant& v) { v.as_f16 = true; }},
    {"wgmma.m64n8k16.f32.f16.f16", [](Variant& v) { v.normalised = true; }},
    {"wgmma.m64n8k16.f32.f16.f16", [](Variant& v) { v.addend_in_max = false; }},
};

TEST(TensorCoreSearch, NamesTheDisguisedDevice) {
  for (const Disguise& d : disguises) {
    const Rows rows = rows_of(d.name);
    Variant v = variant_of(*rows[0]);
    d.change(v);
    const Verdict x = examine(rows, device_of(v), small(40000));
    EXPECT_TRUE(x.searched) << d.name << ": " << describe(v);
    ASSERT_FALSE(x.variants.empty());
    EXPECT_EQ(x.variants[0].mismatches, 0) << d.name << ": " << describe(v);
    EXPECT_EQ(x.verified.mismatches, 0) << d.name << ": " << describe(v);
    EXPECT_TRUE(x.variants[0].variant == v) << d.name << ": " << describe(v) << "\n  found "
                                          << describe(x.variants[0].variant);
  }
}

TEST(TensorCoreSearch, TheSeparatingOperandsSeparate) {
  const Rows rows = rows_of("wgmma.m64n8k32.f32.e4m3.e4m3");
  const Variant one = variant_of(*rows[0]), two = variant_of(*rows[1]);
  const RunSets device = device_of(one);
  const Verdict x = examine(rows, device, small(400000));
  const Case least = separating(*rows[0], one, two, x.cases);
  ASSERT_FALSE(least.a.empty());
  int products = 0;
  for (std::size_t k = 0; k < least.a.size(); ++k) products += least.a[k] != 0 && least.b[k] != 0;
  EXPECT_LE(products, 3);
  EXPECT_EQ(run_case(*rows[0], least, device), evaluate(*rows[0], one, steps_of(32, one), least.dot()));
  EXPECT_NE(run_case(*rows[0], least, device), evaluate(*rows[0], two, steps_of(32, two), least.dot()));
}

TEST(TensorCoreLayout, ModelsPass) {
  const RunSets model = [](const sim::Instruction& row, Batch& batch, bool) { run_model(row, batch); };
  for (const char* name :
       {"mma.m16n8k16.f16.f16.f16.f16", "mma.m16n8k16.f32.bf16.bf16.f32", "mma.m16n8k4.f32.tf32.tf32.f32",
                           "mma.m16n8k32.f32.e4m3.e5m2.f32", "wgmma.m64n8k32.f16.e5m2.e4m3"}) {
    EXPECT_EQ(layout_fault(*rows_of(name)[0], model, false), "") << name;
  }
  for (const char* name :
       {"mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3", "mma.m16n8k64.block32.f32.e2m1.e2m1.f32.ue8m0"}) {
    EXPECT_EQ(layout_fault(*rows_of(name, sim::Architecture::rtx_blackwell)[0], model, false), "") << name;
  }
}

/// A device that takes its operands from elsewhere.
RunSets misplaced(void (*move)(const sim::Instruction&, Batch&)) {
  return [move](const sim::Instruction& r, Batch& batch, bool) {
    Batch moved = batch;
    move(r, moved);
    run_model(r, moved);
    batch.d = moved.d;
  };
}

TEST(TensorCoreLayout, MistakesAreNamed) {
  const sim::Instruction& r = *rows_of("wgmma.m64n8k32.f32.e4m3.e4m3")[0];
  const auto swapped_rows = misplaced([](const sim::Instruction& row, Batch& x) {
    for (std::int64_t at = 0; at < static_cast<std::int64_t>(x.a.size()); at += row.m * row.k) {
      std::swap_ranges(x.a.begin() + at + 8 * row.k, x.a.begin() + at + 9 * row.k, x.a.begin() + at + 16 * row.k);
    }
  });
  EXPECT_EQ(layout_fault(r, swapped_rows, false),
            "A [8, 0] = 1: D [8, 0] is 0.000000, not 1.000000: it meets another element of B, or none "
            "(B has digit 0 of its k, plus 1)");
  const auto swapped_k = misplaced([](const sim::Instruction& row, Batch& x) {
    for (std::size_t at = 0; at < x.b.size(); at += static_cast<std::size_t>(row.n)) {
      if (at / 8 % 32 < 16) std::swap_ranges(x.b.begin() + at, x.b.begin() + at + 8, x.b.begin() + at + 16 * 8);
    }
  });
  EXPECT_NE(layout_fault(r, swapped_k, false).find("it meets another element of B"), std::string::npos);
  const auto shifted_c =
      misplaced([](const sim::Instruction&, Batch& x) { std::rotate(x.c.begin(), x.c.begin() + 4, x.c.end()); });
  EXPECT_EQ(layout_fault(r, shifted_c, false), "D [0, 0] is not C there: it has C number 2.000000");
  const RunSets nothing = [](const sim::Instruction&, Batch& x, bool) { std::fill(x.d.begin(), x.d.end(), 0xFF); };
  EXPECT_EQ(layout_fault(r, nothing, false).find("D was not written"), 0u);
}

}  // namespace
}  // namespace fp4scope::probe
