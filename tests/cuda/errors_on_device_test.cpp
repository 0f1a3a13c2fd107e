// The claim of analysis/on_device.hpp and cuda::sum_errors: scales, codes, counts of choices and every sum of
// metrics.hpp are the CPU's, bit for bit; and a file that passes a GPU in pieces of rows has the bytes of one that is
// kept whole.
#include <bit>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "analysis/curvature.hpp"
#include "analysis/distributions.hpp"
#include "analysis/quantize_file.hpp"
#include "io/atomic_file.hpp"
#include "io/safetensors_writer.hpp"

namespace fp4scope::analysis {
namespace {

int failures = 0;
std::int64_t compared = 0;

void fail(const std::string& what) {
  if (++failures <= 30) std::printf("%s\n", what.c_str());
}

void same(double cpu, double gpu, const std::string& which) {
  ++compared;
  if (std::bit_cast<std::uint64_t>(cpu) == std::bit_cast<std::uint64_t>(gpu)) return;
  char text[120];
  std::snprintf(text, sizeof text, ": cpu %a, gpu %a", cpu, gpu);
  fail(which + text);
}

void same(std::int64_t cpu, std::int64_t gpu, const std::string& which) {
  ++compared;
  if (cpu != gpu) fail(which + ": cpu " + std::to_string(cpu) + ", gpu " + std::to_string(gpu));
}

void same(const std::vector<std::uint8_t>& cpu, const std::vector<std::uint8_t>& gpu, const std::string& which) {
  compared += static_cast<std::int64_t>(cpu.size());
  if (cpu.size() != gpu.size()) return fail(which + ": sizes differ");
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    if (cpu[i] == gpu[i]) continue;
    char text[80];
    std::snprintf(text, sizeof text, ": at %zu cpu 0x%02x, gpu 0x%02x", i, cpu[i], gpu[i]);
    return fail(which + text);
  }
}

void same(const RatioSums& cpu, const RatioSums& gpu, const std::string& which) {
  same(cpu.x, gpu.x, which + " x");
  same(cpu.y, gpu.y, which + " y");
  same(cpu.xx, gpu.xx, which + " xx");
  same(cpu.xy, gpu.xy, which + " xy");
  same(cpu.yy, gpu.yy, which + " yy");
  same(cpu.n, gpu.n, which + " n");
}

void same(const Metrics& cpu, const Metrics& gpu, const std::string& which) {
  same(cpu.energy, gpu.energy, which + " energy");
  same(cpu.sse, gpu.sse, which + " sse");
  same(cpu.max_error, gpu.max_error, which + " max_error");
  same(cpu.magnitude, gpu.magnitude, which + " magnitude");
  same(cpu.stored_magnitude, gpu.stored_magnitude, which + " stored_magnitude");
  same(cpu.elements, gpu.elements, which + " elements");
  same(cpu.zeros, gpu.zeros, which + " zeros");
  same(cpu.saturated, gpu.saturated, which + " saturated");
  same(cpu.blocks, gpu.blocks, which + " blocks");
  same(cpu.underflowed, gpu.underflowed, which + " underflowed");
  same(cpu.subnormal, gpu.subnormal, which + " subnormal");
  same(cpu.moved_up, gpu.moved_up, which + " moved_up");
  same(cpu.moved_down, gpu.moved_down, which + " moved_down");
  same(cpu.distance, gpu.distance, which + " distance");
  for (std::size_t i = 0; i < cpu.moves.size(); ++i) same(cpu.moves[i], gpu.moves[i], which + " moves");
  same(cpu.against_data, gpu.against_data, which + " against_data");
  same(cpu.against_naive, gpu.against_naive, which + " against_naive");
}

struct Shape {
  std::int64_t rows, cols;
};
constexpr Shape shapes[] = {{37, 90}, {1, 16}, {5, 7}, {130, 512}, {3, 2500}};

/// Values of many magnitudes; `special` puts NaN and Inf among them.
Matrix make_matrix(const Shape& shape, bool special) {
  Distribution d;
  d.kind = "student_t";
  d.rows = shape.rows;
  d.cols = shape.cols;
  Matrix m = sample(d);
  for (std::int64_t i = 0; i < m.size(); ++i) {
    float& x = m.data[static_cast<std::size_t>(i)];
    if (i / 16 % 5 == 1) x = std::ldexp(x, static_cast<int>(i / 80 % 40) - 30);
    if (i / 16 % 7 == 2) x = i % 16 == 3 ? x : 0;
    if (special && i % 331 == 5) x = i % 2 ? NAN : -INFINITY;
  }
  return m;
}

struct Words {
  const char *format, *method, *select = "", *tensor_scale = "", *recipe = "", *rounding = "";
  int block = 0;
  bool tiles = false;
};
constexpr Words cases[] = {
    {"nvfp4", "naive"},
    {"nvfp4", "static4"},
    {"nvfp4", "4over6", "mse"},
    {"nvfp4", "4over6", "mae"},
    {"nvfp4", "4over6", "absmax"},
    {"nvfp4", "4over6_prevent_zero", "mse"},
    {"nvfp4", "4over6", "mse", "", "", "stochastic_unbiased"},
    {"nvfp4", "4over6", "mse", "", "", "", 16, true},
    {"nvfp4", "sse"},
    {"nvfp4", "sse", "", "none"},
    {"nvfp4", "sse", "", "", "", "", 8, true},
    {"nvfp4", "scalesweep", "", "", "", "", 6},
    {"nvfp4", "naive", "", "", "", "stochastic"},
    {"mxfp4", "naive"},
    {"mxfp4", "sse"},
    {"nvint4", "sse"},
    {"mxint4", "naive"},
    {"if4", "naive", "mse"},
    {"if4", "naive", "absmax", "", "", "", 16, true},
    {"if4", "sse"},
    {"nvfp4", "4over6", "mse", "", "te"},
    {"nvfp4", "naive", "", "", "te", "", 16, true},
    {"if4", "naive", "", "", "fouroversix"},
    {"mxfp8_e4m3", "naive", "", "", "ocp"},
    {"nvfp4", "hessian"},
};

void check(OnDevice& gpu, const Words& w, const Shape& shape, bool special) {
  QuantizeConfig config =
      parse_config({w.format, w.method, w.select, w.tensor_scale, special && !*w.recipe ? "propagate" : "", w.block, 0,
                    w.recipe, w.rounding, w.tiles});
  if (special && (config.recipe ? !config.recipe->nan_defined : config.method->needs_hessian())) return;
  config.seed = 5;
  config.stream = 9;
  const std::string which = std::string(w.format) + " " + w.method + " " + w.select + " " + w.recipe + w.rounding +
                            (w.tiles ? " tiles" : "") + (special ? " special" : "") + " [" +
                            std::to_string(shape.rows) + ", " + std::to_string(shape.cols) + "]";
  if (!device_obstacle(config).empty()) return fail(which + ": " + device_obstacle(config));
  const Matrix m = make_matrix(shape, special);
  SyntheticActivations inputs;
  inputs.tokens = 24;
  const Curvature h =
      config.method->needs_hessian() ? curvature_of(sample(inputs, shape.cols), config.block, false) : Curvature{};
  const Curvature* const curvature = config.method->needs_hessian() ? &h : nullptr;
  const Quantized cpu = quantize(config, m, "m", curvature);
  Survey survey(m.cols);
  survey.add(m);
  gpu.load(cuda::Type::f32, m.rows, m.cols, m.data.data());
  Quantized q = gpu.quantize(config, {survey}, "m", curvature);
  MetricSums sums;
  sums.add(gpu.measure(q));
  gpu.download(q);
  same(cpu.scales, q.scales, which + " scales");
  same(cpu.codes, q.codes, which + " codes");
  same(cpu.amax, q.amax, which + " amax");
  same(cpu.tensor_scale, q.tensor_scale, which + " tensor scale");
  same(cpu.chose_second, q.chose_second, which + " chose_second");
  if (cpu.hessian_hash != q.hessian_hash) fail(which + " hash of H");
  same(measure(m, cpu), sums.metrics(), which);
}

/// One tensor, kept whole and in pieces of a few rows: of blocks, of tiles, with random numbers.
void check_pieces() {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "fp4scope_pieces_on_device";
  std::filesystem::create_directories(folder);
  const Matrix m = make_matrix({333, 200}, false);
  {
    io::SafetensorsWriter writer((folder / "in.safetensors").string(), {{"w", "F32", {m.rows, m.cols}}}, {});
    writer.write("w", std::as_bytes(std::span(m.data)));
    writer.commit();
  }
  constexpr Words kinds[] = {
      {"nvfp4", "sse"}, {"nvfp4", "sse", "", "", "", "", 16, true}, {"nvfp4", "naive", "", "", "", "stochastic"}};
  for (const Words& w : kinds) {
    std::string bytes[3];
    double errors[3] = {};
    for (const int way : {0, 1, 2}) {  // the CPU, a GPU, a GPU in pieces
      QuantizeFileOptions o;
      o.in = (folder / "in.safetensors").string();
      o.out = (folder / "out.safetensors").string();
      o.config = parse_config({w.format, w.method, "", "", "", w.block, 0, "", w.rounding, w.tiles});
      o.notice = [](const std::string&) {};
      o.dequantized = true;
      if (way > 0) o.devices = {0};
      o.device_memory = way == 2 ? 100000 : 0;
      errors[way] = quantize_file(o).at(0).weight_error;
      bytes[way] = io::read_text_file(o.out);
    }
    for (const int way : {1, 2}) {
      compared += static_cast<std::int64_t>(bytes[0].size());
      if (bytes[0] != bytes[way]) {
        fail(std::string("pieces, way ") + std::to_string(way) + " " + w.method + w.rounding +
             (w.tiles ? " tiles" : "") + ": file");
      }
      same(errors[0], errors[way], "pieces, weight error");
    }
  }
  std::filesystem::remove_all(folder);
}

int run() {
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  OnDevice gpu(0);
  for (const Words& words : cases) {
    for (const Shape& shape : shapes) {
      for (const bool special : {false, true}) check(gpu, words, shape, special);
    }
  }
  check_pieces();
  std::printf("%lld values compared, %d comparisons failed\n%s\n", static_cast<long long>(compared), failures,
              failures == 0 ? "all the same" : "DIFFERENT");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope::analysis

int main() { return fp4scope::analysis::run(); }
