// Random Hadamard transforms, each point the sum in index order that sim/hadamard.hpp defines.
//
// Terms t_i = x_i s_i, in the float32 arithmetics fl(x_i / sqrt(n)) s_i, are the same for all points of a run: a sign
// changes no rounding. Where 2^m divides j and c < 2^m, the points j + c share signs but for the lowest m bits of i:
//
//   H_i,j+c = (-1)^popcount(i & j) (-1)^popcount(i & c)
//
// so a thread takes 2^m points, gives each t_i the first sign once, and adds it with the second, a constant where the
// loop over i is unrolled 2^m times. Runs of up to 16 live in registers, m = 2, each of the threads of a run making
// all its terms; longer ones in shared memory, m = 3.
// Which NaN a sum gives is the processor's own.
#include <cstring>
#include <type_traits>

#include "cuda/launch.cuh"
#include "sim/hadamard.hpp"

namespace fp4scope::cuda {

namespace {

using sim::HadamardArithmetic;

constexpr int threads = 256;

struct Rotation {
  HadamardArithmetic arithmetic;
  bool back;
  int n;
  double scale;
  std::int64_t rows, cols, padded;
  bool whole_in, whole_out;  ///< whether runs can be read, and four points written, in words of 16 bytes
  std::uint32_t minus[sim::max_hadamard_size / 32];  ///< bit i % 32 of word i / 32: s_i is -1

  __device__ bool is_minus(int i) const { return (minus[i / 32] >> i % 32 & 1) != 0; }

  /// Where element `at` of the padded matrix lies, or -1 in the padding.
  __device__ std::int64_t find(std::int64_t at) const {
    if (cols == padded) return at;
    const std::int64_t row = quotient(at, padded), col = at - row * padded;
    return col < cols ? row * cols + col : -1;
  }
};

/// What sums are in.
template <bool exact>
using Sum = std::conditional_t<exact, double, float>;

/// The sum, rounded as the arithmetic says.
template <bool exact>
__device__ float rounded(const Rotation& r, Sum<exact> sum) {
  if constexpr (exact) return static_cast<float>(sum * r.scale);
  else if (r.arithmetic == HadamardArithmetic::float32_to_bf16) return __bfloat162float(__float2bfloat16_rn(sum));
  else if (r.arithmetic == HadamardArithmetic::float32_to_fp16) return __half2float(__float2half_rn(sum));
  else return sum;
}

/// The sign of the way back, by a difference, so that +0 stays.
__device__ float with_sign_back(const Rotation& r, bool negative, float sum) {
  return r.back && negative ? 0 - sum : sum;
}

// ---- runs of up to 16 ----

/// The n elements of a run; in the padding zeros.
template <int n, class T>
__device__ void load_run(const Rotation& r, const T* x, std::int64_t at, float* out) {
  if constexpr (n * sizeof(T) % 16 == 0) {
    if (r.whole_in) {
      T values[n];
      uint4 words[n * sizeof(T) / 16];
#pragma unroll
      for (unsigned k = 0; k < n * sizeof(T) / 16; ++k) words[k] = reinterpret_cast<const uint4*>(x + at)[k];
      memcpy(values, words, sizeof values);
#pragma unroll
      for (int k = 0; k < n; ++k) out[k] = widened(values, k);
      return;
    }
  }
#pragma unroll
  for (int k = 0; k < n; ++k) {
    const std::int64_t from = r.find(at + k);
    out[k] = from >= 0 ? widened(x, from) : 0.0f;
  }
}

template <int n, bool exact, class T>
__global__ void short_kernel(Rotation r, const T* x, float* out) {
  constexpr int points = n < 4 ? n : 4, per_run = n / points;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;  // a multiple of per_run: j stays
  const int j = static_cast<int>(first % per_run) * points;
  float factor[n];  // of x_i in t_i, with H_ij
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const bool minus = (__popc(static_cast<unsigned>(i & j)) % 2 != 0) != (!r.back && r.is_minus(i));
    const float scale = exact ? 1.0f : static_cast<float>(r.scale);
    factor[i] = minus ? -scale : scale;
  }
  bool negative[points];
  for (int c = 0; c < points; ++c) negative[c] = r.is_minus(j + c);
  for (std::int64_t p = first; p < r.rows * r.padded / points; p += stride) {
    float term[n], y[points];
    load_run<n>(r, x, p / per_run * n, term);
#pragma unroll
    for (int i = 0; i < n; ++i) term[i] = __fmul_rn(term[i], factor[i]);
#pragma unroll
    for (int c = 0; c < points; ++c) {
      Sum<exact> sum = 0;
#pragma unroll
      for (int i = 0; i < n; ++i) sum += __popc(static_cast<unsigned>(i & c)) % 2 == 0 ? term[i] : -term[i];
      y[c] = with_sign_back(r, negative[c], rounded<exact>(r, sum));
    }
    if (points == 4 && r.whole_out) {
      reinterpret_cast<float4*>(out)[p] = make_float4(y[0], y[1], y[points - 2], y[points - 1]);
    } else {
#pragma unroll
      for (int c = 0; c < points; ++c) out[p * points + c] = y[c];
    }
  }
}

// ---- longer runs ----

constexpr int long_points = 8;
constexpr int tile = long_points * threads;  ///< elements of a thread block: whole runs

__device__ float flipped(float x, std::uint32_t sign_bit) { return __uint_as_float(__float_as_uint(x) ^ sign_bit); }
__device__ double flipped(double x, std::uint32_t sign_bit) {
  return __hiloint2double(__double2hiint(x) ^ static_cast<int>(sign_bit), __double2loint(x));
}

/// The padded matrix, tile after tile. Runs lie 16 bytes more apart than they are long, so that threads of a warp that
/// read different runs read different banks.
template <bool exact, class T>
__global__ void long_kernel(Rotation r, const T* x, float* out) {
  constexpr int apart = 16 / sizeof(Sum<exact>);
  __shared__ alignas(16) Sum<exact> term[tile + tile / 32 * apart];
  const int log_n = __ffs(r.n) - 1;
  const std::int64_t count = r.rows * r.padded;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * tile; first < count;
       first += static_cast<std::int64_t>(gridDim.x) * tile) {
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < tile; e += threads) {
      const std::int64_t from = first + e < count ? r.find(first + e) : -1;
      const float value = from >= 0 ? widened(x, from) : 0.0f;
      const float t = exact ? value : __fmul_rn(value, static_cast<float>(r.scale));
      term[e + (e >> log_n) * apart] = !r.back && r.is_minus(e & (r.n - 1)) ? -t : t;
    }
    __syncthreads();
    const int e = long_points * static_cast<int>(threadIdx.x), j = e & (r.n - 1);
    const Sum<exact>* const run = term + (e - j) + (e >> log_n) * apart;
    Sum<exact> sum[long_points] = {};
    for (int i = 0; i < r.n; i += long_points) {
      const std::uint32_t outer = static_cast<std::uint32_t>(__popc(static_cast<unsigned>(i & j))) << 31;
#pragma unroll
      for (int k = 0; k < long_points; ++k) {
        const Sum<exact> t = flipped(run[i + k], outer);  // j has no bit of k
#pragma unroll
        for (int c = 0; c < long_points; ++c) sum[c] += __popc(static_cast<unsigned>(k & c)) % 2 == 0 ? t : -t;
      }
    }
#pragma unroll
    for (int c = 0; c < long_points; ++c) {
      const float y = with_sign_back(r, r.is_minus(j + c), rounded<exact>(r, sum[c]));
      if (first + e + c < count) out[first + e + c] = y;
    }
  }
}

template <bool exact, class T>
void launch(Stream& stream, const Rotation& r, const T* x, float* out) {
  const std::int64_t count = r.rows * r.padded;
  const auto start = [&](const auto kernel, int a_block) {
    const unsigned grid = filling_grid(stream, kernel, threads, count, a_block);
    kernel<<<grid, threads, 0, handle(stream)>>>(r, x, out);
  };
  switch (r.n) {
    case 2: return start(short_kernel<2, exact, T>, 2 * threads);
    case 4: return start(short_kernel<4, exact, T>, 4 * threads);
    case 8: return start(short_kernel<8, exact, T>, 4 * threads);
    case 16: return start(short_kernel<16, exact, T>, 4 * threads);
    default: return start(long_kernel<exact, T>, tile);
  }
}

}  // namespace

void rotate(Stream& stream, int n, const std::int8_t* signs, HadamardArithmetic arithmetic, bool back,
            const Matrix& matrix, float* out) {
  if (matrix.rows * matrix.cols == 0) return;
  select(stream.device());
  const std::int64_t padded = (matrix.cols + n - 1) / n * n;
  const bool whole_in = matrix.cols == padded && aligned(matrix.x, 16);
  Rotation r = {arithmetic,  back,   n,        sim::hadamard_scale(n), matrix.rows,
                matrix.cols, padded, whole_in, aligned(out, 16),       {}};
  for (int i = 0; i < n; ++i) r.minus[i / 32] |= (signs[i] < 0 ? 1u : 0u) << i % 32;
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    if (arithmetic == HadamardArithmetic::exact) launch<true>(stream, r, x, out);
    else launch<false>(stream, r, x, out);
  });
  check_launch("rotate");
}

}  // namespace fp4scope::cuda
