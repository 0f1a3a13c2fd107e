// fp4scope crosscheck --device cuda: every kernel against the model.
#include "analysis/crosscheck_device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "analysis/device.hpp"
#include "analysis/names.hpp"
#include "app/app.hpp"
#include "app/crosscheck.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::app {
namespace {

using analysis::DeviceCheck;
using Json = nlohmann::ordered_json;

void print_json(const std::vector<DeviceCheck>& checks) {
  Json j;
  for (const DeviceCheck& c : checks) {
    Json row = {{"family", c.family},
                {"what", c.what},
                {"outputs", c.outputs},
                {"mismatches", c.mismatches},
                {"device_seconds", c.device_seconds},
                {"model_seconds", c.model_seconds}};
    if (!c.example.empty()) row["example"] = c.example;
    j["checks"].push_back(row);
  }
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

/// A family, as soon as it is through: what comes later may take minutes.
void print_text(const std::vector<DeviceCheck>& checks) {
  clear_progress();
  std::vector<std::vector<std::string>> rows;
  for (const DeviceCheck& c : checks) {
    rows.push_back({c.family, c.what, fmt::format("{}", c.outputs), fmt::format("{}", c.mismatches),
                    fmt::format("{:.2f}", c.device_seconds), fmt::format("{:.2f}", c.model_seconds)});
  }
  fmt::print("{}", text_table({"family", "what", "outputs", "mismatches", "device s", "model s"}, rows));
  for (const DeviceCheck& c : checks) {
    if (c.mismatches > 0)
      fmt::print("\n{}: {} of {} differ, the first:\n{}\n", c.what, c.mismatches, c.outputs, c.example);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace

int run_device_crosscheck(const DeviceCrosscheckWords& words, bool json) {
  analysis::DeviceCrosscheckOptions options;
  const std::vector<int> devices = analysis::parse_device(words.device);
  if (devices.empty()) throw UsageError("--device", "cpu is what kernels are compared with", "cuda");
  options.device = devices[0];
  if (words.full && words.quick) throw UsageError("--quick", "contradicts --full", "leave one out");
  options.full = words.full;
  options.quick = words.quick;
  options.only = words.only;
  const std::vector<std::string> families = analysis::device_check_families();
  for (const std::string& name : options.only) {
    if (std::find(families.begin(), families.end(), name) == families.end()) {
      throw UsageError("--family", "unknown family '" + name + "'", analysis::suggestion(name, families));
    }
  }
  if (!words.out.empty()) static_cast<void>(io::AtomicFile(words.out));
  catch_signals();
  options.stop = &stop_flag();
  std::vector<DeviceCheck> checks;
  {
    Progress progress;
    options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    if (!json) options.finished = print_text;
    checks = analysis::crosscheck_device(options);
  }
  if (stop_flag()) return interrupted();
  if (!words.out.empty()) write_crosscheck(words.out, "crosscheck device", analysis::device_checks_table(checks), {});
  if (json) print_json(checks);
  std::int64_t outputs = 0, mismatches = 0, failed = 0;
  for (const DeviceCheck& c : checks) {
    outputs += c.outputs;
    mismatches += c.mismatches;
    failed += c.mismatches > 0;
  }
  if (!json) {
    fmt::print("{} outputs of {} comparisons, {}\n", outputs, checks.size(),
               mismatches == 0 ? "all the same" : fmt::format("{} differ, in {} comparisons", mismatches, failed));
  }
  return mismatches == 0 ? 0 : 1;
}

}  // namespace fp4scope::app
