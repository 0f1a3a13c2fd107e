// The expected squared error of blocks of N(0, sigma^2), by an integral: no samples, no noise.
//
// For a block of n values whose scale s(t) depends on the largest magnitude t alone (in units of sigma):
//
//   E|xq - x|^2 / E|x|^2 = Int_0^inf f(t) [ (n-1)/n e(t) / erf(t / sqrt 2) + (Q(t / s) s - t)^2 / n ] dt
//   f(t) = 2 n erf(t / sqrt 2)^(n-1) phi(t)                      density of the largest magnitude
//   e(t) = 2 sum_j Int over [mid_j s, mid_{j+1} s], cut at t, of (u - L_j s)^2 phi(u) du          closed form in Phi, phi
//
// exact for any rule; other values are distributed as N(0, 1) cut at t. Searches and 4over6 look at all values: not here.
#pragma once

#include <vector>

#include "formats/block_format.hpp"
#include "sim/scale.hpp"

namespace fp4scope::analysis {

struct TheoryQuestion {
  formats::BlockFormat format = formats::nvfp4;  ///< elements of at most 4 bits, no selection
  int block = 16;
  sim::ScaleRule rule = sim::six_rule;  ///< the block scale is round(numerator amax / (divisor tensor_scale))
  bool real_scale = false;              ///< leave the quotient unrounded
  double tensor_scale = 1;
  double sigma = 1;
  bool cut_at_top = false;  ///< the published approximation instead: cut at L s, not at t (arXiv 2601.19026)
};

/// Relative to 1e-9 or better. A block whose scale is 0 loses everything. Throws Error for elements above 4 bits or IF4.
double expected_relative_mse(const TheoryQuestion& question);

/// The same averaged over one octave of sigma, `points` equally spaced in log2: power-of-two scales are periodic in it.
double octave_mean(TheoryQuestion question, int points = 64);

/// The Q in [low, high] with the least octave mean for scales 2^ceil(log2(amax / Q)), to 1e-3.
double best_reach(const formats::BlockFormat& format, int block, double low, double high);

/// E[max |x|] and E[max x^2] of a block of n from N(0, 1).
struct CrestFactor {
  double mean_max, mean_max_squared;
};
CrestFactor crest_factor(int block);

/// The closed form of a symmetric integer grid -L .. L whose scale is exactly amax / L, uniform rounding noise:
/// SQNR in dB = 10 log10 12 + 20 log10 L - 20 log10 kappa + 10 log10(n / (n - 1)), kappa^2 = E[max^2] (arXiv 2510.25602
/// with 20 log10 of the grid's own range in place of 6.02 bits).
double integer_grid_sqnr_db(int block, int largest);

/// The expected error of a measured configuration, NaN where the integral does not apply.
struct QuantizeConfig;
double expected_relative_mse(const QuantizeConfig& config, float tensor_scale, double sigma);

}  // namespace fp4scope::analysis
