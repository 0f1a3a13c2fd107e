// fp4scope matmul A B --format F --arch U: the product that a unit returns, and its error by part.
#include "analysis/matmul_file.hpp"

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;

struct Words {
  analysis::QuantizeWords a, b;
  bool b_tiles = false;
  analysis::MatmulWords product;
  analysis::MatmulFileOptions options;
  std::string formats;
  std::optional<std::uint64_t> seed;
};

/// B's words are A's where it has none of its own.
void complete(Words& w) {
  const auto take = [](auto& own, const auto& other, const auto& none) {
    if (own == none) own = other;
  };
  const bool same_format = w.b.format.empty() || w.b.format == w.a.format;
  take(w.b.format, w.a.format, "");
  if (!same_format) return;
  take(w.b.scale, w.a.scale, "");
  take(w.b.tensor_scale, w.a.tensor_scale, "");
  take(w.b.select, w.a.select, "");
  take(w.b.recipe, w.a.recipe, "");
  take(w.b.rounding, w.a.rounding, "");
  take(w.b.block, w.a.block, 0);
  take(w.b.scale_max, w.a.scale_max, 0);
  w.b.tiles = w.a.tiles || w.b_tiles;
}

std::optional<analysis::QuantizeConfig> config_of(const Words& w, const analysis::QuantizeWords& side,
                                                  const analysis::Formats& formats) {
  if (side.format == "none") return {};
  analysis::QuantizeConfig c = analysis::parse_config(side, formats);
  if (c.method->needs_hessian()) {
    throw UsageError("--scale", std::string(c.method->name) + " needs the layer's inputs", "quantize, then multiply");
  }
  c.seed = w.seed.value_or(1);
  return c;
}

/// Runs `parse`, whose complaints about --X are about B's --b-X: what B has from A was parsed without complaint.
template <class Parse>
auto own_words(const Parse& parse) {
  try {
    return parse();
  } catch (const UsageError& e) {
    const std::string line = e.what();
    if (line.rfind("--", 0) != 0) throw;
    throw UsageError("--b-" + line.substr(2, line.size() - e.problem.size() - 4), e.problem);
  }
}

std::string percent(double x) { return std::isnan(x) ? "-" : fmt::format("{:.4g}", 100 * x); }

Json to_json(const analysis::MatmulResult& r, const analysis::MatmulConfig& c) {
  const analysis::ProductError& e = r.product.error;
  Json parts;
  for (int p = 0; p < analysis::product_part_count; ++p) {
    parts[analysis::product_part_names[p]] = {{"relative", e.relative(p)}, {"shrinkage", e.shrinkage(p)}};
  }
  return {{"rows", r.product.rows},
          {"cols", r.product.cols},
          {"k", r.k},
          {"arch", c.unit.arch},
          {"instruction", c.unit.name},
          {"alpha", r.product.alpha},
          {"a_error", r.a_error},
          {"b_error", r.b_error},
          {"relative_error", e.relative()},
          {"cosine", e.cosine()},
          {"energy", e.energy},
          {"error", e.error},
          {"names", analysis::product_part_names},
          {"inner", e.inner},
          {"rest", e.rest()},
          {"parts", parts},
          {"proved", r.product.proved}};
}

void print(const analysis::MatmulResult& r, const analysis::MatmulConfig& c) {
  const analysis::ProductError& e = r.product.error;
  fmt::print("[{}, {}] of K = {}, {}: error {} %, cosine {}; A's {} %, B's {} %\n", r.product.rows,
             r.product.cols, r.k, c.unit.name, percent(e.relative()), std::isnan(e.cosine()) ? "-" : fmt::format("{:.9g}", e.cosine()),
             percent(r.a_error), percent(r.b_error));
  std::vector<std::vector<std::string>> rows;
  for (int p = 0; p < analysis::product_part_count; ++p) {
    rows.push_back({analysis::product_part_names[p], percent(e.relative(p)), percent(e.shrinkage(p))});
  }
  fmt::print("{}", text_table({"part", "of |A B^T| %", "shrinkage %"}, rows));
  if (!std::isfinite(e.rest())) return;
  fmt::print("squares and twice the inner products of the parts add up to the error within {:.1g} of it\n", e.rest());
}

int run(Words& words, bool json) {
  complete(words);
  const analysis::Formats formats = analysis::load_formats(words.formats);
  analysis::MatmulFileOptions& o = words.options;
  o.a.config = config_of(words, words.a, formats);
  o.b.config = own_words([&] { return config_of(words, words.b, formats); });
  const auto is_random = [](const std::optional<analysis::QuantizeConfig>& c) {
    return c && (c->rounding == formats::Rounding::stochastic || c->method->random());
  };
  if (words.seed && !is_random(o.a.config) && !is_random(o.b.config)) {
    throw UsageError("--seed", "has no effect without a random choice", "--rounding stochastic");
  }
  o.config = analysis::parse_matmul(words.product, o.a.config ? &*o.a.config : nullptr,
                                    o.b.config ? &*o.b.config : nullptr);
  o.tool = tool();
  o.notice = say;
  catch_signals();
  o.stop = &stop_flag();
  std::optional<analysis::MatmulResult> result;
  {
    Progress progress;
    o.progress = [&progress](double done) { progress(done, "multiply"); };
    result = analysis::matmul_file(o);
  }
  if (!result) return interrupted();
  if (json) fmt::print("{}\n", to_json(*result, o.config).dump(2));
  else print(*result, o.config);
  return 0;
}

void add_side(CLI::App& command, const std::string& prefix, const std::string& whose, analysis::QuantizeWords& words,
              bool& tiles) {
  const auto add = [&](const std::string& name, auto& to, const std::string& what, const char* type) {
    command.add_option("--" + prefix + name, to, whose + what)->type_name(type);
  };
  add("block", words.block, "elements that share a scale", "N");
  add("scale", words.scale, "the method: see fp4scope formats", "METHOD");
  add("tensor-scale", words.tensor_scale, "as quantize has it", "T");
  add("scale-max", words.scale_max, "the block scale that amax aims at", "N");
  add("select", words.select, "mse, mae or absmax", "S");
  add("recipe", words.recipe, "see fp4scope recipes", "R");
  add("rounding", words.rounding, "of elements", "W");
  command.add_flag("--" + prefix + "block-2d", tiles, whose + "square blocks");
}

}  // namespace

void add_matmul(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("matmul", "A B^T of two quantized operands, as a matrix unit returns it");
  auto words = std::make_shared<Words>();
  command->add_option("A", words->options.a.source, "FILE:NAME, [M, K]: the inputs")->required()->type_name("");
  command->add_option("B", words->options.b.source, "FILE:NAME, [N, K]: the weights, K along the rows as A has it")
      ->required()
      ->type_name("");
  command->add_option("-o,--output", words->options.out, "a safetensors file for `out` [M, N]")->type_name("OUT");
  command->add_option("--format", words->a.format, "of both: see fp4scope formats; none: as it is")
      ->required()
      ->type_name("F");
  command->add_option("--b-format", words->b.format, "B's own")->type_name("F");
  command->add_option("--formats", words->formats, "your own: [format.NAME] levels = [...], scale = \"...\", block = N")
      ->type_name("TOML");
  add_side(*command, "", "", words->a, words->a.tiles);
  add_side(*command, "b-", "B's own: ", words->b, words->b_tiles);
  command->add_option("--seed", words->seed, "of stochastic rounding (default 1)")
      ->check(refuse_negative)
      ->type_name("N");
  command->add_option("--arch", words->product.arch, analysis::join(analysis::arch_names(), ", ") + " (default exact)")
      ->type_name("ARCH");
  command->add_option("--instruction", words->product.instruction,
                      "of that arch, as fp4scope mma names it; fma or mul_add of fp32 (default: the one that fits)")
      ->type_name("NAME");
  command->add_option("--k-order", words->product.k_order, "forward, reverse, or split:N (default forward)")
      ->type_name("W");
  command->add_option("--promote", words->product.promote, "move sums into fp32 after every N products")
      ->type_name("N");
  command->add_option("--alpha", words->product.alpha,
                      "how the epilogue's factor is computed: product, te, fouroversix or reciprocal")
      ->type_name("W");
  command->add_option("--out-dtype", words->product.out_dtype, "f32, bf16 or f16 (default f32)")->type_name("T");
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
