// fp4scope dequantize IN -o OUT: what quantize wrote, or another tool's checkpoint, back to values.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/dequantize_checkpoint.hpp"
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
  command->add_option("IN", words->in, "an output of fp4scope quantize, or a checkpoint: a file or a folder")->required()->type_name("");
  command->add_option("-o,--output", words->out, "a safetensors file")->required()->type_name("OUT");
  command->add_option("--dtype", words->dtype, "f32, bf16 or f16: the exact product rounded once")
      ->capture_default_str()
      ->type_name("D");
  command->callback([words, &context] {
    const std::vector<std::string> names = {"f32", "bf16", "f16"}, dtypes = {"F32", "BF16", "F16"};
    const auto named = std::find(names.begin(), names.end(), words->dtype);
    if (named == names.end()) {
      throw UsageError("--dtype", "unknown dtype '" + words->dtype + "'", analysis::suggestion(words->dtype, names));
    }
    const std::string& dtype = dtypes[static_cast<std::size_t>(named - names.begin())];
    catch_signals();
    const std::size_t count =
        analysis::is_quantized_file(words->in)
            ? analysis::dequantize_file(words->in, words->out, dtype, tool(), &stop_flag())
            : analysis::dequantize_checkpoint(words->in, words->out, dtype, tool(), say, &stop_flag());
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
