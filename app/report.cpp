// fp4scope report OUT.h5 -o DIR: figures and a self-contained page, by notebooks-data/report.py, which is built in.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "app/app.hpp"
#include "app/report_script.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/// Runs `python -c "import h5py, matplotlib"`, silently.
bool can_report(const std::string& python) {
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
    execlp(python.c_str(), python.c_str(), "-c", "import h5py, matplotlib", nullptr);
    _exit(127);
  }
  return child > 0 && wait_for(child) == 0;
}

std::string find_python() {
  const char* chosen = std::getenv("FP4SCOPE_PYTHON");
  const std::vector<std::string> candidates =
      chosen ? std::vector<std::string>{chosen} : std::vector<std::string>{"python3", "/usr/bin/python3"};
  for (const std::string& python : candidates) {
    if (can_report(python)) return python;
  }
  throw Error("report", candidates.front() + " has no h5py and matplotlib",
              "apt-get install python3-h5py python3-matplotlib, or FP4SCOPE_PYTHON=/path/to/python3");
}

/// The script goes in through standard input: `python3 - ARGUMENTS`.
int run_script(const std::string& python, const std::vector<std::string>& arguments) {
  int ends[2];
  if (pipe(ends) != 0) throw Error("report", "no pipe");
  const pid_t child = fork();
  if (child < 0) throw Error("report", "no process");
  if (child == 0) {
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    close(ends[1]);
    std::vector<char*> argv = {const_cast<char*>(python.c_str()), const_cast<char*>("-")};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    execvp(python.c_str(), argv.data());
    _exit(127);
  }
  close(ends[0]);
  std::string_view rest = report_script;
  while (!rest.empty()) {
    const ssize_t n = write(ends[1], rest.data(), rest.size());
    if (n <= 0) break;
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
  close(ends[1]);
  return wait_for(child);
}

}  // namespace

void add_report(CLI::App& app, Context& context) {
  struct Words {
    std::string in, out;
  };
  CLI::App* command = app.add_subcommand("report", "figures and a self-contained page from a results file");
  auto words = std::make_shared<Words>();
  command->add_option("IN", words->in, "a results file of fp4scope sweep")->required()->type_name("OUT.h5");
  command->add_option("-o,--output", words->out, "the folder for index.html")->required()->type_name("DIR");
  command->callback([words, &context] {
    if (access(words->in.c_str(), R_OK) != 0)
      throw Error(words->in, "can't be read", "give the results file of a sweep");
    context.exit_code = run_script(find_python(), {words->in, "-o", words->out});
    const nlohmann::json j = {{"page", words->out + "/index.html"}};
    if (context.exit_code == 0 && context.common.json)
      fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  });
}

}  // namespace fp4scope::app
