// Confirms one block of what `quantize` wrote: its elements, and the certificate that its scale is optimal
// (search/block_certificate.hpp says what it claims). It shares no code with search/ and sim/: its own levels, halves
// and nearest elements from the tables of formats/, everything in whole numbers.
//
// Units: magnitudes times `factor`, levels and tensor scale times block scale are all multiples of one power of two,
// chosen a block at a time. Where twice the bits of the largest residual and those of n fit 126, residuals are 64-bit
// and sums 128-bit integers, otherwise GMP's. No result is ever rounded; the Hessian loss of codes that are far from
// second best is only bounded, in binary64 with the bound of its error.
#pragma once

#include <string>
#include <vector>

#include "formats/block_format.hpp"

namespace fp4scope::analysis {

/// A tensor's format in whole numbers.
struct VerifyRules {
  formats::BlockFormat format;
  float tensor_scale;
  int factor;  ///< of magnitudes: 7 for IF4, whose INT4 values are 6/7 of whole numbers
  int places;  ///< levels are given times 2^places * factor
  std::vector<std::vector<std::int64_t>> grids;  ///< the levels of each element type, by code
  std::vector<std::int64_t> overhang;            ///< of each: the least doubled level above the largest; 0: see below
  std::vector<int> half;                         ///< the code of half a block scale's value, -1 where there is none
  int first_code, last_code;                     ///< positive block scales
};
// A grid whose doubled levels, up to its largest, are not all levels has overhang 0, and no code dominates another.

VerifyRules make_rules(const formats::BlockFormat& format, float tensor_scale);

struct BlockClaim {
  int lo, hi;
  double loss, gap;
};

/// What a check found: "" or what is wrong, with codes in hex and both losses.
struct BlockFinding {
  std::string problem;
  bool tie = false;  ///< another code loses exactly as much
};

/// `codes` are the nearest elements of x[n] at that scale, one a byte; `scale` as stored. An all-zero block has scale
/// 0, one with a NaN or an Inf the scale's NaN, and then any elements.
std::string check_elements(const VerifyRules& rules, const float* x, int n, int scale, const std::uint8_t* codes);

/// The claim for squared error.
BlockFinding check_claim(const VerifyRules& rules, const float* x, int n, int scale, const BlockClaim& claim);

/// The claim for r^T H r, h[n][n] symmetric and positive semidefinite, minorant[n] confirmed by check_minorant.
BlockFinding check_claim(const VerifyRules& rules, const float* x, int n, int scale, const BlockClaim& claim,
                         const double* h, const double* minorant);

/// Whether d >= 0 and H - diag(d) >= 0, by elimination in whole numbers.
bool check_minorant(const double* h, int n, const double* d);

/// RNE32(amax / (element max * scale max)); 1 for amax 0, at least the least binary32.
float amax_tensor_scale(const formats::BlockFormat& format, float amax, int scale_max);

}  // namespace fp4scope::analysis
