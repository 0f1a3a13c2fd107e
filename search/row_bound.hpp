// A floor under a whole row's output error, over all scale codes and all levels: how far a method is from the ceiling.
//
// If B is block-diagonal and H - theta B is positive semidefinite, then for every assignment
//
//   r^T H r >= theta sum over blocks of r_b^T B_b r_b >= theta sum over blocks of (the block's least loss under B_b)
//
// Three B: the identity (theta <= lambda_min(H)); H's own diagonal blocks; the blocks' Schur complements
// ((H^-1)_bb)^-1, what a block costs when all other columns compensate. With two blocks of largest canonical
// correlation rho, H's blocks get theta = 1 - rho in every direction; the complements 1 / (1 + rho), that is 1 - rho in
// the worst direction and more in all others. Where H is singular theta is 0 and the floor says nothing.
//
// What is proved. theta: U D U^T of M = H - theta B - c I in binary64 runs to its end with D > 0. It is exact for a
// matrix that differs from H - theta B - c I in entry ij by at most (n + 12) u (e_i e_j + theta f_i f_j), u = 2^-53, e
// and f the envelopes of H and B: forming M rounds three times, an entry's factorisation at most n + 4 times (products
// U_pk (D U)_qk, whose magnitudes add up to at most sqrt(M_pp M_qq) (1 + small); Higham 2002, theorem 10.3). The norm
// of that is at most (n + 12) u sum (e_i^2 + theta f_i^2); c is four times that. So B need not be what it is meant to
// be. Blocks: closest_vector's proved losses, less the rounding of loss_of; where its node limit struck, mu SSE_b with
// a certified mu I <= B_b and the exact least SSE. Nothing is sampled.
#pragma once

#include "search/full_hessian.hpp"

namespace fp4scope::search {

enum class Minorant : std::uint8_t { identity, blocks, conditional };

struct RowBound {
  double theta = 0;
  std::vector<double> bound;  ///< [rows], at most the least r^T H r of the row
  std::int64_t unproved = 0;  ///< blocks that closest_vector did not finish
};

/// x [rows, hessian.cols]; node_limit is closest_vector's, a block.
RowBound row_bound(const SearchSpace& space, const FullHessian& hessian, int block, Minorant minorant, const float* x,
                   std::int64_t rows, std::int64_t node_limit = 20000);

/// The blocks B_b, by approximation: of ((H^-1)_bb)^-1, of a slightly damped H.
Hessians minorant_blocks(const FullHessian& hessian, int block, Minorant minorant);

/// A theta for which H - theta B is certainly positive semidefinite, about 2 % below the largest; 0 if none is found.
double certified_theta(const FullHessian& hessian, const Hessians& minorant);

}  // namespace fp4scope::search
