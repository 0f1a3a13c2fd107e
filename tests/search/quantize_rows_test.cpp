// search/quantize_rows.hpp: the bytes of search_scales and quantize_block, from bf16 and from floats, on any threads.
#include "search/quantize_rows.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "formats/pack.hpp"
#include "search/lanes.hpp"
#include "sim/block.hpp"
#include "tests/search/blocks.hpp"

namespace fp4scope {
namespace {

using Bytes = std::vector<std::uint8_t>;

struct TaskRow {
  const char* format;
  const char* method;
  int block;
  std::int64_t rows, cols;
};

/// Sizes of a few chunks and a part, of less than one, of one block, and of nothing.
constexpr TaskRow task_rows[] = {
    {"nvfp4", "naive", 16, 13, 656}, {"nvfp4", "4over6", 16, 5, 912}, {"nvfp4", "sse", 16, 7, 624},
    {"nvfp4", "sse", 64, 3, 1344},   {"nvfp4", "sse", 6, 3, 66},      {"nvfp4", "exhaustive", 16, 2, 80},
    {"mxfp4", "naive", 32, 9, 480},  {"mxfp4", "sse", 32, 9, 480},    {"nvint4", "sse", 16, 1, 16},
    {"if4", "sse", 16, 3, 64},       {"nvfp4", "hessian", 16, 3, 48}, {"nvfp4", "naive", 16, 0, 16}};

void PrintTo(const TaskRow& row, std::ostream* out) {
  *out << row.format << ' ' << row.method << " in blocks of " << row.block << ", [" << row.rows << ", " << row.cols
       << ']';
}

/// bf16 values with rows of zeros and a NaN among them.
std::vector<std::uint16_t> make_data(const TaskRow& row) {
  blocks::Maker maker(row.format, 1);
  std::vector<std::uint16_t> x;
  for (std::int64_t i = 0; i < row.rows * row.cols; ++i) {
    const auto value = static_cast<float>(i / row.block % 11 == 3 ? 0.0 : 0.024 * maker.normal());
    x.push_back(static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, value) >> 16));
  }
  if (x.size() > 100) x[100] = 0x7FC0;
  return x;
}

std::vector<float> floats_of(const std::vector<std::uint16_t>& bits) {
  std::vector<float> x;
  for (const std::uint32_t b : bits) x.push_back(__builtin_bit_cast(float, b << 16));
  return x;
}

class EveryTask : public testing::TestWithParam<TaskRow> {
 protected:
  const TaskRow row = GetParam();
  const std::vector<std::uint16_t> bits = make_data(row);
  const std::vector<float> x = floats_of(bits);
  search::Hessians hessians;
  search::SearchTask task;
  Bytes scales = Bytes(static_cast<std::size_t>(row.rows * row.cols / row.block) + 1, 0x5A);
  Bytes packed = Bytes(static_cast<std::size_t>(row.rows * row.cols / 2) + 1, 0x5A);

  void SetUp() override {
    omp_set_num_threads(1);
    task.format = formats::find_block_format(row.format);
    task.method = search::find_method(row.format, row.method);
    task.block = row.block;
    task.tensor_scale = task.format->tensor_scaled ? 0x1.9p-15f : 1;
    if (!task.method->needs_hessian()) return;
    std::vector<float> activations;
    blocks::Maker maker(row.format, 2);
    for (std::int64_t i = 0; i < 8 * row.cols; ++i) activations.push_back(static_cast<float>(maker.normal()));
    hessians = search::make_hessians(activations.data(), 8, row.cols, row.block);
    task.hessians = &hessians;
  }

  void TearDown() override { omp_set_num_threads(omp_get_num_procs()); }

  void check(const search::RowsCount& counted) {
    const search::SearchResult want = search::search_scales(task, x.data(), row.rows, row.cols);
    EXPECT_EQ(counted.chose_second, want.chose_second);
    const sim::Grid grids[2] = {sim::make_grid(*task.format, false), sim::make_grid(*task.format, true)};
    const auto n = static_cast<std::size_t>(row.block);
    for (std::size_t b = 0; b < want.scales.size(); ++b) {
      ASSERT_EQ(int{scales[b]}, int{want.scales[b]}) << "scale of block " << b;
      const bool integer = task.format->selects() && (scales[b] & formats::selection_bit) != 0;
      const int code = task.format->selects() ? scales[b] & ~formats::selection_bit : scales[b];
      const double scale = formats::decode_double(task.format->scale, static_cast<std::uint32_t>(code));
      Bytes codes(n);
      sim::quantize_block(integer ? formats::int4 : task.format->element, grids[integer ? 1 : 0], x.data() + b * n,
                          row.block, task.tensor_scale * scale, codes.data(), sim::grid_factor(*task.format));
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_EQ(formats::unpack_nibble(packed.data(), static_cast<std::int64_t>(b * n + i)), codes[i])
            << "block " << b << ", scale code " << int{scales[b]} << ", element " << i << " = " << x[b * n + i];
      }
    }
    EXPECT_EQ(scales.back(), 0x5A) << "wrote behind the scales";
    EXPECT_EQ(packed.back(), 0x5A) << "wrote behind the codes";
  }
};

TEST_P(EveryTask, bf16_gives_the_bytes_of_search_and_quantize_block_on_any_number_of_threads) {
  for (const int threads : {1, 3}) {
    omp_set_num_threads(threads);
    check(search::quantize_rows(task, bits.data(), row.rows, row.cols, scales.data(), packed.data()));
  }
}

TEST_P(EveryTask, floats_give_the_same) {
  check(search::quantize_rows(task, x.data(), row.rows, row.cols, scales.data(), packed.data()));
}

TEST_P(EveryTask, a_stop_leaves_the_output_alone) {
  const std::atomic<bool> stop = true;
  task.stop = &stop;
  search::quantize_rows(task, bits.data(), row.rows, row.cols, scales.data(), packed.data());
  for (const std::uint8_t byte : scales) ASSERT_EQ(byte, 0x5A);
  for (const std::uint8_t byte : packed) ASSERT_EQ(byte, 0x5A);
}

INSTANTIATE_TEST_SUITE_P(QuantizeRows, EveryTask, testing::ValuesIn(task_rows));

TEST(QuantizeRows, the_usual_methods_have_lanes) {
  for (const TaskRow& row : task_rows) {
    search::SearchTask task = {};
    task.format = formats::find_block_format(row.format);
    task.method = search::find_method(row.format, row.method);
    task.block = row.block;
    task.tensor_scale = 0x1.9p-15f;
    const std::string method = row.method;
    const bool usual =
        (method == "naive" || method == "4over6" || method == "sse") && row.block % 8 == 0 && !task.format->selects();
    EXPECT_EQ(search::has_lanes(task), usual) << testing::PrintToString(row);
  }
}

}  // namespace
}  // namespace fp4scope
