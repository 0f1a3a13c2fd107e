#include "analysis/sweep_log.hpp"

#include <omp.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "io/atomic_file.hpp"

namespace fp4scope::analysis {

struct SweepLog::Content {
  nlohmann::ordered_json json;
};

namespace {

/// OUT.h5 -> OUT.log.json
std::string log_path(const std::string& out) {
  const bool ends = out.size() > 3 && out.compare(out.size() - 3, 3, ".h5") == 0;
  return (ends ? out.substr(0, out.size() - 3) : out) + ".log.json";
}

}  // namespace

SweepLog::SweepLog(const std::string& out, const std::string& command_line, const std::string& device)
    : path_(log_path(out)), start_(now()), content_(std::make_unique<Content>()) {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  content_->json = {{"command_line", command_line},
                    {"host", host},
                    {"threads", omp_get_max_threads()},
                    {"device", device},
                    {"compiler", __VERSION__},
                    {"notices", nlohmann::ordered_json::array()},
                    {"runs", nlohmann::ordered_json::object()}};
}

SweepLog::~SweepLog() = default;

double SweepLog::now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void SweepLog::notice(const std::string& word) { content_->json["notices"].push_back(word); }

std::string SweepLog::run(const std::string& run, double seconds, const search::SearchCount& count) {
  const nlohmann::ordered_json entry = {
      {"seconds", seconds}, {"candidates", count.candidates}, {"exact_comparisons", count.exact}};
  content_->json["runs"][run] = entry;
  return entry.dump();
}

void SweepLog::take_run(const std::string& run, const std::string& text) {
  const auto entry = nlohmann::ordered_json::parse(text, nullptr, false);
  if (entry.is_object()) content_->json["runs"][run] = entry;
}

void SweepLog::write(bool interrupted) {
  content_->json["interrupted"] = interrupted;
  content_->json["seconds"] = now() - start_;
  const auto replace = nlohmann::ordered_json::error_handler_t::replace;
  io::write_text_file(path_, content_->json.dump(2, ' ', false, replace) + "\n");
}

}  // namespace fp4scope::analysis
