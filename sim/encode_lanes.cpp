#include "sim/encode_lanes.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "formats/pack.hpp"
#include "sim/block.hpp"

// SSE4, AVX2, AVX-512 (or NEON) and, one lane wide, what every processor has. Others would only add code, and vectors
// of unknown length don't fit into arrays.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sim/encode_lanes.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef FP4SCOPE_SIM_ENCODE_LANES_ONCE
#define FP4SCOPE_SIM_ENCODE_LANES_ONCE
namespace fp4scope::sim {

/// Blocks whose thresholds are made before their elements are encoded: 1 KiB of them.
inline constexpr int chunk = 32;

/// What all blocks of a call share.
struct LaneCoder {
  alignas(64) double midpoint[8];       ///< times the tensor scale; the last is never asked for
  alignas(64) std::uint64_t strict[8];  ///< 1 where the stand-in lies below its threshold: odd k
  const double* scale_value;            ///< [256], by code; inf for zero and NaN
  double tensor_scale;
  bool safe;  ///< every step is in safe_steps or inf
  bool twos_complement;
};

/// Where midpoint * step is a normal float: midpoints lie within 2^-9 .. 2^8 (a grid of one's own is refused beyond).
inline constexpr double safe_steps[2] = {0x1p-116, 0x1p118};

}  // namespace fp4scope::sim
#endif

HWY_BEFORE_NAMESPACE();
namespace fp4scope::sim {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, 16>;
using Words = hn::RebindToUnsigned<Floats>;
using Ints = hn::RebindToSigned<Floats>;
using Bytes = hn::Repartition<std::uint8_t, Words>;
constexpr int lanes = static_cast<int>(hn::MaxLanes(Floats()));
constexpr int group = 4 * lanes;  // elements that are encoded together

/// The stand-ins of a block whose step is safe, or inf. A product is positive: as an integer one less is the double
/// before it, and without its lower 29 bits it is the float below. (The double before inf is an inf among floats. Not
/// where Highway has one lane and clamps.)
HWY_INLINE void make_safe_stand_ins(const LaneCoder& coder, double scale, float* f) {
  const hn::CappedTag<double, 8> d;
  const hn::RebindToUnsigned<decltype(d)> words;
  const hn::Rebind<float, decltype(d)> narrow;
  for (std::size_t k = 0; k < 8; k += hn::Lanes(d)) {
    const auto product = hn::BitCast(words, hn::Mul(hn::Load(d, coder.midpoint + k), hn::Set(d, scale)));
    const auto below = hn::Sub(product, hn::Load(words, coder.strict + k));
    const auto cut = hn::And(below, hn::Set(words, ~std::uint64_t{0x1FFFFFFF}));
    hn::Store(hn::DemoteTo(narrow, hn::BitCast(d, cut)), narrow, f + k);
  }
}

/// The same for any positive step, or inf: the nearest float, or the one before it.
HWY_INLINE void make_any_stand_ins(const LaneCoder& coder, double scale, float* f) {
  for (int k = 0; k < 8; ++k) {
    const double product = coder.midpoint[k] * scale;
    const auto nearest = static_cast<float>(product);
    const bool above = coder.strict[k] != 0 ? nearest >= product : nearest > product;  // then it isn't zero
    const bool down = above && product < __builtin_inf();
    f[k] = down ? __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, nearest) - 1) : nearest;
  }
}

HWY_INLINE void make_stand_ins(const LaneCoder& coder, const std::uint8_t* scales, int blocks, float* f) {
  for (int b = 0; b < blocks; ++b) {
    const double scale = coder.scale_value[scales[b]], step = coder.tensor_scale * scale;
    const bool safe = coder.safe || (step >= safe_steps[0] && step <= safe_steps[1]);
    if (safe && HWY_TARGET != HWY_SCALAR) make_safe_stand_ins(coder, scale, f + b * 8);
    else make_any_stand_ins(coder, scale, f + b * 8);
  }
}

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

/// f[index], one of eight.
HWY_INLINE hn::Vec<Floats> pick(const float* f, hn::Vec<Words> index) {
  const Floats d;
#if HWY_TARGET == HWY_AVX3
  const hn::Half<Floats> half;
  return hn::TableLookupLanes(hn::ZeroExtendVector(d, hn::LoadU(half, f)), hn::IndicesFromVec(d, index));
#else
  return hn::TableLookupLanes(hn::LoadU(d, f), hn::IndicesFromVec(d, index));
#endif
}

/// The indices of the levels nearest to four vectors of magnitudes: 4, 2 and 1 by three comparisons, all four at each
/// step, so that none waits for itself. (f[8] is read, but not taken.)
HWY_INLINE void nearest(const float* const f[4], const hn::Vec<Floats> magnitude[4], hn::Vec<Words> index[4]) {
  const Words words;
  for (int v = 0; v < 4; ++v) {
    const auto above = hn::RebindMask(words, hn::Gt(magnitude[v], hn::Set(Floats(), f[v][3])));
    index[v] = hn::IfThenElseZero(above, hn::Set(words, 4));
  }
  for (int v = 0; v < 4; ++v) {
    const auto above = hn::RebindMask(words, hn::Gt(magnitude[v], pick(f[v] + 1, index[v])));
    index[v] = hn::IfThenElse(above, hn::Add(index[v], hn::Set(words, 2)), index[v]);
  }
  for (int v = 0; v < 4; ++v) {
    const auto above = hn::RebindMask(words, hn::Gt(magnitude[v], pick(f[v], index[v])));
    index[v] = hn::IfThenElse(above, hn::Add(index[v], hn::Set(words, 1)), index[v]);
  }
}

#else

/// The same without tables: how many thresholds a magnitude exceeds.
HWY_INLINE void nearest(const float* const f[4], const hn::Vec<Floats> magnitude[4], hn::Vec<Words> index[4]) {
  const Floats d;
  for (int v = 0; v < 4; ++v) {
    index[v] = hn::Zero(Words());
    for (int k = 0; k < 7; ++k) {
      const auto above = hn::VecFromMask(d, hn::Gt(magnitude[v], hn::Set(d, f[v][k])));
      index[v] = hn::Sub(index[v], hn::BitCast(Words(), above));
    }
  }
}

#endif

/// Indices with the signs of the elements.
template <bool twos_complement>
HWY_INLINE hn::Vec<Words> with_sign(hn::Vec<Words> index, hn::Vec<Words> bits) {
  const Words words;
  if constexpr (!twos_complement) {
    return hn::Or(index, hn::And(hn::ShiftRight<28>(bits), hn::Set(words, 8)));
  } else {
    const auto negative = hn::BitCast(words, hn::ShiftRight<31>(hn::BitCast(Ints(), bits)));
    return hn::And(hn::Sub(hn::Xor(index, negative), negative), hn::Set(words, 15));
  }
}

#if HWY_TARGET == HWY_SCALAR

/// Four codes, byte i of `bytes` for element i, to memory.
template <bool packed>
HWY_INLINE void store(hn::Vec<Words> bytes, std::uint8_t* out) {
  const std::uint32_t w = hn::GetLane(bytes);
  for (int i = 0; i < 4; i += packed ? 2 : 1) {
    if constexpr (packed) out[i / 2] = formats::pack_nibbles(w >> 8 * i & 15, w >> (8 * i + 8) & 15);
    else out[i] = static_cast<std::uint8_t>(w >> 8 * i);
  }
}

#else

/// Byte v of word i, the code of element i of vector v, goes to byte v * lanes + i: first within 16 bytes, then words.
HWY_INLINE hn::Vec<Bytes> in_order(hn::Vec<Words> words_of_codes) {
  const Bytes bytes;
  alignas(16) static constexpr std::uint8_t transpose[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const auto by_vector = hn::TableLookupBytes(hn::BitCast(bytes, words_of_codes), hn::LoadDup128(bytes, transpose));
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  const Words words;
  constexpr std::uint32_t n = lanes / 4;
  alignas(64) std::uint32_t from[lanes];
  for (std::uint32_t i = 0; i < lanes; ++i) from[i] = i % n * 4 + i / n;
  return hn::BitCast(bytes, hn::TableLookupLanes(hn::BitCast(words, by_vector), hn::SetTableIndices(words, from)));
#else
  return by_vector;
#endif
}

template <bool packed>
HWY_INLINE void store(hn::Vec<Words> words_of_codes, std::uint8_t* out) {
  const Bytes bytes;
  const hn::Repartition<std::uint16_t, Words> pairs;
  const hn::Half<decltype(bytes)> half;
  const auto codes = in_order(words_of_codes);
  if constexpr (packed) {
    const auto pair = hn::BitCast(pairs, codes);
    hn::StoreU(hn::TruncateTo(half, hn::Or(pair, hn::ShiftRight<4>(pair))), half, out);
  } else {
    hn::StoreU(codes, bytes, out);
  }
}

#endif

/// Four vectors side by side, each at its own block's thresholds.
template <bool twos_complement, bool packed>
HWY_INLINE void encode_group(const float* const f[4], const float* x, std::uint8_t* out) {
  const Words words;
  hn::Vec<Words> bits[4], index[4];
  hn::Vec<Floats> magnitude[4];
  for (int v = 0; v < 4; ++v) {
    bits[v] = hn::BitCast(words, hn::LoadU(Floats(), x + v * lanes));
    magnitude[v] = hn::BitCast(Floats(), hn::And(bits[v], hn::Set(words, 0x7FFFFFFF)));
  }
  nearest(f, magnitude, index);
  for (int v = 0; v < 4; ++v) index[v] = with_sign<twos_complement>(index[v], bits[v]);
  const auto low = hn::Or(index[0], hn::ShiftLeft<8>(index[1]));
  const auto high = hn::Or(index[2], hn::ShiftLeft<8>(index[3]));
  store<packed>(hn::Or(low, hn::ShiftLeft<16>(high)), out);
}

/// n < group elements at one block's thresholds.
template <bool twos_complement, bool packed>
void encode_part(const float* f, const float* x, int n, std::uint8_t* out) {
  float padded[group] = {};
  std::uint8_t codes[group];
  std::copy_n(x, n, padded);
  const float* const all[4] = {f, f, f, f};
  encode_group<twos_complement, packed>(all, padded, codes);
  std::copy_n(codes, packed ? n / 2 : n, out);
}

/// Blocks of whole vectors, all in one loop. The rest of less than a group is left; returns how many elements are done.
template <bool twos_complement, bool packed>
HWY_INLINE std::int64_t encode_groups(const float* f, const float* x, std::int64_t n, int block, std::uint8_t* out) {
  const int vectors = block / lanes;
  int left = vectors;
  std::int64_t i = 0;
  for (; i + group <= n; i += group) {
    const float* of[4];
    for (const float*& vector : of) {
      vector = f;
      if (--left == 0) {
        left = vectors;
        f += 8;
      }
    }
    encode_group<twos_complement, packed>(of, x + i, out + (packed ? i / 2 : i));
  }
  return i;
}

template <bool twos_complement, bool packed>
void encode_all(const LaneCoder& coder, const float* x, std::int64_t blocks, int block, const std::uint8_t* scales,
                std::uint8_t* out) {
  alignas(64) float f[chunk * 8 + lanes];
  for (std::int64_t first = 0; first < blocks; first += chunk) {
    const std::int64_t count = std::min<std::int64_t>(chunk, blocks - first), n = count * block;
    make_stand_ins(coder, scales + first, static_cast<int>(count), f);
    std::int64_t i = 0;
    if (block % lanes == 0) i = encode_groups<twos_complement, packed>(f, x, n, block, out);
    while (i < n) {  // up to the end of a block, or of a group
      const auto part = static_cast<int>(std::min<std::int64_t>(block - i % block, group));
      encode_part<twos_complement, packed>(f + i / block * 8, x + i, part, out + (packed ? i / 2 : i));
      i += part;
    }
    x += n;
    out += packed ? n / 2 : n;
  }
}

void encode_bytes(const LaneCoder& coder, const float* x, std::int64_t blocks, int block, const std::uint8_t* scales,
                  std::uint8_t* out) {
  if (coder.twos_complement) encode_all<true, false>(coder, x, blocks, block, scales, out);
  else encode_all<false, false>(coder, x, blocks, block, scales, out);
}

void encode_nibbles(const LaneCoder& coder, const float* x, std::int64_t blocks, int block, const std::uint8_t* scales,
                    std::uint8_t* out) {
  if (coder.twos_complement) encode_all<true, true>(coder, x, blocks, block, scales, out);
  else encode_all<false, true>(coder, x, blocks, block, scales, out);
}

void widen(const std::uint16_t* in, std::int64_t n, float* out) {
  const Words words;
  const hn::Rebind<std::uint16_t, Words> halves;
  const Floats d;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto bits = hn::ShiftLeft<16>(hn::PromoteTo(words, hn::LoadU(halves, in + i)));
    hn::StoreU(hn::BitCast(d, bits), d, out + i);
  }
  for (; i < n; ++i) out[i] = __builtin_bit_cast(float, std::uint32_t{in[i]} << 16);
}

}  // namespace HWY_NAMESPACE
}  // namespace fp4scope::sim
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fp4scope::sim {
namespace {

HWY_EXPORT(encode_bytes);
HWY_EXPORT(encode_nibbles);
HWY_EXPORT(widen);

/// A scale format's values by code; inf where a block has no positive scale.
struct ScaleValues {
  double value[std::size(formats::all_formats)][256] = {};
  double least[std::size(formats::all_formats)] = {}, largest[std::size(formats::all_formats)] = {};

  ScaleValues() {
    for (std::size_t i = 0; i < std::size(formats::all_formats); ++i) {
      const formats::Format& f = formats::all_formats[i];
      for (std::uint32_t c = 0; f.bits <= 8 && c < 256; ++c) {
        const double v = c < f.code_count() ? formats::decode_double(f, c) : 0;
        value[i][c] = v > 0 ? v : __builtin_inf();
      }
      least[i] = formats::decode_double(f, f.has_zero ? 1 : 0);
      largest[i] = formats::decode_double(f, f.max_code);
    }
  }
};

/// Whether lanes have room for the format: eight levels, none selected; and a tensor scale that is one.
bool make_coder(const formats::BlockFormat& format, float tensor_scale, LaneCoder& coder) {
  static const ScaleValues scales;
  const bool scaled = tensor_scale > 0 && tensor_scale < __builtin_inff();
  if (format.element.bits > 4 || format.selects() || format.scale.bits > 8 || !scaled) return false;
  const Grid grid = make_grid(format);
  std::size_t row = 0;
  while (row < std::size(formats::all_formats) && !formats::same_format(formats::all_formats[row], format.scale)) ++row;
  if (grid.levels != 8 || row == std::size(formats::all_formats)) return false;
  for (int k = 0; k < 8; ++k) {
    coder.midpoint[k] = (k < 7 ? grid.midpoint[k] : grid.level[7]) * tensor_scale;  // at most 33 bits: exact
    coder.strict[k] = static_cast<std::uint64_t>(k % 2);
  }
  coder.scale_value = scales.value[row];
  coder.tensor_scale = tensor_scale;
  coder.safe = scales.least[row] * tensor_scale >= safe_steps[0] && scales.largest[row] * tensor_scale <= safe_steps[1];
  coder.twos_complement = format.element.twos_complement;
  return true;
}

/// One block after the other.
void encode_plainly(const formats::BlockFormat& format, float tensor_scale, const float* x, std::int64_t blocks,
                    int block, const std::uint8_t* scales, std::uint8_t* codes) {
  const Grid grids[2] = {make_grid(format, false), make_grid(format, true)};
  for (std::int64_t b = 0; b < blocks; ++b) {
    const bool integer = format.selects() && (scales[b] & formats::selection_bit) != 0;
    const int scale = format.selects() ? scales[b] & ~formats::selection_bit : scales[b];
    const double step =
        static_cast<double>(tensor_scale) * formats::decode_double(format.scale, static_cast<std::uint32_t>(scale));
    quantize_block(integer ? formats::int4 : format.element, grids[integer ? 1 : 0], x + b * block, block, step,
                   codes + b * block, grid_factor(format));
  }
}

}  // namespace

void encode_blocks(const formats::BlockFormat& format, float tensor_scale, const float* x, std::int64_t blocks,
                   int block, const std::uint8_t* scales, std::uint8_t* codes) {
  LaneCoder coder;
  if (!make_coder(format, tensor_scale, coder)) {
    return encode_plainly(format, tensor_scale, x, blocks, block, scales, codes);
  }
  HWY_DYNAMIC_DISPATCH(encode_bytes)(coder, x, blocks, block, scales, codes);
}

void encode_blocks_packed(const formats::BlockFormat& format, float tensor_scale, const float* x, std::int64_t blocks,
                          int block, const std::uint8_t* scales, std::uint8_t* packed) {
  LaneCoder coder;
  if (make_coder(format, tensor_scale, coder)) {
    return HWY_DYNAMIC_DISPATCH(encode_nibbles)(coder, x, blocks, block, scales, packed);
  }
  std::uint8_t codes[2];
  for (std::int64_t i = 0; i < blocks * block; i += 2) {
    encode_plainly(format, tensor_scale, x + i, 1, 2, scales + i / block, codes);
    packed[i / 2] = formats::pack_nibbles(codes[0], codes[1]);
  }
}

void widen_bf16(const std::uint16_t* in, std::int64_t n, float* out) { HWY_DYNAMIC_DISPATCH(widen)(in, n, out); }

}  // namespace fp4scope::sim
#endif
