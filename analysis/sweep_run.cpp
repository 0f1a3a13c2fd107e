#include "analysis/sweep_run.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <span>
#include <thread>

#include "analysis/on_device.hpp"
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

/// A tensor's rows on a GPU, loaded when a run first asks for them.
class RowsOnDevice {
 public:
  RowsOnDevice(OnDevice& gpu, const PlannedTensor& tensor) : gpu_(gpu), tensor_(tensor) {}

  /// `rows`: those from `first` on.
  OnDevice& with(const Matrix& rows, std::int64_t first) {
    if (first == first_ && rows.rows == count_) return gpu_;
    const bool stored = tensor_.file && !tensor_.transform.rotated() && !tensor_.transform.transposed &&
                        tensor_.info->dtype.name != "F64";
    const cuda::Type type = stored ? device_type(tensor_.info->dtype.name) : cuda::Type::f32;
    const std::int64_t skipped = first * rows.cols * cuda::width(type);
    const void* const x = stored ? static_cast<const void*>(tensor_.file->raw(*tensor_.info).data() + skipped)
                                 : static_cast<const void*>(rows.data.data());
    gpu_.load(type, rows.rows, rows.cols, x);
    first_ = first;
    count_ = rows.rows;
    return gpu_;
  }

 private:
  OnDevice& gpu_;
  const PlannedTensor& tensor_;
  std::int64_t first_ = -1, count_ = 0;
};

/// One piece through one run on a GPU.
void run_on_device(OnDevice& gpu, const QuantizeConfig& config, const std::string& where, const Matrix& rows,
                   const Curvature* curvature, const Piece& piece, RunSums& sums) {
  Quantized q = gpu.quantize(config, piece, where, curvature);
  const MeasuredRows measured = gpu.measure(q);
  if (sums.needs_codes()) gpu.download(q);
  sums.add(rows, std::move(q), &measured);
}

/// One piece through one run; false if it was stopped.
bool run_piece(Sweep& sweep, const PlannedTensor& tensor, Layer& layer, const Matrix& rows, std::int64_t first,
               RowsOnDevice* device, Run& run) {
  const double start = SweepLog::now();
  const QuantizeConfig& config = run.work->config;
  const search::Method& method = *config.method;
  const Curvature* const curvature =
      method.needs_hessian() ? layer.curvature(config.block, method.needs_full_hessian()) : nullptr;
  const Piece piece = {layer.survey(), first};
  const std::string where = tensor.input_name + ": " + tensor.name;
  const std::string obstacle = device ? device_obstacle(config) : "";
  if (!obstacle.empty()) sweep.notice(obstacle);
  if (device && obstacle.empty()) {
    run_on_device(device->with(rows, first), config, where, rows, curvature, piece, run.sums);
  } else {
    Quantized q = quantize(config, rows, where, curvature, sweep.options.stop, &piece);
    if (sweep.stopped()) return false;
    run.sums.add(rows, std::move(q));
  }
  run.seconds += SweepLog::now() - start;
  sweep.advance(*run.work, tensor, static_cast<double>(rows.rows) / static_cast<double>(tensor.shape.rows));
  return true;
}

/// Some runs of a tensor, `rows_at_once` rows at a time.
void run_group(Sweep& sweep, const PlannedTensor& tensor, Layer& layer, std::span<const Work* const> group,
               std::int64_t rows_at_once, RowsOnDevice* device) {
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
      if (sweep.stopped() || !run_piece(sweep, tensor, layer, rows, first, device, run)) return;
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

/// All pending runs of a tensor, on a GPU where it can do them and unless null.
void run_tensor(Sweep& sweep, const TensorWork& work, std::int64_t memory, OnDevice* gpu = nullptr) {
  const PlannedTensor& tensor = *work.tensor;
  const Notice notice = [&sweep](const std::string& word) { sweep.notice(word); };
  const std::int64_t rows_at_once = rows_within(memory, tensor.shape, 1);
  Layer layer(sweep.config, sweep.plan, tensor, rows_at_once, notice);
  const bool kept = rows_at_once == tensor.shape.rows;
  std::optional<RowsOnDevice> device;
  if (gpu) device.emplace(*gpu, tensor);
  for (std::span<const Work* const> left = work.pending; !left.empty() && !sweep.stopped();) {
    const QuantizeConfig& config = left[0]->config;
    const bool whole = kept || needs_whole_tensor(config);
    if (whole && !kept) {
      const std::int64_t bytes = tensor.shape.rows * tensor.shape.cols * bytes_per_element;
      notice(fmt::format("{}: taken whole, about {} MiB, for its tensor scale is searched", tensor.name, bytes >> 20));
    }
    const std::size_t count = kept ? 1 : count_together(left, sweep.config.per_block);
    run_group(sweep, tensor, layer, left.first(count),
              whole ? tensor.shape.rows : rows_within(memory, tensor.shape, config.tile_rows()),
              device ? &*device : nullptr);
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

/// Failures of tensors in flight. Those before one that fails are run to their end, so that the first failure of all is
/// the one that is told.
class Failures {
 public:
  explicit Failures(std::size_t count) : all_(count), first_(count) {}

  bool before(std::size_t i) const { return first_ < i; }
  template <class Work>
  void guard(std::size_t i, const Work& work) {
    try {
      work();
    } catch (...) {
      all_[i] = std::current_exception();
      std::size_t first = first_;
      while (i < first && !first_.compare_exchange_weak(first, i)) {
      }
    }
  }
  void tell() const {
    if (first_ < all_.size()) std::rethrow_exception(all_[first_]);
  }

 private:
  std::vector<std::exception_ptr> all_;
  std::atomic<std::size_t> first_;
};

/// Tensors side by side, each on one core.
void run_side_by_side(Sweep& sweep, const std::vector<const TensorWork*>& works, std::int64_t memory) {
  Failures failures(works.size());
#pragma omp parallel for schedule(dynamic, 1)
  for (std::size_t i = 0; i < works.size(); ++i) {
    if (failures.before(i) || sweep.stopped()) continue;
    failures.guard(i, [&] { run_tensor(sweep, *works[i], memory); });
  }
  failures.tell();
}

/// Tensors on GPUs: the most work first, so that none is left alone with it at the end.
void run_on_devices(Sweep& sweep, const std::vector<TensorWork>& all) {
  constexpr int most_a_device = 4;
  const auto devices = static_cast<int>(sweep.options.devices.size());
  const int cores = omp_get_max_threads(), count = devices * std::clamp(cores / devices, 1, most_a_device);
  std::vector<std::size_t> order(all.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return all[a].cost > all[b].cost; });
  Failures failures(all.size());
  std::atomic<std::size_t> next = 0;
  const auto take = [&](int device) {
    omp_set_num_threads(std::max(1, cores / count));
    std::unique_ptr<OnDevice> gpu;
    for (std::size_t k = next++; k < all.size() && !sweep.stopped(); k = next++) {
      const std::size_t i = order[k];
      if (failures.before(i)) continue;
      failures.guard(i, [&] {
        if (!gpu) gpu = std::make_unique<OnDevice>(device);
        run_tensor(sweep, all[i], sweep.options.memory / count, gpu.get());
      });
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < std::min<int>(count, static_cast<int>(all.size())); ++i) {
    threads.emplace_back(take, sweep.options.devices[static_cast<std::size_t>(i % devices)]);
  }
  for (std::thread& thread : threads) thread.join();
  failures.tell();
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
  if (!options.devices.empty()) return run_on_devices(sweep, all);

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
