// search/full_hessian.hpp and search/factor.hpp: sums in the order of the tokens, U D U^T in a fixed order, its
// residual in rationals, Schur complements; no bit depends on threads, tiles or panels.
#include "search/factor.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>
#include <omp.h>

#include "tests/search/rows.hpp"

namespace fp4scope {
namespace {

using rows::Activations;
using search::Factor;
using search::FullHessian;

FullHessian hessian_of(Activations family, std::int64_t tokens, std::int64_t cols, std::uint64_t seed) {
  const std::vector<float> x = rows::activations(family, tokens, cols, seed);
  return search::make_full_hessian(x.data(), tokens, cols);
}

/// Two vectors of one size, bit for bit, with the first place that differs.
void expect_equal_bits(const std::vector<double>& got, const std::vector<double>& want, std::int64_t cols) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(__builtin_bit_cast(std::uint64_t, got[i]), __builtin_bit_cast(std::uint64_t, want[i]))
        << "row " << static_cast<std::int64_t>(i) / cols << " column " << static_cast<std::int64_t>(i) % cols
        << std::hexfloat << ": got " << got[i] << ", want " << want[i];
  }
}

TEST(FullHessian, each_entry_is_summed_over_the_tokens_in_order) {
  for (const std::int64_t cols : {1, 37, 64, 131}) {
    for (const std::int64_t tokens : {1, 5, 131, 260}) {
      const std::vector<float> x = rows::activations(Activations::common, tokens, cols, 1);
      std::vector<double> want(static_cast<std::size_t>(cols * cols), 0.0);
      for (std::int64_t i = 0; i < cols; ++i) {
        for (std::int64_t j = 0; j < cols; ++j) {
          for (std::int64_t t = 0; t < tokens; ++t) {
            want[i * cols + j] += static_cast<double>(x[t * cols + i]) * x[t * cols + j];
          }
        }
      }
      expect_equal_bits(search::make_full_hessian(x.data(), tokens, cols).h, want, cols);
    }
  }
}

TEST(FullHessian, threads_change_no_bit) {
  const std::vector<float> x = rows::activations(Activations::common, 140, 200, 8);
  omp_set_num_threads(1);
  const FullHessian one = search::make_full_hessian(x.data(), 140, 200);
  omp_set_num_threads(2);
  expect_equal_bits(search::make_full_hessian(x.data(), 140, 200).h, one.h, 200);
}

TEST(FullHessian, its_diagonal_blocks_are_those_of_make_hessians) {
  const std::int64_t tokens = 70, cols = 96;
  for (const int block : {8, 16, 32}) {
    const std::vector<float> x = rows::activations(Activations::outliers, tokens, cols, 2);
    const search::Hessians want = search::make_hessians(x.data(), tokens, cols, block);
    const search::Hessians got = search::diagonal_blocks(search::make_full_hessian(x.data(), tokens, cols), block);
    EXPECT_EQ(got.block, want.block);
    expect_equal_bits(got.h, want.h, block);
    expect_equal_bits(got.envelope, want.envelope, block);
  }
}

TEST(FullHessian, envelopes_bound_every_entry_of_any_symmetric_block) {
  for (int round = 0; round < 20; ++round) {
    const int n = 8;
    std::vector<double> h(n * n), envelope(n);
    const std::vector<float> x = rows::normal(n * n, 1, 80 + round);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j <= i; ++j) h[i * n + j] = h[j * n + i] = (i == j ? 1.0 : round % 4) * std::fabs(x[i * n + j]);
    }
    search::set_envelope(h.data(), n, envelope.data());
    for (int i = 0; i < n * n; ++i) EXPECT_LE(h[i], envelope[i / n] * envelope[i % n]) << "entry " << i;
  }
}

TEST(FullHessian, losses_are_those_of_rationals_within_their_roundings) {
  const std::int64_t cols = 40, count = 11;
  const FullHessian hessian = hessian_of(Activations::autoregressive, 50, cols, 3);
  const std::vector<float> x = rows::normal(count * cols, 1, 4);
  const std::vector<double> r(x.begin(), x.end());
  const std::vector<double> loss = search::row_losses(hessian, r.data(), count);
  for (std::int64_t row = 0; row < count; ++row) {
    mpq_class want = 0, size = 0;
    for (std::int64_t i = 0; i < cols; ++i) {
      for (std::int64_t j = 0; j < cols; ++j) {
        const mpq_class term = mpq_class(hessian.row(i)[j]) * r[row * cols + i] * r[row * cols + j];
        want += term;
        size += abs(term);
      }
    }
    EXPECT_LE(abs(mpq_class(loss[row] - want)), mpq_class((2 * cols + 4) * 0x1p-53) * size) << "row " << row;
  }
}

TEST(Factor, has_the_bits_of_the_definition_for_any_panel_and_thread_count) {
  for (const std::int64_t n : {1, 9, 70, 210}) {
    const FullHessian hessian = hessian_of(Activations::common, 2 * n, n, 5);
    Factor want = {n, std::vector<double>(static_cast<std::size_t>(n * n), 0.0),
                   std::vector<double>(static_cast<std::size_t>(n)), 0, -1};
    double trace = 0;
    for (std::int64_t i = 0; i < n; ++i) trace += hessian.row(i)[i];
    const double shift = 0.01 * (trace / static_cast<double>(n));
    const auto u = [&](std::int64_t i, std::int64_t k) -> double& { return want.upper[i * n + k]; };
    for (std::int64_t p = n - 1; p >= 0; --p) {
      for (std::int64_t q = p; q >= 0; --q) {
        double entry = hessian.row(p)[q] + (p == q ? shift : 0);
        for (std::int64_t k = n - 1; k > p; --k) entry -= u(p, k) * want.upper[k * n + q];  // D U, kept below
        want.upper[p * n + q] = entry;
      }
      want.d[p] = u(p, p);
      for (std::int64_t q = 0; q < p; ++q) u(q, p) = u(p, q) / want.d[p];
    }
    for (std::int64_t p = 0; p < n; ++p) {
      for (std::int64_t q = 0; q <= p; ++q) u(p, q) = p == q ? 1 : 0;
    }
    for (const int threads : {1, 2}) {
      omp_set_num_threads(threads);
      for (const std::int64_t panel : {1, 7, 64, 200}) {
        const Factor got = search::factor(hessian, 0.01, panel);
        EXPECT_EQ(got.bad_pivot, -1);
        EXPECT_EQ(got.shift, shift);
        expect_equal_bits(got.d, want.d, 1);
        expect_equal_bits(got.upper, want.upper, n);
      }
    }
  }
}

TEST(Factor, reproduces_the_matrix_in_rationals_within_its_bound) {
  const std::int64_t n = 24;
  for (const Activations family : rows::all_activations) {
    const FullHessian hessian = hessian_of(family, 30, n, 6);
    const Factor f = search::factor(hessian);
    for (std::int64_t p = 0; p < n; ++p) {
      for (std::int64_t q = 0; q < n; ++q) {
        mpq_class product = 0;
        for (std::int64_t k = std::max(p, q); k < n; ++k) product += mpq_class(f.row(p)[k]) * f.d[k] * f.row(q)[k];
        const mpq_class entry = hessian.row(p)[q] + (p == q ? f.shift : 0);
        const double size = std::sqrt((hessian.row(p)[p] + f.shift) * (hessian.row(q)[q] + f.shift));
        EXPECT_LE(abs(mpq_class(product - entry)), mpq_class((n + 6) * 0x1p-53 * size)) << p << ' ' << q;
      }
    }
  }
}

TEST(Factor, names_the_first_pivot_that_is_not_positive) {
  FullHessian hessian = {70, std::vector<double>(70 * 70, 0.0)};
  for (int i = 0; i < 70; ++i) hessian.h[i * 71] = i == 3 || i == 5 ? -1 : 2;
  EXPECT_EQ(search::factor(hessian, 0).bad_pivot, 5);
  hessian.h.assign(70 * 70, 1);  // rank one: the last column leaves nothing
  EXPECT_EQ(search::factor(hessian, 0).bad_pivot, 68);
}

/// Exact elimination of the columns from n - 1 down to `first + block`.
TEST(Factor, a_conditional_block_is_the_schur_complement_of_all_later_columns) {
  const std::int64_t n = 20;
  const int block = 4;
  const FullHessian hessian = hessian_of(Activations::autoregressive, 40, n, 7);
  const Factor f = search::factor(hessian, 0);
  for (std::int64_t first = 0; first < n; first += block) {
    std::vector<mpq_class> m(hessian.h.begin(), hessian.h.end());
    for (std::int64_t k = n - 1; k >= first + block; --k) {
      for (std::int64_t i = 0; i < k; ++i) {
        const mpq_class factor = m[i * n + k] / m[k * n + k];
        for (std::int64_t j = 0; j < k; ++j) m[i * n + j] -= factor * m[k * n + j];
      }
    }
    std::vector<double> got(block * block);
    search::conditional_block(f, first, block, got.data());
    for (int i = 0; i < block * block; ++i) {
      const double want = m[(first + i / block) * n + first + i % block].get_d();
      EXPECT_NEAR(got[i], want, 1e-11 * hessian.row(0)[0]) << "first " << first << " entry " << i;
    }
  }
}

}  // namespace
}  // namespace fp4scope
