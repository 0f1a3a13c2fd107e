#include "search/joint_search.hpp"

#include <algorithm>
#include <memory>

#include "search/closest_vector.hpp"
#include "search/decoupled.hpp"
#include "search/gptq.hpp"
#include "search/row_descent.hpp"
#include "sim/block.hpp"

namespace fp4scope::search {

namespace {

/// A signed level as an element's code; a zero keeps the sign of x, as nearest elements do.
std::uint8_t element_code(const SearchTask& task, int level, float x) {
  return sim::signed_code(task.format->element, level < 0 ? -level : level,
                          level == 0 ? sim::is_negative(x) : level < 0);
}

BlockSolution solve(const SearchTask& task, const SearchSpace& space, const BlockProblem& problem,
                    ClosestVectorRoom& room) {
  switch (task.method->kind) {
    case MethodKind::decoupled: return decoupled(space, problem);
    case MethodKind::closed_form: return closed_form(space, problem);
    case MethodKind::coordinate: return coordinate_descent(space, problem, nearest_solution(space, problem));
    default: break;
  }
  const BlockSolution found = closest_vector(space, problem, {task.node_limit}, room);
  if (found.proved) return found;
  // Never above a cheap method, also where the node limit struck; coordinate descent is where the search begins.
  BlockSolution best = found;
  for (const BlockSolution& cheap : {decoupled(space, problem), closed_form(space, problem)}) {
    if (compare_losses(space, problem, cheap, best) < 0) best = cheap;
  }
  return best;
}

SearchResult search_blocks(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t rows,
                           std::int64_t cols) {
  const std::int64_t blocks = cols / task.block;
  SearchResult result;
  result.scales.assign(static_cast<std::size_t>(rows * blocks), 0);
  result.codes.assign(static_cast<std::size_t>(rows * cols), 0);
  std::int64_t proved = 0, nodes = 0;
#pragma omp parallel reduction(+ : proved, nodes)
  {
    const auto room = std::make_unique<ClosestVectorRoom>();
    double target[max_joint_block];
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t row = 0; row < rows; ++row) {
      if (task.stop && *task.stop) continue;
      for (std::int64_t b = 0; b < blocks; ++b) {
        const float* const values = x + row * cols + b * task.block;
        for (int i = 0; i < task.block; ++i) target[i] = values[i];
        const BlockProblem problem = {task.block, target, task.hessians->of(static_cast<std::size_t>(b)), nullptr};
        const BlockSolution found = solve(task, space, problem, *room);
        proved += found.proved;
        nodes += found.nodes;
        result.scales[static_cast<std::size_t>(row * blocks + b)] = static_cast<std::uint8_t>(found.code);
        std::uint8_t* const codes = result.codes.data() + row * cols + b * task.block;
        for (int i = 0; i < task.block; ++i) codes[i] = element_code(task, found.level[i], values[i]);
      }
    }
  }
  result.proved = proved;
  result.count.candidates = nodes;
  return result;
}

RowStep row_step(MethodKind kind) {
  if (kind == MethodKind::row_scales) return RowStep::scales;
  return kind == MethodKind::row_coordinate ? RowStep::coordinate : RowStep::closest;
}

GptqScale gptq_scale(MethodKind kind) {
  switch (kind) {
    case MethodKind::gptq: return GptqScale::naive;
    case MethodKind::gptq_sse: return GptqScale::sse;
    case MethodKind::gptq_hessian: return GptqScale::hessian;
    case MethodKind::gptq_closest: return GptqScale::closest;
    default: return GptqScale::feedback;
  }
}

/// Descent from the block-diagonal optimum with nearest elements.
Assignment descend(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t rows,
                   SearchCount& count) {
  Method hessian = *task.method;
  hessian.kind = MethodKind::hessian;
  SearchTask blocks = task;
  blocks.method = &hessian;
  const SearchResult start = search_scales(blocks, x, rows, task.full->cols);
  count.candidates += start.count.candidates;
  count.wide += start.count.wide;
  count.exact += start.count.exact;
  RowDescentOptions options;
  options.node_limit = task.node_limit;
  options.step = row_step(task.method->kind);
  const Assignment nearest = nearest_assignment(space, task.block, start.scales, x, rows, task.full->cols);
  return row_descent(space, *task.full, task.block, x, rows, nearest, options).assignment;
}

/// Rows are independent, so they are taken in groups: between two of them the search can be stopped.
SearchResult search_rows(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t rows,
                         std::int64_t cols) {
  constexpr std::int64_t rows_at_once = 128;
  const MethodKind kind = task.method->kind;
  GptqPlan plan;
  if (task.method->damps())
    plan = make_gptq_plan(*task.full, task.block, kind == MethodKind::gptq_ordered, task.damping);
  SearchResult result;
  for (std::int64_t first = 0; first < rows; first += rows_at_once) {
    if (task.stop && *task.stop) break;
    const std::int64_t count = std::min(rows_at_once, rows - first);
    const float* const group = x + first * cols;
    const Assignment found = task.method->damps() ? gptq(space, plan, gptq_scale(kind), group, count, task.node_limit)
                                                  : descend(task, space, group, count, result.count);
    result.scales.insert(result.scales.end(), found.scales.begin(), found.scales.end());
    for (std::size_t i = 0; i < found.levels.size(); ++i) {
      result.codes.push_back(element_code(task, found.levels[i], group[i]));
    }
  }
  return result;
}

}  // namespace

SearchResult search_joint(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols) {
  const SearchSpace space = make_space(*task.format, task.tensor_scale, task.method->rule);
  return task.method->needs_full_hessian() ? search_rows(task, space, x, rows, cols)
                                           : search_blocks(task, space, x, rows, cols);
}

}  // namespace fp4scope::search
