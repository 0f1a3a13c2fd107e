#include "analysis/sweep.hpp"

#include <fmt/format.h>
#include <omp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "analysis/metrics.hpp"
#include "analysis/names.hpp"
#include "analysis/tensors.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::analysis {

namespace {

/// A tensor of the plan: where it comes from and what to do with it.
struct PlannedTensor {
  const InputSpec* input = nullptr;
  std::string name, dtype;
  std::shared_ptr<const io::TensorFile> file;  // null for a distribution
  const io::TensorInfo* info = nullptr;
  Shape2d shape{};
};

struct Work {
  std::string run;  // "0007", the position in the plan
  std::size_t tensor = 0;
  QuantizeConfig config;
};

struct Plan {
  std::vector<PlannedTensor> tensors;
  std::vector<Work> work;
  std::set<std::string> skipped;  // words
  std::string inputs;             // sizes and times of the input files, to notice a change before resuming
};

/// Names, sizes and times.
std::string describe_files(const io::TensorFile& file) {
  std::string text;
  for (const std::string& name : file.files()) {
    struct stat s {};
    if (stat(name.c_str(), &s) != 0) continue;
    text += fmt::format("{} {} {}.{:09}\n", std::filesystem::weakly_canonical(name).string(), s.st_size, s.st_mtim.tv_sec,
                        s.st_mtim.tv_nsec);
  }
  return text;
}

void plan_file(const SweepConfig& config, const InputSpec& input, Plan& plan) {
  const std::string path = resolve_path(config, input.file);
  const std::shared_ptr<const io::TensorFile> file = io::open_tensors(path);
  bool any = false;
  for (const io::TensorInfo& info : file->tensors()) {
    if (!selected(info.name, input.tensors, input.exclude)) continue;
    const std::string obstacle = why_not(info);
    if (!obstacle.empty()) {
      plan.skipped.insert(input.name + ": " + info.name + " skipped, " + obstacle);
      continue;
    }
    plan.tensors.push_back({&input, info.name, info.dtype.name, file, &info, as_matrix(info)});
    any = true;
  }
  if (!any) throw Error(path, "no tensor to quantize is matched by " + join(input.tensors), "list other 'tensors'");
  plan.inputs += describe_files(*file);
}

void plan_tensors(const SweepConfig& config, Plan& plan) {
  for (const InputSpec& input : config.inputs) {
    if (!input.file.empty()) {
      plan_file(config, input, plan);
      continue;
    }
    const Distribution& d = input.distribution;
    const std::string dtype = d.dtype == "f32" ? "F32" : d.dtype == "bf16" ? "BF16" : "F16";
    plan.tensors.push_back({&input, d.kind, dtype, nullptr, nullptr, {d.rows, d.cols}});
  }
}

/// One axis of the product: the listed values, or one default.
template <class T>
std::vector<T> axis(const std::vector<T>& listed, const T& fallback) {
  return listed.empty() ? std::vector<T>{fallback} : listed;
}

/// The configurations of a grid, the same for every tensor. Senseless ones become words.
std::vector<QuantizeConfig> plan_configs(const SweepConfig& config, const GridSpec& grid, std::set<std::string>& skipped) {
  std::vector<QuantizeConfig> configs;
  for (const std::string& format : grid.formats) {
    for (const int block : axis(grid.blocks, 0)) {
      for (const std::string& method : grid.methods) {
        const search::Method* found = search::find_method(format, method);
        if (!found) {
          skipped.insert(format + " has no method " + method + ", skipped");
          continue;
        }
        if (found->kind == search::MethodKind::hessian && config.activations.kind == ActivationsSpec::Kind::none) {
          skipped.insert(format + " " + method + " skipped, it needs [activations]");
          continue;
        }
        for (const std::string& select : grid.selects) {
          if (found->kind != search::MethodKind::four_over_six && select != grid.selects.front()) continue;
          for (const std::string& scaling : axis(grid.tensor_scales, std::string())) {
            const bool impossible = scaling == "amax" && !found->scale_max && !grid.scale_max &&
                                    !formats::find_block_format(format)->scale_max;
            if (impossible) {
              skipped.insert(format + " with tensor_scale amax skipped, it has no default scale_max");
              continue;
            }
            const bool chooses = found->kind == search::MethodKind::four_over_six;
            const bool from_amax = scaling == "amax" || (scaling.empty() && formats::find_block_format(format)->tensor_scaled);
            configs.push_back(parse_config({format, method, chooses ? select : "", scaling, config.nonfinite, block,
                                            from_amax ? grid.scale_max : 0}));
          }
        }
      }
    }
  }
  return configs;
}

/// The column count that activations from a file fit; 0: any.
std::int64_t plan_activations(const SweepConfig& config, Plan& plan) {
  if (config.activations.kind != ActivationsSpec::Kind::file) return 0;
  const std::string path = resolve_path(config, config.activations.file);
  plan.inputs += describe_files(*io::open_tensors(path));
  return read_activations(path, config.activations.tensor, [](const std::string&) {}).cols;
}

Plan make_plan(const SweepConfig& config) {
  Plan plan;
  plan_tensors(config, plan);
  const std::int64_t columns = plan_activations(config, plan);
  std::vector<std::vector<QuantizeConfig>> configs;
  for (const GridSpec& grid : config.grids) configs.push_back(plan_configs(config, grid, plan.skipped));
  for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
    for (std::size_t g = 0; g < configs.size(); ++g) {
      const std::vector<std::string>& inputs = config.grids[g].inputs;
      if (!inputs.empty() && !selected(plan.tensors[t].input->name, inputs, {})) continue;
      for (const QuantizeConfig& c : configs[g]) {
        const std::int64_t cols = plan.tensors[t].shape.cols;
        if (c.method->kind == search::MethodKind::hessian && columns != 0 && columns != cols) {
          plan.skipped.insert(fmt::format("{}: hessian skipped, {} columns do not fit activations of {}",
                                          plan.tensors[t].name, cols, columns));
          continue;
        }
        plan.work.push_back({"", t, c});
      }
    }
  }
  for (std::size_t i = 0; i < plan.work.size(); ++i) plan.work[i].run = fmt::format("{:06}", i);
  return plan;
}

/// Estimated nanoseconds an element on one core, for the ETA alone.
double cost(const Work& work, const PlannedTensor& tensor, std::int64_t tokens) {
  double each = 15;
  switch (work.config.method->kind) {
    case search::MethodKind::rule: break;
    case search::MethodKind::four_over_six: each += 25; break;
    case search::MethodKind::sse: each += 60; break;
    case search::MethodKind::exhaustive: each += 800; break;
    case search::MethodKind::hessian: each += 45.0 * (work.config.block + 16); break;
  }
  return static_cast<double>(tensor.shape.rows * tensor.shape.cols) * (each + 0.7 * static_cast<double>(tokens));
}

/// What the runs of one tensor share: its data, its activations, and one set of Hessians a block size.
class TensorContext {
 public:
  TensorContext(const SweepConfig& config, const PlannedTensor& tensor, const Notice& notice)
      : weights(tensor.file ? read_matrix(*tensor.file, *tensor.info, notice) : sample(tensor.input->distribution)),
        hash(content_hash(weights)) {
    load_activations(config, tensor, notice);
    if (activations) reference_output_energy = output_energy(weights, *activations);
  }

  /// Over the padded columns.
  const search::Hessians* hessians(int block) {
    if (hessians_.block != block) {
      const Matrix x = pad_columns(inputs_, block);
      hessians_ = search::make_hessians(x.data.data(), x.rows, x.cols, block);
    }
    return &hessians_;
  }

  const Matrix weights;
  const std::string hash;
  std::unique_ptr<Activations> activations;
  std::string activations_name;  // "" for none
  std::string activations_hash;
  double reference_output_energy = 0;

 private:
  void load_activations(const SweepConfig& config, const PlannedTensor& tensor, const Notice& notice) {
    const ActivationsSpec& spec = config.activations;
    if (spec.kind == ActivationsSpec::Kind::none) return;
    if (spec.kind == ActivationsSpec::Kind::synthetic) {
      inputs_ = sample(spec.synthetic, weights.cols);
      activations_name = "synthetic";
    } else {
      inputs_ = read_activations(resolve_path(config, spec.file), spec.tensor, notice);
      if (inputs_.cols != weights.cols) {
        notice(fmt::format("{}: no output error, {} columns do not fit activations of {}", tensor.name, weights.cols,
                           inputs_.cols));
        inputs_ = {};
        return;
      }
      activations_name = spec.tensor.empty() ? spec.file : spec.file + ":" + spec.tensor;
    }
    activations_hash = content_hash(inputs_);
    activations = std::make_unique<Activations>(make_activations(inputs_));
  }

  Matrix inputs_;
  search::Hessians hessians_;
};

/// Everything a row is made of.
struct Result {
  const Work& work;
  const PlannedTensor& tensor;
  const TensorContext& context;
  const Quantized& q;
  const Metrics& m;
};

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

struct ColumnRow {
  const char* name;
  const char* unit;
  const char* description;
  io::Cell (*cell)(const Result&);
};

bool chooses(const Result& r) { return r.q.config.method->kind == search::MethodKind::four_over_six; }

// The table's columns: notebooks-data/schema.md is held against them by a test.
// clang-format off
const ColumnRow column_rows[] = {
    {"run", "", "id of the run, the group /runs/<run>", [](const Result& r) -> io::Cell { return r.work.run; }},
    {"input", "", "name of the input", [](const Result& r) -> io::Cell { return r.tensor.input->name; }},
    {"tensor", "", "name of the tensor, or the distribution", [](const Result& r) -> io::Cell { return r.tensor.name; }},
    {"rows", "1", "rows of the matrix", [](const Result& r) -> io::Cell { return r.tensor.shape.rows; }},
    {"cols", "1", "columns of the matrix", [](const Result& r) -> io::Cell { return r.tensor.shape.cols; }},
    {"padded_cols", "1", "columns after padding to a multiple of the block", [](const Result& r) -> io::Cell { return r.q.cols; }},
    {"dtype", "", "type of the data as stored or sampled", [](const Result& r) -> io::Cell { return r.tensor.dtype; }},
    {"format", "", "block format", [](const Result& r) -> io::Cell { return r.q.config.format->name; }},
    {"block", "1", "elements that share a block scale", [](const Result& r) -> io::Cell { return std::int64_t{r.q.config.block}; }},
    {"method", "", "how block scales are chosen", [](const Result& r) -> io::Cell { return r.q.config.method->name; }},
    {"select", "", "criterion between candidate scales, empty where none are", [](const Result& r) -> io::Cell { return chooses(r) ? select_names[static_cast<std::size_t>(r.q.config.select)] : ""; }},
    {"tensor_scale_rule", "", "amax, none or the value given", [](const Result& r) -> io::Cell { return r.q.config.scaling_text(); }},
    {"scale_max", "1", "block scale that the tensor scale aims at, 0 without", [](const Result& r) -> io::Cell { return std::int64_t{r.q.config.scaling == TensorScaling::amax ? r.q.config.scale_max : 0}; }},
    {"amax", "1", "largest magnitude of the tensor", [](const Result& r) -> io::Cell { return static_cast<double>(r.q.amax); }},
    {"tensor_scale", "1", "multiplier on decode, 1 without", [](const Result& r) -> io::Cell { return static_cast<double>(r.q.tensor_scale); }},
    {"activations", "", "source of the activations, empty without", [](const Result& r) -> io::Cell { return r.context.activations_name; }},
    {"tokens", "1", "rows of the activations, 0 without", [](const Result& r) -> io::Cell { return r.context.activations ? r.context.activations->tokens : 0; }},
    {"blocks", "1", "blocks of the tensor", [](const Result& r) -> io::Cell { return r.m.blocks; }},
    {"weight_error", "1", "|Wq - W|_F / |W|_F", [](const Result& r) -> io::Cell { return std::sqrt(r.m.relative_mse()); }},
    {"relative_mse", "1", "|Wq - W|_F^2 / |W|_F^2", [](const Result& r) -> io::Cell { return r.m.relative_mse(); }},
    {"output_error", "1", "|X Wq^T - X W^T|_F / |X W^T|_F, NaN without activations", [](const Result& r) -> io::Cell { return r.m.output_error; }},
    {"mse", "1", "mean of (wq - w)^2", [](const Result& r) -> io::Cell { return r.m.sse / static_cast<double>(r.m.elements); }},
    {"sqnr_db", "dB", "-10 log10(relative_mse)", [](const Result& r) -> io::Cell { return -10 * std::log10(r.m.relative_mse()); }},
    {"max_error", "1", "max |wq - w|", [](const Result& r) -> io::Cell { return r.m.max_error; }},
    {"moved_share", "1", "share of blocks whose scale code is not naive's at the same tensor scale", [](const Result& r) -> io::Cell { return share(r.m.moved_up + r.m.moved_down, r.m.blocks); }},
    {"moved_up_share", "1", "share of blocks whose scale code is above naive's", [](const Result& r) -> io::Cell { return share(r.m.moved_up, r.m.blocks); }},
    {"moved_down_share", "1", "share of blocks whose scale code is below naive's", [](const Result& r) -> io::Cell { return share(r.m.moved_down, r.m.blocks); }},
    {"mean_move", "codes", "mean |scale code - naive's|", [](const Result& r) -> io::Cell { return share(r.m.distance, r.m.blocks); }},
    {"four_share", "1", "share of blocks that 4over6 maps to 4, 0 for other methods", [](const Result& r) -> io::Cell { return share(r.q.chose_four, r.m.blocks); }},
    {"zero_share", "1", "share of elements quantized to zero", [](const Result& r) -> io::Cell { return share(r.m.zeros, r.m.elements); }},
    {"saturated_share", "1", "share of elements above their block's largest value", [](const Result& r) -> io::Cell { return share(r.m.saturated, r.m.elements); }},
    {"underflow_share", "1", "share of blocks with non-zero data and a zero scale", [](const Result& r) -> io::Cell { return share(r.m.underflowed, r.m.blocks); }},
    {"bits_per_weight", "bit", "codes, block scales and tensor scale, padding included", [](const Result& r) -> io::Cell { return bits_per_weight(r.q, r.tensor.shape.cols); }},
    {"input_hash", "", "FNV-1a of shape and binary32 bits", [](const Result& r) -> io::Cell { return r.context.hash; }},
    {"activations_hash", "", "FNV-1a of shape and binary32 bits of the activations, empty without", [](const Result& r) -> io::Cell { return r.context.activations_hash; }},
};
// clang-format on

io::Record make_record(const Result& r, const std::vector<double>& block_sse, bool per_block) {
  io::Record record;
  for (const ColumnRow& column : column_rows) record.row.push_back(column.cell(r));

  const std::string group = "/runs/" + r.work.run + "/";
  std::vector<std::int32_t> offsets;
  for (int i = -move_reach; i <= move_reach; ++i) offsets.push_back(i);
  const std::int64_t bins = 2 * move_reach + 1;
  record.datasets.push_back({group + "scale_move_offsets", {bins}, offsets,
                             {{"unit", "codes"}, {"description", "scale code - naive's; the ends hold all beyond"}}});
  record.datasets.push_back({group + "scale_moves", {bins}, std::vector<std::int64_t>(r.m.moves.begin(), r.m.moves.end()),
                             {{"unit", "blocks"}, {"description", "blocks by scale_move_offsets"}}});
  if (!per_block) return record;
  const std::vector<std::int64_t> shape = {r.q.rows, r.q.blocks_per_row()};
  record.datasets.push_back({group + "scales", shape, r.q.scales,
                             {{"unit", "code"}, {"format", r.q.config.format->scale.name}, {"description", "block scale codes"}}});
  record.datasets.push_back({group + "block_sse", shape, block_sse,
                             {{"unit", "1"}, {"description", "sum of (wq - w)^2 over the block"}}});
  return record;
}

/// The log beside the results: all that may differ between two runs of the same work.
class Log {
 public:
  explicit Log(const SweepOptions& options) : path_(log_path(options.out)), start_(now()) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    json_["command_line"] = options.command_line;
    json_["host"] = host;
    json_["threads"] = omp_get_max_threads();
    json_["compiler"] = __VERSION__;
    json_["notices"] = nlohmann::json::array();
    json_["runs"] = nlohmann::json::object();
  }

  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  void notice(const std::string& word) { json_["notices"].push_back(word); }

  void run(const std::string& run, double seconds, const search::SearchCount& count) {
    json_["runs"][run] = {{"seconds", seconds}, {"candidates", count.candidates}, {"exact_comparisons", count.exact}};
  }

  /// The runs so far survive a kill with their records.
  std::string runs() const { return json_["runs"].dump(); }
  void take_runs(const std::string& text) {
    const auto runs = nlohmann::ordered_json::parse(text, nullptr, false);
    if (runs.is_object()) json_["runs"] = runs;
  }

  void write(bool interrupted) {
    json_["interrupted"] = interrupted;
    json_["seconds"] = now() - start_;
    io::write_text_file(path_, json_.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }

 private:
  static std::string log_path(const std::string& out) {
    const bool ends = out.size() > 3 && out.compare(out.size() - 3, 3, ".h5") == 0;
    return (ends ? out.substr(0, out.size() - 3) : out) + ".log.json";
  }

  std::string path_;
  double start_;
  nlohmann::ordered_json json_;
};

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
  if (found != configuration) throw Error(where, "belongs to another configuration", "resume with that one, or remove it");
  if (store.note("inputs.txt") != plan.inputs) {
    throw Error(where, "an input file has changed since", "restore it, or remove the folder and start again");
  }
  return store;
}

void run_one(const Work& work, const PlannedTensor& tensor, TensorContext& context, const SweepConfig& config,
             const SweepOptions& options, io::RecordStore& store, Log& log) {
  const double start = Log::now();
  const bool needs_hessian = work.config.method->kind == search::MethodKind::hessian;
  const std::string where = tensor.input->name + ": " + tensor.name;
  const Quantized q = quantize(work.config, context.weights, where,
                               needs_hessian ? context.hessians(work.config.block) : nullptr, options.stop);
  if (options.stop && *options.stop) return;
  std::vector<double> block_sse;
  const Metrics m = measure(context.weights, q, context.activations.get(), context.reference_output_energy,
                            config.per_block ? &block_sse : nullptr);
  store.put(work.run, make_record({work, tensor, context, q, m}, block_sse, config.per_block));
  log.run(work.run, Log::now() - start, q.count);
  store.put_note("runs.json", log.runs());
}

void run_all(const SweepConfig& config, const SweepOptions& options, const Plan& plan, io::RecordStore& store, Log& log,
             const Notice& notice) {
  const std::int64_t tokens = config.activations.kind == ActivationsSpec::Kind::none ? 0 : config.activations.synthetic.tokens;
  double total = 0, done = 0;
  for (const Work& work : plan.work) total += cost(work, plan.tensors[work.tensor], tokens);

  std::unique_ptr<TensorContext> context;
  std::size_t loaded = plan.tensors.size();
  std::set<std::string> padded_words;
  for (const Work& work : plan.work) {
    if (options.stop && *options.stop) break;
    const PlannedTensor& tensor = plan.tensors[work.tensor];
    done += cost(work, tensor, tokens) / total;
    if (store.has(work.run)) continue;
    if (loaded != work.tensor) {
      context.reset();
      context = std::make_unique<TensorContext>(config, tensor, notice);
      loaded = work.tensor;
    }
    const std::int64_t cols = padded(tensor.shape.cols, work.config.block);
    const std::string word = fmt::format("{}: {} columns padded with zeros to {} for block {}", tensor.name,
                                         tensor.shape.cols, cols, work.config.block);
    if (cols != tensor.shape.cols && padded_words.insert(word).second) notice(word);
    run_one(work, tensor, *context, config, options, store, log);
    if (options.progress) {
      options.progress(done, fmt::format("{} {} block {} {}", tensor.name, work.config.format->name, work.config.block,
                                         work.config.method->name));
    }
  }
}

}  // namespace

std::vector<io::Column> sweep_columns() {
  std::vector<io::Column> columns;
  for (const ColumnRow& c : column_rows) columns.push_back({c.name, c.unit, c.description});
  return columns;
}

SweepOutcome run_sweep(const SweepConfig& config, const SweepOptions& options) {
  Log log(options);
  const Notice notice = [&](const std::string& word) {
    log.notice(word);
    if (options.notice) options.notice(word);
  };
  const Plan plan = make_plan(config);
  for (const std::string& word : plan.skipped) notice(word);
  if (plan.work.empty()) throw UsageError("sweep", "nothing to do", "every combination was skipped, see above");
  const io::AtomicFile writable(options.out);  // an output that can't be written is better known now
  const std::string configuration = canonical_toml(config);
  io::RecordStore store = open_store(options, configuration, plan);
  log.take_runs(store.note("runs.json"));
  try {
    run_all(config, options, plan, store, log, notice);
  } catch (...) {
    if (store.keys().empty()) store.remove();
    throw;
  }
  SweepOutcome outcome = assemble(store, options, configuration, static_cast<std::int64_t>(config.seed), plan.work.size());
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
