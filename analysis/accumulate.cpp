#include "analysis/accumulate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "analysis/exact_products.hpp"
#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

constexpr std::uint64_t fraction_field = (std::uint64_t{1} << 52) - 1;

std::uint64_t bits_of(double x) { return std::bit_cast<std::uint64_t>(x); }
double from_bits(std::uint64_t bits) { return std::bit_cast<double>(bits); }

/// 2^floor(log2 |x|) of a normal x, 0 of 0.
double leading_power(double x) { return from_bits(bits_of(x) & ~fraction_field & ~(std::uint64_t{1} << 63)); }

int exponent_of(double power) { return static_cast<int>(bits_of(power) >> 52) - 1023; }

/// The significant bits that a result keeps; 0 for results that no fast sum has.
int kept_bits(sim::Result result) {
  if (result == sim::Result::f32_truncated) return 24;
  return result == sim::Result::e8m13_truncated ? 14 : 0;
}

/// Whether the instruction's steps take consecutive k's and start from C.
bool plain_steps(const sim::Instruction& i) {
  return i.sum == sim::Sum::aligned && i.addend == sim::Addend::first_step && kept_bits(i.result) > 0 &&
         (i.group == i.k || i.run == i.group) && i.zero_addend <= -101 && i.least_exponent <= -101 && !i.flushes;
}

/// x cut toward zero to `bits` significant bits; x is 0 or normal.
double cut_to(double x, int bits) { return from_bits(bits_of(x) & ~((std::uint64_t{1} << (53 - bits)) - 1)); }

/// Steps of scaled blocks that cut nothing: RZ_24(C + sum).
void sum_blocks(const sim::Instruction& unit, const double* a, const double* b, std::int64_t k, double out[lanes]) {
  double running[lanes] = {};
  for (std::int64_t first = 0; first < k; first += unit.group) {
    double sum[lanes] = {};
    for (int i = 0; i < unit.group; ++i, ++a, b += lanes) {
      for (int j = 0; j < lanes; ++j) sum[j] += *a * b[j];
    }
    for (int j = 0; j < lanes; ++j) running[j] = cut_to(running[j] + sum[j], 24);
  }
  std::copy_n(running, lanes, out);
}

/// Steps of products aligned to the greatest exponent.
void sum_aligned(const sim::Instruction& unit, const Line& a, const Line& b, std::int64_t k, double out[lanes]) {
  const int bits = kept_bits(unit.result);
  const std::uint64_t two_f = static_cast<std::uint64_t>(2046 + unit.fraction_bits) << 52;
  double running[lanes] = {};
  for (std::int64_t first = 0; first < k; first += unit.group) {
    const double* const x = a.value + first;
    const double* const y = b.value + first * lanes;
    double greatest[lanes], up[lanes], sum[lanes];
    for (int j = 0; j < lanes; ++j) greatest[j] = std::max(leading_power(running[j]), 0x1p-900);
    for (int i = 0; i < unit.group; ++i) {
      const double power = a.power[first + i];
      const double* const of_b = b.power + (first + i) * lanes;
      for (int j = 0; j < lanes; ++j) greatest[j] = std::max(greatest[j], power * of_b[j]);
    }
    for (int j = 0; j < lanes; ++j) up[j] = from_bits(two_f - bits_of(greatest[j]));  // 2^F / greatest
    for (int j = 0; j < lanes; ++j) sum[j] = static_cast<std::int32_t>(running[j] * up[j]);
    for (int i = 0; i < unit.group; ++i) {
      for (int j = 0; j < lanes; ++j) sum[j] += static_cast<std::int32_t>(x[i] * y[i * lanes + j] * up[j]);
    }
    for (int j = 0; j < lanes; ++j) running[j] = cut_to(sum[j] / up[j], bits);
  }
  std::copy_n(running, lanes, out);
}

/// high + lost, |lost| at most half a place of high, rounded to odd: away from high by one place where that is even.
double to_odd(double high, double lost) {
  const std::uint64_t bits = bits_of(high);
  const std::uint64_t away = ((bits_of(lost) ^ bits) >> 63) == 0 ? 1 : ~std::uint64_t{0};
  return from_bits(lost != 0 && (bits & 1) == 0 ? bits + away : bits);
}

/// fl32(s + a b). The product is exact in binary64. The sum is rounded to binary64 to odd, from where the second
/// rounding is as good as one: 53 >= 24 + 2 bits (Boldo and Melquiond 2008).
float fused_step(float s, double a, double b) {
  const double product = a * b, sum = s + product;
  const double of_product = sum - s, lost = (s - (sum - of_product)) + (product - of_product);
  return static_cast<float>(to_odd(sum, lost == lost ? lost : 0));  // no number where s is infinite
}

template <class Step>
void sum_steps(const Line& a, const Line& b, std::int64_t k, double out[lanes], const Step& step) {
  float running[lanes] = {};
  for (std::int64_t i = 0; i < k; ++i) {
    for (int j = 0; j < lanes; ++j) running[j] = step(running[j], a.value[i], b.value[i * lanes + j]);
  }
  std::copy_n(running, lanes, out);
}

/// A scale of 4 significant bits at most as a significand with `mantissa` fraction bits.
sim::Operand scale_operand(const sim::Instruction& unit, double scale) {
  if (scale == 0) return {0, unit.zero_exponent};
  const int least = unit.scale.mantissa_bits == 0 ? -127 : 1 - unit.scale.bias;
  const int exponent = std::max(exponent_of(leading_power(scale)), least);
  return {static_cast<std::int32_t>(std::ldexp(scale, unit.scale.mantissa_bits - exponent)), exponent};
}

/// The operands of one instruction out of a line, in the order of summation.
struct Decoded {
  std::int32_t significand[64] = {}, exponent[64] = {};
  sim::Operand scale[4] = {};
};

/// `value` and `power` are `stride` apart.
Decoded decode_line(const sim::Instruction& unit, const formats::Format& f, const double* value, const double* power,
                    std::int64_t stride) {
  Decoded d;
  for (int i = 0; i < unit.k; ++i) {
    const double v = value[i * stride], p = power[i * stride];
    const int at = unit.place(i);
    if (unit.exact_group > 0) {
      d.significand[at] = p == 0 ? 0 : static_cast<std::int32_t>(2 * v / p);
    } else {
      const bool flushed = unit.flushes && std::fabs(v) < formats::exp2_exact(f.min_exponent());
      d.exponent[at] = p == 0 || flushed ? unit.zero_exponent : exponent_of(p);
      if (v != 0 && !flushed) {
        d.significand[at] = static_cast<std::int32_t>(std::ldexp(v, f.mantissa_bits - d.exponent[at]));
      }
    }
  }
  for (int i = 0; unit.exact_group > 0 && i < unit.k / unit.block; ++i) {
    d.scale[i] = scale_operand(unit, power[i * unit.block * stride]);
  }
  return d;
}

bool same_scale(const formats::Format& unit, const formats::Format& stored) {
  const bool e4m3 = unit.bits == 7 && formats::same_format(stored, formats::e4m3);  // ue4m3 is e4m3 without a sign
  return e4m3 || formats::same_format(unit, stored);
}

/// Whether an instruction's operand holds the elements of a format and its scale their blocks.
bool reads(const sim::Instruction& i, const formats::Format& operand, const formats::BlockFormat* f, int block) {
  return f && !f->selects() && f->levels.count == 0 && formats::same_format(operand, f->element) &&
         same_scale(i.scale, f->scale) && block % i.block == 0;
}

struct Sides {
  const formats::BlockFormat *a, *b;
  int block_a, block_b;
};

/// How good an instruction is for two formats; 0: it can't take them.
int fitness(const sim::Instruction& i, const Sides& s) {
  if (i.f16_result() || i.f16_addend) return 0;
  if (i.scaled) {
    return reads(i, i.a, s.a, s.block_a) && reads(i, i.b, s.b, s.block_b) ? 1000 + i.k + (i.block == s.a->block) : 0;
  }
  if (!formats::same_format(i.a, i.b)) return 0;
  if (formats::same_format(i.a, formats::bf16)) return 200 + i.k;
  if (formats::same_format(i.a, formats::fp16)) return 100 + i.k;
  return formats::same_format(i.a, formats::e4m3) ? 1 : 0;
}

Fed fed_of(const sim::Instruction& i) {
  if (i.scaled) return Fed::codes;
  if (formats::same_format(i.a, formats::e4m3)) return Fed::e4m3;
  return formats::same_format(i.a, formats::bf16) ? Fed::bf16 : Fed::f16;
}

Unit find_instruction(const std::string& arch, sim::Architecture architecture, const std::string& name,
                      const Sides& sides) {
  const sim::Instruction* best = nullptr;
  int most = 0;
  bool known = false;
  std::vector<std::string> names;
  for (const sim::Instruction& i : sim::all_instructions) {
    if (i.architecture != architecture) continue;
    known = known || name == i.name;
    const int fit = fitness(i, sides);
    if (fit > 0) names.emplace_back(i.name);
    if (fit <= most || (!name.empty() && name != i.name)) continue;
    best = &i;
    most = fit;
  }
  if (!best && known) {
    throw UsageError("--instruction", fmt::format("{} has no fp32 result from these operands", name),
                     "there are: " + join(names));
  }
  if (!best && name.empty()) throw UsageError("--arch", fmt::format("{} has no instruction for these operands", arch));
  if (!best) throw UsageError("--instruction", "unknown name '" + name + "'", suggestion(name, names));
  return {arch, best->name, Summing::machine, fed_of(*best), best};
}

}  // namespace

const std::vector<std::string>& arch_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all = {"exact", "fp32"};
    all.insert(all.end(), std::begin(sim::architecture_names), std::end(sim::architecture_names));
    return all;
  }();
  return names;
}

Unit find_unit(const std::string& arch, const std::string& name, const formats::BlockFormat* a, int block_a,
               const formats::BlockFormat* b, int block_b) {
  if (arch == "exact") {
    if (!name.empty()) throw UsageError("--instruction", "exact has none", "leave it out");
    return {arch, arch};
  }
  if (arch == "fp32") {
    if (name.empty() || name == "fma") return {arch, "fma", Summing::fma, Fed::f32};
    if (name == "mul_add") return {arch, name, Summing::mul_add, Fed::f32};
    throw UsageError("--instruction", "unknown name '" + name + "'", suggestion(name, {"fma", "mul_add"}));
  }
  for (std::size_t i = 0; i < std::size(sim::architecture_names); ++i) {
    if (arch != sim::architecture_names[i]) continue;
    auto found = static_cast<sim::Architecture>(i);
    const bool of_sm_120 = found == sim::Architecture::blackwell && !sim::find_instruction(name, found) &&
                           sim::find_instruction(name, sim::Architecture::rtx_blackwell);
    if (of_sm_120) found = sim::Architecture::rtx_blackwell;  // as `mma` has it
    return find_instruction(arch, found, name, {a, b, block_a, block_b});
  }
  throw UsageError("--arch", "unknown name '" + arch + "'", suggestion(arch, arch_names()));
}

double power_of(double value, int least_exponent, int zero_exponent) {
  if (value == 0) return zero_exponent < -500 ? 0 : formats::exp2_exact(zero_exponent);
  return std::max(leading_power(value), formats::exp2_exact(least_exponent));
}

void add_to_facts(RowFacts& facts, double value, double power) {
  if (power > 0) facts.most_scale = std::max(facts.most_scale, exponent_of(leading_power(power)));
  if (value == 0) return;
  const std::uint64_t significand = (bits_of(value) & fraction_field) | (std::uint64_t{1} << 52);
  facts.lowest_bit =
      std::min(facts.lowest_bit, exponent_of(leading_power(value)) - 52 + std::countr_zero(significand));
  facts.least_exponent = std::min(facts.least_exponent, exponent_of(leading_power(power)));
  facts.norm += value * value;
}

void finish_facts(RowFacts& facts) { facts.norm = std::sqrt(facts.norm) * (1 + 0x1p-20); }

bool proves_fast(const Unit& unit, const RowFacts& a, const RowFacts& b) {
  if (unit.summing == Summing::fma || unit.summing == Summing::mul_add) return true;
  if (a.norm == 0 || b.norm == 0) return true;
  const double bound = a.norm * b.norm;
  if (!(bound < 0x1p127)) return false;
  const int high = exponent_of(leading_power(bound)) + 1, low = a.lowest_bit + b.lowest_bit;
  if (unit.exact()) return high - low <= 53;
  const sim::Instruction& i = *unit.instruction;
  if (!plain_steps(i)) return false;
  if (i.exact_group == 0) return i.fraction_bits <= 25 && a.least_exponent + b.least_exponent - i.fraction_bits >= -126;
  return low >= -126 && low >= std::max(high, a.most_scale + b.most_scale) - i.fraction_bits && i.fraction_bits <= 50;
}

void dot_lanes(const double* a, const double* b, std::int64_t k, double out[lanes]) {
  double sum[lanes] = {};
  for (std::int64_t i = 0; i < k; ++i, b += lanes) {
    for (int j = 0; j < lanes; ++j) sum[j] += a[i] * b[j];
  }
  std::copy_n(sum, lanes, out);
}

void sum_fast(const Unit& unit, const Line& a, const Line& b, std::int64_t k, double out[lanes]) {
  switch (unit.summing) {
    case Summing::fma: return sum_steps(a, b, k, out, fused_step);
    case Summing::mul_add:
      return sum_steps(a, b, k, out,
                       [](float s, double x, double y) { return s + static_cast<float>(x) * static_cast<float>(y); });
    case Summing::exact:
    case Summing::machine: break;
  }
  if (unit.instruction->exact_group > 0) sum_blocks(*unit.instruction, a.value, b.value, k, out);
  else sum_aligned(*unit.instruction, a, b, k, out);
}

double sum_plain(const Unit& unit, const Line& a, const Line& b, int lane, std::int64_t k) {
  sim::Instruction i = *unit.instruction;
  i.scaled = i.exact_group > 0;  // elsewhere scales are in the operands' exponents already
  std::uint32_t running = 0;
  for (std::int64_t first = 0; first < k; first += i.k) {
    const Decoded x = decode_line(i, i.a, a.value + first, a.power + first, 1);
    const Decoded y = decode_line(i, i.b, b.value + first * lanes + lane, b.power + first * lanes + lane, lanes);
    running = sim::accumulate(i, {x.significand, x.exponent}, {y.significand, y.exponent}, running, x.scale, y.scale);
  }
  return std::bit_cast<float>(running);
}

int exact_lanes(const Line& a, const Line& b, std::int64_t k, double factor, double out[lanes]) {
  const Unit unit;
  double sum[lanes];
  dot_lanes(a.value, b.value, k, sum);
  int wide = 0;
  for (int j = 0; j < lanes; ++j) {
    if (proves_fast(unit, a.facts[0], b.facts[j])) {
      const double high = sum[j] * factor;
      out[j] = to_odd(high, std::fma(sum[j], factor, -high));
      continue;
    }
    ProductSum products;
    for (std::int64_t i = 0; i < k; ++i) products.add_product(a.value[i], b.value[i * lanes + j]);
    out[j] = rounded_to_odd(products, factor);
    ++wide;
  }
  return wide;
}

}  // namespace fp4scope::analysis
