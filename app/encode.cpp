// fp4scope encode --element E IN -o OUT: every F32 value to one code, as formats::encode or as another library does.
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
  std::string in, out, element, rounding, overflow, recipe = "exact";
  std::uint64_t seed = 1;
};

std::size_t position(const std::string& option, const std::string& word, const std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), word);
  if (found == names.end()) throw UsageError(option, "unknown word '" + word + "'", analysis::suggestion(word, names));
  return static_cast<std::size_t>(found - names.begin());
}

/// The word's place in `names`, refused when the recipe doesn't offer it; its default when there is no word.
template <class Choice>
Choice choice(const std::string& option, const std::string& word, const std::vector<std::string>& names,
              const std::vector<std::string>& offered, const sim::Converter& converter, Choice by_default) {
  if (word.empty()) return by_default;
  const auto chosen = static_cast<Choice>(position(option, word, names));
  if (converter.offers(chosen)) return chosen;
  const std::string mend = offered.empty() ? std::string("it always rounds to ") + converter.roundings
                                           : "there is: " + analysis::join(offered);
  throw UsageError(option,
                   fmt::format("recipe '{}' has no '{}' for {}", converter.recipe, word, converter.element.name), mend);
}

/// The recipe's row for the element, and the words that it takes.
analysis::EncodeOptions options_of(const Words& words) {
  analysis::EncodeOptions options;
  options.element = &formats::all_formats[position("--element", words.element, analysis::element_names())];
  const std::vector<std::string> elements = analysis::elements_of(words.recipe);
  if (elements.empty()) {
    throw UsageError("--recipe", "unknown recipe '" + words.recipe + "'",
                     analysis::suggestion(words.recipe, analysis::converter_names()));
  }
  const sim::Converter* row = sim::find_converter(words.recipe, words.element);
  if (!row) {
    throw UsageError("--recipe", fmt::format("'{}' has no converter to {}", words.recipe, words.element),
                     "it has: " + analysis::join(elements));
  }
  options.rounding =
      choice("--rounding", words.rounding, analysis::rounding_names, analysis::roundings_of(*row), *row, row->rounding);
  options.overflow =
      choice("--overflow", words.overflow, analysis::overflow_names, analysis::overflows_of(*row), *row, row->overflow);
  if (words.recipe != "exact") options.converter = row;
  return options;
}

int run(const Words& words, bool json) {
  analysis::EncodeOptions options = options_of(words);
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
  command
      ->add_option("--rounding", words->rounding,
                   analysis::join(analysis::rounding_names, " ") + "; by default the recipe's, rne for exact")
      ->type_name("R");
  command
      ->add_option("--overflow", words->overflow,
                   "saturate, or nan: NaN or Inf where the type has one; by default the recipe's, saturate for exact")
      ->type_name("O");
  command->add_option("--seed", words->seed, "of stochastic rounding")
      ->check(refuse_negative)
      ->capture_default_str()
      ->type_name("N");
  command
      ->add_option("--recipe", words->recipe,
                   "whose converter, bugs included: " + analysis::join(analysis::converter_names(), " "))
      ->capture_default_str()
      ->type_name("R");
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
