#include "analysis/layer_error.hpp"

#include <algorithm>
#include <cmath>

namespace fp4scope::analysis {

const char* const layer_term_names[layer_term_count] = {"weights", "activations", "both"};

Quantized quantize_inputs(const QuantizeConfig& weights, const Matrix& x) {
  QuantizeWords words;
  words.format = weights.format->name;
  words.block = weights.block;
  if (weights.scaling == TensorScaling::none) words.tensor_scale = "none";
  return quantize(parse_config(words, weights.formats), x, "activations");
}

double LayerError::dot_snr_db() const { return 10 * std::log10(energy / error); }

namespace {

constexpr int rows_at_once = 4;    // a tile of products, rows x tokens, stays in registers
constexpr int tokens_at_once = 4;  // whose partial sums are kept together
constexpr std::int64_t tokens_in_memory = 256;
enum : int { as_given, as_stored, lost, kinds };  // x, xq, xq - x

/// Some tokens, or some rows of weights: [kinds][groups][cols][width], `width` of them side by side. Lanes after the
/// last one hold anything: lanes don't mix, and nobody looks at those.
struct Packed {
  std::int64_t cols = 0, groups = 0;
  int width = 0;
  std::vector<double> data;

  Packed(std::int64_t cols_, std::int64_t groups_, int width_)
      : cols(cols_), groups(groups_), width(width_), data(static_cast<std::size_t>(kinds * groups * cols * width)) {}
  double* group(int kind, std::int64_t g) { return data.data() + (kind * groups + g) * cols * width; }
  const double* group(int kind, std::int64_t g) const { return data.data() + (kind * groups + g) * cols * width; }

  /// Row `row` of m as the `lane`-th of group g. `q` null: stored as given.
  void put(const Matrix& m, const Quantized* q, std::int64_t row, std::int64_t g, int lane) {
    const float* const x = m.row(row);
    const auto put_one = [&](std::int64_t c, double value) {
      group(as_given, g)[c * width + lane] = x[c];
      group(as_stored, g)[c * width + lane] = value;
      group(lost, g)[c * width + lane] = value - x[c];
    };
    if (q) for_each_value(*q, row, cols, put_one);
    else
      for (std::int64_t c = 0; c < cols; ++c) put_one(c, x[c]);
  }
};

using Tile = double[rows_at_once][tokens_at_once];

/// out[k][t] = sum_c w[c][k] x[c][t], c in order.
void multiply(const double* w, const double* x, std::int64_t cols, Tile out) {
  Tile sum = {};
  for (std::int64_t c = 0; c < cols; ++c, w += rows_at_once, x += tokens_at_once) {
    for (int k = 0; k < rows_at_once; ++k) {
      for (int t = 0; t < tokens_at_once; ++t) sum[k][t] += w[k] * x[t];
    }
  }
  for (int k = 0; k < rows_at_once; ++k) std::copy_n(sum[k], tokens_at_once, out[k]);
}

/// The outputs of four rows at four tokens, and the three parts of their error.
struct Outputs {
  Tile exact, stored, part[layer_term_count];
};

void make_outputs(const Packed& w, const Packed& x, std::int64_t g, bool stored_inputs, Outputs& out) {
  const auto product = [&](int of_w, int of_x, Tile tile) {
    multiply(w.group(of_w, 0), x.group(of_x, g), w.cols, tile);
  };
  product(as_given, as_given, out.exact);
  product(as_stored, as_stored, out.stored);
  product(lost, as_given, out.part[0]);
  if (!stored_inputs) return;  // the other parts stay 0
  product(as_given, lost, out.part[1]);
  product(lost, lost, out.part[2]);
}

/// One output of the layer after another, in the order of the tokens.
void add(LayerError& sum, const Outputs& out, int k, int tokens) {
  for (int t = 0; t < tokens; ++t) {
    const double error = out.stored[k][t] - out.exact[k][t];
    sum.energy += out.exact[k][t] * out.exact[k][t];
    sum.error += error * error;
    for (int a = 0; a < layer_term_count; ++a) {
      for (int b = a; b < layer_term_count; ++b) sum.inner[a][b] += out.part[a][k][t] * out.part[b][k][t];
    }
  }
}

void add(LayerError& total, const LayerError& row) {
  total.energy += row.energy;
  total.error += row.error;
  for (int a = 0; a < layer_term_count; ++a) {
    for (int b = a; b < layer_term_count; ++b) total.inner[b][a] = total.inner[a][b] += row.inner[a][b];
  }
}

/// Tokens first .. first + count - 1.
void pack_tokens(const Matrix& x, const Quantized* xq, std::int64_t first, std::int64_t count, Packed& out) {
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < count; ++t) {
    out.put(x, xq, first + t, t / tokens_at_once, static_cast<int>(t % tokens_at_once));
  }
}

/// Adds the outputs of all rows of W at `count` packed tokens to the rows' sums.
void add_tokens(const Matrix& w, const Quantized& wq, const Packed& x, std::int64_t count, bool stored_inputs,
                std::vector<LayerError>& sums) {
#pragma omp parallel
  {
    Packed weights(w.cols, 1, rows_at_once);
    Outputs out = {};
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t first = 0; first < w.rows; first += rows_at_once) {
      const int rows = static_cast<int>(std::min<std::int64_t>(rows_at_once, w.rows - first));
      for (int k = 0; k < rows; ++k) weights.put(w, &wq, first + k, 0, k);
      for (std::int64_t t = 0; t < count; t += tokens_at_once) {
        make_outputs(weights, x, t / tokens_at_once, stored_inputs, out);
        const int tokens = static_cast<int>(std::min<std::int64_t>(tokens_at_once, count - t));
        for (int k = 0; k < rows; ++k) add(sums[static_cast<std::size_t>(first + k)], out, k, tokens);
      }
    }
  }
}

}  // namespace

LayerError layer_error(const Matrix& w, const Quantized& wq, const Matrix& x, const Quantized* xq,
                       const LayerError& before) {
  std::vector<LayerError> sums(static_cast<std::size_t>(w.rows));
  const std::int64_t most = std::min(tokens_in_memory, x.rows);
  Packed packed(x.cols, (most + tokens_at_once - 1) / tokens_at_once, tokens_at_once);
  for (std::int64_t first = 0; first < x.rows; first += tokens_in_memory) {
    const std::int64_t count = std::min(tokens_in_memory, x.rows - first);
    pack_tokens(x, xq, first, count, packed);
    add_tokens(w, wq, packed, count, xq != nullptr, sums);
  }
  LayerError total = before;
  for (const LayerError& row : sums) add(total, row);
  return total;
}

}  // namespace fp4scope::analysis
