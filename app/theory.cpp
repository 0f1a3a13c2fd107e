// fp4scope theory --format F --scale RULE: the expected error of normal data by an integral, no samples.
#include "analysis/theory.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/format_table.hpp"
#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::app {
namespace {

using analysis::TheoryQuestion;
using formats::BlockFormat;

struct Words {
  std::vector<std::string> formats, rules, reaches, sigmas;
  std::vector<int> blocks;
  std::string tensor_scale, table, out;
  bool real_scale = false, published = false, octave = false, best_reach = false;
};

/// What is printed, in this order: text as it is, numbers in full for files and short for people.
struct Cell {
  const char* name;
  nlohmann::ordered_json value;
  std::string shown;
};
using Row = std::vector<Cell>;

Cell error_cell(const char* name, double error) { return {name, error, fmt::format("{:.6e}", error)}; }
Cell decibel_cell(double error) {
  const double decibels = -10 * std::log10(error);
  return {"sqnr_db", decibels, fmt::format("{:.3f}", decibels)};
}

double number(const std::string& option, const std::string& word) {
  double value = 0;
  const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), value);
  const bool whole = failure == std::errc() && end == word.data() + word.size();
  if (!whole || !(value >= 1e-60 && value <= 1e60)) {
    throw UsageError(option, "'" + word + "' is not a number from 1e-60 to 1e60");
  }
  return value;
}

/// LO:HI:POINTS, equally spaced in the logarithm, or a number; 1 without words.
std::vector<double> sigmas_of(const std::vector<std::string>& words) {
  if (words.empty()) return {1};
  std::vector<double> sigmas;
  for (const std::string& word : words) {
    const std::size_t first = word.find(':'), second = word.find(':', first + 1);
    if (first == std::string::npos) {
      sigmas.push_back(number("--sigma", word));
      continue;
    }
    if (second == std::string::npos) throw UsageError("--sigma", "'" + word + "' has no points", "LO:HI:POINTS");
    const double low = number("--sigma", word.substr(0, first));
    const double high = number("--sigma", word.substr(first + 1, second - first - 1));
    const double points = number("--sigma", word.substr(second + 1));
    if (points != std::floor(points) || points < 2 || points > 1e6) {
      throw UsageError("--sigma", fmt::format("'{}' points", word.substr(second + 1)), "a whole number from 2 to 1e6");
    }
    for (int i = 0; i < points; ++i) sigmas.push_back(low * std::pow(high / low, i / (points - 1)));
  }
  return sigmas;
}

const BlockFormat& format_of(const analysis::FormatTable& table, const std::string& name) {
  const BlockFormat* format = table.find(name);
  if (!format) {
    throw UsageError("--format", "unknown format '" + name + "'", analysis::suggestion(name, table.names()));
  }
  if (format->element.bits > 4 || format->selects()) {
    throw UsageError("--format", name + " has no expected error", "there is for one grid of at most 4 bits");
  }
  return *format;
}

/// A rule and what the rows call it.
struct Rule {
  std::string name;
  sim::ScaleRule rule;
};

std::vector<Rule> rules_of(const Words& words, const analysis::FormatTable& table, const std::string& format) {
  std::vector<std::string> known;
  for (const search::Method* m : table.methods(format)) {
    if (m->kind == search::MethodKind::rule) known.push_back(m->name);
  }
  std::vector<std::string> names = words.rules;
  if (names.empty() && words.reaches.empty()) names = {"naive"};
  std::vector<Rule> rules;
  for (const std::string& name : names) {
    const search::Method* method = table.find_method(format, name);
    if (!method) throw UsageError("--scale", "unknown rule '" + name + "'", analysis::suggestion(name, known));
    if (method->kind != search::MethodKind::rule) {
      throw UsageError("--scale", name + " looks at more than a block's largest value",
                       "rules of " + format + ": " + analysis::join(known));
    }
    rules.push_back({name, method->rule});
  }
  for (const std::string& word : words.reaches) {
    rules.push_back({"reach " + word, sim::reach_rule(number("--reach", word))});
  }
  return rules;
}

std::vector<int> blocks_of(const Words& words, const BlockFormat& format) {
  if (words.blocks.empty()) return {format.block};
  for (const int block : words.blocks) {
    if (block < 2 || block > 1024) throw UsageError("--block", fmt::format("{} is not from 2 to 1024", block));
  }
  return words.blocks;
}

void check(const Words& words) {
  const bool scaled = !words.tensor_scale.empty(), at_sigma = !words.sigmas.empty();
  const bool ruled = !words.rules.empty() || !words.reaches.empty() || words.real_scale || words.published;
  if (words.best_reach && (scaled || at_sigma || ruled || words.octave)) {
    throw UsageError("--best-reach", "takes --format and --block alone");
  }
  if (words.real_scale && (scaled || at_sigma || words.octave)) {
    throw UsageError("--real-scale", "sigma and the tensor scale have no effect on a scale that is not rounded",
                     "leave out --sigma, --tensor-scale, --octave");
  }
  if (words.tensor_scale == "amax") {
    throw UsageError("--tensor-scale", "amax depends on the size of a tensor", "give its value, or none");
  }
}

Row row_of(const TheoryQuestion& question, const Rule& rule, const Words& words) {
  const auto error = [&](bool published) {
    TheoryQuestion asked = question;
    asked.cut_at_top = published;
    return words.octave ? analysis::octave_mean(asked) : analysis::expected_relative_mse(asked);
  };
  const double exact = error(false);
  Row row = {{"format", question.format.name, question.format.name},
             {"block", question.block, fmt::format("{}", question.block)},
             {"scale", rule.name, rule.name}};
  if (!words.real_scale) row.push_back({"sigma", question.sigma, fmt::format("{:.6g}", question.sigma)});
  row.push_back(error_cell(words.octave ? "octave_mean" : "relative_mse", exact));
  row.push_back(decibel_cell(exact));
  if (words.published) row.push_back(error_cell("published", error(true)));
  return row;
}

/// The best Q lies between the grid's end and one half more.
Row best_row(const BlockFormat& format, int block) {
  if (!formats::same_format(format.scale, formats::ue8m0)) {
    throw UsageError("--best-reach", std::string(format.name) + " has no power-of-two scale", "mxfp4 has");
  }
  const double end = format.element_max(), reach = analysis::best_reach(format, block, end, 1.5 * end);
  const double error = analysis::octave_mean({.format = format, .block = block, .rule = sim::reach_rule(reach)});
  return {{"format", format.name, format.name},
          {"block", block, fmt::format("{}", block)},
          {"reach", reach, fmt::format("{:.3f}", reach)},
          error_cell("octave_mean", error),
          decibel_cell(error)};
}

std::vector<Row> rows_of(const Words& words) {
  check(words);
  const analysis::Formats table = analysis::load_formats(words.table);
  const bool unscaled = words.tensor_scale.empty() || words.tensor_scale == "none";
  const double tensor_scale = unscaled ? 1 : number("--tensor-scale", words.tensor_scale);
  const std::vector<double> sigmas = sigmas_of(words.sigmas);
  std::vector<Row> rows;
  for (const std::string& name : words.formats) {
    const BlockFormat& format = format_of(*table, name);
    const std::vector<Rule> rules = rules_of(words, *table, name);
    for (const int block : blocks_of(words, format)) {
      if (words.best_reach) {
        rows.push_back(best_row(format, block));
        continue;
      }
      for (const Rule& rule : rules) {
        TheoryQuestion question = {.format = format, .block = block, .rule = rule.rule};
        question.real_scale = words.real_scale;
        question.tensor_scale = tensor_scale;
        for (const double sigma : sigmas) {
          question.sigma = sigma;
          rows.push_back(row_of(question, rule, words));
        }
      }
    }
  }
  return rows;
}

std::string csv(const std::vector<Row>& rows) {
  std::string text;
  for (const Cell& cell : rows.front()) text += (text.empty() ? "" : ",") + std::string(cell.name);
  for (const Row& row : rows) {
    text += '\n';
    for (const Cell& cell : row) {
      if (&cell != &row.front()) text += ',';
      text += cell.value.is_string() ? cell.value.get<std::string>() : cell.value.dump();
    }
  }
  return text + '\n';
}

void print(const std::vector<Row>& rows, bool json) {
  if (json) {
    nlohmann::ordered_json j;
    for (const Row& row : rows) {
      nlohmann::ordered_json object;
      for (const Cell& cell : row) object[cell.name] = cell.value;
      j["table"].push_back(object);
    }
    fmt::print("{}\n", j.dump(2));
    return;
  }
  std::vector<std::string> head;
  for (const Cell& cell : rows.front()) head.push_back(cell.name);
  std::vector<std::vector<std::string>> lines;
  for (const Row& row : rows) {
    lines.emplace_back();
    for (const Cell& cell : row) lines.back().push_back(cell.shown);
  }
  fmt::print("{}", text_table(head, lines));
}

void run(const Words& words, bool json) {
  const std::vector<Row> rows = rows_of(words);
  if (!words.out.empty()) io::write_text_file(words.out, csv(rows));
  if (json || words.out.empty()) print(rows, json);
  else fmt::print("{}: {} rows\n", words.out, rows.size());
}

}  // namespace

void add_theory(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("theory", "the expected error of normal data, by an integral and no samples");
  auto words = std::make_shared<Words>();
  const auto list = [&](const std::string& name, auto& into, const std::string& what, const std::string& type) {
    return command->add_option(name, into, what)->delimiter(',')->allow_extra_args(false)->type_name(type);
  };
  list("--format", words->formats, "block formats, separated by commas", "F[,F]")->required();
  list("--scale", words->rules, "methods that look at the largest value alone (default naive)", "RULE[,RULE]");
  list("--reach", words->reaches, "the rules 2^ceil(log2(largest value / Q)): rounded up to a block scale", "Q[,Q]");
  list("--block", words->blocks, "elements that share a scale, 2 to 1024 (default: the format's)", "N[,N]");
  list("--sigma", words->sigmas, "standard deviations, or log-spaced ones (default 1)", "S[,S] or LO:HI:POINTS");
  command->add_option("--tensor-scale", words->tensor_scale, "its value, or none (default)")->type_name("T");
  command->add_flag("--real-scale", words->real_scale, "leave block scales unrounded");
  command->add_flag("--octave", words->octave, "the mean over the octave of sigma that begins at each");
  command->add_flag("--published", words->published, "a column more: the approximation of arXiv 2601.19026");
  command->add_flag("--best-reach", words->best_reach, "instead: the Q of least octave mean, for each block");
  command->add_option("--formats", words->table, "your own: [format.NAME] levels = [...], scale = \"...\", block = N")
      ->type_name("TOML");
  command->add_option("-o,--output", words->out, "a CSV file in place of the table")->type_name("OUT.csv");
  command->callback([words, &context] { run(*words, context.common.json); });
}

}  // namespace fp4scope::app
