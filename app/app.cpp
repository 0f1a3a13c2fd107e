#include "app/app.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "analysis/names.hpp"
#include "app/version.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {

std::string version() { return FP4SCOPE_VERSION; }
std::string tool() { return "fp4scope " + version(); }
std::string git_commit() { return FP4SCOPE_GIT_COMMIT; }

namespace {

std::atomic<bool> stop{false};

extern "C" void on_signal(int) {
  if (stop.exchange(true)) _exit(130);
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

const std::atomic<bool>& stop_flag() { return stop; }

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) out += fmt::format("\\x{:02x}", byte);
    else out += c;
  }
  return out;
}

void clear_progress() {
  if (isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r\x1b[K");
}

void say(const std::string& word) {
  clear_progress();
  fmt::print(stderr, "fp4scope: {}\n", printable(word));
}

int interrupted() {
  say("interrupted, nothing was written");
  return 130;
}

Progress::Progress() : shown_(isatty(STDERR_FILENO) != 0), start_(seconds()) {}

Progress::~Progress() {
  if (shown_) clear_progress();
}

void Progress::operator()(double done, const std::string& what) {
  if (!shown_) return;
  constexpr int width = 30;
  const int filled = static_cast<int>(done * width);
  const double elapsed = seconds() - start_;
  const int left = done > 0 ? static_cast<int>(elapsed / done * (1 - done)) : 0;
  fmt::print(stderr, "\r[{:#<{}}{:.<{}}] {:3.0f}%  {:02}:{:02} left  {:.60}\x1b[K", "", filled, "", width - filled,
             100 * done, left / 60, left % 60, printable(what));
  std::fflush(stderr);
}

namespace {

/// A number, or the dash that stands for none.
bool is_number(const std::string& cell) {
  char* end = nullptr;
  std::strtod(cell.c_str(), &end);
  return cell == "-" || (!cell.empty() && *end == '\0');
}

}  // namespace

std::string text_table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> width;
  std::vector<bool> right(head.size(), true);
  for (const std::string& h : head) width.push_back(h.size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      width[i] = std::max(width[i], printable(row[i]).size());
      right[i] = right[i] && is_number(row[i]);
    }
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const std::string cell = printable(cells[i]);
      text += (i == 0 ? "" : "  ") +
              (right[i] ? fmt::format("{:>{}}", cell, width[i]) : fmt::format("{:<{}}", cell, width[i]));
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text + "\n";
  };
  std::string text = line(head);
  for (const auto& row : rows) text += line(row);
  return text;
}

std::string refuse_negative(const std::string& word) {
  const bool digits = word.find_first_not_of("0123456789") == std::string::npos;
  return digits ? "" : fmt::format("'{}' is no whole number from 0 on", word);
}

void add_transform(CLI::App& command, TransformWords& words) {
  command.add_flag("--transpose", words.transposed, "transpose first");
  command.add_flag("--hadamard", words.hadamard, "rotate runs of 16 columns first, after --transpose");
  command.add_option("--hadamard-size", words.hadamard_size, "points of the rotation, a power of two")->type_name("N");
  command.add_option("--hadamard-seed", words.hadamard_seed, "random signs instead of the fixed ones")
      ->check(refuse_negative)
      ->type_name("N");
}

void add_device(CLI::App& command, std::string& device) {
  command.add_option("--device", device, "cpu; cuda, all GPUs; cuda:0 or cuda:0,1, some of them: the same bytes")
      ->capture_default_str()
      ->type_name("D");
}

}  // namespace fp4scope::app
