// Why a value is wrong: scale bias, dead zone, grid noise, clipping. An exact identity, element by element.
//
// Per block b let s*_b = max |x| / L be the ideal scale (L the largest level, s* a real number), Q*(x) the value
// nearest to x at s* (a tie to the even code), Q(x) the value stored, s the scale stored, tensor scale included. A
// square block's maximum is over the whole square; a block of IF4 keeps the element that it chose. Every error Q(x) - x
// is a sum (arXiv 2605.20402):
//
//   scale bias   Q(x) - Q*(x)   where x is not clipped
//   dead zone    Q*(x) - x      where |x| < half the smallest positive level times s*, and x is not clipped
//   grid noise   Q*(x) - x      where it is not, and x is not clipped
//   clipping     Q(x) - x       where s > 0 and |x| > L s: for rules that clip; the paper's rule, ceil, never does
//
// Where s = 0 nothing is clipped: what a block loses that way is scale bias (and dead zone and grid noise, as
// anywhere).
//
// The vectors add up to the error. Their squared norms do not: |e|^2 = sum_i |e_i|^2 + 2 sum_{i<j} <e_i, e_j>, so no
// term is a fraction of it. Dead zone, grid noise and clipping have disjoint supports: the products among them, and of
// clipping with scale bias, are 0. Where s >= s* (ceil), dead-zone elements are 0 under both scales: <scale bias, dead
// zone> = 0.
//
// All sums are exact: L x, L Q(x) and L Q*(x) are short binary numbers, the products of their differences are added in
// fixed point without rounding (exact_products.hpp), and every inner product is rounded to binary64 once, at the end.
// So no order of summation enters.
#pragma once

#include <memory>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

enum class Term { scale_bias, dead_zone, grid_noise, clipping };
inline constexpr int term_count = 4;
extern const char* const term_names[term_count];  ///< "scale bias", "dead zone", "grid noise", "clipping"

struct Terms {
  double energy = 0;                          ///< sum x^2
  double error = 0;                           ///< |e|^2, from the errors themselves
  double inner[term_count][term_count] = {};  ///< <e_i, e_j>, symmetric
  std::int64_t elements = 0;
  std::int64_t dead = 0;     ///< |x| below half the smallest positive level times s*, clipped or not
  std::int64_t clipped = 0;  ///< |x| > L s, s > 0
  std::int64_t zeros = 0;    ///< elements whose stored value is 0
  std::int64_t blocks = 0;   ///< with s > 0 and s* > 0, a tile counted once
  double log_inflation = 0;  ///< sum of log2(s / s*) over those blocks
  bool adds_up = false;      ///< the ten products, doubled off the diagonal, sum to |e|^2 exactly, before any rounding

  double of(Term a, Term b) const { return inner[static_cast<int>(a)][static_cast<int>(b)]; }
  double cosine(Term a, Term b) const;  ///< NaN where one of them is zero
};

/// Exact sums of one tensor whose method is no correction (values are scales times elements), fed in pieces. 2^40
/// elements at most.
class TermSums {
 public:
  TermSums();
  ~TermSums();
  TermSums(TermSums&&) noexcept;
  TermSums& operator=(TermSums&&) noexcept;

  /// `original` [rows, unpadded columns] and what it became, finite. Pieces are of the same format; with square blocks
  /// they are of whole squares.
  void add(const Matrix& original, const Quantized& q);
  Terms terms() const;

 private:
  struct Sums;
  std::unique_ptr<Sums> sums_;
};

Terms terms_of(const Matrix& original, const Quantized& q);

}  // namespace fp4scope::analysis
