#include "search/hessian_filter.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace fp4scope::search {

namespace {

constexpr int stride = max_filter_block;

/// H scaled by powers of two to envelopes in [1, 2), and its factor; elements by place.
struct Scaled {
  int n = 0;
  int active = 0;  ///< places of elements whose envelope is not zero: they come first
  int rank = 0;
  int order[stride];
  int exponent[stride];  ///< by place
  double h[stride][stride];
  double g[stride][stride];
  double size[stride];
};

/// false: an envelope is not finite or far out.
bool scale(const BlockHessian& hessian, int n, Scaled& s) {
  int exponents[stride] = {}, places = 0;
  s.n = n;
  for (int i = 0; i < n; ++i) {
    const double envelope = hessian.envelope[i];
    if (envelope == 0) continue;
    if (!(envelope > 0x1p-400 && envelope < 0x1p400)) return false;
    std::frexp(envelope, &exponents[i]);
    s.order[places++] = i;
  }
  s.active = places;
  for (int i = 0; i < n; ++i) {
    if (hessian.envelope[i] == 0) s.order[places++] = i;
  }
  for (int p = 0; p < n; ++p) s.exponent[p] = exponents[s.order[p]] - 1;
  for (int p = 0; p < s.active; ++p) {
    s.size[p] = std::ldexp(hessian.envelope[s.order[p]], -s.exponent[p]);
    for (int q = 0; q < s.active; ++q) {
      const double entry = hessian.h[static_cast<std::int64_t>(s.order[p]) * n + s.order[q]];
      s.h[p][q] = std::ldexp(entry, -s.exponent[p] - s.exponent[q]);
    }
  }
  return true;
}

void swap_places(Scaled& s, double (&rest)[stride][stride], int a, int b) {
  if (a == b) return;
  std::swap(s.order[a], s.order[b]);
  std::swap(s.exponent[a], s.exponent[b]);
  std::swap(s.size[a], s.size[b]);
  for (auto* matrix : {&s.h, &rest}) {
    for (int k = 0; k < s.active; ++k) std::swap((*matrix)[a][k], (*matrix)[b][k]);
    for (int k = 0; k < s.active; ++k) std::swap((*matrix)[k][a], (*matrix)[k][b]);
  }
  for (int k = 0; k < s.active; ++k) std::swap(s.g[a][k], s.g[b][k]);
}

/// G, lower triangular by place, as many columns as have a pivot above 2^-44: all entries of H are below 4.
void factorize(Scaled& s) {
  double rest[stride][stride];
  for (int p = 0; p < s.active; ++p) {
    for (int q = 0; q < s.active; ++q) rest[p][q] = s.h[p][q], s.g[p][q] = 0;
  }
  for (s.rank = 0; s.rank < s.active; ++s.rank) {
    const int c = s.rank;
    int pivot = c;
    for (int p = c; p < s.active; ++p) pivot = rest[p][p] > rest[pivot][pivot] ? p : pivot;
    if (!(rest[pivot][pivot] > 0x1p-44)) return;
    swap_places(s, rest, c, pivot);
    const double root = std::sqrt(rest[c][c]);
    for (int p = c; p < s.active; ++p) s.g[p][c] = rest[p][c] / root;
    for (int p = c + 1; p < s.active; ++p) {
      for (int q = c + 1; q < s.active; ++q) rest[p][q] -= s.g[p][c] * s.g[q][c];
    }
  }
}

/// Raises sizes to |row of G|; returns eps, max |E_pq| in units where every size is at least 1. A sum of k products
/// errs by (k + 1) 2^-53 |row p| |row q|.
double measure(Scaled& s) {
  double worst = 0, longest = 0;
  for (int p = 0; p < s.active; ++p) {
    double square = 0;
    for (int k = 0; k < s.rank; ++k) square += s.g[p][k] * s.g[p][k];
    longest = std::max(longest, square);
    s.size[p] = std::max(s.size[p], std::sqrt(square) * (1 + 0x1p-40));
    for (int q = 0; q <= p; ++q) {
      double dot = 0;
      for (int k = 0; k < s.rank; ++k) dot += s.g[p][k] * s.g[q][k];
      worst = std::max({worst, std::fabs(s.h[p][q] - dot), std::fabs(s.h[q][p] - dot)});
    }
  }
  return (worst + (s.rank + 8) * 0x1p-52 * longest) * (1 + 0x1p-20);
}

/// |w| of the element at place k, in its own unit, rounded up; infinity where delta is too large. H of full rank.
double spread_of(const Scaled& s, int k) {
  double w[stride] = {};
  double square = 0, worst = 0;
  for (int p = k; p < s.active; ++p) {
    double dot = p == k ? 1 : 0, size = dot;
    for (int q = k; q < p; ++q) dot -= s.g[p][q] * w[q], size += std::fabs(s.g[p][q] * w[q]);
    w[p] = dot / s.g[p][p];
    square += w[p] * w[p];
    // delta_p = dot - g_pp w_p in real numbers: the residual of one division, and the roundings of dot
    const double left = std::fabs(dot - s.g[p][p] * w[p]) + (s.active + 8) * 0x1p-52 * (size + std::fabs(dot));
    worst = std::max(worst, left);
  }
  const double norm = std::sqrt(square);
  return worst < 0x1p-31 * norm ? norm * (1 + 0x1p-30) : HUGE_VAL;
}

float rounded_up(double x) { return x < 0x1p127 ? std::nextafter(static_cast<float>(x), FLT_MAX) : FLT_MAX; }

}  // namespace

void make_hessian_filter(const BlockHessian& hessian, int n, HessianFilter& filter) {
  filter.usable = false;
  Scaled s;
  if (n > max_filter_block || !scale(hessian, n, s) || s.active == 0) return;
  factorize(s);
  const double eps = measure(s);
  if (!(eps < 0x1p-30)) return;

  int top = s.exponent[0];
  for (int p = 0; p < s.active; ++p) top = std::max(top, s.exponent[p]);
  filter.n = n;
  filter.rank = s.rank;
  filter.order.assign(s.order, s.order + n);
  filter.size.assign(static_cast<std::size_t>(n), 0.0f);
  filter.spread.assign(static_cast<std::size_t>(n), FLT_MAX);
  filter.factor.clear();
  double total = 0;
  for (int p = 0; p < s.active; ++p) {
    const auto place = static_cast<std::size_t>(p);
    filter.size[place] = rounded_up(std::ldexp(s.size[p], s.exponent[p] - top));
    total += static_cast<double>(filter.size[place]);
    if (s.rank == s.active) filter.spread[place] = rounded_up(std::ldexp(spread_of(s, p), top - s.exponent[p]));
  }
  for (int c = 0; c < s.rank; c += 4) {
    for (int p = c; p < n; ++p) {
      for (int k = c; k < c + 4; ++k) {
        const double entry = p < s.active && k < s.rank ? std::ldexp(s.g[p][k], s.exponent[p] - top) : 0;
        filter.factor.push_back(static_cast<float>(entry));
      }
    }
  }
  filter.total = rounded_up(total);
  // 2^-30 X0 of the clipping bound, and 2^-10 of all for the roundings of X0 and of D itself.
  filter.gap = rounded_up((2 * (1.6 * n + 8) * 0x1p-24 + std::sqrt(2 * eps) + 0x1p-29) * (1 + 0x1p-10));
  filter.usable = true;
}

}  // namespace fp4scope::search
