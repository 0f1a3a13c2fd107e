// Codes of elements at given scales, and their values again: analysis/quantize.cpp's encode_row and for_each_value.
//
// The fast encoder takes elements of 4 bits to nearest, one block a thread. |x| is compared with binary32 stand-ins of
// the thresholds midpoint_k * block scale * tensor scale, as in sim/encode_lanes.hpp: |x| passes threshold k iff
//
//   |x| > f_k,   f_k = the largest float at most the threshold, and for odd k, where a tie goes up, below it.
//
// midpoint * block scale is a binary32 number m where block scale < 2^119: midpoints have at most 9 bits from 2^-17 to
// 2^8, scales at most 5 bits and are at least 2^-127, so m's bits lie within 2^-149 .. 2^127 and number 14. Then the
// threshold is the real product m T, and RD(m T) is f_k; it is the threshold itself iff RD and RU agree, and f_k is the
// float before it where that must not be. Blocks at scales beyond take the product in binary64.
// f_0 <= f_1 <= .. <= f_6, since thresholds strictly ascend, so three comparisons find how many |x| exceeds.
//
// The general encoder takes anything else, and calls what the CPU calls, two or four elements a thread.
#include <cstring>

#include "cuda/launch.cuh"
#include "formats/encode_float.hpp"
#include "formats/pack.hpp"
#include "sim/block.hpp"
#include "sim/random.hpp"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256;

/// What threads need of a task. Shapes in elements; `cols` of the matrix, `padded` of the codes.
struct Elements {
  formats::BlockFormat format;
  int block;
  float tensor_scale;
  formats::Rounding rounding;
  std::uint64_t seed;
  std::uint32_t stream;
  std::int64_t first_row, rows, cols, padded;
  formats::FloatEncoder encoder;  ///< of wide elements
  bool by_float;                  ///< whether that serves
  bool words;                     ///< whether four elements, and their codes, are whole words

  /// tensor scale * block scale of a stored scale.
  __device__ double step(std::uint8_t scale) const {
    const std::uint32_t code = format.selects() ? scale & ~formats::selection_bit : scale;
    return static_cast<double>(tensor_scale) * formats::decode_double(format.scale, code);
  }
  __device__ bool integer(std::uint8_t scale) const {
    return format.selects() && (scale & formats::selection_bit) != 0;
  }
};

Elements elements_of(const ElementTask& task, std::int64_t rows, std::int64_t cols) {
  const std::int64_t padded = (cols + task.block - 1) / task.block * task.block;
  const bool directed = task.rounding == formats::Rounding::up || task.rounding == formats::Rounding::down;
  const bool powers = task.format->scale.mantissa_bits == 0 && task.tensor_scale == 1;
  return {*task.format,
          task.block,
          task.tensor_scale,
          task.rounding,
          task.seed,
          task.stream,
          task.first_row,
          rows,
          cols,
          padded,
          formats::float_encoder(task.format->element, task.rounding, formats::Overflow::saturate),
          powers && !directed,
          false};
}

// ---- encode, in general ----

/// `run` codes, one a byte.
template <int run>
struct Codes {
  std::uint8_t code[run];
};

/// Wide elements: x / step is x * 2^-k, so a binary32 number too unless it leaves the normal ones. Above them all
/// directions saturate, as for Inf. Below them, where y < 2^-126, a quotient rounded to a subnormal or 0 has the code
/// of 0 as it has itself, to nearest, toward zero, and stochastically, since no least element is below 2^-17 and 2^32
/// of its share is below 1.
template <int run>
__device__ Codes<run> encode_wide(const Elements& e, double step, const float* x, const std::uint32_t* words) {
  Codes<run> out;
  if (!e.by_float) {
    sim::quantize_wide_block(e.format.element, x, run, step, e.rounding, words, out.code);
    return out;
  }
  const std::uint32_t field = __float_as_uint(static_cast<float>(step)) >> 23;  // k + 127, also of the subnormal 2^-127
  const float other = field == 254 ? 0x1p-127f : __uint_as_float((254 - field) << 23);
  const float inverse = step > 0 ? other : 0.0f;
  for (int k = 0; k < run; ++k) {
    out.code[k] = static_cast<std::uint8_t>(e.encoder(__float_as_uint(x[k] * inverse), words[k]));
  }
  return out;
}

/// What a thread block finds once.
struct Tables {
  sim::Grid grids[2];
  double step[256];  ///< by stored scale
};

__device__ void fill(const Elements& e, Tables& tables) {
  if (threadIdx.x < 2) tables.grids[threadIdx.x] = sim::make_grid(e.format, threadIdx.x == 1);
  tables.step[threadIdx.x] = e.step(static_cast<std::uint8_t>(threadIdx.x));
  __syncthreads();
}

/// Codes of elements of one block; `position` of the first in the tensor.
template <int run>
__device__ Codes<run> encode_run(const Elements& e, const Tables& tables, std::uint8_t scale, const float* x,
                                 std::uint64_t position) {
  Codes<run> out;
  std::uint32_t words[run] = {};
  const bool stochastic = e.rounding == formats::Rounding::stochastic;
  if (stochastic) sim::fill_words(e.seed, e.stream, position, run, words);
  const double step = tables.step[scale];
  if (e.format.element.bits > 4) return encode_wide<run>(e, step, x, words);
  constexpr formats::Format int4 = formats::int4;
  const bool integer = e.integer(scale);
  const formats::Format& element = integer ? int4 : e.format.element;
  const sim::Grid& grid = tables.grids[integer ? 1 : 0];
  const double factor = sim::grid_factor(e.format);
  if (stochastic) sim::quantize_block_stochastic(element, grid, x, run, step, words, out.code, factor);
  else sim::quantize_block(element, grid, x, run, step, out.code, factor);
  return out;
}

/// `run` elements from `col` on of a row that begins at x, zeros in the padding; four in whole words where `e.words`.
template <int run, class T>
__device__ void load_values(const Elements& e, const T* x, std::int64_t col, float* values) {
  if constexpr (run == 4) {
    if (e.words) {
      using Words = std::conditional_t<sizeof(T) == 4, uint4, uint2>;
      const Words words = *reinterpret_cast<const Words*>(x + col);
      T four[4];
      memcpy(four, &words, sizeof words);
#pragma unroll
      for (int k = 0; k < 4; ++k) values[k] = widened(four, k);
      return;
    }
  }
#pragma unroll
  for (int k = 0; k < run; ++k) values[k] = col + k < e.cols ? widened(x, col + k) : 0.0f;
}

template <int run>
__device__ void store_codes(const Elements& e, const Codes<run>& c, std::int64_t position, std::uint8_t* codes) {
  const bool wide = e.format.element.bits > 4;
  std::uint8_t nibbles[run / 2];
#pragma unroll
  for (int k = 0; k < run; k += 2) nibbles[k / 2] = formats::pack_nibbles(c.code[k], c.code[k + 1]);
  if (run == 4 && e.words) {
    if (wide)
      *reinterpret_cast<uchar4*>(codes + position) =
          make_uchar4(c.code[0], c.code[1], c.code[run - 2], c.code[run - 1]);
    else *reinterpret_cast<uchar2*>(codes + position / 2) = make_uchar2(nibbles[0], nibbles[run / 2 - 1]);
    return;
  }
  for (int k = 0; k < run && wide; ++k) codes[position + k] = c.code[k];
  for (int k = 0; k < run / 2 && !wide; ++k) codes[position / 2 + k] = nibbles[k];
}

/// `run` consecutive elements a thread, which lie in one block.
template <int run, class T>
__global__ void encode_kernel(Elements e, const T* x, const std::uint8_t* scales, std::uint8_t* codes) {
  __shared__ Tables tables;
  fill(e, tables);
  const std::int64_t per_row = e.padded / run, stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < e.rows * per_row;
       i += stride) {
    const std::int64_t row = quotient(i, per_row), col = (i - row * per_row) * run;
    float values[run];
    load_values<run>(e, x + row * e.cols, col, values);
    const std::uint8_t scale = scales[quotient(i, e.block / run)];
    const auto position = static_cast<std::uint64_t>((e.first_row + row) * e.padded + col);
    store_codes(e, encode_run<run>(e, tables, scale, values, position), i * run, codes);
  }
}

template <int run, class T>
void launch_encode(Stream& stream, const Elements& e, const T* x, const std::uint8_t* scales, std::uint8_t* codes) {
  const auto kernel = encode_kernel<run, T>;
  const unsigned grid = filling_grid(stream, kernel, threads, e.rows * e.padded / run, threads);
  kernel<<<grid, threads, 0, handle(stream)>>>(e, x, scales, codes);
}

// ---- encode, to nearest in 4 bits ----

/// f_0 .. f_6 of a block.
struct StandIns {
  float f[7];

  /// The code of the nearest level, 4, 2 and 1 by one comparison each.
  __device__ std::uint32_t index(float magnitude) const {
    const bool four = magnitude > f[3];
    const float middle = four ? f[5] : f[1], low = four ? f[4] : f[0], high = four ? f[6] : f[2];
    const bool two = magnitude > middle;
    const bool one = magnitude > (two ? high : low);
    return (four ? 4u : 0u) + (two ? 2u : 0u) + (one ? 1u : 0u);
  }
};

/// What the fast kernel needs of a format.
struct NearestTask {
  formats::Format scale;
  float tensor_scale;
  float midpoint[7];
  bool twos_complement;
  std::int64_t blocks;
};

/// The stand-ins at a scale's value; inf, which nothing exceeds, without a positive scale.
__device__ StandIns make_stand_ins(const NearestTask& task, float scale) {
  StandIns s;
  const bool small = scale < 0x1p119f;
#pragma unroll
  for (int k = 0; k < 7; ++k) {
    float down = __int_as_float(0x7F800000), up = down;
    if (small) {
      const float product = task.midpoint[k] * scale;
      down = __fmul_rd(product, task.tensor_scale);
      up = __fmul_ru(product, task.tensor_scale);
    } else {
      const double product = static_cast<double>(task.midpoint[k]) * scale * task.tensor_scale;
      down = __double2float_rd(product);
      up = __double2float_ru(product);
    }
    const bool before = k % 2 == 1 && down == up && scale > 0;
    const float f = before ? __uint_as_float(__float_as_uint(down) - 1) : down;
    s.f[k] = scale > 0 ? f : __int_as_float(0x7F800000);
  }
  return s;
}

/// Eight elements, 16 or 32 bytes that are aligned to 16.
struct Eight {
  float x[8];
};
__device__ Eight load_eight(const float* x) {
  const float4 a = __ldcs(reinterpret_cast<const float4*>(x)), b = __ldcs(reinterpret_cast<const float4*>(x) + 1);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
template <class T>
__device__ Eight load_eight(const T* x) {
  const uint4 words = __ldcs(reinterpret_cast<const uint4*>(x));
  T halves[8];
  memcpy(halves, &words, sizeof words);
  Eight out;
#pragma unroll
  for (int k = 0; k < 8; ++k) out.x[k] = widened(halves, k);
  return out;
}

template <bool twos_complement>
__device__ std::uint32_t pack_eight(const StandIns& s, const Eight& e) {
  std::uint32_t word = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const std::uint32_t bits = __float_as_uint(e.x[k]), index = s.index(__uint_as_float(bits & 0x7FFFFFFFu));
    const std::uint32_t negative = 0u - (bits >> 31);
    const std::uint32_t code = twos_complement ? ((index ^ negative) - negative) & 15u : index | (bits >> 28 & 8u);
    word |= code << 4 * k;
  }
  return word;
}

/// One block of a multiple of eight elements a thread; rows have no padding, so that blocks lie one after the other.
template <int block, bool twos_complement, class T>
__global__ void nearest_kernel(NearestTask task, const T* x, const std::uint8_t* scales, std::uint8_t* codes) {
  __shared__ float value[256];
  value[threadIdx.x] = formats::decode_float(task.scale, threadIdx.x);
  __syncthreads();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; b < task.blocks; b += stride) {
    const StandIns stand_ins = make_stand_ins(task, value[scales[b]]);
    std::uint32_t words[block / 8];
#pragma unroll
    for (int k = 0; k < block / 8; ++k) {
      words[k] = pack_eight<twos_complement>(stand_ins, load_eight(x + b * block + 8 * k));
    }
    if constexpr (block == 16) reinterpret_cast<uint2*>(codes)[b] = make_uint2(words[0], words[1]);
    else reinterpret_cast<uint4*>(codes)[b] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

/// Whether the fast kernel serves.
bool is_plain_nearest(const ElementTask& task, const Matrix& matrix, const std::uint8_t* codes) {
  const bool four_bits = task.format->element.bits <= 4 && !task.format->selects();
  const bool whole = (task.block == 16 || task.block == 32) && matrix.cols % task.block == 0;
  const bool scaled = task.tensor_scale > 0 && task.tensor_scale < __builtin_inff();
  return four_bits && whole && scaled && task.rounding == formats::Rounding::nearest_even &&
         sim::make_grid(*task.format).levels == 8 && aligned(matrix.x, 16) &&
         aligned(codes, static_cast<std::uintptr_t>(task.block) / 2);
}

template <int block, class T>
void launch_nearest(Stream& stream, const NearestTask& task, const T* x, const std::uint8_t* scales,
                    std::uint8_t* codes) {
  const auto kernel = task.twos_complement ? nearest_kernel<block, true, T> : nearest_kernel<block, false, T>;
  kernel<<<filling_grid(stream, kernel, threads, task.blocks, threads), threads, 0, handle(stream)>>>(task, x, scales,
                                                                                                      codes);
}

void encode_nearest(Stream& stream, const ElementTask& task, const Matrix& matrix, const std::uint8_t* scales,
                    std::uint8_t* codes) {
  NearestTask nearest = {task.format->scale,
                         task.tensor_scale,
                         {},
                         task.format->element.twos_complement,
                         matrix.rows * (matrix.cols / task.block)};
  const sim::Grid grid = sim::make_grid(*task.format);
  for (int k = 0; k < 7; ++k) nearest.midpoint[k] = static_cast<float>(grid.midpoint[k]);
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    if (task.block == 16) launch_nearest<16>(stream, nearest, x, scales, codes);
    else launch_nearest<32>(stream, nearest, x, scales, codes);
  });
}

// ---- dequantize ----
//
// element * block scale is a binary32 number m where block scale < 2^110: elements have at most 9 bits within 2^-17 ..
// 2^16. The value is m T. RN(m T) is its binary32. For 16 bits it is first rounded to odd: RZ(m T), the last bit set
// unless m T is that number. What lies on or beside a midpoint of bf16 or f16 stays there, since binary32 has more than
// two bits more everywhere, so that the second rounding is the only one (Boldo and Melquiond 2008, theorem 3).
// IF4's INT4, with a quotient, and larger scales go by binary64.

__device__ void store_number(float x, float* out) { *out = x; }
__device__ void store_number(float x, __nv_bfloat16* out) { *out = __float2bfloat16_rn(x); }
__device__ void store_number(float x, __half* out) { *out = __float2half_rn(x); }

/// A NaN is the one that the CPU stores.
__device__ void store_nan(float* out) { *out = __uint_as_float(0x7FC00000u); }
__device__ void store_nan(__nv_bfloat16* out) { *out = __ushort_as_bfloat16(0x7FC0); }
__device__ void store_nan(__half* out) { *out = __ushort_as_half(0x7E00); }

/// m T, rounded once.
template <class T>
__device__ void store_product(float m, float tensor_scale, T* out) {
  float product = __fmul_rn(m, tensor_scale);
  if constexpr (sizeof(T) == 2) {
    const bool inexact = __fmul_rd(m, tensor_scale) != __fmul_ru(m, tensor_scale);
    product = __uint_as_float(__float_as_uint(__fmul_rz(m, tensor_scale)) | (inexact ? 1u : 0u));
  }
  if (product == product) store_number(product, out);
  else store_nan(out);
}

/// A binary64 value, rounded once.
__device__ void store_exact(double value, float* out) {
  if (value == value) *out = static_cast<float>(value);
  else store_nan(out);
}
template <class T>
__device__ void store_exact(double value, T* out) {
  constexpr bool brain = std::is_same_v<T, __nv_bfloat16>;
  constexpr formats::Format format = brain ? formats::Format(formats::bf16) : formats::Format(formats::fp16);
  const auto code = static_cast<std::uint16_t>(
      formats::encode(format, value, formats::Rounding::nearest_even, formats::Overflow::nan).code);
  memcpy(out, &code, sizeof code);
}

/// `run` consecutive codes, one a byte; eight lie on their own words.
template <int run>
__device__ Codes<run> load_codes(const std::uint8_t* codes, std::int64_t position, bool wide) {
  Codes<run> out;
  if (wide) {
    if constexpr (run == 8) {
      const uint2 words = *reinterpret_cast<const uint2*>(codes + position);
      memcpy(out.code, &words, sizeof words);
    } else {
      for (int k = 0; k < run; ++k) out.code[k] = codes[position + k];
    }
  } else {
    std::uint32_t word = codes[position / 2];
    if constexpr (run == 8) word = *reinterpret_cast<const std::uint32_t*>(codes + position / 2);
#pragma unroll
    for (int k = 0; k < run; ++k) out.code[k] = word >> 4 * k & 15;
  }
  return out;
}

/// `run` columns of a block a thread; eight where rows have no padding and everything is aligned.
template <int run, class T>
__global__ void dequantize_kernel(Elements e, const std::uint8_t* scales, const std::uint8_t* codes, T* out) {
  __shared__ float element[256], scale_value[256];
  element[threadIdx.x] = static_cast<float>(formats::element_value(e.format, threadIdx.x));
  scale_value[threadIdx.x] =
      formats::decode_float(e.format.scale, e.format.selects() ? threadIdx.x & 127u : threadIdx.x);
  __syncthreads();
  const std::int64_t per_row = e.padded / run, stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < e.rows * per_row;
       i += stride) {
    const std::uint8_t scale = scales[quotient(i, e.block / run)];
    const Codes<run> c = load_codes<run>(codes, i * run, e.format.element.bits > 4);
    const float block_scale = scale_value[scale];
    const bool by_float = block_scale < 0x1p110f && !e.integer(scale);
    alignas(16) T values[run];
#pragma unroll
    for (int k = 0; k < run; ++k) {
      if (by_float) store_product(element[c.code[k]] * block_scale, e.tensor_scale, values + k);
      else store_exact(sim::dequantize(e.format, c.code[k], e.step(scale), e.integer(scale)), values + k);
    }
    if constexpr (run == 8) {  // whole rows
      const uint4* const words = reinterpret_cast<const uint4*>(values);
#pragma unroll
      for (int k = 0; k < static_cast<int>(sizeof(T)) / 2; ++k) reinterpret_cast<uint4*>(out + i * 8)[k] = words[k];
    } else {
      const std::int64_t row = quotient(i, per_row), col = (i - row * per_row) * run;
      T* const to = out + row * e.cols + col;
      for (int k = 0; k < run && col + k < e.cols; ++k) to[k] = values[k];
    }
  }
}

template <class T>
void launch_dequantize(Stream& stream, const Elements& e, const std::uint8_t* scales, const std::uint8_t* codes,
                       T* out) {
  const bool eights = e.cols == e.padded && e.block % 8 == 0 && aligned(codes, 8) && aligned(out, 16);
  const auto kernel = eights ? dequantize_kernel<8, T> : dequantize_kernel<2, T>;
  const std::int64_t runs = e.rows * e.padded / (eights ? 8 : 2);
  kernel<<<filling_grid(stream, kernel, threads, runs, threads), threads, 0, handle(stream)>>>(e, scales, codes, out);
}

}  // namespace

void encode(Stream& stream, const ElementTask& task, const Matrix& matrix, const std::uint8_t* scales,
            std::uint8_t* codes) {
  if (matrix.rows * matrix.cols == 0) return;
  select(stream.device());
  if (is_plain_nearest(task, matrix, codes)) {
    encode_nearest(stream, task, matrix, scales, codes);
  } else {
    Elements e = elements_of(task, matrix.rows, matrix.cols);
    e.words = e.cols == e.padded && aligned(matrix.x, 16) && aligned(codes, 4);
    with_type(matrix.type, matrix.x, [&](const auto* x) {
      if (task.block % 4 == 0) launch_encode<4>(stream, e, x, scales, codes);
      else launch_encode<2>(stream, e, x, scales, codes);
    });
  }
  check_launch("encode");
}

void dequantize(Stream& stream, const ElementTask& task, std::int64_t rows, std::int64_t cols,
                const std::uint8_t* scales, const std::uint8_t* codes, Type out_type, void* out) {
  if (rows * cols == 0) return;
  select(stream.device());
  const Elements e = elements_of(task, rows, cols);
  with_type(out_type, out, [&](const auto* values) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(values)>>;
    launch_dequantize(stream, e, scales, codes, static_cast<T*>(out));
  });
  check_launch("dequantize");
}

}  // namespace fp4scope::cuda
