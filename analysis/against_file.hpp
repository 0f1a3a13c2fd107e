// `crosscheck --against`: whose tensors in THEIRS belong to a matrix of IN.
//
// By name, as these write them; T is the matrix's name, P what it is without a last "weight":
//
//   fp4scope             T.codes          T.scales        T.tensor_scale
//   Model-Optimizer      T (bytes)        T_scale         T_scale_2
//   compressed-tensors   T_packed         T_scale         T_global_scale, a reciprocal
//   gpt-oss              T_blocks         T_scales
//   FP-Quant             Pqweight         Pscales         Pweight_global_scale, a reciprocal
//
// or as options say. A matrix that is the only one of IN may have any name where THEIRS holds one set of such tensors.
#pragma once

#include "analysis/against.hpp"
#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

struct AgainstFiles {
  std::string theirs;  ///< safetensors, .npy, .h5
  std::string input;   ///< safetensors, .npy, .h5, or FILE:NAME
  std::vector<std::string> tensors = {"*"};
  std::string codes, scales;  ///< names in THEIRS; of .npy a file with the scales
  std::string tensor_scale;   ///< a name or a positive number; "1/" before it says that it is the reciprocal
  AgainstOptions options;
  Notice notice;
};

/// One report a matrix that has a counterpart. Throws Error and UsageError. Stopped: an empty list.
std::vector<AgainstReport> compare_files(const AgainstFiles& files);

}  // namespace fp4scope::analysis
