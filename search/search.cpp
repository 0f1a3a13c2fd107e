#include "search/search.hpp"

#include <cmath>

#include "search/hessian.hpp"

namespace fp4scope::search {

namespace {

/// Per-thread room for the Hessian search.
struct Scratch {
  std::vector<double> room;
  std::vector<LossInterval> loss;
  SearchCount count;
  std::int64_t chose_four = 0;
};

int block_code(const SearchTask& task, const SearchSpace& space, const Block& block, std::size_t column_block,
               Scratch& scratch) {
  const auto nan_code = static_cast<int>(space.scale.nan_code());
  if (!std::isfinite(block.amax)) return nan_code;  // amax orders bit patterns, so Inf and NaN come out on top
  switch (task.method->kind) {
    case MethodKind::rule: return sim::scale_code(space.scale, task.method->rule, block.amax, task.tensor_scale);
    case MethodKind::four_over_six: {
      const FourOverSix chosen = four_over_six(space, block, task.select, &scratch.count);
      scratch.chose_four += chosen.chose_four;
      return chosen.code;
    }
    case MethodKind::sse: return sse_code(space, block, &scratch.count);
    case MethodKind::exhaustive: return sse_code_ref(space, block, &scratch.count);
    case MethodKind::hessian: {
      const BlockHessian hessian = {task.hessians->of(column_block),
                                    task.hessians->envelope.data() + column_block * block.n};
      return hessian_code(space, block, hessian, scratch.room.data(), scratch.loss.data(), &scratch.count);
    }
  }
  return 0;
}

/// An envelope with |h_ij| <= e_i e_j: sqrt(h_ii), enlarged as far as the computed entries ask.
void set_envelope(const double* h, int n, double* envelope) {
  for (int i = 0; i < n; ++i) envelope[i] = std::sqrt(h[i * n + i]) * (1 + 0x1p-40);
  double enlarge = 1;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      const double entry = std::fabs(h[i * n + j]);
      const double bound = envelope[i] * envelope[j];
      if (entry > bound) enlarge = std::fmax(enlarge, bound > 0 ? entry / bound : __builtin_inf());
    }
  }
  if (enlarge == 1) return;
  for (int i = 0; i < n; ++i) envelope[i] *= enlarge * (1 + 0x1p-40);
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

SearchResult search_scales(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols) {
  const SearchSpace space = make_space(*task.format, task.tensor_scale, task.method->rule);
  const std::int64_t blocks = cols / task.block;
  SearchResult result;
  result.scales.assign(static_cast<std::size_t>(rows * blocks), 0);
#pragma omp parallel
  {
    Scratch scratch;
    scratch.room.resize(2 * static_cast<std::size_t>(task.block));
    scratch.loss.resize(256);
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t row = 0; row < rows; ++row) {
      if (task.stop && *task.stop) continue;
      for (std::int64_t b = 0; b < blocks; ++b) {
        const float* values = x + row * cols + b * task.block;
        const Block block = {values, task.block, sim::amax(values, task.block)};
        const int code = block_code(task, space, block, static_cast<std::size_t>(b), scratch);
        result.scales[static_cast<std::size_t>(row * blocks + b)] = static_cast<std::uint8_t>(code);
      }
    }
#pragma omp critical
    {
      result.count.candidates += scratch.count.candidates;
      result.count.exact += scratch.count.exact;
      result.chose_four += scratch.chose_four;
    }
  }
  return result;
}

}  // namespace fp4scope::search
