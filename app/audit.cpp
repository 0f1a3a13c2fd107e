// fp4scope audit CKPT [--original DIR]: what a quantized checkpoint is, and how far from the best of its format.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/audit.hpp"
#include "app/app.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;
using analysis::Audit;
using analysis::AuditedTensor;

std::string percent(double share, int places = 2) {
  return std::isfinite(share) ? fmt::format("{:.{}f}", 100 * share, places) : "-";
}

/// A recipe that explains most but not all of a tensor says so.
std::string recipe_words(const analysis::Fingerprint& f) {
  if (f.verdict == "none") {
    if (f.first.name.empty()) return "none";
    return fmt::format("none ({} {} %)", f.first.name, percent(f.share(f.first.blocks), 1));
  }
  std::string words = f.first.name;
  if (f.first.blocks < f.blocks) words += fmt::format(" {} %", percent(f.share(f.first.blocks)));
  if (f.verdict == "mixture") words += fmt::format(" + {} {} %", f.second.name, percent(f.share(f.second.blocks)));
  if (!f.same.empty()) words += fmt::format(" (or {} other{})", f.same.size(), f.same.size() > 1 ? "s" : "");
  return words;
}

std::vector<std::string> error_cells(const analysis::AgainstOriginal& o) {
  return {percent(o.weight_error()), percent(o.optimal_error()), percent(o.gap()), percent(o.optimal_share(), 1)};
}

void print_table(const Audit& audit) {
  const auto total = audit.total();
  std::vector<std::string> head = {"tensor", "layout", "format", "block", "code bits", "scale bits"};
  if (total) head.insert(head.end(), {"error %", "optimum %", "gap %", "optimal %", "recipe"});
  std::vector<std::vector<std::string>> rows;
  for (const AuditedTensor& t : audit.tensors) {
    rows.push_back({t.name, t.layout, t.format->name, fmt::format("{}", t.block),
                    fmt::format("{:.3f}", analysis::entropy(t.counts.codes)),
                    fmt::format("{:.3f}", analysis::entropy(t.counts.scales))});
    if (!total) continue;
    std::vector<std::string> cells = {"-", "-", "-", "-", "-"};
    if (t.original) {
      cells = error_cells(*t.original);
      cells.push_back(recipe_words(t.original->fingerprint));
    }
    rows.back().insert(rows.back().end(), cells.begin(), cells.end());
  }
  fmt::print("{}", text_table(head, rows));
}

/// Bytes that a loader may take amiss, and what the others are consistent with; lines that many tensors share once.
void print_notes(const Audit& audit) {
  std::vector<std::pair<std::string, std::vector<std::string>>> lines;
  const auto add = [&](const std::string& line, const std::string& tensor) {
    for (auto& [known, tensors] : lines) {
      if (known == line) return tensors.push_back(tensor);
    }
    lines.push_back({line, {tensor}});
  };
  for (const AuditedTensor& t : audit.tensors) {
    const analysis::CodeCounts& c = t.counts;
    if (c.nan_scales() > 0) add(fmt::format("{} NaN scales", c.nan_scales()), t.name);
    if (c.negative_scales() > 0) add(fmt::format("{} scales with the sign bit", c.negative_scales()), t.name);
    for (const std::string& line : t.evidence) add(line, t.name);
    if (t.lossless && t.lossless->possible) add("converts to NVFP4 without loss", t.name);
    if (t.lossless && !t.lossless->possible) {
      add(fmt::format("does not convert to NVFP4 without loss: {} of {} blocks of 16", t.lossless->outside,
                      t.lossless->blocks),
          t.name);
    }
  }
  for (const auto& [line, tensors] : lines) {
    const std::size_t more = tensors.size() - 1;
    fmt::print("{}{}: {}\n", printable(tensors[0]), more > 0 ? fmt::format(" and {} more", more) : "", line);
  }
}

void print_total(const Audit& audit) {
  const auto total = audit.total();
  if (!total) return;
  fmt::print("{} tensors with an original: error {} %", audit.with_original(), percent(total->weight_error(), 4));
  if (total->sums.searched) {
    fmt::print(", optimum {} %, gap {} %, {} % of {} blocks optimal, {} worse", percent(total->optimal_error(), 4),
               percent(total->gap(), 4), percent(total->optimal_share()), total->sums.blocks, total->worse());
  }
  fmt::print("\n");
  for (const analysis::RecipeBlocks& r : audit.recipes()) {
    fmt::print("{}: {} blocks in {} tensors\n", r.name.empty() ? "no recipe" : r.name, r.blocks, r.tensors);
  }
}

/// Cells by their column's name, NaN as null; the histograms beside them.
Json to_json(const analysis::AuditTable& table, const io::Record& record, const AuditedTensor& t) {
  Json j;
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    std::visit([&](const auto& value) { j[table.columns[i].name] = value; }, record.row[i]);
  }
  j["codes"] = t.counts.codes;
  j["scale_codes"] = t.counts.scales;
  j["evidence"] = t.evidence;
  j["same_recipes"] = t.original ? t.original->fingerprint.same : std::vector<std::string>{};
  return j;
}

Json total_json(const Audit& audit) {
  const analysis::CodeCounts all = audit.counts();
  Json j = {{"blocks", all.blocks()}, {"elements", all.elements()}};
  const auto total = audit.total();
  if (!total) return j;
  j["weight_error"] = total->weight_error();
  j["optimal_error"] = total->optimal_error();
  j["gap"] = total->gap();
  j["optimal_share"] = total->optimal_share();
  if (total->sums.searched) j["worse_blocks"] = total->worse();
  j["recipes"] = Json::array();
  for (const analysis::RecipeBlocks& r : audit.recipes()) {
    j["recipes"].push_back({{"recipe", r.name}, {"blocks", r.blocks}, {"tensors", r.tensors}});
  }
  return j;
}

void print_json(const Audit& audit, const analysis::AuditTable& table) {
  Json j = {{"checkpoint", audit.path}, {"original", audit.original}, {"tensors", Json::array()}};
  for (std::size_t i = 0; i < audit.tensors.size(); ++i) {
    j["tensors"].push_back(to_json(table, table.records[i], audit.tensors[i]));
  }
  j["total"] = total_json(audit);
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
}

int run(analysis::AuditOptions options, const std::string& out, bool json) {
  if (!out.empty()) static_cast<void>(io::AtomicFile(out));  // better known before the work
  options.notice = say;
  catch_signals();
  options.stop = &stop_flag();
  Audit audit;
  {
    Progress progress;
    options.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    audit = analysis::audit(options);
  }
  if (stop_flag()) return interrupted();
  const analysis::AuditTable table = analysis::audit_table(audit);
  if (!out.empty()) {
    const io::Attributes attributes = {{"schema_version", std::int64_t{1}}, {"tool", std::string("fp4scope")},
                                       {"tool_version", version()},         {"git_commit", git_commit()},
                                       {"kind", std::string("audit")},      {"checkpoint", audit.path},
                                       {"original", audit.original}};
    io::write_results(out, attributes, table.columns, table.records);
  }
  if (json) {
    print_json(audit, table);
    return 0;
  }
  print_table(audit);
  print_notes(audit);
  print_total(audit);
  return 0;
}

}  // namespace

void add_audit(CLI::App& app, Context& context) {
  CLI::App* command =
      app.add_subcommand("audit", "what a quantized checkpoint is, and how far from the best of its format");
  auto options = std::make_shared<analysis::AuditOptions>();
  auto out = std::make_shared<std::string>();
  command->add_option("CKPT", options->checkpoint, "a checkpoint: a folder, .safetensors, .gguf or what quantize wrote")
      ->required()
      ->type_name("");
  command->add_option("--original", options->original, "the weights before quantization, under the same names")
      ->type_name("DIR");
  command->add_option("--tensor", options->tensors, "only weights that match (default: all)")->type_name("GLOB");
  command->add_option("--exclude", options->exclude, "not those that match")->type_name("GLOB");
  command->add_option("-o,--output", *out, "all of it as a results file")->type_name("OUT.h5");
  command->callback([options, out, &context] { context.exit_code = run(*options, *out, context.common.json); });
}

}  // namespace fp4scope::app
