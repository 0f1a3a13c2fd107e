#include "search/closest_vector.hpp"

#include <gmpxx.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fp4scope::search {

namespace {

constexpr double unit = 0x1p-53;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int most_signed = 15;

/// The loss of a less that of b, f(a) - f(b) = (v_b - v_a)^T (H (r_a + r_b) + 2 g), and a bound of its error:
/// residuals, their sums and differences round, then n^2 products of three factors: (2 n + 16) 2^-52 of the sum of
/// magnitudes.
struct Difference {
  double value = 0;
  double radius = 0;
};

Difference difference_of(const SearchSpace& space, const BlockProblem& problem, const BlockSolution& a,
                         const BlockSolution& b) {
  const int n = problem.n;
  double move[max_joint_block], sum[max_joint_block], size[max_joint_block];
  for (int i = 0; i < n; ++i) {
    const double va = signed_level(space, a.level[i]) * space.step(a.code);
    const double vb = signed_level(space, b.level[i]) * space.step(b.code);
    const double ra = problem.target[i] - va, rb = problem.target[i] - vb;
    move[i] = vb - va;
    sum[i] = ra + rb;
    size[i] = std::fabs(ra) + std::fabs(rb);
  }
  Difference d;
  for (int i = 0; i < n; ++i) {
    if (move[i] == 0) continue;
    const double* row = problem.h + static_cast<std::int64_t>(i) * n;
    double dot = problem.linear ? 2 * problem.linear[i] : 0, dot_size = std::fabs(dot);
    for (int j = 0; j < n; ++j) {
      dot += row[j] * sum[j];
      dot_size += std::fabs(row[j]) * size[j];
    }
    d.value += move[i] * dot;
    d.radius += std::fabs(move[i]) * dot_size;
  }
  d.radius *= (2 * n + 16) * 0x1p-52;
  return d;
}

/// The exponent of the last bit of any of the values: all are whole multiples of its power of two.
int unit_exponent(const double* x, std::int64_t count, int exponent = 2000) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (x[i] == 0) continue;
    int e = 0;
    std::frexp(x[i], &e);
    exponent = std::min(exponent, e - 53);
  }
  return exponent;
}

mpz_class in_units(double x, int exponent) {
  if (x == 0) return 0;
  int e = 0;
  const double mantissa = std::frexp(x, &e);
  return mpz_class(static_cast<long>(std::ldexp(mantissa, 53))) << (e - 53 - exponent);
}

/// The same in whole numbers: targets and values in units of a power of two, H and g in units of their own.
int compare_exact(const SearchSpace& space, const BlockProblem& problem, const BlockSolution& a,
                  const BlockSolution& b) {
  const int n = problem.n;
  double va[max_joint_block], vb[max_joint_block];
  for (int i = 0; i < n; ++i) {
    va[i] = signed_level(space, a.level[i]) * space.step(a.code);
    vb[i] = signed_level(space, b.level[i]) * space.step(b.code);
  }
  const int of_r = unit_exponent(problem.target, n, unit_exponent(va, n, unit_exponent(vb, n)));
  const int of_h = unit_exponent(problem.h, static_cast<std::int64_t>(n) * n);
  const int of_g = problem.linear ? unit_exponent(problem.linear, n, of_h + of_r) : of_h + of_r;
  mpz_class sum[max_joint_block], difference, dot;
  for (int i = 0; i < n; ++i)
    sum[i] = 2 * in_units(problem.target[i], of_r) - in_units(va[i], of_r) - in_units(vb[i], of_r);
  for (int i = 0; i < n; ++i) {
    if (va[i] == vb[i]) continue;
    dot = 0;
    for (int j = 0; j < n; ++j) dot += in_units(problem.h[static_cast<std::int64_t>(i) * n + j], of_h) * sum[j];
    dot <<= of_h + of_r - of_g;
    if (problem.linear) dot += 2 * in_units(problem.linear[i], of_g);
    difference += (in_units(vb[i], of_r) - in_units(va[i], of_r)) * dot;
  }
  return sgn(difference);
}

bool same_values(const SearchSpace& space, int n, const BlockSolution& a, const BlockSolution& b) {
  for (int i = 0; i < n; ++i) {
    if (signed_level(space, a.level[i]) * space.step(a.code) != signed_level(space, b.level[i]) * space.step(b.code))
      return false;
  }
  return true;
}

/// `exact` counts the comparisons that binary64 did not decide.
int compare(const SearchSpace& space, const BlockProblem& problem, const BlockSolution& a, const BlockSolution& b,
            std::int64_t& exact) {
  if (same_values(space, problem.n, a, b)) return 0;
  const Difference d = difference_of(space, problem, a, b);
  if (d.value > d.radius) return 1;
  if (d.value < -d.radius) return -1;
  ++exact;
  return compare_exact(space, problem, a, b);
}

/// At least the real loss.
double upper_loss(const SearchSpace& space, const BlockProblem& problem, const BlockSolution& s) {
  const int n = problem.n;
  double r[max_joint_block], size = 0;
  for (int i = 0; i < n; ++i)
    r[i] = std::fabs(problem.target[i] - signed_level(space, s.level[i]) * space.step(s.code));
  for (int i = 0; i < n; ++i) {
    double dot = problem.linear ? 2 * std::fabs(problem.linear[i]) : 0;
    for (int j = 0; j < n; ++j) dot += std::fabs(problem.h[static_cast<std::int64_t>(i) * n + j]) * r[j];
    size += r[i] * dot;
  }
  return loss_of(space, problem, s.code, s.level) + (2 * n + 16) * 0x1p-52 * size;
}

class Search {
 public:
  Search(const SearchSpace& space, const BlockProblem& problem, std::int64_t node_limit, ClosestVectorRoom& room)
      : space_(space), problem_(problem), limit_(node_limit), room_(room) {}

  BlockSolution run() {
    best_ = coordinate_descent(space_, problem_);
    best_.nodes = 0;
    find_active();
    factor();
    bound_margins();
    find_shift();
    prove_delta();
    upper_ = upper_loss(space_, problem_, best_);
    visit_codes();
    return finish();
  }

 private:
  double h(int i, int j) const { return problem_.h[static_cast<std::int64_t>(order_[i]) * problem_.n + order_[j]]; }
  double g(int i) const { return problem_.linear ? problem_.linear[order_[i]] : 0; }
  double& u(int i, int j) { return room_.u[i * n_ + j]; }

  /// Leaves out elements that cost nothing.
  void find_active() {
    n_ = 0;
    for (int i = 0; i < problem_.n; ++i) {
      bool free = !problem_.linear || problem_.linear[i] == 0;
      for (int j = 0; free && j < problem_.n; ++j)
        free = problem_.h[static_cast<std::int64_t>(i) * problem_.n + j] == 0;
      if (free) best_.level[i] = 0;
      else order_[n_++] = i;
    }
  }

  /// The squared distance between the levels around t_i at the starting code; beyond the grid, of the last two.
  double squared_spacing(int i) const {
    const double step = space_.step(best_.code), magnitude = std::fabs(problem_.target[i]);
    int k = 1;
    while (k + 1 < space_.grid.levels && space_.grid.level[k] * step < magnitude) ++k;
    if (space_.grid.levels < 2) return 1;
    const double spacing = space_.grid.level[k] - space_.grid.level[k - 1];
    return spacing * spacing;
  }

  void swap_elements(int a, int b, double* weight) {
    if (a == b) return;
    for (int j = 0; j < n_; ++j) std::swap(room_.schur[a * n_ + j], room_.schur[b * n_ + j]);
    for (int i = 0; i < n_; ++i) std::swap(room_.schur[i * n_ + a], room_.schur[i * n_ + b]);
    for (int i = 0; i < a; ++i) std::swap(u(i, a), u(i, b));
    std::swap(order_[a], order_[b]);
    std::swap(weight[a], weight[b]);
  }

  void factor() {
    double weight[max_joint_block];
    double* const s = room_.schur;
    for (int i = 0; i < n_; ++i) {
      weight[i] = squared_spacing(order_[i]);
      for (int j = 0; j < n_; ++j) s[i * n_ + j] = h(i, j);
    }
    for (int k = 0; k < n_; ++k) {
      int pivot = k;
      for (int i = k + 1; i < n_; ++i) {
        if (s[i * n_ + i] * weight[i] < s[pivot * n_ + pivot] * weight[pivot]) pivot = i;
      }
      swap_elements(k, pivot, weight);
      const double least = n_ * 0x1p-47 * h(k, k), pivot_value = s[k * n_ + k];
      raised_ = raised_ || !(pivot_value >= least) || pivot_value == 0;
      d_[k] = std::max(pivot_value, std::max(least, 0.0));
      u(k, k) = 1;
      for (int j = k + 1; j < n_; ++j) u(k, j) = d_[k] == 0 ? 0 : s[k * n_ + j] / d_[k];
      for (int i = k + 1; i < n_; ++i) {
        for (int j = k + 1; j < n_; ++j) s[i * n_ + j] -= u(k, i) * s[k * n_ + j];
      }
    }
    for (int k = 0; k < n_; ++k) {
      t_[k] = problem_.target[order_[k]];
      w_[k] = g(k);
      for (int i = 0; i < k; ++i) w_[k] -= u(i, k) * w_[i];  // U^T w = g
      shift_[k] = w_[k] == 0 ? 0 : w_[k] / d_[k];
    }
  }

  /// margin(step) = R^T M R + 2 m^T R as a parabola in the step, R_j = |t_j| + top * step.
  void bound_margins() {
    const double rounding = (n_ + 4) * unit * 2, of_sums = (8 * n_ + 64) * unit;
    for (int i = 0; i < n_; ++i) {
      const double size_i = std::fabs(t_[i]);
      double row = 0, row_size = 0;
      for (int j = 0; j < n_; ++j) {
        double product = 0, magnitude = 0;
        for (int k = 0; k <= std::min(i, j); ++k) {
          const double term = u(k, i) * d_[k] * u(k, j);
          product += term;
          magnitude += std::fabs(term);
        }
        const double epsilon = std::fabs(h(i, j) - product) + rounding * (std::fabs(h(i, j)) + magnitude);
        const double m = epsilon + of_sums * magnitude;
        row += m;
        row_size += m * std::fabs(t_[j]);
      }
      margin_[0] += size_i * row_size;
      margin_[1] += (row_size + size_i * row) * space_.top();
      margin_[2] += row * space_.top() * space_.top();
      if (!problem_.linear) continue;
      double left = g(i), magnitude = 0;
      for (int k = 0; k <= i; ++k) {
        left -= u(k, i) * w_[k];
        magnitude += std::fabs(u(k, i) * w_[k]);
      }
      const double m = 2 * (std::fabs(left) + rounding * (std::fabs(g(i)) + magnitude) + of_sums * magnitude);
      margin_[0] += m * size_i;
      margin_[1] += m * space_.top();
    }
  }

  /// a = U^-1 D^-1 w, the target moved by it, and a bound of what g - H a leaves over.
  void find_shift() {
    bounded_ = !raised_ || !problem_.linear;
    for (int k = 0; k < n_; ++k) moved_[k] = t_[k];
    if (!problem_.linear || !bounded_) return;
    double a[max_joint_block];
    for (int k = n_ - 1; k >= 0; --k) {
      a[k] = shift_[k];
      for (int j = k + 1; j < n_; ++j) a[k] -= u(k, j) * a[j];
    }
    for (int k = 0; k < n_; ++k) {
      moved_[k] = t_[k] + a[k];
      a[k] = moved_[k] - t_[k];
    }
    const double rounding = (n_ + 8) * 0x1p-51;
    for (int i = 0; i < n_; ++i) {
      double ha = 0, magnitude = 0;
      for (int j = 0; j < n_; ++j) {
        ha += h(i, j) * a[j];
        magnitude += std::fabs(h(i, j) * a[j]);
      }
      const double left = std::fabs(g(i) - ha) + rounding * (std::fabs(g(i)) + magnitude);
      gain_ += a[i] * ha + rounding * std::fabs(a[i]) * magnitude;
      left_[0] += 2 * left * std::fabs(t_[i]);
      left_[1] += 2 * left * space_.top();
    }
  }

  bool dominates(const double* diagonal, double factor) {
    double* const s = room_.schur;
    const double c = 4.0 * n_ * (n_ + 2) * unit;
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j <= i; ++j) {
        double x = i == j ? h(i, i) - (factor * diagonal[i] + c * h(i, i)) : h(i, j);
        for (int k = 0; k < j; ++k) x -= s[i * n_ + k] * s[j * n_ + k];
        if (i == j && !(x > 0)) return false;
        s[i * n_ + j] = i == j ? std::sqrt(x) : x / s[j * n_ + j];
      }
    }
    return true;
  }

  void prove_delta() {
    double diagonal[max_joint_block];
    double* const inverse = room_.inverse;
    for (int i = n_ - 1; i >= 0; --i) {
      double sum = 0;
      for (int j = i; j < n_; ++j) {
        double x = i == j ? 1 : 0;
        for (int k = i + 1; k <= j; ++k) x -= u(i, k) * inverse[k * n_ + j];
        inverse[i * n_ + j] = x;
        sum += x * x / d_[j];
      }
      diagonal[i] = 1 / sum;
    }
    double low = 0, high = 1;
    for (int step = 0; step < 6; ++step) {
      const double middle = step == 0 ? (1 - 0x1p-20) / n_ : (low + high) / 2;
      if (dominates(diagonal, middle)) low = middle;
      else high = middle;
    }
    bounded_ = bounded_ && low > 0;
    for (int i = 0; i < n_; ++i) delta_[i] = low * diagonal[i];
  }

  /// At most the loss of any levels at a code.
  double lower_bound(int code) const {
    if (!bounded_) return -infinity;
    const double step = space_.step(code);
    const sim::Thresholds thresholds = sim::make_thresholds(space_.grid, step);
    double bound = 0;
    for (int i = 0; i < n_; ++i) {
      const double magnitude = std::fabs(moved_[i]);
      const double distance = magnitude - nearest_value(space_, thresholds, step, magnitude);
      bound += delta_[i] * (distance * distance);
    }
    return bound * (1 - 0x1p-40) - (gain_ + (left_[0] + left_[1] * step) * (1 + 0x1p-40));
  }

  void offer(int code) {
    BlockSolution candidate;
    candidate.code = code;
    for (int k = 0; k < n_; ++k) candidate.level[order_[k]] = static_cast<std::int8_t>(at_[k] - (levels_ / 2));
    std::int64_t exact = 0;
    const int sign = compare(space_, problem_, candidate, best_, exact);
    nodes_ += exact * problem_.n * problem_.n;
    if (sign > 0 || (sign == 0 && !precedes(candidate))) return;
    best_.code = code;
    std::copy(candidate.level, candidate.level + problem_.n, best_.level);
    upper_ = std::min(upper_, upper_loss(space_, problem_, best_));
  }

  bool precedes(const BlockSolution& s) const {
    if (s.code != best_.code) return s.code < best_.code;
    return std::lexicographical_compare(s.level, s.level + problem_.n, best_.level, best_.level + problem_.n);
  }

  void set_code(int code) {
    const double step = space_.step(code);
    levels_ = 2 * space_.grid.levels - 1;
    for (int l = 0; l < levels_; ++l) value_[l] = signed_level(space_, l - levels_ / 2) * step;
    margin_here_ = margin_[0] + step * (margin_[1] + step * margin_[2]);
    constant_ = 0;
    for (int k = 0; k < n_; ++k) {
      least_[k] = problem_.linear ? least_term(k, step) : 0;
      constant_ += least_[k];
      stale_[k] = n_ - 1;
      room_.sum[k * (n_ + 1) + n_] = 0;
    }
    partial_[n_] = 0;
  }

  double least_term(int k, double step) {
    double largest = 0;
    for (int j = k; j < n_; ++j) largest += std::fabs(u(k, j)) * (std::fabs(t_[j]) + space_.top() * step);
    const double y = std::clamp(-shift_[k], -largest, largest);
    return w_[k] == 0 ? 0 : y * (d_[k] * y + 2 * w_[k]);
  }

  void enter(int k) {
    double* const sum = room_.sum + k * (n_ + 1);
    const double* const row = room_.u + k * n_;
    for (int j = stale_[k]; j > k; --j) sum[j] = sum[j + 1] + row[j] * r_[j];
    if (k > 0) stale_[k - 1] = std::max(stale_[k - 1], stale_[k]);
    stale_[k] = k;
    base_[k] = t_[k] + sum[k + 1];
    centre_[k] = base_[k] + shift_[k];
    int nearest = 0;
    for (int l = 0; l + 1 < levels_; ++l) nearest += centre_[k] > (value_[l] + value_[l + 1]) / 2;
    at_[k] = nearest;
    left_of_[k] = nearest - 1;
    right_of_[k] = nearest + 1;
  }

  bool next(int k) {
    const int left = left_of_[k], right = right_of_[k];
    if (left < 0 && right >= levels_) return false;
    const bool go_left = right >= levels_ || (left >= 0 && centre_[k] - value_[left] <= value_[right] - centre_[k]);
    at_[k] = go_left ? left_of_[k]-- : right_of_[k]++;
    return true;
  }

  double term(int k) const {
    const double y = base_[k] - value_[at_[k]];
    return y * (d_[k] * y + 2 * w_[k]) - least_[k];
  }

  void descend(int k) {
    r_[k] = t_[k] - value_[at_[k]];
    stale_[k - 1] = std::max(stale_[k - 1], k);
    enter(k - 1);
  }

  /// The first vector of the tree, each level the nearest to its centre; its loss.
  double first_leaf(int code) {
    set_code(code);
    enter(n_ - 1);
    for (int k = n_ - 1; k >= 0; --k) {
      partial_[k] = partial_[k + 1] + term(k);
      if (k > 0) descend(k);
    }
    nodes_ += n_;
    if (!(partial_[0] > threshold())) offer(code);
    return partial_[0] + constant_;
  }

  /// All leaves at a code that may be better than the best.
  void decode(int code) {
    set_code(code);
    int k = n_ - 1;
    enter(k);
    for (;;) {
      if (++nodes_ > limit_) return;
      partial_[k] = partial_[k + 1] + term(k);
      bool more = false;
      if (!(partial_[k] > threshold())) {
        if (k > 0) {
          descend(k--);
          continue;
        }
        offer(code);
        more = next(k);
      }
      while (!more) {
        if (++k == n_) return;
        more = next(k);
      }
    }
  }

  double threshold() const { return (upper_ - constant_ + margin_here_) + std::fabs(upper_) * 0x1p-50; }

  void visit_codes() {
    if (n_ == 0) {
      best_.code = space_.first_code;
      return;
    }
    int code[256], count = 0;
    double bound[256], leaf[256];
    for (int c = space_.first_code; c <= space_.last_code; ++c) {
      bound[c] = lower_bound(c);
      if (bound[c] > upper_) continue;
      const double loss = first_leaf(c);
      leaf[c] = loss < infinity ? loss : infinity;
      code[count++] = c;
    }
    std::sort(code, code + count, [&](int a, int b) { return leaf[a] != leaf[b] ? leaf[a] < leaf[b] : a < b; });
    for (int i = 0; i < count && nodes_ <= limit_; ++i) {
      if (!(bound[code[i]] > upper_)) decode(code[i]);
    }
  }

  BlockSolution finish() {
    BlockSolution nearest;
    nearest_levels(space_, problem_, best_.code, nearest.level);
    bool active[max_joint_block] = {};
    for (int k = 0; k < n_; ++k) active[order_[k]] = true;
    for (int i = 0; i < problem_.n; ++i) {
      if (!active[i]) best_.level[i] = nearest.level[i];
    }
    best_.loss = loss_of(space_, problem_, best_.code, best_.level);
    best_.proved = nodes_ <= limit_;
    best_.nodes = nodes_;
    return best_;
  }

  const SearchSpace& space_;
  const BlockProblem& problem_;
  const std::int64_t limit_;
  ClosestVectorRoom& room_;
  BlockSolution best_;
  double upper_ = 0;
  std::int64_t nodes_ = 0;

  int n_ = 0;
  int order_[max_joint_block];
  bool raised_ = false;
  double d_[max_joint_block], w_[max_joint_block], shift_[max_joint_block], t_[max_joint_block];
  double margin_[3] = {};

  bool bounded_ = false;
  double moved_[max_joint_block], delta_[max_joint_block] = {};
  double gain_ = 0, left_[2] = {};

  int levels_ = 0;
  double value_[most_signed], margin_here_ = 0, constant_ = 0;
  double least_[max_joint_block], partial_[max_joint_block + 1], base_[max_joint_block], centre_[max_joint_block];
  double r_[max_joint_block];
  int at_[max_joint_block], left_of_[max_joint_block], right_of_[max_joint_block], stale_[max_joint_block];
};

}  // namespace

int compare_losses(const SearchSpace& space, const BlockProblem& problem, const BlockSolution& a,
                   const BlockSolution& b) {
  std::int64_t exact = 0;
  return compare(space, problem, a, b, exact);
}

BlockSolution closest_vector(const SearchSpace& space, const BlockProblem& problem, const ClosestVectorOptions& options,
                             ClosestVectorRoom& room) {
  if (is_zero(problem)) return zero_solution();
  return Search(space, problem, options.node_limit, room).run();
}

}  // namespace fp4scope::search
