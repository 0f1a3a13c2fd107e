// A scale code for every block of a matrix: the methods of methods.hpp, in parallel over rows.
// Blocks are independent and each is decided exactly, so the result does not depend on the number of threads.
#pragma once

#include <atomic>
#include <vector>

#include "search/methods.hpp"

namespace fp4scope::search {

/// The diagonal blocks of X^T X, one for each block of columns.
/// Computed in binary64: products of floats are exact, each entry is summed over the tokens in order. Not normalised.
struct Hessians {
  int block = 0;
  std::vector<double> h;         ///< [cols / block][block][block]
  std::vector<double> envelope;  ///< [cols / block][block], see BlockHessian

  std::size_t count() const { return block == 0 ? 0 : envelope.size() / static_cast<std::size_t>(block); }
  double* of(std::size_t index) { return h.data() + index * block * block; }
  const double* of(std::size_t index) const { return h.data() + index * block * block; }
};

/// x [tokens, cols] row-major and finite, cols a multiple of block.
Hessians make_hessians(const float* x, std::int64_t tokens, std::int64_t cols, int block);

struct FullHessian;

struct SearchTask {
  const formats::BlockFormat* format;
  const Method* method;
  Select select = Select::mse;
  int block = 16;
  float tensor_scale = 1;
  const Hessians* hessians = nullptr;       ///< MethodKind::hessian needs it, for the same block size and columns
  const std::atomic<bool>* stop = nullptr;  ///< when it turns true the rest of the rows is skipped
  int tile_rows = 1;                        ///< rows that share a scale: 1, or as many as a block has columns
  bool unbiased = false;                    ///< rules aim at 16/17 of the largest element (sim::unbiased)
  const FullHessian* full = nullptr;        ///< methods of the whole row need it, over the same columns
  double damping = 0.01;                    ///< of GPTQ: a share of the mean diagonal
  std::int64_t node_limit = 100000;         ///< a block, of the searches for a closest vector
};

struct SearchResult {
  std::vector<std::uint8_t> scales;  ///< [rows, cols / block]
  std::int64_t chose_second = 0;     ///< blocks that four over six mapped to 4, or that IF4 made INT4
  std::vector<std::uint8_t> codes;   ///< [rows, cols], of methods that choose the elements too; else empty
  std::vector<std::uint8_t> macro;   ///< [rows, macro blocks], of methods that have them (macro.hpp); else empty
  std::int64_t proved = 0;           ///< blocks where no scale and elements are better: of MethodKind::closest
  SearchCount count;                 ///< a diagnostic, outside what is promised
};

/// x [rows, cols] row-major, cols a multiple of task.block. A block with a NaN or an Inf gets the scale format's NaN.
/// The scale of a tile stands in each of its rows; the last tile of a column of tiles may have fewer rows. Methods that
/// choose the elements take finite data, rows for tiles, and blocks up to max_joint_block.
SearchResult search_scales(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols);

}  // namespace fp4scope::search
