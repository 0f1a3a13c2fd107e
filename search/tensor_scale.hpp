// The tensor scale: F(T) = sum over blocks of the least SSE over all scale codes at T, and the T that makes it least.
//
// For fixed codes and levels the SSE is a parabola in T, |x|^2 - 2 T <x, w> + T^2 |w|^2, w = scale * level. F is the
// least of all of them, so between a and b it cannot fall far below its chord: let w be the best at T in [a, b], y = T
// w. At a and b the same w serves with (a / T) y and (b / T) y; weighting these two with (b - T) and (T - a) cancels <x
// - y, y>:
//
//   F(T) >= ((b - T) F(a) + (T - a) F(b)) / (b - a) - |y|^2 (T - a) (b - T) / T^2
//
// and |y| <= |x| + sqrt F(T). So where F(T) is not above the best known F*, |y|^2 <= Y = (|x| + sqrt F*)^2. An interval
// of relative width w costs Y w^2 / 4: 0.1 % of F needs some 150 evaluations an octave on Gaussian data.
//
// No T outside [low, high] is better than F*, so the bound is one over all T > 0:
//   high = 2 amax / (dominance v'), v' the least scale with 2 v' beyond the format. For T >= high / 2, F(2 T) >= F(T):
//     a step 2 T v with v < v' is the step T (2 v) too; for v >= v' the step T v is no worse (pruning.hpp, above:
//     amax <= dominance T v).
//   low: below it clipping alone costs F*, sum of max(0, |x| - top v_max T)^2 >= F*, and that grows as T falls.
//
// F is computed in binary64 as a sum of squares of residuals (each one rounding), row by row: an error of at most
// (rows + cols + 8) 2^-52 of F, taken as 2^-28. Formats that select an element type are outside.
#pragma once

#include <cstdint>
#include <vector>

#include "search/space.hpp"

namespace fp4scope::search {

/// F(T). x [rows, cols] finite, cols a multiple of block.
double tensor_scale_loss(const formats::BlockFormat& format, int block, const float* x, std::int64_t rows,
                         std::int64_t cols, float tensor_scale);

/// One tensor scale and its loss; `scale_max` is the headroom that it came from.
struct ScaledLoss {
  float tensor_scale;
  double loss;
  int scale_max = 0;
};

/// The amax tensor scales that map the largest block scale to 448, 384, 320, 256, 224 and 192.
std::vector<ScaledLoss> headroom_losses(const formats::BlockFormat& format, int block, const float* x,
                                        std::int64_t rows, std::int64_t cols);

/// SOAR's alternation (arXiv 2605.12245, CJSO) from the naive quantization at scale_max: the least-squares T for all
/// codes, each block's least-squares scale rounded to its format, nearest elements. [0] is the start. A local descent:
/// the search over all codes at the first T already beats its fixed point.
std::vector<ScaledLoss> alternate_scales(const formats::BlockFormat& format, int block, const float* x,
                                         std::int64_t rows, std::int64_t cols, int iterations);

struct TensorScaleOptions {
  double tolerance = 1e-3;  ///< ends when loss <= (1 + tolerance) * lower_bound
  int max_evaluations = 2000;
};

struct TensorScaleResult {
  float tensor_scale = 1;
  double loss = 0;
  double lower_bound = 0;  ///< F(T) is at least this for every positive binary32 T
  int evaluations = 0;     ///< of F
};

/// The best T among those looked at, the amax ones included, and what no T can be better than. 1 for an all-zero
/// tensor. Throws Error for a format without a tensor scale or with a grid that does not nest.
TensorScaleResult search_tensor_scale(const formats::BlockFormat& format, int block, const float* x, std::int64_t rows,
                                      std::int64_t cols, const TensorScaleOptions& options = {});

}  // namespace fp4scope::search
