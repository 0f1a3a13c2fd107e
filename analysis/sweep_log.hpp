// OUT.log.json, the log beside the results: all that may differ between two runs of the same work.
#pragma once

#include <memory>
#include <string>

#include "search/sse.hpp"

namespace fp4scope::analysis {

class SweepLog {
 public:
  /// `out`: the results file.
  SweepLog(const std::string& out, const std::string& command_line);
  ~SweepLog();

  void notice(const std::string& word);
  void run(const std::string& run, double seconds, const search::SearchCount& count);
  /// The runs so far as text, kept beside the records so that they survive a kill with them.
  std::string runs() const;
  void take_runs(const std::string& text);
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
