// formats/layout.hpp: swizzled block scales and nibble orders, over all shapes up to 512 rows x 64 scale columns,
// against CUTLASS's layout as shapes and strides and torchao's as views and permutations of a materialized array.
#include "formats/layout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "formats/pack.hpp"

namespace fp4scope {
namespace {

constexpr std::int64_t most_rows = 512, most_cols = 64;

struct LayoutRow {
  const char* name;
  formats::ScaleLayout layout;
};

void PrintTo(const LayoutRow& row, std::ostream* out) { *out << row.name; }

class EveryScaleLayout : public testing::TestWithParam<LayoutRow> {};

/// The least multiple of `step` that is at least n, by counting.
std::int64_t round_up(std::int64_t n, std::int64_t step) {
  std::int64_t up = 0;
  while (up < n) up += step;
  return up;
}

// Every shape R x C: the rows of one more atom fill the next stretch of bytes and no other, so a bijection of each atom
// row at C columns is one of every R at C columns. 2 M offsets stand for 32768 shapes.
TEST_P(EveryScaleLayout, offsets_of_every_padded_shape_are_a_bijection_and_positions_its_inverse) {
  const formats::ScaleLayout& layout = GetParam().layout;
  long compared = 0;
  for (std::int64_t cols = 1; cols <= most_cols; ++cols) {
    const std::int64_t padded = round_up(cols, 4), stretch = layout.rows * padded;
    std::vector<char> taken(static_cast<std::size_t>(most_rows * padded));
    for (std::int64_t row = 0; row < most_rows; ++row) {
      for (std::int64_t col = 0; col < padded; ++col, ++compared) {
        const std::int64_t at = formats::swizzled_offset(layout, row, col, cols);
        ASSERT_EQ(at / stretch, row / layout.rows) << row << ' ' << col << " of " << cols << ": byte " << at;
        ASSERT_FALSE(taken[static_cast<std::size_t>(at)]++) << row << ' ' << col << " of " << cols << ": byte " << at;
        const formats::ScalePosition back = formats::swizzled_position(layout, at, cols);
        ASSERT_TRUE(back.row == row && back.col == col)
            << row << ' ' << col << " of " << cols << ": byte " << at << " is " << back.row << ' ' << back.col;
      }
    }
    ASSERT_EQ(std::count(taken.begin(), taken.end(), 1), most_rows * padded) << cols;
  }
  EXPECT_EQ(compared, 4 * most_rows * (4 + 64) * 16 / 2);
}

TEST_P(EveryScaleLayout, the_size_of_every_shape_is_its_padded_rows_times_columns) {
  const formats::ScaleLayout& layout = GetParam().layout;
  for (std::int64_t rows = 0; rows <= most_rows; ++rows) {
    for (std::int64_t cols = 0; cols <= most_cols; ++cols) {
      const std::int64_t want_rows = round_up(rows, layout.rows), want_cols = round_up(cols, 4);
      ASSERT_EQ(formats::padded_scale_rows(layout, rows), want_rows) << rows;
      ASSERT_EQ(formats::padded_scale_cols(cols), want_cols) << cols;
      ASSERT_EQ(formats::swizzled_size(layout, rows, cols), want_rows * want_cols) << rows << ' ' << cols;
    }
  }
}

/// The first thing wrong with swizzle_scales and unswizzle_scales on one shape, or "". The bytes of `linear` are not 0,
/// so as many bytes of the swizzled array as there are scales are not 0 exactly if all padding is.
std::string array_mistake(const formats::ScaleLayout& layout, const std::vector<std::uint8_t>& linear,
                          std::int64_t rows, std::int64_t cols) {
  const std::int64_t size = formats::swizzled_size(layout, rows, cols);
  std::vector<std::uint8_t> swizzled(static_cast<std::size_t>(size), 0xFF);
  std::vector<std::uint8_t> back(static_cast<std::size_t>(rows * cols), 0xFF);
  formats::swizzle_scales(layout, linear.data(), rows, cols, swizzled.data());
  formats::unswizzle_scales(layout, swizzled.data(), rows, cols, back.data());
  const std::string shape = std::to_string(rows) + " x " + std::to_string(cols);
  if (!std::equal(back.begin(), back.end(), linear.begin())) {
    const auto wrong = std::mismatch(back.begin(), back.end(), linear.begin());
    return shape + ": scale " + std::to_string(wrong.first - back.begin()) + " was " + std::to_string(*wrong.second) +
           " and came back " + std::to_string(*wrong.first);
  }
  const std::int64_t zeros = std::count(swizzled.begin(), swizzled.end(), 0);
  if (zeros != size - rows * cols) {
    return shape + ": " + std::to_string(zeros) + " zeros for " + std::to_string(size - rows * cols) + " padding bytes";
  }
  const std::int64_t row = rows - 1, col = cols - 1;
  const std::uint8_t last = swizzled[static_cast<std::size_t>(formats::swizzled_offset(layout, row, col, cols))];
  return last == linear[static_cast<std::size_t>(rows * cols - 1)] ? "" : shape + ": the last scale is elsewhere";
}

TEST_P(EveryScaleLayout, unswizzle_of_swizzle_is_the_same_array_and_padding_is_zero_for_every_shape) {
  std::vector<std::uint8_t> linear(static_cast<std::size_t>(most_rows * most_cols));
  for (std::size_t i = 0; i < linear.size(); ++i) linear[i] = static_cast<std::uint8_t>(i * 40503u % 255 + 1);
  std::string first;
#pragma omp parallel for schedule(dynamic)
  for (int rows = 1; rows <= most_rows; ++rows) {
    for (int cols = 1; cols <= most_cols; ++cols) {
      const std::string mistake = array_mistake(GetParam().layout, linear, rows, cols);
#pragma omp critical
      if (first.empty()) first = mistake;
    }
  }
  EXPECT_EQ(first, "");
}

TEST_P(EveryScaleLayout, a_swizzled_array_holds_each_scale_at_its_offset) {
  const formats::ScaleLayout& layout = GetParam().layout;
  const std::int64_t rows = 261, cols = 11, size = formats::swizzled_size(layout, rows, cols);
  std::vector<std::uint8_t> linear(static_cast<std::size_t>(rows * cols)), swizzled(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < linear.size(); ++i) linear[i] = static_cast<std::uint8_t>(i * 2654435761u >> 8);
  formats::swizzle_scales(layout, linear.data(), rows, cols, swizzled.data());
  for (std::int64_t at = 0; at < size; ++at) {
    const auto [row, col] = formats::swizzled_position(layout, at, cols);
    const int want = row < rows && col < cols ? linear[static_cast<std::size_t>(row * cols + col)] : 0;
    ASSERT_EQ(swizzled[static_cast<std::size_t>(at)], want) << at << ": " << row << ' ' << col;
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, EveryScaleLayout,
                         testing::Values(LayoutRow{"scales_128x4", formats::scales_128x4},
                                         LayoutRow{"scales_8x4", formats::scales_8x4}),
                         [](const auto& test) { return test.param.name; });

// ---- CUTLASS: a mode is a list of (shape, stride), a coordinate is split along it, the first one fastest ----

using Mode = std::vector<std::pair<std::int64_t, std::int64_t>>;

std::int64_t evaluate(const Mode& mode, std::int64_t coordinate) {
  std::int64_t at = 0;
  for (const auto& [shape, stride] : mode) {
    at += coordinate % shape * stride;
    coordinate /= shape;
  }
  return at;
}

TEST(Scales128x4, are_the_layout_of_cutlass_for_both_block_sizes) {
  long compared = 0;
  for (const std::int64_t vec : {16, 32}) {
    for (std::int64_t cols = 1; cols <= most_cols; ++cols) {
      const std::int64_t atoms = round_up(cols, 4) / 4;
      // The atom Shape((32, 4), (VEC, 4)) : Stride((16, 4), (0, 1)), tiled to the matrix columns first.
      const Mode m = {{32, 16}, {4, 4}, {most_rows / 128, 512 * atoms}};
      const Mode k = {{vec, 0}, {4, 1}, {atoms, 512}};
      for (std::int64_t row = 0; row < most_rows; ++row) {
        for (std::int64_t col = 0; col < 4 * atoms; ++col, ++compared) {
          const std::int64_t element = col * vec + (row + col) % vec;  // any of the block's
          const std::int64_t want = evaluate(m, row) + evaluate(k, element);
          ASSERT_EQ(formats::swizzled_offset(formats::scales_128x4, row, col, cols), want)
              << row << ' ' << col << " of " << cols << ", block " << vec;
        }
      }
    }
  }
  EXPECT_EQ(compared, 2 * 4 * most_rows * (4 + 64) * 16 / 2);
}

// ---- torchao: a dense array of indices, viewed and permuted ----

struct Array {
  std::vector<std::int64_t> shape, data;

  Array view(std::vector<std::int64_t> to) const { return {std::move(to), data}; }

  Array permute(const std::vector<std::size_t>& axes) const {
    const std::size_t rank = shape.size();
    std::vector<std::int64_t> stride(rank, 1), at(rank, 0);
    for (std::size_t d = rank - 1; d > 0; --d) stride[d - 1] = stride[d] * shape[d];
    Array out;
    for (const std::size_t axis : axes) out.shape.push_back(shape[axis]);
    for (std::size_t i = 0; i < data.size(); ++i) {
      std::int64_t from = 0;
      for (std::size_t d = 0; d < rank; ++d) from += at[d] * stride[axes[d]];
      out.data.push_back(data[static_cast<std::size_t>(from)]);
      for (std::size_t d = rank; d-- > 0 && ++at[d] == out.shape[d];) at[d] = 0;
    }
    return out;
  }
};

Array indices(std::int64_t rows, std::int64_t cols) {
  Array a = {{rows, cols}, std::vector<std::int64_t>(static_cast<std::size_t>(rows * cols))};
  std::iota(a.data.begin(), a.data.end(), 0);
  return a;
}

void expect_order(const formats::ScaleLayout& layout, const Array& blocked, std::int64_t cols) {
  for (std::size_t i = 0; i < blocked.data.size(); ++i) {
    const auto [row, col] = formats::swizzled_position(layout, static_cast<std::int64_t>(i), cols);
    ASSERT_EQ(row * cols + col, blocked.data[i]) << "byte " << i << " of " << cols << " columns: " << row << ' ' << col;
  }
}

TEST(Scales128x4, are_the_views_and_permutations_of_torchao_for_every_padded_shape) {
  for (std::int64_t rb = 1; rb <= most_rows / 128; ++rb) {
    for (std::int64_t cb = 1; cb <= most_cols / 4; ++cb) {
      const Array blocks = indices(128 * rb, 4 * cb).view({rb, 128, cb, 4}).permute({0, 2, 1, 3});
      const Array blocked = blocks.view({rb * cb, 4, 32, 4}).permute({0, 2, 1, 3}).view({rb * cb, 32, 16});
      expect_order(formats::scales_128x4, blocked, 4 * cb);
      // The same in one step.
      const Array once = indices(128 * rb, 4 * cb).view({rb, 4, 32, cb, 4}).permute({0, 3, 2, 1, 4});
      ASSERT_EQ(once.data, blocked.data) << rb << ' ' << cb;
    }
  }
}

TEST(Scales8x4, are_atoms_of_8_rows_for_every_padded_shape) {
  for (std::int64_t rb = 1; rb <= most_rows / 8; ++rb) {
    for (std::int64_t cb = 1; cb <= most_cols / 4; ++cb) {
      expect_order(formats::scales_8x4, indices(8 * rb, 4 * cb).view({rb, 8, cb, 4}).permute({0, 2, 1, 3}), 4 * cb);
    }
  }
}

struct Spot {
  std::int64_t row, col, cols, at_128x4, at_8x4;
};

TEST(Scales, spot_values_worked_out_by_hand) {
  for (const Spot& s : std::initializer_list<Spot>{
           {0, 0, 4, 0, 0},           // the first
           {0, 3, 4, 3, 3},           // an atom's columns are neighbours
           {1, 0, 4, 16, 4},          // the next row: 16 bytes on, or 4
           {31, 3, 4, 499, 127},      // 31*16 + 3; atom 3 of 32 bytes, row 7: 96 + 28 + 3
           {32, 0, 4, 4, 128},        // rows 32 apart are neighbours
           {96, 0, 4, 12, 384},       //
           {127, 3, 4, 511, 511},     // the last of the first 128 rows
           {0, 4, 8, 512, 32},        // the next atom lies to the right
           {128, 0, 8, 1024, 1024},   // then the atoms below
           {128, 0, 5, 1024, 1024},   // 5 columns are 8
           {200, 9, 12, 2697, 2465},  // atom 1*3 + 2: 2560 + 8*16 + 2*4 + 1; atom 25*3 + 2: 2464 + 0 + 1
           {7, 0, 64, 112, 28},       //
           {8, 0, 64, 128, 512},      // 16 atoms of 32 bytes
       }) {
    EXPECT_EQ(formats::swizzled_offset(formats::scales_128x4, s.row, s.col, s.cols), s.at_128x4)
        << s.row << ' ' << s.col << " of " << s.cols;
    EXPECT_EQ(formats::swizzled_offset(formats::scales_8x4, s.row, s.col, s.cols), s.at_8x4)
        << s.row << ' ' << s.col << " of " << s.cols;
  }
}

TEST(Scales, of_a_row_of_five_lie_in_two_atoms_and_the_rest_is_zero) {
  const std::uint8_t linear[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  std::vector<std::uint8_t> swizzled(64, 0xFF), want(64);
  formats::swizzle_scales(formats::scales_8x4, linear, 2, 5, swizzled.data());
  for (std::size_t i = 0; i < 4; ++i) want[i] = static_cast<std::uint8_t>(1 + i);
  for (std::size_t i = 0; i < 4; ++i) want[4 + i] = static_cast<std::uint8_t>(6 + i);
  want[32] = 5;
  want[36] = 10;
  EXPECT_EQ(swizzled, want);
}

// ---- nibbles ----

struct NibbleRow {
  const char* name;
  formats::NibbleOrder order;
  std::int64_t block_bytes;
};

void PrintTo(const NibbleRow& row, std::ostream* out) { *out << row.name; }

class EveryNibbleOrder : public testing::TestWithParam<NibbleRow> {};

TEST_P(EveryNibbleOrder, positions_are_a_bijection_to_the_nibbles_that_are_no_scale) {
  const formats::NibbleOrder& order = GetParam().order;
  ASSERT_EQ(formats::nibble_block_bytes(order), GetParam().block_bytes);
  const std::int64_t blocks = 5, elements = blocks * order.elements, bytes = blocks * GetParam().block_bytes;
  std::vector<char> taken(static_cast<std::size_t>(2 * bytes));
  for (std::int64_t e = 0; e < elements; ++e) {
    const formats::NibblePosition at = formats::nibble_position(order, e);
    ASSERT_TRUE(at.byte >= 0 && at.byte < bytes) << e << ": byte " << at.byte;
    ASSERT_FALSE(formats::is_scale_byte(order, at.byte)) << e << ": byte " << at.byte;
    ASSERT_FALSE(taken[static_cast<std::size_t>(2 * at.byte + at.high)]++) << e << ": byte " << at.byte << at.high;
    ASSERT_EQ(formats::nibble_element(order, at), e) << "byte " << at.byte << at.high;
  }
  for (std::int64_t byte = 0; byte < bytes; ++byte) {
    const int want = byte % GetParam().block_bytes < order.scale_bytes ? 0 : 2;
    const auto i = static_cast<std::size_t>(2 * byte);
    ASSERT_EQ(taken[i] + taken[i + 1], want) << "byte " << byte;
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, EveryNibbleOrder,
                         testing::Values(NibbleRow{"pair_nibbles", formats::pair_nibbles, 1},
                                         NibbleRow{"ggml_mxfp4_nibbles", formats::ggml_mxfp4_nibbles, 17},
                                         NibbleRow{"ggml_nvfp4_nibbles", formats::ggml_nvfp4_nibbles, 36}),
                         [](const auto& test) { return test.param.name; });

TEST(PairNibbles, are_the_order_of_unpack_nibble) {
  const std::uint8_t packed[] = {0x10, 0x32, 0x54, 0x76, 0x98};
  for (std::int64_t e = 0; e < 10; ++e) {
    const formats::NibblePosition at = formats::nibble_position(formats::pair_nibbles, e);
    const int shift = at.high ? 4 : 0;
    EXPECT_EQ(packed[at.byte] >> shift & 0xF, static_cast<int>(formats::unpack_nibble(packed, e))) << e;
  }
}

/// A block as its decoder walks through it: byte j of a run gives element j, then element j + half.
TEST(GgmlNibbles, are_the_loops_of_its_decoders) {
  for (std::int64_t block = 0; block < 3; ++block) {
    for (std::int64_t j = 0; j < 16; ++j) {
      for (const bool high : {false, true}) {
        const std::int64_t e = block * 32 + (high ? j + 16 : j);
        const formats::NibblePosition at = formats::nibble_position(formats::ggml_mxfp4_nibbles, e);
        ASSERT_TRUE(at.byte == block * 17 + 1 + j && at.high == high) << e << ": byte " << at.byte << ' ' << at.high;
        ASSERT_EQ(formats::scale_byte(formats::ggml_mxfp4_nibbles, e), block * 17) << e;
      }
    }
    for (std::int64_t sub = 0; sub < 4; ++sub) {
      for (std::int64_t j = 0; j < 8; ++j) {
        for (const bool high : {false, true}) {
          const std::int64_t e = block * 64 + sub * 16 + (high ? j + 8 : j);
          const formats::NibblePosition at = formats::nibble_position(formats::ggml_nvfp4_nibbles, e);
          ASSERT_TRUE(at.byte == block * 36 + 4 + sub * 8 + j && at.high == high) << e << ": byte " << at.byte;
          ASSERT_EQ(formats::scale_byte(formats::ggml_nvfp4_nibbles, e), block * 36 + sub) << e;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fp4scope
