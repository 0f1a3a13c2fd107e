// Matrices for the methods that choose elements with their scales: block by block (block_problem.hpp), along a whole
// row (row_descent.hpp), or with feedback (gptq.hpp).
#pragma once

#include "search/search.hpp"

namespace fp4scope::search {

/// x [rows, cols] row-major and finite, cols a multiple of task.block, which is at most max_joint_block.
/// Rows are independent and their operations in a fixed order: the result does not depend on the number of threads.
SearchResult search_joint(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols);

}  // namespace fp4scope::search
