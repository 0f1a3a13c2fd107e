// Floats in the first-level cache to codes, in every width of vector; at tensor scale 1 bf16 values lie on thresholds.
#include <benchmark/benchmark.h>
#include <hwy/highway.h>

#include <string>

#include "sim/encode_lanes.hpp"
#include "sim/grid.hpp"
#include "sim/scale.hpp"
#include "tests/bench/data.hpp"

namespace fp4scope {
namespace {

constexpr std::int64_t n = 2048;

struct Input {
  bench::Weights weights = bench::weights(n);
  std::vector<float> x = std::vector<float>(n);
  std::vector<std::uint8_t> scales, codes = std::vector<std::uint8_t>(n);
};

Input make_input(const formats::BlockFormat& format, float tensor_scale) {
  Input in;
  sim::widen_bf16(in.weights.bits.data(), n, in.x.data());
  for (std::int64_t i = 0; i < n; i += format.block) {
    const float amax = sim::amax(in.x.data() + i, format.block);
    in.scales.push_back(static_cast<std::uint8_t>(sim::scale_code(format.scale, sim::six_rule, amax, tensor_scale)));
  }
  return in;
}

/// Leaves the width as it was: the widest.
template <class Work>
void run(benchmark::State& state, std::int64_t width, const Work& work) {
  hwy::GetChosenTarget().Update(width);
  for (auto _ : state) {
    work();
    benchmark::ClobberMemory();
  }
  hwy::GetChosenTarget().DeInit();
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * n);
}

void packed(benchmark::State& state, const formats::BlockFormat& f, float t, std::int64_t width) {
  Input in = make_input(f, t);
  run(state, width,
      [&] { sim::encode_blocks_packed(f, t, in.x.data(), n / f.block, f.block, in.scales.data(), in.codes.data()); });
}

void bytes(benchmark::State& state, const formats::BlockFormat& f, float t, std::int64_t width) {
  Input in = make_input(f, t);
  run(state, width,
      [&] { sim::encode_blocks(f, t, in.x.data(), n / f.block, f.block, in.scales.data(), in.codes.data()); });
}

void widen(benchmark::State& state, std::int64_t width) {
  Input in = make_input(formats::nvfp4, 1);
  run(state, width, [&] { sim::widen_bf16(in.weights.bits.data(), n, in.x.data()); });
}

void add_benchmarks() {
  for (const std::int64_t width : {HWY_AVX3, HWY_AVX2, HWY_SSE4, HWY_SCALAR}) {
    if ((hwy::SupportedTargets() & width) == 0) continue;
    const std::string name = std::string("/") + hwy::TargetName(width);
    for (const formats::BlockFormat& f : {formats::nvfp4, formats::mxfp4, formats::nvint4}) {
      benchmark::RegisterBenchmark((f.name + std::string(" packed") + name).c_str(), packed, f, 0x1.9p-15f, width);
    }
    benchmark::RegisterBenchmark(("nvfp4 packed, tensor scale 1" + name).c_str(), packed, formats::nvfp4, 1.0f, width);
    benchmark::RegisterBenchmark(("nvfp4 bytes" + name).c_str(), bytes, formats::nvfp4, 0x1.9p-15f, width);
    benchmark::RegisterBenchmark(("widen bf16" + name).c_str(), widen, width);
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
