#include "analysis/crosscheck_device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "analysis/device_checks.hpp"
#include "analysis/names.hpp"
#include "formats/codec.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

struct Family {
  const char* name;
  void (*check)(DeviceChecks&);
};
constexpr Family families[] = {{"values", check_values},      {"extremes", check_extremes},
                               {"elements", check_elements},  {"searches", check_searches},
                               {"recipes", check_recipes},    {"hessian", check_hessian},
                               {"rotations", check_rotations}};

}  // namespace

const char* const type_names[3] = {"f32", "bf16", "f16"};

std::vector<std::string> device_check_families() {
  std::vector<std::string> names;
  for (const Family& f : families) names.emplace_back(f.name);
  return names;
}

TwoSides two_sides(cuda::Stream& stream, Matrix m, cuda::Type type) {
  const std::int64_t n = m.size();
  TwoSides sides = {std::move(m), cuda::Memory(stream.device(), n * cuda::width(type)), type};
  std::vector<std::uint16_t> narrow(type == cuda::Type::f32 ? 0 : static_cast<std::size_t>(n));
  const formats::Format& f = type == cuda::Type::bf16 ? formats::bf16 : formats::fp16;
  for (std::size_t i = 0; i < narrow.size(); ++i) {
    float& x = sides.model.data[i];
    narrow[i] =
        static_cast<std::uint16_t>(formats::encode(f, x, formats::Rounding::nearest_even, formats::Overflow::nan).code);
    x = formats::decode_float(f, narrow[i]);
  }
  const void* const from = type == cuda::Type::f32 ? static_cast<const void*>(sides.model.data.data()) : narrow.data();
  stream.upload(sides.memory.as<void>(), from, sides.memory.bytes());
  stream.wait();
  return sides;
}

std::vector<std::uint8_t> downloaded(cuda::Stream& stream, const cuda::Memory& memory) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(memory.bytes()));
  stream.download(bytes.data(), memory.as<void>(), memory.bytes());
  stream.wait();
  return bytes;
}

std::vector<DeviceCheck> crosscheck_device(const DeviceCrosscheckOptions& options) {
  if (cuda::devices().empty()) throw Error("--device cuda", cuda::why_none(), "another machine, or a build with nvcc");
  if (options.device >= static_cast<int>(cuda::devices().size())) {
    throw UsageError("--device", fmt::format("there is no device {}", options.device),
                     fmt::format("this host has {}", cuda::devices().size()));
  }
  cuda::Stream stream(options.device);
  std::vector<DeviceCheck> done;
  for (const Family& family : families) {
    const std::vector<std::string>& only = options.only;
    if (!only.empty() && std::find(only.begin(), only.end(), family.name) == only.end()) continue;
    std::vector<DeviceCheck> of_family;
    DeviceChecks checks = {stream, options, of_family};
    family.check(checks);
    if (checks.stopped()) return {};
    for (DeviceCheck& c : of_family) c.family = family.name;
    if (options.finished) options.finished(of_family);
    done.insert(done.end(), of_family.begin(), of_family.end());
  }
  return done;
}

io::Table device_checks_table(const std::vector<DeviceCheck>& checks) {
  io::Table table;
  table.columns = {{"family", "", "what kind of kernel"},
                   {"what", "", "format, method, block, data"},
                   {"outputs", "1", "outputs compared"},
                   {"mismatches", "1", "outputs that differ from the model's"},
                   {"example", "", "the first that differs"}};
  for (const DeviceCheck& c : checks) table.rows.push_back({c.family, c.what, c.outputs, c.mismatches, c.example});
  return table;
}

}  // namespace fp4scope::analysis
