// search/tensor_scale.hpp: F against every code of every block, the bound against F at thousands of tensor scales, the
// published numbers of SOAR's alternation.
#include "search/tensor_scale.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include "formats/error.hpp"
#include "tests/search/rows.hpp"

namespace fp4scope {
namespace {

using search::TensorScaleResult;

/// F(T) by its definition: every code, every level.
double definition(const formats::BlockFormat& format, int block, const std::vector<float>& x, float tensor_scale) {
  double sum = 0;
  for (std::size_t at = 0; at < x.size(); at += block) {
    double least = INFINITY;
    for (std::uint32_t code = 1; code <= format.scale.max_code; ++code) {
      const double step = tensor_scale * formats::decode_double(format.scale, code);
      double sse = 0;
      for (int i = 0; i < block; ++i) {
        double nearest = INFINITY;
        for (std::uint32_t level = 0; level <= format.element.max_code; ++level) {
          const double error = std::fabs(x[at + i]) - formats::decode_double(format.element, level) * step;
          nearest = std::min(nearest, error * error);
        }
        sse += nearest;
      }
      least = std::min(least, sse);
    }
    sum += least;
  }
  return sum;
}

double energy(const std::vector<float>& x) {
  double sum = 0;
  for (const float value : x) sum += static_cast<double>(value) * value;
  return sum;
}

TEST(TensorScale, the_loss_is_the_sum_over_blocks_of_the_least_over_all_codes) {
  for (const formats::BlockFormat& format : {formats::nvfp4, formats::nvint4}) {
    const std::vector<float> x = rows::normal(4 * 32, 1, 71);
    for (const float t : {1e-6f, 3e-4f, 1.6e-3f, 2e-3f, 0.01f, 1.0f, 300.0f}) {
      const double want = definition(format, 16, x, t);
      EXPECT_NEAR(search::tensor_scale_loss(format, 16, x.data(), 4, 32, t), want, 1e-12 * want) << format.name << t;
    }
  }
}

TEST(TensorScale, no_tensor_scale_is_below_the_bound_which_is_within_the_tolerance) {
  for (const formats::BlockFormat& format : {formats::nvfp4, formats::nvint4}) {
    for (const int outlier : {1, 40}) {
      std::vector<float> x = rows::normal(8 * 32, 0.02, 72);
      x[77] *= static_cast<float>(outlier);
      for (const double tolerance : {1e-2, 1e-4}) {
        const TensorScaleResult got = search::search_tensor_scale(format, 16, x.data(), 8, 32, {tolerance, 100000});
        EXPECT_LE(got.loss, (1 + tolerance) * got.lower_bound);
        EXPECT_NEAR(got.loss, definition(format, 16, x, got.tensor_scale), 1e-12 * got.loss);
        for (const search::ScaledLoss& s : search::headroom_losses(format, 16, x.data(), 8, 32)) {
          EXPECT_LE(got.loss, s.loss) << s.scale_max;
        }
        const float amax = sim::amax(x.data(), 8 * 32);
        for (double t = amax * 1e-6; t < amax; t *= 1.003) {
          const double loss = search::tensor_scale_loss(format, 16, x.data(), 8, 32, static_cast<float>(t));
          ASSERT_GE(loss, got.lower_bound * (1 - 1e-12)) << format.name << " T " << t << " outlier " << outlier;
        }
      }
    }
  }
}

/// Scales from 0.5 to 6 only: clipping the one large block pays, below half of the domain's end.
TEST(TensorScale, the_bound_holds_where_clipping_pays) {
  const formats::BlockFormat narrow = {"narrow", formats::e2m1, formats::e2m1, 16, true, 6};
  std::vector<float> x = rows::normal(32 * 32, 1, 79);
  for (std::size_t i = 64; i < x.size(); ++i) x[i] /= 4;
  x[5] = 12;
  const TensorScaleResult got = search::search_tensor_scale(narrow, 16, x.data(), 32, 32, {1e-4, 100000});
  const float amax = sim::amax(x.data(), 32 * 32);
  EXPECT_LT(got.tensor_scale, amax / 28);  // of a domain that ends at 2 amax / (7 * 4)
  for (double t = amax * 1e-4; t < amax; t *= 1.003) {
    const double loss = search::tensor_scale_loss(narrow, 16, x.data(), 32, 32, static_cast<float>(t));
    ASSERT_GE(loss, got.lower_bound) << "T " << t;
  }
}

TEST(TensorScale, tolerance_0_ends_at_the_best_float_with_the_bound_below_it) {
  const std::vector<float> x = rows::normal(32, 1, 80);
  const TensorScaleResult got = search::search_tensor_scale(formats::nvfp4, 16, x.data(), 1, 32, {0, 1000000});
  EXPECT_LT(got.evaluations, 20000);
  EXPECT_LT(got.lower_bound, got.loss);
  EXPECT_NEAR(got.lower_bound, got.loss, 1e-8 * got.loss);
  float below = got.tensor_scale, above = got.tensor_scale;
  for (int i = 0; i < 200; ++i) {
    below = std::nextafter(below, 0.0f);
    above = std::nextafter(above, 1.0f);
    for (const float t : {below, above}) {
      const double loss = search::tensor_scale_loss(formats::nvfp4, 16, x.data(), 1, 32, t);
      EXPECT_GE(loss, got.loss * (1 - 0x1p-27)) << t;
    }
  }
}

/// One block, T free: the best T makes the block's best real step a code, so the loss is that of a search over steps.
TEST(TensorScale, finds_the_best_real_scale_of_a_single_block) {
  const std::vector<float> x = rows::normal(16, 1, 73);
  const TensorScaleResult got = search::search_tensor_scale(formats::nvfp4, 16, x.data(), 1, 16, {1e-5, 100000});
  double least = INFINITY;
  for (double step = 0.05; step < 2; step += 1e-5) {
    double sse = 0;
    for (const float value : x) {
      double nearest = INFINITY;
      for (const double level : {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}) {
        nearest = std::min(nearest, std::fabs(std::fabs(value) - level * step));
      }
      sse += nearest * nearest;
    }
    least = std::min(least, sse);
  }
  EXPECT_LE(got.lower_bound, least);
  EXPECT_NEAR(got.loss, least, 2e-5 * least);
}

/// papers.md, section 2: 9.027e-3, then 8.322, 8.224, 8.176 (3), 8.146 (5), 8.1408e-3 (9, a fixed point); all
/// codes 6.587.
TEST(TensorScale, soars_alternation_descends_as_published_and_stays_above_the_search_over_all_codes) {
  const std::vector<float> x = rows::normal(256 * 1024, 1, 74);
  const double norm = energy(x);
  const std::vector<search::ScaledLoss> got = search::alternate_scales(formats::nvfp4, 16, x.data(), 256, 1024, 12);
  ASSERT_EQ(got.size(), 13u);
  const double want[][2] = {{0, 9.027e-3}, {1, 8.322e-3}, {2, 8.224e-3}, {3, 8.176e-3}, {5, 8.146e-3}, {12, 8.1408e-3}};
  for (const auto& [iteration, loss] : want) {
    EXPECT_NEAR(got[static_cast<std::size_t>(iteration)].loss / norm, loss, 0.01 * loss) << "iteration " << iteration;
  }
  for (std::size_t i = 1; i < got.size(); ++i) EXPECT_LE(got[i].loss, got[i - 1].loss) << "iteration " << i;
  const double searched = search::headroom_losses(formats::nvfp4, 16, x.data(), 256, 1024)[0].loss;
  EXPECT_NEAR(searched / norm, 6.587e-3, 0.01 * 6.587e-3);
}

TEST(TensorScale, a_zero_tensor_has_scale_1_and_representable_data_loss_0) {
  const std::vector<float> zeros(64, 0.0f);
  const TensorScaleResult none = search::search_tensor_scale(formats::nvfp4, 16, zeros.data(), 2, 32);
  EXPECT_EQ(none.tensor_scale, 1);
  EXPECT_EQ(none.loss, 0);
  const std::vector<float> sixes(64, 6.0f);
  const TensorScaleResult exact = search::search_tensor_scale(formats::nvfp4, 16, sixes.data(), 2, 32);
  EXPECT_EQ(exact.loss, 0);
  EXPECT_EQ(exact.lower_bound, 0);
}

TEST(TensorScale, data_at_both_ends_of_binary32_are_served) {
  for (const float size : {0x1p-140f, 0x1p120f}) {
    std::vector<float> x = rows::normal(64, 1, 75);
    for (float& value : x) value *= size;
    const TensorScaleResult got = search::search_tensor_scale(formats::nvfp4, 16, x.data(), 2, 32, {1e-2, 5000});
    EXPECT_GT(got.tensor_scale, 0);
    EXPECT_LE(got.loss, 1.01 * got.lower_bound);
  }
}

TEST(TensorScale, few_evaluations_leave_a_weaker_bound_that_still_holds) {
  const std::vector<float> x = rows::normal(8 * 32, 1, 76);
  const TensorScaleResult few = search::search_tensor_scale(formats::nvfp4, 16, x.data(), 8, 32, {1e-6, 60}),
                          many = search::search_tensor_scale(formats::nvfp4, 16, x.data(), 8, 32, {1e-4, 100000});
  EXPECT_LE(few.lower_bound, many.loss);
  EXPECT_GE(few.loss, many.lower_bound);
  EXPECT_LT(few.evaluations, 120);
}

TEST(TensorScale, does_not_depend_on_threads) {
  const std::vector<float> x = rows::normal(64 * 640, 1, 77);
  omp_set_num_threads(1);
  const TensorScaleResult one = search::search_tensor_scale(formats::nvfp4, 16, x.data(), 64, 640, {1e-2, 60});
  omp_set_num_threads(2);
  const TensorScaleResult two = search::search_tensor_scale(formats::nvfp4, 16, x.data(), 64, 640, {1e-2, 60});
  EXPECT_EQ(one.tensor_scale, two.tensor_scale);
  EXPECT_EQ(one.loss, two.loss);
  EXPECT_EQ(one.lower_bound, two.lower_bound);
  EXPECT_EQ(one.evaluations, two.evaluations);
}

TEST(TensorScale, refuses_formats_without_a_tensor_scale_or_with_two_elements) {
  const std::vector<float> x = rows::normal(64, 1, 78);
  EXPECT_THROW(search::search_tensor_scale(formats::mxfp4, 32, x.data(), 2, 32), Error);
  EXPECT_THROW(search::search_tensor_scale(formats::if4, 16, x.data(), 2, 32), Error);
}

}  // namespace
}  // namespace fp4scope
