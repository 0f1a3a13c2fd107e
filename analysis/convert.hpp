// `convert`: a quantized checkpoint in another layout, codes and scale bytes untouched.
//
// What may change is the tensor scale, because layouts store it differently: modelopt has D, compressed-tensors S with
// D = RNE32(1 / S). From S to D nothing is lost: D is what the loader of S computes. From D to S something may be:
//
//   D = m 2^e, 1 < m < 2.  1 / D lies in (2^(-e-1), 2^-e), where S has steps of 2^(-e-24), so the nearest S is within
//   2^(-e-25) of it, and 1 / S within about m^2 2^(e-25) of D. An ulp of D is 2^(e-23). For m < sqrt(2) that is less
//   than half an ulp, and D comes back. Above, the steps of 1 / S are wider than an ulp: some D are met by no S, and
//   the loader's D' is their neighbour, since m^2 2^(e-25) < 2^(e-23).
//
// So 2 sqrt(2) - 2 = 82.84 % of all mantissas survive: all but 1,439,258 of 2^23 (reciprocal_scale_test counts them).
// The others move by one ulp, and all values of that weight by the factor D' / D, within 8.43e-8 of 1.
//
// MXFP4 becomes NVFP4 where every block can keep its codes and values (lossless.hpp), and not otherwise.
#pragma once

#include <string>
#include <vector>

#include "analysis/model_folder.hpp"

namespace fp4scope::analysis {

struct ConvertOptions : FolderWork {
  std::string layout;  ///< of layout_names()
  std::string format;  ///< "nvfp4" turns MXFP4 into it; "" keeps every weight's
};

/// One weight of the result. Experts [E, N, K] become E weights, of which each is one of these.
struct ConvertedWeight {
  std::string name, from_format, format;
  std::int64_t rows = 0, cols = 0;
  float decode_before = 1, decode = 1;  ///< D of the source's loader and of the result's

  /// Binary32 steps from one to the other; 0 where the format changed, and the values didn't.
  std::int64_t ulps() const;
  /// D' / D - 1: the relative change of every value; 0 likewise.
  double change() const;
};

struct ConvertSummary {
  std::vector<ConvertedWeight> weights;
  std::size_t copied = 0;             ///< tensors that belong to no weight
  std::vector<std::string> left_out;  ///< tensors that the layout has no place for
  std::size_t shards = 0, kept = 0;   ///< `kept`: finished by an earlier run
  bool interrupted = false;

  std::size_t moved() const;  ///< weights with another D
};

/// Throws Error, UsageError. Interrupted or killed: OUT is absent, OUT.partial/ has the finished shards for `resume`.
ConvertSummary convert(const ConvertOptions& options);

}  // namespace fp4scope::analysis
