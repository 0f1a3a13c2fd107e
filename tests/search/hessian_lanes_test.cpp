// search/hessian_lanes.hpp: the codes of hessian_code for every row, on every instruction set that this machine has.
#include "search/hessian_lanes.hpp"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "search/search.hpp"
#include "tests/search/blocks.hpp"
#include "tests/search/matrices.hpp"

namespace fp4scope {
namespace {

using blocks::Maker;
using blocks::Matrix;

/// Dispatches to one instruction set, and to the best again at the end.
class Dispatch {
 public:
  explicit Dispatch(std::int64_t target) { set(target); }
  ~Dispatch() { set(0); }
  Dispatch(const Dispatch&) = delete;
  Dispatch& operator=(const Dispatch&) = delete;

 private:
  static void set(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

struct FormatRow {
  const char* format;
  int block;
  int rounds;
};

void PrintTo(const FormatRow& row, std::ostream* out) { *out << row.format << ' ' << row.block; }

constexpr FormatRow format_rows[] = {{"nvfp4", 16, 1}, {"nvfp4", 8, 2},   {"nvfp4", 5, 2},  {"nvfp4", 66, 0},
                                     {"mxfp4", 16, 1}, {"nvint4", 16, 1}, {"nvint4", 6, 2}, {"if4", 8, 1}};

/// Sums of v v^T over tokens v = common + noise, in binary64 as they come.
Matrix gram(const char* name, int n, int tokens, double common, double noise, Maker& maker) {
  std::vector<double> h(static_cast<std::size_t>(n * n));
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> v;
    const double direction = common * maker.normal();
    for (int i = 0; i < n; ++i)
      v.push_back(static_cast<double>(static_cast<float>(direction + noise * maker.normal())));
    for (int i = 0; i < n * n; ++i) h[static_cast<std::size_t>(i)] += v[i / n] * v[i % n];
  }
  return blocks::make_matrix(name, n, [&](int i, int j) { return h[static_cast<std::size_t>(i * n + j)]; });
}

/// Every kind of H, one that is not positive semidefinite and two beyond what a filter takes among them.
std::vector<Matrix> matrices(int n, Maker& maker) {
  std::vector<Matrix> all = blocks::matrices(n);
  all.push_back(gram("common direction", n, 3 * n, 5, 1, maker));
  all.push_back(gram("fewer tokens than columns", n, (n + 1) / 2, 0, 1, maker));
  all.push_back(gram("equal columns", n, 1, 1, 0, maker));
  all.push_back(gram("almost singular", n, 3 * n, 1, 0x1p-18, maker));
  all.push_back(blocks::equal_correlation(n, 1, 2));
  all.back().name = "indefinite";
  all.back().envelope.assign(static_cast<std::size_t>(n), 1.5);
  for (const int exponent : {820, -820}) {
    if (n > 16) break;
    all.push_back(blocks::autoregressive(n, 0.9));
    for (double& entry : all.back().h) entry = std::ldexp(entry, exponent);
    for (double& envelope : all.back().envelope) envelope = std::ldexp(envelope, exponent / 2);
    all.back().name = "out of range";
  }
  Matrix holes = blocks::autoregressive(n, 0.5);
  for (int i = 0; i < n * n; ++i) {
    if (i / n % 3 == 0 || i % n % 3 == 0) holes.h[static_cast<std::size_t>(i)] = 0;
  }
  for (int i = 0; i < n; i += 3) holes.envelope[static_cast<std::size_t>(i)] = 0;
  holes.name = "columns without activation";
  all.push_back(holes);
  return all;
}

/// Rows with gaps between them, and their codes by hessian_code.
struct Rows {
  const char* format;
  int n;
  float tensor_scale;
  const Matrix* matrix;
  std::int64_t stride;
  std::vector<float> x;
  std::vector<std::string> family;
  std::vector<int> want;

  search::SearchSpace space() const {
    return search::make_space(*formats::find_block_format(format), tensor_scale, sim::six_rule);
  }

  void add(const char* name, const std::vector<float>& values) {
    family.push_back(name);
    x.insert(x.end(), values.begin(), values.end());
    x.resize(x.size() + static_cast<std::size_t>(stride - n), 7.0f);
  }

  void find_codes() {
    std::vector<double> room(2 * static_cast<std::size_t>(n));
    std::vector<search::LossInterval> loss(256);
    for (std::size_t row = 0; row < family.size(); ++row) {
      const float* values = x.data() + static_cast<std::int64_t>(row) * stride;
      const float amax = sim::amax(values, n);
      const search::BlockHessian hessian = {matrix->h.data(), matrix->envelope.data()};
      want.push_back(std::isfinite(amax)
                         ? search::hessian_code(space(), {values, n, amax}, hessian, room.data(), loss.data())
                         : static_cast<int>(space().scale.nan_code()));
    }
  }

  void expect_codes(search::HessianRoom& room) const {
    const std::size_t rows = family.size();
    std::vector<std::uint8_t> got(3 * rows, 0xAA);
    search::SearchCount count;
    search::hessian_lane_codes(space(), {matrix->h.data(), matrix->envelope.data()}, n, x.data(), stride,
                               static_cast<std::int64_t>(rows), got.data(), 3, room, count);
    int failures = 0;
    for (std::size_t row = 0; row < rows && failures < 5; ++row) {
      EXPECT_EQ(got[3 * row + 1], 0xAA) << "wrote between the scales";
      if (got[3 * row] == want[row]) continue;
      ++failures;
      const auto first = x.begin() + static_cast<std::int64_t>(row) * stride;
      ADD_FAILURE() << matrix->name << " row " << row << ' '
                    << blocks::describe(format, family[row].c_str(), tensor_scale, {first, first + n}) << std::hex
                    << ": got 0x" << int{got[3 * row]} << ", want 0x" << want[row];
    }
  }
};

class EveryFormat : public testing::TestWithParam<FormatRow> {};

TEST_P(EveryFormat, lanes_equal_the_plain_search_for_every_h_and_family_on_every_instruction_set) {
  const auto [format, n, rounds] = GetParam();
  Maker maker(format, 41);
  search::HessianRoom room;
  int turn = 0;
  for (const Matrix& matrix : matrices(n, maker)) {
    const float listed = blocks::tensor_scales[maker.below(static_cast<int>(std::size(blocks::tensor_scales)))];
    const float t = turn++ % 2 == 0 ? 0x1.234566p-11f : listed;
    Rows rows = {format, n, t, &matrix, n + 3, {}, {}, {}};
    const auto size = static_cast<std::size_t>(n);
    rows.add("zero", std::vector<float>(size, -0.0f));
    for (const float special : {INFINITY, -INFINITY, NAN, -NAN}) {
      rows.add("special", std::vector<float>(size, 1.0f));
      rows.x[rows.x.size() - static_cast<std::size_t>(1 + maker.below(n) + 3)] = special;
    }
    rows.add("normal", maker.make(blocks::Family::normal, t, n));
    // Beyond the range of expansions every tie is one of rationals: a few rows will do.
    for (int i = 0; i < (matrix.name == "out of range" ? 0 : rounds); ++i) {
      for (const blocks::FamilyRow& family : blocks::all_families) {
        rows.add(family.name, maker.make(family.family, t, n));
        rows.add(family.name, maker.make(family.family, 0x1p-9f, n));
      }
    }
    rows.find_codes();
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
      SCOPED_TRACE(hwy::TargetName(target));
      const Dispatch dispatch(target);
      rows.expect_codes(room);
    }
  }
}

/// Midpoints and ties at the scales that matter: data around the usual tensor scale.
TEST_P(EveryFormat, lanes_equal_the_plain_search_where_ties_and_midpoints_are_dense) {
  const auto [format, block, rounds] = GetParam();
  const int n = std::min(block, 8);
  Maker maker(format, 42);
  search::HessianRoom room;
  for (const Matrix& matrix : matrices(n, maker)) {
    if (matrix.name == "out of range") continue;
    Rows rows = {format, n, 0x1p-3f, &matrix, n, {}, {}, {}};
    for (int i = 0; i < 40 * rounds; ++i) {
      const blocks::Family family = i % 3 == 0   ? blocks::Family::lattice
                                    : i % 3 == 1 ? blocks::Family::midpoints
                                                 : blocks::Family::near_midpoints;
      rows.add("dense", maker.make(family, rows.tensor_scale, n));
    }
    rows.find_codes();
    rows.expect_codes(room);
  }
}

INSTANTIATE_TEST_SUITE_P(formats, EveryFormat, testing::ValuesIn(format_rows), [](const auto& row) {
  return std::string(row.param.format) + "_" + std::to_string(row.param.block);
});

TEST(HessianLanes, any_number_of_rows_gives_each_the_same_code) {
  Maker maker("nvfp4", 43);
  const Matrix matrix = blocks::autoregressive(16, 0.9);
  Rows all = {"nvfp4", 16, 0x1p-9f, &matrix, 16, {}, {}, {}};
  for (int i = 0; i < 50; ++i) all.add("normal", maker.make(blocks::Family::normal, all.tensor_scale, 16));
  all.find_codes();
  search::HessianRoom room;
  for (std::size_t rows = 0; rows <= all.family.size(); ++rows) {
    Rows some = all;
    some.family.resize(rows);
    some.expect_codes(room);
  }
}

/// The search looks at a fraction of the codes; without that it would be right and slow.
TEST(HessianLanes, few_candidates_are_visited_and_almost_none_is_left_to_the_plain_search) {
  Maker maker("nvfp4", 44);
  const Matrix matrix = blocks::autoregressive(16, 0.9);
  std::vector<float> x;
  for (int i = 0; i < 1024 * 16; ++i) x.push_back(static_cast<float>(maker.normal()));
  const float t = sim::tensor_scale(sim::amax(x.data(), static_cast<std::int64_t>(x.size())), 6, 448);
  std::vector<std::uint8_t> codes(1024);
  search::HessianRoom room;
  search::SearchCount count;
  search::hessian_lane_codes(search::make_space(formats::nvfp4, t, sim::six_rule),
                             {matrix.h.data(), matrix.envelope.data()}, 16, x.data(), 16, 1024, codes.data(), 1, room,
                             count);
  EXPECT_LT(count.candidates, 1024 * 30);
  EXPECT_LT(count.wide, 10);
  EXPECT_EQ(count.exact, 0);
}

TEST(HessianLanes, every_block_of_a_matrix_is_searched_and_stop_leaves_the_rest) {
  constexpr int n = 16, rows = 70, cols = 3 * n;
  Maker maker("nvfp4", 45);
  std::vector<float> x, activations;
  for (int i = 0; i < rows * cols; ++i) x.push_back(static_cast<float>(maker.normal()));
  for (int i = 0; i < 40 * cols; ++i) activations.push_back(static_cast<float>(maker.normal()));
  x[5 * cols + 3] = NAN;
  std::fill_n(x.begin() + 9 * cols + n, n, 0.0f);
  const search::Hessians hessians = search::make_hessians(activations.data(), 40, cols, n);
  search::SearchTask task = {&formats::nvfp4, search::find_method("nvfp4", "hessian")};
  task.tensor_scale = 0x1p-9f;
  task.hessians = &hessians;
  const search::SearchResult result = search::search_scales(task, x.data(), rows, cols);
  const search::SearchSpace space = search::make_space(formats::nvfp4, task.tensor_scale, task.method->rule);
  std::vector<double> room(2 * n);
  std::vector<search::LossInterval> loss(256);
  for (int row = 0; row < rows; ++row) {
    for (int b = 0; b < 3; ++b) {
      const float* values = x.data() + row * cols + b * n;
      const float amax = sim::amax(values, n);
      const search::BlockHessian hessian = {hessians.of(static_cast<std::size_t>(b)), hessians.envelope.data() + b * n};
      const int want = std::isfinite(amax)
                           ? search::hessian_code(space, {values, n, amax}, hessian, room.data(), loss.data())
                           : 0x7F;
      ASSERT_EQ(result.scales[static_cast<std::size_t>(row * 3 + b)], want) << row << ' ' << b;
    }
  }
  const std::atomic<bool> stop = true;
  task.stop = &stop;
  EXPECT_EQ(search::search_scales(task, x.data(), rows, cols).count.candidates, 0);
}

/// r = (0, 0, 1/4, 1/4) at scale 1 and (1/4, 1/4, 0, 0) at 1.5: a tie, in which 2^120 hides the small terms from pairs
/// of doubles.
TEST(Hessian, a_tie_beyond_pairs_of_doubles_is_a_tie) {
  const std::vector<float> x = {1, -1, 0.75f, -0.75f};
  const Matrix wide = blocks::diagonal({0x1p120, 1, 0x1p120, 1}), less = blocks::diagonal({0x1p120, 1, 0x1p120, 0.5});
  const search::SearchSpace space = search::make_space(formats::nvfp4, 1, sim::six_rule);
  const search::Block block = {x.data(), 4, 1};
  search::SearchCount count;
  EXPECT_EQ(search::compare_hessian(space, block, {wide.h.data(), wide.envelope.data()}, 0x38, 0x3C, &count), 0);
  EXPECT_EQ(search::compare_hessian(space, block, {wide.h.data(), wide.envelope.data()}, 0x3C, 0x38, &count), 0);
  EXPECT_EQ(search::compare_hessian(space, block, {less.h.data(), less.envelope.data()}, 0x38, 0x3C, &count), -1);
  EXPECT_EQ(count.exact, 3);
}

/// Each stage on its own is decided by rationals.
TEST(Hessian, every_comparison_has_the_sign_of_rationals) {
  Maker maker("nvfp4", 47);
  search::SearchCount count;
  for (const Matrix& matrix : matrices(6, maker)) {
    for (int i = 0; i < 150; ++i) {
      const float t = i % 2 ? 1 : 0x1.234566p-11f;
      const std::vector<float> x = maker.make(i % 3 ? blocks::Family::lattice : blocks::Family::normal, t, 6);
      const search::SearchSpace space = search::make_space(formats::nvfp4, t, sim::six_rule);
      const search::Block block = {x.data(), 6, sim::amax(x.data(), 6)};
      const int a = 1 + maker.below(126), b = std::min(126, a + maker.below(16));
      const search::BlockHessian hessian = {matrix.h.data(), matrix.envelope.data()};
      ASSERT_EQ(search::compare_hessian(space, block, hessian, a, b, &count),
                search::compare_hessian_exact(space, block, hessian, a, b))
          << matrix.name << ' ' << blocks::describe("nvfp4", "", t, x) << ' ' << a << ' ' << b;
    }
  }
  EXPECT_GT(count.wide, 100);
  EXPECT_GT(count.exact, 10);
}

TEST(HessianFilter, rank_and_spread_are_those_of_h) {
  Maker maker("nvfp4", 46);
  search::HessianFilter filter;
  const auto make = [&](const Matrix& m) {
    const auto n = static_cast<int>(m.envelope.size());
    search::make_hessian_filter({m.h.data(), m.envelope.data()}, n, filter);
    return filter.usable;
  };
  ASSERT_TRUE(make(blocks::diagonal({1, 2.25, 0.25})));
  EXPECT_EQ(filter.rank, 3);
  for (std::size_t place = 0; place < 3; ++place) {
    const float spread[] = {1, 1 / 1.5f, 2};
    EXPECT_NEAR(filter.spread[place], spread[filter.order[place]], 1e-6) << place;
    EXPECT_GE(filter.spread[place], spread[filter.order[place]]) << place;
  }
  ASSERT_TRUE(make(gram("three tokens", 8, 3, 0, 1, maker)));
  EXPECT_EQ(filter.rank, 3);
  EXPECT_EQ(filter.spread[0], FLT_MAX);
  ASSERT_TRUE(make(blocks::autoregressive(16, 0.9)));
  EXPECT_EQ(filter.rank, 16);
  for (std::size_t place = 0; place < 16;
       ++place) {  // (H^-1)_kk = (1 + rho^2) / (1 - rho^2), 1 / (1 - rho^2) at the ends
    const bool end = filter.order[place] % 15 == 0;
    EXPECT_NEAR(filter.spread[place], std::sqrt((end ? 1 : 1.81) / 0.19), 1e-5) << place;
  }
  Matrix nearly = blocks::equal_correlation(4, 1 - 0x1p-34, 1);  // one direction less 2^-34: E is what a factor leaves
  nearly.envelope.assign(4, 1);
  ASSERT_TRUE(make(nearly));
  EXPECT_EQ(filter.rank, 1);
  EXPECT_GE(filter.gap, std::sqrt(2 * 0x1p-34));
  EXPECT_FALSE(make(blocks::diagonal({0, 0})));
  Matrix indefinite = blocks::equal_correlation(4, 1, 2);
  indefinite.envelope.assign(4, 1.5);
  EXPECT_FALSE(make(indefinite));
}

}  // namespace
}  // namespace fp4scope
