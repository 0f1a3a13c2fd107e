// Certificates of optimality of a whole tensor, one a block (search/block_certificate.hpp), as `quantize` writes them:
//
//   T.certificate.lo, T.certificate.hi      U8  [R, C/block]
//   T.certificate.loss, T.certificate.gap   F64 [R, C/block]
// and for the Hessian loss, for each block of columns,
//   T.certificate.shift                     F64 [C/block] what was added to the diagonal of X^T X
//   T.certificate.minorant                  F64 [C/block, block] d >= 0 with H - diag(d) >= 0
//
// A square block's certificate stands in each of its rows, as its scale does.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

struct Certificates {
  std::vector<std::uint8_t> lo, hi;
  std::vector<double> loss, gap;
};

/// Throws UsageError where there is nothing to certify: a method that is no search, another recipe than `exact`,
/// elements that are not the nearest ones.
void require_certifiable(const QuantizeConfig& config);

/// [C/block][block], 0 for blocks above search::max_exact_psd: no checker could confirm more.
std::vector<double> minorants(const search::Hessians& hessians);

/// `q` as quantize made it of `m`. `hessians` and `minorant` of a Hessian method. Stopped, some are left 0.
Certificates certify(const Quantized& q, const Matrix& m, const search::Hessians* hessians,
                     const std::vector<double>& minorant, const std::atomic<bool>* stop = nullptr);

/// [R, C/block]; and of a Hessian method [C/block], [C/block, block].
enum class CertificateShape : std::uint8_t { block, column_block, column };

/// What each tensor of a certificate means, by the end of its name.
struct CertificatePart {
  const char* suffix;
  const char* dtype;
  const char* meaning;
  CertificateShape shape;
};
inline constexpr CertificatePart certificate_parts[] = {
    {".certificate.lo", "U8", "codes below are excluded by the clipping bound at lo - 1", CertificateShape::block},
    {".certificate.hi", "U8", "codes above are excluded by the dead-zone bound at hi + 1 or by dominance",
     CertificateShape::block},
    {".certificate.loss", "F64", "of the block's code, rounded to nearest", CertificateShape::block},
    {".certificate.gap", "F64", "any other code loses at least this more, rounded down; 0 for a tie",
     CertificateShape::block},
    {".certificate.shift", "F64", "added to the diagonal of X^T X, of each block of columns",
     CertificateShape::column_block},
    {".certificate.minorant", "F64", "d with H - diag(d) positive semidefinite, which weights both bounds",
     CertificateShape::column},
};

}  // namespace fp4scope::analysis
