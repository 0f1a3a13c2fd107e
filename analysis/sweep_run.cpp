#include "analysis/sweep_run.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <span>

#include "analysis/run_sums.hpp"
#include "analysis/sweep_record.hpp"

namespace fp4scope::analysis {

namespace {

/// What an element takes while a run is at it: its value and a padded copy in binary32, its code, shares of its block's
/// scale, squared error and search.
constexpr std::int64_t bytes_per_element = 12;

/// Runs that share one reading of a tensor that is not kept.
constexpr std::size_t most_together = 8;

/// What has yet to be done with a tensor.
struct TensorWork {
  const PlannedTensor* tensor = nullptr;
  std::vector<const Work*> pending;
  double cost = 0;
  std::int64_t bytes = 0;  ///< with the layer's inputs and their H
};

/// What tensors in flight share.
struct Sweep {
  const SweepConfig& config;
  const SweepOptions& options;
  const Plan& plan;
  io::RecordStore& store;
  SweepLog& log;
  const Notice& tell;

  std::int64_t tokens = 0;
  double total = 0, done = 0;
  std::set<std::string> words = {};
  std::mutex mutex = {};

  bool stopped() const { return options.stop && *options.stop; }

  /// A word, once.
  void notice(const std::string& word) {
    const std::scoped_lock lock(mutex);
    if (words.insert(word).second) tell(word);
  }

  void advance(const Work& work, const PlannedTensor& tensor, double share) {
    const std::scoped_lock lock(mutex);
    done += share * cost(work, tensor, tokens) / total;
    if (!options.progress) return;
    options.progress(std::min(done, 1.0), fmt::format("{} {} block {} {}", tensor.name, work.config.format->name,
                                                      work.config.block, work.config.method->name));
  }
};

/// A run on its way through a tensor.
struct Run {
  const Work* work;
  RunSums sums;
  double seconds = 0;
};

void store_run(Sweep& sweep, const PlannedTensor& tensor, const Layer& layer, const Run& run) {
  const Work& work = *run.work;
  const std::optional<Parts> parts = run.sums.parts();
  const io::Record record =
      make_record({work, tensor, layer, run.sums.quantized(), run.sums.metrics(), parts ? &*parts : nullptr},
                  run.sums.block_sse(), sweep.config.per_block);
  const std::scoped_lock lock(sweep.mutex);
  sweep.store.put(work.run, record);
  sweep.store.put_note("log-" + work.run, sweep.log.run(work.run, run.seconds, run.sums.quantized().count));
}

/// One piece through one run; false if it was stopped.
bool run_piece(Sweep& sweep, const PlannedTensor& tensor, Layer& layer, const Matrix& rows, std::int64_t first,
               Run& run) {
  const double start = SweepLog::now();
  const QuantizeConfig& config = run.work->config;
  const search::Method& method = *config.method;
  const Curvature* const curvature =
      method.needs_hessian() ? layer.curvature(config.block, method.needs_full_hessian()) : nullptr;
  const Piece piece = {layer.survey(), first};
  Quantized q = quantize(config, rows, tensor.input_name + ": " + tensor.name, curvature, sweep.options.stop, &piece);
  if (sweep.stopped()) return false;
  run.sums.add(rows, std::move(q));
  run.seconds += SweepLog::now() - start;
  sweep.advance(*run.work, tensor, static_cast<double>(rows.rows) / static_cast<double>(tensor.shape.rows));
  return true;
}

/// Some runs of a tensor, `rows_at_once` rows at a time.
void run_group(Sweep& sweep, const PlannedTensor& tensor, Layer& layer, std::span<const Work* const> group,
               std::int64_t rows_at_once) {
  std::vector<Run> runs;
  for (const Work* work : group) {
    const std::int64_t cols = padded(tensor.shape.cols, work->config.block);
    if (cols != tensor.shape.cols) {
      sweep.notice(fmt::format("{}: {} columns padded with zeros to {} for block {}", tensor.name, tensor.shape.cols,
                               cols, work->config.block));
    }
    runs.push_back({work, RunSums({tensor.shape.rows, layer.activations.get(), layer.reference_output_energy,
                                   sweep.config.per_block, sweep.config.decompose, layer.inputs()})});
  }
  for (std::int64_t first = 0; first < tensor.shape.rows; first += rows_at_once) {
    const Matrix& rows = layer.rows(first, std::min(rows_at_once, tensor.shape.rows - first));
    for (Run& run : runs) {
      if (sweep.stopped() || !run_piece(sweep, tensor, layer, rows, first, run)) return;
    }
  }
  for (const Run& run : runs) store_run(sweep, tensor, layer, run);
}

/// Rows at a time of a tensor that must not take more than `memory`: all, or nearly equal pieces of whole tiles.
std::int64_t rows_within(std::int64_t memory, const Shape2d& shape, std::int64_t tile_rows) {
  const std::int64_t row_bytes = shape.cols * bytes_per_element;
  const std::int64_t most = std::max<std::int64_t>(memory / row_bytes / tile_rows, 1) * tile_rows;
  if (most >= shape.rows) return shape.rows;
  const std::int64_t pieces = (shape.rows + most - 1) / most;
  return ((shape.rows + pieces - 1) / pieces + tile_rows - 1) / tile_rows * tile_rows;
}

/// How many of the first runs share the next reading: those of one block size, for which H is at hand.
std::size_t count_together(std::span<const Work* const> works, bool per_block) {
  const auto apart = [&](const Work* work) {
    return needs_whole_tensor(work->config) || work->config.block != works[0]->config.block ||
           work->config.tiles != works[0]->config.tiles;
  };
  if (apart(works[0]) || per_block) return 1;
  std::size_t count = 1;
  while (count < std::min(works.size(), most_together) && !apart(works[count])) ++count;
  return count;
}

/// All pending runs of a tensor.
void run_tensor(Sweep& sweep, const TensorWork& work, std::int64_t memory) {
  const PlannedTensor& tensor = *work.tensor;
  const Notice notice = [&sweep](const std::string& word) { sweep.notice(word); };
  const std::int64_t rows_at_once = rows_within(memory, tensor.shape, 1);
  Layer layer(sweep.config, sweep.plan, tensor, rows_at_once, notice);
  const bool kept = rows_at_once == tensor.shape.rows;
  for (std::span<const Work* const> left = work.pending; !left.empty() && !sweep.stopped();) {
    const QuantizeConfig& config = left[0]->config;
    const bool whole = kept || needs_whole_tensor(config);
    if (whole && !kept) {
      const std::int64_t bytes = tensor.shape.rows * tensor.shape.cols * bytes_per_element;
      notice(fmt::format("{}: taken whole, about {} MiB, for its tensor scale is searched", tensor.name, bytes >> 20));
    }
    const std::size_t count = kept ? 1 : count_together(left, sweep.config.per_block);
    run_group(sweep, tensor, layer, left.first(count),
              whole ? tensor.shape.rows : rows_within(memory, tensor.shape, config.tile_rows()));
    left = left.subspan(count);
  }
}

std::vector<TensorWork> pending_work(const Sweep& sweep) {
  std::vector<TensorWork> all;
  for (const Work& work : sweep.plan.work) {
    if (sweep.store.has(work.run)) continue;
    const PlannedTensor& tensor = sweep.plan.tensors[work.tensor];
    if (all.empty() || all.back().tensor != &tensor) {
      all.push_back({&tensor, {}, 0, 0});
      all.back().bytes = tensor.shape.cols * (tensor.shape.rows * bytes_per_element + sweep.tokens * bytes_per_element);
    }
    const search::Method& method = *work.config.method;
    const std::int64_t cols = padded(tensor.shape.cols, work.config.block);
    if (method.needs_hessian()) all.back().bytes += 8 * cols * work.config.block;
    if (method.needs_full_hessian()) all.back().bytes += 3 * 8 * cols * cols;  // H, its factor, room
    all.back().pending.push_back(&work);
    all.back().cost += cost(work, tensor, sweep.tokens);
  }
  return all;
}

/// Tensors side by side, each on one core. Those before one that fails are run to their end, so that the first failure
/// of all is the one that is told.
void run_side_by_side(Sweep& sweep, const std::vector<const TensorWork*>& works, std::int64_t memory) {
  std::vector<std::exception_ptr> failures(works.size());
  std::atomic<std::size_t> first_failure = works.size();
#pragma omp parallel for schedule(dynamic, 1)
  for (std::size_t i = 0; i < works.size(); ++i) {
    if (i > first_failure || sweep.stopped()) continue;
    try {
      run_tensor(sweep, *works[i], memory);
    } catch (...) {
      failures[i] = std::current_exception();
      std::size_t first = first_failure;
      while (i < first && !first_failure.compare_exchange_weak(first, i)) {
      }
    }
  }
  if (first_failure < works.size()) std::rethrow_exception(failures[first_failure]);
}

}  // namespace

void run_plan(const SweepConfig& config, const SweepOptions& options, const Plan& plan, io::RecordStore& store,
              SweepLog& log, const Notice& notice) {
  Sweep sweep = {config, options, plan, store, log, notice};
  if (config.activations.kind == ActivationsSpec::Kind::synthetic) sweep.tokens = config.activations.synthetic.tokens;
  if (config.activations.kind == ActivationsSpec::Kind::file) sweep.tokens = plan.activations.rows;
  for (const Work& work : plan.work) sweep.total += cost(work, plan.tensors[work.tensor], sweep.tokens);
  const std::vector<TensorWork> all = pending_work(sweep);
  double pending = 0;
  for (const TensorWork& work : all) pending += work.cost;
  sweep.done = 1 - pending / sweep.total;

  // Small: all cores have one in memory, and none of them is so much work that the others would wait for it.
  const int threads = omp_get_max_threads();
  const auto small = [&](const TensorWork& work) {
    return threads > 1 && work.bytes <= options.memory / threads && work.cost <= pending / (4 * threads);
  };
  std::vector<const TensorWork*> side_by_side, one_by_one;
  for (const TensorWork& work : all) (small(work) ? side_by_side : one_by_one).push_back(&work);
  run_side_by_side(sweep, side_by_side, options.memory / threads);
  for (const TensorWork* work : one_by_one) {
    if (!sweep.stopped()) run_tensor(sweep, *work, options.memory);
  }
}

}  // namespace fp4scope::analysis
