#include "search/macro.hpp"

#include <algorithm>

namespace fp4scope::search {

namespace {

int mantissa_of(const SearchTask& task, const SearchSpace& space, const MacroBlock& macro) {
  const float amax = finite_amax(macro);
  if (amax == 0) return 0;
  return task.method->kind == MethodKind::macro ? macro_mantissa(space.top(), amax)
                                                : search_macro_mantissa(space, macro);
}

void search_row(const SearchTask& task, const SearchSpace& space, const float* x, std::int64_t cols,
                std::uint8_t* scales, std::uint8_t* mantissas) {
  for (std::int64_t first = 0; first < cols; first += macro_columns) {
    const auto columns = static_cast<int>(std::min<std::int64_t>(macro_columns, cols - first));
    const MacroBlock macro = make_macro_block(x + first, columns, task.block);
    const int m = mantissa_of(task, space, macro);
    *mantissas++ = static_cast<std::uint8_t>(m);
    const sim::ScaleRule rule = macro_rule(space.start, m);
    for (int b = 0; b < macro.count(); ++b) {
      const int code = is_finite(macro.amax[b]) ? sim::scale_code(space.scale, rule, macro.amax[b], task.tensor_scale)
                                                : static_cast<int>(space.scale.nan_code());
      *scales++ = static_cast<std::uint8_t>(code);
    }
  }
}

}  // namespace

SearchResult search_macro(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols) {
  const SearchSpace space = make_space(*task.format, task.tensor_scale, task.method->rule);
  const std::int64_t blocks = cols / task.block, macros = macro_blocks(cols);
  SearchResult result;
  result.scales.assign(static_cast<std::size_t>(rows * blocks), 0);
  result.macro.assign(static_cast<std::size_t>(rows * macros), 0);
#pragma omp parallel for schedule(dynamic, 4)
  for (std::int64_t row = 0; row < rows; ++row) {
    if (task.stop && *task.stop) continue;
    search_row(task, space, x + row * cols, cols, result.scales.data() + row * blocks,
               result.macro.data() + row * macros);
  }
  return result;
}

}  // namespace fp4scope::search
