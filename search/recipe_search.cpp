#include "search/recipe_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "search/window.hpp"

namespace fp4scope::search {

namespace {

using sim::Candidates;
using sim::SumOrder;

float sum_eight_lanes(const float* e, int n) {
  float lane[8] = {};
  for (int i = 0; i < n; ++i) lane[i % 8] += e[i];
  float sum = 0;
  for (const float l : lane) sum += l;
  return sum;
}

/// Rows sequentially, then rows i and i + 8, i + 4, i + 2, i + 1; a tile of 16 rows, or fewer where the matrix ends.
float sum_row_tree(const float* e, int n, int row) {
  float rows[32] = {};
  for (int i = 0; i < n; ++i) rows[i / row] += e[i];
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) rows[i] += rows[i + step];
  }
  return rows[0];
}

float sum_errors(SumOrder order, const float* e, int n, int row) {
  if (order == SumOrder::eight_lanes) return sum_eight_lanes(e, n);
  if (order == SumOrder::row_tree && n > row) return sum_row_tree(e, n, row);
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += e[i];
  return sum;
}

/// The error of a candidate's values in the recipe's arithmetic.
float candidate_error(const RecipeTask& task, const float* values, int scale_code, bool integer, const float* x, int n,
                      int row, std::vector<float>& errors) {
  const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(scale_code));
  errors.resize(static_cast<std::size_t>(n));
  float largest = 0;
  bool nan = false;
  for (int i = 0; i < n; ++i) {
    float d = values[i] * s * task.tensor.amax;
    if (integer) d *= 0x1.B6DB6Ep-1f;  // fl(6/7) = 0x3F5B6DB7
    const float e = d / task.tensor.range - x[i];
    errors[static_cast<std::size_t>(i)] = task.select == Select::mse ? e * e : std::fabs(e);
    largest = std::max(largest, std::fabs(e));
    nan = nan || std::isnan(e);
  }
  if (task.select != Select::absmax) return sum_errors(task.recipe->sum, errors.data(), n, row);
  return nan ? std::numeric_limits<float>::quiet_NaN() : largest;
}

RecipeBlock choose_four_over_six(const RecipeTask& task, float b, const float* x, int n, int row, std::uint8_t* codes,
                                 RecipeRoom& room) {
  const float v = sim::block_value(*task.recipe, task.tensor, b);
  const int six = sim::recipe_scale_code(*task.recipe, *task.format, v);
  const int four = sim::recipe_scale_code(*task.recipe, *task.format, v * 1.5f);
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, six, b, x, n, task.rounding, codes, room.values.data());
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, four, b, x, n, task.rounding, room.codes.data(),
                    room.second_values.data());
  const float error_six = candidate_error(task, room.values.data(), six, false, x, n, row, room.errors);
  const float error_four = candidate_error(task, room.second_values.data(), four, false, x, n, row, room.errors);
  if (!(error_four < error_six)) return {six, false};
  std::copy_n(room.codes.begin(), n, codes);
  return {four, true};
}

RecipeBlock choose_element(const RecipeTask& task, float b, const float* x, int n, int row, std::uint8_t* codes,
                           RecipeRoom& room) {
  const float v = sim::block_value(*task.recipe, task.tensor, b);
  const int code = sim::recipe_scale_code(*task.recipe, *task.format, v);
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, code, b, x, n, task.rounding, codes, room.values.data());
  sim::recipe_int4_codes(*task.recipe, *task.format, task.tensor, code, b, x, n, room.codes.data(),
                         room.second_values.data());
  const float error_fp = candidate_error(task, room.values.data(), code, false, x, n, row, room.errors);
  const float error_int = candidate_error(task, room.second_values.data(), code, true, x, n, row, room.errors);
  if (!(error_int < error_fp)) return {code, false};
  std::copy_n(room.codes.begin(), n, codes);
  return {code | formats::selection_bit, true};
}

/// sum fl(fl(x - fl(q s))^2) of the codes at a scale.
float qwantize_error(const RecipeTask& task, int code, float b, const float* x, int n, RecipeRoom& room) {
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, code, b, x, n, task.rounding, room.codes.data(),
                    room.values.data());
  const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(code));
  room.errors.resize(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) {
    const float e = x[i] - room.values[static_cast<std::size_t>(i)] * s;
    room.errors[static_cast<std::size_t>(i)] = e * e;
  }
  return sum_errors(task.recipe->sum, room.errors.data(), n, n);
}

/// sum fl(max(|x| - 6 s, 0)^2).
float qwantize_clipping(const RecipeTask& task, float s, const float* x, int n, RecipeRoom& room) {
  for (int i = 0; i < n; ++i) {
    const float over = std::max(std::fabs(x[i]) - 6 * s, 0.0f);
    room.errors[static_cast<std::size_t>(i)] = over * over;
  }
  return sum_errors(task.recipe->sum, room.errors.data(), n, n);
}

/// Codes between qwantize's bounds, in order: the first whose error is less than all before it, naive's first.
/// The dead zone's bound sorts |x| and sums squares in binary64, each partial sum rounded to binary32.
RecipeBlock search_qwantize(const RecipeTask& task, float b, const float* x, int n, std::uint8_t* codes,
                            RecipeRoom& room) {
  const float v = sim::block_value(*task.recipe, task.tensor, b);
  int best = sim::recipe_scale_code(*task.recipe, *task.format, v);
  float least = qwantize_error(task, best, b, x, n, room);
  const float first = least;
  const float low = std::max((b - std::sqrt(first)) / 6, 0.0f);
  room.sorted.assign(x, x + n);
  for (float& magnitude : room.sorted) magnitude = std::fabs(magnitude);
  std::sort(room.sorted.begin(), room.sorted.end());
  double energy = 0;
  int affordable = 0;
  for (const float magnitude : room.sorted) {
    energy += magnitude * magnitude;
    affordable += static_cast<float>(energy) <= first;
  }
  for (int i = 0; i < n; ++i) room.errors[static_cast<std::size_t>(i)] = x[i] * x[i];
  const bool noise = affordable >= n || sum_errors(task.recipe->sum, room.errors.data(), n, n) <= first;
  if (!noise) {
    const float high = room.sorted[static_cast<std::size_t>(affordable)] / 0.25f;
    for (int code = 1; code <= static_cast<int>(task.format->scale.max_code); ++code) {
      const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(code));
      if (!(s >= low && s <= high) || !(qwantize_clipping(task, s, x, n, room) < least)) continue;
      const float error = qwantize_error(task, code, b, x, n, room);
      if (error < least) {
        least = error;
        best = code;
      }
    }
  }
  sim::recipe_codes(*task.recipe, *task.format, task.tensor, best, b, x, n, task.rounding, codes);
  return {best, false};
}

/// sum (q - y)^2 in y's units, pairs in fused multiply-adds, times s^2: the kernel's own sequence.
float scalesweep_error(const sim::RecipeTensor& t, float s, const float* x, const float* values, int n) {
  const float inverse = 1 / s;
  float sum = 0;
  for (int i = 0; i < n; ++i) {
    const float d = values[i] - x[i] * t.encode * inverse;
    sum = i == 0 ? d * d : std::fma(d, d, sum);
  }
  return sum * (s * s);
}

/// Codes from three below v's to seven above, cut to 1 .. 126; a candidate needs a strictly smaller error. NaN errors
/// never win, so a block of them keeps code 0.
RecipeBlock search_scalesweep(const RecipeTask& task, float b, const float* x, int n, std::uint8_t* codes,
                              RecipeRoom& room) {
  const sim::Recipe& r = *task.recipe;
  const int base = sim::recipe_scale_code(r, *task.format, sim::block_value(r, task.tensor, b));
  float least = std::numeric_limits<float>::infinity();
  int best = 0;
  for (int offset = -scalesweep_below; offset <= scalesweep_above; ++offset) {
    const int code = std::clamp(base + offset, 1, 126);
    sim::recipe_codes(r, *task.format, task.tensor, code, b, x, n, task.rounding, room.codes.data(),
                      room.values.data());
    const float s = formats::decode_float(task.format->scale, static_cast<std::uint32_t>(code));
    const float error = scalesweep_error(task.tensor, s, x, room.values.data(), n);
    if (!(error < least)) continue;
    least = error;
    best = code;
  }
  sim::recipe_codes(r, *task.format, task.tensor, best, b, x, n, task.rounding, codes);
  return {best, false};
}

}  // namespace

float recipe_amax(const sim::Recipe& recipe, const float* x, std::int64_t n) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float magnitude = std::fabs(x[i]);
    if (std::isnan(magnitude) && recipe.nan_amax) return std::numeric_limits<float>::quiet_NaN();
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

RecipeBlock recipe_block(const RecipeTask& task, float b, const float* x, int n, int row, std::uint8_t* codes,
                         RecipeRoom& room) {
  for (std::vector<float>* values : {&room.values, &room.second_values, &room.errors}) {
    values->resize(static_cast<std::size_t>(n));
  }
  room.codes.resize(static_cast<std::size_t>(n));
  switch (task.recipe->candidates) {
    case Candidates::four_over_six: return choose_four_over_six(task, b, x, n, row, codes, room);
    case Candidates::int4: return choose_element(task, b, x, n, row, codes, room);
    case Candidates::qwantize: return search_qwantize(task, b, x, n, codes, room);
    case Candidates::scalesweep: return search_scalesweep(task, b, x, n, codes, room);
    case Candidates::one: break;
  }
  const sim::Recipe& r = *task.recipe;
  const int code = r.value == sim::BlockStep::rational
                       ? sim::rational_scale_code(*task.format, task.tensor, b)
                       : sim::recipe_scale_code(r, *task.format, sim::block_value(r, task.tensor, b));
  sim::recipe_codes(r, *task.format, task.tensor, code, b, x, n, task.rounding, codes);
  return {code, false};
}

}  // namespace fp4scope::search
