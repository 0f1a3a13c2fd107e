// The second half of MS-EDEN (sim/eden.hpp): scales corrected for what the nearest elements lost.
#pragma once

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

/// Replaces the scales of q, whose codes are the nearest at them. `m` is the matrix that q is of. A block's word is
/// that of (seed, stream, its first element's position), in a half of the streams that elements don't use.
void correct_eden_scales(Quantized& q, const Matrix& m);

}  // namespace fp4scope::analysis
