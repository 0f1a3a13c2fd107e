// search/gptq.hpp: against the definition, which solves for all columns that are still free before every decision.
#include "search/gptq.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include "formats/error.hpp"
#include "search/hessian.hpp"
#include "tests/search/row_fixture.hpp"

namespace fp4scope {
namespace {

using rows::hessian_of;
using rows::nvfp4_space;
using search::Assignment;
using search::FullHessian;
using search::GptqPlan;
using search::GptqScale;
using search::SearchSpace;

constexpr GptqScale all_choices[] = {GptqScale::naive, GptqScale::sse, GptqScale::hessian, GptqScale::feedback,
                                     GptqScale::closest};

double total_loss(const SearchSpace& space, const FullHessian& hessian, int block, const Assignment& a,
                  const std::vector<float>& x) {
  const auto count = static_cast<std::int64_t>(x.size()) / hessian.cols;
  const std::vector<double> r = search::residuals(space, block, a, x.data(), count, hessian.cols);
  double sum = 0;
  for (const double loss : search::row_losses(hessian, r.data(), count)) sum += loss;
  return sum;
}

/// One row by the definition, H damped, in long double. Shares nothing with U D U^T.
class Definition {
 public:
  using Real = long double;

  Definition(const SearchSpace& space, const FullHessian& hessian, double shift, int block, const float* x)
      : space_(space), n_(static_cast<int>(hessian.cols)), block_(block), h_(hessian.h.begin(), hessian.h.end()) {
    for (int i = 0; i < n_; ++i) h_[i * n_ + i] += shift;
    x_.assign(x, x + n_);
    r_.resize(n_);
    level.resize(n_);
  }

  void run(GptqScale choice) {
    for (int at = 0; at < n_; at += block_) {
      const int code = choose(choice, at);
      scales.push_back(code);
      const double step = space_.step(code);
      for (int i = at; i < at + block_; ++i) {
        level[i] = nearest(optimum(i)[i], step);
        r_[i] = x_[i] - value(level[i], step);
      }
    }
  }

  std::vector<int> scales, level;

 private:
  Real value(int l, double step) const { return (l < 0 ? -1 : 1) * space_.grid.level[std::abs(l)] * step; }

  int nearest(Real target, double step) const {
    int best = 0;
    for (int l = -7; l <= 7; ++l) {
      if (std::fabs(target - value(l, step)) < std::fabs(target - value(best, step))) best = l;
    }
    return best;
  }

  /// Where all columns from `first` on stand when they compensate for what is decided: Gaussian elimination.
  std::vector<Real> optimum(int first) const {
    const int m = n_ - first;
    std::vector<Real> a(m * (m + 1));
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < m; ++j) a[i * (m + 1) + j] = h_[(first + i) * n_ + first + j];
      for (int j = 0; j < first; ++j) a[i * (m + 1) + m] -= h_[(first + i) * n_ + j] * r_[j];
    }
    for (int k = 0; k < m; ++k) {
      for (int i = 0; i < m; ++i) {
        if (i == k) continue;
        const Real factor = a[i * (m + 1) + k] / a[k * (m + 1) + k];
        for (int j = k; j <= m; ++j) a[i * (m + 1) + j] -= factor * a[k * (m + 1) + j];
      }
    }
    std::vector<Real> y(n_);
    for (int i = 0; i < m; ++i) y[first + i] = x_[first + i] - a[i * (m + 1) + m] / a[i * (m + 1) + i];
    return y;
  }

  /// r^T H r when the block is put at v and all later columns compensate.
  Real loss_with(int at, const std::vector<Real>& v) const {
    Definition fixed = *this;
    for (int i = 0; i < block_; ++i) fixed.r_[at + i] = x_[at + i] - v[i];
    std::vector<Real> r = fixed.r_;
    if (at + block_ < n_) {
      const std::vector<Real> y = fixed.optimum(at + block_);
      for (int i = at + block_; i < n_; ++i) r[i] = x_[i] - y[i];
    }
    Real sum = 0;
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j < n_; ++j) sum += r[i] * h_[i * n_ + j] * r[j];
    }
    return sum;
  }

  int choose(GptqScale choice, int at) const {
    const std::vector<Real> y = optimum(at);
    std::vector<float> rounded;
    for (int i = 0; i < block_; ++i) rounded.push_back(static_cast<float>(y[at + i]));
    const search::Block block = {rounded.data(), block_, sim::amax(rounded.data(), block_)};
    if (choice == GptqScale::naive) {
      return sim::scale_code(space_.scale, sim::six_rule, block.amax, static_cast<float>(space_.tensor_scale));
    }
    if (choice == GptqScale::sse) return search::sse_code_ref(space_, block);
    int best = 1;
    Real least = INFINITY;
    for (int code = 1; code <= 126; ++code) {
      std::vector<Real> v;
      Definition tried = *this;
      for (int i = 0; i < block_; ++i) {
        const Real target = choice == GptqScale::hessian ? rounded[i] : tried.optimum(at + i)[at + i];
        v.push_back(value(nearest(target, space_.step(code)), space_.step(code)));
        tried.r_[at + i] = x_[at + i] - v.back();
      }
      const Real loss = loss_with(at, v);
      if (loss < least) least = loss, best = code;
    }
    return best;
  }

  const SearchSpace& space_;
  int n_, block_;
  std::vector<Real> h_, x_, r_;
};

TEST(Gptq, equals_the_definition_that_solves_for_all_free_columns) {
  const std::int64_t cols = 12;
  const int block = 4;
  const std::vector<float> x = rows::normal(3 * cols, 1, 11);
  const SearchSpace space = nvfp4_space(x);
  for (const rows::Activations family : rows::all_activations) {
    const FullHessian hessian = hessian_of(family, 20, cols, 12);
    const GptqPlan plan = search::make_gptq_plan(hessian, block);
    for (const GptqScale choice : {GptqScale::naive, GptqScale::sse, GptqScale::hessian, GptqScale::feedback}) {
      const Assignment got = search::gptq(space, plan, choice, x.data(), 3);
      for (int row = 0; row < 3; ++row) {
        Definition want(space, hessian, plan.factor.shift, block, x.data() + row * cols);
        want.run(choice);
        for (int b = 0; b < 3; ++b) {
          EXPECT_EQ(static_cast<int>(got.scales[row * 3 + b]), want.scales[b])
              << "choice " << static_cast<int>(choice) << " family " << static_cast<int>(family) << " row " << row
              << " block " << b;
        }
        for (int i = 0; i < cols; ++i) {
          EXPECT_EQ(static_cast<int>(got.levels[row * cols + i]), want.level[i])
              << "choice " << static_cast<int>(choice) << " row " << row << " column " << i;
        }
      }
    }
  }
}

TEST(Gptq, a_diagonal_hessian_leaves_nothing_to_compensate) {
  const std::int64_t cols = 64, count = 5;
  const std::vector<float> x = rows::normal(count * cols, 1, 13);
  FullHessian hessian = {cols, std::vector<double>(cols * cols, 0.0)};
  for (int i = 0; i < cols; ++i) hessian.h[i * (cols + 1)] = 1 + i % 7;
  const SearchSpace space = nvfp4_space(x);
  const Assignment got =
      search::gptq(space, search::make_gptq_plan(hessian, 16, true), GptqScale::sse, x.data(), count);
  for (std::int64_t b = 0; b < count * cols / 16; ++b) {
    const search::Block block = {x.data() + b * 16, 16, sim::amax(x.data() + b * 16, 16)};
    ASSERT_EQ(static_cast<int>(got.scales[b]), search::sse_code(space, block)) << "block " << b;
  }
  EXPECT_EQ(got.levels, search::nearest_assignment(space, 16, got.scales, x.data(), count, cols).levels);
}

TEST(Gptq, loses_less_than_nearest_elements_at_the_same_kind_of_scale) {
  const std::int64_t cols = 128, count = 16;
  const std::vector<float> x = rows::normal(count * cols, 1, 14);
  const SearchSpace space = nvfp4_space(x);
  for (const rows::Activations family : rows::all_activations) {
    const FullHessian hessian = hessian_of(family, 2 * cols, cols, 15);
    std::vector<std::uint8_t> naive, sse;
    for (std::int64_t b = 0; b < count * cols / 16; ++b) {
      const search::Block block = {x.data() + b * 16, 16, sim::amax(x.data() + b * 16, 16)};
      sse.push_back(static_cast<std::uint8_t>(search::sse_code(space, block)));
      naive.push_back(static_cast<std::uint8_t>(
          sim::scale_code(space.scale, sim::six_rule, block.amax, static_cast<float>(space.tensor_scale))));
    }
    const auto nearest_loss = [&](const std::vector<std::uint8_t>& scales) {
      return total_loss(space, hessian, 16, search::nearest_assignment(space, 16, scales, x.data(), count, cols), x);
    };
    for (const bool ordered : {false, true}) {
      const GptqPlan plan = search::make_gptq_plan(hessian, 16, ordered);
      const auto loss = [&](GptqScale choice) {
        return total_loss(space, hessian, 16, search::gptq(space, plan, choice, x.data(), count, 2000), x);
      };
      EXPECT_LT(loss(GptqScale::naive), nearest_loss(naive)) << static_cast<int>(family);
      EXPECT_LT(loss(GptqScale::sse), nearest_loss(sse)) << static_cast<int>(family);
      EXPECT_LT(loss(GptqScale::feedback), nearest_loss(sse)) << static_cast<int>(family);
      EXPECT_LT(loss(GptqScale::closest), loss(GptqScale::naive)) << static_cast<int>(family);
    }
  }
}

/// One block and no damping: the loss is the row's.
TEST(Gptq, feedback_chooses_the_best_code_of_its_own_and_closest_is_better_still) {
  const std::int64_t cols = 8, count = 20;
  const std::vector<float> x = rows::normal(count * cols, 1, 16);
  const SearchSpace space = nvfp4_space(x);
  const FullHessian hessian = hessian_of(rows::Activations::autoregressive, 30, cols, 17);
  const GptqPlan plan = search::make_gptq_plan(hessian, static_cast<int>(cols), false, 0);
  for (std::int64_t row = 0; row < count; ++row) {
    const std::vector<float> one(x.begin() + row * cols, x.begin() + (row + 1) * cols);
    double loss[5];
    for (int k = 0; k < 5; ++k) {
      const Assignment a = search::gptq(space, plan, all_choices[k], one.data(), 1, 10000000);
      loss[k] = total_loss(space, hessian, static_cast<int>(cols), a, one);
    }
    for (int k = 0; k < 3; ++k) EXPECT_LE(loss[3], loss[k] * (1 + 1e-12)) << "row " << row << " choice " << k;
    EXPECT_LE(loss[4], loss[3] * (1 + 1e-12)) << "row " << row;
  }
}

TEST(Gptq, ordered_is_gptq_of_the_blocks_moved_to_descending_diagonals) {
  const std::int64_t cols = 48;
  const int block = 16;
  std::vector<float> x = rows::normal(2 * cols, 1, 18),
                     acts = rows::activations(rows::Activations::common, 60, cols, 19);
  for (std::size_t i = 0; i < acts.size(); ++i) acts[i] *= static_cast<float>(1 + (i % cols / block + 1) % 3);
  const FullHessian hessian = search::make_full_hessian(acts.data(), 60, cols);
  const GptqPlan plan = search::make_gptq_plan(hessian, block, true);
  EXPECT_EQ(plan.order, (std::vector<std::int64_t>{1, 0, 2}));
  const auto move = [&](const std::vector<float>& from) {
    std::vector<float> to(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) {
      to[i] = from[i - i % cols + plan.order[i % cols / block] * block + i % block];
    }
    return to;
  };
  const std::vector<float> moved = move(x), moved_acts = move(acts);
  const GptqPlan natural = search::make_gptq_plan(search::make_full_hessian(moved_acts.data(), 60, cols), block);
  const SearchSpace space = nvfp4_space(x);
  const Assignment got = search::gptq(space, plan, GptqScale::hessian, x.data(), 2),
                   want = search::gptq(space, natural, GptqScale::hessian, moved.data(), 2);
  for (std::int64_t i = 0; i < 2 * cols; ++i) {
    const std::int64_t from = i - i % cols + plan.order[i % cols / block] * block + i % block;
    ASSERT_EQ(static_cast<int>(got.levels[from]), static_cast<int>(want.levels[i])) << "column " << i;
    ASSERT_EQ(static_cast<int>(got.scales[from / block]), static_cast<int>(want.scales[i / block])) << "column " << i;
  }
}

TEST(Gptq, neither_threads_nor_other_rows_change_a_row) {
  const std::int64_t cols = 96, count = 19;
  const std::vector<float> x = rows::normal(count * cols, 1, 20);
  const SearchSpace space = nvfp4_space(x);
  const GptqPlan plan = search::make_gptq_plan(hessian_of(rows::Activations::common, 100, cols, 21), 16, true);
  for (const GptqScale choice : all_choices) {
    omp_set_num_threads(1);
    const Assignment one = search::gptq(space, plan, choice, x.data(), count, 500);
    omp_set_num_threads(2);
    const Assignment two = search::gptq(space, plan, choice, x.data(), count, 500);
    EXPECT_EQ(one.scales, two.scales);
    EXPECT_EQ(one.levels, two.levels);
    const Assignment alone = search::gptq(space, plan, choice, x.data() + 13 * cols, 1, 500);
    EXPECT_TRUE(std::equal(alone.levels.begin(), alone.levels.end(), one.levels.begin() + 13 * cols));
  }
}

TEST(Gptq, refuses_a_hessian_that_damping_does_not_make_definite) {
  const FullHessian zero = {32, std::vector<double>(32 * 32, 0.0)};
  EXPECT_THROW(search::make_gptq_plan(zero, 16), Error);
}

}  // namespace
}  // namespace fp4scope
