// search/psd.hpp: what is certified is true, by rationals that share nothing with it, and by matrices whose least
// eigenvalue is known.
#include "search/psd.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace fp4scope {
namespace {

using Doubles = std::vector<double>;

/// The truth, slowly: Gaussian elimination in fractions, pivots taken from the diagonal wherever one is positive.
bool is_psd_ref(const Doubles& h, int n, const Doubles& d = {}) {
  std::vector<mpq_class> a(h.begin(), h.end());
  for (int i = 0; i < n; ++i) a[i * n + i] -= d.empty() ? 0 : d[i];
  std::vector<bool> done(static_cast<std::size_t>(n), false);
  for (;;) {
    int k = -1;
    for (int i = 0; i < n; ++i) {
      if (done[i]) continue;
      if (a[i * n + i] < 0) return false;
      if (a[i * n + i] > 0) k = i;
    }
    if (k < 0) break;
    done[k] = true;
    const std::vector<mpq_class> before = a;
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        if (!done[i] && !done[j]) a[i * n + j] -= before[i * n + k] * before[k * n + j] / before[k * n + k];
      }
    }
  }
  for (int i = 0; i < n; ++i) {  // what is left has a diagonal of zeros
    for (int j = 0; j < n; ++j) {
      if (!done[i] && !done[j] && a[i * n + j] != 0) return false;
    }
  }
  return true;
}

/// A Gram matrix of `tokens` columns in binary64; the more columns are alike, the worse.
Doubles gram(std::mt19937_64& words, int n, int tokens, double alike, bool whole = false) {
  std::normal_distribution<double> normal;
  Doubles h(static_cast<std::size_t>(n * n), 0.0);
  for (int t = 0; t < tokens; ++t) {
    const double common = normal(words);
    std::vector<float> x;
    for (int i = 0; i < n; ++i) {
      const double value = alike * common + (1 - alike) * normal(words);
      x.push_back(static_cast<float>(whole ? std::round(4 * value) : value * std::ldexp(1, i % 7)));
    }
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) h[i * n + j] += static_cast<double>(x[i]) * static_cast<double>(x[j]);
    }
  }
  return h;
}

/// As activations in binary32 give it: every entry rounded to 24 bits.
Doubles rounded(Doubles h) {
  for (double& entry : h) entry = static_cast<float>(entry);
  return h;
}

Doubles without_channel(Doubles h, int n, int channel) {
  for (int i = 0; i < n; ++i) h[i * n + channel] = h[channel * n + i] = 0;
  return h;
}

/// Definite, singular, indefinite by a rounding, all at once.
std::vector<Doubles> samples(int n, int rounds) {
  std::mt19937_64 words(5);
  std::vector<Doubles> all;
  for (int i = 0; i < rounds; ++i) {
    for (const int tokens : {1, n / 2, n, 3 * n}) {
      all.push_back(gram(words, n, tokens, 0.5));
      all.push_back(gram(words, n, tokens, 0.5, true));
      all.push_back(gram(words, n, tokens, 0.999));
      all.push_back(rounded(gram(words, n, tokens, 0.99)));
      all.push_back(without_channel(gram(words, n, tokens, 0.5, true), n, i % n));
    }
  }
  return all;
}

TEST(Psd, the_exact_stage_is_the_truth_and_the_quick_one_never_says_yes_to_less) {
  int psd = 0, not_psd = 0, quick = 0;
  for (const int n : {2, 3, 6}) {
    for (const Doubles& h : samples(n, 12)) {
      const bool truth = is_psd_ref(h, n);
      ASSERT_EQ(search::is_psd_exact(h.data(), n), truth);
      ASSERT_EQ(search::is_psd(h.data(), n), truth);
      if (search::is_psd_quick(h.data(), n)) {
        ASSERT_TRUE(truth);
        ++quick;
      }
      truth ? ++psd : ++not_psd;
    }
  }
  EXPECT_GT(quick, 100);
  EXPECT_GT(psd, quick + 30);
  EXPECT_GT(not_psd, 30);
}

TEST(Psd, minus_a_diagonal_is_decided_as_the_fractions_do) {
  std::mt19937_64 words(6);
  int yes = 0, no = 0;
  for (const Doubles& h : samples(4, 6)) {
    for (int i = 0; i < 6; ++i) {
      Doubles d;
      for (int k = 0; k < 4; ++k) d.push_back(h[k * 5] * std::ldexp(static_cast<double>(words() % 1024), -10 - i));
      const bool truth = is_psd_ref(h, 4, d);
      ASSERT_EQ(search::is_psd_exact(h.data(), 4, d.data()), truth);
      ASSERT_TRUE(truth || !search::is_psd_quick(h.data(), 4, d.data()));
      truth ? ++yes : ++no;
    }
  }
  EXPECT_GT(yes, 50);
  EXPECT_GT(no, 50);
}

TEST(Psd, matrices_known_by_hand) {
  const Doubles zero(9, 0.0), one = {1, 2, 2, 4}, above = {1, std::nextafter(2.0, 3.0), std::nextafter(2.0, 3.0), 4};
  EXPECT_TRUE(search::is_psd(zero.data(), 3));
  EXPECT_TRUE(search::is_psd(one.data(), 2));  // rank one: only the exact stage can tell
  EXPECT_FALSE(search::is_psd_quick(one.data(), 2));
  EXPECT_FALSE(search::is_psd(above.data(), 2));
  const Doubles hidden = {0, 1, 1, 5}, last = {1, 1, 0, 1, 1, 1, 0, 1, 7}, negative = {-1};
  EXPECT_FALSE(search::is_psd(hidden.data(), 2));  // a zero pivot beside something
  EXPECT_FALSE(search::is_psd(last.data(), 3));    // the same after one step
  EXPECT_FALSE(search::is_psd(negative.data(), 1));
  const Doubles tiny = {0x1p-1070, 0x1p-1072, 0x1p-1072, 0x1p-1070}, mixed = {0x1p1000, 1, 1, 0x1p-998};
  EXPECT_TRUE(search::is_psd_quick(tiny.data(), 2));
  EXPECT_TRUE(search::is_psd_quick(mixed.data(), 2));
}

/// Arrows d I + e v^T + v e^T, whose last diagonal entry may not be below sum v_i^2 / d: one double below it. That is
/// within the rounding of a factorization, which only its margin covers: without, some of these pass.
TEST(Psd, the_quick_stage_says_no_just_beside_the_boundary) {
  std::mt19937_64 words(7);
  std::uniform_real_distribution<double> uniform(0.05, 0.1);
  constexpr int n = 64, last = n * n - 1;
  for (int round = 0; round < 400; ++round) {
    Doubles h(static_cast<std::size_t>(n * n), 0.0);
    mpq_class boundary = 0;
    for (int i = 0; i + 1 < n; ++i) {
      h[i * n + i] = 3.9;
      h[i * n + n - 1] = h[(n - 1) * n + i] = uniform(words);
      boundary += mpq_class(h[i * n + n - 1]) * mpq_class(h[i * n + n - 1]) / mpq_class(3.9);
    }
    h[last] = boundary.get_d();  // truncated
    ASSERT_LT(mpq_class(h[last]), boundary);
    ASSERT_FALSE(search::is_psd_quick(h.data(), n)) << round;
  }
}

/// Channels of very different sizes.
TEST(Psd, a_scale_between_channels_hides_nothing_from_the_quick_stage) {
  std::mt19937_64 words(8);
  for (int i = 0; i < 20; ++i) {
    Doubles h = gram(words, 8, 64, 0.3);
    for (int a = 0; a < 8; ++a) {
      for (int b = 0; b < 8; ++b) h[a * 8 + b] *= std::ldexp(1, 40 * (a % 3) + 40 * (b % 3));
    }
    EXPECT_TRUE(search::is_psd_quick(h.data(), 8));
  }
}

TEST(PsdShift, is_the_first_of_the_ladder_that_is_enough) {
  int shifted = 0;
  for (const Doubles& h : samples(5, 10)) {
    const double shift = search::psd_shift(h.data(), 5);
    double largest = 0;
    for (const double entry : h) largest = std::max(largest, std::fabs(entry));
    double want = 0;
    for (int k = -52; !is_psd_ref(h, 5) && want == 0; ++k) {
      Doubles moved = h;
      for (int i = 0; i < 5; ++i) moved[i * 6] += std::ldexp(largest, k);
      if (is_psd_ref(moved, 5)) want = std::ldexp(largest, k);
    }
    ASSERT_EQ(shift, want);
    shifted += shift > 0;
  }
  EXPECT_GT(shifted, 20);
}

TEST(EigenvalueFloor, is_below_the_least_eigenvalue_and_near_it) {
  for (const double rho : {0.0, 0.5, 0.99, -0.7}) {  // eigenvalues 1 - rho and 1 + rho
    const Doubles h = {1, rho, rho, 1};
    const double floor = search::eigenvalue_floor(h.data(), 2), least = 1 - std::fabs(rho);
    EXPECT_TRUE(is_psd_ref(h, 2, {floor, floor}));
    EXPECT_GE(floor, 0.96 * least) << rho;
  }
  int negative = 0, zero = 0, positive = 0;
  for (const Doubles& h : samples(5, 6)) {
    const double floor = search::eigenvalue_floor(h.data(), 5);
    ASSERT_TRUE(is_psd_ref(h, 5, Doubles(5, floor))) << floor;
    (floor < 0 ? negative : floor > 0 ? positive : zero) += 1;
  }
  EXPECT_GT(negative, 10);
  EXPECT_GT(zero, 10);
  EXPECT_GT(positive, 10);
}

TEST(Certify, shifts_what_needs_it_keeps_envelopes_and_hashes_every_bit) {
  std::mt19937_64 words(9);
  constexpr int cols = 32, block = 8, tokens = 3;
  std::normal_distribution<double> normal;
  std::vector<float> x;
  for (int i = 0; i < tokens * cols; ++i) x.push_back(i % cols < block ? 1.0f : static_cast<float>(normal(words)));
  search::Hessians h = search::make_hessians(x.data(), tokens, cols, block);
  const search::Hessians before = h;
  const search::PsdReport report = search::certify(h);
  ASSERT_EQ(report.shift.size(), 4u);
  EXPECT_EQ(report.shift[0], 0);  // all ones: singular, and exactly so
  EXPECT_GT(report.shifted, 0);
  double largest = 0;
  for (std::size_t b = 0; b < 4; ++b) {
    const Doubles now(h.of(b), h.of(b) + block * block);
    EXPECT_TRUE(is_psd_ref(now, block)) << b;
    EXPECT_EQ(report.shift[b], search::psd_shift(before.of(b), block));
    largest = std::max(largest, report.shift[b]);
    for (int i = 0; i < block; ++i) {
      EXPECT_EQ(now[i * block + i], before.of(b)[i * block + i] + report.shift[b]);
      EXPECT_LE(now[i * block + i], h.envelope[b * block + i] * h.envelope[b * block + i]);
    }
  }
  EXPECT_EQ(report.largest_shift, largest);
  EXPECT_EQ(search::certify(h).shifted, 0);
  EXPECT_EQ(report.hash, search::content_hash(h));
  EXPECT_NE(report.hash, search::content_hash(before));
  for (double& entry : h.h) {
    const double kept = entry;
    entry = std::nextafter(entry, 1e9);
    EXPECT_NE(report.hash, search::content_hash(h));
    entry = kept;
  }
}

TEST(Certify, blocks_above_64_are_certified_by_the_quick_stage_alone) {
  std::mt19937_64 words(10);
  std::normal_distribution<double> normal;
  constexpr int block = 96, tokens = 8;
  std::vector<float> x;
  for (int i = 0; i < tokens * block; ++i) x.push_back(static_cast<float>(normal(words)));
  search::Hessians h = search::make_hessians(x.data(), tokens, block, block);
  const search::PsdReport report = search::certify(h);
  EXPECT_EQ(report.shifted, 1);
  EXPECT_LT(report.largest_shift, 0x1p-30 * h.h[0]);
  EXPECT_TRUE(search::is_psd_quick(h.of(0), block));
}

}  // namespace
}  // namespace fp4scope
