// Scales of least squared error and the codes, one thread a block, in three stages: a filter in half precision
// (sse_pairs.cuh), a filter in binary32 and the exact comparison (sse_decide.cuh). What the first leaves waits in a list
// of its warp until there are 32, so that each stage runs with all lanes.
#include "cuda/fast.hpp"

#include "cuda/runtime.cuh"
#include "cuda/sse_pairs.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256, warps = threads / 32;
constexpr unsigned all_lanes = 0xFFFFFFFF;

struct Output {
  std::uint8_t* scales;
  std::uint8_t* packed;
};

__device__ void start_space(search::SearchSpace& shared, const search::SearchSpace& space, const float* tensor_scale) {
  static_assert(sizeof(space) % 4 == 0);
  constexpr int words = static_cast<int>(sizeof(space) / 4);
  for (int i = static_cast<int>(threadIdx.x); i < words; i += threads) {
    reinterpret_cast<std::uint32_t*>(&shared)[i] = reinterpret_cast<const std::uint32_t*>(&space)[i];
  }
  __syncthreads();
  if (threadIdx.x == 0 && tensor_scale != nullptr) shared.tensor_scale = *tensor_scale;
  __syncthreads();
}

// ---- all blocks by the filter in binary32 ----

template <class Levels, class T, int n>
__global__ void __launch_bounds__(threads, 3)
    float_kernel(const __grid_constant__ search::SearchSpace host_space, const T* x, std::int64_t blocks, Output out,
                 const float* tensor_scale) {
  __shared__ search::SearchSpace space;
  start_space(space, host_space, tensor_scale);
  const FloatFilter filter = make_float_filter(space, n);
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; b < blocks; b += stride) {
    const T* const from = x + b * n;
    float values[n];
    load_floats(from, values);
    const float a = amax_of(values) * filter.gain, q = a * filter.to_least;
    Found found = {0, -1, false};
    if (in_reach(q)) {
      float m[n];
#pragma unroll
      for (int i = 0; i < n; ++i) m[i] = fabsf(values[i]) * magnitude_unit;
      found = filtered_code<Levels>(filter, m, a, all_candidates(filter, a, least_e4m3_code(q)));
    }
    const int code = found.decided ? found.code : exact_code<T, n>(space, from, found);
    out.scales[b] = static_cast<std::uint8_t>(code);
    store_codes<Levels>(space, values, code, out.packed + b * (n / 2));
  }
}

// ---- pairs first ----

struct Waiting {
  std::uint32_t block[64];
  std::uint32_t left[64];  ///< left_candidates' bits, 0 for all
};

template <int n>
struct Shared {
  PairTables<n / 16> tables;
  search::SearchSpace space;
  Waiting waiting[warps];
};

template <int n, class T>
__device__ inline void load_words(const T* x, std::int64_t b, uint4 (&words)[n / 8]) {
#pragma unroll
  for (int i = 0; i < n / 8; ++i) words[i] = __ldg(reinterpret_cast<const uint4*>(x + b * n) + i);
}

/// Where half precision doesn't serve.
template <class T, int n>
__device__ __noinline__ void store_exactly(const search::SearchSpace& space, const T* from, int code,
                                           std::uint8_t* packed) {
  float x[n];
  load_floats(from, x);
  store_codes<E2m1Levels>(space, x, code, packed);
}

template <class T, int n>
__device__ __forceinline__ void decide_waiting(const Shared<n>& shared, const FloatFilter& filter, const T* x,
                                               std::uint32_t b, std::uint32_t left, const Output& out) {
  const T* const from = x + static_cast<std::int64_t>(b) * n;
  std::uint8_t* const packed = out.packed + static_cast<std::int64_t>(b) * (n / 2);
  float m[n];
  load_floats(from, m);
#pragma unroll
  for (int i = 0; i < n; ++i) m[i] = fabsf(m[i]) * magnitude_unit;
  const float a = amax_of(m) * (1 / magnitude_unit) * filter.gain, q = a * filter.to_least;
  Found found = {0, -1, false};
  if (in_reach(q)) {
    const int w = least_e4m3_code(q);
    const Candidates candidates =
        left == 0 ? all_candidates(filter, a, w) : left_candidates(filter, a, w, n / 16, left);
    found = filtered_code<E2m1Levels>(filter, m, a, candidates);
  }
  const int code = found.decided ? found.code : exact_code<T, n>(shared.space, from, found);
  out.scales[b] = static_cast<std::uint8_t>(code);
  const int exponent = (code >> 3) + shared.tables.exponent;
  if (code < 8 || !(a < 7.9f * e4m3_value(code)) || !can_scale(exponent, from)) {
    store_exactly<T, n>(shared.space, from, code, packed);
    return;
  }
  uint4 words[n / 8];
  load_words<n>(x, b, words);
  HalfPair pairs[n / 2];
  magnitudes(words, pairs);
  scale(pairs, exponent, from);
  uint2 codes[n / 16];
  encode(shared.tables, code, code, pairs, words, codes, from);
#pragma unroll
  for (int i = 0; i < n / 16; ++i) reinterpret_cast<uint2*>(packed)[i] = codes[i];
}

/// The code, or -1 where `left` says what is left.
template <class T, int n>
__device__ inline int settle(const PairTables<n / 16>& tables, const FloatFilter& filter, const uint4 (&words)[n / 8],
                             uint2 (&codes)[n / 16], std::uint32_t& left) {
  constexpr int below = n / 16, pairs = n / 2;
  const T* const type = nullptr;
  HalfPair x[pairs];
  const float a = float_of(magnitudes(words, x), type) * filter.gain;
  const int found = static_cast<int>((__float_as_uint(a * filter.to_least) + 0xFFFFF) >> 20) - 960;
  const int exponent = (found >> 3) + tables.exponent;
  const bool usual = found >= pair_least && found <= pair_last && can_scale(exponent, type);
  const int w = usual ? found : 64;
  scale(x, (w >> 3) + tables.exponent, type);
  const float unit = __int_as_float((127 + 7 - (w >> 3)) << 23);
  left = candidates_left<pairs, below>(tables, w & 7, a * unit, x);
  const int code = w - below - 1 + (31 - __clz(static_cast<int>(left)));
  const bool settled = usual && (left & (left - 1)) == 0 && code >= w;
  if (!usual) left = 0;
  encode(tables, w, settled ? code : w, x, words, codes, type);
  return settled ? code : -1;
}

/// A warp's lanes that wait, behind the `count` that do already. Returns how many.
__device__ inline int append(Waiting& waiting, int count, int lane, bool waits, std::uint32_t block,
                             std::uint32_t left) {
  const unsigned which = __ballot_sync(all_lanes, waits);
  if (waits) {
    const int at = count + __popc(which & ((1u << lane) - 1));
    waiting.block[at] = block;
    waiting.left[at] = left;
  }
  return __popc(which);
}

template <class T, int n>
__global__ void __launch_bounds__(threads, 3)
    pair_kernel(const __grid_constant__ search::SearchSpace host_space, const T* x, std::int64_t blocks, Output out,
                const float* tensor_scale) {
  __shared__ Shared<n> shared;
  start_space(shared.space, host_space, tensor_scale);
  make_tables(shared.tables, shared.space.tensor_scale, search::undersize_constant(shared.space.nesting, n));
  const FloatFilter filter = make_float_filter(shared.space, n);
  const int lane = static_cast<int>(threadIdx.x % 32);
  Waiting& waiting = shared.waiting[threadIdx.x / 32];
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  int count = 0;
  std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * threads + (threadIdx.x - lane);
  while (first < blocks || count > 0) {
    if (first < blocks) {
      const bool inside = first + lane < blocks;
      const std::int64_t b = inside ? first + lane : blocks - 1;
      uint4 words[n / 8];
      load_words<n>(x, b, words);
      uint2 codes[n / 16];
      std::uint32_t left = 0;
      const int code = settle<T, n>(shared.tables, filter, words, codes, left);
      if (inside && code >= 0) {
        out.scales[b] = static_cast<std::uint8_t>(code);
#pragma unroll
        for (int i = 0; i < n / 16; ++i) reinterpret_cast<uint2*>(out.packed + b * (n / 2))[i] = codes[i];
      }
      count += append(waiting, count, lane, inside && code < 0, static_cast<std::uint32_t>(b), left);
      first += stride;
    }
    if (count < 32 && first < blocks) continue;
    const int from = max(count - 32, 0);
    __syncwarp();
    if (from + lane < count) {
      decide_waiting<T, n>(shared, filter, x, waiting.block[from + lane], waiting.left[from + lane], out);
    }
    __syncwarp();
    count = from;
  }
}

/// As many blocks of threads as the device holds at a time, and no more than there is work for.
template <class Kernel>
unsigned resident(int device, Kernel kernel, std::int64_t blocks) {
  int per_processor = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, threads, 0), "occupancy");
  const std::int64_t most = static_cast<std::int64_t>(std::max(per_processor, 1)) *
                            devices()[static_cast<std::size_t>(device)].processors;
  return static_cast<unsigned>(std::min<std::int64_t>(most, (blocks + threads - 1) / threads));
}

template <class Levels, class T, int n>
void launch(Stream& stream, const search::SearchSpace& space, const T* x, std::int64_t blocks, const Output& out,
            const float* tensor_scale) {
  constexpr bool in_pairs = sizeof(T) == 2 && Levels::top == 6;
  const auto kernel = [] {
    if constexpr (in_pairs) return pair_kernel<T, n>;
    else return float_kernel<Levels, T, n>;
  }();
  kernel<<<resident(stream.device(), kernel, blocks), threads, 0, handle(stream)>>>(space, x, blocks, out,
                                                                                    tensor_scale);
  check_launch("quantize by least squared error");
}

bool aligned(const void* p, std::uintptr_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

/// Whether a format's levels are those of an element at a step of 1, with scales E4M3.
bool is(const formats::BlockFormat& format, const formats::Format& element) {
  const sim::Grid grid = sim::make_grid(format), other = sim::make_grid(element);
  return !format.selects() && formats::same_format(format.scale, formats::e4m3) && grid.levels == other.levels &&
         std::equal(grid.level, grid.level + 8, other.level) &&
         format.element.twos_complement == element.twos_complement && format.element.bits == element.bits;
}

}  // namespace

bool quantize_sse(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                  std::uint8_t* packed, const float* tensor_scale) {
  if (task.method->kind != search::MethodKind::sse || task.tile_rows != 1) return false;
  if (task.block != 16 && task.block != 32) return false;
  const bool e2m1 = is(*task.format, formats::e2m1), int4 = is(*task.format, formats::int4);
  const std::int64_t blocks = matrix.rows * matrix.cols / task.block;
  if ((!e2m1 && !int4) || matrix.cols % task.block != 0 || blocks >= 0xFFFFFFFF) return false;
  if (!aligned(matrix.x, 16) || !aligned(packed, 8)) return false;
  if (blocks == 0) return true;
  select(stream.device());
  const search::SearchSpace space = search::make_space(*task.format, task.tensor_scale, task.method->rule);
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    using T = std::remove_cvref_t<decltype(*x)>;
    const auto with_levels = [&](auto levels) {
      using Levels = decltype(levels);
      if (task.block == 16) return launch<Levels, T, 16>(stream, space, x, blocks, {scales, packed}, tensor_scale);
      launch<Levels, T, 32>(stream, space, x, blocks, {scales, packed}, tensor_scale);
    };
    e2m1 ? with_levels(E2m1Levels()) : with_levels(Int4Levels());
  });
  return true;
}

}  // namespace fp4scope::cuda
