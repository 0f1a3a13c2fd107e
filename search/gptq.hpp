// GPTQ over blocks with a scale: columns are rounded from first to last, what is left over moves the later ones.
//
// With H + shift I = U D U^T (factor.hpp) and r = x - v the loss is sum_i D_i (t_i - v_i)^2,
//   t_i = x_i + sum over j < i of U_ji r_j:
// column i is rounded from t_i, the place where the columns after it, still free, would compensate best (arXiv
// 2210.17323 moves them through the inverse's Cholesky factor; in real numbers that is the same, with no inverse).
//
// A block's scale is chosen when its turn comes. The values that it then stands for are the conditional optimum
//   y_i = t_i + sum over earlier j of the block of U_ji (x_j - y_j)      (t_i with all earlier blocks' r)
// and what the row loses by putting v there, with all later columns free to compensate, is (y - v)^T S (y - v),
// S = U_b D_b U_b^T the Schur complement. H's own diagonal block would be right only if the later columns stayed at x.
//
// Damped losses are those of H + shift I; the caller measures r^T H r.
#pragma once

#include "search/factor.hpp"

namespace fp4scope::search {

/// How a block gets its scale, from y rounded to binary32, and its levels.
enum class GptqScale : std::uint8_t {
  naive,     ///< the rule of the search space, then feedback
  sse,       ///< least squared error, then feedback
  hessian,   ///< least (y - v)^T S (y - v) with nearest elements, then feedback, which moves them again
  feedback,  ///< the code whose own feedback loses least, sum of D_i (t_i - v_i)^2: there no more than the three above
  closest,   ///< code and levels together under S as far as node_limit goes, no feedback inside the block
};

/// What all rows share: the order of the blocks, the factors of H in that order and the blocks' Schur complements.
struct GptqPlan {
  int block = 0;
  std::vector<std::int64_t> order;  ///< [cols / block]: the block that comes k-th
  Factor factor;
  Hessians conditional;
};

/// `ordered`: blocks by descending sum of their diagonal, equal ones in their order (act-order for whole blocks, so
/// that scales keep their columns). Throws Error where H + shift I has a pivot that is not positive.
GptqPlan make_gptq_plan(const FullHessian& hessian, int block, bool ordered = false, double damping = default_damping);

/// x [rows, cols]. Rows are independent: neither their number nor the threads change a bit.
Assignment gptq(const SearchSpace& space, const GptqPlan& plan, GptqScale choice, const float* x, std::int64_t rows,
                std::int64_t node_limit = 20000);

}  // namespace fp4scope::search
