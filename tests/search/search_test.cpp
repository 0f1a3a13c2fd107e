// search/search.hpp: every method on a matrix, on any number of threads, non-finite blocks included; methods.hpp.
#include "search/search.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <set>

#include "tests/search/blocks.hpp"

namespace fp4scope {

namespace search {
static void PrintTo(const Method& method, std::ostream* out) { *out << method.format << ' ' << method.name; }
}  // namespace search

namespace {

using search::MethodKind;
using search::Select;

constexpr std::int64_t rows = 17, cols = 64;

std::vector<float> matrix_of(const char* format, float t, std::uint64_t seed) {
  blocks::Maker maker(format, seed);
  std::vector<float> x;
  while (x.size() < rows * cols) {
    const auto& family = blocks::all_families[maker.below(static_cast<int>(std::size(blocks::all_families)))];
    const std::vector<float> block = maker.make(family.family, t, 16);
    x.insert(x.end(), block.begin(), block.end());
  }
  return x;
}

std::vector<float> activations(std::uint64_t seed) {
  blocks::Maker maker("nvfp4", seed);
  std::vector<float> x;
  for (int i = 0; i < 20 * cols; ++i) x.push_back(static_cast<float>(maker.normal()));
  return x;
}

/// Sets the number of threads until the end of the scope.
class Threads {
 public:
  explicit Threads(int n) : before_(omp_get_max_threads()) { omp_set_num_threads(n); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

class EveryMethod : public testing::TestWithParam<search::Method> {
 protected:
  const search::Method& method = GetParam();
  const formats::BlockFormat& format = *formats::find_block_format(method.format);
};

TEST_P(EveryMethod, gives_the_same_on_1_2_and_7_threads) {
  const std::vector<float> data = matrix_of(method.format, 0x1.234566p-11f, 41), acts = activations(42);
  for (const Select select : {Select::mse, Select::mae, Select::absmax}) {
    if (select != Select::mse && method.kind != MethodKind::four_over_six) continue;
    std::vector<search::SearchResult> results;
    std::vector<search::Hessians> hessians;
    for (const int threads : {1, 2, 7}) {
      const Threads use(threads);
      hessians.push_back(search::make_hessians(acts.data(), 20, cols, 16));
      const search::SearchTask task = {&format, &method, select, 16, 0x1.234566p-11f, &hessians.back()};
      results.push_back(search::search_scales(task, data.data(), rows, cols));
      EXPECT_EQ(hessians.back().h, hessians[0].h);
      EXPECT_EQ(hessians.back().envelope, hessians[0].envelope);
      EXPECT_EQ(results.back().scales, results[0].scales);
      EXPECT_EQ(results.back().macro, results[0].macro);
      EXPECT_EQ(results.back().chose_second, results[0].chose_second);
      EXPECT_EQ(results.back().count.candidates, results[0].count.candidates);
      EXPECT_EQ(results.back().count.exact, results[0].count.exact);
    }
  }
}

/// Block by block, one after another, with the functions that the matrix search is made of.
TEST_P(EveryMethod, gives_each_block_the_code_that_it_gets_alone) {
  if (method.has_macro()) GTEST_SKIP() << "128 columns share a factor";
  const Threads use(1);  // one block is no work for two
  const std::vector<float> data = matrix_of(method.format, 1, 43), acts = activations(44);
  const search::Hessians hessians = search::make_hessians(acts.data(), 20, cols, 16);
  const search::SearchTask task = {&format, &method, Select::mse, 16, 1, &hessians};
  const search::SearchResult all = search::search_scales(task, data.data(), rows, cols);
  ASSERT_EQ(all.scales.size(), static_cast<std::size_t>(rows * cols / 16));
  for (std::int64_t b = 0; b < rows * cols / 16; ++b) {
    const std::int64_t column = b % (cols / 16) * 16;
    std::vector<float> own_acts;
    for (int t = 0; t < 20; ++t) {
      own_acts.insert(own_acts.end(), acts.begin() + t * cols + column, acts.begin() + t * cols + column + 16);
    }
    const search::Hessians own = search::make_hessians(own_acts.data(), 20, 16, 16);
    const search::SearchTask one = {&format, &method, Select::mse, 16, 1, &own};
    const search::SearchResult alone = search::search_scales(one, data.data() + b * 16, 1, 16);
    ASSERT_EQ(all.scales[b], alone.scales[0]) << method.format << ' ' << method.name << " block " << b;
  }
}

TEST_P(EveryMethod, gives_a_block_with_nan_or_infinity_the_nan_code_and_its_neighbours_theirs) {
  const int nan_code = std::string_view(format.scale.name) == "ue8m0" ? 0xFF : 0x7F;
  const std::vector<float> acts = activations(45);
  const search::Hessians hessians = search::make_hessians(acts.data(), 20, cols, 16);
  const search::SearchTask task = {&format, &method, Select::mse, 16, 1, &hessians};
  std::vector<float> data(cols, 1.5f);
  const std::vector<std::uint8_t> clean = search::search_scales(task, data.data(), 1, cols).scales;
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (const std::size_t at : {std::size_t{16}, std::size_t{25}, std::size_t{31}}) {
      std::vector<float> x = data;
      x[at] = bad;
      const std::vector<std::uint8_t> codes = search::search_scales(task, x.data(), 1, cols).scales;
      EXPECT_EQ(int{codes[1]}, nan_code) << bad << " at " << at;
      for (const std::size_t other : {0, 2, 3}) EXPECT_EQ(codes[other], clean[other]) << bad << " at " << at;
    }
  }
}

TEST_P(EveryMethod, gives_an_all_zero_block_code_0_and_stays_below_the_nan_code) {
  const std::vector<float> acts = activations(46), zeros(cols, -0.0f);
  const search::Hessians hessians = search::make_hessians(acts.data(), 20, cols, 16);
  const search::SearchTask task = {&format, &method, Select::mse, 16, 1, &hessians};
  for (const std::uint8_t code : search::search_scales(task, zeros.data(), 1, cols).scales) EXPECT_EQ(code, 0);
  const std::vector<float> data = matrix_of(method.format, 1, 47);
  for (const std::uint8_t code : search::search_scales(task, data.data(), rows, cols).scales) {
    EXPECT_LE(format.selects() ? code & ~formats::selection_bit : code, format.scale.max_code);
  }
}

TEST_P(EveryMethod, stops_when_asked) {
  const std::atomic<bool> stop = true;
  const std::vector<float> data(rows * cols, 1.5f), acts = activations(48);
  const search::Hessians hessians = search::make_hessians(acts.data(), 20, cols, 16);
  const search::SearchTask task = {&format, &method, Select::mse, 16, 0x1p-9f, &hessians, &stop};
  const search::SearchResult result = search::search_scales(task, data.data(), rows, cols);
  EXPECT_EQ(result.scales, std::vector<std::uint8_t>(rows * cols / 16, 0));
}

INSTANTIATE_TEST_SUITE_P(methods, EveryMethod, testing::ValuesIn(search::all_methods),
                         [](const auto& row) { return std::string(row.param.format) + "_" + row.param.name; });

struct MethodRow {
  const char* format;
  const char* name;
  MethodKind kind;
  double divisor;
  formats::Rounding rounding;
  int scale_max;
};

constexpr formats::Rounding nearest = formats::Rounding::nearest_even, down = formats::Rounding::toward_zero,
                            up = formats::Rounding::up;

constexpr MethodRow method_rows[] = {
    {"nvfp4", "naive", MethodKind::rule, 6, nearest, 0},
    {"nvfp4", "static6", MethodKind::rule, 6, nearest, 0},
    {"nvfp4", "static4", MethodKind::rule, 4, nearest, 0},
    {"nvfp4", "4over6", MethodKind::four_over_six, 6, nearest, 256},
    {"nvfp4", "prevent_zero", MethodKind::rule, 6, nearest, 0},
    {"nvfp4", "4over6_prevent_zero", MethodKind::four_over_six, 6, nearest, 256},
    {"nvfp4", "sse", MethodKind::sse, 6, nearest, 0},
    {"nvfp4", "exhaustive", MethodKind::exhaustive, 6, nearest, 0},
    {"nvfp4", "hessian", MethodKind::hessian, 6, nearest, 0},
    {"mxfp4", "naive", MethodKind::rule, 4, down, 0},
    {"mxfp4", "floor", MethodKind::rule, 4, down, 0},
    {"mxfp4", "ceil", MethodKind::rule, 4, up, 0},
    {"mxfp4", "even", MethodKind::rule, 3.5, down, 0},
    {"mxfp4", "rceil", MethodKind::rule, 6, up, 0},
    {"mxfp4", "oas", MethodKind::rule, 7, up, 0},
    {"mxfp4", "uos", MethodKind::rule, 7.25, up, 0},
    {"mxfp4", "static6", MethodKind::rule, 6, up, 0},
    {"mxfp4", "static4", MethodKind::rule, 4, up, 0},
    {"mxfp4", "sse", MethodKind::sse, 4, down, 0},
    {"mxfp4", "exhaustive", MethodKind::exhaustive, 4, down, 0},
    {"mxfp4", "hessian", MethodKind::hessian, 4, down, 0},
    {"mxfp4", "macro", MethodKind::macro, 6, up, 0},
    {"mxfp4", "macro_search", MethodKind::macro_search, 6, up, 0},
    {"mxfp4", "macro_oas_search", MethodKind::macro_search, 7, up, 0},
    {"mxfp4", "residual", MethodKind::residual, 6, up, 0},
    {"mxfp4", "residual_half", MethodKind::residual_half, 6, up, 0},
    {"nvint4", "naive", MethodKind::rule, 7, nearest, 0},
    {"nvint4", "static6", MethodKind::rule, 7, nearest, 0},
    {"nvint4", "sse", MethodKind::sse, 7, nearest, 0},
    {"nvint4", "exhaustive", MethodKind::exhaustive, 7, nearest, 0},
    {"nvint4", "hessian", MethodKind::hessian, 7, nearest, 0},
};

TEST(Methods, are_the_designs_table) {
  for (const MethodRow& row : method_rows) {
    const search::Method* m = search::find_method(row.format, row.name);
    ASSERT_NE(m, nullptr) << row.format << ' ' << row.name;
    EXPECT_EQ(m->kind, row.kind) << row.format << ' ' << row.name;
    EXPECT_EQ(m->rule.divisor, row.divisor) << row.format << ' ' << row.name;
    EXPECT_EQ(m->rule.rounding, row.rounding) << row.format << ' ' << row.name;
    EXPECT_EQ(m->scale_max, row.scale_max) << row.format << ' ' << row.name;
  }
  std::set<std::string> names;
  for (const search::Method& m : search::all_methods) {
    EXPECT_TRUE(names.insert(std::string(m.format) + ' ' + m.name).second) << m.format << ' ' << m.name;
    EXPECT_NE(formats::find_block_format(m.format), nullptr) << m.format;
    const bool prevents_zero = std::string_view(m.name).ends_with("prevent_zero") || m.kind == MethodKind::eden;
    EXPECT_EQ(m.rule.least, prevents_zero ? 1 : 0) << m.format << ' ' << m.name;
  }
  EXPECT_EQ(search::find_method("mxfp4", "4over6"), nullptr);
  EXPECT_EQ(search::find_method("nvint4", "static4"), nullptr);
  EXPECT_EQ(search::find_method("nvfp4", "floor"), nullptr);
  EXPECT_EQ(search::find_method("", ""), nullptr);
}

}  // namespace
}  // namespace fp4scope
