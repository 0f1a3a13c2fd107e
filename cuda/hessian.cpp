#include "cuda/hessian.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "formats/codec.hpp"
#include "search/hessian.hpp"

namespace fp4scope::cuda {

namespace {

/// u of the bounds below.
constexpr double unit = 0x1p-24;

/// The rounding errors of y = G^T x - s G^T q, of its square's sum, in units of u X0, u = 2^-24, as hessian_filter.hpp
/// has X0 = sum e_i |x_i|; |s q_i| <= 2 |x_i|.
///
/// A tensor core's sum of 16 products and an addend is taken to err by at most 18 * 2^-23 of the largest of the 17 (the
/// products are exact; each is cut off 23 bits or more below the largest, and the sum once more: Hopper keeps 25). By
/// column j that largest is at most the sum over i of |g_ij| |v_i|, in norm at most sum e_i |v_i|: 36 u X0 for v = x,
/// 72 u X0 for v = s q. Pieces are added from the smallest to the largest, so that all but the last addition of a tile
/// err by a 2^-8th of that: 36.2 and 72.4 a tile.
///   G in binary32: u for x and 2 u for s q. Products of pieces that are left out, of x in bfloat16 x1 + x2 + x3 with
///   G: x2 g3, x3 g2 and x3 g3, 5 u. s: 2 roundings, 4 u. The final multiply-add: |y| <= 3 X0, 3 u.
///   Sum of 16 tiles squares: (n / 2 + 1) u, 8 tiles + 1.
/// Together (117 tiles + 17) u X0.
constexpr double roundings(int tiles) { return (117.0 * tiles + 17) * unit; }

std::uint32_t half_bits(double x) {
  return formats::encode(formats::fp16, x, formats::Rounding::nearest_even, formats::Overflow::nan).code;
}
double half_value(std::uint32_t bits) { return formats::decode_double(formats::fp16, bits); }
std::uint32_t bfloat_bits(double x) {
  return formats::encode(formats::bf16, x, formats::Rounding::nearest_even, formats::Overflow::nan).code;
}
double bfloat_value(std::uint32_t bits) { return formats::decode_double(formats::bf16, bits); }

/// G by element and component, as binary32 has it.
template <int tiles>
struct Factor {
  double g[16 * tiles][16 * tiles] = {};
  double size[16 * tiles] = {};
  int shift = 0;  ///< |G| 2^shift < 2^14
};

template <int tiles>
Factor<tiles> unpack(const search::HessianFilter& filter) {
  Factor<tiles> f;
  const float* next = filter.factor.data();
  double largest = 0;
  for (int c = 0; c < filter.rank; c += 4) {
    for (int place = c; place < filter.n; ++place) {
      for (int k = c; k < c + 4; ++k, ++next) {
        if (*next == 0) continue;
        f.g[filter.order[static_cast<std::size_t>(place)]][k] = *next;
        largest = std::max(largest, std::fabs(static_cast<double>(*next)));
      }
    }
  }
  std::frexp(largest, &f.shift);
  f.shift = 14 - f.shift;
  return f;
}

/// Fills the binary16 pieces; returns the largest |row of delta| / e_i.
template <int tiles>
double pack_half(const Factor<tiles>& f, PackedFilter<tiles>& packed) {
  double worst = 0;
  for (int e = 0; e < 16 * tiles; ++e) {
    double square = 0;
    for (int j = 0; j < 16 * tiles; ++j) {
      const double scaled = std::ldexp(f.g[e][j], f.shift);
      const std::uint32_t hi = half_bits(scaled), lo = half_bits(scaled - half_value(hi));
      const double left = scaled - half_value(hi) - half_value(lo);
      square += left * left;
      const std::uint32_t piece[2] = {hi, lo};
      const int lane = j % 8 * 4 + e % 16 / 4, at = e % 2 * 16;
      for (int p = 0; p < 2; ++p) {
        auto& fragment = packed.half[e / 16][j / 8][p][lane];
        (e % 4 < 2 ? fragment.low : fragment.high) |= piece[p] << at;
      }
    }
    const double size = packed.size[e];
    if (square > 0) worst = std::max(worst, size > 0 ? std::ldexp(std::sqrt(square), -f.shift) / size : 1.0);
  }
  return worst;
}

template <int tiles>
void pack_bfloat(const Factor<tiles>& f, PackedFilter<tiles>& packed) {
  for (int e = 0; e < 16 * tiles; ++e) {
    for (int j = 0; j < 16 * tiles; ++j) {
      double left = f.g[e][j];
      const int lane = j % 8 * 4 + e % 16 / 4, at = e % 2 * 16;
      for (int p = 0; p < 3; ++p) {
        const std::uint32_t bits = bfloat_bits(left);
        left -= bfloat_value(bits);
        auto& fragment = packed.bfloat[e / 16][j / 8][p][lane];
        (e % 4 < 2 ? fragment.low : fragment.high) |= bits << at;
      }
    }
  }
}

template <int tiles>
void pack_filter(const search::BlockHessian& hessian, int n, search::HessianFilter& filter,
                 PackedFilter<tiles>& packed) {
  packed = {};
  search::make_hessian_filter(hessian, n, filter);
  if (!filter.usable) return;
  for (int place = 0; place < n; ++place) {
    const int e = filter.order[static_cast<std::size_t>(place)];
    packed.size[e] = filter.size[static_cast<std::size_t>(place)];
    packed.spread[e] = filter.spread[static_cast<std::size_t>(place)];
  }
  for (int e = n; e < 16 * tiles; ++e) packed.spread[e] = FLT_MAX;
  const Factor<tiles> f = unpack<tiles>(filter);
  const double delta = pack_half(f, packed);
  if (!(delta < 0x1p-20) || f.shift < -60 || f.shift > 60) return;
  pack_bfloat(f, packed);
  // delta for s q, of at most 2 |x|, on both sides of a comparison; filter.gap has the rest of D.
  packed.gap = static_cast<float>((filter.gap + 2 * roundings(tiles) + 4 * delta) * (1 + 0x1p-10));
  packed.unscale = static_cast<float>(std::ldexp(1.0, -f.shift));
  packed.total = filter.total;
  packed.usable = 1;
}

}  // namespace

template <int tiles>
std::vector<PackedFilter<tiles>> pack_filters(const search::Hessians& hessians) {
  std::vector<PackedFilter<tiles>> packed(hessians.count());
#pragma omp parallel
  {
    search::HessianFilter filter;
#pragma omp for schedule(dynamic)
    for (std::int64_t b = 0; b < static_cast<std::int64_t>(packed.size()); ++b) {
      const auto index = static_cast<std::size_t>(b);
      const search::BlockHessian hessian = {hessians.of(index), hessians.envelope.data() + b * hessians.block};
      pack_filter(hessian, hessians.block, filter, packed[index]);
    }
  }
  return packed;
}

template std::vector<PackedFilter<1>> pack_filters<1>(const search::Hessians&);
template std::vector<PackedFilter<2>> pack_filters<2>(const search::Hessians&);

std::vector<std::uint8_t> decide_on_host(const search::SearchTask& task, const std::vector<float>& x,
                                         const std::vector<std::int64_t>& column, search::SearchCount& count) {
  const search::SearchSpace space = search::make_space(*task.format, task.tensor_scale, task.method->rule);
  const auto n = static_cast<std::size_t>(task.block);
  std::vector<std::uint8_t> codes(column.size());
  std::int64_t exact = 0, wide = 0;
#pragma omp parallel reduction(+ : exact, wide)
  {
    std::vector<double> room(2 * n);
    std::vector<search::LossInterval> loss(256);
    search::SearchCount mine;
#pragma omp for schedule(dynamic, 16)
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(column.size()); ++i) {
      const auto k = static_cast<std::size_t>(i), b = static_cast<std::size_t>(column[k]);
      const search::BlockHessian hessian = {task.hessians->of(b), task.hessians->envelope.data() + b * n};
      const float* const values = x.data() + k * n;
      const search::Block block = {values, task.block, sim::amax(values, task.block)};
      codes[k] =
          static_cast<std::uint8_t>(search::hessian_code(space, block, hessian, room.data(), loss.data(), &mine));
    }
    exact += mine.exact;
    wide += mine.wide;
  }
  count.exact += exact;
  count.wide += wide;
  return codes;
}

}  // namespace fp4scope::cuda
