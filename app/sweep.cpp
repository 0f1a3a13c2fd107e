// fp4scope sweep [CONFIG.toml] [-o OUT.h5]: the main job.
#include "analysis/sweep.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "analysis/device.hpp"
#include "app/app.hpp"
#include "app/default_sweep.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::app {
namespace {

struct Words {
  std::string config, out = "sweep.h5", csv, memory = "1G", device = "cpu";
  bool resume = false, finish = false, show_default = false;
};

/// A row by column names.
class Row {
 public:
  Row(const io::Table& table, std::size_t index) : table_(table), cells_(table.rows[index]) {}

  const io::Cell& cell(const std::string& name) const {
    for (std::size_t i = 0; i < table_.columns.size(); ++i) {
      if (table_.columns[i].name == name) return cells_[i];
    }
    throw Error("sweep", "no column " + name);
  }
  std::string text(const std::string& name) const { return std::get<std::string>(cell(name)); }
  std::int64_t integer(const std::string& name) const { return std::get<std::int64_t>(cell(name)); }
  double real(const std::string& name) const { return std::get<double>(cell(name)); }

 private:
  const io::Table& table_;
  const std::vector<io::Cell>& cells_;
};

std::string percent(double x) { return std::isnan(x) ? "-" : fmt::format("{:.2f}", 100 * x); }

/// The tensor, with its seed where an input has several, and its rotation.
std::string tensor_text(const Row& r, bool seeded) {
  const std::string input = r.text("input"), name = r.text("tensor");
  return (input == name ? input : input + ":" + name) + (seeded ? fmt::format(" seed {}", r.integer("seed")) : "") +
         (r.integer("hadamard") ? fmt::format(" hadamard {}", r.integer("hadamard")) : "");
}

/// The method, and what is not as usual about it.
std::string method_text(const Row& r) {
  std::string text = r.text("method");
  if (!r.text("select").empty()) text += " " + r.text("select");
  if (r.text("recipe") != "exact") text += " " + r.text("recipe");
  if (r.text("rounding") != "rne") text += " " + r.text("rounding");
  return text + (r.integer("block_2d") ? " 2-D" : "");
}

void print_table(const io::Table& table) {
  std::map<std::string, std::set<std::int64_t>> seeds;  // of each input
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const Row r(table, i);
    seeds[r.text("input")].insert(r.integer("seed"));
  }
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const Row r(table, i);
    rows.push_back(
        {tensor_text(r, seeds[r.text("input")].size() > 1), fmt::format("{}x{}", r.integer("rows"), r.integer("cols")),
         r.text("format"), fmt::format("{}", r.integer("block")), method_text(r), r.text("tensor_scale_rule"),
         percent(r.real("weight_error")), percent(r.real("output_error")), fmt::format("{:.2f}", r.real("sqnr_db")),
         percent(r.real("moved_share")), fmt::format("{:.3f}", r.real("bits_per_weight"))});
  }
  fmt::print("{}", text_table({"tensor", "shape", "format", "block", "method", "t.scale", "weight err %",
                               "output err %", "SQNR dB", "moved %", "bits"},
                              rows));
}

void print_json(const io::Table& table) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const std::vector<io::Cell>& row : table.rows) {
    nlohmann::ordered_json j;
    for (std::size_t i = 0; i < row.size(); ++i) {
      std::visit([&](const auto& value) { j[table.columns[i].name] = value; }, row[i]);
    }
    rows.push_back(j);
  }
  fmt::print("{}\n", rows.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

/// "512M": bytes, with K, M or G for 2^10, 2^20 and 2^30 of them.
std::int64_t parse_size(const std::string& text) {
  constexpr std::int64_t most = std::int64_t{1} << 50;
  const std::string units = "KMG";
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const std::size_t unit = *end == '\0' ? std::string::npos : units.find(*end);
  const bool known = end != text.c_str() && (*end == '\0' || (unit != std::string::npos && end[1] == '\0'));
  const double bytes = unit == std::string::npos ? number : std::ldexp(number, 10 * (static_cast<int>(unit) + 1));
  if (!known || !(bytes >= 1 && bytes <= static_cast<double>(most))) {
    throw UsageError("--memory", "'" + text + "' is no size", "a positive number with K, M or G, as 512M or 1.5G");
  }
  return static_cast<std::int64_t>(bytes);
}

int run(const Words& words, const Context& context) {
  if (words.show_default) {
    fmt::print("{}", default_sweep);
    return 0;
  }
  catch_signals();
  if (!words.csv.empty()) const io::AtomicFile writable(words.csv);  // better known before the work than after
  analysis::SweepOptions options;
  options.out = words.out;
  options.resume = words.resume;
  options.memory = parse_size(words.memory);
  options.devices = analysis::parse_device(words.device);
  options.tool_version = version();
  options.git_commit = git_commit();
  options.command_line = context.command_line;
  options.stop = &stop_flag();
  options.notice = say;
  analysis::SweepOutcome outcome;
  {
    Progress progress;
    options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    if (words.finish) {
      outcome = analysis::finish_sweep(options);
    } else {
      const std::string text = words.config.empty() ? std::string(default_sweep) : io::read_text_file(words.config);
      outcome = analysis::run_sweep(analysis::parse_sweep(text, words.config.empty() ? "default sweep" : words.config),
                                    options);
    }
  }
  if (outcome.table.rows.empty() && !words.finish) {
    say("interrupted before the first result");
    return 130;
  }
  if (!words.csv.empty()) io::write_text_file(words.csv, io::to_csv(outcome.table));
  if (context.common.json) print_json(outcome.table);
  else print_table(outcome.table);
  const std::string state =
      fmt::format("{} of {} results in {}", outcome.table.rows.size(), outcome.planned, words.out);
  if (words.finish || !outcome.interrupted) {
    say(state);
    return 0;
  }
  say("interrupted: " + state + ", go on with --resume");
  return 130;
}

}  // namespace

void add_sweep(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("sweep", "inputs x formats x blocks x methods -> HDF5: the main job");
  auto words = std::make_shared<Words>();
  command->add_option("CONFIG", words->config, "a TOML file (default: synthetic LLM-like weights)")->type_name("");
  command->add_option("-o,--output", words->out, "the results file")->capture_default_str()->type_name("OUT.h5");
  command->add_option("--csv", words->csv, "the table as CSV too")->type_name("FILE");
  command
      ->add_option("--memory", words->memory,
                   "for tensors in memory; larger ones pass in pieces of rows (inputs X and H come on top)")
      ->capture_default_str()
      ->type_name("SIZE");
  add_device(*command, words->device);
  command->add_flag("--resume", words->resume, "go on from OUT.h5.partial");
  command->add_flag("--finish", words->finish, "assemble OUT.h5 from what OUT.h5.partial has");
  command->add_flag("--show-default", words->show_default, "print the default CONFIG: a commented start for your own");
  command->callback([words, &context] { context.exit_code = run(*words, context); });
}

}  // namespace fp4scope::app
