// When an MXFP4 tensor is an NVFP4 tensor too: the same codes, the same values, to the last bit.
//
//   MXFP4   value = 2^k element, one k for 32 elements          NVFP4   value = D s element, one s for 16, s in E4M3
//
// With the codes kept, D s = 2^k for every block of 16 that has a nonzero element; the others may have any scale. Let
// D = c 2^j and s = d 2^i with c and d odd: c d is a power of two only for c = d = 1. So D = 2^m, s = 2^(k - m), and
// E4M3 has the powers of two from 2^-9 (its least subnormal) to 2^8 (256): k - m in -9 .. 8. Hence
//
//   lossless  iff  kmax - k <= 17 for every block of 16 with a nonzero element,
//
// kmax the largest such k. m = kmax - 8 serves, or m = -126 where that is larger: it keeps D a normal number, and
// k - m <= 8 holds all the more while k - m >= -127 + 126 = -1. A half of 32 whose elements are zeros has no say.
#pragma once

#include <array>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

struct Lossless {
  bool possible = true;
  std::int64_t blocks = 0;   ///< of 16, with a nonzero element
  std::int64_t outside = 0;  ///< of these: no E4M3 scale beside D = 2^exponent; those of a NaN scale too
  int exponent = 0;          ///< m, D = 2^m; 0 for a tensor of zeros
};

/// Counts a tensor in pieces, its rows in any order.
class LosslessCount {
 public:
  /// Throws Error for another format than mxfp4 and for blocks that are not made of sixteens.
  void add(const Quantized& piece);
  Lossless result() const;

 private:
  std::array<std::int64_t, 256> blocks_ = {};  // of 16, nonzero, by scale code; [255] of a NaN scale
};

/// The NVFP4 tensor: codes as they are, scales of a block of zeros 0. Throws Error where it is not lossless.
Quantized to_nvfp4(const Quantized& q, int exponent);

}  // namespace fp4scope::analysis
