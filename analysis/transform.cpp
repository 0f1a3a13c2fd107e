#include "analysis/transform.hpp"

#include <fmt/format.h>

#include "formats/error.hpp"
#include "sim/hadamard.hpp"
#include "sim/random.hpp"

namespace fp4scope::analysis {

namespace {

std::vector<std::int8_t> signs_of(const Transform& t) {
  std::vector<std::int8_t> signs(static_cast<std::size_t>(t.hadamard));
  if (t.hadamard_seed) {
    sim::random_signs(*t.hadamard_seed, 0, t.hadamard, signs.data());
  } else {
    for (int i = 0; i < t.hadamard; ++i) signs[static_cast<std::size_t>(i)] = sim::fixed_sign_16(i);
  }
  return signs;
}

/// The arithmetic of the recipe's source, by the dtype of its input.
sim::HadamardArithmetic arithmetic_of(const QuantizeConfig& config, const Matrix& m) {
  if (!config.recipe || !config.recipe->rotates) return sim::HadamardArithmetic::exact;
  if (m.dtype == "BF16") return sim::HadamardArithmetic::float32_to_bf16;
  return m.dtype == "F16" ? sim::HadamardArithmetic::float32_to_fp16 : sim::HadamardArithmetic::float32;
}

/// Every run of t.hadamard columns through sim::rotate or its inverse.
Matrix rotate(const Transform& t, const Matrix& m, sim::HadamardArithmetic arithmetic, bool back) {
  const Matrix wide = m.cols % t.hadamard == 0 ? Matrix{} : pad_columns(m, t.hadamard);
  const Matrix& in = wide.data.empty() ? m : wide;
  Matrix out = {in.rows, in.cols, std::vector<float>(in.data.size()), in.dtype};
  const std::vector<std::int8_t> signs = signs_of(t);
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < in.rows; ++r) {
    for (std::int64_t c = 0; c < in.cols; c += t.hadamard) {
      const float* const x = in.row(r) + c;
      float* const y = out.data.data() + r * in.cols + c;
      if (back) sim::rotate_back(x, signs.data(), t.hadamard, arithmetic, y);
      else sim::rotate(x, signs.data(), t.hadamard, arithmetic, y);
    }
  }
  return out;
}

}  // namespace

std::string Transform::text() const {
  std::string text = transposed ? "transpose" : "";
  if (rotated()) text += fmt::format("{}hadamard {}", transposed ? " " : "", hadamard);
  if (rotated() && hadamard_seed) text += fmt::format(" seed {}", *hadamard_seed);
  return text;
}

Transform parse_transform(const QuantizeConfig& config, bool transposed, bool hadamard, int size,
                          std::optional<std::uint64_t> seed) {
  if (!hadamard && size != 0) throw UsageError("--hadamard-size", "has no effect without a rotation", "--hadamard");
  if (!hadamard && seed) throw UsageError("--hadamard-seed", "has no effect without a rotation", "--hadamard");
  Transform t;
  t.transposed = transposed;
  if (!hadamard) return t;
  t.hadamard = size == 0 ? 16 : size;
  t.hadamard_seed = seed;
  if (!sim::is_hadamard_size(t.hadamard)) {
    throw UsageError("--hadamard-size", fmt::format("{} is no power of two from 2 to 1024", t.hadamard));
  }
  const bool fixed = t.hadamard == 16 && !seed;
  if (config.recipe && config.recipe->rotates && !fixed) {
    throw UsageError("--hadamard",
                     fmt::format("recipe {} has 16 points and its fixed signs alone", config.recipe_name()),
                     "leave --hadamard-size and --hadamard-seed out");
  }
  if (t.hadamard != 16 && !seed) t.hadamard_seed = 0;  // only 16 points have fixed signs
  return t;
}

std::int64_t transformed_cols(const Transform& t, const Shape2d& shape) {
  const std::int64_t cols = t.transposed ? shape.rows : shape.cols;
  return t.rotated() ? padded(cols, t.hadamard) : cols;
}

Matrix apply(const Transform& t, const QuantizeConfig& config, Matrix m) {
  if (t.transposed) m = transpose(m);
  if (t.rotated()) m = rotate(t, m, arithmetic_of(config, m), false);
  return m;
}

Matrix apply_to_inputs(const Transform& t, Matrix x) {
  if (t.rotated()) x = rotate(t, x, sim::HadamardArithmetic::exact, false);
  return x;
}

Matrix undo(const Transform& t, Matrix m, const Shape2d& original) {
  Matrix out = t.rotated() ? rotate(t, m, sim::HadamardArithmetic::exact, true) : std::move(m);
  const std::int64_t cols = t.transposed ? original.rows : original.cols;
  if (out.cols != cols) {
    Matrix narrow = {out.rows, cols, {}, out.dtype};
    for (std::int64_t r = 0; r < out.rows; ++r) narrow.data.insert(narrow.data.end(), out.row(r), out.row(r) + cols);
    out = std::move(narrow);
  }
  return t.transposed ? transpose(out) : out;
}

}  // namespace fp4scope::analysis
