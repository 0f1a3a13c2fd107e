// fp4scope report IN -o DIR: figures and a self-contained page, by notebooks-data/, which is built in as a zip.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "app/app.hpp"
#include "app/report_zip.hpp"
#include "formats/error.hpp"
#include "io/complain.hpp"

namespace fp4scope::app {
namespace {

int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/// Whether python imports h5py and matplotlib, silently; not from the current folder, where a zip does not look either.
bool can_report(const std::string& python) {
  const char* code = "import sys; sys.path = [p for p in sys.path if p]; import h5py, matplotlib";
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
    execlp(python.c_str(), python.c_str(), "-c", code, nullptr);
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

/// The zip as a file without a name: it goes when the last process that has it open ends, however that happens.
int open_zip() {
  const int file = memfd_create("report.zip", 0);
  if (file < 0) throw Error("report", "no memory file", std::strerror(errno));
  std::string_view rest = report_zip;
  while (!rest.empty()) {
    const ssize_t n = write(file, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw Error("report", "no memory for the report's files");
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
  return file;
}

/// `python3 ZIP ARGUMENTS`: Python runs the zip's __main__.py. With `json`, what it says goes to stderr.
int run_zip(const std::string& python, const std::vector<std::string>& arguments, bool json) {
  const int file = open_zip();
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  std::vector<char*> argv = {const_cast<char*>(python.c_str()), const_cast<char*>(path.c_str())};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) throw Error("report", "no process");
  if (child == 0) {
    if (json) dup2(STDERR_FILENO, STDOUT_FILENO);
    execvp(python.c_str(), argv.data());
    _exit(127);
  }
  close(file);
  return wait_for(child);
}

}  // namespace

void add_report(CLI::App& app, Context& context) {
  struct Words {
    std::string in, out;
  };
  CLI::App* command = app.add_subcommand("report", "figures and a self-contained page from a results file");
  auto words = std::make_shared<Words>();
  command->add_option("IN", words->in, "a results file of fp4scope sweep or audit")->required()->type_name("");
  command->add_option("-o,--output", words->out, "the folder for index.html")->required()->type_name("DIR");
  command->callback([words, &context] {
    if (access(words->in.c_str(), R_OK) != 0) throw io::system_failure(words->in, "read", errno);
    context.exit_code = run_zip(find_python(), {words->in, "-o", words->out}, context.common.json);
    const nlohmann::json j = {{"page", words->out + "/index.html"}};
    if (context.exit_code == 0 && context.common.json)
      fmt::print("{}\n", j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  });
}

}  // namespace fp4scope::app
