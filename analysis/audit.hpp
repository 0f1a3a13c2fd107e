// `audit`: what a quantized checkpoint is and how far it is from the best that its format can hold.
//
// Of its bytes alone: layout, codes, scales, what they are consistent with (code_counts.hpp), and whether MXFP4 is
// NVFP4 without loss (lossless.hpp). Beside the original: the weight error, the distance to the least one with the same
// format, block and tensor scale, proved (optimum.hpp), and whose recipe it is (fingerprint.hpp).
//
// Weights pass by in pieces of rows: memory does not grow with the model.
#pragma once

#include "analysis/checkpoint.hpp"
#include "analysis/code_counts.hpp"
#include "analysis/fingerprint.hpp"
#include "analysis/lossless.hpp"
#include "analysis/optimum.hpp"
#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

struct AuditOptions {
  std::string checkpoint;
  std::string original;  ///< a file or a directory; "" without
  std::vector<std::string> tensors = {"*"};
  std::vector<std::string> exclude;
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
};

/// Beside the original. Errors are relative Frobenius norms, |Wq - W| / |W|; NaN where there is none.
struct AgainstOriginal {
  std::string dtype;
  OptimumSums sums;
  Fingerprint fingerprint;

  double weight_error() const;
  double sqnr_db() const;
  double optimal_error() const;
  /// weight_error / optimal_error - 1: 0.04 is 4 % above the optimum. 0 where both are 0.
  double gap() const;
  double optimal_share() const;
  std::int64_t worse() const { return sums.blocks - sums.optimal; }
};

struct AuditedTensor {
  std::string name, layout;
  const formats::BlockFormat* format = nullptr;
  int block = 0;
  std::int64_t rows = 0, cols = 0;  ///< as stored
  float tensor_scale = 1;           ///< on decode
  bool scaled = false, reciprocal = false;
  CodeCounts counts;
  std::vector<std::string> evidence;
  std::optional<Lossless> lossless;  ///< of MXFP4 in blocks of 16 or 32
  std::optional<AgainstOriginal> original;
};

/// Blocks of all tensors by what explains them.
struct RecipeBlocks {
  std::string name;  ///< "" for those that no recipe explains
  std::int64_t blocks = 0, tensors = 0;
};

struct Audit {
  std::string path, original;
  std::vector<AuditedTensor> tensors;

  std::int64_t with_original() const;  ///< tensors
  /// Of all tensors. Formats may differ: then codes are bytes alone.
  CodeCounts counts() const;
  /// Errors and gap of all tensors that have an original, as if they were one; null without.
  std::optional<AgainstOriginal> total() const;
  /// The most blocks first; only those of tensors with a verdict.
  std::vector<RecipeBlocks> recipes() const;
};

/// Throws Error and UsageError. A weight whose original is missing, or has another shape, is audited without it, with a
/// word. Stopped: no tensors.
Audit audit(const AuditOptions& options);

/// One row a tensor, with its histograms of codes and scales under /runs/<run>.
struct AuditTable {
  std::vector<io::Column> columns;
  std::vector<io::Record> records;
};
AuditTable audit_table(const Audit& audit);

}  // namespace fp4scope::analysis
