// fp4scope verify OUT --input IN: what quantize wrote, checked by code that shares nothing with the search.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/verify_file.hpp"
#include "app/app.hpp"

namespace fp4scope::app {
namespace {

std::string summary(const analysis::VerifiedTensor& t) {
  const std::string head = fmt::format("{}: {} blocks verified", printable(t.name), t.blocks);
  if (!t.certified) return head + ", optimality not checked (no certificate)";
  return fmt::format("{}, mean interval {:.2f} codes, least gap {}, {} ties", head, t.mean_interval,
                     std::isfinite(t.least_gap) ? fmt::format("{:.3g}", t.least_gap) : "-", t.ties);
}

nlohmann::ordered_json to_json(const analysis::VerifiedTensor& t) {
  nlohmann::ordered_json j = {
      {"tensor", t.name}, {"blocks", t.blocks}, {"nothing_to_choose", t.undecided}, {"certified", t.certified}};
  if (!t.certified) return j;
  j["mean_interval"] = t.mean_interval;
  j["least_gap"] = t.least_gap;  // Inf, of no gap at all, becomes null
  j["ties"] = t.ties;
  return j;
}

int run(analysis::VerifyOptions options, bool json) {
  options.notice = say;
  catch_signals();
  options.stop = &stop_flag();
  std::vector<analysis::VerifiedTensor> tensors;
  {
    Progress progress;
    options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    tensors = analysis::verify_file(options);
  }
  if (stop_flag()) return interrupted();
  if (!json) {
    for (const analysis::VerifiedTensor& t : tensors) fmt::print("{}\n", summary(t));
    return 0;
  }
  nlohmann::ordered_json j = {{"file", options.file}, {"tensors", nlohmann::ordered_json::array()}};
  for (const analysis::VerifiedTensor& t : tensors) j["tensors"].push_back(to_json(t));
  fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  return 0;
}

}  // namespace

void add_verify(CLI::App& app, Context& context) {
  CLI::App* command =
      app.add_subcommand("verify", "codes, scales and certificates against the input they were made of");
  auto options = std::make_shared<analysis::VerifyOptions>();
  command->add_option("FILE", options->file, "an output of fp4scope quantize")->required()->type_name("");
  command->add_option("--input", options->input, "what was quantized: safetensors, .npy or .h5")
      ->required()
      ->type_name("IN");
  command->add_option("--activations", options->activations, "those of a Hessian method, if they have moved")
      ->type_name("FILE:NAME");
  command->add_option("--hessian", options->hessian, "H in their stead")->type_name("FILE:NAME");
  command->callback([options, &context] { context.exit_code = run(*options, context.common.json); });
}

}  // namespace fp4scope::app
