#include "search/tensor_scale.hpp"

#include <algorithm>
#include <cmath>
#include <queue>

#include "formats/error.hpp"
#include "search/sse.hpp"

namespace fp4scope::search {

namespace {

using formats::BlockFormat;

constexpr double rounding = 0x1p-28;
constexpr double first_ratio = 1.1;  // of the ends of the intervals that the search begins with

struct Tensor {
  const BlockFormat& format;
  int block;
  const float* x;
  std::int64_t rows;
  std::int64_t cols;

  std::int64_t size() const { return rows * cols; }
};

/// Per-row sums of f(row's first element), added in the order of the rows.
template <typename OfRow>
double sum_rows(const Tensor& t, const OfRow& of_row) {
  std::vector<double> sums(static_cast<std::size_t>(t.rows));
#pragma omp parallel for schedule(dynamic, 4) if (t.size() > 32768)
  for (std::int64_t row = 0; row < t.rows; ++row) sums[static_cast<std::size_t>(row)] = of_row(t.x + row * t.cols);
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

double squared_error(const SearchSpace& space, double step, const float* x, int n) {
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    const double magnitude = sim::magnitude(x[i]);
    const double error = magnitude - nearest_value(space, thresholds, step, magnitude);
    sum += error * error;
  }
  return sum;
}

double loss_at(const Tensor& t, float tensor_scale) {
  const SearchSpace space =
      make_space(t.format, tensor_scale, {t.format.element_max(), formats::Rounding::nearest_even});
  return sum_rows(t, [&](const float* row) {
    double sum = 0;
    for (std::int64_t i = 0; i < t.cols; i += t.block) {
      const Block block = {row + i, t.block, sim::amax(row + i, t.block)};
      sum += squared_error(space, space.step(sse_code(space, block)), block.x, block.n);
    }
    return sum;
  });
}

/// The sum of squares of what lies above `reach`.
double clipping(const Tensor& t, double reach) {
  return sum_rows(t, [&](const float* row) {
    double sum = 0;
    for (std::int64_t i = 0; i < t.cols; ++i) {
      const double over = std::max(sim::magnitude(row[i]) - reach, 0.0);
      sum += over * over;
    }
    return sum;
  });
}

/// The end of the domain above: 2 amax / (dominance v').
double domain_end(const SearchSpace& space, float amax) {
  int code = space.last_code;
  while (code > space.first_code && 2 * space.scale_value[code - 1] > space.scale_value[space.last_code]) --code;
  return 2 * static_cast<double>(amax) / (space.dominance * space.scale_value[code]) * (1 + 0x1p-20);
}

struct Interval {
  float low;
  float high;
  double at_low;
  double at_high;
  double bound;

  bool operator<(const Interval& other) const { return bound > other.bound; }  // the least bound on top of the queue
};

/// The least value of chord - Y (T - a) (b - T) / a^2 over [a, b]; `largest` is Y. Where no float lies between, an
/// end's.
double lower_bound(float a, float b, double at_a, double at_b, double largest) {
  const double end = std::min(at_a, at_b) * (1 - rounding);
  if (std::nextafter(a, b) >= b) return end;
  const double width = (static_cast<double>(b) - a) / a, sag = largest * width * width;
  const double t = (1 - (at_b - at_a) / sag) / 2;
  if (!(t > 0 && t < 1)) return end;
  return (at_a + t * (at_b - at_a)) * (1 - rounding) - sag * t * (1 - t) * (1 + rounding);
}

class Search {
 public:
  Search(const Tensor& tensor, const TensorScaleOptions& options) : tensor_(tensor), options_(options) {}

  TensorScaleResult run() {
    const float amax = sim::amax(tensor_.x, tensor_.size());
    if (amax == 0) return {};
    norm_ = std::sqrt(clipping(tensor_, 0));
    for (const ScaledLoss& s : headroom_losses(tensor_.format, tensor_.block, tensor_.x, tensor_.rows, tensor_.cols)) {
      keep(s.tensor_scale, s.loss);
    }
    divide(amax);
    while (!queue_.empty() && best_.evaluations < options_.max_evaluations) {
      const Interval worst = queue_.top();
      if (best_.loss <= (1 + options_.tolerance) * worst.bound) break;
      queue_.pop();
      const auto middle = static_cast<float>(std::sqrt(static_cast<double>(worst.low) * worst.high));
      if (middle <= worst.low || middle >= worst.high) {  // no float between: the bound is an end's loss
        closed_ = std::min(closed_, worst.bound);
        continue;
      }
      const double at_middle = evaluate(middle);
      push(worst.low, middle, worst.at_low, at_middle);
      push(middle, worst.high, at_middle, worst.at_high);
    }
    best_.lower_bound = std::min(best_.loss * (1 - rounding), closed_);
    if (!queue_.empty()) best_.lower_bound = std::min(best_.lower_bound, std::max(queue_.top().bound, 0.0));
    return best_;
  }

 private:
  void keep(float tensor_scale, double loss) {
    const bool first = best_.evaluations++ == 0;
    if (!first && !(loss < best_.loss)) return;
    best_.loss = loss;
    best_.tensor_scale = tensor_scale;
  }

  double evaluate(float tensor_scale) {
    const double loss = loss_at(tensor_, tensor_scale);
    keep(tensor_scale, loss);
    return loss;
  }

  /// Y of the best loss so far: later ones are smaller, so the bounds stay valid.
  void push(float a, float b, double at_a, double at_b) {
    const double y = (norm_ + std::sqrt(best_.loss)) * (1 + rounding);
    queue_.push({a, b, at_a, at_b, lower_bound(a, b, at_a, at_b, y * y)});
  }

  /// The domain in intervals of ratio first_ratio.
  void divide(float amax) {
    const SearchSpace space = make_space(tensor_.format, 1, sim::six_rule);
    const double reach = space.top() * space.scale_value[space.last_code];
    double low = domain_end(space, amax) / 2;
    while (clipping(tensor_, reach * low) * (1 - rounding) < best_.loss) low /= first_ratio;
    const auto end = static_cast<float>(domain_end(space, amax));
    auto a = std::max(static_cast<float>(low * (1 - 0x1p-20)), 0x1p-149f);
    double at_a = evaluate(a);
    while (a < end) {
      const auto b = std::nextafter(std::min(end, static_cast<float>(a * first_ratio)), INFINITY);
      const double at_b = evaluate(b);
      push(a, b, at_a, at_b);
      a = b;
      at_a = at_b;
    }
  }

  const Tensor& tensor_;
  const TensorScaleOptions& options_;
  double norm_ = 0;
  double closed_ = INFINITY;
  TensorScaleResult best_;
  std::priority_queue<Interval> queue_;
};

/// What one block contributes to the least-squares T, and its own least-squares scale.
struct Fit {
  double cross = 0;   ///< <x, w>
  double square = 0;  ///< <w, w>
};

Fit fit(const SearchSpace& space, double step, double unit, const float* x, int n) {
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  Fit f;
  for (int i = 0; i < n; ++i) {
    const double magnitude = sim::magnitude(x[i]);
    const double w = step > 0 ? space.grid.level[sim::nearest_index(thresholds, magnitude)] * unit : 0;
    f.cross += magnitude * w;
    f.square += w * w;
  }
  return f;
}

}  // namespace

double tensor_scale_loss(const BlockFormat& format, int block, const float* x, std::int64_t rows, std::int64_t cols,
                         float tensor_scale) {
  return loss_at({format, block, x, rows, cols}, tensor_scale);
}

std::vector<ScaledLoss> headroom_losses(const BlockFormat& format, int block, const float* x, std::int64_t rows,
                                        std::int64_t cols) {
  std::vector<ScaledLoss> losses;
  const float amax = sim::amax(x, rows * cols);
  for (const int scale_max : {448, 384, 320, 256, 224, 192}) {
    const float tensor_scale = sim::tensor_scale(amax, format.element_max(), scale_max);
    losses.push_back({tensor_scale, loss_at({format, block, x, rows, cols}, tensor_scale), scale_max});
  }
  return losses;
}

std::vector<ScaledLoss> alternate_scales(const BlockFormat& format, int block, const float* x, std::int64_t rows,
                                         std::int64_t cols, int iterations) {
  const Tensor t = {format, block, x, rows, cols};
  const sim::ScaleRule rule = {format.element_max(), formats::Rounding::nearest_even};
  const float amax = sim::amax(x, t.size());
  SearchSpace space = make_space(format, sim::tensor_scale(amax, format.element_max(), format.scale_max), rule);
  std::vector<int> codes(static_cast<std::size_t>(t.size() / block));
  for (std::size_t b = 0; b < codes.size(); ++b) {
    const float block_amax = sim::amax(x + b * block, block);
    codes[b] = sim::scale_code(format.scale, rule, block_amax, static_cast<float>(space.tensor_scale));
  }
  std::vector<ScaledLoss> trace;
  for (int iteration = 0;; ++iteration) {
    Fit all;
    double loss = 0;
    for (std::size_t b = 0; b < codes.size(); ++b) {
      const double step = space.step(codes[b]);
      const Fit f = fit(space, step, space.scale_value[codes[b]], x + b * block, block);
      all.cross += f.cross;
      all.square += f.square;
      loss += squared_error(space, step, x + b * block, block);
    }
    trace.push_back({static_cast<float>(space.tensor_scale), loss, 0});
    if (iteration == iterations || all.square == 0) return trace;
    const auto moved = static_cast<float>(all.cross / all.square);
    for (std::size_t b = 0; b < codes.size(); ++b) {
      const Fit f = fit(space, space.step(codes[b]), 1, x + b * block, block);
      if (f.square == 0) continue;
      codes[b] = static_cast<int>(formats::encode(format.scale, f.cross / (f.square * moved)).code);
    }
    space = make_space(format, moved, rule);
  }
}

TensorScaleResult search_tensor_scale(const BlockFormat& format, int block, const float* x, std::int64_t rows,
                                      std::int64_t cols, const TensorScaleOptions& options) {
  const SearchSpace space = make_space(format, 1, sim::six_rule);
  if (!format.tensor_scaled || format.selects() || space.dominance == 0) {
    throw Error(format.name,
                "the search for a tensor scale needs one element type, a grid that nests and a tensor scale",
                "another --tensor-scale");
  }
  const Tensor tensor = {format, block, x, rows, cols};
  return Search(tensor, options).run();
}

}  // namespace fp4scope::search
