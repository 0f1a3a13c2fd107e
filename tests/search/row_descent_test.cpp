// search/row_descent.hpp: every pass lowers the row's loss in real numbers; where it stops no block can be bettered;
// the block's optimum where H is block-diagonal; half the output error of the block-diagonal optimum on low-rank data.
#include "search/row_descent.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>
#include <omp.h>

#include "search/closest_vector.hpp"
#include "search/hessian.hpp"
#include "tests/search/row_fixture.hpp"

namespace fp4scope {
namespace {

using rows::hessian_of;
using rows::nvfp4_space;
using search::Assignment;
using search::FullHessian;
using search::RowDescent;
using search::RowDescentOptions;
using search::RowStep;
using search::SearchSpace;

constexpr RowStep all_steps[] = {RowStep::scales, RowStep::coordinate, RowStep::closest};

Assignment sse_start(const SearchSpace& space, int block, const std::vector<float>& x, std::int64_t cols) {
  std::vector<std::uint8_t> scales;
  for (std::size_t at = 0; at < x.size(); at += block) {
    scales.push_back(
        static_cast<std::uint8_t>(search::sse_code(space, {x.data() + at, block, sim::amax(x.data() + at, block)})));
  }
  return search::nearest_assignment(space, block, scales, x.data(), static_cast<std::int64_t>(x.size()) / cols, cols);
}

/// r^T H r of one row in rationals, its values worked out anew.
mpq_class real_loss(const SearchSpace& space, const FullHessian& hessian, int block, const Assignment& a,
                    const std::vector<float>& x, std::int64_t row) {
  const std::int64_t n = hessian.cols;
  std::vector<mpq_class> r;
  for (std::int64_t i = row * n; i < (row + 1) * n; ++i) {
    const int level = a.levels[i];
    const mpq_class step = mpq_class(space.tensor_scale) * space.scale_value[a.scales[i / block]];
    r.push_back(x[i] - (level < 0 ? -1 : 1) * step * space.grid.level[std::abs(level)]);
  }
  mpq_class loss = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) loss += mpq_class(hessian.row(i)[j]) * r[i] * r[j];
  }
  return loss;
}

TEST(RowDescent, every_pass_lowers_the_loss_in_real_numbers_and_reports_it) {
  const std::int64_t cols = 24, count = 3;
  const int block = 4;
  const std::vector<float> x = rows::normal(count * cols, 1, 31);
  const SearchSpace space = nvfp4_space(x);
  const Assignment start = sse_start(space, block, x, cols);
  for (const rows::Activations family : rows::all_activations) {
    const FullHessian hessian = hessian_of(family, 12, cols, 32);
    for (const RowStep step : all_steps) {
      std::vector<mpq_class> before;
      for (int passes = 0; passes <= 6; ++passes) {
        const RowDescent got =
            search::row_descent(space, hessian, block, x.data(), count, start, {step, passes, 100000});
        for (std::int64_t row = 0; row < count; ++row) {
          const mpq_class loss = real_loss(space, hessian, block, got.assignment, x, row);
          const double reported = got.loss.back()[row];
          EXPECT_LE(std::fabs(loss.get_d() - reported), 1e-10 * got.loss[0][row]) << "pass " << passes;
          if (passes > 0) {
            EXPECT_LE(loss, before[row]) << "pass " << passes << " row " << row;
            before[row] = loss;
          } else {
            before.push_back(loss);
          }
        }
      }
      EXPECT_LT(before[0], real_loss(space, hessian, block, start, x, 0)) << "step " << static_cast<int>(step);
    }
  }
}

/// The least change of the row's loss that new codes in one block bring, over all codes and levels tried.
double best_single_change(const SearchSpace& space, const FullHessian& hessian, int block, const Assignment& a,
                          const std::vector<float>& x, std::int64_t b, bool nearest_only) {
  const std::vector<double> r = search::residuals(space, block, a, x.data(), 1, hessian.cols);
  std::vector<double> hr(r.size());
  search::multiply_rows(hessian, r.data(), 1, hr.data());
  double best = 0;
  for (int code = 1; code <= 126; ++code) {
    int combinations = 1;
    for (int i = 0; i < block; ++i) combinations *= 15;
    for (int k = 0; k < (nearest_only ? 1 : combinations); ++k) {
      std::vector<double> d(block);
      int rest = k;
      for (int i = 0; i < block; ++i) {
        const double target = x[b * block + i], step = space.step(code);
        int level = rest % 15 - 7;
        rest /= 15;
        if (nearest_only) level = search::nearest_level(sim::make_thresholds(space.grid, step), target);
        d[i] = target - search::signed_level(space, level) * step - r[b * block + i];
      }
      double change = 0;
      for (int i = 0; i < block; ++i) {
        double dot = 2 * hr[b * block + i];
        for (int j = 0; j < block; ++j) dot += hessian.row(b * block + i)[b * block + j] * d[j];
        change += d[i] * dot;
      }
      best = std::min(best, change);
    }
  }
  return best;
}

TEST(RowDescent, stops_where_no_change_of_one_block_helps) {
  const std::int64_t cols = 8;
  const int block = 2;
  for (const rows::Activations family : rows::all_activations) {
    const std::vector<float> x = rows::normal(cols, 1, 33 + static_cast<int>(family));
    const SearchSpace space = nvfp4_space(x);
    const FullHessian hessian = hessian_of(family, 6, cols, 34);
    for (const RowStep step : {RowStep::scales, RowStep::closest}) {
      const RowDescent got = search::row_descent(space, hessian, block, x.data(), 1, sse_start(space, block, x, cols),
                                                 {step, 100, 10000000});
      ASSERT_LT(got.loss.size(), 100u);
      for (std::int64_t b = 0; b < cols / block; ++b) {
        const double change = best_single_change(space, hessian, block, got.assignment, x, b, step == RowStep::scales);
        EXPECT_GE(change, -1e-11 * got.loss[0][0]) << "block " << b << " family " << static_cast<int>(family);
      }
    }
  }
}

TEST(RowDescent, finds_each_blocks_optimum_where_h_is_block_diagonal) {
  const std::int64_t cols = 32;
  const int block = 8;
  const std::vector<float> x = rows::normal(cols, 1, 35);
  const SearchSpace space = nvfp4_space(x);
  FullHessian hessian = hessian_of(rows::Activations::autoregressive, 60, cols, 36);
  for (std::int64_t i = 0; i < cols * cols; ++i) {
    if (i / cols / block != i % cols / block) hessian.h[i] = 0;
  }
  const search::Hessians blocks = search::diagonal_blocks(hessian, block);
  const Assignment start = sse_start(space, block, x, cols);
  const RowDescent scales = search::row_descent(space, hessian, block, x.data(), 1, start, {RowStep::scales, 9, 0});
  const RowDescent joint =
      search::row_descent(space, hessian, block, x.data(), 1, start, {RowStep::closest, 9, 100000000});
  for (std::size_t b = 0; b < 4; ++b) {
    std::vector<double> room(2 * block), target(x.begin() + b * block, x.begin() + (b + 1) * block);
    std::vector<search::LossInterval> loss(256);
    const search::Block one = {x.data() + b * block, block, sim::amax(x.data() + b * block, block)};
    const int want =
        search::hessian_code(space, one, {blocks.of(b), blocks.envelope.data() + b * block}, room.data(), loss.data());
    EXPECT_EQ(static_cast<int>(scales.assignment.scales[b]), want) << "block " << b;
    search::ClosestVectorRoom closest_room;
    const search::BlockProblem problem = {block, target.data(), blocks.of(b), nullptr};
    const search::BlockSolution best = search::closest_vector(space, problem, {100000000}, closest_room);
    ASSERT_TRUE(best.proved);
    const double got =
        search::loss_of(space, problem, joint.assignment.scales[b], joint.assignment.levels.data() + b * block);
    EXPECT_NEAR(got, best.loss, 1e-11 * best.loss) << "block " << b;
  }
}

TEST(RowDescent, halves_the_output_error_of_the_block_diagonal_optimum_on_low_rank_activations) {
  const std::int64_t cols = 256, tokens = cols / 4, count = 8;
  const int block = 16;
  const std::vector<float> x = rows::normal(count * cols, 1, 37),
                           acts = rows::activations(rows::Activations::independent, tokens, cols, 38);
  const SearchSpace space = nvfp4_space(x);
  const FullHessian hessian = search::make_full_hessian(acts.data(), tokens, cols);
  const search::Hessians blocks = search::make_hessians(acts.data(), tokens, cols, block);
  search::SearchTask task = {&formats::nvfp4, search::find_method("nvfp4", "hessian")};
  task.tensor_scale = static_cast<float>(space.tensor_scale);
  task.hessians = &blocks;
  const Assignment start = search::nearest_assignment(
      space, block, search::search_scales(task, x.data(), count, cols).scales, x.data(), count, cols);
  for (const RowStep step : all_steps) {
    const RowDescent got = search::row_descent(space, hessian, block, x.data(), count, start, {step, 30, 300});
    double before = 0, after = 0;
    for (std::int64_t row = 0; row < count; ++row) {
      before += got.loss.front()[row];
      after += got.loss.back()[row];
    }
    EXPECT_LT(after, before / (step == RowStep::scales ? 2 : 10)) << "step " << static_cast<int>(step);
  }
}

/// Nearest elements at any scale lose more than the joint optimum that they start from: nothing may be taken.
TEST(RowDescent, keeps_a_start_that_its_step_cannot_better) {
  const std::int64_t cols = 64, count = 6;
  const std::vector<float> x = rows::normal(count * cols, 1, 43);
  const SearchSpace space = nvfp4_space(x);
  for (const rows::Activations family : rows::all_activations) {
    const FullHessian hessian = hessian_of(family, 40, cols, 44);
    const RowDescent joint = search::row_descent(space, hessian, 16, x.data(), count, sse_start(space, 16, x, cols),
                                                 {RowStep::closest, 30, 2000});
    const RowDescent scales =
        search::row_descent(space, hessian, 16, x.data(), count, joint.assignment, {RowStep::scales, 5, 0});
    for (std::int64_t row = 0; row < count; ++row) EXPECT_LE(scales.loss.back()[row], joint.loss.back()[row]);
  }
}

TEST(RowDescent, neither_threads_nor_other_rows_change_a_row) {
  const std::int64_t cols = 64, count = 19;
  const std::vector<float> x = rows::normal(count * cols, 1, 39);
  const SearchSpace space = nvfp4_space(x);
  const FullHessian hessian = hessian_of(rows::Activations::common, 80, cols, 40);
  const Assignment start = sse_start(space, 16, x, cols);
  const Assignment last = {{start.scales.end() - cols / 16, start.scales.end()},
                           {start.levels.end() - cols, start.levels.end()}};
  for (const RowStep step : all_steps) {
    const RowDescentOptions options = {step, 4, 300};
    omp_set_num_threads(1);
    const RowDescent one = search::row_descent(space, hessian, 16, x.data(), count, start, options);
    omp_set_num_threads(2);
    const RowDescent two = search::row_descent(space, hessian, 16, x.data(), count, start, options);
    EXPECT_EQ(one.assignment.scales, two.assignment.scales);
    EXPECT_EQ(one.assignment.levels, two.assignment.levels);
    EXPECT_EQ(one.loss, two.loss);
    EXPECT_EQ(one.changes, two.changes);
    const RowDescent alone = search::row_descent(space, hessian, 16, x.data() + (count - 1) * cols, 1, last, options);
    EXPECT_TRUE(
        std::equal(alone.assignment.levels.begin(), alone.assignment.levels.end(), one.assignment.levels.end() - cols));
    EXPECT_EQ(alone.loss.back()[0], one.loss.back()[count - 1]);
  }
}

/// All losses are 0, so no change is accepted; a start of zeros for a zero row is kept.
TEST(RowDescent, leaves_zero_activations_and_zero_rows_alone) {
  const std::vector<float> x = rows::normal(32, 1, 41), zeros(32, 0.0f);
  const SearchSpace space = nvfp4_space(x);
  const FullHessian none = {32, std::vector<double>(32 * 32, 0.0)};
  const FullHessian some = hessian_of(rows::Activations::common, 40, 32, 42);
  for (const RowStep step : all_steps) {
    const Assignment start = sse_start(space, 16, x, 32);
    EXPECT_EQ(search::row_descent(space, none, 16, x.data(), 1, start, {step, 5, 300}).changes, 0);
    const Assignment empty = {{0, 0}, std::vector<std::int8_t>(32, 0)};
    EXPECT_EQ(search::row_descent(space, some, 16, zeros.data(), 1, empty, {step, 5, 300}).changes, 0);
  }
}

}  // namespace
}  // namespace fp4scope
