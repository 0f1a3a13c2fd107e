// Random Hadamard transforms, each point the sum in index order that sim/hadamard.hpp defines.
//
// Terms t_i = x_i s_i, in the float32 arithmetics fl(x_i / sqrt(n)) s_i, are made once a run: a sign changes no
// rounding. Points j .. j + 3, j a multiple of four, then share their sums' signs but for the lowest two bits of i:
//
//   H_i,j+c = (-1)^popcount(i & j) (-1)^popcount(i & 3 & c)
//
// so a thread takes four points, gives each t_i the first sign, and adds it with the second, which is a constant once
// the loop is unrolled four times. Runs of 2, 4, 8 and 16 stay in a thread's registers, where all signs are constants.
// Which NaN a sum gives is the processor's own.
#include <cstring>
#include <type_traits>

#include "cuda/runtime.cuh"
#include "sim/hadamard.hpp"

namespace fp4scope::cuda {

namespace {

using sim::HadamardArithmetic;

constexpr int threads = 256;
constexpr int tile = 4 * threads;  ///< elements of a thread block: whole runs

struct Rotation {
  HadamardArithmetic arithmetic;
  bool back;
  int n;
  double scale;
  std::int64_t rows, cols, padded;
};

/// What sums are in.
template <bool exact>
using Sum = std::conditional_t<exact, double, float>;

/// x_i without its sign of s.
template <bool exact>
__device__ Sum<exact> term_of(const Rotation& r, float x) {
  if constexpr (exact) return x;
  else return __fmul_rn(x, static_cast<float>(r.scale));
}

/// The sum, rounded as the arithmetic says.
template <bool exact>
__device__ float rounded(const Rotation& r, Sum<exact> sum) {
  if constexpr (exact) return static_cast<float>(sum * r.scale);
  else if (r.arithmetic == HadamardArithmetic::float32_to_bf16) return __bfloat162float(__float2bfloat16_rn(sum));
  else if (r.arithmetic == HadamardArithmetic::float32_to_fp16) return __half2float(__float2half_rn(sum));
  else return sum;
}

/// The sign of the way back, by a difference, so that +0 stays.
__device__ float with_sign_back(const Rotation& r, std::int8_t sign, float sum) {
  return r.back && sign < 0 ? 0 - sum : sum;
}

// ---- runs of at most 16, one a thread ----

/// n elements, zeros from `left` on, sixteen bytes at a time where `whole`.
template <int n, class T>
__device__ void load_run(const T* x, bool whole, std::int64_t left, float* out) {
  if constexpr (n * sizeof(T) % 16 == 0) {
    if (whole && left >= n) {
      T values[n];
      uint4 words[n * sizeof(T) / 16];
#pragma unroll
      for (unsigned k = 0; k < n * sizeof(T) / 16; ++k) words[k] = __ldcs(reinterpret_cast<const uint4*>(x) + k);
      memcpy(values, words, sizeof values);
#pragma unroll
      for (int k = 0; k < n; ++k) out[k] = widened(values, k);
      return;
    }
  }
#pragma unroll
  for (int k = 0; k < n; ++k) out[k] = k < left ? widened(x, k) : 0.0f;
}

template <int n>
__device__ void store_run(const float* y, bool whole, float* out) {
  if (n % 4 == 0 && whole) {
#pragma unroll
    for (int k = 0; k < n; k += 4) *reinterpret_cast<float4*>(out + k) = make_float4(y[k], y[k + 1], y[k + 2], y[k + 3]);
    return;
  }
#pragma unroll
  for (int k = 0; k < n; ++k) out[k] = y[k];
}

template <int n, bool exact, class T>
__global__ void small_kernel(Rotation r, const std::int8_t* signs, bool whole_in, bool whole_out, const T* x,
                             float* out) {
  __shared__ std::int8_t sign[n];
  if (threadIdx.x < n) sign[threadIdx.x] = signs[threadIdx.x];
  __syncthreads();
  const std::int64_t per_row = r.padded / n, stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < r.rows * per_row;
       i += stride) {
    const std::int64_t row = i / per_row, col = i % per_row * n;
    float values[n];
    load_run<n>(x + row * r.cols + col, whole_in, r.cols - col, values);
    Sum<exact> term[n];
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const Sum<exact> t = term_of<exact>(r, values[k]);
      term[k] = !r.back && sign[k] < 0 ? -t : t;
    }
#pragma unroll
    for (int j = 0; j < n; ++j) {
      Sum<exact> sum = 0;
#pragma unroll
      for (int k = 0; k < n; ++k) {
        sum += __popc(static_cast<unsigned>(k & j)) % 2 == 0 ? term[k] : -term[k];
      }
      values[j] = with_sign_back(r, sign[j], rounded<exact>(r, sum));
    }
    store_run<n>(values, whole_out, out + row * r.padded + col);
  }
}

// ---- longer runs, many threads each ----

__device__ float flipped(float x, std::uint32_t sign_bit) { return __uint_as_float(__float_as_uint(x) ^ sign_bit); }
__device__ double flipped(double x, std::uint32_t sign_bit) {
  return __hiloint2double(__double2hiint(x) ^ static_cast<int>(sign_bit), __double2loint(x));
}

/// The padded matrix, tile after tile.
template <bool exact, class T>
__global__ void long_kernel(Rotation r, const std::int8_t* signs, const T* x, float* out) {
  __shared__ alignas(16) Sum<exact> term[tile];
  const std::int64_t count = r.rows * r.padded;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * tile; first < count;
       first += static_cast<std::int64_t>(gridDim.x) * tile) {
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < tile; e += threads) {
      const std::int64_t row = (first + e) / r.padded, col = (first + e) % r.padded;
      const float value = row < r.rows && col < r.cols ? widened(x, row * r.cols + col) : 0.0f;
      const Sum<exact> t = term_of<exact>(r, value);
      term[e] = !r.back && signs[e % r.n] < 0 ? -t : t;
    }
    __syncthreads();
    const int e = 4 * static_cast<int>(threadIdx.x), j = e % r.n;
    const Sum<exact>* const run = term + (e - j);
    Sum<exact> sum[4] = {};
    for (int i = 0; i < r.n; i += 4) {
      const std::uint32_t outer = static_cast<std::uint32_t>(__popc(static_cast<unsigned>(i & j))) << 31;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Sum<exact> t = flipped(run[i + k], outer);  // j has no bit of k
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[c] += __popc(static_cast<unsigned>(k & c)) % 2 == 0 ? t : -t;
      }
    }
    for (int c = 0; c < 4 && first + e + c < count; ++c) {
      out[first + e + c] = with_sign_back(r, signs[j + c], rounded<exact>(r, sum[c]));
    }
  }
}

/// Enough thread blocks to fill the device.
unsigned filling_grid(const Stream& stream, std::int64_t n, int a_block) {
  const int most = devices()[static_cast<std::size_t>(stream.device())].processors * 16;
  return std::max(1u, std::min(grid_of(n, a_block), static_cast<unsigned>(most)));
}

template <bool exact, class T>
void launch(Stream& stream, const Rotation& r, const std::int8_t* signs, const T* x, float* out) {
  const auto start = [&](const auto kernel) {
    const auto from = reinterpret_cast<std::uintptr_t>(x), to = reinterpret_cast<std::uintptr_t>(out);
    const bool whole_in = from % 16 == 0 && r.cols * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
    kernel<<<filling_grid(stream, r.rows * r.padded / r.n, threads), threads, 0, handle(stream)>>>(
        r, signs, whole_in, to % 16 == 0, x, out);
  };
  switch (r.n) {
    case 2: return start(small_kernel<2, exact, T>);
    case 4: return start(small_kernel<4, exact, T>);
    case 8: return start(small_kernel<8, exact, T>);
    case 16: return start(small_kernel<16, exact, T>);
    default:
      long_kernel<exact>
          <<<filling_grid(stream, r.rows * r.padded, tile), threads, 0, handle(stream)>>>(r, signs, x, out);
  }
}

}  // namespace

void rotate(Stream& stream, int n, const std::int8_t* signs, HadamardArithmetic arithmetic, bool back,
            const Matrix& matrix, float* out) {
  if (matrix.rows * matrix.cols == 0) return;
  select(stream.device());
  const std::int64_t padded = (matrix.cols + n - 1) / n * n;
  const Rotation r = {arithmetic, back, n, sim::hadamard_scale(n), matrix.rows, matrix.cols, padded};
  const Scratch room(stream, n);
  stream.upload(room.as<std::int8_t>(), signs, n);
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    if (arithmetic == HadamardArithmetic::exact) launch<true>(stream, r, room.as<std::int8_t>(), x, out);
    else launch<false>(stream, r, room.as<std::int8_t>(), x, out);
  });
  check_launch("rotate");
}

}  // namespace fp4scope::cuda
