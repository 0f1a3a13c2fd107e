// fp4scope mma --arch A --op OP IN -o OUT: what a matrix instruction makes of a file's operands. --list: the rows.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/mma_file.hpp"
#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

using sim::Instruction;

struct Words {
  std::string in, out, architecture, operation;
  bool list = false;
};

std::string architecture_of(const Instruction& r) {
  return sim::architecture_names[static_cast<std::size_t>(r.architecture)];
}

void print_list(const std::string& architecture, bool json) {
  const std::vector<Instruction> rows = analysis::instructions_of(architecture);
  if (json) {
    nlohmann::ordered_json j;
    for (const Instruction& r : rows) {
      j["instructions"].push_back(nlohmann::ordered_json::parse(analysis::instruction_json(r)));
    }
    fmt::print("{}\n", j.dump(2));
    return;
  }
  std::vector<std::vector<std::string>> cells;
  for (const Instruction& r : rows) {
    cells.push_back({architecture_of(r), r.name, analysis::steps_text(r),
                     r.fraction_bits > 0 ? std::to_string(r.fraction_bits) : "-", analysis::result_text(r),
                     r.addend == sim::Addend::first_step ? "first" : "after", analysis::evidence_text(r)});
  }
  fmt::print("{}", text_table({"arch", "op", "k's a step", "F", "a step gives", "C enters", "evidence"}, cells));
}

int run(const Words& words, bool json) {
  if (words.list) {
    if (!words.in.empty() || !words.out.empty() || !words.operation.empty()) {
      throw UsageError("--list", "takes no IN, -o or --op", "leave them out");
    }
    print_list(words.architecture, json);
    return 0;
  }
  const std::pair<const char*, const std::string*> needed[] = {
      {"--arch", &words.architecture}, {"--op", &words.operation}, {"IN", &words.in}, {"-o", &words.out}};
  for (const auto& [name, word] : needed) {
    if (word->empty()) throw UsageError(name, "is required", "fp4scope mma --arch A --op OP IN -o OUT, or --list");
  }
  const Instruction row = analysis::find_operation(words.architecture, words.operation);
  catch_signals();
  const analysis::MmaCount n = analysis::mma_file(row, words.in, words.out, tool(), &stop_flag());
  if (stop_flag()) return interrupted();
  if (json) {
    const nlohmann::ordered_json j = {{"instruction", nlohmann::ordered_json::parse(analysis::instruction_json(row))},
                                      {"products", n.products},
                                      {"outputs", n.outputs},
                                      {"nan", n.nan},
                                      {"infinite", n.infinite},
                                      {"out", words.out}};
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  fmt::print("{} ({}): products {}, outputs {}, Inf {}, NaN {}\n", words.operation, architecture_of(row), n.products,
             n.outputs, n.infinite, n.nan);
  fmt::print("{}\n", analysis::evidence_text(row));
  return 0;
}

}  // namespace

void add_mma(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("mma", "what a matrix instruction makes of operands, to the last bit");
  auto words = std::make_shared<Words>();
  command->add_option("IN", words->in, "safetensors with P.A, P.B, P.C; P.SA and P.SB for block scales")->type_name("");
  command->add_option("-o,--output", words->out, "safetensors with P.D for each prefix P")->type_name("OUT");
  command->add_option("--arch", words->architecture, analysis::join(analysis::architecture_names(), " "))
      ->type_name("A");
  command->add_option("--op", words->operation, "as mma.m16n8k32.f32.e4m3.e4m3.f32; --list has all")->type_name("OP");
  command->add_flag("--list", words->list, "the instructions, and what each one's model rests on");
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
