#include "analysis/bench.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <limits>
#include <memory>

#include "analysis/distributions.hpp"
#include "analysis/names.hpp"
#include "analysis/on_device.hpp"
#include "analysis/quantize.hpp"
#include "cuda/cuda.hpp"
#include "formats/error.hpp"
#include "search/quantize_rows.hpp"

namespace fp4scope::analysis {

namespace {

constexpr double sigma = 0.024;  ///< about that of a projection's weights
constexpr double seconds_a_repeat = 1;

struct Case {
  const char* format;
  const char* method;
};

constexpr Case standard_cases[] = {{"nvfp4", "naive"},      {"nvfp4", "4over6"}, {"nvfp4", "sse"},
                                   {"nvfp4", "exhaustive"}, {"mxfp4", "naive"},  {"mxfp4", "sse"},
                                   {"nvfp4", "hessian"}};

/// The input, and room for the output, which earlier runs have touched.
struct Buffers {
  std::int64_t rows, cols;
  std::vector<std::uint16_t> x;  ///< [rows, cols], bf16 bits
  float amax = 0;
  std::vector<std::uint8_t> scales, packed;  ///< for blocks of 2 and larger
};

struct Times {
  double median_seconds;
  double least_cpu_seconds;
};

template <class Work>
Times time_once(const Work& work) {
  const std::clock_t cpu = std::clock();
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  return {wall.count(), static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

template <class Work>
Times time(int repeats, const Work& work) {
  std::vector<double> wall, cpu;
  for (int i = 0; i < repeats; ++i) {
    const Times t = time_once(work);
    wall.push_back(t.median_seconds);
    cpu.push_back(t.least_cpu_seconds);
  }
  return {median(wall), *std::min_element(cpu.begin(), cpu.end())};
}

QuantizeConfig config_of(const std::string& format, const std::string& method, const BenchWords& words) {
  QuantizeWords w;
  w.format = format;
  w.scale = method;
  w.block = words.block;
  QuantizeConfig c = parse_config(w);
  if (c.format->element.bits > 4) {
    throw UsageError("--format", fmt::format("{} has elements of {} bits", format, c.format->element.bits),
                     "bench search has formats of 4");
  }
  if (c.method->random() || c.method->gives_codes() || c.method->corrects()) {
    throw UsageError("--scale", fmt::format("{} does more than choose scales", c.method->name),
                     "bench search times methods that leave elements to the nearest");
  }
  if (words.cols % c.block != 0) {
    throw UsageError("--cols", fmt::format("{} is not a multiple of the block, {}", words.cols, c.block));
  }
  return c;
}

std::vector<QuantizeConfig> configs_of(const BenchWords& words) {
  if (std::find(distribution_names.begin(), distribution_names.end(), words.data) == distribution_names.end()) {
    throw UsageError("--data", "unknown distribution '" + words.data + "'", suggestion(words.data, distribution_names));
  }
  std::vector<QuantizeConfig> configs;
  if (words.format.empty() && words.scale.empty()) {
    for (const Case& c : standard_cases) configs.push_back(config_of(c.format, c.method, words));
    return configs;
  }
  configs.push_back(config_of(words.format, "naive", words));
  if (!words.scale.empty() && words.scale != "naive") configs.push_back(config_of(words.format, words.scale, words));
  return configs;
}

Buffers make_buffers(const BenchWords& words) {
  Buffers b = {words.rows, words.cols, {}, 0, {}, {}};
  Distribution d;
  d.kind = words.data;
  d.rows = words.rows;
  d.cols = words.cols;
  d.sigma = sigma;
  const Matrix m = sample(d);
  b.x.resize(m.data.size());
  for (std::size_t i = 0; i < m.data.size(); ++i) {
    b.x[i] = static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, m.data[i]) >> 16);
  }
  b.amax = sim::amax(m.data.data(), m.size());
  b.scales.assign(m.data.size() / 2, 1);
  b.packed.assign(m.data.size() / 2, 1);
  return b;
}

/// A copy of the input, each thread its share in one piece.
BenchRow bench_copy(const Buffers& b, int repeats, int threads) {
  std::vector<std::uint16_t> to(b.x.size(), 1);
  const auto copy = [&] {
#pragma omp parallel for schedule(static)
    for (int t = 0; t < threads; ++t) {
      const std::size_t share = b.x.size() / static_cast<std::size_t>(threads);
      const std::size_t first = share * static_cast<std::size_t>(t);
      const std::size_t n = t + 1 == threads ? b.x.size() - first : share;
      std::memcpy(to.data() + first, b.x.data() + first, 2 * n);
    }
  };
  copy();
  const Times times = time(repeats, copy);
  BenchRow row;
  row.format = "bf16";
  row.method = "memcpy";
  row.rows = b.rows;
  row.elements = b.rows * b.cols;
  row.median_seconds = times.median_seconds;
  row.least_cpu_seconds = times.least_cpu_seconds;
  return row;
}

/// As many rows as a repeat has time for, found with a few of them; these runs warm up as well.
template <class Work>
std::int64_t affordable_rows(std::int64_t rows, const Work& work) {
  std::int64_t n = std::max<std::int64_t>(rows / 256, 1);
  for (;;) {
    const double seconds = time_once([&] { work(n); }).median_seconds;
    const std::int64_t more = std::min(4 * n, rows);
    if (n == rows || seconds * static_cast<double>(more) / static_cast<double>(n) > seconds_a_repeat) return n;
    n = more;
  }
}

search::Hessians make_weights(const QuantizeConfig& c, std::int64_t cols) {
  if (!c.method->needs_hessian()) return {};
  const SyntheticActivations activations;
  const Matrix x = sample(activations, cols);
  return search::make_hessians(x.data.data(), x.rows, cols, c.block);
}

search::SearchTask make_task(const QuantizeConfig& c, const Buffers& b, const search::Hessians& hessians,
                             const std::atomic<bool>* stop) {
  search::SearchTask task = {};
  task.format = c.format;
  task.method = c.method;
  task.select = c.select;
  task.block = c.block;
  task.tensor_scale =
      c.scaling == TensorScaling::amax ? sim::tensor_scale(b.amax, c.format->element_max(), c.scale_max) : 1;
  task.hessians = c.method->needs_hessian() ? &hessians : nullptr;
  task.stop = stop;
  return task;
}

BenchRow bench_method(const QuantizeConfig& c, Buffers& b, int repeats, const std::atomic<bool>* stop) {
  const search::Hessians hessians = make_weights(c, b.cols);
  const search::SearchTask task = make_task(c, b, hessians, stop);
  search::RowsCount found;
  const auto work = [&](std::int64_t rows) {
    found = search::quantize_rows(task, b.x.data(), rows, b.cols, b.scales.data(), b.packed.data());
  };
  BenchRow row;
  row.format = c.format->name;
  row.method = c.method->name;
  row.block = c.block;
  row.rows = affordable_rows(b.rows, work);
  row.elements = row.rows * b.cols;
  const Times times = time(repeats, [&] { work(row.rows); });
  row.median_seconds = times.median_seconds;
  row.least_cpu_seconds = times.least_cpu_seconds;
  row.candidates_per_block = static_cast<double>(found.count.candidates * c.block) / static_cast<double>(row.elements);
  return row;
}

/// Input and output in a GPU's memory, so often that a round through them finds nothing in the cache.
struct DeviceBuffers {
  cuda::Stream stream;
  std::int64_t rows, cols;
  std::size_t copies;
  std::vector<cuda::Memory> x, to, scales, packed;

  DeviceBuffers(int device, const Buffers& b)
      : stream(device), rows(b.rows), cols(b.cols), copies(copies_of(device, 2 * b.rows * b.cols)) {
    for (std::size_t i = 0; i < copies; ++i) {
      x.emplace_back(device, 2 * rows * cols);
      to.emplace_back(device, 2 * rows * cols);
      scales.emplace_back(device, rows * cols / 2);
      packed.emplace_back(device, rows * cols / 2);
      stream.upload(x[i].as<void>(), b.x.data(), x[i].bytes());
    }
    stream.wait();
  }

  static std::size_t copies_of(int device, std::int64_t bytes) {
    const std::int64_t cache = cuda::devices()[static_cast<std::size_t>(device)].cache;
    return static_cast<std::size_t>(std::clamp<std::int64_t>((4 * cache + bytes - 1) / bytes, 2, 4096));
  }

  /// Seconds of work(i) on one of the copies, the median of rounds through all.
  template <class Work>
  double time(int repeats, const Work& work) {
    cuda::Timer timer(stream);
    std::vector<double> seconds;
    for (int k = -1; k < repeats; ++k) {  // the first round warms up
      timer.start();
      for (std::size_t i = 0; i < copies; ++i) work(i);
      timer.stop();
      const double round = timer.seconds();
      if (k >= 0) seconds.push_back(round / static_cast<double>(copies));
    }
    return median(seconds);
  }
};

BenchRow device_row(const char* format, const char* method, int block, const DeviceBuffers& b, double seconds) {
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  BenchRow row;
  row.format = format;
  row.method = method;
  row.block = block;
  row.rows = b.rows;
  row.elements = b.rows * b.cols;
  row.median_seconds = seconds;
  row.least_cpu_seconds = row.candidates_per_block = unknown;
  return row;
}

BenchRow bench_copy_on_device(DeviceBuffers& b, int repeats) {
  const double seconds =
      b.time(repeats, [&](std::size_t i) { b.stream.copy(b.to[i].as<void>(), b.x[i].as<void>(), b.x[i].bytes()); });
  return device_row("bf16", "memcpy", 0, b, seconds);
}

BenchRow bench_on_device(const QuantizeConfig& c, const Buffers& host, DeviceBuffers& b, int repeats) {
  const search::Hessians hessians = make_weights(c, b.cols);
  const search::SearchTask task = make_task(c, host, hessians, nullptr);
  const auto weights = task.hessians ? std::make_unique<cuda::DeviceHessians>(b.stream, hessians) : nullptr;
  const double seconds = b.time(repeats, [&](std::size_t i) {
    const cuda::Matrix x = {cuda::Type::bf16, b.x[i].as<void>(), b.rows, b.cols};
    auto* const scales = b.scales[i].as<std::uint8_t>();
    auto* const packed = b.packed[i].as<std::uint8_t>();
    if (weights) cuda::quantize_hessian(b.stream, task, *weights, x, scales, packed);
    else cuda::quantize(b.stream, task, x, scales, packed);
  });
  return device_row(c.format->name, c.method->name, c.block, b, seconds);
}

double seconds_an_element(const BenchRow& row) { return row.median_seconds / static_cast<double>(row.elements); }

/// Rates and ratios.
void relate(std::vector<BenchRow>& table, double threads) {
  for (BenchRow& row : table) {
    row.elements_per_second = 1 / seconds_an_element(row);
    row.elements_per_second_per_thread = row.elements_per_second / threads;
    row.to_memcpy = seconds_an_element(row) / seconds_an_element(table[0]);
    for (const BenchRow& other : table) {
      if (other.format == row.format && other.method == "naive") {
        row.to_naive = seconds_an_element(row) / seconds_an_element(other);
      }
    }
  }
}

}  // namespace

Bench bench_search(const BenchWords& words, const BenchProgress& progress, const std::atomic<bool>* stop) {
  const std::vector<QuantizeConfig> configs = configs_of(words);
  for (const QuantizeConfig& c : configs) {
    const std::string obstacle = words.device ? device_obstacle(c) : "";
    if (!obstacle.empty()) throw UsageError("--device", obstacle, device_has());
  }
  Bench bench = {words, omp_get_max_threads(), {}};
  progress(0, words.data);
  Buffers buffers = make_buffers(words);
  const auto gpu = words.device ? std::make_unique<DeviceBuffers>(*words.device, buffers) : nullptr;
  bench.table.push_back(gpu ? bench_copy_on_device(*gpu, words.repeats)
                            : bench_copy(buffers, words.repeats, bench.threads));
  for (std::size_t i = 0; i < configs.size(); ++i) {
    if (stop && *stop) break;
    const QuantizeConfig& c = configs[i];
    progress(static_cast<double>(i + 1) / static_cast<double>(configs.size() + 1),
             fmt::format("{} {}", c.format->name, c.method->name));
    bench.table.push_back(gpu ? bench_on_device(c, buffers, *gpu, words.repeats)
                              : bench_method(c, buffers, words.repeats, stop));
  }
  relate(bench.table, gpu ? std::numeric_limits<double>::quiet_NaN() : bench.threads);
  return bench;
}

}  // namespace fp4scope::analysis
