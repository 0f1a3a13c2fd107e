#include "search/real_scale.hpp"

#include <algorithm>

namespace fp4scope::search {

namespace {

/// As the scale falls past `at`, a magnitude's level grows, and X and Q with it.
struct Step {
  double at;
  double x, q;
};

/// X and Q of the levels just below one scale, and the steps from there down to another.
struct Sweep {
  double x = 0, q = 0;
  std::vector<Step> steps;

  void pass(const Step& step) {
    x += step.x;
    q += step.q;
  }
};

void start(Sweep& sweep, const RealSpace& space, const float* x, int n, double from, double to) {
  const sim::Grid& grid = space.grid;
  sweep.x = sweep.q = 0;
  sweep.steps.clear();
  for (int i = 0; i < n; ++i) {
    const double magnitude = space.factor * sim::magnitude(x[i]);
    for (int k = 0; k + 1 < grid.levels && magnitude > to * grid.midpoint[k]; ++k) {
      const double below = grid.level[k], above = grid.level[k + 1];
      const Step step = {magnitude / grid.midpoint[k], (above - below) * magnitude, above * above - below * below};
      if (step.at < from) sweep.steps.push_back(step);
      else sweep.pass(step);
    }
  }
  std::sort(sweep.steps.begin(), sweep.steps.end(), [](const Step& a, const Step& b) { return a.at > b.at; });
}

/// What rounding leaves in doubt of sums of n products.
double doubt(int n) { return (n + 8) * 0x1p-51; }

}  // namespace

std::vector<RealSpace> real_spaces(const formats::BlockFormat& format) {
  std::vector<RealSpace> spaces;
  for (const bool integer : {false, true}) {
    if (integer && !format.selects()) break;
    const sim::Grid grid = sim::make_grid(format, integer);
    spaces.push_back({grid, sim::grid_factor(format), nesting(grid)});
  }
  return spaces;
}

ScaleWindow scale_window(const RealSpace& space, float amax, int n) {
  const sim::Grid& grid = space.grid;
  const double largest = space.factor * amax, undersize = undersize_constant(space.nesting, n);
  if (undersize < __builtin_inf()) return {largest / undersize, 2 * largest / dominance_constant(space.nesting), 2};
  return {largest / (4 * grid.level[grid.levels - 1] * n), largest / grid.midpoint[0], 2.0 * n};
}

double squared_error(const RealSpace& space, const float* x, int n, double scale) {
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, scale);
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    const double magnitude = space.factor * sim::magnitude(x[i]);
    const double error = magnitude - scale * space.grid.level[sim::nearest_index(thresholds, magnitude)];
    sum += error * error;
  }
  return sum / (space.factor * space.factor);
}

bool clearly_less(double sse, double other, const float* x, int n) {
  if (!(sse < other)) return false;
  double energy = 0;
  for (int i = 0; i < n; ++i) energy += static_cast<double>(x[i]) * x[i];
  return sse < other - doubt(n) * energy;
}

RealScale real_scale(const RealSpace& space, const float* x, int n, double least, double most) {
  const float amax = sim::amax(x, n);
  if (amax == 0) return {};
  const ScaleWindow window = scale_window(space, amax, n);
  const double from = std::min(most, std::max(window.high, 2 * least));
  const double to = std::max(least, std::min(window.low, most / window.reach));

  thread_local Sweep sweep;
  start(sweep, space, x, n, from, to);
  // s and 2s often have the same levels, and their gains the roundings of different sums.
  const double equal = doubt(n);
  double best = from, best_gain = from * (2 * sweep.x - from * sweep.q);  // sum x^2 less the parabola
  const auto look = [&] {
    if (sweep.q == 0) return;
    const double scale = std::clamp(sweep.x / sweep.q, least, most);
    const double gain = scale * (2 * sweep.x - scale * sweep.q);
    if (gain < best_gain * (1 - equal)) return;
    best = scale;
    best_gain = gain;
  };
  look();
  for (const Step& step : sweep.steps) {
    sweep.pass(step);
    look();
  }
  return {best, squared_error(space, x, n, best), 0};
}

RealScale real_scale(const std::vector<RealSpace>& spaces, const float* x, int n, double least, double most) {
  RealScale best = real_scale(spaces[0], x, n, least, most);
  for (int k = 1; k < static_cast<int>(spaces.size()); ++k) {
    RealScale other = real_scale(spaces[static_cast<std::size_t>(k)], x, n, least, most);
    other.space = k;
    if (clearly_less(other.sse, best.sse, x, n)) best = other;
  }
  return best;
}

}  // namespace fp4scope::search
