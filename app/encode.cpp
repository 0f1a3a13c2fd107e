// fp4scope encode --element E IN -o OUT: every F32 value to one code.
#include "analysis/encode.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

struct Words {
  std::string in, out, element, rounding = "rne", overflow = "saturate";
  std::uint64_t seed = 1;
};

std::size_t position(const std::string& option, const std::string& word, const std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), word);
  if (found == names.end()) throw UsageError(option, "unknown word '" + word + "'", analysis::suggestion(word, names));
  return static_cast<std::size_t>(found - names.begin());
}

int run(const Words& words, bool json) {
  analysis::EncodeOptions options;
  options.element = &formats::all_formats[position("--element", words.element, analysis::element_names())];
  options.rounding = static_cast<formats::Rounding>(position("--rounding", words.rounding, analysis::rounding_names));
  options.overflow = static_cast<formats::Overflow>(position("--overflow", words.overflow, analysis::overflow_names));
  options.seed = words.seed;
  catch_signals();
  options.stop = &stop_flag();
  const analysis::EncodeCount n = analysis::encode_file(options, words.in, words.out, tool(), say);
  if (stop_flag()) return interrupted();
  if (json) {
    const nlohmann::ordered_json j = {{"values", n.values},     {"inexact", n.inexact}, {"underflow", n.underflow},
                                      {"overflow", n.overflow}, {"nan", n.nan},         {"out", words.out}};
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  fmt::print("{} values to {}: {} inexact, {} underflowed, {} overflowed, {} NaN\n", n.values, words.element, n.inexact,
             n.underflow, n.overflow, n.nan);
  return 0;
}

}  // namespace

void add_encode(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("encode", "every F32 value of a file to one code of an element format");
  auto words = std::make_shared<Words>();
  command->add_option("IN", words->in, "safetensors, .npy or .h5")->required()->type_name("");
  command->add_option("-o,--output", words->out, "safetensors with T.codes for each tensor T")
      ->required()
      ->type_name("OUT");
  command->add_option("--element", words->element, analysis::join(analysis::element_names(), " "))
      ->required()
      ->type_name("E");
  command->add_option("--rounding", words->rounding, analysis::join(analysis::rounding_names, " "))
      ->capture_default_str()
      ->type_name("R");
  command->add_option("--overflow", words->overflow, "saturate, or nan: NaN or Inf where the type has one")
      ->capture_default_str()
      ->type_name("O");
  command->add_option("--seed", words->seed, "of stochastic rounding")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N");
  add_recipe(*command);
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
