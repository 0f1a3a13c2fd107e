#include "analysis/sweep.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <memory>
#include <set>

#include "analysis/sweep_log.hpp"
#include "analysis/sweep_plan.hpp"
#include "analysis/sweep_record.hpp"
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

void run_one(const Work& work, const PlannedTensor& tensor, Layer& layer, const SweepConfig& config,
             const SweepOptions& options, io::RecordStore& store, SweepLog& log) {
  const double start = SweepLog::now();
  const search::Method& method = *work.config.method;
  const std::string where = tensor.input->name + ": " + tensor.name;
  const Quantized q = quantize(
      work.config, layer.weights, where,
      method.needs_hessian() ? layer.curvature(work.config.block, method.needs_full_hessian()) : nullptr, options.stop);
  if (options.stop && *options.stop) return;
  std::vector<double> block_sse;
  const Metrics m = measure(layer.weights, q, layer.activations.get(), layer.reference_output_energy,
                            config.per_block ? &block_sse : nullptr);
  std::optional<Decomposition> parts;
  if (config.decompose && q.macro.empty() && !q.residual) {
    parts = Decomposition{terms_of(layer.weights, q), causes_of(layer.weights, q), places_of(layer.weights, q), {}};
  }
  store.put(work.run, make_record({work, tensor, layer, q, m, parts ? &*parts : nullptr}, block_sse, config.per_block));
  store.put_note("log-" + work.run, log.run(work.run, SweepLog::now() - start, q.count));
}

void run_all(const SweepConfig& config, const SweepOptions& options, const Plan& plan, io::RecordStore& store,
             SweepLog& log, const Notice& notice) {
  const std::int64_t tokens =
      config.activations.kind == ActivationsSpec::Kind::none ? 0 : config.activations.synthetic.tokens;
  double total = 0, done = 0;
  for (const Work& work : plan.work) total += cost(work, plan.tensors[work.tensor], tokens);

  std::unique_ptr<Layer> layer;
  std::size_t loaded = plan.tensors.size();
  std::set<std::string> padded_words;
  for (const Work& work : plan.work) {
    if (options.stop && *options.stop) break;
    const PlannedTensor& tensor = plan.tensors[work.tensor];
    done += cost(work, tensor, tokens) / total;
    if (store.has(work.run)) continue;
    if (loaded != work.tensor) {
      layer.reset();
      layer = std::make_unique<Layer>(config, plan, tensor, notice);
      loaded = work.tensor;
    }
    const std::int64_t cols = padded(tensor.shape.cols, work.config.block);
    const std::string word = fmt::format("{}: {} columns padded with zeros to {} for block {}", tensor.name,
                                         tensor.shape.cols, cols, work.config.block);
    if (cols != tensor.shape.cols && padded_words.insert(word).second) notice(word);
    run_one(work, tensor, *layer, config, options, store, log);
    if (options.progress) {
      options.progress(done, fmt::format("{} {} block {} {}", tensor.name, work.config.format->name, work.config.block,
                                         work.config.method->name));
    }
  }
}

}  // namespace

SweepOutcome run_sweep(const SweepConfig& config, const SweepOptions& options) {
  SweepLog log(options.out, options.command_line);
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
    run_all(config, options, plan, store, log, notice);
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
