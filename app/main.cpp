// fp4scope VERB ...: parse the words, run the verb, turn every failure into one line and an exit code.
// 0 done, 1 failed on an input, I/O or a mismatch, 2 a wrong command line or configuration, 130 interrupted.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

/// CLI11's complaint as one line, with the nearest right name for what it did not know.
std::string explain(const CLI::App& app, const std::vector<std::string>& words, const CLI::ParseError& error) {
  const std::vector<std::string> verbs = verb_names(app);
  const auto is_verb = [&](const std::string& word) {
    return std::find(verbs.begin(), verbs.end(), word) != verbs.end();
  };
  if (words.empty()) return fmt::format("no verb (there are: {}; fp4scope --help)", analysis::join(verbs));
  if (words[0].rfind('-', 0) != 0 && !is_verb(words[0])) {
    return fmt::format("unknown verb '{}' ({})", words[0], analysis::suggestion(words[0], verbs));
  }
  const bool verb_first = is_verb(words[0]);
  const CLI::App& command = verb_first ? *app.get_subcommand(words[0]) : app;
  const std::string help = fmt::format("see fp4scope {}--help", verb_first ? words[0] + " " : "");
  const std::vector<std::string> options = option_names(command);
  for (const std::string& word : words) {
    const std::string name = word.substr(0, word.find('='));
    if (name.size() < 2 || name[0] != '-' || std::isdigit(static_cast<unsigned char>(name[1]))) continue;
    if (std::find(options.begin(), options.end(), name) != options.end()) continue;
    if (!verb_first && std::any_of(words.begin(), words.end(), is_verb)) {
      return fmt::format("option '{}' before the verb (options follow it; {})", name, help);
    }
    return fmt::format("unknown option '{}' (did you mean '{}'? {})", name, analysis::nearest_name(name, options),
                       help);
  }
  const std::vector<std::string> extra = app.remaining(true);
  if (!extra.empty()) return fmt::format("unexpected argument '{}' ({})", extra.front(), help);
  std::string text = error.what();
  for (char& c : text) c = c == '\n' ? ' ' : c;
  const std::string unread = "Could not convert: ";  // "Could not convert: --block = x"
  const std::size_t equals = text.find(" = ");
  if (text.rfind(unread, 0) == 0 && equals != std::string::npos) {
    text = fmt::format("{}: '{}' is no number in range", text.substr(unread.size(), equals - unread.size()),
                       text.substr(equals + 3));
  }
  return fmt::format("{} ({})", text, help);
}

int fail(const std::string& line, int code) {
  say(line);
  return code;
}

int run(int argc, char** argv) {
  CLI::App app("A microscope for block-scaled 4-bit floating point (NVFP4, MXFP4 and relatives).", "fp4scope");
  Context context;
  for (int i = 0; i < argc; ++i) context.command_line += (i ? " " : "") + std::string(argv[i]);
  app.set_version_flag("--version", tool() + " (" + git_commit() + ")");
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);
  add_sweep(app, context);
  add_report(app, context);
  add_quantize(app, context);
  add_dequantize(app, context);
  add_convert(app, context);
  add_encode(app, context);
  add_formats(app, context);
  add_recipes(app, context);
  add_crosscheck(app, context);
  add_verify(app, context);
  add_theory(app, context);
  add_decompose(app, context);
  add_mma(app, context);
  add_mac(app, context);
  add_matmul(app, context);
  add_linear(app, context);
  add_audit(app, context);
  add_bench(app, context);
  for (CLI::App* command : app.get_subcommands(nullptr)) {
    command->add_flag("--json", context.common.json, "print JSON for machines");
    command->add_option("--threads", context.common.threads, "threads to use (default: all cores)")
        ->type_name("N")
        ->check(CLI::Range(1, 4096))
        ->each([](const std::string& n) { omp_set_num_threads(std::stoi(n)); });
  }

  const std::vector<std::string> words(argv + 1, argv + argc);
  try {
    app.parse(argc, argv);
    if (std::fflush(stdout) != 0) return fail(fmt::format("standard output: {}", std::strerror(errno)), 1);
    return context.exit_code;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    return fail(explain(app, words, e), 2);
  } catch (const Error& e) {
    return fail(e.what(), e.exit_code);
  } catch (const std::bad_alloc&) {
    return fail("out of memory (take fewer or smaller tensors at a time)", 1);
  } catch (const std::exception& e) {
    return fail(e.what(), 1);
  }
}

}  // namespace
}  // namespace fp4scope::app

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit becomes a failed write with a reason
  return fp4scope::app::run(argc, argv);
}
