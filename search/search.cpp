#include "search/search.hpp"

#include <algorithm>
#include <cmath>

#include "search/full_hessian.hpp"
#include "search/hessian_lanes.hpp"
#include "search/lanes.hpp"
#include "search/macro.hpp"

namespace fp4scope::search {

namespace {

/// Per-thread room for the Hessian search.
struct Scratch {
  std::vector<double> room;
  std::vector<LossInterval> loss;
  std::vector<float> tile;
  SearchCount count;
  std::int64_t chose_second = 0;
};

/// The best code of all: of one space, or of IF4's two.
int best_code(const SearchTask& task, const SelectingSpace& spaces, const Block& block, SearchCount* count) {
  const bool pruned = task.method->kind == MethodKind::sse;
  if (!task.format->selects()) {
    return pruned ? sse_code(spaces.floating, block, count) : sse_code_ref(spaces.floating, block, count);
  }
  return pruned ? selecting_sse_code(spaces, block, count) : selecting_sse_code_ref(spaces, block, count);
}

int block_code(const SearchTask& task, const SelectingSpace& spaces, const Block& block, std::size_t column_block,
               Scratch& scratch) {
  const SearchSpace& space = spaces.floating;
  const sim::ScaleRule rule = task.unbiased ? sim::unbiased(task.method->rule) : task.method->rule;
  const auto nan_code = static_cast<int>(space.scale.nan_code());
  if (!std::isfinite(block.amax)) return nan_code;  // amax orders bit patterns, so Inf and NaN come out on top
  switch (task.method->kind) {
    case MethodKind::rule:
    case MethodKind::eden:
    case MethodKind::residual:
    case MethodKind::residual_half: return sim::scale_code(space.scale, rule, block.amax, task.tensor_scale);
    case MethodKind::four_over_six: {
      const FourOverSix chosen = four_over_six(space, block, task.select, &scratch.count, task.unbiased);
      scratch.chose_second += chosen.chose_four;
      return chosen.code;
    }
    case MethodKind::select_element: {
      const int code = sim::scale_code(space.scale, rule, block.amax, task.tensor_scale);
      return select_element(spaces, block, task.select, code, &scratch.count);
    }
    case MethodKind::sse:
    case MethodKind::exhaustive: return best_code(task, spaces, block, &scratch.count);
    case MethodKind::window: return scalesweep_code(space, block, &scratch.count);
    case MethodKind::hessian: {
      const BlockHessian hessian = {task.hessians->of(column_block),
                                    task.hessians->envelope.data() + column_block * block.n};
      return hessian_code(space, block, hessian, scratch.room.data(), scratch.loss.data(), &scratch.count);
    }
    default: return 0;  // joint_search.hpp has the methods that choose elements, macro.hpp those of macro blocks
  }
}

/// The Hessian search of all blocks, many rows of one block of columns at a time.
void search_hessian(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t rows,
                    std::int64_t cols, SearchResult& result) {
  constexpr std::int64_t group = 8192;  // a filter's cost, some 50 microseconds for blocks of 32, is shared by so many
  const std::int64_t n = task.block, blocks = cols / n, groups = (rows + group - 1) / group;
#pragma omp parallel
  {
    HessianRoom room;
    SearchCount count;
#pragma omp for schedule(dynamic)
    for (std::int64_t k = 0; k < blocks * groups; ++k) {
      if (task.stop && *task.stop) continue;
      const std::int64_t b = k % blocks, first = k / blocks * group;
      const BlockHessian hessian = {task.hessians->of(static_cast<std::size_t>(b)),
                                    task.hessians->envelope.data() + b * n};
      hessian_lane_codes(space, hessian, task.block, x + first * cols + b * n, cols, std::min(group, rows - first),
                         result.scales.data() + first * blocks + b, blocks, room, count);
    }
#pragma omp critical
    {
      result.count.candidates += count.candidates;
      result.count.exact += count.exact;
      result.count.wide += count.wide;
    }
  }
}

}  // namespace

Hessians make_hessians(const float* x, std::int64_t tokens, std::int64_t cols, int block) {
  Hessians hessians;
  hessians.block = block;
  const std::int64_t blocks = cols / block;
  hessians.h.assign(static_cast<std::size_t>(cols * block), 0.0);
  hessians.envelope.assign(static_cast<std::size_t>(cols), 0.0);
#pragma omp parallel for schedule(static)
  for (std::int64_t b = 0; b < blocks; ++b) {
    double* h = hessians.of(static_cast<std::size_t>(b));
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* row = x + t * cols + b * block;
      for (int i = 0; i < block; ++i) {
        for (int j = 0; j < block; ++j) h[i * block + j] += static_cast<double>(row[i]) * row[j];
      }
    }
    set_envelope(h, block, hessians.envelope.data() + b * block);
  }
  return hessians;
}

namespace {

/// lanes.hpp on some rows at a time: enough blocks to fill lanes, few enough to be spread over threads.
void search_by_lanes(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t rows,
                     std::int64_t blocks, SearchResult& result) {
  const std::int64_t at_once = std::max<std::int64_t>(1, 256 / std::max<std::int64_t>(1, blocks));
#pragma omp parallel
  {
    Scratch scratch;
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t first = 0; first < rows; first += at_once) {
      if (task.stop && *task.stop) continue;
      const std::int64_t count = std::min(at_once, rows - first) * blocks;
      lane_scales(task, space, x + first * blocks * task.block, count, result.scales.data() + first * blocks,
                  scratch.count, scratch.chose_second);
    }
#pragma omp critical
    {
      result.count.candidates += scratch.count.candidates;
      result.count.exact += scratch.count.exact;
      result.count.wide += scratch.count.wide;
      result.chose_second += scratch.chose_second;
    }
  }
}

}  // namespace

SearchResult search_scales(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols) {
  if (task.method->has_macro()) return search_macro(task, x, rows, cols);
  const SelectingSpace spaces = make_selecting_space(*task.format, task.tensor_scale, task.method->rule);
  const std::int64_t blocks = cols / task.block;
  SearchResult result;
  result.scales.assign(static_cast<std::size_t>(rows * blocks), 0);
  if (has_lanes(task)) {
    search_by_lanes(task, spaces.floating, x, rows, blocks, result);
    return result;
  }
  if (task.method->kind == MethodKind::hessian && task.tile_rows == 1) {
    search_hessian(task, spaces.floating, x, rows, cols, result);
    return result;
  }
#pragma omp parallel
  {
    Scratch scratch;
    scratch.room.resize(2 * static_cast<std::size_t>(task.block));
    scratch.loss.resize(256);
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t tile = 0; tile < (rows + task.tile_rows - 1) / task.tile_rows; ++tile) {
      if (task.stop && *task.stop) continue;
      const std::int64_t first = tile * task.tile_rows, last = std::min(first + task.tile_rows, rows);
      for (std::int64_t b = 0; b < blocks; ++b) {
        const float* values = x + first * cols + b * task.block;
        const auto n = static_cast<int>((last - first) * task.block);
        if (task.tile_rows > 1) {
          scratch.tile.resize(static_cast<std::size_t>(n));
          for (std::int64_t row = 0; row < last - first; ++row) {
            std::copy_n(values + row * cols, task.block, scratch.tile.data() + row * task.block);
          }
          values = scratch.tile.data();
        }
        const Block block = {values, n, sim::amax(values, n)};
        const int code = block_code(task, spaces, block, static_cast<std::size_t>(b), scratch);
        if (task.format->selects() && (code & formats::selection_bit) != 0 && code != 0xFF) ++scratch.chose_second;
        for (std::int64_t row = first; row < last; ++row) {
          result.scales[static_cast<std::size_t>(row * blocks + b)] = static_cast<std::uint8_t>(code);
        }
      }
    }
#pragma omp critical
    {
      result.count.candidates += scratch.count.candidates;
      result.count.exact += scratch.count.exact;
      result.count.wide += scratch.count.wide;
      result.chose_second += scratch.chose_second;
    }
  }
  return result;
}

}  // namespace fp4scope::search
