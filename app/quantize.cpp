// fp4scope quantize IN -o OUT: tensors to codes and scales, or to the values that they stand for. With --as, a model's
// folder (quantize_model.cpp).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "analysis/device.hpp"
#include "analysis/names.hpp"
#include "analysis/quantize_file.hpp"
#include "app/app.hpp"
#include "app/quantize_model.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

struct Words {
  analysis::QuantizeWords config;
  analysis::QuantizeFileOptions options;
  analysis::QuantizeModelOptions model;
  std::string formats, pad = "zero", device = "cpu";
  std::optional<std::uint64_t> seed;
  TransformWords transform;
  bool tensors_given = false;
};

/// What GPUs took: their threads' steps added up, and the whole by the clock.
struct Seconds {
  analysis::DeviceSeconds steps;
  double wall = 0;
};

/// "-" where there is none, as of a tensor of zeros.
std::string shown(double x, int places) { return std::isnan(x) ? "-" : fmt::format("{:.{}f}", x, places); }

std::string percent(double x) { return shown(100 * x, 3); }

double proved_share(const analysis::QuantizedTensor& t) {
  return static_cast<double>(t.proved) / static_cast<double>(t.blocks);
}

void print_summary(const std::vector<analysis::QuantizedTensor>& tensors, const Words& words, const Seconds& seconds,
                   bool json) {
  const analysis::DeviceSeconds& steps = seconds.steps;
  if (!words.options.devices.empty() && !json) {
    say(
        fmt::format("{}: {:.3f} s, {:.3f} of them to start; in all threads reading {:.3f}, copying {:.3f}, "
                    "computing {:.3f}, writing {:.3f}",
                    analysis::device_text(words.options.devices), seconds.wall, steps.starting, steps.reading,
                    steps.copying, steps.computing, steps.writing));
  }
  if (json) {
    nlohmann::ordered_json j = {{"out", words.options.out}, {"tensors", nlohmann::ordered_json::array()}};
    if (!words.options.devices.empty()) {
      j["device"] = analysis::device_text(words.options.devices);
      j["seconds"] = {{"wall", seconds.wall},     {"starting", steps.starting},   {"reading", steps.reading},
                      {"copying", steps.copying}, {"computing", steps.computing}, {"writing", steps.writing}};
    }
    for (const analysis::QuantizedTensor& t : tensors) {
      nlohmann::ordered_json row = {{"tensor", t.name},
                                    {"rows", t.shape.rows},
                                    {"cols", t.shape.cols},
                                    {"weight_error", t.weight_error},
                                    {"sqnr_db", t.sqnr_db},
                                    {"output_error", t.output_error},
                                    {"bits_per_weight", t.bits_per_weight}};
      if (words.options.config.method->kind == search::MethodKind::closest) row["proved"] = proved_share(t);
      j["tensors"].push_back(row);  // NaN and Inf become null
    }
    fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return;
  }
  std::vector<std::vector<std::string>> rows;
  for (const analysis::QuantizedTensor& t : tensors) {
    rows.push_back({t.name, fmt::format("{}x{}", t.shape.rows, t.shape.cols), percent(t.weight_error),
                    shown(t.sqnr_db, 2), percent(t.output_error),
                    fmt::format("{:.3f}", t.bits_per_weight)});
  }
  std::vector<std::string> head = {"tensor", "shape", "weight error %", "SQNR dB", "output error %", "bits/weight"};
  if (words.options.config.method->kind == search::MethodKind::closest) {
    head.push_back("proved %");
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].push_back(percent(proved_share(tensors[i])));
  }
  fmt::print("{}", text_table(head, rows));
}

/// Options of the plain quantize that a checkpoint has no place for.
void check_model_words(const Words& words) {
  const analysis::QuantizeFileOptions& o = words.options;
  const TransformWords& t = words.transform;
  const std::pair<bool, const char*> given[] = {
      {t.transposed, "--transpose"},              {t.hadamard, "--hadamard"},
      {t.hadamard_size != 0, "--hadamard-size"},  {t.hadamard_seed.has_value(), "--hadamard-seed"},
      {words.config.tiles, "--block-2d"},         {o.certificate, "--certificate"},
      {o.dequantized, "--dequantize"},            {o.fake_quant, "--fake-quant"},
      {o.keep, "--keep"},                         {!o.activations.empty(), "--activations"},
      {words.device != "cpu", "--device"},        {!words.config.nonfinite.empty(), "--nonfinite"}};
  for (const auto& [is_given, name] : given) {
    if (is_given) throw UsageError(name, "has no place with --as", "leave one of them out");
  }
}

int run_model(Words& words, bool json) {
  check_model_words(words);
  std::vector<std::string> layouts = analysis::layout_names();
  layouts.emplace_back("fake");
  analysis::QuantizeModelOptions& o = words.model;
  analysis::ModelWords& w = o.words;
  if (std::find(layouts.begin(), layouts.end(), w.layout) == layouts.end()) {
    throw UsageError("--as", "unknown layout '" + w.layout + "'", analysis::suggestion(w.layout, layouts));
  }
  o.in = w.in = words.options.in;
  o.out = words.options.out;
  o.hessian = words.options.hessian;
  o.formats = words.formats;
  w.words = words.config;
  w.formats = analysis::load_formats(words.formats);
  if (words.tensors_given) w.tensors = words.options.tensors;
  w.exclude = words.options.exclude;
  w.pad_error = words.pad == "error";
  w.seed = words.seed.value_or(1);
  return run_quantize_model(o, json);
}

/// What only --as takes.
void check_file_words(const Words& words) {
  const analysis::QuantizeModelOptions& o = words.model;
  const std::pair<bool, const char*> given[] = {
      {!o.words.overrides.empty(), "--override"}, {!o.words.fuse, "--no-fuse"}, {o.resume, "--resume"}};
  for (const auto& [is_given, name] : given) {
    if (is_given) throw UsageError(name, "is for a model's folder", "--as compressed-tensors, modelopt or fake");
  }
  if (words.config.format.empty()) throw UsageError("--format", "is required", "see fp4scope formats");
}

int run(Words& words, bool json) {
  if (words.pad != "zero" && words.pad != "error") {
    throw UsageError("--pad", "unknown word '" + words.pad + "'", analysis::suggestion(words.pad, {"zero", "error"}));
  }
  if (!words.model.words.layout.empty()) return run_model(words, json);
  check_file_words(words);
  analysis::QuantizeFileOptions& o = words.options;
  if (o.fake_quant && o.dequantized)
    throw UsageError("--fake-quant", "already writes dequantized tensors", "leave --dequantize out");
  o.config = analysis::parse_config(words.config, analysis::load_formats(words.formats));
  if (words.seed && o.config.rounding != formats::Rounding::stochastic && !o.config.method->random()) {
    throw UsageError("--seed", "has no effect without a random choice", "--rounding stochastic");
  }
  o.config.seed = words.seed.value_or(1);
  Seconds seconds;
  const auto start = std::chrono::steady_clock::now();
  const auto since = [&start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  o.devices = analysis::parse_device(words.device);
  const double found = since();
  const TransformWords& t = words.transform;
  o.transform = analysis::parse_transform(o.config, t.transposed, t.hadamard, t.hadamard_size, t.hadamard_seed);
  o.pad_error = words.pad == "error";
  o.tool = tool();
  o.notice = say;
  o.seconds = &seconds.steps;
  catch_signals();
  o.stop = &stop_flag();
  std::vector<analysis::QuantizedTensor> tensors;
  {
    Progress progress;
    o.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    tensors = analysis::quantize_file(o);
  }
  if (tensors.empty()) return interrupted();
  seconds.wall = since();
  seconds.steps.starting += found;
  print_summary(tensors, words, seconds, json);
  return 0;
}

void add_model_options(CLI::App& command, Words& words) {
  analysis::QuantizeModelOptions& o = words.model;
  command
      .add_option("--as", o.words.layout,
                  "a model's folder to one that loaders open: compressed-tensors, modelopt; or fake, the values alone")
      ->type_name("LAYOUT");
  command
      .add_option("--override", o.words.overrides,
                  "--as: other words for some weights: format, block, scale, select, tensor-scale, recipe; or keep")
      ->allow_extra_args(false)
      ->type_name("GLOB=KEY:VALUE,...");
  command.add_flag_callback("--no-fuse", [&fuse = o.words.fuse] { fuse = false; },
                             "--as: q_proj, k_proj, v_proj and the like get a tensor scale each");
  command.add_flag("--resume", o.resume, "--as: go on from OUT.partial");
}

}  // namespace

void add_quantize(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("quantize", "tensors of a file to codes and scales");
  auto words = std::make_shared<Words>();
  analysis::QuantizeFileOptions& o = words->options;
  command
      ->add_option("IN", o.in, "safetensors (also sharded or a folder), .npy or .h5; --as: a model's folder")
      ->required()
      ->type_name("");
  command->add_option("-o,--output", o.out, "a safetensors file; with --as a folder")->required()->type_name("OUT");
  add_model_options(*command, *words);
  command
      ->add_option("--format", words->config.format,
                   analysis::join(analysis::format_names(), " ") + ", or one of --formats (--as: default nvfp4)")
      ->type_name("F");
  command->add_option("--formats", words->formats, "your own: [format.NAME] levels = [...], scale = \"...\", block = N")
      ->type_name("TOML");
  command->add_option("--block", words->config.block, "elements that share a scale (default: the format's)")
      ->type_name("N");
  command->add_option("--scale", words->config.scale, "the method: see fp4scope formats (default naive)")
      ->type_name("METHOD");
  command
      ->add_option("--tensor-scale", words->config.tensor_scale,
                   "amax, none, search, headroom, soar or a number (default: the format's)")
      ->type_name("T");
  command->add_option("--scale-max", words->config.scale_max, "the block scale that amax aims at")->type_name("N");
  command->add_option("--select", words->config.select, "mse, mae or absmax, where a block has candidates")
      ->type_name("S");
  command->add_option("--nonfinite", words->config.nonfinite, "refuse, or propagate: such blocks become NaN")
      ->type_name("W");
  command->add_option("--tensor", o.tensors, "what to quantize (default *; --as: matrices *.weight of linear layers)")
      ->allow_extra_args(false)
      ->each([words](const std::string&) { words->tensors_given = true; })
      ->type_name("GLOB");
  command->add_option("--exclude", o.exclude, "what not to")->allow_extra_args(false)->type_name("GLOB");
  command->add_option("--activations", o.activations, "[tokens, cols], for Hessian methods and the output error")
      ->type_name("FILE:NAME");
  command
      ->add_option("--hessian", o.hessian,
                   "H = X^T X in their stead: [cols, cols], [cols / block, block, block] or [cols]; --as: a file or "
                   "folder with H by the weights' names")
      ->type_name("FILE:NAME");
  command->add_option("--damping", words->config.damping, "gptq's share of H's mean diagonal (default 0.01)")
      ->type_name("D");
  command
      ->add_option("--node-limit", words->config.node_limit,
                   "of a block's search for scale and elements together (default 100000)")
      ->type_name("N");
  command->add_option("--pad", words->pad, "zero or error, for columns that the block doesn't divide")->type_name("W");
  command->add_flag("--keep", o.keep, "copy the tensors that are not quantized");
  command->add_flag("--dequantize", o.dequantized, "add T.dequantized");
  command->add_flag("--fake-quant", o.fake_quant,
                    "write dequantized tensors under their own names and dtypes, all else copied");
  command
      ->add_option("--recipe", words->config.recipe, "whose order of operations: see fp4scope recipes (default exact)")
      ->type_name("R");
  command
      ->add_option("--rounding", words->config.rounding,
                   "of elements: rne, stochastic or stochastic_unbiased; microxcaling: rna, rtz or rne")
      ->type_name("W");
  command->add_option("--seed", words->seed, "of stochastic rounding (default 1)")
      ->check(refuse_negative)
      ->type_name("N");
  command->add_flag("--block-2d", words->config.tiles, "square blocks: one scale for block x block values");
  add_transform(*command, words->transform);
  command->add_flag("--certificate", o.certificate,
                    "add proofs that sse's, exhaustive's or hessian's scales are optimal: see fp4scope verify");
  add_device(*command, words->device);
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
