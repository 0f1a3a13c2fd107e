// Blocks of the Hessian search that the filter leaves: a few candidates by a warp, as intervals in binary64; all codes
// by 128 threads, in the same way and then in pairs of doubles. As search::best_hessian_code; what pairs of doubles
// can't tell apart is listed for the host.
#include "cuda/hessian.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int most_elements = search::max_filter_block;
constexpr int warps = 4, threads = 32 * warps;
constexpr unsigned full = 0xFFFFFFFFu;
constexpr int undecided = -1;

__device__ double sum_of_lanes(double x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(full, x, step);
  return x;
}

/// Elements lane, lane + 32, ... of a block, `own` of them in each lane.
template <int own>
struct LaneElements {
  double magnitude[own], envelope[own];
  bool negative[own];
};

/// The loss at a code's values; the bound is hessian_loss's, whatever the order of the sums.
template <int own>
__device__ search::LossInterval loss_at(int n, const search::BlockHessian& hessian, const LaneElements<own>& e,
                                        const double (&value)[own], int lane) {
  double r[own], hr[own] = {}, size = 0, loss = 0;
  for (int k = 0; k < own; ++k) {
    r[k] = e.negative[k] ? value[k] - e.magnitude[k] : e.magnitude[k] - value[k];
    size += e.envelope[k] * fabs(r[k]);
  }
  for (int i = 0; i < n; ++i) {
    const double other = __shfl_sync(full, own == 1 || i < 32 ? r[0] : r[own - 1], i % 32);
    for (int k = 0; k < own; ++k) {
      if (lane + 32 * k < n) hr[k] += hessian.h[static_cast<std::int64_t>(i) * n + lane + 32 * k] * other;
    }
  }
  for (int k = 0; k < own; ++k) loss += r[k] * hr[k];
  size = sum_of_lanes(size);
  return {sum_of_lanes(loss), (2 * n + 16) * 0x1p-52 * size * size};
}

/// The best of a block's candidates by intervals; undecided where they overlap and the values differ.
template <int own>
__device__ int best_of_few(const HessianTask& task, const Listed& listed, const search::BlockHessian& hessian,
                           const LaneElements<own>& e, int lane) {
  const search::SearchSpace& space = *task.space;
  int best = undecided;
  double value_of_best[own] = {};
  search::LossInterval loss_of_best = {-1, 0};  // not taken yet
  for (int k = 0; k < listed.number; ++k) {
    const int code = listed.code[k];
    const double step = space.step(code);
    const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
    double value[own];
    bool same = true;
    for (int i = 0; i < own; ++i) {
      value[i] = search::nearest_value(space, thresholds, step, e.magnitude[i]);
      same = same && (value[i] == value_of_best[i] || e.envelope[i] == 0);
    }
    search::LossInterval loss = {-1, 0};
    if (best != undecided) {
      if (__all_sync(full, same)) {  // a tie: the lower stays
        best = code < best ? code : best;
        continue;
      }
      if (loss_of_best.value < 0) loss_of_best = loss_at<own>(task.n, hessian, e, value_of_best, lane);
      loss = loss_at<own>(task.n, hessian, e, value, lane);
      if (loss.value - loss.radius > loss_of_best.value + loss_of_best.radius) continue;
      if (!(loss.value + loss.radius < loss_of_best.value - loss_of_best.radius)) return undecided;
    }
    best = code;
    loss_of_best = loss;
    for (int i = 0; i < own; ++i) value_of_best[i] = value[i];
  }
  return best;
}

template <int own>
__global__ void few_kernel(HessianTask task) {
  __shared__ float shared[warps][most_elements];
  const int lane = static_cast<int>(threadIdx.x % 32), n = task.n;
  float* const x = shared[threadIdx.x / 32];
  const unsigned long long number = task.counts->few;
  for (unsigned long long at = blockIdx.x * warps + threadIdx.x / 32; at < number; at += gridDim.x * warps) {
    const Listed listed = task.few[at];
    const search::BlockHessian hessian = task.hessian(listed.block);
    LaneElements<own> e = {};
    for (int k = 0; k < own; ++k) {
      const int i = lane + 32 * k;
      if (i >= n) continue;
      const float v = task.value(listed.block, i);
      x[i] = v;
      e.magnitude[k] = task.space->magnitude(v), e.negative[k] = sim::is_negative(v);
      e.envelope[k] = hessian.envelope[i];
    }
    __syncwarp();
    const int code = best_of_few<own>(task, listed, hessian, e, lane);
    if (code != undecided) {
      write_block(task, listed.block, x, code, lane);
    } else if (lane == 0) {
      task.all[atomicAdd(&task.counts->all, 1ull)] = listed.block;
    }
    __syncwarp();
  }
}

/// The code of less loss, ties to the lower; undecided where pairs of doubles can't tell.
__device__ int lower_of(const HessianTask& task, const search::Block& block, const search::BlockHessian& hessian,
                        int best, int code) {
  search::ElementPair elements[most_elements];
  if (compare_elements(*task.space, block, hessian, code, best, elements)) return code < best ? code : best;
  atomicAdd(&task.counts->wide, 1ull);
  const int sign = wide_sign(block, hessian, elements);
  return sign == 0 ? undecided : sign < 0 ? code : best;
}

/// Writes a block, or lists it.
__device__ void finish(const HessianTask& task, std::int64_t b, const float* x, int code, int lane) {
  if (code != undecided) {
    write_block(task, b, x, code, lane);
  } else if (lane == 0) {
    task.host[atomicAdd(&task.counts->host, 1ull)] = static_cast<std::uint32_t>(b);
  }
}

/// The lower ends of the losses of all codes, and the least upper end: 128 threads, two codes each at most.
__device__ void losses_of_all(const HessianTask& task, const search::Block& block,
                              const search::BlockHessian& hessian, double* lower, double* least) {
  const search::SearchSpace& space = *task.space;
  double room[2 * most_elements], upper = __longlong_as_double(0x7FF0000000000000ll);
  for (int code = space.first_code + static_cast<int>(threadIdx.x); code <= space.last_code; code += threads) {
    const search::LossInterval loss = hessian_loss(space, block, hessian, code, room);
    lower[code] = loss.value - loss.radius;
    upper = fmin(upper, loss.value + loss.radius);
  }
  for (int step = 16; step > 0; step /= 2) upper = fmin(upper, __shfl_xor_sync(full, upper, step));
  if (threadIdx.x % 32 == 0) least[threadIdx.x / 32] = upper;
  __syncthreads();
}

/// Of one thread: the best of the codes that the intervals leave.
__device__ int best_of_open(const HessianTask& task, const search::Block& block, const search::BlockHessian& hessian,
                            const double* lower, const double* least) {
  const double limit = fmin(fmin(least[0], least[1]), fmin(least[2], least[3]));
  int best = undecided;
  for (int code = task.space->first_code; code <= task.space->last_code; ++code) {
    if (lower[code] > limit) continue;
    best = best == undecided ? code : lower_of(task, block, hessian, best, code);
    if (best == undecided) return undecided;
  }
  return best;
}

/// All codes of the listed blocks, or, where there is no list, of `blocks` blocks: 128 threads a block.
__global__ void all_kernel(HessianTask task, const std::uint32_t* all, std::int64_t blocks) {
  __shared__ float x[most_elements];
  __shared__ double lower[256], least[warps];
  __shared__ int chosen;
  const int n = task.n, lane = static_cast<int>(threadIdx.x);
  const std::int64_t number = all ? static_cast<std::int64_t>(task.counts->all) : blocks;
  for (std::int64_t at = blockIdx.x; at < number; at += gridDim.x) {
    const std::int64_t b = all ? all[at] : at;
    if (lane < n) x[lane] = task.value(b, lane);
    __syncthreads();
    const search::Block block = {x, n, sim::amax(x, n)};
    const search::BlockHessian hessian = task.hessian(b);
    const bool finite = block.amax < __int_as_float(0x7F800000), zero = hessian_is_zero(hessian, n);
    const bool open = finite && block.amax > 0 && !zero;
    if (open) losses_of_all(task, block, hessian, lower, least);
    if (lane == 0) {
      chosen = !finite           ? static_cast<int>(task.space->scale.nan_code())
               : block.amax == 0 ? 0
               : zero            ? task.space->first_code
                                 : best_of_open(task, block, hessian, lower, least);
    }
    __syncthreads();
    if (lane < 32) finish(task, b, x, chosen, lane);
    __syncthreads();
  }
}

}  // namespace

void decide_few(Stream& stream, const HessianTask& task) {
  const int own = task.n <= 32 ? 1 : 2;
  (own == 1 ? few_kernel<1> : few_kernel<2>)<<<132 * 12, threads, 0, handle(stream)>>>(task);
  check_launch("few candidates");
}

void decide_all(Stream& stream, const HessianTask& task, const std::uint32_t* all, std::int64_t blocks) {
  all_kernel<<<132 * 5, threads, 0, handle(stream)>>>(task, all, blocks);
  check_launch("all codes");
}

}  // namespace fp4scope::cuda
