// What the verbs share: the common options, interruption, words on stderr, tables on stdout.
// app/ has no arithmetic: it turns words into configurations and results into text.
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace fp4scope::app {

/// Options that every verb takes.
struct Common {
  bool json = false;
  int threads = 0;
};

/// What a verb that was stopped has to say: "interrupted, nothing was written", exit code 130.
int interrupted();

/// A verb adds its subcommand; the command's callback runs it and leaves its exit code in `exit_code`.
struct Context {
  Common common;
  int exit_code = 0;
  std::string command_line;
};

void add_formats(CLI::App& app, Context& context);
void add_encode(CLI::App& app, Context& context);
void add_quantize(CLI::App& app, Context& context);
void add_convert(CLI::App& app, Context& context);
void add_dequantize(CLI::App& app, Context& context);
void add_sweep(CLI::App& app, Context& context);
void add_report(CLI::App& app, Context& context);
void add_recipes(CLI::App& app, Context& context);
void add_crosscheck(CLI::App& app, Context& context);
void add_bench(CLI::App& app, Context& context);
void add_verify(CLI::App& app, Context& context);
void add_theory(CLI::App& app, Context& context);
void add_decompose(CLI::App& app, Context& context);
void add_mma(CLI::App& app, Context& context);
void add_mac(CLI::App& app, Context& context);
void add_matmul(CLI::App& app, Context& context);
void add_linear(CLI::App& app, Context& context);
void add_audit(CLI::App& app, Context& context);

/// "fp4scope 0.1.0", "0.1.0" and the commit it was built from.
std::string tool();
std::string version();
std::string git_commit();

/// Turns true on SIGINT or SIGTERM; a second one ends the process at once.
const std::atomic<bool>& stop_flag();
void catch_signals();

/// "fp4scope: WORD" on stderr, one line: control characters, which a tensor's name may hold, are shown as \xNN.
void say(const std::string& word);
std::string printable(const std::string& text);

/// Wipes the progress line, if there may be one, before other text.
void clear_progress();

/// A line with a bar and an ETA on a terminal, nothing elsewhere.
class Progress {
 public:
  Progress();
  ~Progress();
  void operator()(double done, const std::string& what);

 private:
  bool shown_;
  double start_;
};

/// Columns aligned: numbers right, words left; cells are printable()'s.
std::string text_table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows);

/// A check for a seed: CLI11 would take -3 for 2^64 - 3, and its own check names a bound of 309 digits.
std::string refuse_negative(const std::string& word);

/// What --transpose, --hadamard, --hadamard-size and --hadamard-seed said, for analysis::parse_transform.
struct TransformWords {
  bool transposed = false, hadamard = false;
  int hadamard_size = 0;
  std::optional<std::uint64_t> hadamard_seed;
};
void add_transform(CLI::App& command, TransformWords& words);

/// --device, "cpu" unless given: analysis::parse_device's words.
void add_device(CLI::App& command, std::string& device);

}  // namespace fp4scope::app
