// H = X^T X of a layer's inputs X: what the Hessian methods of search/ weigh errors with.
//
// From X [tokens, cols], in binary64, every entry summed over the tokens in order; or from a file that holds H whole
// [cols, cols], its diagonal blocks [cols / block, block, block], or its diagonal [cols].
// The diagonal blocks are positive semidefinite by certificate, or by a recorded shift (search/psd.hpp).
#pragma once

#include "analysis/tensors.hpp"
#include "search/full_hessian.hpp"
#include "search/psd.hpp"

namespace fp4scope::analysis {

struct Curvature {
  std::int64_t cols = 0;  ///< of the tensors that it fits, without padding
  search::Hessians blocks;
  search::PsdReport psd;     ///< what certifying the blocks took, and their hash
  search::FullHessian full;  ///< cols = 0 where it isn't known or wasn't asked for
};

/// x [tokens, cols] finite. Columns are padded with zeros to whole blocks. `full`: the whole H as well.
Curvature curvature_of(const Matrix& x, int block, bool full);

/// `path` and `tensor` ("" for its only one) of F32 or F64 data, taken as it is. Throws Error: another shape, another
/// block, a value that isn't finite, an asymmetric entry, a negative diagonal; with `full`, blocks or a diagonal alone.
Curvature read_curvature(const std::string& path, const std::string& tensor, int block, bool full);

}  // namespace fp4scope::analysis
