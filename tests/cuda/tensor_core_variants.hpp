// What a tensor core might do, with every choice open: the hypotheses that a device's outputs are held against where
// its row of sim/instructions.hpp fails. One generic evaluator; it shares no arithmetic with sim/tensor_core.hpp.
//
// Bits: a product's significand is below 2^22 with at most 20 fraction bits; aligned to 35 it takes 37, 64 of them and
// C take 44 of 63.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "formats/codec.hpp"
#include "sim/tensor_core.hpp"

namespace fp4scope::probe {

/// Where C enters.
enum class Entry : std::uint8_t {
  first_step,       ///< the first step's sum
  last_step,        ///< the last step's sum
  after_nearest,    ///< added to the chained steps' result, to nearest even
  after_truncated,  ///< the same, toward zero
  apart_nearest,    ///< the steps start from zero each; their results and then C are added up, to nearest even
  apart_truncated,
};
inline constexpr const char* entry_names[] = {"in the first sum",      "in the last sum",
                                              "after all, nearest",    "after all, truncated",
                                              "sums apart, nearest",   "sums apart, truncated"};

/// A hypothesis. k's are dealt to steps as sim::Instruction::group and run say.
struct Variant {
  int group, run, fraction_bits;
  Entry entry = Entry::first_step;
  int mantissa = 23;            ///< of the result: 23, fewer in a binary32, or 10 of binary16
  bool nearest = false;         ///< the result is rounded to nearest even, else truncated
  int before = 0;               ///< mantissa bits that the sum is truncated to before, 0: it isn't
  int step_mantissa = 0;        ///< of the running value between steps where it isn't the result's, else 0; truncated
  bool addend_in_max = true;    ///< C's exponent takes part in the greatest one
  bool floors = false;          ///< terms are cut toward minus infinity
  bool normalised = false;      ///< a product of 2 or more counts with the next exponent
  int least_exponent = sim::no_exponent;
  int zero_exponent = sim::no_exponent;  ///< of a zero operand and of C = 0
  bool flushes_operands = false, flushes_results = false;
  bool as_f16 = false;          ///< an element is aligned by its leading bit, down to binary16's least exponent
  bool saturates = false;       ///< too large a result is the largest number, else Inf

  bool operator==(const Variant&) const = default;
};

/// A decoded element or addend: significand * 2^(exponent - fraction bits), Inf and NaN by class.
struct Term {
  std::int64_t significand = 0;
  int exponent = 0;
  formats::CodeClass cls = formats::CodeClass::zero;
};

inline Term element(const formats::Format& f, std::uint32_t code) {
  const formats::Decoded d = formats::decode(f, code);
  if (d.cls == formats::CodeClass::infinite) return {d.negative ? -1 : 1, 0, d.cls};
  return {d.value.significand, d.value.exponent + f.mantissa_bits, d.cls};
}
inline Term addend(std::uint32_t bits, bool half) {
  if (half) return element(formats::fp16, bits);
  const std::int64_t sign = bits >> 31 ? -1 : 1, fraction = bits & 0x7FFFFF;
  const auto field = static_cast<int>(bits >> 23 & 0xFF);
  if (field == 255) return {sign, 0, fraction ? formats::CodeClass::nan : formats::CodeClass::infinite};
  if (field == 0) return {sign * fraction, -126, fraction ? formats::CodeClass::subnormal : formats::CodeClass::zero};
  return {sign * (fraction | 0x800000), field - 127, formats::CodeClass::normal};
}

/// One output: k codes of A's row and B's column, C.
struct Dot {
  const Term *a, *b;
  std::uint32_t c;
};

namespace detail {

using formats::CodeClass;

struct Machine {
  const sim::Instruction& row;
  const Variant& v;

  bool half() const { return row.f16_result(); }
  std::uint32_t infinity(bool negative) const {
    if (half()) return negative ? 0xFC00u : 0x7C00u;
    return negative ? 0xFF800000u : 0x7F800000u;
  }

  /// units * 2^exponent to a number of mantissa bits in the result's container.
  std::uint32_t rounded(std::int64_t units, int exponent, int mantissa, bool nearest) const {
    const bool negative = units < 0;
    std::uint64_t x = negative ? static_cast<std::uint64_t>(-units) : static_cast<std::uint64_t>(units);
    if (x == 0) return 0;
    const int least = half() ? -14 : -126, container = half() ? 10 : 23, bias = half() ? 15 : 127;
    int top = 63;
    while (!(x >> top & 1)) --top;
    const int binade = std::max(top + exponent, least);
    const int drop = binade - mantissa - exponent;
    std::uint64_t kept = drop <= 0 ? x << -drop : drop > 63 ? 0 : x >> drop;
    if (nearest && drop > 0 && drop <= 63) {
      const std::uint64_t lost = x & ((1ull << drop) - 1), middle = 1ull << (drop - 1);
      if (lost > middle || (lost == middle && (kept & 1))) ++kept;
    }
    int e = binade;
    if (kept >> (mantissa + 1)) kept >>= 1, ++e;
    const std::uint32_t sign = negative ? (half() ? 0x8000u : 0x80000000u) : 0;
    if (kept == 0) return 0;
    if (e > bias) return v.saturates ? infinity(negative) - (1u << (container - mantissa)) : infinity(negative);
    const bool subnormal = !(kept >> mantissa & 1);
    if (subnormal && v.flushes_results) return 0;
    const auto field = static_cast<std::uint32_t>(subnormal ? 0 : e + bias);
    const auto fraction = static_cast<std::uint32_t>(kept & ((1ull << mantissa) - 1));
    return sign | field << container | fraction << (container - mantissa);
  }

  std::uint32_t result(std::int64_t units, int exponent, bool last) const {
    const int mantissa = last || v.step_mantissa == 0 ? v.mantissa : v.step_mantissa;
    const bool nearest = v.nearest && (last || v.step_mantissa == 0);
    if (v.before == 0) return rounded(units, exponent, mantissa, nearest);
    const std::uint64_t x = static_cast<std::uint64_t>(units < 0 ? -units : units);
    int top = 63;
    while (top > 0 && !(x >> top & 1)) --top;
    const int drop = std::max(top - v.before, 0);
    const auto kept = static_cast<std::int64_t>(x >> drop << drop);
    return rounded(units < 0 ? -kept : kept, exponent, mantissa, nearest);
  }

  std::int64_t cut(std::int64_t x, int down) const {
    if (down <= 0) return x << -down;
    if (v.floors) return down > 62 ? (x < 0 ? -1 : 0) : x >> down;
    const std::int64_t magnitude = down > 62 ? 0 : (x < 0 ? -x : x) >> down;
    return x < 0 ? -magnitude : magnitude;
  }

  Term flushed(Term x) const {
    if (v.flushes_operands && x.cls == CodeClass::subnormal) return {};
    return x;
  }

  /// An FP8 element as binary16 has it, in its own fraction bits.
  Term converted(Term x, const formats::Format& f) const {
    if (!v.as_f16 || x.significand == 0) return x;
    const int missing = f.mantissa_bits - static_cast<int>(std::ilogb(static_cast<double>(x.significand)));
    const int up = std::clamp(x.exponent + 14, 0, std::max(missing, 0));
    return {x.significand << up, x.exponent - up, x.cls};
  }

  /// x + y of two results, rounded once.
  std::uint32_t added(std::uint32_t x, std::uint32_t y, bool nearest) const {
    const Term p = addend(x, half()), q = addend(y, half());
    const bool special = p.cls == CodeClass::nan || q.cls == CodeClass::nan || p.cls == CodeClass::infinite ||
                         q.cls == CodeClass::infinite;
    if (special) return combined(p, q);
    if (half()) {  // multiples of 2^-24 below 2^41
      const std::int64_t sum = (p.significand << (p.exponent + 14)) + (q.significand << (q.exponent + 14));
      return rounded(sum, -24, 10, nearest);
    }
    const float a = __builtin_bit_cast(float, x), b = __builtin_bit_cast(float, y);
    float sum = a + b;
    if (!nearest && std::isfinite(sum)) {  // the rounding error is a float itself (Knuth)
      const float t = sum - a, error = (a - (sum - t)) + (b - t);
      if (error != 0 && (error < 0) != (sum < 0)) sum = std::nextafter(sum, 0.0f);
    }
    auto bits = __builtin_bit_cast(std::uint32_t, sum);
    if (v.mantissa < 23 && std::isfinite(sum)) bits &= ~0u << (23 - v.mantissa);
    return bits == 0x80000000u ? 0 : bits;
  }
  std::uint32_t combined(const Term& p, const Term& q) const {
    const bool clash = p.cls == CodeClass::infinite && q.cls == CodeClass::infinite && p.significand != q.significand;
    if (p.cls == CodeClass::nan || q.cls == CodeClass::nan || clash) return row.nan_bits();
    return infinity((p.cls == CodeClass::infinite ? p : q).significand < 0);
  }

  /// NaN or Inf of a step, or 0 where everything is finite (no such result is 0).
  std::uint32_t special(const Dot& dot, const std::vector<int>& ks, const Term (&others)[2]) const {
    bool plus = false, minus = false, nan = false;
    for (const Term& x : others) {
      nan = nan || x.cls == CodeClass::nan;
      if (x.cls == CodeClass::infinite) (x.significand < 0 ? minus : plus) = true;
    }
    for (const int k : ks) {
      const Term &a = dot.a[k], &b = dot.b[k];
      nan = nan || a.cls == CodeClass::nan || b.cls == CodeClass::nan;
      if (a.cls != CodeClass::infinite && b.cls != CodeClass::infinite) continue;
      nan = nan || a.cls == CodeClass::zero || b.cls == CodeClass::zero;
      (((a.significand < 0) != (b.significand < 0)) ? minus : plus) = true;
    }
    if (nan || (plus && minus)) return row.nan_bits();
    return plus || minus ? infinity(minus) : 0;
  }

  struct Product {
    std::int64_t significand;  ///< in units of 2^(exponent - fraction)
    int exponent, aligned_as;
  };
  Product product(const Term& x, const Term& y) const {
    const Term a = converted(flushed(x), row.a), b = converted(flushed(y), row.b);
    const std::int64_t p = a.significand * b.significand;
    const int e = (a.significand == 0 ? v.zero_exponent : a.exponent) +
                  (b.significand == 0 ? v.zero_exponent : b.exponent);
    const bool carries = std::llabs(p) >> (row.a.mantissa_bits + row.b.mantissa_bits + 1);
    return {p, e, v.normalised && carries ? e + 1 : e};
  }

  /// One sum: the products of ks, and up to two values with 23 fraction bits (the running one and C).
  std::uint32_t step(const Dot& dot, const std::vector<int>& ks, const Term& running, const Term& c, bool last) const {
    const Term others[2] = {flushed(running), flushed(c)};
    if (const std::uint32_t bits = special(dot, ks, others)) return bits;
    const int fraction = row.a.mantissa_bits + row.b.mantissa_bits, f = v.fraction_bits;
    const bool zeros_count = v.zero_exponent != sim::no_exponent;
    int greatest = v.least_exponent;
    for (const int k : ks) {
      const Product p = product(dot.a[k], dot.b[k]);
      if (p.significand != 0 || zeros_count) greatest = std::max(greatest, p.aligned_as);
    }
    for (const Term& x : others) {
      if (!v.addend_in_max || x.exponent == sim::no_exponent || (x.significand == 0 && !zeros_count)) continue;
      greatest = std::max(greatest, x.significand != 0 ? x.exponent : v.zero_exponent);
    }
    for (const Term& x : others) {  // far above all products, or alone
      if (x.significand != 0 && x.exponent - greatest > 20) greatest = x.exponent;
    }
    if (greatest == sim::no_exponent) return 0;
    std::int64_t sum = 0;
    for (const int k : ks) {
      const Product p = product(dot.a[k], dot.b[k]);
      if (p.significand != 0) sum += cut(p.significand, fraction - f + greatest - p.exponent);
    }
    for (const Term& x : others) {
      if (x.significand != 0) sum += cut(x.significand, 23 - f + greatest - x.exponent);
    }
    return result(sum, greatest - f, last);
  }

  /// C or a running value with 23 fraction bits.
  Term widened(std::uint32_t bits, bool f16) const {
    Term x = addend(bits, f16);
    if (f16 && x.cls != CodeClass::infinite && x.cls != CodeClass::nan) x.significand <<= 13;
    return x;
  }
};

}  // namespace detail

/// The k's of every step.
inline std::vector<std::vector<int>> steps_of(int k, const Variant& v) {
  std::vector<std::vector<int>> out(static_cast<std::size_t>(k / v.group));
  for (int i = 0; i < k; ++i) out[static_cast<std::size_t>(i / v.run) % out.size()].push_back(i);
  return out;
}

/// D's bits as the hypothesis has them.
inline std::uint32_t evaluate(const sim::Instruction& row, const Variant& v, const std::vector<std::vector<int>>& steps,
                              const Dot& dot) {
  const detail::Machine machine{row, v};
  const Term c = machine.widened(dot.c, row.f16_addend), zero, absent = {0, sim::no_exponent};
  const bool apart = v.entry == Entry::apart_nearest || v.entry == Entry::apart_truncated;
  const bool nearest = v.entry == Entry::after_nearest || v.entry == Entry::apart_nearest;
  Term running = v.entry == Entry::first_step ? c : zero;
  std::uint32_t bits = 0;
  for (std::size_t s = 0; s < steps.size(); ++s) {
    const bool last = s + 1 == steps.size();
    const bool enters = last && v.entry == Entry::last_step;
    const std::uint32_t now = machine.step(dot, steps[s], apart ? zero : running, enters ? c : absent, last);
    bits = apart && s > 0 ? machine.added(bits, now, nearest) : now;
    running = machine.widened(bits, row.f16_result());
  }
  if (v.entry == Entry::first_step || v.entry == Entry::last_step) return bits;
  return machine.added(bits, dot.c, nearest);
}

/// What a row of sim/instructions.hpp says.
inline Variant variant_of(const sim::Instruction& r) {
  Variant v = {r.group, r.run, r.fraction_bits};
  v.entry = r.addend == sim::Addend::first_step ? Entry::first_step : Entry::after_nearest;
  v.mantissa = r.f16_result() ? 10 : r.result == sim::Result::e8m13_truncated ? 13 : 23;
  v.nearest = r.f16_result() || r.result == sim::Result::f32_nearest;
  v.least_exponent = r.least_exponent;
  v.zero_exponent = r.zero_exponent;
  v.flushes_operands = v.flushes_results = r.flushes;
  v.as_f16 = r.as_f16;
  return v;
}

/// "group 16 run 1, F 13, C in the first sum, 13 bits truncated"
inline std::string describe(const Variant& v) {
  std::string out = "group " + std::to_string(v.group) + " run " + std::to_string(v.run) + ", F " +
                    std::to_string(v.fraction_bits) + ", C " + entry_names[static_cast<int>(v.entry)] + ", to " +
                    std::to_string(v.mantissa) + " bits " + (v.nearest ? "nearest" : "truncated");
  if (v.before) out += ", truncated to " + std::to_string(v.before) + " before";
  if (v.step_mantissa) out += ", " + std::to_string(v.step_mantissa) + " bits between steps";
  if (!v.addend_in_max) out += ", C's exponent not in the greatest";
  if (v.floors) out += ", terms cut downward";
  if (v.normalised) out += ", products normalised";
  if (v.least_exponent != sim::no_exponent) out += ", least exponent " + std::to_string(v.least_exponent);
  if (v.zero_exponent != sim::no_exponent) out += ", zero exponent " + std::to_string(v.zero_exponent);
  if (v.flushes_operands) out += ", subnormal operands flushed";
  if (v.flushes_results) out += ", subnormal results flushed";
  if (v.as_f16) out += ", elements as f16";
  if (v.saturates) out += ", saturates";
  return out;
}

/// How many choices differ.
inline int distance(const Variant& x, const Variant& y) {
  return (x.group != y.group || x.run != y.run) + (x.fraction_bits != y.fraction_bits) + (x.entry != y.entry) +
         (x.mantissa != y.mantissa) + (x.nearest != y.nearest) + (x.before != y.before) +
         (x.step_mantissa != y.step_mantissa) + (x.addend_in_max != y.addend_in_max) + (x.floors != y.floors) +
         (x.normalised != y.normalised) + (x.least_exponent != y.least_exponent) +
         (x.zero_exponent != y.zero_exponent) + (x.flushes_operands != y.flushes_operands) +
         (x.flushes_results != y.flushes_results) + (x.as_f16 != y.as_f16) + (x.saturates != y.saturates);
}

/// Every way to deal k products to steps: groups in a row, and interleaved by 1, 2, 4, ...
inline std::vector<std::pair<int, int>> dealings(int k) {
  std::vector<std::pair<int, int>> out;
  for (int group = std::min(k, 4); group <= k; group *= 2) {
    if (group == k) out.push_back({group, group});
    for (int run = 1; run <= group && group < k; run *= 2) out.push_back({group, run});
  }
  return out;
}

/// Where the search starts: dealings x entries x F x results.
inline std::vector<Variant> starts(const sim::Instruction& r) {
  std::vector<Variant> out;
  const Variant base = variant_of(r);
  const bool half = r.f16_result();
  for (const auto& [group, run] : dealings(r.k)) {
    for (int entry = 0; entry < 6; ++entry) {
      for (int f = 10; f <= 35; ++f) {
        if (group == r.k && entry != 0 && entry != 2 && entry != 3) continue;  // one sum: the others are the same
        for (const int mantissa : {23, 13}) {
          for (const bool nearest : {false, true}) {
            if (half && mantissa == 13) continue;
            Variant v = base;
            v.group = group, v.run = run, v.fraction_bits = f, v.entry = static_cast<Entry>(entry);
            v.mantissa = half ? 10 : mantissa, v.nearest = nearest;
            out.push_back(v);
          }
        }
      }
    }
  }
  return out;
}

/// Every variant that differs from v in one choice.
inline std::vector<Variant> neighbours(const sim::Instruction& r, const Variant& v) {
  std::vector<Variant> out;
  const auto add = [&](auto change) {
    Variant w = v;
    change(w);
    if (!(w == v)) out.push_back(w);
  };
  for (const std::pair<int, int>& d : dealings(r.k)) add([&](Variant& w) { w.group = d.first, w.run = d.second; });
  for (int f = 10; f <= 35; ++f) add([&](Variant& w) { w.fraction_bits = f; });
  for (int e = 0; e < 6; ++e) {
    const bool same = v.group == r.k && e != 0 && e != 2 && e != 3;
    if (!same) add([&](Variant& w) { w.entry = static_cast<Entry>(e); });
  }
  for (int m = 9; m <= 23 && !r.f16_result(); ++m) add([&](Variant& w) { w.mantissa = m; });
  for (int m = v.mantissa + 1; m <= 24 && v.nearest; ++m) add([&](Variant& w) { w.before = m; });
  add([](Variant& w) { w.before = 0; });
  if (v.group < r.k) {
    for (const int m : {0, 10, 13, 23}) {
      if (!r.f16_result() || m <= 10) add([&](Variant& w) { w.step_mantissa = m; });
    }
  }
  add([](Variant& w) { w.nearest = !w.nearest; });
  add([](Variant& w) { w.addend_in_max = !w.addend_in_max; });
  add([](Variant& w) { w.floors = !w.floors; });
  add([](Variant& w) { w.normalised = !w.normalised; });
  add([](Variant& w) { w.flushes_operands = !w.flushes_operands; });
  add([](Variant& w) { w.flushes_results = !w.flushes_results; });
  if (r.a.bits == 8) add([](Variant& w) { w.as_f16 = !w.as_f16; });
  add([](Variant& w) { w.saturates = !w.saturates; });
  for (const int e : {sim::no_exponent, -252, -126, -14, 0}) add([&](Variant& w) { w.zero_exponent = e; });
  add([](Variant& w) { w.least_exponent = sim::no_exponent; });
  const int low = r.f16_result() ? -40 : -160, high = r.f16_result() ? 0 : -100;
  for (int e = low; e <= high; ++e) add([&](Variant& w) { w.least_exponent = e; });
  return out;
}

}  // namespace fp4scope::probe
