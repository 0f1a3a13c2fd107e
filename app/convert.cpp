// fp4scope convert CKPT -o DIR --as LAYOUT: a quantized checkpoint in another layout, its codes and scales untouched.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/checkpoint_config.hpp"
#include "analysis/convert.hpp"
#include "analysis/names.hpp"
#include "app/folder_work.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;

void print_json(const analysis::ConvertOptions& o, const analysis::ConvertSummary& s) {
  Json weights = Json::array();
  for (const analysis::ConvertedWeight& w : s.weights) {
    weights.push_back({{"name", w.name}, {"from", w.from_format}, {"format", w.format}, {"shape", {w.rows, w.cols}},
                       {"tensor_scale_before", w.decode_before}, {"tensor_scale", w.decode}, {"ulps", w.ulps()},
                       {"relative_change", w.change()}});
  }
  const Json j = {{"out", o.out},       {"as", o.layout},   {"shards", s.shards}, {"kept", s.kept},
                  {"copied", s.copied}, {"moved", s.moved()}, {"left_out", s.left_out}, {"weights", weights}};
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

void print_text(const analysis::ConvertOptions& o, const analysis::ConvertSummary& s) {
  fmt::print("{} weights as {} and {} other tensors to {}\n", s.weights.size(), o.layout, s.copied, o.out);
  if (s.kept > 0) fmt::print("{} of {} files were finished by an earlier run\n", s.kept, s.shards);
  if (!s.left_out.empty()) {
    fmt::print("left out, as {} has no place for them: {} tensors, the first {}\n", o.layout, s.left_out.size(),
               printable(s.left_out.front()));
  }
  if (s.moved() == 0) {
    fmt::print("every value is what it was\n");
    return;
  }
  std::vector<std::vector<std::string>> rows;
  for (const analysis::ConvertedWeight& w : s.weights) {
    if (w.ulps() != 0) {
      rows.push_back({w.name, fmt::format("{:.9g}", w.decode_before), fmt::format("{:.9g}", w.decode),
                      fmt::format("{:+}", w.ulps()), fmt::format("{:+.3g}", w.change())});
    }
  }
  fmt::print("{} of {} tensor scales have no reciprocal that gives them back; all values of these weights change alike:\n"
             "{}",
             s.moved(), s.weights.size(), text_table({"weight", "D before", "D", "ulps", "relative change"}, rows));
}

int run(analysis::ConvertOptions& o, bool json) {
  const auto summary = run_folder_work(o, analysis::convert);
  if (!summary) return 130;
  json ? print_json(o, *summary) : print_text(o, *summary);
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("convert", "a quantized checkpoint in another layout, bit for bit");
  auto o = std::make_shared<analysis::ConvertOptions>();
  command->add_option("CKPT", o->in, "a folder or a .safetensors file")->required()->type_name("");
  command->add_option("-o,--output", o->out, "a folder that isn't there yet")->required()->type_name("DIR");
  command->add_option("--as", o->layout, analysis::join(analysis::layout_names(), " or "))
      ->required()
      ->type_name("LAYOUT");
  command->add_option("--format", o->format, "nvfp4: MXFP4 becomes that where nothing is lost")->type_name("F");
  command->add_flag("--resume", o->resume, "go on with a run that was stopped");
  command->callback([o, &context] { context.exit_code = run(*o, context.common.json); });
}

}  // namespace fp4scope::app
