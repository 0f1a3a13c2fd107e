// What a block-scaled matrix product returns, and by whose fault it is not A B^T.
//
//   out = round(alpha * sum_k Aq[m, k] Bq[n, k])        A [M, K], B [N, K], out [M, N]
//
// Both operands have K along their rows, as a linear layer has inputs and weights. They are quantized, the unit sums
// (accumulate.hpp), the epilogue multiplies by the tensor scales in fp32, and the output's dtype rounds. A unit that
// reads codes takes elements and block scales as stored; others take their products rounded to bf16 or f16, or to E4M3
// after a division by amax / 448 of the operand. Of fp32 the tensor scale is in the operands, each rounded once or as
// its recipe decodes it; elsewhere it is the epilogue's. IF4's sevenths are binary64's before anything reads them.
//
// The error out - A B^T has seven parts that add up to it by definition, each a matrix [M, N]:
//
//   weights       A (Bq - B)^T
//   activations   (Aq - A) B^T
//   both          (Aq - A) (Bq - B)^T
//   conversion    what the unit reads instead of the stored values
//   accumulation  the unit's sum less the exact sum of what it reads
//   epilogue      alpha rounded, and its product with the sum
//   output        the dtype
//
// |e|^2 = sum of all inner products <e_i, e_j>. The product A B^T and the parts are computed in binary64, which leaves
// them uncertain by some 2^-52 of |a| |b|; codes, sums, alpha and output are bit exact.
#pragma once

#include <array>
#include <atomic>
#include <functional>

#include "analysis/accumulate.hpp"
#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

/// How alpha comes from two tensor scales D = a / K, a the amax, K = element max * scale max.
enum class AlphaStep : std::uint8_t {
  product,      ///< fl(Da Db)
  te,           ///< fl(fl(aa ab) * fl(1 / (Ka Kb))): TransformerEngine's GEMM
  fouroversix,  ///< fl(fl(aa ab) / fl(Ka Kb)): fouroversix with CUTLASS
  reciprocal,   ///< fl(1 / fl(Sa Sb)), S = fl(1 / D): scales given to encode, as vLLM has them
};
struct AlphaRow {
  const char* name;
  AlphaStep step;
  const char* words;
};
inline constexpr AlphaRow alpha_rows[] = {
    {"product", AlphaStep::product, "fl(Da Db) of the decode multipliers"},
    {"te", AlphaStep::te, "fl(fl(amax_a amax_b) fl(1 / (Ka Kb)))"},
    {"fouroversix", AlphaStep::fouroversix, "fl(fl(amax_a amax_b) / fl(Ka Kb))"},
    {"reciprocal", AlphaStep::reciprocal, "fl(1 / fl(fl(1 / Da) fl(1 / Db)))"},
};

/// The order of K: `forward`, `reverse` (the last instruction first) or `split:N`: N runs of whole instructions, each
/// summed from 0, their sums added in fp32 one after the other.
struct KOrder {
  bool reversed = false;
  int split = 1;
};
KOrder parse_k_order(const std::string& text);  ///< Throws UsageError.

struct MatmulConfig {
  Unit unit;
  AlphaStep alpha = AlphaStep::product;
  KOrder order;
  int promote = 0;  ///< products after which a running value moves into a sum in fp32, whole instructions; 0: never
  std::string out_dtype = "F32";
};

struct MatmulWords {
  std::string arch = "exact", instruction, k_order, alpha, out_dtype;
  int promote = 0;
};
/// Of operands with these configurations; null for one that isn't quantized. Throws UsageError.
MatmulConfig parse_matmul(const MatmulWords& words, const QuantizeConfig* a, const QuantizeConfig* b);

inline constexpr int product_part_count = 7;
enum ProductPart : int { of_weights, of_activations, of_both, of_conversion, of_sum, of_epilogue, of_output };
extern const char* const product_part_names[product_part_count];

struct ProductError {
  double energy = 0;                                          ///< |A B^T|^2
  double error = 0;                                           ///< |out - A B^T|^2, from the outputs themselves
  double out_energy = 0;                                      ///< |out|^2
  double along_out = 0;                                       ///< <out, A B^T>
  double inner[product_part_count][product_part_count] = {};  ///< inner products of the parts, symmetric
  double along[product_part_count] = {};                      ///< <part, A B^T>

  double relative() const;                  ///< |out - A B^T| / |A B^T|; 0 without an error
  double relative(int part) const;          ///< |part| / |A B^T|
  double shrinkage(int part) const;         ///< -<part, A B^T> / |A B^T|^2: what a part takes off every output alike
  double cosine() const;                    ///< of out and A B^T; 1 without an error
  double rest() const;                      ///< |error - sum of inner| / error; 0 without an error
};

/// A matrix and what it became; `q` null: as it is.
struct Operand {
  const Matrix* given;
  const Quantized* q;
};

struct Product {
  std::int64_t rows = 0, cols = 0;
  std::vector<float> out;  ///< [rows, cols], values of the output's dtype
  ProductError error;
  float alpha = 1;
  std::int64_t proved = 0;  ///< outputs whose fast sum was proved; the others took the plain model or wide integers
};

/// Throws Error: other columns, values that f16 doesn't hold. A product that `stop` interrupted has no rows.
Product multiply(const Operand& a, const Operand& b, const MatmulConfig& config,
                 const std::atomic<bool>* stop = nullptr,
                 const std::function<void(double)>& progress = {});

/// A B^T in binary64, [a.rows, b.rows].
std::vector<double> product_in_binary64(const Matrix& a, const Matrix& b);

}  // namespace fp4scope::analysis
