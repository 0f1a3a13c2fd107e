#include "analysis/crosscheck.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "analysis/explain.hpp"
#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

/// The first difference of a block, explained.
Difference explain(const RecipeRun& one, const RecipeRun& other, const Quantized& p, const Quantized& q,
                   const Matrix& m, const std::string& input, std::int64_t row, std::int64_t block) {
  const int n = p.config.block, code = p.scale_code(row, block), other_code = q.scale_code(row, block);
  const float* const x = m.row(row) + block * n;
  if (code != other_code) {
    return {input, row, block, -1, explain_scale(one, other, p.amax, sim::amax(x, n), code, other_code)};
  }
  const std::uint8_t* const codes = p.codes.data() + row * p.cols + block * n;
  const std::uint8_t* const other_codes = q.codes.data() + row * p.cols + block * n;
  const auto first = std::mismatch(codes, codes + n, other_codes).first - codes;
  const auto s = formats::decode_float(p.config.format->scale, static_cast<std::uint32_t>(code));
  return {input, row, block, first, explain_code(one, other, p.amax, s, x[first], codes[first], other_codes[first])};
}

bool same(double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); }

/// Of the first n elements of a block, those whose exact products differ.
std::int64_t different_values(const Quantized& p, const Quantized& q, std::int64_t row, std::int64_t block,
                              std::int64_t n) {
  const double step = p.step(row, block), other_step = q.step(row, block);
  std::int64_t count = 0;
  const std::int64_t first = row * p.cols + block * p.config.block;
  for (std::int64_t i = first; i < first + n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    count += !same(sim::dequantize(*p.config.format, p.codes[at], step),
                   sim::dequantize(*q.config.format, q.codes[at], other_step));
  }
  return count;
}

/// Compares two results of one padded matrix and adds to their counts; returns how many blocks differ. Columns from
/// `cols` on are padding, which is outside every count.
std::int64_t compare(const RecipeRun& one, const RecipeRun& other, const Quantized& p, const Quantized& q,
                     const Matrix& m, std::int64_t cols, const std::string& input, PairCount& count) {
  const int block = p.config.block;
  std::int64_t blocks = 0;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    for (std::int64_t b = 0; b < p.blocks_per_row(); ++b) {
      const std::uint8_t* const codes = p.codes.data() + r * p.cols + b * block;
      const std::uint8_t* const other_codes = q.codes.data() + r * p.cols + b * block;
      const std::int64_t n = std::min<std::int64_t>(block, cols - b * block);
      std::int64_t different = 0;
      for (std::int64_t i = 0; i < n; ++i) different += codes[i] != other_codes[i];
      const bool scales = p.scale_code(r, b) != q.scale_code(r, b);
      if (scales || different > 0 || p.tensor_scale != q.tensor_scale) {
        count.values_differ += different_values(p, q, r, b, n);
      }
      if (!scales && different == 0) continue;
      ++blocks;
      count.scales_differ += scales;
      count.codes_differ += different;
      if (!count.example) count.example = explain(one, other, p, q, m, input, r, b);
    }
  }
  count.elements += p.rows * cols;
  count.blocks += p.block_count();
  count.blocks_differ += blocks;
  return blocks;
}

/// Sums over inputs, for the standard error of their mean share.
struct Spread {
  std::int64_t inputs = 0;
  double sum = 0, squares = 0;

  void add(double share) {
    ++inputs;
    sum += share;
    squares += share * share;
  }
  double standard_error() const {
    if (inputs < 2) return 0;
    const auto n = static_cast<double>(inputs);
    return std::sqrt(std::max(0.0, squares - sum * sum / n) / (n - 1) / n);
  }
};

/// The runs that are asked for. Throws UsageError.
std::vector<RecipeRun> chosen_runs(const CrosscheckOptions& options) {
  std::vector<RecipeRun> runs = recipe_runs(options.format);
  std::vector<std::string> names;
  for (const RecipeRun& run : runs) names.push_back(run.name);
  for (const std::string& name : options.only) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      throw UsageError("--recipe", "no recipe '" + name + "' for " + options.format, suggestion(name, names));
    }
  }
  if (!options.only.empty()) {
    std::erase_if(runs, [&](const RecipeRun& run) {
      return std::find(options.only.begin(), options.only.end(), run.name) == options.only.end();
    });
  }
  if (runs.size() < 2 && options.only.empty()) {
    throw UsageError("--format", options.format + " has one order of operations alone, exact's",
                     "see fp4scope recipes");
  }
  if (runs.size() < 2) throw UsageError("--recipe", "fewer than two recipes to compare", "give two, or none for all");
  return runs;
}

/// All pairs of one dtype.
std::vector<PairCount> make_pairs(const std::vector<RecipeRun>& runs, const std::string& dtype) {
  std::vector<PairCount> pairs;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (std::size_t j = i + 1; j < runs.size(); ++j) {
      pairs.emplace_back();
      pairs.back().first = runs[i].name;
      pairs.back().second = runs[j].name;
      pairs.back().dtype = dtype;
    }
  }
  return pairs;
}

}  // namespace

std::vector<RecipeRun> recipe_runs(const std::string& format) {
  std::vector<RecipeRun> runs = {{"exact", parse_config({format, "naive", "", "", "", 0, 0})}};
  for (const sim::Recipe& r : sim::all_recipes) {
    const std::string methods = r.methods;
    const std::string method = methods.substr(0, methods.find(' '));
    if (format != r.format || r.candidates != sim::Candidates::one || method == "static4") continue;
    QuantizeWords words = {format, method, "", "", "", 0, 0};
    words.recipe = r.name;
    runs.push_back({method == "naive" ? r.name : r.name + (" " + method), parse_config(words)});
  }
  return runs;
}

std::vector<CrosscheckInput> default_crosscheck_inputs() {
  std::vector<CrosscheckInput> inputs;
  for (const char* dtype : {"bf16", "f32"}) {
    for (std::uint64_t seed = 1; seed <= 200; ++seed) {
      Distribution d;
      d.rows = d.cols = 256;
      d.sigma = 0.02;
      d.seed = seed;
      d.dtype = dtype;
      const std::string name = fmt::format("normal {} {}", seed, dtype);
      inputs.push_back({name, name, [d] { return sample(d); }, dtype == std::string("bf16") ? "BF16" : "F32"});
    }
  }
  return inputs;
}

std::vector<PairCount> crosscheck_recipes(const CrosscheckOptions& options,
                                          const std::vector<CrosscheckInput>& inputs) {
  const std::vector<RecipeRun> runs = chosen_runs(options);
  std::vector<std::pair<std::size_t, std::size_t>> index;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (std::size_t j = i + 1; j < runs.size(); ++j) index.emplace_back(i, j);
  }
  std::vector<PairCount> pairs;
  std::vector<Spread> spread;
  std::map<std::string, std::size_t> first_of;  // of each dtype, in `pairs`
  for (std::size_t n = 0; n < inputs.size(); ++n) {
    if (options.stop && *options.stop) return {};
    const CrosscheckInput& input = inputs[n];
    if (first_of.emplace(input.dtype, pairs.size()).second) {
      const std::vector<PairCount> more = make_pairs(runs, input.dtype);
      pairs.insert(pairs.end(), more.begin(), more.end());
      spread.resize(pairs.size());
    }
    const std::size_t first = first_of[input.dtype];
    const Matrix loaded = input.load();
    const std::string bad = describe_nonfinite(loaded);
    if (!bad.empty()) throw Error(input.where, bad, "recipes differ on it by definition: leave it out with --tensor");
    const Matrix m = pad_columns(loaded, runs[0].config.block);
    if (m.cols != loaded.cols && options.notice) {
      options.notice(fmt::format("{}: {} columns padded with zeros to {}", input.name, loaded.cols, m.cols));
    }
    std::vector<Quantized> results;
    for (const RecipeRun& run : runs) results.push_back(quantize(run.config, m, input.name));
#pragma omp parallel for schedule(dynamic, 1)
    for (std::size_t k = 0; k < index.size(); ++k) {
      const auto [i, j] = index[k];
      const std::int64_t blocks =
          compare(runs[i], runs[j], results[i], results[j], m, loaded.cols, input.name, pairs[first + k]);
      spread[first + k].add(static_cast<double>(blocks) / static_cast<double>(results[i].block_count()));
    }
    if (options.progress) options.progress(static_cast<double>(n + 1) / static_cast<double>(inputs.size()), input.name);
  }
  for (std::size_t k = 0; k < pairs.size(); ++k) pairs[k].blocks_differ_error = spread[k].standard_error();
  return pairs;
}

io::Table crosscheck_table(const std::vector<PairCount>& pairs) {
  io::Table table;
  table.columns = {{"first", "", "a recipe"},
                   {"second", "", "another recipe"},
                   {"dtype", "", "of the inputs"},
                   {"blocks", "1", "blocks compared"},
                   {"elements", "1", "elements compared"},
                   {"scales_differ", "1", "blocks whose scale bytes differ"},
                   {"blocks_differ", "1", "blocks whose scale bytes or codes differ"},
                   {"blocks_differ_error", "1", "standard error of their share, over inputs"},
                   {"codes_differ", "1", "elements whose codes differ"},
                   {"values_differ", "1", "elements whose values (exact products) differ"},
                   {"example", "", "the first difference, explained"}};
  for (const PairCount& p : pairs) {
    std::string example;
    if (p.example) {
      example = fmt::format("{}, row {}, block {}{}\n{}", p.example->input, p.example->row, p.example->block,
                            p.example->column < 0 ? "" : fmt::format(", element {}", p.example->column),
                            p.example->explanation);
    }
    table.rows.push_back({p.first, p.second, p.dtype, p.blocks, p.elements, p.scales_differ, p.blocks_differ,
                          p.blocks_differ_error, p.codes_differ, p.values_differ, example});
  }
  return table;
}

}  // namespace fp4scope::analysis
