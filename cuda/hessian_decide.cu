// Blocks of the Hessian search that the filter leaves, a warp each: losses as intervals in binary64, then pairs of
// doubles. As search::best_hessian_code; what pairs of doubles can't tell apart is listed for the host.
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

/// The code of less loss, ties to the lower; undecided where pairs of doubles can't tell. Lanes call it alike.
__device__ int lower_of(const HessianTask& task, const search::Block& block, const search::BlockHessian& hessian,
                        int best, int code, int lane) {
  int result = best;
  if (lane == 0) {
    search::ElementPair elements[most_elements];
    if (compare_elements(*task.space, block, hessian, code, best, elements)) {
      result = code < best ? code : best;
    } else {
      const int sign = wide_sign(block, hessian, elements);
      result = sign == 0 ? undecided : sign < 0 ? code : best;
      atomicAdd(&task.counts->wide, 1ull);
    }
  }
  return __shfl_sync(full, result, 0);
}

/// Writes a block, or lists it.
__device__ void finish(const HessianTask& task, std::int64_t b, const float* x, int code, int lane) {
  if (code != undecided) {
    write_block(task, b, x, code, lane);
  } else if (lane == 0) {
    task.host[atomicAdd(&task.counts->host, 1ull)] = b;
  }
}

/// A code's loss, elements lane and lane + 32 in each lane; the same bound as hessian_loss's, whatever the order of the
/// sums. `first`: the values at an earlier code; `same`: whether they are this one's wherever H is not zero.
struct LaneElements {
  double magnitude[2], envelope[2];
  bool negative[2];
};

__device__ double value_at(const search::SearchSpace& space, const sim::Thresholds& thresholds, double step,
                           double magnitude) {
  return search::nearest_value(space, thresholds, step, magnitude);
}

__device__ search::LossInterval loss_at(const HessianTask& task, const search::BlockHessian& hessian,
                                        const LaneElements& e, const double (&value)[2], int lane) {
  const int n = task.n;
  double r[2], hr[2] = {0, 0}, size = 0, loss = 0;
  for (int k = 0; k < 2; ++k) {
    r[k] = e.negative[k] ? value[k] - e.magnitude[k] : e.magnitude[k] - value[k];
    size += e.envelope[k] * fabs(r[k]);
  }
  for (int i = 0; i < n; ++i) {
    const double other = __shfl_sync(full, i < 32 ? r[0] : r[1], i % 32);
    for (int k = 0; k < 2; ++k) {
      if (lane + 32 * k < n) hr[k] += hessian.h[static_cast<std::int64_t>(i) * n + lane + 32 * k] * other;
    }
  }
  for (int k = 0; k < 2; ++k) loss += r[k] * hr[k];
  size = sum_of_lanes(size);
  return {sum_of_lanes(loss), (2 * n + 16) * 0x1p-52 * size * size};
}

__global__ void few_kernel(HessianTask task) {
  __shared__ float shared[warps][most_elements];
  const int lane = static_cast<int>(threadIdx.x % 32), n = task.n;
  float* const x = shared[threadIdx.x / 32];
  const search::SearchSpace& space = *task.space;
  const auto stride = static_cast<unsigned long long>(gridDim.x) * warps, number = task.counts->few;
  for (unsigned long long at = blockIdx.x * warps + threadIdx.x / 32; at < number; at += stride) {
    const Listed listed = task.few[at];
    const search::BlockHessian hessian = task.hessian(listed.block);
    LaneElements e = {};
    for (int k = 0; k < 2; ++k) {
      const int i = lane + 32 * k;
      if (i >= n) continue;
      const float v = task.value(listed.block, i);
      x[i] = v;
      e.magnitude[k] = space.magnitude(v), e.negative[k] = sim::is_negative(v), e.envelope[k] = hessian.envelope[i];
    }
    __syncwarp();
    const search::Block block = {x, n, 0};
    int best = undecided;
    double value_of_best[2] = {0, 0};
    search::LossInterval loss_of_best = {-1, 0};  // not taken yet
    for (int k = 0; k < listed.number; ++k) {
      const int code = listed.code[k];
      const double step = space.step(code);
      const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
      double value[2];
      bool same = true;
      for (int i = 0; i < 2; ++i) {
        value[i] = value_at(space, thresholds, step, e.magnitude[i]);
        same = same && (value[i] == value_of_best[i] || e.envelope[i] == 0);
      }
      search::LossInterval loss = {-1, 0};
      if (best != undecided) {
        if (__all_sync(full, same)) {  // a tie: the lower stays
          best = code < best ? code : best;
          continue;
        }
        if (loss_of_best.value < 0) loss_of_best = loss_at(task, hessian, e, value_of_best, lane);
        loss = loss_at(task, hessian, e, value, lane);
        if (loss.value - loss.radius > loss_of_best.value + loss_of_best.radius) continue;
        if (!(loss.value + loss.radius < loss_of_best.value - loss_of_best.radius)) {
          const int lower = lower_of(task, block, hessian, best, code, lane);
          if (lower == undecided) {
            best = undecided;
            break;
          }
          if (lower == best) continue;
        }
      }
      best = code;
      loss_of_best = loss;
      value_of_best[0] = value[0], value_of_best[1] = value[1];
    }
    finish(task, listed.block, x, best, lane);
    __syncwarp();
  }
}

/// Eight codes a lane at most.
__device__ int best_of_all(const HessianTask& task, const search::Block& block, const search::BlockHessian& hessian,
                           int lane) {
  const search::SearchSpace& space = *task.space;
  double lower[8], least = __longlong_as_double(0x7FF0000000000000ll);
  double room[2 * most_elements];
  for (int k = 0; k < 8; ++k) {
    const int code = space.first_code + lane + 32 * k;
    if (code > space.last_code) break;
    const search::LossInterval loss = hessian_loss(space, block, hessian, code, room);
    lower[k] = loss.value - loss.radius;
    least = fmin(least, loss.value + loss.radius);
  }
  for (int step = 16; step > 0; step /= 2) least = fmin(least, __shfl_xor_sync(full, least, step));
  int best = undecided;
  for (int k = 0; k < 8; ++k) {
    const int first = space.first_code + 32 * k;
    unsigned open = __ballot_sync(full, first + lane <= space.last_code && !(lower[k] > least));
    for (; open != 0; open &= open - 1) {
      const int code = first + __ffs(static_cast<int>(open)) - 1;
      best = best == undecided ? code : lower_of(task, block, hessian, best, code, lane);
      if (best == undecided) return undecided;
    }
  }
  return best;
}

/// All codes of the listed blocks, or, where there is no list, of `blocks` blocks.
__global__ void all_kernel(HessianTask task, const std::int64_t* all, std::int64_t blocks) {
  __shared__ float shared[warps][most_elements];
  const int lane = static_cast<int>(threadIdx.x % 32), n = task.n;
  float* const x = shared[threadIdx.x / 32];
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * warps;
  const std::int64_t number = all ? static_cast<std::int64_t>(task.counts->all) : blocks;
  for (std::int64_t at = blockIdx.x * warps + threadIdx.x / 32; at < number; at += stride) {
    const std::int64_t b = all ? all[at] : at;
    for (int i = lane; i < n; i += 32) x[i] = task.value(b, i);
    __syncwarp();
    const search::Block block = {x, n, sim::amax(x, n)};
    const search::BlockHessian hessian = task.hessian(b);
    int code = 0;
    if (!(block.amax < __int_as_float(0x7F800000))) {
      code = static_cast<int>(task.space->scale.nan_code());
    } else if (block.amax > 0) {
      code = hessian_is_zero(hessian, n) ? task.space->first_code : best_of_all(task, block, hessian, lane);
    }
    finish(task, b, x, code, lane);
    __syncwarp();
  }
}

}  // namespace

void decide_few(Stream& stream, const HessianTask& task) {
  few_kernel<<<132 * 8, threads, 0, handle(stream)>>>(task);
  check_launch("few candidates");
}

void decide_all(Stream& stream, const HessianTask& task, const std::int64_t* all, std::int64_t blocks) {
  all_kernel<<<132 * 8, threads, 0, handle(stream)>>>(task, all, blocks);
  check_launch("all codes");
}

}  // namespace fp4scope::cuda
