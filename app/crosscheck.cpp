// fp4scope crosscheck --recipes [IN]: how many scales, codes and values any two recipes differ in, and why.
#include "analysis/crosscheck.hpp"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/names.hpp"
#include "analysis/tensors.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

using analysis::PairCount;
using Json = nlohmann::ordered_json;

struct Words {
  std::string in, out;
  std::vector<std::string> tensors = {"*"};
  bool recipes = false, brief = false;
  analysis::CrosscheckOptions options;
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
    inputs.push_back({t.name, [file, &t] { return analysis::read_matrix(*file, t, say); }, t.dtype.name});
  }
  if (inputs.empty()) throw Error(words.in, "no tensor is matched by " + analysis::join(words.tensors));
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

void print_json(const std::vector<PairCount>& pairs) {
  Json j;
  const io::Table table = analysis::crosscheck_table(pairs);
  for (const std::vector<io::Cell>& row : table.rows) {
    Json cells;
    for (std::size_t i = 0; i < row.size(); ++i) {
      std::visit([&](const auto& value) { cells[table.columns[i].name] = value; }, row[i]);
    }
    j["pairs"].push_back(cells);
  }
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

void write(const Words& words, const std::vector<PairCount>& pairs) {
  const io::Table table = analysis::crosscheck_table(pairs);
  std::vector<io::Record> records;
  for (const std::vector<io::Cell>& row : table.rows) records.push_back({row, {}});
  const io::Attributes attributes = {{"schema_version", std::int64_t{1}},
                                     {"tool", std::string("fp4scope")},
                                     {"tool_version", version()},
                                     {"git_commit", git_commit()},
                                     {"kind", std::string("crosscheck recipes")},
                                     {"format", words.options.format},
                                     {"inputs", words.in.empty() ? std::string("default") : words.in}};
  io::write_results(words.out, attributes, table.columns, records);
}

int run(Words& words, bool json) {
  if (!words.recipes) throw UsageError("crosscheck", "what to compare is missing", "--recipes");
  if (!formats::find_block_format(words.options.format)) {
    throw UsageError("--format", "unknown format '" + words.options.format + "'",
                     analysis::suggestion(words.options.format, analysis::format_names()));
  }
  const std::vector<analysis::CrosscheckInput> inputs =
      words.in.empty() ? analysis::default_crosscheck_inputs() : file_inputs(words);
  catch_signals();
  words.options.stop = &stop_flag();
  std::vector<PairCount> pairs;
  {
    Progress progress;
    words.options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    pairs = analysis::crosscheck_recipes(words.options, inputs);
  }
  if (stop_flag()) return interrupted();
  if (!words.out.empty()) write(words, pairs);
  if (json) print_json(pairs);
  else print_text(pairs, words.brief);
  return 0;
}

}  // namespace

void add_crosscheck(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("crosscheck", "where two orders of operation differ, and why");
  auto words = std::make_shared<Words>();
  command->add_flag("--recipes", words->recipes, "every two recipes against each other");
  command->add_option("IN", words->in, "safetensors, .npy or .h5 (default: 200 normal tensors as bf16 and as f32)")
      ->type_name("");
  command->add_option("-o,--output", words->out, "the counts and examples as a results file")->type_name("OUT.h5");
  command->add_option("--format", words->options.format, "whose recipes")->capture_default_str()->type_name("F");
  command->add_option("--recipe", words->options.only, "only these (default: all)")
      ->allow_extra_args(false)
      ->type_name("R");
  command->add_option("--tensor", words->tensors, "what to compare on (default *)")
      ->allow_extra_args(false)
      ->type_name("GLOB");
  command->add_flag("--brief", words->brief, "the tables without the examples");
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
