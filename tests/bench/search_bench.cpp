// bf16 weights in memory to scales and packed codes: methods against threads, and against the number of elements.
// Counters: elements a second, candidates a block. `--benchmark_filter=sse` and so on.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cstring>
#include <string>

#include "search/quantize_rows.hpp"
#include "tests/bench/data.hpp"

namespace fp4scope {
namespace {

constexpr std::int64_t rows = 2560, cols = 9728;

struct Case {
  const char* format;
  const char* method;
  std::int64_t rows;  ///< fewer where one thread takes long
};

constexpr Case cases[] = {{"nvfp4", "naive", rows},    {"nvfp4", "4over6", rows}, {"nvfp4", "sse", rows},
                          {"nvfp4", "exhaustive", 16}, {"mxfp4", "naive", rows},  {"mxfp4", "sse", rows}};

const bench::Weights& data() {
  static const bench::Weights w = bench::weights(rows * cols);
  return w;
}

void count_elements(benchmark::State& state, std::int64_t elements) {
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * elements);
}

void quantize(benchmark::State& state, const Case& c, std::int64_t used, int threads) {
  const formats::BlockFormat& format = *formats::find_block_format(c.format);
  search::SearchTask task = {};
  task.format = &format;
  task.method = search::find_method(c.format, c.method);
  task.block = format.block;
  const int scale_max = task.method->scale_max != 0 ? task.method->scale_max : format.scale_max;
  if (format.tensor_scaled) task.tensor_scale = sim::tensor_scale(data().amax, format.element_max(), scale_max);
  std::vector<std::uint8_t> scales(static_cast<std::size_t>(used * cols / task.block), 1),
      packed(scales.size() * static_cast<std::size_t>(task.block) / 2, 1);
  omp_set_num_threads(threads);
  std::int64_t candidates = 0;
  for (auto _ : state) {
    candidates =
        search::quantize_rows(task, data().bits.data(), used, cols, scales.data(), packed.data()).count.candidates;
    benchmark::ClobberMemory();
  }
  count_elements(state, used * cols);
  state.counters["candidates/block"] = static_cast<double>(candidates) / static_cast<double>(scales.size());
}

void copy(benchmark::State& state) {
  std::vector<std::uint16_t> to(data().bits.size(), 1);
  for (auto _ : state) {
    std::memcpy(to.data(), data().bits.data(), 2 * to.size());
    benchmark::ClobberMemory();
  }
  count_elements(state, static_cast<std::int64_t>(to.size()));
}

void with_threads(benchmark::State& state, const Case& c) {
  quantize(state, c, c.rows, static_cast<int>(state.range(0)));
}

void with_rows(benchmark::State& state, const Case& c) {
  quantize(state, c, state.range(0), 1);
  state.SetComplexityN(state.range(0));
}

void add_benchmarks() {
  benchmark::RegisterBenchmark("memcpy of the input", copy)->Unit(benchmark::kMillisecond)->UseRealTime();
  for (const Case& c : cases) {
    const std::string name = std::string(c.format) + " " + c.method;
    benchmark::RegisterBenchmark((name + "/threads").c_str(), with_threads, c)
        ->RangeMultiplier(2)
        ->Range(1, omp_get_num_procs())
        ->Unit(benchmark::kMillisecond)
        ->MeasureProcessCPUTime()
        ->UseRealTime();
  }
  for (const Case& c : {cases[0], cases[2]}) {
    const std::string name = std::string(c.format) + " " + c.method;
    benchmark::RegisterBenchmark((name + "/rows").c_str(), with_rows, c)
        ->RangeMultiplier(4)
        ->Range(rows / 64, rows)
        ->Unit(benchmark::kMillisecond)
        ->Complexity(benchmark::oN);
  }
}

}  // namespace
}  // namespace fp4scope

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  fp4scope::add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
}
