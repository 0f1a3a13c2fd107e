// The claim of cuda::quantize_recipe: the bytes of search::recipe_block on the CPU, for every row of sim::all_recipes,
// every criterion and rounding that it offers, every type of input, shape, alignment and tile; of the plain kernel the
// same. Data: normal, heavy tails, ties of elements at scales that are powers of two, blocks that 6 and 4 both fit but
// for roundings, -0, zeros, subnormals, huge values, and NaN and Inf where the row says what they become.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/cuda.hpp"
#include "formats/encode_float.hpp"
#include "formats/pack.hpp"
#include "tests/cuda/stored_matrix.hpp"

namespace fp4scope {
namespace {

using formats::Rounding;

constexpr Shape shapes[] = {{32, 256, 0}, {19, 208, 0}, {33, 96, 1}, {18, 130, 3}, {1, 16, 8}, {5, 7, 5}};
constexpr Shape large = {256, 1024, 0};  ///< where there are faster kernels

enum class Data { normal, mixed, ties, both, subnormals, huge, zeros, nonfinite };
constexpr Data all_data[] = {Data::normal,     Data::mixed, Data::ties,  Data::both,
                             Data::subnormals, Data::huge,  Data::zeros, Data::nonfinite};

using Random = std::mt19937_64;

/// Where the amax of the tensor is 2688 * 2^k, which `ties` puts at the end, six is at a power of two.
double tied_value(Random& random) {
  constexpr double points[] = {0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3,  3.5,
                               4, 4.5,  5,   5.5,  6, 6,    6,   7,    8, 9,   10, 0x1p-90};
  const double z = points[random() % std::size(points)];
  return random() & 1 ? -z : z;
}

/// Of blocks of 16, each with an exponent of its own in some kinds.
double value_of_kind(Data data, Random& random, std::int64_t i, double z) {
  constexpr double special[] = {NAN, INFINITY, -INFINITY}, both[] = {1, -0.25, 0.5, -1, 0};
  const auto exponent = static_cast<int>(static_cast<std::uint64_t>(i / 16) * 0x9E3779B97F4A7C15u >> 59);
  switch (data) {
    case Data::normal: return z;
    case Data::mixed: {
      if (i / 16 % 7 == 0) return i % 16 == 3 ? z : random() & 1 ? -0.0 : 0.0;
      return i / 16 % 7 == 1 ? z * z * z
                             : std::ldexp(z, (i / 16 % 7 == 2 ? static_cast<int>(random() % 30) : exponent) - 16);
    }
    case Data::ties: return std::ldexp(tied_value(random), exponent / 4 - 1);
    case Data::both: return std::ldexp(0x1.5A3C7Bp3 * both[i % 16 == 0 ? 0 : random() % 5], -exponent / 4);
    case Data::subnormals: return std::ldexp(z, -120 - exponent);
    case Data::huge: return std::ldexp(1 + std::fabs(z) / 8, 100 + exponent % 28) * (z < 0 ? -1 : 1);
    case Data::zeros: return z < 0 ? -0.0 : 0.0;
    case Data::nonfinite: return random() % 40 == 0 ? special[random() % 3] : z;
  }
  return 0;
}

struct Case : StoredMatrix {
  Data data;
};

Case make_case(const Shape& shape, cuda::Type type, Data data, std::uint64_t seed) {
  Random random(seed);
  std::normal_distribution<double> normal;
  Case c = {{shape, type, {}}, data};
  const std::int64_t n = shape.rows * shape.cols;
  for (std::int64_t i = 0; i < n; ++i) {
    double v = value_of_kind(data, random, i, normal(random));
    if (data == Data::ties && i == n - 1) v = 2688;
    const bool saturates = data == Data::huge;  // binary16 ends early
    c.bits.push_back(bits_of(type, v, saturates ? formats::Overflow::saturate : formats::Overflow::nan));
  }
  return c;
}

/// A case, and its matrix on the device.
struct Loaded {
  const Case& c;
  cuda::Memory memory;

  Loaded(cuda::Stream& stream, const Case& from) : c(from), memory(from.upload(stream)) {}
};

struct Bytes {
  std::vector<std::uint8_t> scales, codes;
};

/// The definition: search::recipe_block tile by tile.
Bytes on_cpu(const search::RecipeTask& task, int block, int tile_rows, const std::vector<float>& x, std::int64_t rows) {
  const std::int64_t cols = static_cast<std::int64_t>(x.size()) / rows, per_row = cols / block;
  const bool packs = task.format->element.bits <= 4;
  Bytes out = {std::vector<std::uint8_t>(static_cast<std::size_t>(rows * per_row)),
               std::vector<std::uint8_t>(x.size() / (packs ? 2 : 1))};
#pragma omp parallel if (x.size() > 4096)
  {
    std::vector<float> values(static_cast<std::size_t>(block * tile_rows));
    std::vector<std::uint8_t> own(values.size());
    search::RecipeRoom room;
#pragma omp for
    for (std::int64_t tile = 0; tile < (rows + tile_rows - 1) / tile_rows * per_row; ++tile) {
      const std::int64_t first = tile / per_row * tile_rows, last = std::min(first + tile_rows, rows),
                         b = tile % per_row;
      for (std::int64_t r = first; r < last; ++r) {
        std::copy_n(x.data() + r * cols + b * block, block, values.data() + (r - first) * block);
      }
      const auto n = static_cast<int>((last - first) * block);
      const float amax = search::recipe_amax(*task.recipe, values.data(), n);
      const int scale = search::recipe_block(task, amax, values.data(), n, block, own.data(), room).scale;
      for (std::int64_t r = first; r < last; ++r) {
        out.scales[static_cast<std::size_t>(r * per_row + b)] = static_cast<std::uint8_t>(scale);
        const std::uint8_t* const from = own.data() + (r - first) * block;
        std::uint8_t* const to = out.codes.data() + (r * cols + b * block) / (packs ? 2 : 1);
        for (int i = 0; i < block && !packs; ++i) to[i] = from[i];
        for (int i = 0; i < block && packs; i += 2) to[i / 2] = formats::pack_nibbles(from[i], from[i + 1]);
      }
    }
  }
  return out;
}

int failures = 0;
std::int64_t compared = 0;

void compare(const std::string& what, const Loaded& in, std::int64_t per_row, const std::vector<std::uint8_t>& cpu,
             const std::vector<std::uint8_t>& gpu) {
  compared += static_cast<std::int64_t>(cpu.size());
  const auto at = std::mismatch(cpu.begin(), cpu.end(), gpu.begin());
  if (at.first == cpu.end() || ++failures > 20) return;
  std::printf("%s, data %d, type %d, [%lld, %lld] + %d: row %td, byte %td: cpu 0x%02x, gpu 0x%02x\n", what.c_str(),
              static_cast<int>(in.c.data), static_cast<int>(in.c.type), static_cast<long long>(in.c.shape.rows),
              static_cast<long long>(in.c.shape.cols), in.c.shape.offset, (at.first - cpu.begin()) / per_row,
              (at.first - cpu.begin()) % per_row, *at.first, *at.second);
}

using Kernel = void (*)(cuda::Stream&, const search::RecipeTask&, int, int, const cuda::Matrix&, std::uint8_t*,
                        std::uint8_t*);

void check(cuda::Stream& stream, const Loaded& in, const search::RecipeTask& task, int block, int tile_rows,
           const std::string& what) {
  const Bytes cpu = on_cpu(task, block, tile_rows, in.c.padded(block), in.c.shape.rows);
  const auto rows = in.c.shape.rows, scale_bytes = static_cast<std::int64_t>(cpu.scales.size()),
             code_bytes = static_cast<std::int64_t>(cpu.codes.size());
  const cuda::Memory scales(stream.device(), scale_bytes), codes(stream.device(), code_bytes);
  for (const Kernel kernel : {cuda::quantize_recipe, cuda::quantize_recipe_plain}) {
    const char* const name = kernel == cuda::quantize_recipe ? "" : " plain";
    Bytes gpu = {std::vector<std::uint8_t>(cpu.scales.size()), std::vector<std::uint8_t>(cpu.codes.size())};
    stream.fill(scales.as<void>(), 0xAA, scale_bytes);
    stream.fill(codes.as<void>(), 0xAA, code_bytes);
    kernel(stream, task, block, tile_rows, in.c.in(in.memory), scales.as<std::uint8_t>(), codes.as<std::uint8_t>());
    stream.download(gpu.scales.data(), scales.as<void>(), scale_bytes);
    stream.download(gpu.codes.data(), codes.as<void>(), code_bytes);
    stream.wait();
    compare(what + name + " scales", in, scale_bytes / rows, cpu.scales, gpu.scales);
    compare(what + name + " codes", in, code_bytes / rows, cpu.codes, gpu.codes);
  }
}

float tensor_amax(const sim::Recipe& r, const Case& c) {
  float amax = 0;
  for (const std::uint32_t bits : c.bits) {
    const float magnitude = std::fabs(value_of(c.type, bits));
    if (std::isnan(magnitude) && r.nan_amax) return magnitude;
    if (magnitude > amax) amax = magnitude;
  }
  return amax;
}

/// One row, criterion, rounding, block, tile on one matrix, with the tensor scales that the row knows.
void check_scales(cuda::Stream& stream, const Loaded& in, search::RecipeTask task, int block, int tile_rows) {
  const sim::Recipe& r = *task.recipe;
  char what[200];
  std::snprintf(what, sizeof what, "%s %s %s, select %d, rounding %d, block %d, %d rows", r.name, r.format, r.methods,
                static_cast<int>(task.select), static_cast<int>(task.rounding), block, tile_rows);
  const float amax = tensor_amax(r, in.c);
  task.tensor = sim::recipe_tensor(r, amax, r.scale_max);
  check(stream, in, task, block, tile_rows, what);
  if (r.candidates == sim::Candidates::four_over_six && r.scale_max != 0) {
    task.tensor = sim::recipe_tensor(r, amax, 448);
    check(stream, in, task, block, tile_rows, std::string(what) + ", 448");
  }
  if (r.tensor_optional) {
    task.tensor = {};
    task.tensor.amax = amax;
    check(stream, in, task, block, tile_rows, std::string(what) + ", no tensor scale");
  }
}

constexpr search::Select all_selects[] = {search::Select::mse, search::Select::mae, search::Select::absmax};
constexpr const char* select_names[] = {"mse", "mae", "absmax"};

void check_row(cuda::Stream& stream, const Loaded& in, const sim::Recipe& r, bool all) {
  const formats::BlockFormat* const format = formats::find_block_format(r.format);
  for (const int block : {format->block, 32, 8, 6}) {
    if ((r.block != 0 ? block != r.block : block == 32 && format->block == 32 && block != format->block)) continue;
    if (!all && block != format->block) continue;
    for (std::size_t s = 0; s < std::size(all_selects); ++s) {
      if (s != 0 && !sim::lists(r.selects, select_names[s])) continue;
      for (const Rounding rounding : {Rounding::nearest_even, Rounding::nearest_away, Rounding::toward_zero}) {
        if (rounding != r.element.rounding && !r.element.offers(rounding)) continue;
        search::RecipeTask task = {&r, format, {}};
        task.select = all_selects[s];
        task.rounding = rounding;
        check_scales(stream, in, task, block, 1);
        if (r.tiles && all) check_scales(stream, in, task, block, block);
      }
    }
  }
}

int run() {
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  cuda::Stream stream;
  std::vector<Case> cases;
  for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16}) {
    for (const Data data : all_data) {
      for (const Shape& shape : shapes) cases.push_back(make_case(shape, type, data, cases.size()));
      cases.push_back(make_case(large, type, data, cases.size()));
    }
  }
  std::vector<Loaded> loaded;
  for (const Case& c : cases) loaded.emplace_back(stream, c);
  for (const sim::Recipe& r : sim::all_recipes) {
    const int before = failures;
    const std::int64_t start = compared;
    const bool plain = std::string_view(r.format) != "nvfp4" || r.candidates == sim::Candidates::qwantize ||
                       r.candidates == sim::Candidates::scalesweep;
    for (const Loaded& in : loaded) {
      const bool is_large = in.c.shape.rows == large.rows;
      if (in.c.data == Data::nonfinite && !r.nan_defined) continue;
      if (is_large && plain) continue;
      check_row(stream, in, r, !is_large);
    }
    std::printf("%-22s %-12s %-16s %10lld bytes: %s\n", r.name, r.format, r.methods,
                static_cast<long long>(compared - start), failures == before ? "the same" : "DIFFERENT");
    std::fflush(stdout);
  }
  std::printf("%lld bytes compared, %d comparisons failed\n%s\n", static_cast<long long>(compared), failures,
              failures == 0 ? "all the same" : "DIFFERENT");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
