// The claim of cuda::quantize_sse: the bytes of the exhaustive search by the plain functions, for every block of every
// family here, whatever the type of the elements and the tensor scale; and the plain kernel's own on the CPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "cuda/fast.hpp"
#include "search/search.hpp"
#include "sim/encode_lanes.hpp"
#include "tests/cuda/stored_matrix.hpp"

namespace fp4scope {
namespace {

constexpr std::int64_t elements = std::int64_t{1} << 19;

/// Values of one kind, unscaled: lattices tie often, blocks of one value have their optimum far from naive's.
struct Family {
  const char* name;
  double (*value)(std::mt19937_64& random, std::int64_t i);
};

double normal(std::mt19937_64& random) {
  static thread_local std::normal_distribution<double> z;
  return z(random);
}

double student(std::mt19937_64& random, int degrees) {
  double power = 0;
  for (int i = 0; i < degrees; ++i) {
    const double z = normal(random);
    power += z * z;
  }
  return normal(random) / std::sqrt(power / degrees);
}

constexpr Family families[] = {
    {"normal", [](std::mt19937_64& r, std::int64_t) { return normal(r); }},
    {"Student t 5", [](std::mt19937_64& r, std::int64_t) { return student(r, 5); }},
    {"Student t 3", [](std::mt19937_64& r, std::int64_t) { return student(r, 3); }},
    {"lattice of 1/4", [](std::mt19937_64& r, std::int64_t) { return std::round(normal(r) * 8) / 4; }},
    {"lattice of eleventh parts", [](std::mt19937_64& r, std::int64_t) { return std::round(normal(r) * 40) * 11 / 64; }},
    {"levels and midpoints", [](std::mt19937_64& r, std::int64_t) {
       return static_cast<double>(r() % 29) / 4 * (static_cast<double>(r() % 8 + 8) / 8) * (r() % 2 ? 1 : -1);
     }},
    {"spread out", [](std::mt19937_64& r, std::int64_t) { return std::ldexp(normal(r), -static_cast<int>(r() % 24)); }},
    {"one of each block", [](std::mt19937_64& r, std::int64_t i) { return i % 16 == i / 16 % 16 ? normal(r) : 0.0; }},
    {"few", [](std::mt19937_64& r, std::int64_t) { return r() % 8 == 0 ? normal(r) : r() % 2 ? -0.0 : 0.0; }},
    {"not all finite", [](std::mt19937_64& r, std::int64_t) {
       return r() % 128 ? normal(r) : r() % 2 ? -INFINITY : NAN;
     }},
    {"near 7 steps", [](std::mt19937_64& r, std::int64_t i) {
       return i % 16 == 5 ? 7.0 * static_cast<double>(r() % 8 + 8) / 8 * (1 + static_cast<double>(r() % 5) / 512 - 2.0 / 512)
                          : 2 * normal(r);
     }},
};

struct Data {
  const char* name;
  cuda::Type type;
  double sigma;
  std::vector<std::uint32_t> bits;
  float amax = 0;  ///< the largest finite magnitude

  Data(const Family& family, cuda::Type t, double s) : name(family.name), type(t), sigma(s), bits(elements) {
    std::mt19937_64 random(static_cast<std::uint64_t>(static_cast<int>(t) + 1) * 77 + static_cast<std::uint64_t>(s * 1e4));
    for (std::int64_t i = 0; i < elements; ++i) {
      const std::uint32_t b = bits_of(type, sigma * family.value(random, i));
      bits[static_cast<std::size_t>(i)] = b;
      const float magnitude = std::abs(value_of(type, b));
      if (std::isfinite(magnitude)) amax = std::max(amax, magnitude);
    }
  }
  void upload(cuda::Stream& stream, const cuda::Memory& to) const {
    const auto w = static_cast<std::size_t>(cuda::width(type));
    std::vector<unsigned char> bytes(bits.size() * w);
    for (std::size_t i = 0; i < bits.size(); ++i) std::memcpy(bytes.data() + i * w, &bits[i], w);
    stream.upload(to.as<void>(), bytes.data(), static_cast<std::int64_t>(bytes.size()));
    stream.wait();
  }
};

struct Bytes {
  std::vector<std::uint8_t> scales, packed;
};

struct Room {
  cuda::Memory x, scales, packed, tensor_scale;
  explicit Room(const cuda::Stream& s)
      : x(s.device(), elements * 4), scales(s.device(), elements / 16), packed(s.device(), elements / 2), tensor_scale(s.device(), 4) {}
};

std::int64_t compared = 0, failures = 0;

Bytes download(cuda::Stream& stream, const Room& room, int block) {
  Bytes b = {std::vector<std::uint8_t>(static_cast<std::size_t>(elements / block)), std::vector<std::uint8_t>(elements / 2)};
  stream.download(b.scales.data(), room.scales.as<void>(), elements / block);
  stream.download(b.packed.data(), room.packed.as<void>(), elements / 2);
  stream.wait();
  return b;
}

void compare(const Data& data, const search::SearchTask& task, const Bytes& right, const Bytes& got, std::int64_t n,
             const char* who) {
  const std::int64_t block = task.block;
  compared += n / block;
  std::int64_t wrong = 0;
  for (std::int64_t b = 0; b < n / block; ++b) {
    const auto at = static_cast<std::size_t>(b), half = static_cast<std::size_t>(block / 2);
    if (right.scales[at] == got.scales[at] && std::memcmp(&right.packed[at * half], &got.packed[at * half], half) == 0) {
      continue;
    }
    if (wrong++ > 0 || ++failures > 20) continue;
    std::printf("%s, %s, block %lld, sigma %g, type %d, T %a: block %lld: %s scale 0x%02x, should be 0x%02x; codes and x:\n",
                data.name, task.format->name, static_cast<long long>(block), data.sigma, static_cast<int>(data.type),
                static_cast<double>(task.tensor_scale), static_cast<long long>(b), who, got.scales[at], right.scales[at]);
    for (std::size_t i = 0; i < static_cast<std::size_t>(block); ++i) {
      const auto code = [&](const Bytes& bytes) { return bytes.packed[at * half + i / 2] >> (i % 2 * 4) & 15; };
      std::printf(" %x/%x:%a", static_cast<unsigned>(code(got)), static_cast<unsigned>(code(right)),
                  static_cast<double>(value_of(data.type, data.bits[at * static_cast<std::size_t>(block) + i])));
    }
    std::printf("\n");
  }
  if (wrong > 0) std::printf("%lld blocks differ\n", static_cast<long long>(wrong));
}

Bytes on_cpu(const Data& data, const search::SearchTask& task, std::int64_t n) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = value_of(data.type, data.bits[i]);
  Bytes b = {search::search_scales(task, x.data(), 1, n).scales, std::vector<std::uint8_t>(x.size() / 2)};
  sim::encode_blocks_packed(*task.format, task.tensor_scale, x.data(), n / task.block, task.block, b.scales.data(), b.packed.data());
  return b;
}

void check(cuda::Stream& stream, const Room& room, const Data& data, search::SearchTask task,
           const search::Method& exhaustive, bool cpu) {
  const cuda::Matrix matrix = {data.type, room.x.as<void>(), elements / 1024, 1024};
  auto* const scales = room.scales.as<std::uint8_t>();
  auto* const packed = room.packed.as<std::uint8_t>();
  stream.fill(scales, 0xAA, room.scales.bytes());
  stream.fill(packed, 0xAA, room.packed.bytes());
  stream.upload(room.tensor_scale.as<void>(), &task.tensor_scale, 4);
  search::SearchTask without = task;
  without.tensor_scale = 3;  // the device's own takes its place
  if (!cuda::quantize_sse(stream, without, matrix, scales, packed, room.tensor_scale.as<float>())) {
    std::printf("%s: not served\n", data.name);
    ++failures;
    return;
  }
  const Bytes got = download(stream, room, task.block);
  if (cpu) {
    constexpr std::int64_t n = elements / 64;
    compare(data, task, on_cpu(data, task, n), got, n, "gpu");
  }
  task.method = &exhaustive;
  cuda::quantize_plain(stream, task, matrix, scales, packed);
  compare(data, task, download(stream, room, task.block), got, elements, "fast");
}

const search::Method& method(const char* format, search::MethodKind kind) {
  return *std::find_if(std::begin(search::all_methods), std::end(search::all_methods), [&](const search::Method& m) {
    return std::strcmp(m.format, format) == 0 && m.kind == kind;
  });
}

void check_family(cuda::Stream& stream, const Room& room, const Data& data, int& turn) {
  data.upload(stream, room.x);
  const float to_top = data.amax / 2688;
  const float scales[] = {to_top,          1,        to_top * 1.37f, to_top * 0x1p-3f, to_top * 0x1p2f, to_top * 1.71f * 0x1p5f,
                          to_top * 0x1p9f, 0x1p-30f, 0x1p30f,        to_top * 0.83f,   0x1p-40f};
  for (const char* format : {"nvfp4", "nvint4"}) {
    for (const int block : {16, 32}) {
      search::SearchTask task = {};
      task.format = formats::find_block_format(format);
      task.method = &method(format, search::MethodKind::sse);
      task.block = block;
      for (const float scale : scales) {
        const bool cpu = turn++ % 4 == 0;
        task.tensor_scale = std::isfinite(scale) && scale > 0 ? scale : 1;
        check(stream, room, data, task, method(format, search::MethodKind::exhaustive), cpu);
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
  const Room room(stream);
  int turn = 0;
  for (const Family& family : families) {
    const std::int64_t before = compared;
    for (const cuda::Type type : {cuda::Type::bf16, cuda::Type::f16, cuda::Type::f32}) {
      for (const double sigma : {0.02, turn / 3 % 2 ? 1.0 : 0.005}) check_family(stream, room, Data(family, type, sigma), turn);
    }
    std::printf("%s: %lld blocks\n", family.name, static_cast<long long>(compared - before));
  }
  std::printf("%lld blocks compared\n%s\n", static_cast<long long>(compared), failures == 0 ? "all the same" : "DIFFERENT");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
