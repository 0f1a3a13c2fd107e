// fp4scope crosscheck --against THEIRS --input IN: someone else's codes and scales, whose recipe they follow, and why
// the rest differs.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "app/crosscheck.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;
using analysis::AgainstReport;

Json to_json(const analysis::RecipeCount& c) {
  Json j = {{"name", c.name},
            {"recipe", c.recipe},
            {"scale", c.method},
            {"blocks", c.blocks},
            {"equal", c.equal},
            {"scales_differ", c.scales_differ},
            {"codes_differ", c.codes_differ},
            {"elements", c.elements},
            {"elements_differ", c.elements_differ},
            {"tensor_scale_ulps", nullptr}};
  if (c.tensor_scale_ulps) j["tensor_scale_ulps"] = *c.tensor_scale_ulps;
  return j;
}

Json to_json(const AgainstReport& r) {
  Json j = {{"tensor", r.name},   {"dtype", r.dtype}, {"rows", r.rows},       {"cols", r.cols},
            {"format", r.format}, {"block", r.block}, {"agrees", r.agrees()}, {"reading", Json::array()}};
  for (const analysis::Choice& c : r.choices) {
    j["reading"].push_back({{"what", c.what},
                            {"taken", c.taken},
                            {"given", c.given},
                            {"error", c.error},
                            {"agreement", c.agreement},
                            {"second", c.second},
                            {"second_error", c.second_error},
                            {"ambiguous", c.ambiguous}});
  }
  j["tensor_scale"] = nullptr;
  if (r.tensor_scale)
    j["tensor_scale"] = {{"value", r.tensor_scale->value}, {"reciprocal", r.tensor_scale->reciprocal}};
  j["ranking"] = Json::array();
  for (const analysis::RecipeCount& c : r.ranking) j["ranking"].push_back(to_json(c));
  j["explained"] = Json::array();
  for (const analysis::Explained& e : r.explained) {
    Json one = {
        {"name", e.count.name}, {"blocks", e.count.blocks}, {"equal", e.count.equal}, {"classes", Json::array()}};
    for (const analysis::ClassCount& k : e.classes) {
      one["classes"].push_back(
          {{"class", k.name}, {"blocks", k.blocks}, {"meaning", k.sentence}, {"example", k.example}});
    }
    j["explained"].push_back(one);
  }
  return j;
}

void write(const analysis::AgainstFiles& files, const std::vector<AgainstReport>& reports, const std::string& out) {
  write_crosscheck(out, "crosscheck against", analysis::against_table(reports),
                   {{"against", files.theirs}, {"inputs", files.input}});
}

std::string printable_lines(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    out += printable(text.substr(at, end - at)) + "\n";
    at = end + 1;
  }
  return out;
}

}  // namespace

void add_against(CLI::App& command, analysis::AgainstFiles& files) {
  analysis::AgainstOptions& o = files.options;
  command.add_option("--against", files.theirs, "someone else's codes and scales: safetensors, .npy, .h5")
      ->type_name("THEIRS");
  command.add_option("--input", files.input, "the matrix they were made of: FILE or FILE:NAME")->type_name("IN");
  command.add_option("--scale", o.method, "against this method alone (default: every one)")->type_name("METHOD");
  command.add_option("--codes", files.codes, "their tensor of codes")->type_name("NAME");
  command.add_option("--scales", files.scales, "their tensor of block scales; of an .npy, a file")->type_name("NAME");
  command
      .add_option("--tensor-scale", files.tensor_scale,
                  "their tensor or number that values are multiplied by on decode; 1/... : its reciprocal")
      ->type_name("NAME|VALUE");
  command
      .add_option("--nibbles", o.nibbles,
                  "which nibble has the even columns, low or high, or ggml's order, halves (default: found out)")
      ->type_name("N");
  command.add_option("--layout", o.layout, "of their scales: linear, 128x4 or 8x4 (default: found out)")
      ->type_name("L");
  command.add_option("--block", o.block, "elements that share a scale (default: found out)")->type_name("N");
  command.add_flag("--block-2d", o.tiles, "square blocks");
}

int run_against(analysis::AgainstFiles files, const std::string& out, bool brief, bool json) {
  if (files.input.empty()) throw UsageError("--input", "is missing beside --against", "the matrix they were made of");
  if (!out.empty()) static_cast<void>(io::AtomicFile(out));  // better known before the work
  catch_signals();
  files.options.stop = &stop_flag();
  files.notice = say;
  std::vector<AgainstReport> reports;
  {
    Progress progress;
    files.options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    reports = analysis::compare_files(files);
  }
  if (stop_flag()) return interrupted();
  if (!out.empty()) write(files, reports, out);
  bool agree = true;
  Json j = {{"against", files.theirs}, {"input", files.input}, {"tensors", Json::array()}};
  for (std::size_t i = 0; i < reports.size(); ++i) {
    agree = agree && reports[i].agrees();
    if (json) j["tensors"].push_back(to_json(reports[i]));
    else fmt::print("{}{}", i > 0 ? "\n" : "", printable_lines(analysis::against_text(reports[i], brief)));
  }
  if (json) fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
  return agree ? 0 : 1;
}

}  // namespace fp4scope::app
