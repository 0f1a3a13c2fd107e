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
#include "tests/cuda/stored_matrix.hpp"

namespace fp4scope {
namespace {

using formats::BlockFormat;

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
    x[static_cast<std::size_t>(i)] = bits_of(type, v);
  }
  return x;
}

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

void check(cuda::Stream& stream, const StoredMatrix& c, const search::SearchTask& task) {
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
  const cuda::Matrix matrix = c.in(in);
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

void check_method(cuda::Stream& stream, const std::vector<StoredMatrix>& cases, const search::Method& method) {
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
          for (const StoredMatrix& c : cases) {
            if (!slow || c.shape.rows < 50) check(stream, c, task);
          }
        }
      }
    }
  }
}

// ---- what the faster kernels might get wrong ----

/// Blocks of 16 made one by one, as a matrix of 16 blocks a row, the last row filled up with zeros.
struct Blocks {
  cuda::Type type;
  std::vector<std::uint32_t> bits;

  StoredMatrix as_matrix() const {
    StoredMatrix c = {{0, 256, 0}, type, bits};
    c.shape.rows = (static_cast<std::int64_t>(bits.size()) + 255) / 256;
    c.bits.resize(static_cast<std::size_t>(c.shape.rows * 256));
    return c;
  }
};

std::uint32_t sign_of(cuda::Type type) { return type == cuda::Type::f32 ? 0x80000000u : 0x8000u; }

/// The largest magnitude of a type that is at most v.
std::uint32_t bits_below(cuda::Type type, double v) {
  if (type == cuda::Type::f32) {
    return formats::encode(
               formats::Format{"f32", 32, 8, 23, 127, true, false, true, formats::Specials::ieee, 0x7F7FFFFF, ""}, v,
               formats::Rounding::toward_zero)
        .code;
  }
  const formats::Format& f = type == cuda::Type::f16 ? formats::fp16 : formats::bf16;
  return formats::encode(f, v, formats::Rounding::toward_zero).code;
}

std::uint32_t largest_bits(cuda::Type type) {
  return type == cuda::Type::f32 ? 0x7F7FFFFFu : type == cuda::Type::bf16 ? 0x7F7Fu : formats::fp16.max_code;
}

/// A magnitude whose scale has that code, 0 if none was found.
std::uint32_t amax_of_code(cuda::Type type, const search::SearchTask& task, int code) {
  const formats::Format& scale = task.format->scale;
  const double v = formats::decode_double(scale, static_cast<std::uint32_t>(code));
  const std::uint32_t at = bits_below(type, task.method->rule.divisor * static_cast<double>(task.tensor_scale) * v);
  for (std::uint32_t bits = at + 3; bits + 3 >= at && bits <= at + 3 && bits > 0; --bits) {
    if (bits > largest_bits(type)) continue;
    if (sim::scale_code(scale, task.method->rule, value_of(type, bits), task.tensor_scale) == code) return bits;
  }
  return 0;
}

/// At every scale code: bf16, all patterns up to the block's largest; others, those about every threshold.
Blocks all_elements(cuda::Type type, const search::SearchTask& task) {
  const sim::Grid grid = sim::make_grid(*task.format);
  const int last = static_cast<int>(task.format->scale.max_code);
  Blocks blocks = {type, {}};
  std::uint32_t turn = 0;
  for (int code = 0; code <= last; ++code) {
    const std::uint32_t largest = code == last ? largest_bits(type) : amax_of_code(type, task, code);
    if (largest == 0) continue;
    std::vector<std::uint32_t> elements;
    const double step = static_cast<double>(task.tensor_scale) *
                        formats::decode_double(task.format->scale, static_cast<std::uint32_t>(code));
    if (type == cuda::Type::bf16 && task.format->tensor_scaled) {
      for (std::uint32_t bits = 0; bits <= largest; ++bits) elements.push_back(bits);
    } else {
      for (const double m : grid.midpoint) {
        const std::uint32_t at = bits_below(type, m * step);
        for (std::uint32_t d = 0; d < 6; ++d) elements.push_back(std::min(largest, at + 3 > d ? at + 3 - d : 0));
      }
    }
    for (std::size_t i = 0; i < elements.size(); ++i) {
      if (blocks.bits.size() % 16 == 0) blocks.bits.push_back(largest);
      blocks.bits.push_back(elements[i] | (++turn % 3 == 0 ? sign_of(type) : 0));
    }
    while (blocks.bits.size() % 16 != 0) blocks.bits.push_back(sign_of(type));
  }
  return blocks;
}

/// Largest magnitudes at and about every boundary between scale codes.
Blocks all_boundaries(cuda::Type type, const search::SearchTask& task) {
  std::mt19937_64 random(7);
  const formats::Format& scale = task.format->scale;
  Blocks blocks = {type, {}};
  for (std::uint32_t code = 0; code < scale.max_code; ++code) {
    const double low = formats::decode_double(scale, code), high = formats::decode_double(scale, code + 1);
    for (const double v : {low, (low + high) / 2, high}) {
      const std::uint32_t at = bits_below(type, task.method->rule.divisor * static_cast<double>(task.tensor_scale) * v);
      for (std::uint32_t d = 0; d < 5; ++d) {
        const std::uint32_t largest = std::min(largest_bits(type), at + 3 > d ? at + 3 - d : 0);
        blocks.bits.push_back(largest);
        for (int i = 1; i < 16; ++i) {
          const double part = std::ldexp(static_cast<double>(random() >> 11), -53);
          blocks.bits.push_back(bits_below(type, static_cast<double>(value_of(type, largest)) * part) |
                                (random() % 2 ? sign_of(type) : 0));
        }
      }
    }
  }
  return blocks;
}

/// Elements of few bits, of which many are on thresholds and many blocks err alike at two scales.
Blocks tied_blocks(cuda::Type type, int count) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> normal;
  Blocks blocks = {type, {}};
  for (int b = 0; b < count; ++b) {
    const double unit = std::ldexp(1, -static_cast<int>(random() % 6));
    for (int i = 0; i < 16; ++i) {
      const double v = std::round(normal(random) * 2 / unit) * unit;
      blocks.bits.push_back(bits_below(type, std::fabs(v)) | (v < 0 ? sign_of(type) : 0));
    }
  }
  return blocks;
}

bool has_fast_kernel(const search::Method& method) {
  using search::MethodKind;
  return method.kind == MethodKind::rule || method.kind == MethodKind::four_over_six || method.kind == MethodKind::sse;
}

void check_fast(cuda::Stream& stream, const std::vector<StoredMatrix>& large, const search::Method& method) {
  search::SearchTask task = {};
  task.format = formats::find_block_format(method.format);
  task.method = &method;
  if (!cuda::serves(task) || !has_fast_kernel(method) || task.format->selects()) return;
  for (const float tensor_scale : {1.0f, 0x1.23456p-10f, 0x1.cp-7f}) {
    if (tensor_scale != 1 && !task.format->tensor_scaled) continue;
    task.tensor_scale = tensor_scale;
    for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16}) {
      std::vector<StoredMatrix> cases = {all_elements(type, task).as_matrix(), all_boundaries(type, task).as_matrix(),
                                 tied_blocks(type, 20000).as_matrix()};
      for (const StoredMatrix& c : large) {
        if (c.type == type) cases.push_back(c);
      }
      for (const int block : {16, 32}) {
        task.block = block;
        for (const StoredMatrix& c : cases) check(stream, c, task);
      }
    }
  }
}

bool extremes_are_the_same(cuda::Stream& stream, const StoredMatrix& c) {
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
  std::vector<StoredMatrix> cases;
  for (const Shape& shape : shapes) {
    for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16}) {
      cases.push_back({shape, type, make_values(type, shape.rows * shape.cols, cases.size())});
    }
  }
  for (const StoredMatrix& c : cases) failures += !extremes_are_the_same(stream, c);
  for (const search::Method& method : search::all_methods) check_method(stream, cases, method);
  std::printf("shapes and types: %lld bytes compared, %d comparisons failed\n", static_cast<long long>(compared),
              failures);
  std::vector<StoredMatrix> large;
  for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16}) {
    large.push_back({{512, 2048, 0}, type, make_values(type, 512 * 2048, 100)});
  }
  for (const StoredMatrix& c : large) failures += !extremes_are_the_same(stream, c);
  for (const search::Method& method : search::all_methods) check_fast(stream, large, method);
  std::printf("%lld bytes compared, %d comparisons failed\n%s\n", static_cast<long long>(compared), failures,
              failures == 0 ? "all the same" : "DIFFERENT");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
