// `verify`: what quantize wrote against its input, tensor by tensor, with the checks of analysis/verify.hpp.
//
// Of every tensor: the tensor scale and amax, every block's elements. With certificate tensors also that each stored
// scale is the best there is. The Hessian is summed again from the activations, and its hash and shifts are compared.
#pragma once

#include <atomic>

#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

struct VerifyOptions {
  std::string file;         ///< an output of quantize
  std::string input;        ///< what it was made of
  std::string activations;  ///< "FILE:NAME"; "": as the file's record says
  std::string hessian;      ///< "FILE:NAME" of H in their stead
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
};

struct VerifiedTensor {
  std::string name;
  std::int64_t blocks = 0;     ///< all of them, a tile counted once
  std::int64_t undecided = 0;  ///< of these, all zero or not finite: nothing to choose
  bool certified = false;      ///< optimality was checked; what follows is of blocks with something to choose
  double mean_interval = 0;    ///< codes in [lo, hi]
  double least_gap = 0;        ///< the least positive one recorded; infinite without
  std::int64_t ties = 0;       ///< blocks in which another code loses exactly as much
};

/// Throws Error at the first thing that is wrong, and where there is nothing to verify: a recipe other than `exact`,
/// elements that are not the nearest ones, values in place of codes. Interrupted: an empty list.
std::vector<VerifiedTensor> verify_file(const VerifyOptions& options);

}  // namespace fp4scope::analysis
