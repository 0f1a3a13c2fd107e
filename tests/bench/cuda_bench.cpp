// Milliseconds of every kernel on a matrix of 8192x4096 weights in a GPU's memory, against the floor: the time that the
// device's own copy would take to move the same bytes, weights read once, codes and scales written once.
//
//   cuda_bench [--check] [--quick]
//
// Launches go round several copies of the buffers, more than any second-level cache holds. A time is that of ten
// launches queued between two events, divided by ten, so that the host's part of a launch doesn't count but the gaps
// between dependent kernels do; the median of eight such. --check compares with the kernels of plain functions: rules
// and 4over6 with the same method, sse with exhaustive, byte for byte. --quick: a sixteenth of the rows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/cuda.hpp"
#include "formats/error.hpp"
#include "sim/recipes.hpp"

namespace fp4scope {
namespace {

constexpr std::int64_t cols = 4096;
constexpr int buffers = 4, launches = 10, repeats = 8;

enum class Draw : std::uint8_t { normal, student };

/// What comes before the scales.
enum class Pass : std::uint8_t {
  none,  ///< the tensor scale is given
  amax,  ///< find_tensor_scale, and quantize takes it from the device
};

struct Row {
  const char* format;
  const char* method;
  int block;
  Pass pass = Pass::none;
  cuda::Type type = cuda::Type::bf16;
  const char* recipe = nullptr;  ///< null: exact
};

constexpr Row rows_of_table[] = {
    {"nvfp4", "naive", 16},
    {"nvfp4", "naive", 16, Pass::amax},
    {"nvfp4", "naive", 16, Pass::none, cuda::Type::f16},
    {"nvfp4", "naive", 16, Pass::none, cuda::Type::f32},
    {"nvfp4", "naive", 32},
    {"nvfp4", "static4", 16},
    {"nvfp4", "4over6", 16},
    {"nvfp4", "4over6", 16, Pass::none, cuda::Type::f32},
    {"nvfp4", "sse", 16},
    {"nvfp4", "sse", 16, Pass::amax},
    {"nvfp4", "sse", 32},
    {"nvfp4", "sse", 16, Pass::none, cuda::Type::f32},
    {"mxfp4", "naive", 32},
    {"mxfp4", "rceil", 32},
    {"mxfp4", "naive", 32, Pass::none, cuda::Type::f32},
    {"mxfp4", "sse", 32},
    {"mxfp4", "sse", 16},
    {"mxfp4", "sse", 32, Pass::none, cuda::Type::f32},
    {"nvint4", "naive", 16},
    {"nvint4", "sse", 16},
    {"nvfp4", "naive", 16, Pass::none, cuda::Type::bf16, "te"},
    {"nvfp4", "4over6", 16, Pass::none, cuda::Type::bf16, "te"},
    {"nvfp4", "hessian", 16},
    {"nvint4", "hessian", 16},
    {"nvfp4", "hessian", 32},
    {"mxfp4", "hessian", 32},
};

/// The same numbers every time: each row of the matrix has its own generator.
std::vector<float> draw(Draw kind, std::int64_t rows) {
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    std::mt19937_64 words(static_cast<std::uint64_t>(row));
    std::normal_distribution<float> normal(0, 0.02f);
    std::student_t_distribution<float> student(5);
    for (std::int64_t col = 0; col < cols; ++col) {
      x[static_cast<std::size_t>(row * cols + col)] = kind == Draw::normal ? normal(words) : 0.02f * student(words);
    }
  }
  return x;
}

/// The bytes of the matrix in a type, each element rounded to nearest.
std::vector<unsigned char> as_type(const std::vector<float>& x, cuda::Type type) {
  std::vector<unsigned char> bytes(x.size() * static_cast<std::size_t>(cuda::width(type)));
  const std::int64_t width = cuda::width(type), n = static_cast<std::int64_t>(x.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = x[static_cast<std::size_t>(i)];
    std::uint32_t bits = __builtin_bit_cast(std::uint32_t, v);
    if (type == cuda::Type::bf16) bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    if (type == cuda::Type::f16) bits = formats::encode(formats::fp16, static_cast<double>(v)).code;
    std::memcpy(bytes.data() + i * width, &bits, static_cast<std::size_t>(width));
  }
  return bytes;
}

float value_of(cuda::Type type, const unsigned char* at) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, at, static_cast<std::size_t>(cuda::width(type)));
  if (type == cuda::Type::bf16) return __builtin_bit_cast(float, bits << 16);
  if (type == cuda::Type::f16) return formats::decode_float(formats::fp16, bits);
  return __builtin_bit_cast(float, bits);
}

float amax_of(const std::vector<unsigned char>& bytes, cuda::Type type) {
  const std::int64_t width = cuda::width(type), n = static_cast<std::int64_t>(bytes.size()) / width;
  float amax = 0;
#pragma omp parallel for reduction(max : amax)
  for (std::int64_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(value_of(type, bytes.data() + i * width)));
  return amax;
}

/// The median milliseconds of one launch of work(buffer).
template <class Work>
double milliseconds(cuda::Stream& stream, const Work& work) {
  cuda::Timer timer(stream);
  std::vector<double> times;
  int buffer = 0;
  for (int i = 0; i < launches; ++i) work(buffer++ % buffers);  // warm
  for (int r = 0; r < repeats; ++r) {
    timer.start();
    for (int i = 0; i < launches; ++i) work(buffer++ % buffers);
    timer.stop();
    times.push_back(timer.seconds() * 1e3 / launches);
    if (times.back() > 5) break;  // a plain kernel: once is enough
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// One type's matrix in several places, and room for what comes of it.
struct Buffers {
  cuda::Type type;
  std::int64_t rows;
  float amax;
  std::vector<cuda::Memory> x, scales, packed;
  cuda::Memory extremes, tensor_scale;

  Buffers(cuda::Stream& stream, const std::vector<float>& values, cuda::Type of)
      : type(of),
        rows(static_cast<std::int64_t>(values.size()) / cols),
        extremes(stream.device(), sizeof(cuda::Extremes)),
        tensor_scale(stream.device(), 4) {
    const std::vector<unsigned char> bytes = as_type(values, type);
    amax = amax_of(bytes, type);
    for (int i = 0; i < buffers; ++i) {
      x.emplace_back(stream.device(), static_cast<std::int64_t>(bytes.size()));
      scales.emplace_back(stream.device(), rows * cols / 16);
      packed.emplace_back(stream.device(), rows * cols / 2);
      stream.upload(x.back().as<void>(), bytes.data(), x.back().bytes());
    }
    stream.wait();
  }
  cuda::Matrix matrix(int i) const { return {type, x[static_cast<std::size_t>(i)].as<void>(), rows, cols}; }
  std::uint8_t* scales_of(int i) const { return scales[static_cast<std::size_t>(i)].as<std::uint8_t>(); }
  std::uint8_t* packed_of(int i) const { return packed[static_cast<std::size_t>(i)].as<std::uint8_t>(); }
};

/// H of inputs whose neighbouring channels are correlated by 0.9.
search::Hessians make_curvature(int block) {
  constexpr std::int64_t tokens = 128;
  std::vector<float> x(static_cast<std::size_t>(tokens * cols));
  std::mt19937_64 words(7);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = i % cols == 0 ? normal(words) : 0.9f * x[i - 1] + 0.43589f * normal(words);
  }
  return search::make_hessians(x.data(), tokens, cols, block);
}

bool is_hessian(const Row& row) { return std::strcmp(row.method, "hessian") == 0; }

search::RecipeTask recipe_task(const Row& row, float amax) {
  const sim::Recipe* const recipe = sim::find_recipe(row.recipe, row.format, row.method);
  return {recipe, formats::find_block_format(row.format), sim::recipe_tensor(*recipe, amax, recipe->scale_max)};
}

search::SearchTask task_of(const Row& row, float amax) {
  search::SearchTask task = {};
  task.format = formats::find_block_format(row.format);
  task.method = search::find_method(row.format, row.method);
  task.block = row.block;
  const int scale_max = task.method->scale_max != 0 ? task.method->scale_max : task.format->scale_max;
  if (task.format->tensor_scaled) task.tensor_scale = sim::tensor_scale(amax, task.format->element_max(), scale_max);
  return task;
}

/// Queues the work of a row on buffer i.
void launch(cuda::Stream& stream, const Row& row, const search::SearchTask& task,
            const cuda::DeviceHessians* hessians, const Buffers& b, int i) {
  if (row.recipe) {
    return cuda::quantize_recipe(stream, recipe_task(row, b.amax), row.block, 1, b.matrix(i), b.scales_of(i),
                                 b.packed_of(i));
  }
  if (hessians) {
    return cuda::quantize_hessian(stream, task, *hessians, b.matrix(i), b.scales_of(i), b.packed_of(i));
  }
  if (row.pass == Pass::none) return cuda::quantize(stream, task, b.matrix(i), b.scales_of(i), b.packed_of(i));
  const int scale_max = task.method->scale_max != 0 ? task.method->scale_max : task.format->scale_max;
  auto* const extremes = b.extremes.as<cuda::Extremes>();
  cuda::find_tensor_scale(stream, b.type, b.matrix(i).x, b.rows * cols, task.format->element_max(), scale_max, extremes,
                          b.tensor_scale.as<float>());
  cuda::quantize(stream, task, b.matrix(i), b.scales_of(i), b.packed_of(i), b.tensor_scale.as<float>());
}

std::vector<std::uint8_t> downloaded(cuda::Stream& stream, const std::uint8_t* from, std::int64_t n) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(n));
  stream.download(bytes.data(), from, n);
  stream.wait();
  return bytes;
}

std::int64_t differing(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
  std::int64_t n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += a[i] != b[i];
  return n;
}

/// How many scales and bytes of codes are not those of the plain kernel, for sse of the exhaustive one.
std::string compared(cuda::Stream& stream, const Row& row, search::SearchTask task, const Buffers& b) {
  if (is_hessian(row)) return "not compared here";
  const std::int64_t scales = b.rows * cols / row.block, bytes = b.rows * cols / 2;
  stream.fill(b.scales_of(0), 0xAA, scales);
  stream.fill(b.packed_of(0), 0xAA, bytes);
  launch(stream, row, task, nullptr, b, 0);
  const auto got_scales = downloaded(stream, b.scales_of(0), scales), got = downloaded(stream, b.packed_of(0), bytes);
  if (task.method->kind == search::MethodKind::sse) task.method = search::find_method(row.format, "exhaustive");
  if (row.recipe) {
    cuda::quantize_recipe_plain(stream, recipe_task(row, b.amax), row.block, 1, b.matrix(0), b.scales_of(1),
                                b.packed_of(1));
  } else {
    cuda::quantize_plain(stream, task, b.matrix(0), b.scales_of(1), b.packed_of(1));
  }
  const auto scales_wanted = downloaded(stream, b.scales_of(1), scales),
             wanted = downloaded(stream, b.packed_of(1), bytes);
  return std::to_string(differing(got_scales, scales_wanted)) + " scales, " + std::to_string(differing(got, wanted)) +
         " bytes of codes differ";
}

const char* name_of(cuda::Type type) {
  return type == cuda::Type::f32 ? "f32" : type == cuda::Type::bf16 ? "bf16" : "f16";
}

/// Gigabytes a second of a copy, read and written bytes both counted.
double copy_rate(cuda::Stream& stream, const Buffers& b) {
  const std::int64_t bytes = b.x[0].bytes();
  const double ms = milliseconds(stream, [&](int i) {
    const auto to = static_cast<std::size_t>((i + 1) % buffers);
    stream.copy(b.x[to].as<void>(), b.x[static_cast<std::size_t>(i)].as<void>(), bytes);
  });
  return 2 * static_cast<double>(bytes) / ms * 1e-6;
}

void print_row(cuda::Stream& stream, const Row& row, const Buffers& b, double rate, bool check) {
  search::SearchTask task = task_of(row, b.amax);
  search::Hessians curvature;
  std::unique_ptr<const cuda::DeviceHessians> hessians;
  if (is_hessian(row)) {
    curvature = make_curvature(row.block);
    hessians = std::make_unique<cuda::DeviceHessians>(stream, curvature);
    task.hessians = &curvature;
  }
  const double ms = milliseconds(stream, [&](int i) { launch(stream, row, task, hessians.get(), b, i); });
  const std::int64_t n = b.rows * cols;
  const double bytes = static_cast<double>(n * cuda::width(b.type) + n / 2 + n / row.block),
               floor = bytes / rate * 1e-6;
  const char* const how = row.recipe ? row.recipe : row.pass == Pass::amax ? "+ amax" : "";
  std::printf("%-7s %-8s %3d  %-4s %-6s %9.4f %9.4f %7.2f %8.0f  %s\n", row.format, row.method, row.block,
              name_of(b.type), how, ms, floor, ms / floor, bytes / ms * 1e-6,
              check ? compared(stream, row, task, b).c_str() : "");
  std::fflush(stdout);
}

void print_table(cuda::Stream& stream, Draw kind, std::int64_t rows, bool check) {
  const std::vector<float> values = draw(kind, rows);
  double rate = 0;
  for (const cuda::Type type : {cuda::Type::bf16, cuda::Type::f16, cuda::Type::f32}) {
    const Buffers b(stream, values, type);
    if (rate == 0) {
      rate = copy_rate(stream, b);
      std::printf("\n%lld x %lld %s, copy %.0f GB/s\n", static_cast<long long>(rows), static_cast<long long>(cols),
                  kind == Draw::normal ? "N(0, 0.02^2)" : "0.02 Student-t(5)", rate);
      std::printf("format  method   block type pass          ms     floor  x floor     GB/s\n");
    }
    for (const Row& row : rows_of_table) {
      if (row.type == type) print_row(stream, row, b, rate, check);
    }
  }
}

int run(int argc, char** argv) {
  bool check = false;
  std::int64_t rows = 8192;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--check") check = true;
    else if (option == "--quick") rows = 512;
    else throw UsageError("cuda_bench", "no option " + option, "--check and --quick are");
  }
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  cuda::Stream stream;
  std::printf("%s; medians of %d times %d launches over %d buffers\n", cuda::devices()[0].name.c_str(), repeats,
              launches, buffers);
  for (const Draw kind : {Draw::normal, Draw::student}) print_table(stream, kind, rows, check);
  return 0;
}

}  // namespace
}  // namespace fp4scope

int main(int argc, char** argv) {
  try {
    return fp4scope::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
