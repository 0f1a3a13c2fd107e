// A matrix to scales and packed codes at a given tensor scale, in one pass over memory: what a caller who wants speed
// calls. A chunk of blocks is widened to float, its scales are searched and its codes packed before the next chunk is
// read, so everything between the input and the output stays in a core's cache.
//
// The bytes are those of search_scales followed by sim::encode_blocks_packed, for every method and thread count.
#pragma once

#include "search/search.hpp"

namespace fp4scope::search {

/// What a run over a matrix counted.
struct RowsCount {
  SearchCount count;
  std::int64_t chose_second = 0;  ///< as in SearchResult
};

/// x [rows, cols] as bf16 bits, row-major -> scales [rows, cols / task.block] and packed [rows, cols / 2], the even
/// column in the low nibble. cols is a multiple of task.block, which is even; elements have 4 bits and are the nearest
/// at the scale, so task.method neither gives_codes() nor is random(). Methods without lanes (has_lanes) take
/// search_scales on a copy of the whole matrix; the others allocate nothing. A stop leaves the rest of the output as it
/// was.
RowsCount quantize_rows(const SearchTask& task, const std::uint16_t* x, std::int64_t rows, std::int64_t cols,
                        std::uint8_t* scales, std::uint8_t* packed);

/// The same of floats.
RowsCount quantize_rows(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols,
                        std::uint8_t* scales, std::uint8_t* packed);

}  // namespace fp4scope::search
