// What happens to a matrix before it is quantized: first transposed, then rotated along its rows.
#pragma once

#include <optional>

#include "analysis/quantize.hpp"
#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

struct Transform {
  bool transposed = false;
  int hadamard = 0;                            ///< points of the rotation, 0 for none
  std::optional<std::uint64_t> hadamard_seed;  ///< of its signs; none: the fixed signs of 16 points

  bool rotated() const { return hadamard != 0; }
  std::string text() const;  ///< "" for none, else as "transpose hadamard 16"
};

/// Checks the words against each other and the recipe. `size` 0: 16 where `hadamard` is asked for. Throws UsageError: a
/// size that is no power of two, a size or seed without a rotation or that the recipe's source doesn't have.
Transform parse_transform(const QuantizeConfig& config, bool transposed, bool hadamard, int size,
                          std::optional<std::uint64_t> seed);

/// Columns that a matrix of `cols` has afterwards: rotated columns are padded to whole rotations.
std::int64_t transformed_cols(const Transform& t, const Shape2d& shape);

/// The matrix in the basis in which it is quantized. A recipe that has the rotation rounds it as its source does, to
/// the matrix's dtype; recipe `exact` and the others take sim::HadamardArithmetic::exact.
Matrix apply(const Transform& t, const QuantizeConfig& config, Matrix m);

/// Layer inputs X [tokens, cols] for a matrix with those columns after `t`: rotated alike, so that X W^T stays.
Matrix apply_to_inputs(const Transform& t, Matrix x);

/// Back to the basis of the original, of the given shape: the exact rotation's inverse rounded once to binary32.
Matrix undo(const Transform& t, Matrix m, const Shape2d& original);

}  // namespace fp4scope::analysis
