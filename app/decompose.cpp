// fp4scope decompose IN --format F ...: why the values of a tensor are wrong, in words or as JSON.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/diagnosis.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t shown = 5;  // tensors whose paragraph is printed

struct Words {
  analysis::DecomposeOptions options;
  std::string formats;
  std::optional<std::uint64_t> seed;
  TransformWords transform;
  bool all = false;
};

Json to_json(const analysis::Terms& t) {
  Json j = {{"names", analysis::term_names},
            {"energy", t.energy},
            {"error", t.error},
            {"inner", t.inner},
            {"elements", t.elements},
            {"dead", t.dead},
            {"clipped", t.clipped},
            {"zeros", t.zeros},
            {"blocks", t.blocks},
            {"log_inflation", t.log_inflation},
            {"adds_up", t.adds_up}};
  return j;
}

Json to_json(const analysis::Causes& c) {
  std::vector<double> alone;
  for (int i = 0; i < analysis::cause_count; ++i) alone.push_back(c.alone(static_cast<analysis::Cause>(i)));
  return {{"names", analysis::cause_names}, {"chain", c.chain},         {"alone", alone},
          {"average", c.shapley()},         {"in_order", c.in_order()}, {"remaining", c.remaining}};
}

Json to_json(const analysis::Profile& p) {
  return {{"count", p.count}, {"sse", p.sse}, {"energy", p.energy}, {"bias", p.bias}};
}

Json to_json(const analysis::Places& p) {
  return {{"shrinkage", p.shrinkage()},
          {"code", to_json(p.by_code)},
          {"ratio", to_json(p.by_ratio)},
          {"position", to_json(p.by_position)},
          {"column", to_json(p.by_column)},
          {"row", to_json(p.by_row)},
          {"scale_code", to_json(p.by_scale_code)}};
}

Json to_json(const analysis::LayerError& l) {
  return {{"names", analysis::layer_term_names},
          {"energy", l.energy},
          {"error", l.error},
          {"inner", l.inner},
          {"dot_snr_db", l.dot_snr_db()}};
}

Json to_json(const analysis::Decomposition& d) {
  const analysis::Diagnosis words = analysis::diagnose(d);
  Json remedies = Json::array();
  for (const analysis::Remedy& r : d.remedies) remedies.push_back({{"words", r.words}, {"sse", r.sse}});
  Json j = {{"tensor", d.name},
            {"rows", d.shape.rows},
            {"cols", d.shape.cols},
            {"relative_mse", d.metrics.relative_mse()},
            {"energy", d.metrics.energy},
            {"sse", d.metrics.sse},
            {"max_error", d.metrics.max_error},
            {"output_error", d.metrics.output_error},
            {"scales",
             {{"blocks", d.scales.blocks},
              {"subnormal", d.scales.subnormal},
              {"zero", d.scales.zero},
              {"largest", d.scales.largest}}},
            {"remedies", remedies},
            {"terms", to_json(d.terms)},
            {"causes", to_json(d.causes)},
            {"places", to_json(d.places)}};
  if (d.layer) j["layer"] = to_json(*d.layer);
  j["headline"] = words.headline;
  j["diagnosis"] = words.causes;
  for (const auto* more : {&words.places, &words.layer}) {
    for (const std::string& sentence : *more) j["diagnosis"].push_back(sentence);
  }
  return j;
}

/// Lines under a headline.
std::string indented(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    out += "  " + text.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return out;
}

void print(const std::vector<std::string>& sentences) {
  for (const std::string& s : sentences) fmt::print("  {}\n", printable(s));
}

void print(const analysis::WordTable& table, const std::string& note) {
  if (!table.rows.empty()) fmt::print("\n{}  {}\n", indented(text_table(table.head, table.rows)), note);
}

void print_paragraph(const analysis::Decomposition& d) {
  const analysis::Diagnosis words = analysis::diagnose(d);
  fmt::print("{}\n", printable(words.headline));
  print(words.causes);
  print(words.steps,
        "what would vanish of the squared error; average: over all orders; in order: from the top; both add up to 100");
  print(words.terms, "these add up to 100; the terms overlap, so none is a share");
  if (!words.places.empty()) fmt::print("\n");
  print(words.places);
  print(words.layer);
  print(words.outputs, "these add up to 100");
}

void print_all(const std::vector<analysis::Decomposition>& tensors, bool all) {
  if (tensors.size() > 1) {
    const analysis::WordTable table = analysis::overview(tensors);
    fmt::print("{}", text_table(table.head, table.rows));
    if (!all && tensors.size() > shown)
      fmt::print("\nthe {} worst of {} (--all for every one):\n", shown, tensors.size());
  }
  bool first = tensors.size() == 1;
  for (const std::size_t i : analysis::worst(tensors, all ? tensors.size() : shown)) {
    fmt::print("{}", first ? "" : "\n");
    print_paragraph(tensors[i]);
    first = false;
  }
}

int run(Words& words, bool json) {
  analysis::DecomposeOptions& o = words.options;
  o.config = analysis::parse_config(o.words, analysis::load_formats(words.formats));
  if (o.config.method->corrects()) {
    throw UsageError("--scale", std::string(o.config.method->name) + "'s values are not codes times scales",
                     "a sweep measures them");
  }
  if (words.seed && o.config.rounding != formats::Rounding::stochastic && !o.config.method->random()) {
    throw UsageError("--seed", "has no effect without a random choice", "--rounding stochastic");
  }
  o.config.seed = words.seed.value_or(1);
  const TransformWords& t = words.transform;
  o.transform = analysis::parse_transform(o.config, t.transposed, t.hadamard, t.hadamard_size, t.hadamard_seed);
  o.notice = say;
  catch_signals();
  o.stop = &stop_flag();
  std::vector<analysis::Decomposition> tensors;
  {
    Progress progress;
    o.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    tensors = analysis::decompose_file(o);
  }
  if (tensors.empty()) return interrupted();
  if (!json) {
    print_all(tensors, words.all);
    return 0;
  }
  Json j = {{"in", o.in}, {"tensors", Json::array()}};
  for (const analysis::Decomposition& d : tensors) j["tensors"].push_back(to_json(d));  // NaN and Inf become null
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
  return 0;
}

}  // namespace

void add_decompose(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("decompose", "why values are wrong: by term, by step, by place, in words");
  auto words = std::make_shared<Words>();
  analysis::DecomposeOptions& o = words->options;
  command->add_option("IN", o.in, "safetensors (also sharded or a folder), .npy or .h5")->required()->type_name("");
  command->add_option("--format", o.words.format, "see fp4scope formats, or one of --formats")
      ->required()
      ->type_name("F");
  command->add_option("--formats", words->formats, "your own: [format.NAME] levels = [...], scale = \"...\", block = N")
      ->type_name("TOML");
  command->add_option("--block", o.words.block, "elements that share a scale (default: the format's)")->type_name("N");
  command->add_option("--scale", o.words.scale, "the method: see fp4scope formats (default naive)")
      ->type_name("METHOD");
  command
      ->add_option("--tensor-scale", o.words.tensor_scale,
                   "amax, none, search, headroom, soar or a number (default: the format's)")
      ->type_name("T");
  command->add_option("--scale-max", o.words.scale_max, "the block scale that amax aims at")->type_name("N");
  command->add_option("--select", o.words.select, "mse, mae or absmax, where a block has candidates")->type_name("S");
  command->add_option("--recipe", o.words.recipe, "whose order of operations: see fp4scope recipes (default exact)")
      ->type_name("R");
  command->add_option("--rounding", o.words.rounding, "of elements, as quantize has it")->type_name("W");
  command->add_option("--seed", words->seed, "of stochastic rounding (default 1)")
      ->check(refuse_negative)
      ->type_name("N");
  command->add_flag("--block-2d", o.words.tiles, "square blocks: one scale for block x block values");
  command->add_option("--tensor", o.tensors, "which tensors (default *)")->allow_extra_args(false)->type_name("GLOB");
  command->add_option("--exclude", o.exclude, "which not")->allow_extra_args(false)->type_name("GLOB");
  command->add_option("--activations", o.activations, "[tokens, cols], for Hessian methods and the output error")
      ->type_name("FILE:NAME");
  add_transform(*command, words->transform);
  command->add_flag("--all", words->all, "every tensor's paragraph, not only the five worst");
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
