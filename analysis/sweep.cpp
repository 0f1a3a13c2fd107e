#include "analysis/sweep.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include "analysis/device.hpp"
#include "analysis/sweep_log.hpp"
#include "analysis/sweep_plan.hpp"
#include "analysis/sweep_record.hpp"
#include "analysis/sweep_run.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::analysis {

namespace {

SweepOutcome assemble(const io::RecordStore& store, const SweepOptions& options, const std::string& configuration,
                      std::int64_t seed, std::size_t planned) {
  std::vector<io::Record> records;
  for (const std::string& key : store.keys()) {
    if (store.has(key)) records.push_back(store.get(key));
    else if (options.notice) options.notice("record " + key + " is torn, left out");
  }
  SweepOutcome outcome;
  outcome.planned = planned;
  outcome.interrupted = records.size() < planned;
  outcome.table.columns = sweep_columns();
  for (const io::Record& record : records) outcome.table.rows.push_back(record.row);
  const io::Attributes attributes = {{"schema_version", std::int64_t{1}},
                                     {"tool", std::string("fp4scope")},
                                     {"tool_version", options.tool_version},
                                     {"git_commit", options.git_commit},
                                     {"configuration", configuration},
                                     {"seed", seed},
                                     {"complete", std::int64_t{outcome.interrupted ? 0 : 1}}};
  io::write_results(options.out, attributes, outcome.table.columns, records);
  return outcome;
}

std::string partial_path(const std::string& out) { return out + ".partial"; }

/// The store, new or resumed; refuses to mix two different pieces of work.
io::RecordStore open_store(const SweepOptions& options, const std::string& configuration, const Plan& plan) {
  io::RecordStore store(partial_path(options.out));
  const std::string where = partial_path(options.out);
  const std::string found = store.note("configuration.toml");
  if (found.empty() || store.keys().empty()) {
    store.put_note("inputs.txt", plan.inputs);
    store.put_note("planned.txt", std::to_string(plan.work.size()));
    store.put_note("configuration.toml", configuration);
    return store;
  }
  if (!options.resume) {
    throw Error(where, fmt::format("an unfinished sweep with {} results is here", store.keys().size()),
                "--resume goes on with it, --finish assembles what it has, or remove the folder");
  }
  if (found != configuration)
    throw Error(where, "belongs to another configuration", "resume with that one, or remove it");
  if (store.note("inputs.txt") != plan.inputs) {
    throw Error(where, "an input file has changed since", "restore it, or remove the folder and start again");
  }
  return store;
}

}  // namespace

SweepOutcome run_sweep(const SweepConfig& config, const SweepOptions& options) {
  SweepLog log(options.out, options.command_line, device_text(options.devices));
  const Notice notice = [&](const std::string& word) {
    log.notice(word);
    if (options.notice) options.notice(word);
  };
  const Plan plan = make_plan(config);
  for (const std::string& word : plan.skipped) notice(word);
  if (plan.work.empty()) throw UsageError("sweep", "nothing to do", "every combination was skipped, see above");
  static_cast<void>(io::AtomicFile(options.out));  // an output that can't be written is better known now
  const std::string configuration = canonical_toml(config);
  io::RecordStore store = open_store(options, configuration, plan);
  for (const std::string& run : store.keys()) log.take_run(run, store.note("log-" + run));
  try {
    run_plan(config, options, plan, store, log, notice);
  } catch (...) {
    if (store.keys().empty()) store.remove();
    throw;
  }
  if (store.keys().empty()) {  // interrupted before the first result: leave what OUT.h5 may hold from before
    store.remove();
    return {{sweep_columns(), {}}, true, plan.work.size()};
  }
  SweepOutcome outcome =
      assemble(store, options, configuration, static_cast<std::int64_t>(config.seed), plan.work.size());
  log.write(outcome.interrupted);
  if (!outcome.interrupted) store.remove();
  return outcome;
}

SweepOutcome finish_sweep(const SweepOptions& options) {
  const std::string partial = partial_path(options.out);
  struct stat s {};
  if (stat(partial.c_str(), &s) != 0) throw Error(partial, "no unfinished sweep is here", "give its OUT with -o");
  const io::RecordStore store(partial);
  const std::string configuration = store.note("configuration.toml");
  if (configuration.empty()) throw Error(partial, "has no configuration.toml", "it is not a sweep's folder");
  const SweepConfig config = parse_sweep(configuration, partial + "/configuration.toml");
  return assemble(store, options, configuration, static_cast<std::int64_t>(config.seed),
                  std::stoul(store.note("planned.txt")));
}

}  // namespace fp4scope::analysis
