// The main job: inputs x formats x blocks x methods -> a results file (notebooks-data/schema.md).
//
//   plan     every (tensor, configuration) pair in a fixed order, each with a run id; senseless pairs skipped with a
//   word run      each pair: quantize, measure, put a record into OUT.h5.partial/ assemble the records in order ->
//   OUT.h5, renamed into place; the partial folder goes when all is done
//
// The results depend on the configuration and the data alone: same work, same bytes, on any number of threads and GPUs,
// resumed or not. Seconds, host, threads, device and stage counts go to OUT.log.json.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "analysis/sweep_config.hpp"
#include "io/results.hpp"

namespace fp4scope::analysis {

struct SweepOptions {
  std::string out = "sweep.h5";
  bool resume = false;  ///< go on from OUT.h5.partial/
  /// Bytes for the tensors in memory (sweep_run.hpp); the layer's inputs and their H come on top.
  std::int64_t memory = std::int64_t{1} << 30;
  std::vector<int> devices;  ///< GPUs (device.hpp) for what they can do; empty: the CPU
  std::string tool_version;
  std::string git_commit;
  std::string command_line;  ///< for the log
  const std::atomic<bool>* stop = nullptr;
  /// Called after each result, or piece of one: the share of the estimated work that is done, and what was just done.
  std::function<void(double done, const std::string& what)> progress;
  /// Called with each word about something skipped, padded or rounded.
  std::function<void(const std::string& word)> notice;
};

struct SweepOutcome {
  io::Table table;
  bool interrupted = false;
  std::size_t planned = 0;
};

/// Throws Error; finished records stay in OUT.h5.partial/ for --resume.
SweepOutcome run_sweep(const SweepConfig& config, const SweepOptions& options);

/// Assembles OUT.h5 from what OUT.h5.partial/ holds after a kill, as an interruption would have.
SweepOutcome finish_sweep(const SweepOptions& options);

}  // namespace fp4scope::analysis
