// Scales of least squared error and the codes, one thread a block, in three stages: a filter in half precision
// (sse_pairs.cuh), a filter in binary32 and the exact comparison (sse_decide.cuh). What the first leaves waits in a
// list of its warp; when all of a block of threads are through, its warps share what waits, 32 blocks at a time, so
// that each stage runs with all lanes.
#include "cuda/fast.hpp"
#include "cuda/launch.cuh"
#include "cuda/sse_pairs.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256, warps = threads / 32;
constexpr unsigned all_lanes = 0xFFFFFFFF;

struct Output {
  std::uint8_t* scales;
  std::uint8_t* packed;
};

/// While the kernel before still runs, unless that is what gives the tensor scale.
__device__ void start_space(search::SearchSpace& shared, const search::SearchSpace& space, const float* tensor_scale) {
  static_assert(sizeof(space) % 8 == 0);
  constexpr int words = static_cast<int>(sizeof(space) / 8);
  const uint2* from = reinterpret_cast<const uint2*>(&space);
  asm("" : "+l"(from));  // loads by address: a constant indexed by lanes is read one lane at a time
  for (int i = static_cast<int>(threadIdx.x); i < words; i += threads) reinterpret_cast<uint2*>(&shared)[i] = from[i];
  __syncthreads();
  if (tensor_scale == nullptr) return;
  cudaGridDependencySynchronize();
  if (threadIdx.x == 0) shared.tensor_scale = *tensor_scale;
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
  cudaGridDependencySynchronize();
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; b < blocks; b += stride) {
    const T* const from = x + b * n;
    float values[n];
    load_floats(from, values);
    const float a = amax_of(values) * filter.gain, q = a * filter.to_least;
    Found found = {0, -1, false};
    Candidates candidates = {0, 0, 0};
    if (in_reach(q)) {
      float m[n];
#pragma unroll
      for (int i = 0; i < n; ++i) m[i] = fabsf(values[i]) * magnitude_unit;
      candidates = all_candidates(filter, a, least_e4m3_code(q));
      found = filtered_code<Levels>(filter, m, a, candidates);
    }
    const int code = found.decided ? found.code : exact_code<Levels, T, n>(space, from, found, candidates);
    out.scales[b] = static_cast<std::uint8_t>(code);
    store_codes<Levels>(space, values, code, out.packed + b * (n / 2));
  }
}

// ---- pairs first ----

/// A warp's blocks that wait: with two candidates left, nine of ten, from the front, and others from the back, so that
/// lanes that work together have as many candidates.
struct Waiting {
  static constexpr int slots = 128;
  std::uint32_t block[slots];
  std::uint32_t left[slots];  ///< left_candidates' bits, 0 for all

  __device__ static int from_back(int i) { return slots - 1 - i; }

  /// The lanes that wait.
  __device__ void append(int& twos, int& others, bool waits, std::uint32_t b, std::uint32_t left_of_b) {
    const bool two = __popc(left_of_b) == 2;
    const unsigned all = __ballot_sync(all_lanes, waits), front = __ballot_sync(all_lanes, waits && two);
    if (waits) {
      const int before = __popc((two ? front : all ^ front) & ((1u << threadIdx.x % 32) - 1));
      const int slot = two ? twos + before : from_back(others + before);
      block[slot] = b;
      left[slot] = left_of_b;
    }
    twos += __popc(front);
    others += __popc(all ^ front);
  }
};

template <int n>
struct Shared {
  PairTables<n / 16> tables;
  FloatFilter filter;
  Waiting waiting[warps];
  int lengths[2 * warps];  ///< of the backs, then of the fronts, when all blocks are behind
  int taken;
};

template <int n, class T>
__device__ inline void load_words(const T* x, std::uint32_t b, uint4 (&words)[n / 8]) {
  const uint4* const from = reinterpret_cast<const uint4*>(x + static_cast<std::int64_t>(b) * n);
#pragma unroll
  for (int i = 0; i < n / 8; ++i) {
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                 : "l"(from + i));
  }
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
__device__ __forceinline__ void decide_waiting(const search::SearchSpace& space, const PairTables<n / 16>& tables,
                                               const FloatFilter& filter, const T* x, std::uint32_t b,
                                               std::uint32_t left, const Output& out) {
  const T* const from = x + static_cast<std::int64_t>(b) * n;
  std::uint8_t* const packed = out.packed + static_cast<std::int64_t>(b) * (n / 2);
  float m[n];
  load_floats(from, m);
#pragma unroll
  for (int i = 0; i < n; ++i) m[i] = fabsf(m[i]) * magnitude_unit;
  const float a = amax_of(m) * (1 / magnitude_unit) * filter.gain, q = a * filter.to_least;
  Found found = {0, -1, false};
  Candidates candidates = {0, 0, 0};
  if (in_reach(q)) {
    const int w = least_e4m3_code(q);
    candidates = left == 0 ? all_candidates(filter, a, w) : left_candidates(filter, a, w, n / 16, left);
    found = filtered_code<E2m1Levels>(filter, m, a, candidates);
  }
  const int code = found.decided ? found.code : exact_code<E2m1Levels, T, n>(space, from, found, candidates);
  out.scales[b] = static_cast<std::uint8_t>(code);
  const int exponent = (code >> 3) + tables.exponent;
  if (code < 8 || !(a < 7.9f * e4m3_value(code)) || !can_scale(exponent, from)) {
    store_exactly<T, n>(space, from, code, packed);
    return;
  }
  uint4 words[n / 8];
  load_words<n>(x, b, words);
  HalfPair pairs[n / 2];
  magnitudes(words, pairs);
  scale(pairs, exponent, from);
  uint2 codes[n / 16];
  encode<true>(tables, code, code, pairs, words, codes, from);
#pragma unroll
  for (int i = 0; i < n / 16; ++i) reinterpret_cast<uint2*>(packed)[i] = codes[i];
}

/// What the pairs say of a block.
struct Settled {
  int code;            ///< -1: not settled
  int w;               ///< the code whose E the x' have
  std::uint32_t left;  ///< left_candidates' bits, 0 for all
};

/// x: from a block's words its x'.
template <class T, int n>
__device__ inline Settled settle(const PairTables<n / 16>& tables, const FloatFilter& filter,
                                 const uint4 (&words)[n / 8], HalfPair (&x)[n / 2]) {
  constexpr int below = n / 16, pairs = n / 2;
  const T* const type = nullptr;
  const float a = float_of(magnitudes(words, x), type) * filter.gain;
  const int found = static_cast<int>((__float_as_uint(a * filter.to_least) + 0xFFFFF) >> 20) - 960;
  const int exponent = (found >> 3) + tables.exponent;
  const bool usual = found >= pair_least && found <= pair_last && can_scale(exponent, type);
  const int w = usual ? found : 64;
  scale(x, (w >> 3) + tables.exponent, type);
  const float unit = __int_as_float((127 + 7 - (w >> 3)) << 23);
  const std::uint32_t left = candidates_left<pairs, below>(tables, w & 7, a * unit, x);
  const int code = w - below - 1 + (31 - __clz(static_cast<int>(left)));
  const bool settled = usual && (left & (left - 1)) == 0 && code >= w;
  return {settled ? code : -1, w, usual ? left : 0};
}

struct Entry {
  int warp, slot;  ///< slot < 0: none
};

/// The i-th of all blocks that wait in a block of threads, those with many candidates first.
template <int n>
__device__ inline Entry entry_of(const Shared<n>& shared, int i) {
  for (int k = 0; k < 2 * warps; ++k) {
    if (i < shared.lengths[k]) return k < warps ? Entry{k, Waiting::from_back(i)} : Entry{k - warps, i};
    i -= shared.lengths[k];
  }
  return {0, -1};
}

/// The blocks of a lane, one a round: a warp's are 32 after each other, so that the last may lie behind the end.
template <class T, int n>
struct Walk {
  const T* x;
  std::uint32_t blocks, first, stride, rounds;

  __device__ Walk(const T* from, std::uint32_t count)
      : x(from), blocks(count), first(blockIdx.x * threads + threadIdx.x), stride(gridDim.x * threads) {
    const std::uint32_t of_warp = first - threadIdx.x % 32;
    rounds = of_warp < blocks ? (blocks - 1 - of_warp) / stride + 1 : 0;
  }
  __device__ std::uint32_t block(std::uint32_t round) const { return first + round * stride; }
  __device__ void load(std::uint32_t round, uint4 (&words)[n / 8]) const {
    load_words<n>(x, round < rounds && block(round) < blocks ? block(round) : 0, words);
  }
};

template <class T, int n>
__global__ void __launch_bounds__(threads, n == 16 ? 3 : 2)
    pair_kernel(const __grid_constant__ search::SearchSpace host_space, const T* x, std::uint32_t blocks, Output out,
                const float* tensor_scale) {
  __shared__ Shared<n> shared;
  __shared__ search::SearchSpace space;
  start_space(space, host_space, tensor_scale);
  make_tables(shared.tables, space.tensor_scale, search::undersize_constant(space.nesting, n));
  if (threadIdx.x == 0) shared.filter = make_float_filter(space, n), shared.taken = 0;
  __syncthreads();
  cudaGridDependencySynchronize();
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  Waiting& waiting = shared.waiting[warp];
  const Walk<T, n> walk(x, blocks);
  uint4 words[n / 8];
  walk.load(0, words);
  int twos = 0, others = 0;
  bool together = false;
  for (std::uint32_t round = 0;;) {
    if (round < walk.rounds && twos + others <= Waiting::slots - 32) {
      const std::uint32_t b = walk.block(round);
      HalfPair pairs[n / 2];
      const Settled settled = settle<T, n>(shared.tables, shared.filter, words, pairs);
      uint4 next[n / 8];
      walk.load(++round, next);  // its wait passes behind the encoding, which needs fewer registers than the search
      const bool inside = b < blocks, done = settled.code >= 0;
      uint2 codes[n / 16];
      encode<false>(shared.tables, settled.w, done ? settled.code : settled.w, pairs, words, codes,
                    static_cast<const T*>(nullptr));
      if (inside && done) {
        out.scales[b] = static_cast<std::uint8_t>(settled.code);
#pragma unroll
        for (int i = 0; i < n / 16; ++i) {
          reinterpret_cast<uint2*>(out.packed + static_cast<std::int64_t>(b) * (n / 2))[i] = codes[i];
        }
      }
      waiting.append(twos, others, inside && !done, b, settled.left);
#pragma unroll
      for (int i = 0; i < n / 8; ++i) words[i] = next[i];
      continue;
    }
    __syncwarp();
    Entry entry;
    if (round < walk.rounds) {  // no room: 32 of its own
      const bool front = twos >= 32;
      (front ? twos : others) -= 32;
      entry = {warp, front ? twos + lane : Waiting::from_back(others + lane)};
    } else {
      if (!together) {
        cudaTriggerProgrammaticLaunchCompletion();  // from here on processors run empty
        if (lane == 0) shared.lengths[warp] = others, shared.lengths[warps + warp] = twos;
        __syncthreads();
        together = true;
      }
      int from = 0;
      if (lane == 0) from = atomicAdd(&shared.taken, 32);
      entry = entry_of(shared, __shfl_sync(all_lanes, from, 0) + lane);
      if (__ballot_sync(all_lanes, entry.slot >= 0) == 0) break;
    }
    if (entry.slot >= 0) {
      const Waiting& from = shared.waiting[entry.warp];
      decide_waiting<T, n>(space, shared.tables, shared.filter, x, from.block[entry.slot], from.left[entry.slot], out);
    }
    __syncwarp();
    walk.load(round, words);  // again, rather than kept
  }
}

template <class Levels, class T, int n>
void launch(Stream& stream, const search::SearchSpace& space, const T* x, std::int64_t blocks, const Output& out,
            const float* tensor_scale) {
  constexpr bool in_pairs = sizeof(T) == 2 && Levels::top == 6;
  const auto kernel = [] {
    if constexpr (in_pairs) return pair_kernel<T, n>;
    else return float_kernel<Levels, T, n>;
  }();
  launch_early(stream, kernel, filling_grid(stream, kernel, threads, blocks, threads), threads, space, x, blocks, out,
               tensor_scale);
}

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
  if ((!e2m1 && !int4) || matrix.cols % task.block != 0 || blocks > 0xFFFF0000) return false;
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
