// Recipes at speed: NVFP4 blocks of 16 with E4M3 scales, one thread a block, by one multiplication or division and one
// rounding to E2M1 an element. What a scale's code makes of x is worked out once for all codes. A block that needs more
// (a NaN, an Inf, a factor without end, a -0 where the row drops its sign) goes to the plain functions in its thread;
// so does every row, shape and alignment that has no kernel here.
//
// Rounding y >= 0 to E2M1, ties to even, saturating, in seven additions and multiplications: with h = y / 2 and [.] a
// clamp to 0 .. 1,
//
//   code = 2^23 + 4 [h], rounded to a whole number; + 2 [h - 1], rounded; + [h - 2], rounded
//
// Below 2 the codes are multiples of 1/2, from 2 to 4 of 1, then of 2. h - 1 is exact where it is clamped to more than
// 0 and less than 1 (Sterbenz 1974: h is in 1/2 .. 2), h - 2 likewise. A clamp that is 1 adds an even number of codes,
// so a later tie goes to the even code. The test on the device compares it with formats::encode.
//
// A quotient x / F is taken as q0 = fl(x R), q = fl(q0 + R fl(x - F q0)), R = fl(1 / F), within an ulp of it. Only next
// to a threshold can its code differ from that of fl(x / F): for every significand of F and every threshold's those x
// are a handful, and quotient_test compares all of them. (sim/quotient.hpp)
#include <cuda_fp8.h>

#include <type_traits>
#include <utility>

#include "cuda/launch.cuh"
#include "formats/pack.hpp"
#include "sim/quotient.hpp"

namespace fp4scope::cuda {

namespace {

constexpr int block_size = 16;
constexpr float infinity = __builtin_huge_valf();

// ---- a block's elements ----

/// Magnitudes, widened; signs as words of pairs have them: bit 15 of element 2 j and bit 31 of 2 j + 1 in sign[j].
struct Elements {
  float magnitude[block_size];
  std::uint32_t sign[block_size / 2];
  float amax;          ///< Inf if one is Inf or NaN
  bool negative_tiny;  ///< is one of them in -2^-80 .. -0?
};

/// The largest halfword of eight words.
__device__ std::uint32_t largest_half(const std::uint32_t (&w)[8]) {
  std::uint32_t m = w[0];
#pragma unroll
  for (int j = 1; j < 8; ++j) m = __vmaxu2(m, w[j]);
  return max(m & 0xFFFF, m >> 16);
}

/// The least of eight words' halfwords as signed numbers: -0 comes first, then tiny negative ones.
__device__ int least_half(const std::uint32_t (&w)[8]) {
  std::uint32_t m = w[0];
#pragma unroll
  for (int j = 1; j < 8; ++j) m = __vmins2(m, w[j]);
  return min(static_cast<std::int16_t>(m & 0xFFFF), static_cast<std::int16_t>(m >> 16));
}

/// A block as it lies in memory.
template <class T>
struct Words {
  static constexpr int size = block_size * sizeof(T) / 16;
  uint4 four[size];
};

template <class T>
__device__ Words<T> load(const T* x, std::int64_t block) {
  Words<T> words;
#pragma unroll
  for (int i = 0; i < Words<T>::size; ++i) {
    words.four[i] = __ldg(reinterpret_cast<const uint4*>(x) + Words<T>::size * block + i);
  }
  return words;
}

/// bf16 and f16: pairs in words. `infinite`, `tiny`: the bits of Inf and of the least magnitude that isn't tiny.
template <class T, class Widen>
__device__ Elements widened_pairs(const Words<T>& in, std::uint32_t infinite, int tiny, const Widen& widen) {
  const uint4 low = in.four[0], high = in.four[1];
  Elements e;
  const std::uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  std::uint32_t magnitudes[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    e.sign[j] = words[j];
    magnitudes[j] = words[j] & 0x7FFF7FFF;
    e.magnitude[2 * j] = widen(magnitudes[j] & 0xFFFF);
    e.magnitude[2 * j + 1] = widen(magnitudes[j] >> 16);
  }
  const std::uint32_t largest = largest_half(magnitudes);
  e.amax = largest >= infinite ? infinity : widen(largest);
  e.negative_tiny = least_half(words) < tiny - 0x8000;
  return e;
}

__device__ Elements elements(const Words<__nv_bfloat16>& in) {
  return widened_pairs(in, 0x7F80, 47 << 7, [](std::uint32_t bits) { return __uint_as_float(bits << 16); });
}
__device__ Elements elements(const Words<__half>& in) {
  return widened_pairs(in, 0x7C00, 1, [](std::uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
  });
}
__device__ Elements elements(const Words<float>& in) {
  Elements e;
  std::uint32_t largest = 0;
  e.negative_tiny = false;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t bits[4] = {in.four[i].x, in.four[i].y, in.four[i].z, in.four[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      e.magnitude[4 * i + j] = __uint_as_float(bits[j] & 0x7FFFFFFF);
      largest = max(largest, bits[j] & 0x7FFFFFFF);
      e.negative_tiny = e.negative_tiny || bits[j] - 0x80000000 < 47u << 23;
    }
    e.sign[2 * i] = __byte_perm(bits[0], bits[1], 0x7632);
    e.sign[2 * i + 1] = __byte_perm(bits[2], bits[3], 0x7632);
  }
  e.amax = largest >= 0x7F800000 ? infinity : __uint_as_float(largest);
  return e;
}

/// use(b, words) for every block of this thread, the next one's words on their way meanwhile.
template <class T, class Use>
__device__ void for_each_block(const T* x, std::int64_t count, const Use& use) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (b >= count) return;
  for (Words<T> next = load(x, b); b < count; b += stride) {
    const Words<T> words = next;
    if (b + stride < count) next = load(x, b + stride);
    use(b, words);
  }
}

// ---- E4M3 and E2M1 ----

/// To nearest even, saturating: formats::encode(e4m3, v) by the machine's own conversion.
__device__ int e4m3_code(float v) { return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3); }
__device__ float e4m3_value(int code) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(code), __NV_E4M3)));
}

/// 2^23 + the code of 2 h, as a float.
__device__ float rounded_code(float h) {
  float sum = __fmaf_rn(__saturatef(h), 4, 0x1p23f);
  sum = __fmaf_rn(__saturatef(h - 1), 2, sum);
  return sum + __saturatef(h - 2);
}

/// The signs of eight elements, in bits 3, 7, ... 31.
__device__ std::uint32_t sign_word(const std::uint32_t* sign) {
  const std::uint32_t low = __byte_perm(sign[0], sign[1], 0x7351), high = __byte_perm(sign[2], sign[3], 0x7351);
  const std::uint32_t even = __byte_perm(low, high, 0x5410), odd = __byte_perm(low, high, 0x7632);
  return ((even >> 4 & 0x0F0F0F0F) | (odd & 0xF0F0F0F0)) & 0x88888888;
}

/// Eight codes in a word with their signs; given are the bits of 2^23 plus the code.
__device__ std::uint32_t packed(const std::uint32_t* codes, const std::uint32_t* sign) {
  std::uint32_t word = 0, excess = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    word += codes[i] << 4 * i;
    excess += 0x4B000000u << 4 * i;
  }
  return (word - excess) | sign_word(sign);
}

/// The same of numbers whose low byte is the code plus `excess`.
__device__ std::uint32_t packed_bytes(const std::uint32_t* codes, std::uint32_t excess, const std::uint32_t* sign) {
  const auto low_bytes = [](std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
  };
  const std::uint32_t even = low_bytes(codes[0], codes[2], codes[4], codes[6]);
  const std::uint32_t odd = low_bytes(codes[1], codes[3], codes[5], codes[7]);
  return (even + (odd << 4) - excess * 17 * 0x01010101u) | sign_word(sign);
}

// ---- what a row needs of a block ----

/// As sim::recipe_scale_code, where v is below 464.
template <int row>
__device__ int scale_code(float v) {
  constexpr sim::Recipe r = sim::all_recipes[row];
  if (v == 0 && r.zero.zero_value > 0) v = r.zero.zero_value;
  if (v < r.zero.least) v = r.zero.least;
  const int code = e4m3_code(v);
  return code == 0 ? r.zero.zero_code : code;
}

FP4SCOPE_HD constexpr bool divides(const sim::Recipe& r) {
  return r.data == sim::DataStep::divide || r.data == sim::DataStep::divide_by_s;
}

/// Whether a row has a kernel here, apart from its candidates.
constexpr bool is_fast(const sim::Recipe& r) {
  const bool data = divides(r) || r.data == sim::DataStep::reciprocal || r.data == sim::DataStep::reciprocal_twice ||
                    r.data == sim::DataStep::bf16_factor;
  const bool cast = r.cast == sim::ScaleCast::e4m3 || r.cast == sim::ScaleCast::e4m3_nan;
  const bool element = (r.element.deviations & ~(sim::no_largest | sim::nan_is_number)) == 0;
  const bool rounding = r.element.rounding_set == sim::converter_rows::rne;
  return std::string_view(r.format) == "nvfp4" && data && cast && element && rounding &&
         (r.bf16 & sim::in_bf16_quotient) == 0;
}
constexpr bool is_naive(const sim::Recipe& r) { return is_fast(r) && r.candidates == sim::Candidates::one; }
constexpr bool is_four_over_six(const sim::Recipe& r) {
  return is_fast(r) && r.candidates == sim::Candidates::four_over_six && !divides(r);
}

constexpr int code_count = 128;

/// What a scale's code makes of an element x: y / 2 = x * factor, or quotient(x, divisor, factor).
struct Scaling {
  float factor;
  float divisor;
};

/// The factor is NaN where every y is 0.
template <int row>
__device__ Scaling scaling(const sim::RecipeTensor& tensor, int code) {
  constexpr sim::Recipe r = sim::all_recipes[row];
  constexpr float some_amax = 1;  // that it is not 0 matters: of a block of zeros the factor is not asked
  const sim::DataFactor d = sim::data_factor(r, tensor, e4m3_value(code), some_amax);
  if (d.zeros) return {__uint_as_float(0x7FC00000), 0};
  return divides(r) ? Scaling{1 / (2 * d.factor), 2 * d.factor} : Scaling{0.5f * d.factor, 0};
}

/// Whether the scale and the codes of a block are what the code below makes of them. An amax that is not finite, or a
/// factor, fails; else y is within what rounding takes, and what isn't 0 stays so.
template <int row>
__device__ bool is_ordinary(const Elements& e, float v, float factor) {
  constexpr sim::Recipe r = sim::all_recipes[row];
  if (r.cast != sim::ScaleCast::e4m3 && !(v < 464)) return false;
  if (r.element.negative_zero == 0 && e.negative_tiny) return false;
  const bool limited = r.element.deviates(sim::no_largest) || r.candidates != sim::Candidates::one;
  return e.amax * factor < (limited ? 3.5f : infinity);
}

/// The block by the plain functions, as search::recipe_block. `n` is block_size, and kept from the compiler so that the
/// code stays small.
template <int row, class T>
__device__ __noinline__ void plain_block(const sim::RecipeTensor& tensor, const T* x, int n, std::uint8_t* scale,
                                         std::uint8_t* codes) {
  constexpr sim::Recipe r = sim::all_recipes[row];
  constexpr formats::BlockFormat format = formats::nvfp4;
  std::uint8_t own[block_size], second_codes[block_size];
  float values[block_size], first_values[block_size], second_values[block_size], errors[block_size];
  for (int i = 0; i < n; ++i) values[i] = widened(x, i);
  const float amax = search::recipe_amax(r, values, n);
  if constexpr (r.candidates == sim::Candidates::four_over_six) {
    const search::RecipeTask task = {&r, &format, tensor};
    const search::RecipeScratch room = {second_codes, first_values, second_values, errors};
    *scale = static_cast<std::uint8_t>(search::choose_four_over_six(task, amax, values, n, n, own, room).scale);
  } else {
    const int code = sim::recipe_scale_code(r, format, sim::block_value(r, tensor, amax));
    sim::recipe_codes(r, format, tensor, code, amax, values, n, r.element.rounding, own);
    *scale = static_cast<std::uint8_t>(code);
  }
  for (int i = 0; i < n; i += 2) codes[i / 2] = formats::pack_nibbles(own[i], own[i + 1]);
}

// ---- one scale a block ----

template <int row, class T>
__global__ void __launch_bounds__(256) naive_kernel(sim::RecipeTensor tensor, int n, std::int64_t count, const T* x,
                                                    std::uint8_t* scales, std::uint8_t* codes) {
  constexpr sim::Recipe r = sim::all_recipes[row];
  __shared__ Scaling scalings[code_count];
  for (int code = threadIdx.x; code < code_count; code += blockDim.x) scalings[code] = scaling<row>(tensor, code);
  __syncthreads();
  cudaGridDependencySynchronize();
  for_each_block(x, count, [&](std::int64_t b, const Words<T>& words) {
    const Elements e = elements(words);
    const float v = sim::block_value(r, tensor, e.amax);
    const int code = scale_code<row>(v);
    const Scaling at = scalings[code];
    if (!is_ordinary<row>(e, v, at.factor)) {
      return plain_block<row>(tensor, x + b * block_size, n, scales + b, codes + b * 8);
    }
    std::uint32_t rounded[block_size];
#pragma unroll
    for (int i = 0; i < block_size; ++i) {
      const float x_i = e.magnitude[i];
      const float h = divides(r) ? sim::quotient(x_i, at.divisor, at.factor) : x_i * at.factor;
      rounded[i] = __float_as_uint(rounded_code(h));
    }
    scales[b] = static_cast<std::uint8_t>(code);
    reinterpret_cast<uint2*>(codes)[b] = make_uint2(packed(rounded, e.sign), packed(rounded + 8, e.sign + 4));
  });
}

// ---- four over six ----
//
// A candidate's error is E = sum e_i^2 in binary32, e_i = fl(d_i - x_i), d_i = fl(fl((q_i s) a) / K), in the recipe's
// order. Its estimate is F = sum g_i^2 by fused multiply-adds, g_i = fma(q_i, T, -x_i), T = fl(s fl(a / K)). Let
// u = 2^-24, D_i = q_i s a / K and w_i = q_i T - x_i in real numbers, G = sum w_i^2. Then
//
//   d_i and q_i T are D_i within 2.01 u of it (q_i s has 6 bits), so |d_i - q_i T| <= 4.1 u D_i <= 25 u T,
//   E is sum (d_i - x_i)^2 within 19 u of it, F is G within 19 u of it, and
//   |E - F| <= 40 u G + sum 25 u T (2 |w_i| + 25 u T) <= 40 u G + 200 u T sqrt(G) + 1e4 u^2 T^2 <= 150 u (F + T^2)
//
// by sum |w_i| <= 4 sqrt(G) and 2 T sqrt(G) <= G + T^2. T is 0 or within 2^-51 .. 2^39: what underflows is below
// 2^-144. Where two estimates are nearer to each other than both bounds together, the recipe's own sums decide.

struct Estimate {
  float sum;
  float rounded[block_size];
};

/// p = the power of two at or below max(y, 1), at most 4: adding 2^22 p rounds y to steps of p / 2. y < 7.
__device__ float rounded_by_power(float y, float* p) {
  *p = __uint_as_float(__float_as_uint(fmaxf(y, 1)) & 0x7F800000);
  return __fmaf_rn(*p, 0x1p22f, y);
}

__device__ Estimate estimate_error(const float* x, float factor, float step) {
  Estimate e;
  e.sum = 0;
#pragma unroll
  for (int i = 0; i < block_size; ++i) {
    float p;
    e.rounded[i] = rounded_by_power(x[i] * factor, &p);
    const float g = __fmaf_rn(__fmaf_rn(p, -0x1p22f, e.rounded[i]), step, -x[i]);
    e.sum = __fmaf_rn(g, g, e.sum);
  }
  return e;
}

/// What a scale's code makes of an element: y = x * factor, value = q * step.
struct Candidate {
  float factor;
  float step;
};

/// The error in the recipe's own arithmetic; signs change none of it.
template <int row, class T>
__device__ float recipe_error(const sim::RecipeTensor& t, const T* x, int code, float factor) {
  const float s = e4m3_value(code);
  float errors[block_size];
#pragma unroll 4
  for (int i = 0; i < block_size; ++i) {
    const float magnitude = fabsf(widened(x, i));
    float p;
    const float sum = rounded_by_power(magnitude * factor, &p), q = __fmaf_rn(p, -0x1p22f, sum);
    const float e = q * s * t.amax / t.range - magnitude;
    errors[i] = e * e;
  }
  return search::sum_errors(sim::all_recipes[row].sum, errors, block_size, block_size);
}

/// A block that estimates leave open. It writes for itself, so that nothing has to outlive a call.
template <int row, class T>
__device__ __noinline__ void strict_block(const sim::RecipeTensor& t, const T* x, int six_code, float six_factor,
                                          int four_code, float four_factor, std::uint8_t* scale, std::uint8_t* codes) {
  const bool second = recipe_error<row>(t, x, four_code, four_factor) < recipe_error<row>(t, x, six_code, six_factor);
  const float factor = second ? four_factor : six_factor;
  *scale = static_cast<std::uint8_t>(second ? four_code : six_code);
  for (int i = 0; i < block_size; i += 2) {
    const auto code_of = [factor](float v) {
      const std::uint32_t code = __float_as_uint(rounded_code(0.5f * (fabsf(v) * factor))) & 7;
      return code | __float_as_uint(v) >> 31 << 3;
    };
    codes[i / 2] = formats::pack_nibbles(code_of(widened(x, i)), code_of(widened(x, i + 1)));
  }
}

template <int row, class T>
__global__ void __launch_bounds__(256)
    four_over_six_kernel(sim::RecipeTensor tensor, float amax_over_range, int n, std::int64_t count, const T* x,
                         std::uint8_t* scales, std::uint8_t* codes) {
  constexpr sim::Recipe r = sim::all_recipes[row];
  __shared__ Candidate candidates[code_count];
  for (int code = threadIdx.x; code < code_count; code += blockDim.x) {
    candidates[code] = {2 * scaling<row>(tensor, code).factor, e4m3_value(code) * amax_over_range};
  }
  __syncthreads();
  cudaGridDependencySynchronize();
  for_each_block(x, count, [&](std::int64_t b, const Words<T>& words) {
    const Elements e = elements(words);
    const float v = sim::block_value(r, tensor, e.amax);
    const int six_code = scale_code<row>(v), four_code = scale_code<row>(v * 1.5f);
    const Candidate six = candidates[six_code], four = candidates[four_code];
    if (!is_ordinary<row>(e, v, 0.5f * six.factor) || !is_ordinary<row>(e, v * 1.5f, 0.5f * four.factor)) {
      return plain_block<row>(tensor, x + b * block_size, n, scales + b, codes + b * 8);
    }
    const Estimate at_six = estimate_error(e.magnitude, six.factor, six.step);
    const Estimate at_four = estimate_error(e.magnitude, four.factor, four.step);
    const float margin = 0x1.4p-17f * (at_six.sum + at_four.sum + six.step * six.step + four.step * four.step);
    const float difference = at_four.sum - at_six.sum;
    if (!(fabsf(difference) > margin)) {
      return strict_block<row>(tensor, x + b * block_size, six_code, six.factor, four_code, four.factor, scales + b,
                               codes + b * 8);
    }
    const bool second = difference < 0;
    // Bits (149 + log2 p) 2^23 + y / (p / 2), where the code is y / (p / 2) + 2 log2 p: 298 more are in `rounded`.
    std::uint32_t rounded[block_size];
#pragma unroll
    for (int i = 0; i < block_size; ++i) {
      const std::uint32_t bits = __float_as_uint(second ? at_four.rounded[i] : at_six.rounded[i]);
      rounded[i] = (bits >> 22) + bits;
    }
    scales[b] = static_cast<std::uint8_t>(second ? four_code : six_code);
    reinterpret_cast<uint2*>(codes)[b] =
        make_uint2(packed_bytes(rounded, 298 - 256, e.sign), packed_bytes(rounded + 8, 298 - 256, e.sign + 4));
  });
}

// ---- which kernel ----

using Launch = void (*)(Stream&, const sim::RecipeTensor&, const Matrix&, std::uint8_t*, std::uint8_t*);

template <int row>
void launch(Stream& stream, const sim::RecipeTensor& tensor, const Matrix& matrix, std::uint8_t* scales,
            std::uint8_t* codes) {
  const std::int64_t count = matrix.rows * matrix.cols / block_size;
  if (count == 0) return;
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    using T = std::remove_cvref_t<decltype(*x)>;
    if constexpr (is_naive(sim::all_recipes[row])) {
      const auto kernel = naive_kernel<row, T>;
      launch_early(stream, kernel, filling_grid(stream, kernel, 256, count, 256), 256, tensor, block_size, count, x,
                   scales, codes);
    } else {
      const auto kernel = four_over_six_kernel<row, T>;
      launch_early(stream, kernel, filling_grid(stream, kernel, 256, count, 256), 256, tensor,
                   tensor.amax / tensor.range, block_size, count, x, scales, codes);
    }
  });
}

template <int row>
constexpr Launch launch_of() {
  constexpr sim::Recipe r = sim::all_recipes[row];
  if constexpr (is_naive(r) || is_four_over_six(r)) return launch<row>;
  return nullptr;
}

template <int... row>
Launch launch_of(std::ptrdiff_t wanted, std::integer_sequence<int, row...>) {
  constexpr Launch launches[] = {launch_of<row>()...};
  return launches[wanted];
}

/// Whether what the kernels make of these constants stays far from binary32's ends: a scale is 2^-9 .. 448, or 0.
bool is_moderate(const sim::RecipeTensor& t) {
  const auto within = [](float value, float low) { return value >= low && value <= 1 / low; };
  return within(t.encode, 0x1p-40f) && within(t.decode, 0x1p-40f) && within(t.amax, 0x1p-30f) && t.range <= 0x1p12f;
}

/// The kernel for a task, or null.
Launch find_launch(const search::RecipeTask& task, int block, int tile_rows, const Matrix& matrix,
                   const std::uint8_t* codes) {
  constexpr int rows = std::size(sim::all_recipes);
  const std::ptrdiff_t row = task.recipe - sim::all_recipes;
  if (row < 0 || row >= rows || task.format != formats::find_block_format(task.recipe->format)) return nullptr;
  if (block != block_size || tile_rows != 1 || matrix.cols % block_size != 0) return nullptr;
  if (!is_moderate(task.tensor) || !aligned(matrix.x, 16) || !aligned(codes, 8)) return nullptr;
  if (task.recipe->candidates != sim::Candidates::one && task.select != search::Select::mse) return nullptr;
  return launch_of(row, std::make_integer_sequence<int, rows>{});
}

}  // namespace

void quantize_recipe(Stream& stream, const search::RecipeTask& task, int block, int tile_rows, const Matrix& matrix,
                     std::uint8_t* scales, std::uint8_t* codes) {
  const Launch fast = find_launch(task, block, tile_rows, matrix, codes);
  if (!fast) return quantize_recipe_plain(stream, task, block, tile_rows, matrix, scales, codes);
  select(stream.device());
  fast(stream, task.tensor, matrix, scales, codes);
}

}  // namespace fp4scope::cuda
