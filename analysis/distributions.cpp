#include "analysis/distributions.hpp"

#include <cmath>
#include <numbers>

#include "formats/codec.hpp"
#include "sim/random.hpp"

namespace fp4scope::analysis {

const std::vector<std::string> distribution_names = {"normal", "laplace", "student_t", "uniform", "llm"};
const std::vector<std::string> sample_dtypes = {"f32", "bf16", "f16"};

namespace {

// One stream of random numbers for each purpose, so that they are independent under one seed.
enum Stream : std::uint32_t {
  elements = 0,
  column_gain = 1,
  column_outlier = 2,
  tokens = 3,
  token_gain = 4,
  token_outlier = 5
};

struct UniformPair {
  double u, v;
};

UniformPair uniforms(std::uint64_t seed, Stream stream, std::uint64_t index) {
  std::uint32_t w[4];
  sim::random_words(seed, stream, index, w);
  return {sim::open_uniform(w[0], w[1]), sim::open_uniform(w[2], w[3])};
}

/// Box and Muller (1958), the cosine branch.
double normal(const UniformPair& p) { return std::sqrt(-2 * std::log(p.u)) * std::cos(2 * std::numbers::pi * p.v); }

double laplace(const UniformPair& p, double sigma) {
  const double scale = sigma / std::numbers::sqrt2;
  return (p.v < 0.5 ? -1 : 1) * -scale * std::log(p.u);
}

/// Bailey (1994): the polar method for any real number of degrees of freedom.
double student_t(const UniformPair& p, double dof) {
  return std::sqrt(dof * (std::pow(p.u, -2 / dof) - 1)) * std::cos(2 * std::numbers::pi * p.v);
}

double draw(const Distribution& d, const UniformPair& p) {
  if (d.kind == "laplace") return laplace(p, d.sigma);
  if (d.kind == "student_t") return d.sigma * student_t(p, d.dof);
  if (d.kind == "uniform") return d.sigma * std::numbers::sqrt3 * (2 * p.u - 1);
  return d.sigma * normal(p);
}

float round_to(const std::string& dtype, double x) {
  if (dtype == "f32") return static_cast<float>(x);
  const formats::Format& f = dtype == "bf16" ? formats::bf16 : formats::fp16;
  return formats::decode_float(f, formats::encode(f, x).code);
}

/// exp(spread * normal), and `outlier_gain` times as much for the outlier share of the channels.
std::vector<double> channel_gains(std::int64_t channels, std::uint64_t seed, Stream gain, Stream outlier, double spread,
                                  double outlier_share, double outlier_gain) {
  std::vector<double> gains(static_cast<std::size_t>(channels));
  for (std::size_t c = 0; c < gains.size(); ++c) {
    gains[c] = std::exp(spread * normal(uniforms(seed, gain, c)));
    if (uniforms(seed, outlier, c).u < outlier_share) gains[c] *= outlier_gain;
  }
  return gains;
}

}  // namespace

Matrix sample(const Distribution& d) { return sample_rows(d, 0, d.rows); }

Matrix sample_rows(const Distribution& d, std::int64_t first, std::int64_t count) {
  Matrix m = {count, d.cols, std::vector<float>(static_cast<std::size_t>(count * d.cols))};
  std::vector<double> gains(static_cast<std::size_t>(d.cols), 1.0);
  if (d.kind == "llm") gains = channel_gains(d.cols, d.seed, column_gain, column_outlier, 0.25, 1.0 / 128, 8);
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t c = 0; c < d.cols; ++c) {
      const auto position = static_cast<std::uint64_t>((first + r) * d.cols + c);
      const double drawn = draw(d, uniforms(d.seed, elements, position));
      m.data[static_cast<std::size_t>(r * d.cols + c)] = round_to(d.dtype, gains[static_cast<std::size_t>(c)] * drawn);
    }
  }
  return m;
}

Matrix sample(const SyntheticActivations& a, std::int64_t cols) {
  Matrix m = {a.tokens, cols, std::vector<float>(static_cast<std::size_t>(a.tokens * cols))};
  const std::vector<double> gains =
      channel_gains(cols, a.seed, token_gain, token_outlier, 0.5, a.outlier_share, a.outlier_gain);
  const double fresh = std::sqrt(1 - a.correlation * a.correlation);
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < a.tokens; ++t) {
    double y = 0;
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto i = static_cast<std::size_t>(t * cols + c);
      const double z = normal(uniforms(a.seed, tokens, i));
      y = c == 0 ? z : a.correlation * y + fresh * z;
      m.data[i] = round_to("bf16", gains[static_cast<std::size_t>(c)] * y);
    }
  }
  return m;
}

}  // namespace fp4scope::analysis
