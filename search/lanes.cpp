// The vector code behind lanes.hpp, with Highway: compiled once for each of SSSE3, SSE4, AVX2 and AVX-512, chosen at
// run time; other CPUs take the plain search. Plain loops with target_clones would round to E2M1 by arithmetic, 5.7
// cycles a vector of AVX-512 on Zen 4, where the table that Highway lets us reach takes 3.7, and 3.2 for two scales at
// a time.
#include "search/lanes.hpp"

#include <algorithm>
#include <cmath>

#include "search/lanes_plan.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "search/lanes.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fp4scope::search::lanes {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

/// A CPU without SSSE3 has no lanes: one block after the other.
void all_rows(const Plan& plan, const float* x, std::int64_t blocks, std::uint8_t* scales, SearchCount& count,
              std::int64_t& chose_second) {
  for (std::int64_t b = 0; b < blocks; ++b) {
    scales[b] = static_cast<std::uint8_t>(plain_code(plan, x + b * plan.task->block, count, chose_second));
  }
}

#else
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, max_lanes>;
using I32 = hn::RebindToSigned<F32>;
using F64 = hn::Repartition<double, F32>;
using I64 = hn::RebindToSigned<F64>;
using VF = hn::Vec<F32>;
using VI = hn::Vec<I32>;
using MF = hn::Mask<F32>;

constexpr F32 f32;
constexpr I32 i32;
constexpr int lanes = static_cast<int>(HWY_MAX_BYTES / 4 < max_lanes ? HWY_MAX_BYTES / 4 : max_lanes);
constexpr std::int32_t infinity_bits = 0x7F800000, binade = 0x800000;

HWY_INLINE VF floats(float x) { return hn::Set(f32, x); }
HWY_INLINE VI ints(std::int32_t x) { return hn::Set(i32, x); }
HWY_INLINE VI bits_of(VF v) { return hn::BitCast(i32, v); }
HWY_INLINE VF float_of(VI v) { return hn::BitCast(f32, v); }

/// One bit a lane.
HWY_INLINE unsigned lane_bits(MF mask) {
  std::uint8_t bytes[8] = {};
  hn::StoreMaskBits(f32, mask, bytes);
  return bytes[0] | static_cast<unsigned>(bytes[1]) << 8;
}

/// Where the blocks of a group are; lanes past the last repeat it.
struct Group {
  const float* row[max_lanes];
  int used;
};

/// Four values of each of lanes / 4 rows: those of row[4 j] in the j-th 128 bits.
template <class D>
HWY_INLINE hn::Vec<D> quads(D d, const float* const* row, int at) {
  constexpr int n = static_cast<int>(hn::MaxLanes(D()));
  if constexpr (n == 4) {
    return hn::LoadU(d, row[0] + at);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, quads(half, row + n / 2, at), quads(half, row, at));
  }
}

/// Transposes four rows within each 128 bits.
HWY_INLINE void transpose(VF& a, VF& b, VF& c, VF& d) {
  const hn::Repartition<std::uint64_t, F32> pairs;
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(f32, a, b));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(f32, a, b));
  const auto cd_low = hn::BitCast(pairs, hn::InterleaveLower(f32, c, d));
  const auto cd_high = hn::BitCast(pairs, hn::InterleaveUpper(f32, c, d));
  a = hn::BitCast(f32, hn::InterleaveLower(pairs, ab_low, cd_low));
  b = hn::BitCast(f32, hn::InterleaveUpper(pairs, ab_low, cd_low));
  c = hn::BitCast(f32, hn::InterleaveLower(pairs, ab_high, cd_high));
  d = hn::BitCast(f32, hn::InterleaveUpper(pairs, ab_high, cd_high));
}

HWY_INLINE VF larger(VF a, VF b) { return float_of(hn::Max(bits_of(a), bits_of(b))); }  // of magnitudes, NaN on top

/// The magnitudes, element after element, one block a lane; the largest of each lane.
HWY_INLINE VF load(const Group& group, int n, float* HWY_RESTRICT x) {
  VF most = hn::Zero(f32);
  for (int at = 0; at < n; at += 4) {
    VF a = hn::Abs(quads(f32, group.row, at)), b = hn::Abs(quads(f32, group.row + 1, at));
    VF c = hn::Abs(quads(f32, group.row + 2, at)), d = hn::Abs(quads(f32, group.row + 3, at));
    transpose(a, b, c, d);
    hn::Store(a, f32, x + at * lanes);
    hn::Store(b, f32, x + (at + 1) * lanes);
    hn::Store(c, f32, x + (at + 2) * lanes);
    hn::Store(d, f32, x + (at + 3) * lanes);
    most = larger(most, larger(larger(a, b), larger(c, d)));
  }
  return most;
}

/// The largest magnitude of each lane alone.
HWY_INLINE VF load_amax(const Group& group, int n) {
  VF a = hn::Zero(f32), b = a, c = a, d = a;
  for (int at = 0; at < n; at += 4) {
    a = larger(a, hn::Abs(quads(f32, group.row, at)));
    b = larger(b, hn::Abs(quads(f32, group.row + 1, at)));
    c = larger(c, hn::Abs(quads(f32, group.row + 2, at)));
    d = larger(d, hn::Abs(quads(f32, group.row + 3, at)));
  }
  transpose(a, b, c, d);
  return larger(larger(a, b), larger(c, d));
}

// ---- exact codes of rules ----

/// The code of a quotient before the clamp.
template <bool power_of_two>
HWY_INLINE hn::Vec<I64> rounded_code(hn::Vec<I64> bits, formats::Rounding rounding) {
  const F64 f64;
  const I64 i64;
  if constexpr (power_of_two) {
    const auto up = hn::Set(i64, rounding == formats::Rounding::up ? (std::int64_t{1} << 52) - 1 : 0);
    return hn::Sub(hn::ShiftRight<52>(hn::Add(bits, up)), hn::Set(i64, 1023 - 127));
  } else {
    const auto odd = hn::And(hn::ShiftRight<49>(bits), hn::Set(i64, 1));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(i64, (std::int64_t{1} << 48) - 1)), odd);
    const auto normal = hn::Sub(hn::ShiftRight<49>(rounded), hn::Set(i64, (1023 - 7) << 3));
    const auto quotient = hn::BitCast(f64, bits), fixed = hn::Set(f64, 0x1p43);  // its last place is the subnormals'
    const auto subnormal = hn::Sub(hn::BitCast(i64, hn::Add(quotient, fixed)), hn::BitCast(i64, fixed));
    const auto small = hn::Lt(quotient, hn::Set(f64, 0x1p-6));
    return hn::IfThenElse(hn::RebindMask(i64, small), subnormal, normal);
  }
}

/// A product takes the place of the division of sim/scale.hpp. By the proof there, the real quotient is a boundary
/// between codes, of at most 6 bits, or differs from all of them by more than 2^-38 of itself. The product with the
/// rounded reciprocal is within 2^-52, so that rounding it to 41 bits, 2^-41, brings it to the boundary in the first
/// case and leaves it on its side in the second.
template <bool power_of_two, class V>
HWY_INLINE auto half_codes(V amax, sim::ScaleRule rule, double tensor_scale) {
  const F64 f64;
  const I64 i64;
  const hn::Repartition<std::uint64_t, F32> u64;
  const auto factor = hn::Set(f64, rule.numerator / (rule.divisor * tensor_scale));
  const auto product = hn::BitCast(i64, hn::Mul(hn::PromoteTo(f64, amax), factor));
  const auto quotient = hn::And(hn::Add(product, hn::Set(i64, 0x800)), hn::Set(i64, ~std::int64_t{0xFFF}));
  const hn::Half<hn::RebindToUnsigned<F32> > half;
  return hn::TruncateTo(half, hn::BitCast(u64, rounded_code<power_of_two>(quotient, rule.rounding)));
}

/// Codes of finite maxima by a rule. What is not finite gives some code.
template <bool power_of_two>
HWY_INLINE VI rule_codes(VF amax, sim::ScaleRule rule, double tensor_scale) {
  const hn::Half<F32> half;
  const hn::RebindToUnsigned<F32> u32;
  const auto low = half_codes<power_of_two>(hn::LowerHalf(half, amax), rule, tensor_scale);
  const auto high = half_codes<power_of_two>(hn::UpperHalf(half, amax), rule, tensor_scale);
  const VI codes = hn::BitCast(i32, hn::Combine(u32, high, low));
  const VI least = hn::IfThenElseZero(hn::Gt(bits_of(amax), ints(0)), ints(rule.least));
  return hn::Max(hn::Min(codes, ints(power_of_two ? 0xFE : 0x7E)), least);
}

// ---- the filter ----

/// The level nearest to y times the gain, or one of the two; y >= 0, below 31.9 unless `beyond`.
template <Levels levels, bool beyond>
HWY_INLINE VF nearest(VF y) {
  if constexpr (levels == Levels::int4) {
    const VF magic = floats(0x1.8p23f);
    const VF rounded = hn::Sub(hn::Add(beyond ? hn::Min(y, floats(8)) : y, magic), magic);
    return hn::Min(rounded, floats(7));
  } else {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
    // floor(y) is the place in a table: all midpoints, 1 3 5 7 10 14 20, are whole. 2^23 + y, rounded down, has it
    // below.
    const __m512 low = _mm512_setr_ps(0, 2, 2, 4, 4, 6, 6, 8, 8, 8, 12, 12, 12, 12, 16, 16);
    const __m512 high = _mm512_setr_ps(16, 16, 16, 16, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24);
    const VF inside = beyond ? hn::Min(y, floats(31)) : y;
    const __m512 place =
        _mm512_add_round_ps(inside.raw, _mm512_set1_ps(0x1p23f), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    return VF{_mm512_permutex2var_ps(low, _mm512_castps_si512(place), high)};
#else
    // Spacing: half of y's power of two, at least 2. 1.5 * 2^22 of these powers has it as its last place.
    const VF inside = beyond ? hn::Min(y, floats(31)) : y;
    const VI power = hn::Max(hn::And(bits_of(inside), ints(infinity_bits)), ints(0x40800000));
    const VF magic = float_of(hn::Add(power, ints((22 << 23) + 0x400000)));
    return hn::Min(hn::Sub(hn::Add(inside, magic), magic), floats(24));
#endif
  }
}

/// Two block scales at a time, because one leaves the units waiting.
struct Pair {
  VF first, second;
};

template <Levels levels, bool beyond>
HWY_INLINE void add_square(VF x, VF inverse, VF& sum) {
  const VF y = hn::Mul(x, inverse);
  const VF e = hn::Sub(y, nearest<levels, beyond>(y));
  sum = hn::MulAdd(e, e, sum);
}

template <Levels levels, bool beyond>
HWY_INLINE Pair sums_of_squares(const float* HWY_RESTRICT x, int n, Pair inverse) {
  VF a = hn::Zero(f32), b = a, c = a, d = a;
  for (int i = 0; i < n; i += 4) {
    for (int k = 0; k < 4; k += 2) {
      const VF even = hn::Load(f32, x + (i + k) * lanes), odd = hn::Load(f32, x + (i + k + 1) * lanes);
      add_square<levels, beyond>(even, inverse.first, a);
      add_square<levels, beyond>(even, inverse.second, b);
      add_square<levels, beyond>(odd, inverse.first, c);
      add_square<levels, beyond>(odd, inverse.second, d);
    }
  }
  return {hn::Add(a, c), hn::Add(b, d)};
}

/// F at the block scales v, given gain_per_unit / v.
template <Levels levels>
HWY_INLINE Pair filtered_errors(const float* HWY_RESTRICT x, int n, VF amax, Pair v, Pair inverse) {
  const VF largest = hn::Mul(amax, hn::Max(inverse.first, inverse.second));
  const bool inside = hn::AllTrue(f32, hn::Lt(largest, floats(levels == Levels::int4 ? 0x1p20f : 31.9f)));
  const Pair sums =
      inside ? sums_of_squares<levels, false>(x, n, inverse) : sums_of_squares<levels, true>(x, n, inverse);
  return {hn::Mul(sums.first, hn::Mul(v.first, v.first)), hn::Mul(sums.second, hn::Mul(v.second, v.second))};
}

/// The candidates of a group in the order of their visit, and what is known of them.
struct Candidates {
  HWY_ALIGN float error[max_candidates * max_lanes];
  HWY_ALIGN float value[max_candidates * max_lanes];
  int count = 0;
  VF best, second, best_value;

  HWY_INLINE Candidates() : best(floats(__builtin_inff())), second(best), best_value(hn::Zero(f32)) {}

  HWY_INLINE void add(VF v, VF f) {
    hn::Store(f, f32, error + count * lanes);
    hn::Store(v, f32, value + count * lanes);
    ++count;
    second = hn::Min(second, hn::Max(f, best));
    best_value = hn::IfThenElse(hn::Lt(f, best), v, best_value);
    best = hn::Min(best, f);
  }

  HWY_INLINE void add(Pair v, Pair f) {
    add(v.first, f.first);
    add(v.second, f.second);
  }
};

/// Block scales to codes and back; v = 0 has code 0.
template <bool power_of_two>
HWY_INLINE VI codes_of(VF v) {
  if constexpr (power_of_two) return hn::ShiftRight<23>(bits_of(v));
  const VI normal = hn::Sub(hn::ShiftRight<20>(bits_of(v)), ints((127 - 7) << 3));
  const VI subnormal = hn::ConvertTo(i32, hn::Mul(v, floats(0x1p9f)));
  return hn::IfThenElse(hn::RebindMask(i32, hn::Lt(v, floats(0x1p-6f))), subnormal, normal);
}

HWY_INLINE VF e4m3_values(VI codes) {
  const VF normal = float_of(hn::Add(hn::ShiftLeft<20>(codes), ints((127 - 7) << 23)));
  const VF subnormal = hn::Mul(hn::ConvertTo(f32, codes), floats(0x1p-9f));
  return hn::IfThenElse(hn::RebindMask(f32, hn::Lt(codes, ints(8))), subnormal, normal);
}

/// w: q rounded up to a block scale, as though there were no largest.
template <bool power_of_two>
HWY_INLINE VF least_value(VF q) {
  constexpr int dropped = power_of_two ? 23 : 20;
  const VI up = hn::Add(bits_of(q), ints((1 << dropped) - 1));
  const VF normal = float_of(hn::ShiftLeft<dropped>(hn::ShiftRight<dropped>(up)));
  if constexpr (power_of_two) return normal;
  const VF subnormal = hn::Mul(hn::Max(hn::Ceil(hn::Mul(q, floats(0x1p9f))), floats(1)), floats(0x1p-9f));
  return hn::IfThenElse(hn::Lt(q, floats(0x1p-6f)), subnormal, normal);
}

/// The block scale one code lower; the least stays.
template <bool power_of_two>
HWY_INLINE VF next_lower(VF v) {
  if constexpr (power_of_two) return hn::Mul(v, floats(0.5f));
  const VF subnormal = hn::Max(hn::Sub(v, floats(0x1p-9f)), floats(0x1p-9f));
  const VF normal = float_of(hn::Sub(bits_of(v), ints(1 << 20)));
  return hn::IfThenElse(hn::Le(v, floats(0x1p-6f)), subnormal, normal);
}

/// The binary exponent fields between which m 2^k, m = 8 + k, is a code.
struct ClassRange {
  std::int32_t least, last;
};
constexpr ClassRange class_ranges[8] = {{118, 135}, {121, 135}, {120, 135}, {121, 135},
                                        {119, 135}, {121, 135}, {120, 135}, {121, 134}};

/// The least value of each m with r <= D, as near as there is one.
HWY_INLINE VF class_exponent(VF w, int k) {
  // It goes up by one where w's mantissa is above k.
  const VI raised = hn::Add(bits_of(w), ints(binade - 1 - (k << 20)));
  const VI exponent = hn::And(raised, ints(infinity_bits));
  return float_of(hn::Min(hn::Max(exponent, ints(class_ranges[k].least << 23)), ints(class_ranges[k].last << 23)));
}

HWY_INLINE VF class_value(VF exponent, int k) { return float_of(hn::Or(bits_of(exponent), ints(k << 20))); }

HWY_INLINE VF class_inverse(const Plan& plan, VF exponent, int k) {
  return hn::Mul(float_of(hn::Sub(ints(254 << 23), bits_of(exponent))), floats(plan.per_class[k]));
}

template <Levels levels>
HWY_INLINE void add_classes(const Plan& plan, const float* x, int n, VF amax, VF w, Candidates& candidates) {
  for (int k = 0; k < 8; k += 2) {
    const VF p = class_exponent(w, k), q = class_exponent(w, k + 1);
    const Pair v = {class_value(p, k), class_value(q, k + 1)};
    const Pair inverse = {class_inverse(plan, p, k), class_inverse(plan, q, k + 1)};
    candidates.add(v, filtered_errors<levels>(x, n, amax, v, inverse));
  }
}

HWY_INLINE VF threshold(const Plan& plan, VF a, VF best) {
  return hn::MulAdd(best, floats(plan.relative), hn::Mul(hn::Mul(a, a), floats(plan.absolute)));
}

HWY_INLINE Pair inverses(const Plan& plan, Pair v) {
  const VF unit = floats(plan.gain_per_unit);
  return {hn::Div(unit, v.first), hn::Div(unit, v.second)};
}

/// Whether v, the code below `above`, and what lies below it may still be the answer.
HWY_INLINE MF in_reach(const Plan& plan, VF a, VF v, VF above, VF best) {
  const VF clipped = hn::Max(hn::Sub(hn::Mul(a, floats(1 - 0x1p-20f)), hn::Mul(v, floats(plan.top))), hn::Zero(f32));
  const VF bound = hn::Mul(hn::Mul(clipped, clipped), floats(1 - 0x1p-20f));
  const MF within = hn::And(hn::Le(a, hn::Mul(v, floats(plan.undersize))), hn::Lt(v, above));
  return hn::And(within, hn::Le(bound, threshold(plan, a, best)));
}

/// The codes below v, one after the other, while they may be the answer. Returns how many a lane of `usual` met.
template <Levels levels, bool power_of_two>
HWY_INLINE int add_lower(const Plan& plan, const float* x, int n, VF amax, VF a, MF usual, VF v,
                         Candidates& candidates) {
  const VF never = floats(__builtin_inff()),
           doubled = floats(power_of_two ? 0x1p100f : 224);  // up to it, 2 v is a code
  int met = 0;
  while (candidates.count + 2 <= max_candidates) {
    const VF above = v, low = next_lower<power_of_two>(above);
    v = next_lower<power_of_two>(low);
    const MF reached = hn::And(usual, in_reach(plan, a, low, above, candidates.best));
    if (hn::AllFalse(f32, reached)) break;
    const MF live = hn::And(reached, hn::Le(low, doubled));
    const MF lower_live = hn::And(hn::And(usual, in_reach(plan, a, v, low, candidates.best)), hn::Le(v, doubled));
    met += static_cast<int>(hn::CountTrue(f32, live) + hn::CountTrue(f32, lower_live));
    // Lanes that are out get a scale that keeps them inside the table.
    const Pair both = {hn::IfThenElse(live, low, above), hn::IfThenElse(lower_live, v, above)};
    const Pair errors = filtered_errors<levels>(x, n, amax, both, inverses(plan, both));
    candidates.add(both, {hn::IfThenElse(live, errors.first, never), hn::IfThenElse(lower_live, errors.second, never)});
  }
  return met;
}

/// The exact choice among the candidates of a lane that the filter can't separate.
int decide_lane(const Plan& plan, const Candidates& candidates, int lane, const float* x, float at_most,
                SearchCount& count) {
  int codes[max_candidates], n = 0;
  for (int i = 0; i < candidates.count; ++i) {
    if (candidates.error[i * lanes + lane] > at_most) continue;
    const float value = candidates.value[i * lanes + lane];
    codes[n++] = static_cast<int>(
        formats::encode(plan.space->scale, static_cast<double>(value), formats::Rounding::toward_zero).code);
  }
  std::sort(codes, codes + n);
  return decide(plan, x, codes, n, count);
}

/// Stores the low bytes; the upper lanes of a group that is not full go nowhere.
HWY_INLINE void store_codes(VI codes, int used, std::uint8_t* out) {
  const hn::Rebind<std::uint8_t, I32> u8;
  if (used == lanes) return hn::StoreU(hn::DemoteTo(u8, codes), u8, out);
  std::uint8_t bytes[max_lanes];
  hn::StoreU(hn::DemoteTo(u8, codes), u8, bytes);
  std::copy_n(bytes, used, out);
}

/// Blocks that the vector code leaves alone: all zero, with NaN or Inf, far from the tensor scale.
void redo(const Plan& plan, const Group& group, unsigned which, std::uint8_t* out, SearchCount& count,
          std::int64_t& chose_second) {
  for (; which != 0; which &= which - 1) {
    const int lane = __builtin_ctz(which);
    out[lane] = static_cast<std::uint8_t>(plain_code(plan, group.row[lane], count, chose_second));
  }
}

template <Levels levels, bool power_of_two>
void search_group(const Plan& plan, const Group& group, std::uint8_t* out, SearchCount& count,
                  std::int64_t& chose_second) {
  HWY_ALIGN float x[max_lane_block * max_lanes];
  const int n = plan.task->block;
  const unsigned all = (1u << group.used) - 1;
  const VF largest = load(group, n, x);
  const VF ratio = hn::Mul(largest, floats(plan.gain_per_unit)), quotient = hn::Mul(ratio, floats(plan.to_least_code));
  // Far from the tensor scale, or so small that a code of E4M3 has nothing but zeros (r <= 1/4): one by one.
  const float least = power_of_two ? 0x1p-40f : 0x1p-14f, last = 0x1p40f;
  const MF finite = hn::RebindMask(f32, hn::Lt(bits_of(largest), ints(infinity_bits)));
  const MF near = hn::And(hn::Gt(quotient, floats(least)), hn::Lt(quotient, floats(last)));
  const MF usual = hn::And(hn::FirstN(f32, static_cast<std::size_t>(group.used)), hn::And(finite, near));
  const VF amax = hn::IfThenElseZero(usual, largest), a = hn::IfThenElse(usual, ratio, floats(1));
  const VF w = least_value<power_of_two>(hn::IfThenElse(usual, quotient, floats(1)));

  Candidates candidates;
  if constexpr (power_of_two) {  // a block is here because its second is in question
    const Pair v = {w, next_lower<true>(w)};
    candidates.add(v, filtered_errors<levels>(x, n, amax, v, inverses(plan, v)));
  } else {
    add_classes<levels>(plan, x, n, amax, w, candidates);
  }
  const unsigned searched = lane_bits(usual);
  count.candidates += candidates.count * __builtin_popcount(searched);
  count.candidates +=
      add_lower<levels, power_of_two>(plan, x, n, amax, a, usual, power_of_two ? next_lower<true>(w) : w, candidates);

  store_codes(codes_of<power_of_two>(candidates.best_value), group.used, out);
  const VF at_most = threshold(plan, a, candidates.best);
  unsigned open = lane_bits(hn::Le(candidates.second, at_most)) & searched;
  if (open != 0) {
    HWY_ALIGN float limit[max_lanes];
    hn::Store(at_most, f32, limit);
    for (; open != 0; open &= open - 1) {
      const int lane = __builtin_ctz(open);
      out[lane] = static_cast<std::uint8_t>(decide_lane(plan, candidates, lane, group.row[lane], limit[lane], count));
    }
  }
  redo(plan, group, all & ~searched, out, count, chose_second);
}

// ---- rows of blocks ----

HWY_INLINE Group group_at(const float* x, int n, std::int64_t left) {
  Group group;
  group.used = static_cast<int>(left < lanes ? left : lanes);
  for (int i = 0; i < lanes; ++i) group.row[i] = x + static_cast<std::int64_t>(i < group.used ? i : group.used - 1) * n;
  return group;
}

template <bool power_of_two>
void rule_rows(const Plan& plan, const float* x, std::int64_t blocks, std::uint8_t* scales) {
  const int n = plan.task->block;
  const double tensor_scale = static_cast<double>(plan.task->tensor_scale);
  for (std::int64_t b = 0; b < blocks; b += lanes) {
    const Group group = group_at(x + b * n, n, blocks - b);
    const VF amax = load_amax(group, n);
    const VI codes = rule_codes<power_of_two>(amax, plan.rule, tensor_scale);
    const auto finite = hn::Lt(bits_of(amax), ints(infinity_bits));
    store_codes(hn::IfThenElse(finite, codes, ints(power_of_two ? 0xFF : 0x7F)), group.used, scales + b);
  }
}

template <Levels levels>
void search_rows(const Plan& plan, const float* x, std::int64_t blocks, std::uint8_t* scales, SearchCount& count,
                 std::int64_t& chose_second) {
  const int n = plan.task->block;
  for (std::int64_t b = 0; b < blocks; b += lanes) {
    search_group<levels, false>(plan, group_at(x + b * n, n, blocks - b), scales + b, count, chose_second);
  }
}

/// Blocks that wait for a full group.
struct Waiting {
  std::int64_t block[2 * max_lanes];
  int count = 0;
};

/// Searches the first of them and scatters their codes.
template <Levels levels>
void search_waiting(const Plan& plan, const float* x, std::uint8_t* scales, Waiting& waiting, SearchCount& count,
                    std::int64_t& chose_second) {
  Group group;
  std::uint8_t codes[max_lanes];
  group.used = waiting.count < lanes ? waiting.count : lanes;
  for (int i = 0; i < lanes; ++i) {
    group.row[i] = x + waiting.block[i < group.used ? i : group.used - 1] * plan.task->block;
  }
  search_group<levels, true>(plan, group, codes, count, chose_second);
  for (int i = 0; i < group.used; ++i) scales[waiting.block[i]] = codes[i];
  waiting.count -= group.used;
  std::copy_n(waiting.block + group.used, waiting.count, waiting.block);
}

/// UE8M0: w at once, and a group of those in question whenever there is one.
template <Levels levels>
void search_power_rows(const Plan& plan, const float* x, std::int64_t blocks, std::uint8_t* scales, SearchCount& count,
                       std::int64_t& chose_second) {
  const int n = plan.task->block;
  Waiting waiting;
  for (std::int64_t b = 0; b < blocks; b += lanes) {
    const Group group = group_at(x + b * n, n, blocks - b);
    const VF largest = load_amax(group, n);
    const VF a = hn::Mul(largest, floats(plan.gain_per_unit)), quotient = hn::Mul(a, floats(plan.to_least_code));
    const MF finite = hn::RebindMask(f32, hn::Lt(bits_of(largest), ints(infinity_bits)));
    const MF usual = hn::And(finite, hn::And(hn::Gt(quotient, floats(0x1p-40f)), hn::Lt(quotient, floats(0x1p40f))));
    const VF w = least_value<true>(quotient);
    const MF settled = hn::And(usual, hn::Gt(a, hn::Mul(w, floats(plan.undersize / 2))));
    store_codes(hn::And(codes_of<true>(w), ints(0xFF)), group.used, scales + b);
    const unsigned all = (1u << group.used) - 1, done = lane_bits(settled) & all;
    count.candidates += __builtin_popcount(done);
    for (unsigned open = all & ~done; open != 0; open &= open - 1) {
      waiting.block[waiting.count++] = b + __builtin_ctz(open);
    }
    if (waiting.count >= lanes) search_waiting<levels>(plan, x, scales, waiting, count, chose_second);
  }
  while (waiting.count > 0) search_waiting<levels>(plan, x, scales, waiting, count, chose_second);
}

/// Four over six by squared errors. A scale of zero stands for 1 here, where r <= 17/16 * 6 / 1024: nothing but zeros,
/// and F is the energy either way.
template <Levels levels>
void four_over_six_group(const Plan& plan, const Group& group, std::uint8_t* out, SearchCount& count,
                         std::int64_t& chose_second) {
  HWY_ALIGN float x[max_lane_block * max_lanes];
  const int n = plan.task->block;
  const unsigned all = (1u << group.used) - 1;
  const VF largest = load(group, n, x), ratio = hn::Mul(largest, floats(plan.gain_per_unit));
  const MF usual = hn::Lt(ratio, floats(0x1p50f));  // not NaN either
  const VF amax = hn::IfThenElseZero(usual, largest), a = hn::IfThenElseZero(usual, ratio);
  const double tensor_scale = static_cast<double>(plan.task->tensor_scale);
  const VI six = rule_codes<false>(amax, plan.rule, tensor_scale);
  const VI four = rule_codes<false>(amax, plan.four_rule, tensor_scale);

  const VF v_six = e4m3_values(six), v_four = e4m3_values(four);
  const VF zero = hn::Zero(f32), one = floats(1);
  const Pair v = {hn::IfThenElse(hn::Eq(v_six, zero), one, v_six), hn::IfThenElse(hn::Eq(v_four, zero), one, v_four)};
  const Pair errors = filtered_errors<levels>(x, n, amax, v, inverses(plan, v));
  const MF differ = hn::And(usual, hn::Ne(v_six, v_four)), lower = hn::And(differ, hn::Lt(errors.second, errors.first));
  store_codes(hn::IfThenElse(hn::RebindMask(i32, lower), four, six), group.used, out);

  const VF at_most = threshold(plan, a, hn::Min(errors.first, errors.second));
  const MF open = hn::And(differ, hn::Le(hn::Max(errors.first, errors.second), at_most));
  const unsigned again = (lane_bits(open) | ~lane_bits(usual)) & all;
  count.candidates += 2 * __builtin_popcount(lane_bits(differ) & all & ~again);
  chose_second += __builtin_popcount(lane_bits(lower) & all & ~again);
  redo(plan, group, again, out, count, chose_second);
}

template <Levels levels>
void four_over_six_rows(const Plan& plan, const float* x, std::int64_t blocks, std::uint8_t* scales, SearchCount& count,
                        std::int64_t& chose_second) {
  const int n = plan.task->block;
  for (std::int64_t b = 0; b < blocks; b += lanes) {
    four_over_six_group<levels>(plan, group_at(x + b * n, n, blocks - b), scales + b, count, chose_second);
  }
}

template <Levels levels>
void choosing_rows(const Plan& plan, const float* x, std::int64_t blocks, std::uint8_t* scales, SearchCount& count,
                   std::int64_t& chose_second) {
  if (plan.task->method->kind == MethodKind::four_over_six) {
    return four_over_six_rows<levels>(plan, x, blocks, scales, count, chose_second);
  }
  if (plan.power_of_two) return search_power_rows<levels>(plan, x, blocks, scales, count, chose_second);
  search_rows<levels>(plan, x, blocks, scales, count, chose_second);
}

}  // namespace

void all_rows(const Plan& plan, const float* x, std::int64_t blocks, std::uint8_t* scales, SearchCount& count,
              std::int64_t& chose_second) {
  if (plan.task->method->kind == MethodKind::rule) {
    return plan.power_of_two ? rule_rows<true>(plan, x, blocks, scales) : rule_rows<false>(plan, x, blocks, scales);
  }
  if (plan.levels == Levels::e2m1) return choosing_rows<Levels::e2m1>(plan, x, blocks, scales, count, chose_second);
  choosing_rows<Levels::int4>(plan, x, blocks, scales, count, chose_second);
}

#endif  // HWY_SCALAR
}  // namespace HWY_NAMESPACE
}  // namespace fp4scope::search::lanes
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fp4scope::search {
namespace lanes {

HWY_EXPORT(all_rows);

int decide(const Plan& plan, const float* x, const int* codes, int n, SearchCount& count) {
  const Block block = {x, plan.task->block, sim::amax(x, plan.task->block)};
  Best best = {codes[0], sums_at(*plan.space, block, codes[0])};
  SearchCount comparisons;
  for (int i = 1; i < n; ++i) keep_better(*plan.space, block, codes[i], best, &comparisons);
  count.exact += comparisons.exact;  // they have been counted as candidates
  return best.code;
}

int plain_code(const Plan& plan, const float* x, SearchCount& count, std::int64_t& chose_second) {
  const SearchTask& task = *plan.task;
  const Block block = {x, task.block, sim::amax(x, task.block)};
  if (!std::isfinite(block.amax)) return static_cast<int>(plan.space->scale.nan_code());
  if (task.method->kind == MethodKind::rule) {
    return sim::scale_code(plan.space->scale, plan.rule, block.amax, task.tensor_scale);
  }
  if (task.method->kind == MethodKind::sse) return sse_code(*plan.space, block, &count);
  const FourOverSix chosen = four_over_six(*plan.space, block, task.select, &count, task.unbiased);
  chose_second += chosen.chose_four;
  return chosen.code;
}

namespace {

struct LevelRow {
  Levels levels;
  double gain;
  double level[8];  ///< in units of the grid
};
constexpr LevelRow level_rows[] = {{Levels::e2m1, 4, {0, 0.5, 1, 1.5, 2, 3, 4, 6}},
                                   {Levels::int4, 1, {0, 1, 2, 3, 4, 5, 6, 7}}};

/// The row that a grid is a multiple of, and by what; nullptr for others.
const LevelRow* find_levels(const sim::Grid& grid, double& unit) {
  for (const LevelRow& row : level_rows) {
    unit = grid.level[1] / row.level[1];
    bool same = grid.levels == 8 && (unit == 1 || unit == 0.25);
    for (int k = 0; k < 8; ++k) same = same && grid.level[k] == unit * row.level[k];
    if (same) return &row;
  }
  return nullptr;
}

void set_filter(Plan& plan, const LevelRow& row, double unit) {
  const SearchSpace& space = *plan.space;
  const int n = plan.task->block;
  const double lambda = 0x1p-18 + (n + 8) * 0x1p-24, gain_per_unit = row.gain / (space.tensor_scale * unit);
  plan.levels = row.levels;
  plan.gain_per_unit = static_cast<float>(gain_per_unit);
  plan.to_least_code = static_cast<float>(unit * (1 + 0x1p-20) / (row.gain * space.dominance));
  for (int k = 0; k < 8; ++k) plan.per_class[k] = static_cast<float>(gain_per_unit / (1 + k / 8.0));
  plan.undersize = static_cast<float>(row.gain * undersize_constant(space.nesting, n) / unit * (1 + 0x1p-20));
  plan.top = static_cast<float>(row.gain * row.level[7]);
  plan.relative = static_cast<float>(1 + 4 * lambda);
  plan.absolute = static_cast<float>(3 * 0x1p-26 * n);
}

/// Whether all of the filter stays far inside binary32's range.
bool in_range(float tensor_scale) { return tensor_scale >= 0x1p-30f && tensor_scale <= 0x1p30f; }

bool serves_rule(const formats::Format& scale, formats::Rounding rounding) {
  if (formats::same_format(scale, formats::e4m3)) return rounding == formats::Rounding::nearest_even;
  return formats::same_format(scale, formats::ue8m0) &&
         (rounding == formats::Rounding::toward_zero || rounding == formats::Rounding::up);
}

}  // namespace
}  // namespace lanes

bool has_lanes(const SearchTask& task) {
  if (task.tile_rows != 1 || task.format->selects()) return false;
  if (task.block % 8 != 0 || task.block < 8 || task.block > lanes::max_lane_block) return false;
  const formats::Format& scale = task.format->scale;
  if (!lanes::serves_rule(scale, task.method->rule.rounding)) return false;
  if (!(task.tensor_scale > 0) || !std::isfinite(task.tensor_scale)) return false;
  if (task.method->kind == MethodKind::rule) return true;
  double unit = 0;
  const sim::Grid grid = sim::make_grid(*task.format);
  if (!lanes::in_range(task.tensor_scale) || lanes::find_levels(grid, unit) == nullptr) return false;
  const Nesting nest = nesting(grid);
  // At most three binades below w, 24 codes.
  if (!(undersize_constant(nest, task.block) <= 8 * dominance_constant(nest))) return false;
  if (task.method->kind == MethodKind::sse) return true;
  return task.method->kind == MethodKind::four_over_six && task.select == Select::mse && scale.has_zero;
}

void lane_scales(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t blocks,
                 std::uint8_t* scales, SearchCount& count, std::int64_t& chose_second) {
  lanes::Plan plan = {};
  plan.task = &task;
  plan.space = &space;
  sim::ScaleRule rule = task.method->rule, to_four = sim::four_rule;
  to_four.least = rule.least;
  plan.rule = task.unbiased ? sim::unbiased(rule) : rule;
  plan.four_rule = task.unbiased ? sim::unbiased(to_four) : to_four;
  plan.power_of_two = !space.scale.has_zero;
  double unit = 0;
  const lanes::LevelRow* row = lanes::find_levels(space.grid, unit);
  if (row != nullptr) lanes::set_filter(plan, *row, unit);
  HWY_DYNAMIC_DISPATCH(lanes::all_rows)(plan, x, blocks, scales, count, chose_second);
}

}  // namespace fp4scope::search
#endif  // HWY_ONCE
