// OUT.log.json, the log beside the results: all that may differ between two runs of the same work.
#pragma once

#include <memory>
#include <string>

#include "search/sse.hpp"

namespace fp4scope::analysis {

class SweepLog {
 public:
  /// `out`: the results file. `device`: "cpu" or GPUs by name.
  SweepLog(const std::string& out, const std::string& command_line, const std::string& device);
  ~SweepLog();

  void notice(const std::string& word);
  /// Returns the entry as text, kept beside the run's record so that it survives a kill with it.
  std::string run(const std::string& run, double seconds, const search::SearchCount& count);
  /// An entry kept by an earlier start; ignored if it isn't one.
  void take_run(const std::string& run, const std::string& text);
  void write(bool interrupted);

  /// Seconds of a steady clock.
  static double now();

 private:
  std::string path_;
  double start_;
  struct Content;
  std::unique_ptr<Content> content_;
};

}  // namespace fp4scope::analysis
