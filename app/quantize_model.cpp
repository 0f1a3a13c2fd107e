// fp4scope quantize DIR -o DIR --as LAYOUT: a model's folder to one that loaders open.
#include "app/quantize_model.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "app/folder_work.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;

/// The sums of all weights, as if they were one.
analysis::ModelWeight total_of(const analysis::ModelSummary& summary) {
  analysis::ModelWeight total;
  for (const analysis::ModelWeight& w : summary.weights) {
    total.sse += w.sse;
    total.energy += w.energy;
  }
  return total;
}

void print_json(const analysis::QuantizeModelOptions& o, const analysis::ModelSummary& summary) {
  Json j = {{"out", o.out}, {"as", o.words.layout}, {"tensors", Json::array()}};
  for (const analysis::ModelWeight& w : summary.weights) {
    Json row = {{"tensor", w.name},     {"shard", w.shard},
                {"rows", w.rows},       {"cols", w.cols},
                {"format", w.format},   {"block", w.block},
                {"scale", w.method},    {"tensor_scale", w.tensor_scale},
                {"group", nullptr},     {"weight_error", w.relative_error()},
                {"sqnr_db", w.sqnr_db()}, {"bits_per_weight", w.bits_per_weight}};
    if (w.group >= 0) row["group"] = w.group;
    j["tensors"].push_back(row);  // NaN and Inf become null
  }
  j["left"] = summary.left;
  const analysis::ModelWeight total = total_of(summary);
  j["total"] = {{"weights", summary.weights.size()}, {"weight_error", total.relative_error()},
                {"sqnr_db", total.sqnr_db()},        {"bytes_in", summary.bytes_in},
                {"bytes_out", summary.bytes_out},    {"shards", summary.shards},
                {"shards_kept", summary.kept}};
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

/// "-" where there is none, as of a weight of zeros.
std::string shown(double x, int places) { return std::isnan(x) ? "-" : fmt::format("{:.{}f}", x, places); }

void print_table(const analysis::ModelSummary& summary) {
  std::vector<std::vector<std::string>> rows;
  for (const analysis::ModelWeight& w : summary.weights) {
    rows.push_back({w.name, fmt::format("{}x{}", w.rows, w.cols), w.format, w.method, shown(100 * w.relative_error(), 3),
                    shown(w.sqnr_db(), 2), fmt::format("{:.3f}", w.bits_per_weight)});
  }
  const analysis::ModelWeight total = total_of(summary);
  rows.push_back({"all", "", "", "", shown(100 * total.relative_error(), 3), shown(total.sqnr_db(), 2), "-"});
  fmt::print("{}",
             text_table({"tensor", "shape", "format", "scale", "weight error %", "SQNR dB", "bits/weight"}, rows));
  fmt::print("{} shards, {} bytes of tensors; they were {}\n", summary.shards, summary.bytes_out, summary.bytes_in);
}

}  // namespace

int run_quantize_model(analysis::QuantizeModelOptions& o, bool json) {
  const auto summary = run_folder_work(o, analysis::quantize_model);
  if (!summary) return 130;
  if (summary->kept > 0) say(fmt::format("{} of {} shards kept from the earlier run", summary->kept, summary->shards));
  if (json) print_json(o, *summary);
  else print_table(*summary);
  return 0;
}

}  // namespace fp4scope::app
