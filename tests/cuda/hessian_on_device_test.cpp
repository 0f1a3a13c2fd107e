// The Hessian search on a GPU gives the bytes of search::search_scales and sim::encode_blocks_packed: every format that
// has it, every type of input, full and singular H of many kinds, matrices with zeros, NaN and Inf, and any shape.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda/cuda.hpp"
#include "search/search.hpp"
#include "sim/encode_lanes.hpp"
#include "tests/cuda/stored_matrix.hpp"

namespace fp4scope {
namespace {

/// How activations are drawn, so what H is.
enum class Kind { decaying, white, diagonal, rank_one, rank_eight, common, outliers, zero_columns, zero };
constexpr const char* kind_names[] = {"AR(.9)",           "identity",        "diagonal",     "rank 1", "rank 8",
                                      "common direction", "outlier columns", "zero columns", "zero"};
constexpr int kinds = 9;

/// Tokens [tokens, cols], row-major.
std::vector<float> make_tokens(Kind kind, std::int64_t tokens, std::int64_t cols) {
  std::mt19937_64 random(static_cast<unsigned>(kind) + 7);
  std::normal_distribution<double> normal;
  std::vector<float> x(static_cast<std::size_t>(tokens * cols));
  if (kind == Kind::zero) return x;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const double shared = normal(random);
    double last = normal(random);
    for (std::int64_t c = 0; c < cols; ++c) {
      double v = normal(random);
      switch (kind) {
        case Kind::decaying: v = last = .9 * last + std::sqrt(1 - .81) * v; break;
        case Kind::white:
        case Kind::diagonal:
          v = t == c % tokens ? kind == Kind::white ? 1.0 : 1.0 + static_cast<double>(c % 7) : 0;
          break;
        case Kind::rank_one: v = t == 0 ? v : 0; break;
        case Kind::rank_eight: v = t < 8 ? v : 0; break;
        case Kind::common: v = 8 * shared + .1 * v; break;
        case Kind::outliers: v *= c % 11 == 3 ? 100 : c % 13 == 5 ? 1e-3 : 1; break;
        case Kind::zero_columns: v *= c % 5 == 1 || c % 64 < 16 ? 0 : 1; break;
        default: break;
      }
      x[static_cast<std::size_t>(t * cols + c)] = static_cast<float>(v);
    }
  }
  return x;
}

/// Elements of a matrix in its own type: rows normal, heavy-tailed, of few bits, far apart in magnitude; blocks of
/// zeros, single values, NaN and Inf among them.
std::vector<std::uint32_t> make_values(cuda::Type type, std::int64_t rows, std::int64_t cols, std::uint64_t seed,
                                       bool plain) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<std::uint32_t> x(static_cast<std::size_t>(rows * cols));
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const std::int64_t run = i / 16;
    const double z = normal(random);
    double v = z;
    if (!plain) {
      switch (i / cols % 6) {
        case 1: v = z * z * z; break;
        case 2: v = std::round(z * 8) / 16; break;
        case 3: v = std::ldexp(z, static_cast<int>(random() % 24) - 12); break;
        case 4: v = z * 0x1p-9; break;
        default: break;
      }
      if (run % 41 == 5) v = z < 0 ? -0.0 : 0.0;
      if (run % 43 == 7) v = i % 16 == 3 ? z : 0;
      if (run % 97 == 9 && i % 16 == 5) v = z < 0 ? NAN : INFINITY;
    }
    x[static_cast<std::size_t>(i)] = bits_of(type, v);
  }
  return x;
}

StoredMatrix make_matrix(cuda::Type type, std::int64_t rows, std::int64_t cols, int offset, std::uint64_t seed, bool plain) {
  return {{rows, cols, offset}, type, make_values(type, rows, cols, seed, plain)};
}

int failures = 0;
std::int64_t compared = 0;
cuda::HessianStages total = {};

void compare(const std::string& what, std::int64_t per_row, const std::vector<std::uint8_t>& cpu,
             const std::vector<std::uint8_t>& gpu) {
  const auto at = std::mismatch(cpu.begin(), cpu.end(), gpu.begin());
  if (at.first == cpu.end()) return;
  std::int64_t differ = 0;
  for (std::size_t i = 0; i < cpu.size(); ++i) differ += cpu[i] != gpu[i];
  if (++failures > 20) return;
  const std::int64_t i = at.first - cpu.begin();
  std::printf("%s: %lld of %zu bytes differ, the first at [%lld, %lld]: cpu 0x%02x, gpu 0x%02x\n", what.c_str(),
              static_cast<long long>(differ), cpu.size(), static_cast<long long>(i / per_row),
              static_cast<long long>(i % per_row), *at.first, *at.second);
}

struct Expected {
  std::vector<std::uint8_t> scales, packed;
};

Expected on_the_cpu(const search::SearchTask& task, const std::vector<float>& x, std::int64_t rows) {
  const std::int64_t cols = static_cast<std::int64_t>(x.size()) / rows, blocks = cols / task.block;
  Expected e = {search::search_scales(task, x.data(), rows, cols).scales, std::vector<std::uint8_t>(x.size() / 2)};
  for (std::int64_t row = 0; row < rows; ++row) {
    sim::encode_blocks_packed(*task.format, task.tensor_scale, x.data() + row * cols, blocks, task.block,
                              e.scales.data() + row * blocks, e.packed.data() + row * cols / 2);
  }
  return e;
}

void check(cuda::Stream& stream, const StoredMatrix& c, const search::SearchTask& task,
           const cuda::DeviceHessians& hessians, Kind kind, bool plain_too) {
  const std::int64_t blocks = (c.shape.cols + task.block - 1) / task.block, cols = blocks * task.block;
  const Expected e = on_the_cpu(task, c.padded(task.block), c.shape.rows);
  const cuda::Memory in = c.upload(stream);
  const cuda::Matrix matrix = c.in(in);
  const cuda::Memory scales(stream.device(), static_cast<std::int64_t>(e.scales.size())),
      packed(stream.device(), static_cast<std::int64_t>(e.packed.size())), tensor_scale(stream.device(), 4);
  stream.upload(tensor_scale.as<float>(), &task.tensor_scale, 4);
  search::SearchTask other = task;  // the device's tensor scale is the one that counts
  other.tensor_scale = 3;
  for (int plain = 0; plain <= plain_too; ++plain) {
    std::vector<std::uint8_t> got_scales(e.scales.size()), got_packed(e.packed.size());
    stream.fill(scales.as<void>(), 0xAA, scales.bytes());
    stream.fill(packed.as<void>(), 0xAA, packed.bytes());
    cuda::HessianStages stages = {};
    if (plain) {
      quantize_hessian_plain(stream, task, hessians, matrix, scales.as<std::uint8_t>(), packed.as<std::uint8_t>());
    } else {
      quantize_hessian(stream, other, hessians, matrix, scales.as<std::uint8_t>(), packed.as<std::uint8_t>(),
                       tensor_scale.as<float>(), nullptr, &stages);
    }
    stream.download(got_scales.data(), scales.as<void>(), scales.bytes());
    stream.download(got_packed.data(), packed.as<void>(), packed.bytes());
    stream.wait();
    char what[160];
    std::snprintf(what, sizeof what, "%s block %d, H %s, T %g, type %d, [%lld, %lld] + %d%s", task.format->name,
                  task.block, kind_names[static_cast<int>(kind)], static_cast<double>(task.tensor_scale),
                  static_cast<int>(c.type), static_cast<long long>(c.shape.rows),
                  static_cast<long long>(c.shape.cols), c.shape.offset, plain ? ", plain" : "");
    compare(std::string(what) + ", scales", blocks, e.scales, got_scales);
    compare(std::string(what) + ", codes", cols / 2, e.packed, got_packed);
    if (plain) continue;
    compared += stages.blocks;
    total.blocks += stages.blocks, total.few += stages.few, total.all += stages.all, total.host += stages.host;
  }
}

void say(const char* what) {
  std::printf("%s: %lld blocks, %lld left with a few candidates, %lld with all, %lld to the host\n", what,
              static_cast<long long>(total.blocks), static_cast<long long>(total.few),
              static_cast<long long>(total.all), static_cast<long long>(total.host));
  std::fflush(stdout);
  total = {};
}

float scale_of(const StoredMatrix& c, const formats::BlockFormat& format) {
  float amax = 0;
  for (const std::uint32_t bits : c.bits) {
    const float v = std::fabs(value_of(c.type, bits));
    if (std::isfinite(v)) amax = std::max(amax, v);
  }
  return sim::tensor_scale(amax, format.element_max(), 448);
}

void check_kind(cuda::Stream& stream, Kind kind, const std::vector<StoredMatrix>& cases, const char* name,
                const std::vector<int>& sizes) {
  search::SearchTask task = {};
  task.format = formats::find_block_format(name);
  task.method = search::find_method(name, "hessian");
  for (const int block : sizes) {
    task.block = block;
    const std::int64_t cols = 512 / block * block;
    const search::Hessians hessians = search::make_hessians(make_tokens(kind, 512, cols).data(), 512, cols, block);
    const cuda::DeviceHessians on_device(stream, hessians);
    task.hessians = &hessians;
    for (const StoredMatrix& c : cases) {
      if (c.shape.cols > cols) continue;
      for (const float tensor_scale : {1.0f, scale_of(c, *task.format)}) {
        if (tensor_scale != 1 && !task.format->tensor_scaled) continue;
        task.tensor_scale = tensor_scale;
        check(stream, c, task, on_device, kind, c.shape.rows <= 100);
      }
    }
  }
}

void check_large(cuda::Stream& stream, Kind kind, std::int64_t rows, std::int64_t cols) {
  const StoredMatrix c = make_matrix(cuda::Type::bf16, rows, cols, 0, 99, true);
  search::SearchTask task = {};
  task.format = formats::find_block_format("nvfp4");
  task.method = search::find_method("nvfp4", "hessian");
  task.tensor_scale = scale_of(c, *task.format);
  const search::Hessians hessians = search::make_hessians(make_tokens(kind, 512, cols).data(), 512, cols, 16);
  const cuda::DeviceHessians on_device(stream, hessians);
  task.hessians = &hessians;
  check(stream, c, task, on_device, kind, true);
}

int run() {
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  cuda::Stream stream;
  check_large(stream, Kind::decaying, 2048, 4096);
  say("large");
  std::vector<StoredMatrix> cases;
  for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16}) {
    cases.push_back(make_matrix(type, 600, 512, 0, 1 + cases.size(), false));
    cases.push_back(make_matrix(type, 67, 200, 3, 1 + cases.size(), false));
    cases.push_back(make_matrix(type, 5, 7, 1, 1 + cases.size(), false));
  }
  for (int k = 0; k < kinds; ++k) {
    const auto kind = static_cast<Kind>(k);
    check_kind(stream, kind, cases, "nvfp4", {16, 32, 8, 64, 12, 6});
    check_kind(stream, kind, cases, "nvint4", {16, 32});
    check_kind(stream, kind, cases, "mxfp4", {32, 16});
    say(kind_names[k]);
  }
  std::printf("%lld blocks, %d comparisons failed\n%s\n", static_cast<long long>(compared), failures,
              failures == 0 ? "all the same" : "DIFFERENT");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
