// The Hessian search for many rows of one block of columns: they share H, so a row is a vector lane and H's factor is
// broadcast. The same codes as hessian_code, on every instruction set.
//
// A candidate costs seven comparisons an element and at most some rank (n + 3 - rank / 2) multiply-adds in binary32;
// hessian_filter.hpp has the bounds by which a candidate is dropped. Elements are rounded exactly: for a float x and a
// real threshold t,
//
//   x > t  <=>  x > the largest float <= t,      x >= t  <=>  x > the largest float < t,
//
// so one table of floats a code replaces midpoint * step, and no element near a midpoint needs a second look. Rows of
// like scales are batched together, because all lanes of a batch visit the same codes: from its lowest naive code up,
// then down, until every lane excludes the rest. A row with one candidate left is decided; the candidates that are left
// of any other row go to best_hessian_code. Rows outside 2^-40 <= amax <= 2^40, spaces whose magnitudes have a factor,
// blocks above max_filter_block and an H that has no filter take hessian_code.
#pragma once

#include "search/hessian_filter.hpp"

namespace fp4scope::search {

/// Memory that calls reuse; one per thread.
struct HessianRoom {
  HessianFilter filter;
  std::vector<float> table;   ///< per code, see hessian_lanes.cpp
  std::vector<float> packed;  ///< [rows of a group][n]
  std::vector<float> amax;
  std::vector<int> order;
  std::vector<int> guess;  ///< naive codes
  std::vector<float> batch;
  std::vector<double> scalar;
  std::vector<LossInterval> loss;
};

/// For each row x[row * stride .. + n): scales[row * scale_stride] = the code of least r^T H r over all positive codes,
/// ties to the lowest; 0 for an all-zero row, the scale format's NaN for a row with a NaN or an Inf.
void hessian_lane_codes(const SearchSpace& space, const BlockHessian& hessian, int n, const float* x,
                        std::int64_t stride, std::int64_t rows, std::uint8_t* scales, std::int64_t scale_stride,
                        HessianRoom& room, SearchCount& count);

}  // namespace fp4scope::search
