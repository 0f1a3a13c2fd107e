// fp4scope bench search: how fast the scale searches are on this machine, as a table.
#include "analysis/bench.hpp"

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/device.hpp"
#include "analysis/distributions.hpp"
#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<std::string> benches = {"search"};

bool is_copy(const analysis::BenchRow& row) { return row.block == 0; }

/// "cpu", or a GPU's name.
std::string device_name(const analysis::Bench& bench) {
  return analysis::device_text(bench.words.device ? std::vector<int>{*bench.words.device} : std::vector<int>{});
}

/// A number, "-" for NaN.
std::string text(const char* format, double x) { return std::isnan(x) ? "-" : fmt::format(fmt::runtime(format), x); }

void print_json(const analysis::Bench& bench) {
  Json j = {{"data", bench.words.data},       {"rows", bench.words.rows},     {"cols", bench.words.cols},
            {"repeats", bench.words.repeats}, {"device", device_name(bench)}, {"threads", bench.threads},
            {"table", Json::array()}};
  for (const analysis::BenchRow& r : bench.table) {
    Json row = {{"format", r.format},
                {"method", r.method},
                {"block", r.block},
                {"rows", r.rows},
                {"elements", r.elements},
                {"median_seconds", r.median_seconds},
                {"least_cpu_seconds", r.least_cpu_seconds},
                {"elements_per_second", r.elements_per_second},
                {"elements_per_second_per_thread", r.elements_per_second_per_thread},
                {"candidates_per_block", r.candidates_per_block},
                {"to_naive", r.to_naive},
                {"to_memcpy", r.to_memcpy}};
    if (is_copy(r)) row["block"] = row["candidates_per_block"] = row["to_naive"] = nullptr;
    j["table"].push_back(row);
  }
  fmt::print("{}\n", j.dump(2));
}

void print_text(const analysis::Bench& bench) {
  const std::string where = bench.words.device
                                ? device_name(bench)
                                : fmt::format("{} thread{}", bench.threads, bench.threads == 1 ? "" : "s");
  fmt::print("{} data [{}, {}] as bf16 in memory to scales and packed codes, {}, medians of {}\n", bench.words.data,
             bench.words.rows, bench.words.cols, where, bench.words.repeats);
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> partial;
  for (const analysis::BenchRow& r : bench.table) {
    const bool copy = is_copy(r);
    rows.push_back({r.format, r.method, copy ? "-" : fmt::format("{}", r.block), fmt::format("{}", r.elements),
                    fmt::format("{:.3g}", r.median_seconds), fmt::format("{:.3g}", r.elements_per_second),
                    text("{:.3g}", r.elements_per_second_per_thread),
                    copy ? "-" : text("{:.2f}", r.candidates_per_block), copy ? "-" : fmt::format("{:.2f}", r.to_naive),
                    fmt::format("{:.2f}", r.to_memcpy)});
    if (r.rows < bench.words.rows) partial.push_back(fmt::format("{} {} on {}", r.format, r.method, r.rows));
  }
  fmt::print("{}", text_table({"format", "method", "block", "elements", "seconds", "elements/s", "a thread",
                               "candidates/block", "x naive", "x memcpy"},
                              rows));
  if (!partial.empty()) {
    fmt::print("timed on some of the {} rows: {}\n", bench.words.rows, analysis::join(partial));
  }
}

int run(const std::string& what, analysis::BenchWords& words, const std::string& device, bool json) {
  if (what != benches[0]) {
    throw UsageError("bench", "unknown benchmark '" + what + "'", analysis::suggestion(what, benches));
  }
  const std::vector<int> devices = analysis::parse_device(device);
  if (devices.size() > 1 && device != "cuda") throw UsageError("--device", "a benchmark is of one GPU", "cuda:0");
  if (!devices.empty()) words.device = devices[0];
  catch_signals();
  analysis::Bench bench;
  {
    Progress progress;
    bench = analysis::bench_search(words, std::ref(progress), &stop_flag());
  }
  if (stop_flag()) return interrupted();
  json ? print_json(bench) : print_text(bench);
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("bench", "how fast the scale searches are on this machine");
  auto what = std::make_shared<std::string>();
  auto words = std::make_shared<analysis::BenchWords>();
  command->add_option("WHAT", *what, analysis::join(benches, " "))->required()->type_name("");
  command->add_option("--format", words->format, "a format of 4-bit elements (default: the standard table)")
      ->type_name("F");
  command->add_option("--scale", words->scale, "its method, timed beside naive")->type_name("METHOD");
  command->add_option("--block", words->block, "elements that share a scale (default: the format's)")
      ->check(CLI::Range(2, 1024))
      ->type_name("N");
  command->add_option("--rows", words->rows, "of the matrix")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str()
      ->type_name("R");
  command->add_option("--cols", words->cols, "of the matrix, a multiple of the block")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 24))
      ->capture_default_str()
      ->type_name("C");
  command->add_option("--repeats", words->repeats, "of which the median counts")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str()
      ->type_name("K");
  command->add_option("--data", words->data, analysis::join(analysis::distribution_names, " "))
      ->capture_default_str()
      ->type_name("D");
  auto device = std::make_shared<std::string>("cpu");
  command->add_option("--device", *device, "cpu, cuda or cuda:N")->capture_default_str()->type_name("D");
  command->callback([=, &context] { context.exit_code = run(*what, *words, *device, context.common.json); });
}

}  // namespace fp4scope::app
