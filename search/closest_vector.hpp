// The best scale code and element levels of a block under a quadratic loss: for each code a closest vector in a box of
// the signed grid, found by depth-first search (Schnorr, Euchner 1994; Agrell et al. 2002), the radius inherited from
// the best over all codes so far.
//
// Tree. H = U^T D U + E, U unit upper triangular, D >= 0. With r = t - v, y = U r and w = U^-T g (rounded; e_g is what
// that leaves over), the loss is
//
//   sum_k term_k(y_k) + r^T E r + 2 e_g^T r,   term_k(y) = d_k y^2 + 2 w_k y
//
// y_k = r_k + sum_{j > k} u_kj r_j is known once levels k .. n-1 are; so levels are fixed from n-1 down to 0, each in
// the order of |v_k - centre|, which is the order of its term. A subtree is left when its terms and the least values of
// the terms to come exceed the best loss known. |y_k| <= Y_k = sum |u_kj| R_j with R_j = |t_j| + top * step bounds
// those least values (0 without g).
//
// Order of elements. Large d_k times squared level spacing belong at the top of the tree. Elimination takes, at every
// step, the element of least pivot * spacing^2 first (spacing around |t_i| at the starting code); ties to the first.
//
// Margin. D, U and w are doubles as computed; nothing is assumed of them. With u = 2^-53:
//   E: each |h_ij - (U^T D U)_ij| is computed and bounded, |E_ij| <= eps_ij, (n + 4) u (|h_ij| + A_ij) for its
//   rounding,
//      A = |U|^T D |U|. Likewise e_g. So |r^T E r + 2 e_g^T r| <= R^T eps R + 2 eps_g^T R.
//   Sums: the computed y_k is off by (n + 4) u Y_k, a term by (2 n + 15) u (d_k Y_k^2 + 2 |w_k| Y_k) (its least value
//      included), their sum by (4 n + 20) u sum_k (d_k Y_k^2 + 2 |w_k| Y_k) = (4 n + 20) u (R^T A R + 2 (|U|^T |w|)^T
//      R).
//   The margin takes (8 n + 64) u: the spare half covers a next sibling whose term is smaller by its rounding than that
//   of the one before, the subtractions of the threshold and the margin's own roundings. A pivot below n 2^-47 h_kk is
//   raised to that (E has the difference), so a semidefinite H factors: then |s_kj| <= sqrt(s_kk s_jj), u_kj stays
//   bounded, and every direction that costs nothing is enumerated, within the node limit.
//
// Leaving out a code. If diag(delta) <= H in the semidefinite order, then for every level vector, with a = H^-1 g,
//   loss >= sum_i delta_i dist_i^2 - a^T H a,   dist_i from t_i + a_i to the nearest level at that code.
//   Clipping and dead-zone bounds of nearest levels are no bounds here: levels are free. delta_i = mu / (H^-1)_ii,
//   which without rounding holds for mu = 1 / n. mu is proved by a Cholesky factorization of H - diag(delta + c h_ii)
//   that runs to its end: it is exact for a matrix that differs in entry ij by at most g sqrt(h_ii h_jj), g =
//   gamma_(n+1) / (1 - gamma_(n+1)) (Demmel; Higham 2002, theorem 10.3), a perturbation between -+ n g diag(h); c = 4 n
//   (n + 2) u.
//
// Leaves. A leaf within the margin is compared with the best in binary64 with an error bound, and if that doesn't
// decide, in whole numbers: the answer is that of real arithmetic.
//
// Ties: the lowest code, then the lexicographically smallest level vector. An element whose row of H and whose g are
// zero costs nothing: it stays outside the search and takes its nearest level at the code found.
#pragma once

#include "search/coordinate.hpp"

namespace fp4scope::search {

struct ClosestVectorOptions {
  std::int64_t node_limit =
      1000000;  ///< over all codes; a node is a level tried, a comparison in whole numbers n^2 of them
};

/// Working memory of closest_vector: nothing in it outlives a call.
struct ClosestVectorRoom {
  double schur[max_joint_block * max_joint_block];
  double u[max_joint_block * max_joint_block];
  double inverse[max_joint_block * max_joint_block];
  double sum[max_joint_block * (max_joint_block + 1)];
};

/// The sign of the loss of a less that of b, in real numbers.
int compare_losses(const SearchSpace& space, const BlockProblem& problem, const BlockSolution& a,
                   const BlockSolution& b);

/// The least loss over all positive codes and all level vectors, in real numbers. Where the node limit struck, the best
/// found, `proved` false: never above coordinate_descent's.
BlockSolution closest_vector(const SearchSpace& space, const BlockProblem& problem, const ClosestVectorOptions& options,
                             ClosestVectorRoom& room);

}  // namespace fp4scope::search
