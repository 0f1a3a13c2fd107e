// The scale of a block under a recipe: its candidates, and the choice among them in the recipe's own arithmetic.
//
//   four over six  err(c) over d = ((q s) a) / K against x, of the codes of v and fl(1.5 v); the second only if less
//   IF4            the same for E2M1 and for INT4, d = (((q s) a) fl(6/7)) / K
//   qwantize       every code between (b - sqrt E0) / 6 and 4 y, the first of the least binary32 error
//   scalesweep     eleven codes around v's, the first of the least binary32 error
//
// Every sum is a sequence of binary32 additions in the recipe's order. The room is the caller's, so that one source
// runs on a CPU and on a GPU's threads. Functions with a square root or a fused multiply-add are no constant
// expressions in every compiler; nvcc gives both their IEEE instructions.
#pragma once

#include "search/four_over_six.hpp"
#include "search/window.hpp"
#include "sim/recipes.hpp"

namespace fp4scope::search {

struct RecipeTask {
  const sim::Recipe* recipe;
  const formats::BlockFormat* format;
  sim::RecipeTensor tensor;
  Select select = Select::mse;
  formats::Rounding rounding = formats::Rounding::nearest_away;  ///< where the recipe has a choice
};

struct RecipeBlock {
  int scale = 0;              ///< the scale's code, with the selection bit
  bool chose_second = false;  ///< the 4 of four over six, or INT4
};

/// Room for a block's choice, n of each: the codes and values of a candidate and of a second one, and errors.
/// Candidates::one needs none of it.
struct RecipeScratch {
  std::uint8_t* codes;
  float* values;
  float* second_values;
  float* errors;
};

/// max |x|, NaN where the recipe's maxima propagate one.
FP4SCOPE_HD constexpr float recipe_amax(const sim::Recipe& recipe, const float* x, std::int64_t n) noexcept {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float magnitude = __builtin_fabsf(x[i]);
    if (magnitude != magnitude && recipe.nan_amax) return __builtin_bit_cast(float, 0x7FC00000u);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

// ---- sums of errors ----

FP4SCOPE_HD constexpr float sum_eight_lanes(const float* e, int n) noexcept {
  float lane[8] = {};
  for (int i = 0; i < n; ++i) lane[i % 8] += e[i];
  float sum = 0;
  for (const float l : lane) sum += l;
  return sum;
}

/// Rows sequentially, then rows i and i + 8, i + 4, i + 2, i + 1; a tile of 16 rows, or fewer where the matrix ends.
FP4SCOPE_HD constexpr float sum_row_tree(const float* e, int n, int row) noexcept {
  float rows[32] = {};
  for (int i = 0; i < n; ++i) rows[i / row] += e[i];
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) rows[i] += rows[i + step];
  }
  return rows[0];
}

FP4SCOPE_HD constexpr float sum_errors(sim::SumOrder order, const float* e, int n, int row) noexcept {
  if (order == sim::SumOrder::eight_lanes) return sum_eight_lanes(e, n);
  if (order == sim::SumOrder::row_tree && n > row) return sum_row_tree(e, n, row);
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += e[i];
  return sum;
}

/// The error of a candidate's values in the recipe's arithmetic. errors[n] is room.
FP4SCOPE_HD constexpr float candidate_error(const RecipeTask& task, const float* values, int scale_code, bool integer,
                                            const float* x, int n, int row, float* errors) noexcept {
  const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(scale_code));
  float largest = 0;
  bool nan = false;
  for (int i = 0; i < n; ++i) {
    float d = values[i] * s * task.tensor.amax;
    if (integer) d *= 0x1.B6DB6Ep-1f;  // fl(6/7) = 0x3F5B6DB7
    const float e = d / task.tensor.range - x[i];
    const float magnitude = __builtin_fabsf(e);
    errors[i] = task.select == Select::mse ? e * e : magnitude;
    largest = largest < magnitude ? magnitude : largest;
    nan = nan || e != e;
  }
  if (task.select != Select::absmax) return sum_errors(task.recipe->sum, errors, n, row);
  return nan ? __builtin_bit_cast(float, 0x7FC00000u) : largest;
}

// ---- choices: x[n], of which `row` are side by side -> codes[n] and the block's scale ----

FP4SCOPE_HD constexpr void copy_codes(const std::uint8_t* from, int n, std::uint8_t* to) noexcept {
  for (int i = 0; i < n; ++i) to[i] = from[i];
}

FP4SCOPE_HD constexpr RecipeBlock choose_four_over_six(const RecipeTask& task, float b, const float* x, int n, int row,
                                                       std::uint8_t* codes, const RecipeScratch& room) noexcept {
  const float v = sim::block_value(*task.recipe, task.tensor, b);
  const int six = sim::recipe_scale_code(*task.recipe, *task.format, v);
  const int four = sim::recipe_scale_code(*task.recipe, *task.format, v * 1.5f);
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, six, b, x, n, task.rounding, codes, room.values);
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, four, b, x, n, task.rounding, room.codes,
                    room.second_values);
  const float error_six = candidate_error(task, room.values, six, false, x, n, row, room.errors);
  const float error_four = candidate_error(task, room.second_values, four, false, x, n, row, room.errors);
  if (!(error_four < error_six)) return {six, false};
  copy_codes(room.codes, n, codes);
  return {four, true};
}

FP4SCOPE_HD constexpr RecipeBlock choose_element(const RecipeTask& task, float b, const float* x, int n, int row,
                                                 std::uint8_t* codes, const RecipeScratch& room) noexcept {
  const float v = sim::block_value(*task.recipe, task.tensor, b);
  const int code = sim::recipe_scale_code(*task.recipe, *task.format, v);
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, code, b, x, n, task.rounding, codes, room.values);
  sim::recipe_int4_codes(*task.recipe, *task.format, task.tensor, code, b, x, n, room.codes, room.second_values);
  const float error_fp = candidate_error(task, room.values, code, false, x, n, row, room.errors);
  const float error_int = candidate_error(task, room.second_values, code, true, x, n, row, room.errors);
  if (!(error_int < error_fp)) return {code, false};
  copy_codes(room.codes, n, codes);
  return {code | formats::selection_bit, true};
}

/// sum fl(fl(x - fl(q s))^2) of the codes at a scale.
FP4SCOPE_HD constexpr float qwantize_error(const RecipeTask& task, int code, float b, const float* x, int n,
                                           const RecipeScratch& room) noexcept {
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, code, b, x, n, task.rounding, room.codes, room.values);
  const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(code));
  for (int i = 0; i < n; ++i) {
    const float e = x[i] - room.values[i] * s;
    room.errors[i] = e * e;
  }
  return sum_errors(task.recipe->sum, room.errors, n, n);
}

/// sum fl(max(|x| - 6 s, 0)^2).
FP4SCOPE_HD constexpr float qwantize_clipping(const RecipeTask& task, float s, const float* x, int n,
                                              float* errors) noexcept {
  for (int i = 0; i < n; ++i) {
    const float beyond = __builtin_fabsf(x[i]) - 6 * s, over = beyond < 0 ? 0 : beyond;
    errors[i] = over * over;
  }
  return sum_errors(task.recipe->sum, errors, n, n);
}

/// |x| in ascending order, by gaps (Ciura 2001): a block is short, and its elements are all different or equal bits.
FP4SCOPE_HD constexpr void sort_magnitudes(const float* x, int n, float* sorted) noexcept {
  constexpr int gaps[] = {701, 301, 132, 57, 23, 10, 4, 1};
  for (int i = 0; i < n; ++i) sorted[i] = __builtin_fabsf(x[i]);
  for (const int gap : gaps) {
    for (int i = gap; i < n; ++i) {
      const float magnitude = sorted[i];
      int at = i;
      for (; at >= gap && magnitude < sorted[at - gap]; at -= gap) sorted[at] = sorted[at - gap];
      sorted[at] = magnitude;
    }
  }
}

/// Codes between qwantize's bounds, in order: the first whose error is less than all before it, naive's first.
/// The dead zone's bound sorts |x| and sums squares in binary64, each partial sum rounded to binary32.
FP4SCOPE_HD inline RecipeBlock search_qwantize(const RecipeTask& task, float b, const float* x, int n,
                                               std::uint8_t* codes, const RecipeScratch& room) noexcept {
  const float v = sim::block_value(*task.recipe, task.tensor, b);
  int best = sim::recipe_scale_code(*task.recipe, *task.format, v);
  float least = qwantize_error(task, best, b, x, n, room);
  const float first = least;
  const float bound = (b - __builtin_sqrtf(first)) / 6, low = bound < 0 ? 0 : bound;
  const float* const sorted = room.second_values;
  sort_magnitudes(x, n, room.second_values);
  double energy = 0;
  int affordable = 0;
  for (int i = 0; i < n; ++i) {
    energy += sorted[i] * sorted[i];
    affordable += static_cast<float>(energy) <= first;
  }
  for (int i = 0; i < n; ++i) room.errors[i] = x[i] * x[i];
  const bool noise = affordable >= n || sum_errors(task.recipe->sum, room.errors, n, n) <= first;
  const float high = noise ? 0 : sorted[affordable] / 0.25f;
  for (int code = 1; !noise && code <= static_cast<int>(task.format->scale.max_code); ++code) {
    const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(code));
    if (!(s >= low && s <= high) || !(qwantize_clipping(task, s, x, n, room.errors) < least)) continue;
    const float error = qwantize_error(task, code, b, x, n, room);
    if (error < least) {
      least = error;
      best = code;
    }
  }
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, best, b, x, n, task.rounding, codes);
  return {best, false};
}

/// sum (q - y)^2 in y's units, pairs in fused multiply-adds, times s^2: the kernel's own sequence.
FP4SCOPE_HD inline float scalesweep_error(const sim::RecipeTensor& t, float s, const float* x, const float* values,
                                          int n) noexcept {
  const float inverse = 1 / s;
  float sum = 0;
  for (int i = 0; i < n; ++i) {
    const float d = values[i] - x[i] * t.encode * inverse;
    sum = i == 0 ? d * d : __builtin_fmaf(d, d, sum);
  }
  return sum * (s * s);
}

/// Codes from three below v's to seven above, cut to 1 .. 126; a candidate needs a strictly smaller error. NaN errors
/// never win, so a block of them keeps code 0.
FP4SCOPE_HD inline RecipeBlock search_scalesweep(const RecipeTask& task, float b, const float* x, int n,
                                                 std::uint8_t* codes, const RecipeScratch& room) noexcept {
  const sim::Recipe& r = *task.recipe;
  const int base = sim::recipe_scale_code(r, *task.format, sim::block_value(r, task.tensor, b));
  float least = __builtin_bit_cast(float, 0x7F800000u);
  int best = 0;
  for (int offset = -scalesweep_below; offset <= scalesweep_above; ++offset) {
    const int wanted = base + offset, code = wanted < 1 ? 1 : wanted > 126 ? 126 : wanted;
    sim::recipe_codes(r, *task.format, task.tensor, code, b, x, n, task.rounding, room.codes, room.values);
    const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(code));
    const float error = scalesweep_error(task.tensor, s, x, room.values, n);
    if (!(error < least)) continue;
    least = error;
    best = code;
  }
  sim::recipe_codes(r, *task.format, task.tensor, best, b, x, n, task.rounding, codes);
  return {best, false};
}

/// x[n], of which `row` are side by side -> codes[n] and the block's scale. `b`: the block's recipe_amax.
FP4SCOPE_HD constexpr RecipeBlock recipe_block(const RecipeTask& task, float b, const float* x, int n, int row,
                                               std::uint8_t* codes, const RecipeScratch& room) noexcept {
  const sim::Recipe& r = *task.recipe;
  switch (r.candidates) {
    case sim::Candidates::four_over_six: return choose_four_over_six(task, b, x, n, row, codes, room);
    case sim::Candidates::int4: return choose_element(task, b, x, n, row, codes, room);
    case sim::Candidates::qwantize: return search_qwantize(task, b, x, n, codes, room);
    case sim::Candidates::scalesweep: return search_scalesweep(task, b, x, n, codes, room);
    case sim::Candidates::one: break;
  }
  const int code = r.value == sim::BlockStep::rational
                       ? sim::rational_scale_code(*task.format, task.tensor, b)
                       : sim::recipe_scale_code(r, *task.format, sim::block_value(r, task.tensor, b));
  sim::recipe_codes(r, *task.format, task.tensor, code, b, x, n, task.rounding, codes);
  return {code, false};
}

}  // namespace fp4scope::search
