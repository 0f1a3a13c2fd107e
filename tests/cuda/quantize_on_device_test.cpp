// The claim of cuda::quantize: the bytes of search::search_scales and sim::encode_blocks_packed, for every method that
// it serves, every type of input, any shape and alignment; and of the plain kernels the same.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "cuda/cuda.hpp"
#include "search/search.hpp"
#include "sim/encode_lanes.hpp"

namespace fp4scope {
namespace {

using formats::BlockFormat;

struct Shape {
  std::int64_t rows, cols;
  int offset;  ///< elements between the allocation and the matrix
};
constexpr Shape shapes[] = {{256, 512, 0}, {67, 200, 0}, {33, 96, 1}, {128, 130, 3}, {1, 16, 0}, {5, 7, 5}};

/// Values of mixed kinds, by block of 16: normal, heavy-tailed, tied, tiny, far apart, single, zeros with signs, and a
/// NaN or an Inf now and then; what bf16 and f16 hold.
std::vector<std::uint32_t> make_values(cuda::Type type, std::int64_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<std::uint32_t> x(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const double z = normal(random);
    double v = z;
    switch (i / 16 % 9) {
      case 1: v = z * z * z; break;
      case 2: v = std::round(z * 8) / 16; break;
      case 3: v = z * 0x1p-12; break;
      case 4: v = std::ldexp(z, static_cast<int>(random() % 30) - 15); break;
      case 5: v = i % 16 == 3 ? z : 0; break;
      case 6: v = z < 0 ? -0.0 : 0.0; break;
      case 7: v = z * 6; break;
      case 8:
        if (i / 16 % 45 == 8 && i % 16 == 5) v = z < 0 ? NAN : -INFINITY;
        break;
      default: break;
    }
    const formats::Format& f = type == cuda::Type::f16 ? formats::fp16 : formats::bf16;
    x[static_cast<std::size_t>(i)] =
        type == cuda::Type::f32 ? __builtin_bit_cast(std::uint32_t, static_cast<float>(v))
                                : formats::encode(f, v, formats::Rounding::nearest_even, formats::Overflow::nan).code;
  }
  return x;
}

float value_of(cuda::Type type, std::uint32_t bits) {
  if (type == cuda::Type::f32) return __builtin_bit_cast(float, bits);
  if (type == cuda::Type::bf16) return __builtin_bit_cast(float, bits << 16);
  return formats::decode_float(formats::fp16, bits);
}

/// The matrix on the CPU, columns padded to a multiple of `block`, and on the device behind some other elements.
struct Case {
  Shape shape;
  cuda::Type type;
  std::vector<std::uint32_t> bits;

  std::vector<float> padded(int block) const {
    const std::int64_t cols = (shape.cols + block - 1) / block * block;
    std::vector<float> x(static_cast<std::size_t>(shape.rows * cols));
    for (std::int64_t i = 0; i < shape.rows * shape.cols; ++i) {
      x[static_cast<std::size_t>(i / shape.cols * cols + i % shape.cols)] =
          value_of(type, bits[static_cast<std::size_t>(i)]);
    }
    return x;
  }
  cuda::Memory upload(cuda::Stream& stream) const {
    const std::int64_t w = cuda::width(type), n = shape.rows * shape.cols;
    cuda::Memory memory(stream.device(), (n + shape.offset) * w);
    std::vector<unsigned char> bytes(static_cast<std::size_t>(n * w));
    for (std::int64_t i = 0; i < n; ++i)
      std::memcpy(bytes.data() + i * w, &bits[static_cast<std::size_t>(i)], static_cast<std::size_t>(w));
    stream.upload(memory.as<unsigned char>() + shape.offset * w, bytes.data(), n * w);
    stream.wait();
    return memory;
  }
};

int failures = 0;
std::int64_t compared = 0;

void compare(const std::string& what, const std::vector<std::uint8_t>& cpu, const std::vector<std::uint8_t>& gpu) {
  compared += static_cast<std::int64_t>(cpu.size());
  const auto at = std::mismatch(cpu.begin(), cpu.end(), gpu.begin());
  if (at.first == cpu.end()) return;
  if (++failures <= 20) {
    std::printf("%s: byte %td of %zu: cpu 0x%02x, gpu 0x%02x\n", what.c_str(), at.first - cpu.begin(), cpu.size(),
                *at.first, *at.second);
  }
}

using Kernel = void (*)(cuda::Stream&, const search::SearchTask&, const cuda::Matrix&, std::uint8_t*, std::uint8_t*,
                        const float*);

void check(cuda::Stream& stream, const Case& c, const search::SearchTask& task) {
  const int block = task.block;
  const std::vector<float> x = c.padded(block);
  const std::int64_t cols = static_cast<std::int64_t>(x.size()) / c.shape.rows, blocks = cols / block;
  const std::vector<std::uint8_t> scales = search::search_scales(task, x.data(), c.shape.rows, cols).scales;
  std::vector<std::uint8_t> packed(x.size() / 2);
  for (std::int64_t row = 0; row < c.shape.rows; ++row) {
    sim::encode_blocks_packed(*task.format, task.tensor_scale, x.data() + row * cols, blocks, block,
                              scales.data() + row * blocks, packed.data() + row * cols / 2);
  }
  const cuda::Memory in = c.upload(stream);
  const cuda::Matrix matrix = {c.type, in.as<unsigned char>() + c.shape.offset * cuda::width(c.type), c.shape.rows,
                               c.shape.cols};
  const cuda::Memory device_scales(stream.device(), static_cast<std::int64_t>(scales.size())),
      device_packed(stream.device(), static_cast<std::int64_t>(packed.size())), tensor_scale(stream.device(), 4);
  stream.upload(tensor_scale.as<float>(), &task.tensor_scale, 4);
  for (const Kernel kernel : {cuda::quantize, cuda::quantize_plain}) {
    const bool plain = kernel == cuda::quantize_plain;
    std::vector<std::uint8_t> got_scales(scales.size(), 0xAA), got_packed(packed.size(), 0xAA);
    stream.fill(device_scales.as<void>(), 0xAA, device_scales.bytes());
    stream.fill(device_packed.as<void>(), 0xAA, device_packed.bytes());
    kernel(stream, task, matrix, device_scales.as<std::uint8_t>(), device_packed.as<std::uint8_t>(),
           plain ? tensor_scale.as<float>() : nullptr);
    stream.download(got_scales.data(), device_scales.as<void>(), device_scales.bytes());
    stream.download(got_packed.data(), device_packed.as<void>(), device_packed.bytes());
    stream.wait();
    char what[160];
    std::snprintf(what, sizeof what, "%s %s block %d select %d tiles %d T %g type %d [%lld, %lld] + %d%s",
                  task.format->name, task.method->name, block, static_cast<int>(task.select), task.tile_rows,
                  static_cast<double>(task.tensor_scale), static_cast<int>(c.type),
                  static_cast<long long>(c.shape.rows), static_cast<long long>(c.shape.cols), c.shape.offset,
                  plain ? " plain" : "");
    compare(std::string(what) + " scales", scales, got_scales);
    compare(std::string(what) + " codes", packed, got_packed);
  }
}

void check_method(cuda::Stream& stream, const std::vector<Case>& cases, const search::Method& method) {
  search::SearchTask task = {};
  task.format = formats::find_block_format(method.format);
  task.method = &method;
  const bool slow = method.kind == search::MethodKind::exhaustive;
  for (const int block : {16, 32, 8, 6}) {
    task.block = block;
    for (const float tensor_scale : {1.0f, 0x1.23456p-10f, 0x1.8p-40f}) {
      if (tensor_scale != 1 && !task.format->tensor_scaled) continue;
      task.tensor_scale = tensor_scale;
      for (const search::Select select : {search::Select::mse, search::Select::mae, search::Select::absmax}) {
        if (select != search::Select::mse && !method.chooses()) continue;
        task.select = select;
        for (const int tile_rows : {1, block}) {
          if (tile_rows > 16) continue;
          task.tile_rows = tile_rows;
          if (!cuda::serves(task)) continue;
          for (const Case& c : cases) {
            if (!slow || c.shape.rows < 50) check(stream, c, task);
          }
        }
      }
    }
  }
}

bool extremes_are_the_same(cuda::Stream& stream, const Case& c) {
  cuda::Extremes e = {0, 0, 0, 0, 0, ~std::uint64_t{0}};
  const std::int64_t n = c.shape.rows * c.shape.cols;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits =
        __builtin_bit_cast(std::uint32_t, value_of(c.type, c.bits[static_cast<std::size_t>(i)])) & 0x7FFFFFFF;
    if (bits <= 0x7F800000) e.amax = std::max(e.amax, bits);
    if (bits < 0x7F800000) e.finite_amax = std::max(e.finite_amax, bits);
    if (bits > 0x7F800000) e.has_nan = 1;
    if (bits >= 0x7F800000 && e.nonfinite++ == 0) e.first_nonfinite = static_cast<std::uint64_t>(i);
  }
  const cuda::Memory in = c.upload(stream), out(stream.device(), sizeof e);
  cuda::Extremes got = {};
  cuda::find_extremes(stream, c.type, in.as<unsigned char>() + c.shape.offset * cuda::width(c.type), n,
                      out.as<cuda::Extremes>());
  stream.download(&got, out.as<void>(), sizeof got);
  stream.wait();
  const bool same = std::memcmp(&e, &got, sizeof e) == 0;
  if (!same)
    std::printf("extremes differ, type %d, %lld values\n", static_cast<int>(c.type), static_cast<long long>(n));
  return same;
}

int run() {
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  cuda::Stream stream;
  std::vector<Case> cases;
  for (const Shape& shape : shapes) {
    for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16}) {
      cases.push_back({shape, type, make_values(type, shape.rows * shape.cols, cases.size())});
    }
  }
  for (const Case& c : cases) failures += !extremes_are_the_same(stream, c);
  for (const search::Method& method : search::all_methods) check_method(stream, cases, method);
  std::printf("%lld bytes compared, %d comparisons failed\n%s\n", static_cast<long long>(compared), failures,
              failures == 0 ? "all the same" : "DIFFERENT");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
