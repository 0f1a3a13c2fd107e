// The expected squared error of blocks of N(0, sigma^2) whose scale depends on their largest magnitude alone: no
// samples, no noise. In units of sigma, let n be the block, P(t) = erf(t / sqrt 2) the chance of |x| <= t, and
//
//   e(s, t) = E[(xq - x)^2; |x| <= t] at scale s
//           = 2 sum_j Int over [mid_j s, mid_{j+1} s], cut at t, of (u - L_j s)^2 phi(u) du
//
// In a block whose largest magnitude is at most t the n values are independent and each is cut at t: their squared
// errors at scale s add up to n e(s, t) P(t)^(n-1). Codes share out the largest magnitude, code k's from t_k to t_k+1:
//
//   E|xq - x|^2 / E|x|^2 = sum_k e(s_k, t_k+1) P(t_k+1)^(n-1) - e(s_k, t_k) P(t_k)^(n-1)
//
// For a scale that is not rounded the largest magnitude has the density f(t) = 2 n P(t)^(n-1) phi(t):
//
//   E|xq - x|^2 / E|x|^2 = Int_0^inf f(t) [ (n-1)/n e(s(t), t) / P(t) + (Q(t / s) s - t)^2 / n ] dt
//
// Searches and 4over6 look at all values of a block: not here.
#pragma once

#include "formats/block_format.hpp"
#include "sim/scale.hpp"

namespace fp4scope::analysis {

struct TheoryQuestion {
  formats::BlockFormat format = formats::nvfp4;  ///< elements of at most 4 bits, no selection
  int block = 16;                                ///< at least 2
  sim::ScaleRule rule = sim::six_rule;           ///< scale = round(numerator amax / (divisor tensor_scale))
  bool real_scale = false;                       ///< leave the quotient unrounded: sigma and tensor_scale cancel
  double tensor_scale = 1;
  double sigma = 1;
  /// The published approximation instead: all but the largest value are cut at the grid's end L s in place of the
  /// largest value (arXiv 2601.19026).
  bool cut_at_top = false;
};

/// Relative to 1e-9 or better. A block whose scale is 0 loses everything. Throws Error for elements above 4 bits, IF4,
/// stochastic rounding, and numbers outside 1e-60 .. 1e60.
double expected_relative_mse(const TheoryQuestion& question);

/// The same averaged over one octave of sigma upwards, `points` equally spaced in log2: power-of-two scales are
/// periodic in it.
double octave_mean(TheoryQuestion question, int points = 64);

/// The Q in [low, high] with the least octave mean for scales 2^ceil(log2(amax / Q)), to 1e-3. Looks at 41 Q first
/// and refines the best: low and high close enough for these to find the right valley.
double best_reach(const formats::BlockFormat& format, int block, double low, double high);

struct QuantizeConfig;

/// The expected error of a measured configuration at the tensor scale that it came to: of rules, recipe `exact`,
/// elements of at most 4 bits rounded to nearest even, blocks along the rows; elsewhere NaN.
double expected_relative_mse(const QuantizeConfig& config, float tensor_scale, double sigma);

}  // namespace fp4scope::analysis
