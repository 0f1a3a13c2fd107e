#include "analysis/linear.hpp"

#define TOML_EXCEPTIONS 1
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>

#include "analysis/metrics.hpp"
#include "analysis/names.hpp"
#include "formats/error.hpp"
#include "sim/hadamard.hpp"

namespace fp4scope::analysis {

namespace {

struct OperandRow {
  const char *format, *scale, *rounding;
  int scale_max;
  bool tiles;
  int hadamard;
};

/// The operands in the order X and W of forward, G and W^T of dgrad, G^T and X^T of wgrad.
struct RecipeRow {
  const char* name;
  OperandRow operands[6];
  const char* words;
};

// clang-format off
constexpr OperandRow bf16_row      = {"bf16",  "",       "",           0,   false, 0};
constexpr OperandRow nvfp4_row     = {"nvfp4", "naive",  "rne",        0,   false, 0};
constexpr OperandRow nvfp4_tiles   = {"nvfp4", "naive",  "rne",        0,   true,  0};
constexpr OperandRow nvfp4_random  = {"nvfp4", "naive",  "stochastic", 0,   false, 0};
constexpr OperandRow nvfp4_rotated = {"nvfp4", "naive",  "rne",        0,   false, 16};
constexpr OperandRow nvfp4_both    = {"nvfp4", "naive",  "stochastic", 0,   false, 16};
constexpr OperandRow six_row       = {"nvfp4", "4over6", "rne",        256, false, 0};
constexpr OperandRow six_random    = {"nvfp4", "4over6", "stochastic", 256, false, 0};
constexpr OperandRow six_rotated   = {"nvfp4", "4over6", "rne",        256, false, 16};
constexpr OperandRow six_both      = {"nvfp4", "4over6", "stochastic", 256, false, 16};
constexpr OperandRow mx_row        = {"mxfp4", "naive",  "rne",        0,   false, 0};
constexpr OperandRow mx_both       = {"mxfp4", "rceil",  "stochastic", 0,   false, 32};

constexpr RecipeRow rows[] = {
    //                       forward X  W            dgrad G       W^T          wgrad G^T   X^T
    {"bf16",                {bf16_row,  bf16_row,    bf16_row,     bf16_row,    bf16_row,   bf16_row},
     "no quantization: operands rounded to bf16"},
    {"nvfp4",               {nvfp4_row, nvfp4_row,   nvfp4_row,    nvfp4_row,   nvfp4_row,  nvfp4_row},
     "every operand to nearest, blocks of 16 along K"},
    {"nvfp4_pretraining",   {nvfp4_row, nvfp4_tiles, nvfp4_random, nvfp4_tiles, nvfp4_both, nvfp4_rotated},
     "arXiv 2509.25149: square blocks of weights, stochastic gradients, rotated operands of wgrad"},
    {"fouroversix",         {six_row,   six_row,     six_random,   six_row,     six_both,   six_rotated},
     "fouroversix 1.1.0's layer: 4/6 by squared error, stochastic gradients, rotated operands of wgrad"},
    {"mxfp4_rht_sr",        {mx_row,    mx_row,      mx_both,      mx_both,     mx_both,    mx_both},
     "MXFP4, forward to nearest; backward rotated and stochastic, with scales rounded up so that nothing is clipped"},
};
// clang-format on

/// Which tensor stands where, and whether transposed.
struct Seat {
  const char* product;
  const char* tensor;
  bool transposed;
};
constexpr Seat seats[6] = {{"forward", "X", false}, {"forward", "W", false}, {"dgrad", "G", false},
                           {"dgrad", "W", true},    {"wgrad", "G", true},    {"wgrad", "X", true}};

LinearRecipe assemble(const std::string& name, const std::string& words, std::vector<LinearOperand> operands) {
  LinearRecipe r = {name, words, {}};
  for (std::size_t i = 0; i < 6; i += 2) r.products.push_back({seats[i].product, operands[i], operands[i + 1]});
  return r;
}

LinearRecipe from_row(const RecipeRow& row) {
  std::vector<LinearOperand> operands;
  for (std::size_t i = 0; i < 6; ++i) {
    const OperandRow& o = row.operands[i];
    LinearOperand operand = {seats[i].tensor, seats[i].transposed, {}, o.hadamard};
    operand.words.format = o.format;
    operand.words.scale = o.scale;
    operand.words.rounding = std::string(o.rounding) == "rne" ? "" : o.rounding;
    operand.words.scale_max = o.scale_max;
    operand.words.tiles = o.tiles;
    operands.push_back(operand);
  }
  return assemble(row.name, row.words, operands);
}

[[noreturn]] void refuse(const std::string& path, const toml::node& node, const std::string& what,
                         const std::string& mend = "") {
  throw UsageError(fmt::format("{}:{}", path, node.source().begin.line), what, mend);
}

template <class T>
T value_of(const std::string& path, const toml::node& node, const std::string& key, const char* what) {
  const std::optional<T> v = node.value_exact<T>();
  if (!v) refuse(path, node, fmt::format("'{}' is not {}", key, what));
  return *v;
}

void read_key(const std::string& path, const std::string& key, const toml::node& node, LinearOperand& o) {
  static const std::vector<std::string> keys = {"format",   "scale",  "tensor_scale", "scale_max", "block",
                                                "rounding", "recipe", "block_2d",     "hadamard"};
  const auto text = [&] { return value_of<std::string>(path, node, key, "text"); };
  const auto number = [&] {
    const auto n = value_of<std::int64_t>(path, node, key, "a whole number");
    if (n < 0 || n > (1 << 20)) refuse(path, node, fmt::format("'{}' is not from 0 to 1048576", key));
    return static_cast<int>(n);
  };
  if (key == "format") o.words.format = text();
  else if (key == "scale") o.words.scale = text();
  else if (key == "tensor_scale") o.words.tensor_scale = text();
  else if (key == "scale_max") o.words.scale_max = number();
  else if (key == "block") o.words.block = number();
  else if (key == "rounding") o.words.rounding = text();
  else if (key == "recipe") o.words.recipe = text();
  else if (key == "block_2d") o.words.tiles = value_of<bool>(path, node, key, "true or false");
  else if (key == "hadamard") o.hadamard = number();
  else refuse(path, node, "unknown key '" + key + "'", suggestion(key, keys));
}

/// The seat of [product.tensor].
std::size_t seat_of(const std::string& path, const toml::node& node, const std::string& product,
                    const std::string& tensor) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < 6; ++i) {
    names.push_back(fmt::format("{}.{}", seats[i].product, seats[i].tensor));
    if (names.back() == product + "." + tensor) return i;
  }
  refuse(path, node, fmt::format("unknown table '{}.{}'", product, tensor), "there are: " + join(names));
}

LinearRecipe read_recipe(const std::string& path) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& e) {
    throw UsageError(path, std::string(e.description()));
  }
  std::vector<LinearOperand> operands;
  for (const Seat& seat : seats) {
    operands.push_back({seat.tensor, seat.transposed, {}, 0});
    operands.back().words.format = "none";
  }
  for (const auto& [product, node] : table) {
    if (!node.is_table()) refuse(path, node, fmt::format("'{}' is no table", product.str()), "write [forward.X]");
    for (const auto& [tensor, keys] : *node.as_table()) {
      const std::size_t seat = seat_of(path, keys, std::string(product.str()), std::string(tensor.str()));
      if (!keys.is_table()) refuse(path, keys, fmt::format("'{}.{}' is no table", product.str(), tensor.str()));
      for (const auto& [key, value] : *keys.as_table()) read_key(path, std::string(key.str()), value, operands[seat]);
    }
  }
  return assemble(path, "operands without a table stay as they are", operands);
}

}  // namespace

std::string LinearOperand::text() const {
  std::string t = tensor + (transposed ? "^T " : " ") + words.format;
  for (const std::string& word : {words.scale, words.rounding}) {
    if (!word.empty()) t += " " + word;
  }
  if (words.block > 0) t += fmt::format(" block {}", words.block);
  if (words.tiles) t += " square blocks";
  if (hadamard > 0) t += fmt::format(" hadamard {}", hadamard);
  return t;
}

std::vector<std::string> linear_recipe_names() {
  std::vector<std::string> names;
  for (const RecipeRow& row : rows) names.emplace_back(row.name);
  return names;
}

LinearRecipe find_linear_recipe(const std::string& name) {
  for (const RecipeRow& row : rows) {
    if (name == row.name) return from_row(row);
  }
  if (name.size() > 5 && name.rfind(".toml") == name.size() - 5) return read_recipe(name);
  throw UsageError("--recipe-config", "unknown name '" + name + "'", suggestion(name, linear_recipe_names()));
}

namespace {

/// An operand's configuration, its matrix in the product's basis, and what became of it.
struct Prepared {
  std::optional<QuantizeConfig> config;
  Matrix matrix;
  std::optional<Quantized> q;
  double rounded = 0;  ///< what bf16 lost where nothing else is done

  bool random() const {
    return config && (config->rounding == formats::Rounding::stochastic || config->method->random());
  }
  Operand operand() const { return {&matrix, q ? &*q : nullptr}; }
  Operand unrounded() const { return {&matrix, random() || !q ? nullptr : &*q}; }
};

/// To the nearest bf16; returns |lost| / |matrix|.
double round_to_bf16(Matrix& m) {
  constexpr formats::Format f = formats::bf16;
  double lost = 0, energy = 0;
  for (float& x : m.data) {
    const double before = x;
    x = formats::round_to(f, x);
    lost += (x - before) * (x - before);
    energy += before * before;
  }
  return energy > 0 ? std::sqrt(lost / energy) : 0;
}

Prepared prepare(const LinearOperand& o, const Matrix& m, const std::string& product) {
  const bool plain = o.words.format == "none" || o.words.format == "bf16";
  Prepared p;
  if (!plain) p.config = parse_config(o.words);
  if (p.config && p.config->method->needs_hessian()) {
    throw UsageError("scale", std::string(p.config->method->name) + " needs the layer's inputs", "another method");
  }
  if (p.config) p.config->stream = name_stream(product + "." + o.tensor);
  const QuantizeConfig config = p.config.value_or(QuantizeConfig{});
  const Transform t = parse_transform(config, o.transposed, o.hadamard != 0, o.hadamard, {});
  p.matrix = apply(t, config, m);
  if (o.words.format == "bf16") p.rounded = round_to_bf16(p.matrix);
  return p;
}

void quantize_at(Prepared& p, const LinearOptions& o, int seed, const std::string& where) {
  if (!p.config || (p.q && !p.random())) return;
  p.config->seed = o.seed + static_cast<std::uint64_t>(seed);
  p.q = quantize(*p.config, p.matrix, where, nullptr, o.stop);
}

double error_of(const Prepared& p) { return p.q ? std::sqrt(measure(p.matrix, *p.q).relative_mse()) : p.rounded; }

/// Sums over seeds of e = returned - exact.
struct SeedSums {
  std::vector<double> exact, sum;
  double squares = 0;

  explicit SeedSums(std::vector<double> exact_) : exact(std::move(exact_)), sum(exact.size()) {}
  double energy() const {
    double e = 0;
    for (const double x : exact) e += x * x;
    return e;
  }
  void add(const std::vector<float>& out) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double e = out[i] - exact[i];
      sum[i] += e;
      squares += e * e;
    }
  }
  double error(int n, double energy) const { return squares == 0 ? 0 : std::sqrt(squares / n / energy); }
  double bias(int n, double energy) const {
    double of_mean = 0;  // |sum|^2 = n^2 |mean|^2
    for (const double s : sum) of_mean += s * s;
    const double square = (of_mean / n - squares / n) / (n - 1);
    return square > 0 ? std::sqrt(square / energy) : 0;
  }
};

std::vector<double> widened(const std::vector<float>& values) { return {values.begin(), values.end()}; }

/// The product of operands whose stochastic ones are not rounded, in real numbers, rounded once.
std::vector<double> expected(const Prepared& a, const Prepared& b) {
  const MatmulConfig in_real_numbers;
  return widened(multiply(a.unrounded(), b.unrounded(), in_real_numbers).out);
}

std::optional<LinearResult> run_product(const LinearOptions& o, const LinearProduct& p, const Matrix& a,
                                        const Matrix& b) {
  if (p.a.hadamard != p.b.hadamard) {
    throw UsageError(p.name, "one operand is rotated and the other isn't", "the same hadamard for both");
  }
  Prepared x = prepare(p.a, a, p.name), y = prepare(p.b, b, p.name);
  const MatmulConfig config = parse_matmul(o.unit, x.config ? &*x.config : nullptr, y.config ? &*y.config : nullptr);
  const int seeds = x.random() || y.random() ? o.seeds : 1;
  SeedSums total(product_in_binary64(p.a.transposed ? transpose(a) : a, p.b.transposed ? transpose(b) : b));
  std::optional<SeedSums> rounding;
  LinearResult r;
  r.name = p.name;
  r.a = p.a.text();
  r.b = p.b.text();
  r.unit = config.unit.name;
  r.seeds = seeds;
  for (int s = 0; s < seeds; ++s) {
    quantize_at(x, o, s, p.name + "." + p.a.tensor);
    quantize_at(y, o, s, p.name + "." + p.b.tensor);
    if (o.stop && *o.stop) return {};
    if (seeds > 1 && !rounding) rounding.emplace(expected(x, y));
    const Product product = multiply(x.operand(), y.operand(), config, o.stop);
    if (o.stop && *o.stop) return {};
    total.add(product.out);
    if (rounding) rounding->add(product.out);
    if (o.progress) o.progress(static_cast<double>(s + 1) / seeds, p.name);
    if (s > 0) continue;
    r.rows = product.rows;
    r.cols = product.cols;
    r.k = x.matrix.cols;
    r.cosine = product.error.cosine();
    r.a_error = error_of(x);
    r.b_error = error_of(y);
    r.accumulation = product.error.relative(of_sum);
    r.shrinkage = product.error.shrinkage(of_sum);
  }
  const double energy = total.energy();
  r.error = total.error(seeds, energy);
  if (seeds > 1) r.bias = total.bias(seeds, energy);
  if (rounding) r.rounding_bias = rounding->bias(seeds, energy);
  return r;
}

Matrix load(const std::string& source, const Notice& notice) {
  const auto [path, tensor] = split_name(source);
  return read_activations(path, tensor, notice);
}

}  // namespace

std::vector<LinearResult> linear_file(const LinearOptions& o) {
  const Matrix x = load(o.input, o.notice), w = load(o.weight, o.notice);
  if (x.cols != w.cols) {
    throw Error(o.weight, fmt::format("{} columns do not fit inputs of {}", w.cols, x.cols),
                "X [tokens, in], W [out, in]");
  }
  Matrix g;
  if (!o.grad.empty()) g = load(o.grad, o.notice);
  if (!o.grad.empty() && (g.rows != x.rows || g.cols != w.rows)) {
    throw Error(o.grad, fmt::format("{}x{} is no gradient of outputs {}x{}", g.rows, g.cols, x.rows, w.rows),
                "G [tokens, out]");
  }
  const auto matrix = [&](const LinearOperand& operand) -> const Matrix& {
    return operand.tensor == "X" ? x : operand.tensor == "W" ? w : g;
  };
  std::vector<LinearResult> results;
  for (const LinearProduct& p : o.recipe.products) {
    if (o.grad.empty() && p.name != "forward") continue;
    const std::optional<LinearResult> r = run_product(o, p, matrix(p.a), matrix(p.b));
    if (!r) return {};
    results.push_back(*r);
  }
  return results;
}

}  // namespace fp4scope::analysis
