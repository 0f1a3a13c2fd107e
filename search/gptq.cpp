#include "search/gptq.hpp"

#include <algorithm>
#include <cfloat>
#include <numeric>

#include "formats/error.hpp"
#include "search/closest_vector.hpp"
#include "search/hessian.hpp"

namespace fp4scope::search {

namespace {

constexpr std::int64_t batch = 8;  // rows that share one reading of U

struct Room {
  ClosestVectorRoom closest;
  std::vector<double> products = std::vector<double>(2 * max_joint_block);
  std::vector<LossInterval> loss = std::vector<LossInterval>(256);
};

/// A block at its turn, in the plan's order of columns.
struct Turn {
  int n;
  const double* x;  ///< the data
  const double* t;  ///< moved by all earlier blocks
  const double* d;
  const double* upper;  ///< the block's corner of U
  std::int64_t stride;
  BlockHessian conditional;
};

/// The levels at a code, each from its own t; the loss that they add.
double feed_back(const SearchSpace& space, const Turn& turn, int code, std::int8_t* level) {
  const double step = space.step(code);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  double t[max_joint_block];
  std::copy_n(turn.t, turn.n, t);
  double loss = 0;
  for (int i = 0; i < turn.n; ++i) {
    level[i] = step > 0 ? nearest_level(thresholds, t[i]) : static_cast<std::int8_t>(0);
    const double value = signed_level(space, level[i]) * step;
    const double error = t[i] - value, r = turn.x[i] - value;
    loss += turn.d[i] * (error * error);
    for (int k = i + 1; k < turn.n; ++k) t[k] += turn.upper[i * turn.stride + k] * r;
  }
  return loss;
}

/// y, the conditional optimum.
void compensate(const Turn& turn, double* y) {
  std::copy_n(turn.t, turn.n, y);
  for (int i = 0; i < turn.n; ++i) {
    for (int k = i + 1; k < turn.n; ++k) y[k] += turn.upper[i * turn.stride + k] * (turn.x[i] - y[i]);
  }
}

int feedback_code(const SearchSpace& space, const Turn& turn) {
  int best = space.first_code;
  double least = __builtin_inf();
  for (int code = space.first_code; code <= space.last_code; ++code) {
    std::int8_t level[max_joint_block];
    const double loss = feed_back(space, turn, code, level);
    if (loss < least) least = loss, best = code;
  }
  return best;
}

/// The code chosen on y rounded to binary32; beyond its range, on the largest float.
int code_of(const SearchSpace& space, const Turn& turn, GptqScale choice, const double* y, Room& room) {
  float rounded[max_joint_block];
  for (int i = 0; i < turn.n; ++i) {
    rounded[i] = static_cast<float>(std::clamp(y[i], -static_cast<double>(FLT_MAX), static_cast<double>(FLT_MAX)));
  }
  const Block block = {rounded, turn.n, sim::amax(rounded, turn.n)};
  if (choice == GptqScale::sse) return sse_code(space, block);
  if (choice == GptqScale::hessian) {
    return hessian_code(space, block, turn.conditional, room.products.data(), room.loss.data());
  }
  return sim::scale_code(space.scale, space.start, block.amax, static_cast<float>(space.tensor_scale));
}

int quantize_turn(const SearchSpace& space, const Turn& turn, GptqScale choice, std::int64_t node_limit, Room& room,
                  std::int8_t* level) {
  double y[max_joint_block];
  compensate(turn, y);
  if (choice == GptqScale::closest) {
    ClosestVectorOptions limits;
    limits.node_limit = node_limit;
    const BlockSolution s = closest_vector(space, {turn.n, y, turn.conditional.h, nullptr}, limits, room.closest);
    std::copy_n(s.level, turn.n, level);
    return s.code;
  }
  const int code = choice == GptqScale::feedback ? feedback_code(space, turn) : code_of(space, turn, choice, y, room);
  feed_back(space, turn, code, level);
  return code;
}

std::vector<std::int64_t> block_order(const FullHessian& hessian, int block, bool ordered) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(hessian.cols / block));
  std::iota(order.begin(), order.end(), 0);
  if (!ordered) return order;
  std::vector<double> weight(order.size());
  for (std::int64_t i = 0; i < hessian.cols; ++i) weight[static_cast<std::size_t>(i / block)] += hessian.row(i)[i];
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return weight[a] > weight[b]; });
  return order;
}

/// H with its blocks in that order.
FullHessian reorder(const FullHessian& hessian, int block, const std::vector<std::int64_t>& order) {
  FullHessian moved = {hessian.cols, std::vector<double>(hessian.h.size())};
  for (std::int64_t p = 0; p < hessian.cols; ++p) {
    const double* const from = hessian.row(order[p / block] * block + p % block);
    double* const to = moved.h.data() + p * hessian.cols;
    for (std::size_t k = 0; k < order.size(); ++k) std::copy_n(from + order[k] * block, block, to + k * block);
  }
  return moved;
}

/// The rows [first, first + count): x and t are [batch][cols] in the plan's order.
void quantize_rows(const SearchSpace& space, const GptqPlan& plan, GptqScale choice, const float* x, std::int64_t first,
                   std::int64_t count, std::int64_t node_limit, Room& room, Assignment& result) {
  const std::int64_t cols = plan.factor.cols;
  const int n = plan.block;
  std::vector<double> wide(static_cast<std::size_t>(count * cols));
  for (std::int64_t row = 0; row < count; ++row) {
    for (std::size_t k = 0; k < plan.order.size(); ++k) {
      std::copy_n(x + (first + row) * cols + plan.order[k] * n, n, wide.data() + row * cols + k * n);
    }
  }
  std::vector<double> t = wide;
  std::vector<double> r(static_cast<std::size_t>(n * count));  // the block's, [column][row]
  for (std::size_t k = 0; k < plan.order.size(); ++k) {
    const auto at = static_cast<std::int64_t>(k) * n;
    const BlockHessian conditional = {plan.conditional.of(k), plan.conditional.envelope.data() + at};
    for (std::int64_t row = 0; row < count; ++row) {
      const Turn turn = {n,
                         wide.data() + row * cols + at,
                         t.data() + row * cols + at,
                         plan.factor.d.data() + at,
                         plan.factor.row(at) + at,
                         cols,
                         conditional};
      const std::int64_t index = (first + row) * (cols / n) + plan.order[k];
      std::int8_t* const level = result.levels.data() + index * n;
      const int code = quantize_turn(space, turn, choice, node_limit, room, level);
      result.scales[static_cast<std::size_t>(index)] = static_cast<std::uint8_t>(code);
      for (int i = 0; i < n; ++i) r[i * count + row] = turn.x[i] - signed_level(space, level[i]) * space.step(code);
    }
    add_products(t.data() + at + n, cols, r.data(), count, plan.factor.row(at) + at + n, cols, count, cols - at - n, n);
  }
}

}  // namespace

GptqPlan make_gptq_plan(const FullHessian& hessian, int block, bool ordered, double damping) {
  GptqPlan plan;
  plan.block = block;
  plan.order = block_order(hessian, block, ordered);
  plan.factor = factor(ordered ? reorder(hessian, block, plan.order) : hessian, damping);
  if (plan.factor.bad_pivot >= 0) {
    throw Error("gptq", "H is not positive definite at column " + std::to_string(plan.factor.bad_pivot),
                "a larger damping");
  }
  const auto cols = static_cast<std::size_t>(hessian.cols);
  plan.conditional = {block, std::vector<double>(cols * static_cast<std::size_t>(block)), std::vector<double>(cols)};
  for (std::size_t b = 0; b < plan.order.size(); ++b) {
    const std::int64_t at = static_cast<std::int64_t>(b) * block;
    conditional_block(plan.factor, at, block, plan.conditional.of(b));
    set_envelope(plan.conditional.of(b), block, plan.conditional.envelope.data() + at);
  }
  return plan;
}

Assignment gptq(const SearchSpace& space, const GptqPlan& plan, GptqScale choice, const float* x, std::int64_t rows,
                std::int64_t node_limit) {
  const std::int64_t cols = plan.factor.cols;
  Assignment result = {std::vector<std::uint8_t>(static_cast<std::size_t>(rows * cols / plan.block)),
                       std::vector<std::int8_t>(static_cast<std::size_t>(rows * cols))};
#pragma omp parallel if (rows > batch)
  {
    Room room;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t first = 0; first < rows; first += batch) {
      quantize_rows(space, plan, choice, x, first, std::min(batch, rows - first), node_limit, room, result);
    }
  }
  return result;
}

}  // namespace fp4scope::search
