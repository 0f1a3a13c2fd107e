// fp4scope mac: beats, or the rows of two quantized tensors, through the NVFP4 and IF4 multiply-accumulate unit.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/mac_file.hpp"
#include "analysis/mac_golden.hpp"
#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

const std::vector<std::string> formats = {"nvfp4", "if4"}, firsts = {"loads", "adds"};

struct Words {
  std::string in, out, format, first = "loads", from, with;
  bool canonicalize = false, trace = false, golden = false;
};

template <class Choice>
Choice choice(const std::string& option, const std::string& word, const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == word) return static_cast<Choice>(i);
  }
  throw UsageError(option, "unknown word '" + word + "'", analysis::suggestion(word, names));
}

/// The published vectors: 1 if a word differs from the published one.
int run_golden(const Words& words, bool json) {
  const std::pair<const char*, const std::string&> unused[] = {
      {"IN", words.in}, {"--output", words.out}, {"--from", words.from}, {"--with", words.with}};
  for (const auto& [name, word] : unused) {
    if (!word.empty()) throw UsageError(name, "--golden has its own beats and writes no file", "leave it out");
  }
  const auto rule = choice<sim::MacFirst>("--first", words.first, firsts);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> table;
  int differ = 0;
  for (const std::string& name : formats) {
    if (!words.format.empty() && words.format != name) continue;
    const auto format = choice<sim::MacFormat>("--format", name, formats);
    const analysis::MacGolden golden = analysis::mac_golden(format);
    const std::vector<float> sums = analysis::run_mac(format, rule, analysis::mac_golden_beats(format), false).words;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const auto bits = __builtin_bit_cast(std::uint32_t, sums[i]);
      const bool same = bits == golden.words[i];
      differ += !same;
      table.push_back({name, std::to_string(golden.seed), std::to_string(i), fmt::format("{:08X}", bits),
                       fmt::format("{}", sums[i]), fmt::format("{:08X}", golden.words[i]), same ? "yes" : "no"});
      rows.push_back({{"format", name}, {"seed", golden.seed}, {"segment", i}, {"word", table.back()[3]},
                      {"value", sums[i]}, {"published", table.back()[5]}, {"same", same}});
    }
  }
  if (json) fmt::print("{}\n", rows.dump(2));
  else fmt::print("{}", text_table({"format", "seed", "segment", "word", "value", "published", "same"}, table));
  return differ == 0 ? 0 : 1;
}

int run(const Words& words, bool json) {
  if (!words.format.empty()) choice<sim::MacFormat>("--format", words.format, formats);
  if (words.golden) return run_golden(words, json);
  if (words.format.empty()) throw UsageError("--format", "is required", "nvfp4 or if4");
  if (words.out.empty()) throw UsageError("--output", "is required", "-o OUT.safetensors");
  const bool operands = !words.from.empty() || !words.with.empty();
  if (operands == !words.in.empty()) {
    throw UsageError("IN", operands ? "beats beside --from and --with" : "is required",
                     "a file of beats, or --from A.safetensors --with W.safetensors, or --golden");
  }
  if (operands && (words.from.empty() || words.with.empty())) {
    throw UsageError(words.from.empty() ? "--from" : "--with", "is required", "the unit has two operands");
  }
  if (operands && words.trace) throw UsageError("--trace", "has no effect on operands", "it is of a file of beats");
  analysis::MacOptions options;
  options.format = choice<sim::MacFormat>("--format", words.format, formats);
  options.first = choice<sim::MacFirst>("--first", words.first, firsts);
  options.canonicalize = words.canonicalize;
  options.trace = words.trace;
  options.tool = tool();
  options.notice = say;
  catch_signals();
  options.stop = &stop_flag();
  const analysis::MacCount n = operands ? analysis::mac_operands(options, words.from, words.with, words.out)
                                        : analysis::mac_file(options, words.in, words.out);
  if (operands && stop_flag()) return interrupted();
  if (json) {
    const nlohmann::ordered_json j = {{"beats", n.beats},
                                      {"segments", n.segments},
                                      {"short_segments", n.short_segments},
                                      {"canonicalized", n.canonicalized},
                                      {"out", words.out}};
    fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return 0;
  }
  fmt::print("{}: beats {}, segments {}, codes 0x8 made 0: {}\n", words.out, n.beats, n.segments, n.canonicalized);
  return 0;
}

}  // namespace

void add_mac(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("mac", "the published NVFP4 and IF4 multiply-accumulate unit, bit for bit");
  auto words = std::make_shared<Words>();
  command->add_option("IN", words->in, "safetensors: a, w U8 [beats, 16], a_sf, w_sf, first U8 [beats]")->type_name("");
  command->add_option("-o,--output", words->out, "safetensors with acc F32, a word a segment")->type_name("OUT");
  command->add_option("--format", words->format, analysis::join(formats, " "))->type_name("F");
  command->add_option("--first", words->first, "loads, as the RTL: -0 stays; or adds to +0, as its golden generator")
      ->capture_default_str()
      ->type_name("RULE");
  command->add_flag("--canonicalize", words->canonicalize, "take E2M1's -0 (0x8) as 0, which the unit refuses");
  command->add_flag("--trace", words->trace, "write lanes F32 [beats, 16] too, the accumulators after each beat");
  command->add_option("--from", words->from, "rows of a: an output of fp4scope quantize")->type_name("FILE[:NAME]");
  command->add_option("--with", words->with, "rows of w; acc is [rows of a, rows of w]")->type_name("FILE[:NAME]");
  command->add_flag("--golden", words->golden, "the published test's six words, from its seeds");
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
