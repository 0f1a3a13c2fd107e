// The claims of cuda::encode, dequantize and rotate: the codes of analysis/quantize.cpp's pipeline at given scales, the
// exact products rounded once, and the points of sim/hadamard.hpp; every block format and grids of one's own, every
// rounding, type, shape and alignment, data on and beside thresholds, and indices beyond 2^31.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda/cuda.hpp"
#include "formats/pack.hpp"
#include "sim/block.hpp"
#include "sim/encode_lanes.hpp"
#include "sim/random.hpp"
#include "tests/cuda/stored_matrix.hpp"

namespace fp4scope {
namespace {

using formats::BlockFormat;
using formats::Rounding;

constexpr BlockFormat own_grids[] = {
    {"own8",
     formats::e2m1,
     formats::e4m3,
     16,
     true,
     448,
     formats::Selection::none,
     {8, {0, 0.375, 1, 1.625, 2.5, 3.25, 4.75, 7.9375}}},
    {"own5", formats::e2m1, formats::ue5m3, 16, true, 448, formats::Selection::none, {5, {0, 0.5, 1.25, 3, 5}}},
    {"e1m2", formats::e1m2, formats::ue4m4, 16, true, 448},
};

std::vector<BlockFormat> all_formats() {
  std::vector<BlockFormat> all(std::begin(formats::all_block_formats), std::end(formats::all_block_formats));
  all.insert(all.end(), std::begin(own_grids), std::end(own_grids));
  return all;
}

struct Family {
  const char* name;
  std::int64_t compared = 0, different = 0;

  void print() const {
    std::printf("%-44s %12lld values, %s\n", name, static_cast<long long>(compared),
                different == 0 ? "all the same" : "DIFFERENT");
  }
};

/// Bytes behind `offset` elements of device memory.
struct Placed {
  cuda::Memory memory;
  void* at;
  Placed(cuda::Stream& stream, const void* host, std::int64_t n, std::int64_t width, std::int64_t offset)
      : memory(stream.device(), (n + offset) * width), at(memory.as<unsigned char>() + offset * width) {
    if (host) stream.upload(at, host, n * width);
    else stream.fill(at, 0xAA, n * width);
    stream.wait();
  }
};

// ---- encode and dequantize ----

constexpr Shape shapes[] = {{64, 512, 0}, {33, 200, 0}, {7, 96, 1}, {16, 130, 3}, {1, 16, 0}, {300, 32, 0}};

/// A matrix at given scales.
struct Case {
  cuda::ElementTask task;
  Shape shape;
  cuda::Type type;
  std::int64_t padded = 0;
  std::vector<std::uint8_t> scales = {};
  std::vector<unsigned char> bytes = {};  ///< of the matrix
  std::vector<float> x = {};              ///< [rows, padded]

  std::int64_t blocks_per_row() const { return padded / task.block; }
  int code_bits() const { return task.format->element.bits; }
  std::uint8_t scale(std::int64_t row, std::int64_t b) const {
    return scales[static_cast<std::size_t>(row * blocks_per_row() + b)];
  }
  bool integer(std::uint8_t s) const { return task.format->selects() && (s & formats::selection_bit) != 0; }
  double step(std::uint8_t s) const {
    const int code = task.format->selects() ? s & ~formats::selection_bit : s;
    return static_cast<double>(task.tensor_scale) *
           formats::decode_double(task.format->scale, static_cast<std::uint32_t>(code));
  }
  std::string describe() const {
    char text[200];
    std::snprintf(text, sizeof text, "%s block %d T %g rounding %d type %d [%lld, %lld] + %d", task.format->name,
                  task.block, static_cast<double>(task.tensor_scale), static_cast<int>(task.rounding),
                  static_cast<int>(type), static_cast<long long>(shape.rows), static_cast<long long>(shape.cols),
                  shape.offset);
    return text;
  }
};

/// A value for a block with that step: near a midpoint of the grid or on it, anywhere, or special.
double make_value(std::mt19937_64& random, const Case& c, double step, bool integer) {
  static const double specials[] = {0.0, -0.0, NAN, INFINITY, -INFINITY, 0x1p-149, -0x1.fffffep127, 0x1p-133, 65504};
  const sim::Grid grid = sim::make_grid(*c.task.format, integer);
  const double s = std::isfinite(step) && step > 0 ? step : 1, sign = random() % 2 == 0 ? 1 : -1;
  const auto kind = random() % 16;
  if (kind == 0) return specials[random() % std::size(specials)];
  if (kind < 8 && grid.levels > 1) {
    const double midpoint = grid.midpoint[random() % static_cast<unsigned>(grid.levels - 1)];
    const double t = midpoint / sim::grid_factor(*c.task.format) * s;
    const auto near = static_cast<float>(t);
    const float there[] = {near, std::nextafter(near, 0.0f), std::nextafter(near, INFINITY), static_cast<float>(t / 2)};
    return sign * static_cast<double>(there[random() % 4]);
  }
  const double reach = c.task.format->element_max() * 1.1 * s;
  const double u = static_cast<double>(random() >> 11) * 0x1p-53;
  return sign * reach * (kind < 12 ? u : u * u * u);
}

Case make_case(const cuda::ElementTask& task, const Shape& shape, cuda::Type type, std::uint64_t seed) {
  Case c = {task, shape, type};
  std::mt19937_64 random(seed);
  c.padded = (shape.cols + task.block - 1) / task.block * task.block;
  c.scales.resize(static_cast<std::size_t>(shape.rows * c.blocks_per_row()));
  const std::uint32_t count = task.format->selects() ? 256 : task.format->scale.code_count();
  for (std::uint8_t& s : c.scales) s = static_cast<std::uint8_t>(random() % count);
  c.x.assign(static_cast<std::size_t>(shape.rows * c.padded), 0);
  const std::int64_t w = cuda::width(type);
  c.bytes.resize(static_cast<std::size_t>(shape.rows * shape.cols * w));
  for (std::int64_t row = 0; row < shape.rows; ++row) {
    for (std::int64_t col = 0; col < shape.cols; ++col) {
      const std::uint8_t s = c.scale(row, col / task.block);
      const std::uint32_t bits = bits_of(type, make_value(random, c, c.step(s), c.integer(s)));
      std::memcpy(c.bytes.data() + (row * shape.cols + col) * w, &bits, static_cast<std::size_t>(w));
      c.x[static_cast<std::size_t>(row * c.padded + col)] = value_of(type, bits);
    }
  }
  return c;
}

/// As analysis/quantize.cpp's encode_row: [rows, padded], one code a byte.
std::vector<std::uint8_t> cpu_codes(const Case& c) {
  const BlockFormat& format = *c.task.format;
  const int n = c.task.block;
  std::vector<std::uint8_t> codes(c.x.size());
  std::vector<std::uint32_t> words(static_cast<std::size_t>(n));
  const bool stochastic = c.task.rounding == Rounding::stochastic;
  const sim::Grid grids[2] = {sim::make_grid(format, false), sim::make_grid(format, true)};
  for (std::int64_t row = 0; row < c.shape.rows; ++row) {
    const float* x = c.x.data() + row * c.padded;
    std::uint8_t* out = codes.data() + row * c.padded;
    if (format.element.bits <= 4 && !stochastic) {
      sim::encode_blocks(format, c.task.tensor_scale, x, c.blocks_per_row(), n,
                         c.scales.data() + row * c.blocks_per_row(), out);
      continue;
    }
    for (std::int64_t b = 0; b < c.blocks_per_row(); ++b, x += n, out += n) {
      const std::uint8_t scale = c.scale(row, b);
      const bool integer = c.integer(scale);
      const auto first = static_cast<std::uint64_t>((c.task.first_row + row) * c.padded + b * n);
      if (stochastic) sim::fill_words(c.task.seed, c.task.stream, first, n, words.data());
      const double step = c.step(scale);
      if (format.element.bits > 4) {
        sim::quantize_wide_block(format.element, x, n, step, c.task.rounding, words.data(), out);
      } else {
        sim::quantize_block_stochastic(integer ? formats::int4 : format.element, grids[integer ? 1 : 0], x, n, step,
                                       words.data(), out, sim::grid_factor(format));
      }
    }
  }
  return codes;
}

/// As analysis/quantize_file.cpp's store.
std::uint32_t stored(cuda::Type type, double value) { return bits_of(type, value); }

void check_encode(cuda::Stream& stream, const Case& c, const std::vector<std::uint8_t>& codes, Family& family) {
  const bool packed = c.code_bits() <= 4;
  const auto size = static_cast<std::int64_t>(packed ? codes.size() / 2 : codes.size());
  const Placed x(stream, c.bytes.data(), c.shape.rows * c.shape.cols, cuda::width(c.type), c.shape.offset);
  const Placed scales(stream, c.scales.data(), static_cast<std::int64_t>(c.scales.size()), 1, c.shape.offset);
  const Placed out(stream, nullptr, size, 1, c.shape.offset);
  cuda::encode(stream, c.task, {c.type, x.at, c.shape.rows, c.shape.cols}, static_cast<std::uint8_t*>(scales.at),
               static_cast<std::uint8_t*>(out.at));
  std::vector<std::uint8_t> got(static_cast<std::size_t>(size));
  stream.download(got.data(), out.at, size);
  stream.wait();
  family.compared += static_cast<std::int64_t>(codes.size());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::uint32_t code = packed ? formats::unpack_nibble(got.data(), static_cast<std::int64_t>(i)) : got[i];
    if (code == codes[i]) continue;
    if (family.different++ >= 5) continue;
    const auto row = static_cast<std::int64_t>(i) / c.padded, col = static_cast<std::int64_t>(i) % c.padded;
    const std::uint8_t scale = c.scale(row, col / c.task.block);
    std::printf("%s: row %lld column %lld, x %a (0x%08x) at scale 0x%02x, step %a: cpu 0x%x, gpu 0x%x\n",
                c.describe().c_str(), static_cast<long long>(row), static_cast<long long>(col),
                static_cast<double>(c.x[i]), __builtin_bit_cast(std::uint32_t, c.x[i]), scale, c.step(scale), codes[i],
                code);
  }
}

void check_dequantize(cuda::Stream& stream, const Case& c, const std::vector<std::uint8_t>& codes, Family& family) {
  std::vector<std::uint8_t> packed = codes;
  if (c.code_bits() <= 4) {
    packed.resize(codes.size() / 2);
    for (std::size_t i = 0; i < packed.size(); ++i) packed[i] = formats::pack_nibbles(codes[2 * i], codes[2 * i + 1]);
  }
  const std::int64_t n = c.shape.rows * c.shape.cols, w = cuda::width(c.type);
  const Placed scales(stream, c.scales.data(), static_cast<std::int64_t>(c.scales.size()), 1, c.shape.offset);
  const Placed in(stream, packed.data(), static_cast<std::int64_t>(packed.size()), 1, c.shape.offset);
  const Placed out(stream, nullptr, n, w, c.shape.offset);
  cuda::dequantize(stream, c.task, c.shape.rows, c.shape.cols, static_cast<std::uint8_t*>(scales.at),
                   static_cast<std::uint8_t*>(in.at), c.type, out.at);
  std::vector<unsigned char> got(static_cast<std::size_t>(n * w));
  stream.download(got.data(), out.at, n * w);
  stream.wait();
  family.compared += n;
  for (std::int64_t row = 0; row < c.shape.rows; ++row) {
    for (std::int64_t col = 0; col < c.shape.cols; ++col) {
      const std::uint8_t scale = c.scale(row, col / c.task.block);
      const std::uint8_t code = codes[static_cast<std::size_t>(row * c.padded + col)];
      const double value = sim::dequantize(*c.task.format, code, c.step(scale), c.integer(scale));
      const std::uint32_t expected = stored(c.type, value);
      std::uint32_t bits = 0;
      std::memcpy(&bits, got.data() + (row * c.shape.cols + col) * w, static_cast<std::size_t>(w));
      if (bits == expected || family.different++ >= 5) continue;
      std::printf("%s: row %lld column %lld, code 0x%x at scale 0x%02x is %a: cpu 0x%x, gpu 0x%x\n",
                  c.describe().c_str(), static_cast<long long>(row), static_cast<long long>(col), code, scale, value,
                  expected, bits);
    }
  }
}

/// The last two: 3 of it lie 2^-25 of themselves above a midpoint of bf16, of f16. Cut to 24 bits they are on it.
constexpr float tensor_scales[] = {
    1, 0x1.23456p-10f, 0x1.fffffep-100f, 0x1.8p-140f, 0x1.7654p90f, 11228502 * 0x1p-24f, 11212118 * 0x1p-24f};
static_assert(3 * 11228502 == (257 << 17) + 2 && 3 * 11212118 == (2053 << 14) + 2);

void check_elements(cuda::Stream& stream, Family families[4]) {
  const std::vector<BlockFormat> all = all_formats();
  std::uint64_t seed = 0;
  for (const BlockFormat& format : all) {
    const bool wide = format.element.bits > 4;
    for (const int block : {16, 32, 8, 6}) {
      for (const float t : tensor_scales) {
        if (wide && t != 1) continue;
        for (const Rounding rounding : {Rounding::nearest_even, Rounding::stochastic, Rounding::nearest_away,
                                        Rounding::toward_zero, Rounding::up, Rounding::down}) {
          if (!wide && rounding != Rounding::nearest_even && rounding != Rounding::stochastic) continue;
          for (const Shape& shape : shapes) {
            const auto type = static_cast<cuda::Type>(seed % 3);
            const cuda::ElementTask task = {&format,
                                            block,
                                            t,
                                            rounding,
                                            7 + seed,
                                            static_cast<std::uint32_t>(seed),
                                            seed % 2 == 0 ? 0 : std::int64_t{1} << 33};
            const Case c = make_case(task, shape, type, ++seed);
            std::vector<std::uint8_t> codes = cpu_codes(c);
            check_encode(stream, c, codes, families[wide ? 2 : rounding == Rounding::stochastic ? 1 : 0]);
            std::mt19937 random(static_cast<unsigned>(seed));  // then every code
            for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random());
            const auto mask = static_cast<std::uint8_t>(format.element.code_count() - 1);
            for (std::uint8_t& code : codes) code &= mask;
            check_dequantize(stream, c, codes, families[3]);
          }
        }
      }
    }
  }
}

// ---- rotate ----

/// The same bits, or a NaN of any kind in both.
bool same_float(float a, float b) { return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)); }

float any_value(std::mt19937_64& random, std::int64_t run) {
  const double z = static_cast<double>(static_cast<std::int64_t>(random())) * 0x1p-62;
  switch (run % 6) {
    case 0: return static_cast<float>(z);
    case 1: return static_cast<float>(std::ldexp(z, static_cast<int>(random() % 250) - 130));
    case 2: return static_cast<float>(std::ldexp(z, static_cast<int>(random() % 30) - 15));
    case 3: return random() % 5 == 0 ? static_cast<float>(z) : z < 0 ? -0.0f : 0.0f;
    case 4: return static_cast<float>(std::round(z * 16) / 8);
    default: return random() % 997 == 0 ? INFINITY : random() % 1999 == 0 ? NAN : static_cast<float>(z * 0x1p126);
  }
}

void check_rotation(cuda::Stream& stream, int n, sim::HadamardArithmetic arithmetic, bool back, const Shape& shape,
                    cuda::Type type, Family& family) {
  std::mt19937_64 random(static_cast<std::uint64_t>(n * 10 + static_cast<int>(arithmetic)));
  std::vector<std::int8_t> signs(static_cast<std::size_t>(n));
  for (std::int8_t& s : signs) s = random() % 2 == 0 ? 1 : -1;
  const std::int64_t padded = (shape.cols + n - 1) / n * n, w = cuda::width(type);
  std::vector<float> x(static_cast<std::size_t>(shape.rows * padded)), y(x.size()), got(x.size());
  std::vector<unsigned char> bytes(static_cast<std::size_t>(shape.rows * shape.cols * w));
  for (std::int64_t i = 0; i < shape.rows * shape.cols; ++i) {
    const std::int64_t row = i / shape.cols, col = i % shape.cols;
    const std::uint32_t bits = bits_of(type, static_cast<double>(any_value(random, row + col / n)));
    std::memcpy(bytes.data() + i * w, &bits, static_cast<std::size_t>(w));
    x[static_cast<std::size_t>(row * padded + col)] = value_of(type, bits);
  }
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(x.size()); i += n) {
    if (back) sim::rotate_back(x.data() + i, signs.data(), n, arithmetic, y.data() + i);
    else sim::rotate(x.data() + i, signs.data(), n, arithmetic, y.data() + i);
  }
  const Placed in(stream, bytes.data(), shape.rows * shape.cols, w, shape.offset);
  const Placed out(stream, nullptr, static_cast<std::int64_t>(x.size()), 4, shape.offset);
  cuda::rotate(stream, n, signs.data(), arithmetic, back, {type, in.at, shape.rows, shape.cols},
               static_cast<float*>(out.at));
  stream.download(got.data(), out.at, static_cast<std::int64_t>(x.size()) * 4);
  stream.wait();
  family.compared += static_cast<std::int64_t>(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (same_float(y[i], got[i]) || family.different++ >= 5) continue;
    std::printf("rotate n %d arithmetic %d back %d type %d [%lld, %lld] + %d: row %lld column %lld: cpu %a, gpu %a\n",
                n, static_cast<int>(arithmetic), back, static_cast<int>(type), static_cast<long long>(shape.rows),
                static_cast<long long>(shape.cols), shape.offset, static_cast<long long>(i) / padded,
                static_cast<long long>(i) % padded, static_cast<double>(y[i]), static_cast<double>(got[i]));
  }
}

void check_rotations(cuda::Stream& stream, Family& family) {
  constexpr Shape rotated[] = {{48, 1024, 0}, {13, 1500, 0}, {9, 2050, 1}, {3, 48, 3}};
  for (int n = 2; n <= sim::max_hadamard_size; n *= 2) {
    for (int arithmetic = 0; arithmetic < 4; ++arithmetic) {
      for (const bool back : {false, true}) {
        for (const Shape& shape : rotated) {
          for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16}) {
            check_rotation(stream, n, static_cast<sim::HadamardArithmetic>(arithmetic), back, shape, type, family);
          }
        }
      }
    }
  }
}

// ---- indices beyond 2^31 ----

/// A bf16 matrix whose elements repeat, so that the CPU knows any of them.
struct Large {
  static constexpr std::int64_t period = 1 << 20, scale_period = 1 << 16;
  std::vector<std::uint16_t> bits;
  std::vector<std::uint8_t> scales;
  cuda::Memory x, device_scales;

  /// The first of the device's bytes doubled over and over.
  static void repeat(cuda::Stream& stream, const cuda::Memory& memory, std::int64_t filled) {
    for (; filled < memory.bytes(); filled *= 2) {
      stream.copy(memory.as<unsigned char>() + filled, memory.as<void>(), std::min(filled, memory.bytes() - filled));
    }
  }
  Large(cuda::Stream& stream, std::int64_t n, std::int64_t blocks)
      : bits(period), scales(scale_period), x(0, n * 2), device_scales(0, blocks) {
    std::mt19937_64 random(3);
    std::normal_distribution<double> normal;
    for (std::uint16_t& b : bits) b = static_cast<std::uint16_t>(bits_of(cuda::Type::bf16, normal(random)));
    for (std::uint8_t& s : scales) s = static_cast<std::uint8_t>(40 + random() % 32);
    stream.upload(x.as<void>(), bits.data(), period * 2);
    stream.upload(device_scales.as<void>(), scales.data(), scale_period);
    repeat(stream, x, period * 2);
    repeat(stream, device_scales, scale_period);
    stream.wait();
  }
};

/// Elements [first, first + 4096) of the codes and values.
void check_window(cuda::Stream& stream, const Large& large, const cuda::ElementTask& task, std::int64_t n,
                  std::int64_t first, const cuda::Memory& codes, const cuda::Memory& values, Family& family) {
  constexpr int window = 4096;
  std::vector<std::uint8_t> got(window / 2);
  std::vector<std::uint16_t> got_values(window);
  const std::int64_t count = std::min<std::int64_t>(window, n - first);
  stream.download(got.data(), codes.as<std::uint8_t>() + first / 2, (count + 1) / 2);
  stream.download(got_values.data(), values.as<std::uint16_t>() + first, count * 2);
  stream.wait();
  const sim::Grid grid = sim::make_grid(*task.format);
  for (std::int64_t i = first; i < first + count; ++i) {
    const float x = value_of(cuda::Type::bf16, large.bits[static_cast<std::size_t>(i % Large::period)]);
    const std::uint8_t scale = large.scales[static_cast<std::size_t>(i / task.block % Large::scale_period)];
    const double step = static_cast<double>(task.tensor_scale) * formats::decode_double(task.format->scale, scale);
    std::uint8_t code = 0;
    if (task.rounding == Rounding::stochastic) {
      std::uint32_t word = 0;
      sim::fill_words(task.seed, task.stream, static_cast<std::uint64_t>(i), 1, &word);
      sim::quantize_block_stochastic(task.format->element, grid, &x, 1, step, &word, &code);
    } else {
      sim::quantize_block(task.format->element, grid, &x, 1, step, &code);
    }
    const std::uint32_t gpu = formats::unpack_nibble(got.data(), i - first);
    const std::uint32_t value = stored(cuda::Type::bf16, sim::dequantize(task.format->element, code, step));
    const std::uint32_t gpu_value = got_values[static_cast<std::size_t>(i - first)];
    ++family.compared;
    if ((gpu == code && gpu_value == value) || family.different++ >= 5) continue;
    std::printf("element %lld, rounding %d: code cpu 0x%x gpu 0x%x, value cpu 0x%x gpu 0x%x\n",
                static_cast<long long>(i), static_cast<int>(task.rounding), code, gpu, value, gpu_value);
  }
}

/// One row of n elements: nearest in whole blocks (the fast kernel), and both roundings with padding.
void check_large(cuda::Stream& stream, std::int64_t n, Rounding rounding, Family& family) {
  const cuda::ElementTask task = {&formats::nvfp4, 16, 0x1.23456p-3f, rounding, 5, 9, 0};
  const std::int64_t padded = (n + 15) / 16 * 16;
  const Large large(stream, n, padded / 16);
  const cuda::Memory codes(0, padded / 2), values(0, n * 2);
  cuda::encode(stream, task, {cuda::Type::bf16, large.x.as<void>(), 1, n}, large.device_scales.as<std::uint8_t>(),
               codes.as<std::uint8_t>());
  cuda::dequantize(stream, task, 1, n, large.device_scales.as<std::uint8_t>(), codes.as<std::uint8_t>(),
                   cuda::Type::bf16, values.as<void>());
  constexpr std::int64_t half = std::int64_t{1} << 30, beyond = std::int64_t{1} << 31;
  const std::int64_t last = (n - 4096) / 2 * 2;
  for (const std::int64_t first : {std::int64_t{0}, half - 2048, half, beyond - 4096, beyond - 2048, beyond, last}) {
    check_window(stream, large, task, n, first, codes, values, family);
  }
}

int run() {
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  cuda::Stream stream;
  Family families[] = {{"encode to nearest, 4 bits"},
                       {"encode stochastically, 4 bits"},
                       {"encode, wide elements"},
                       {"dequantize to f32, bf16 and f16"},
                       {"rotate"},
                       {"2^31 elements and more"}};
  check_elements(stream, families);
  check_rotations(stream, families[4]);
  constexpr std::int64_t n = (std::int64_t{1} << 31) + 4096;
  if (cuda::devices()[0].memory > std::int64_t{16} << 30) {
    check_large(stream, n, Rounding::nearest_even, families[5]);
    check_large(stream, n + 5, Rounding::nearest_even, families[5]);
    check_large(stream, n + 5, Rounding::stochastic, families[5]);
  }
  std::int64_t different = 0;
  for (const Family& f : families) {
    f.print();
    different += f.different;
  }
  std::printf("%s\n", different == 0 ? "all the same" : "DIFFERENT");
  return different == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
