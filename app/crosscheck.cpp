// fp4scope crosscheck --recipes [IN]: how many scales, codes and values any two recipes differ in, and why; for an
// element, how many of all floats any two converters code differently. --against: crosscheck_against.cpp.
#include "analysis/crosscheck.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "analysis/crosscheck_converters.hpp"
#include "analysis/crosscheck_device.hpp"
#include "analysis/encode.hpp"
#include "analysis/names.hpp"
#include "analysis/tensors.hpp"
#include "app/crosscheck.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::app {
namespace {

using analysis::PairCount;
using Json = nlohmann::ordered_json;

struct Words {
  std::string in, out;
  std::vector<std::string> tensors = {"*"};
  bool recipes = false, brief = false;
  analysis::CrosscheckOptions options;
  DeviceCrosscheckWords on_device;
  analysis::AgainstFiles against;
  std::vector<std::string> given;  ///< options on the command line
};

/// A file's tensors, read when their turn comes.
std::vector<analysis::CrosscheckInput> file_inputs(const Words& words) {
  const std::shared_ptr<const io::TensorFile> file = io::open_tensors(words.in);
  std::vector<analysis::CrosscheckInput> inputs;
  for (const io::TensorInfo& t : file->tensors()) {
    if (!analysis::selected(t.name, words.tensors, {})) continue;
    const std::string obstacle = analysis::why_not(t);
    if (!obstacle.empty()) {
      say(t.name + " skipped, " + obstacle);
      continue;
    }
    inputs.push_back(
        {t.name, words.in + ": " + t.name, [file, &t] { return analysis::read_matrix(*file, t, say); }, t.dtype.name});
  }
  if (inputs.empty()) {
    throw Error(words.in, "no tensor is matched by " + analysis::join(words.tensors),
                "see the words above, or other --tensor");
  }
  return inputs;
}

std::string share(std::int64_t part, std::int64_t whole) {
  if (part == 0) return "0";
  return fmt::format("{:.3g}%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

/// One line a recipe: how it differs from `reference`.
void print_against(const std::vector<PairCount>& pairs, const std::string& reference) {
  std::vector<std::vector<std::string>> rows;
  for (const PairCount& p : pairs) {
    if (p.first != reference && p.second != reference) continue;
    rows.push_back({p.first == reference ? p.second : p.first, p.dtype, fmt::format("{}", p.blocks),
                    share(p.scales_differ, p.blocks),
                    share(p.blocks_differ, p.blocks) + fmt::format(" +- {:.1g}%", 100 * p.blocks_differ_error),
                    share(p.codes_differ, p.elements), share(p.values_differ, p.elements)});
  }
  if (rows.empty()) return;
  fmt::print("\nagainst {}\n{}", reference,
             text_table({"recipe", "dtype", "blocks", "scales", "blocks differ", "codes", "values"}, rows));
}

void print_text(const std::vector<PairCount>& pairs, bool brief) {
  for (const char* reference : {"exact", "rational"}) print_against(pairs, reference);
  if (brief) return;
  for (const PairCount& p : pairs) {
    fmt::print("\n{} and {}, {}: {} of {} scales, {} of {} codes, {} values differ\n", p.first, p.second, p.dtype,
               p.scales_differ, p.blocks, p.codes_differ, p.elements, p.values_differ);
    if (!p.example) continue;
    const std::string element = p.example->column < 0 ? "" : fmt::format(", element {}", p.example->column);
    fmt::print("  first in {}, row {}, block {}{}\n{}\n", printable(p.example->input), p.example->row, p.example->block,
               element, p.example->explanation);
  }
}

void print_json(const io::Table& table) {
  Json j;
  for (const std::vector<io::Cell>& row : table.rows) {
    Json cells;
    for (std::size_t i = 0; i < row.size(); ++i) {
      std::visit([&](const auto& value) { cells[table.columns[i].name] = value; }, row[i]);
    }
    j["pairs"].push_back(cells);
  }
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

void write(const Words& words, const io::Table& table, const std::string& inputs) {
  write_crosscheck(words.out, "crosscheck recipes", table, {{"format", words.options.format}, {"inputs", inputs}});
}

/// Element converters on all floats.
int run_converters(const Words& words, bool json) {
  if (!words.in.empty())
    throw UsageError("crosscheck", "an element's converters are compared on all floats", "leave IN out");
  if (!words.options.only.empty()) throw UsageError("--recipe", "has no effect on an element's converters");
  if (!words.out.empty()) static_cast<void>(io::AtomicFile(words.out));
  catch_signals();
  std::vector<analysis::ConverterPair> pairs;
  {
    Progress progress;
    pairs = analysis::crosscheck_converters(
        words.options.format, [&](double done) { progress(done, words.options.format); }, &stop_flag());
  }
  if (stop_flag()) return interrupted();
  const io::Table table = analysis::converters_table(pairs);
  if (!words.out.empty()) write(words, table, "all binary32 patterns");
  if (json) {
    print_json(table);
    return 0;
  }
  std::vector<std::vector<std::string>> rows;
  for (const analysis::ConverterPair& p : pairs) {
    rows.push_back({p.first, p.second, fmt::format("{}", p.finite), fmt::format("{}", p.zero),
                    fmt::format("{}", p.infinite), fmt::format("{}", p.nan), analysis::example_text(p)});
  }
  fmt::print("{}: codes that differ, of 2^32 binary32 patterns, each recipe by its defaults\n{}", words.options.format,
             text_table({"recipe", "and", "finite", "zeros", "Inf", "NaN", "first finite"}, rows));
  return 0;
}

bool given(const Words& words, const std::string& option) {
  return std::find(words.given.begin(), words.given.end(), option) != words.given.end();
}

/// The words that --against shares with --recipes.
int run_shared_against(const Words& words, bool json) {
  if (words.recipes) throw UsageError("--recipes", "and --against are two different comparisons", "give one of them");
  if (!words.in.empty()) throw UsageError("crosscheck", "the matrix stands after --input", "--input " + words.in);
  if (words.options.only.size() > 1) throw UsageError("--recipe", "more than one", "one, or none for every recipe");
  analysis::AgainstFiles files = words.against;
  files.tensors = words.tensors;
  if (given(words, "--format")) files.options.format = words.options.format;
  if (!words.options.only.empty()) files.options.recipe = words.options.only[0];
  return run_against(files, words.out, words.brief, json);
}

int run(Words& words, bool json) {
  if (!words.against.theirs.empty()) return run_shared_against(words, json);
  for (const char* option : {"--input", "--scale", "--codes", "--scales", "--tensor-scale", "--nibbles", "--layout",
                             "--block", "--block-2d"}) {
    if (given(words, option)) throw UsageError(option, "has no effect without --against THEIRS");
  }
  if (given(words, "--device")) {
    if (words.recipes || !words.in.empty()) {
      throw UsageError("--device", "compares kernels on inputs of its own", "leave the rest out");
    }
    words.on_device.out = words.out;
    return run_device_crosscheck(words.on_device, json);
  }
  for (const char* option : {"--full", "--quick", "--family"}) {
    if (given(words, option)) throw UsageError(option, "has no effect without --device cuda");
  }
  if (!words.recipes) {
    throw UsageError("crosscheck", "what to compare is required", "--recipes, --against THEIRS or --device cuda");
  }
  if (formats::find_format(words.options.format)) return run_converters(words, json);
  if (!formats::find_block_format(words.options.format)) {
    std::vector<std::string> names = analysis::format_names();
    for (const std::string& element : analysis::element_names()) names.push_back(element);
    throw UsageError("--format", "unknown format '" + words.options.format + "'",
                     analysis::suggestion(words.options.format, names));
  }
  if (words.in.empty() && words.tensors != std::vector<std::string>{"*"}) {
    throw UsageError("--tensor", "has no effect on the default inputs", "give a file");
  }
  const std::vector<analysis::CrosscheckInput> inputs =
      words.in.empty() ? analysis::default_crosscheck_inputs() : file_inputs(words);
  if (!words.out.empty()) static_cast<void>(io::AtomicFile(words.out));  // better known before the work
  catch_signals();
  words.options.stop = &stop_flag();
  words.options.notice = say;
  std::vector<PairCount> pairs;
  {
    Progress progress;
    words.options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    pairs = analysis::crosscheck_recipes(words.options, inputs);
  }
  if (stop_flag()) return interrupted();
  const io::Table table = analysis::crosscheck_table(pairs);
  if (!words.out.empty()) write(words, table, words.in.empty() ? "default" : words.in);
  if (json) print_json(table);
  else print_text(pairs, words.brief);
  return 0;
}

}  // namespace

void write_crosscheck(const std::string& path, const std::string& kind, const io::Table& table,
                      const io::Attributes& more) {
  std::vector<io::Record> records;
  for (const std::vector<io::Cell>& row : table.rows) records.push_back({row, {}});
  io::Attributes attributes = {{"schema_version", std::int64_t{1}},
                               {"tool", std::string("fp4scope")},
                               {"tool_version", version()},
                               {"git_commit", git_commit()},
                               {"kind", kind}};
  attributes.insert(more.begin(), more.end());
  io::write_results(path, attributes, table.columns, records);
}

void add_crosscheck(CLI::App& app, Context& context) {
  CLI::App* command =
      app.add_subcommand("crosscheck", "where two orders of operation differ, and whose codes these are");
  auto words = std::make_shared<Words>();
  command->add_flag("--recipes", words->recipes, "every two recipes against each other");
  command->add_option("IN", words->in, "safetensors, .npy or .h5 (default: 200 normal tensors as bf16 and as f32)")
      ->type_name("");
  command->add_option("-o,--output", words->out, "the counts and examples as a results file")->type_name("OUT.h5");
  command
      ->add_option("--format", words->options.format, "whose recipes; an element's name: its converters, on all floats")
      ->capture_default_str()
      ->type_name("F");
  command->add_option("--recipe", words->options.only, "only these (default: all)")
      ->allow_extra_args(false)
      ->type_name("R");
  command->add_option("--tensor", words->tensors, "what to compare on (default *)")
      ->allow_extra_args(false)
      ->type_name("GLOB");
  command->add_option("--device", words->on_device.device, "cuda or cuda:N: every kernel against the model, on one GPU")
      ->type_name("D");
  command->add_flag("--quick", words->on_device.quick, "with --device: every kernel on little data");
  command->add_flag("--full", words->on_device.full, "with --device: every converter on all floats in every direction");
  command
      ->add_option("--family", words->on_device.only,
                   "with --device: these alone: " + analysis::join(analysis::device_check_families(), " "))
      ->allow_extra_args(false)
      ->type_name("F");
  command->add_flag("--brief", words->brief, "the tables without the examples");
  add_against(*command, words->against);
  command->callback([words, command, &context] {
    for (const CLI::Option* option : command->get_options()) {
      if (option->count() > 0) words->given.push_back(option->get_name());
    }
    context.exit_code = run(*words, context.common.json);
  });
}

}  // namespace fp4scope::app
