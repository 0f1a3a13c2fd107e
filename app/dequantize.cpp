// fp4scope dequantize IN -o OUT: what quantize wrote, back to values.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/names.hpp"
#include "analysis/quantize_file.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {

void add_dequantize(CLI::App& app, Context& context) {
  struct Words {
    std::string in, out, dtype = "f32";
  };
  CLI::App* command = app.add_subcommand("dequantize", "codes and scales back to values");
  auto words = std::make_shared<Words>();
  command->add_option("IN", words->in, "an output of fp4scope quantize")->required()->type_name("");
  command->add_option("-o,--output", words->out, "a safetensors file")->required()->type_name("OUT");
  command->add_option("--dtype", words->dtype, "f32 or bf16: the exact product rounded once")
      ->capture_default_str()
      ->type_name("D");
  command->callback([words, &context] {
    const bool f32 = words->dtype == "f32";
    if (!f32 && words->dtype != "bf16") {
      throw UsageError("--dtype", "unknown dtype '" + words->dtype + "'",
                       analysis::suggestion(words->dtype, {"f32", "bf16"}));
    }
    catch_signals();
    const std::size_t count =
        analysis::dequantize_file(words->in, words->out, f32 ? "F32" : "BF16", tool(), &stop_flag());
    if (count == 0 && stop_flag()) {
      context.exit_code = interrupted();
      return;
    }
    const nlohmann::ordered_json j = {{"out", words->out}, {"tensors", count}};
    if (context.common.json)
      fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    else fmt::print("{} tensors to {}\n", count, words->out);
  });
}

}  // namespace fp4scope::app
