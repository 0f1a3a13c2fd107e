// H of every block of columns as a GPU takes it, made on the host.
//
//   y = G^T r,   G = hi + lo + delta in binary16, scaled by a power of two, and in three pieces of bfloat16
//
// search/hessian_filter.hpp has G, its error and the bounds that exclude; here are the pieces, in the order in which
// the lanes of a warp hold the second operand of mma.m16n8k16.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/cuda.hpp"
#include "search/hessian_filter.hpp"

namespace fp4scope::cuda {

/// Elements of a block are taken in tiles of 16, tiles = 1 or 2. Lane l = 4 g + c of a warp holds of a tile of elements
/// k and components j = 8 t + g the rows 4 c .. 4 c + 3: what the instruction calls 2 c, 2 c + 1, 2 c + 8 and 2 c + 9,
/// in the same order for both operands.
template <int tiles>
struct PackedFilter {
  struct Fragment {
    std::uint32_t low, high;  ///< rows 4 c, 4 c + 1 and 4 c + 2, 4 c + 3
  };
  Fragment half[tiles][2 * tiles][2][32];    ///< hi, lo of G 2^shift in binary16
  Fragment bfloat[tiles][2 * tiles][3][32];  ///< three pieces of G in bfloat16, the largest first
  float size[16 * tiles];
  float spread[16 * tiles];
  float gap;      ///< D / X0, with the errors of the pieces and of the tensor cores
  float unscale;  ///< 2^-shift
  int usable;
  float total;  ///< sum e_i, rounded up
};

/// The pieces for blocks of at most 16 * tiles elements.
template <int tiles>
std::vector<PackedFilter<tiles>> pack_filters(const search::Hessians& hessians);

struct DeviceHessians::Parts {
  int block;
  int tiles;  ///< of PackedFilter; 0: blocks too large for it
  std::int64_t columns;
  Memory h, envelope, filters;
  Memory room;        ///< of the stages, grown when a matrix needs more
  HostMemory counts;  ///< what comes back of them
};

/// search::hessian_code for some blocks: x [number, n], column[number] -> codes.
std::vector<std::uint8_t> decide_on_host(const search::SearchTask& task, const std::vector<float>& x,
                                         const std::vector<std::int64_t>& column, search::SearchCount& count);

}  // namespace fp4scope::cuda
