// Numbers one by one: every format's encode and decode, every library's converter. Patterns are gone through in chunks
// that both sides have in memory; a chunk's codes come back and are compared there.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "analysis/device_checks.hpp"
#include "analysis/encode.hpp"
#include "formats/encode_float.hpp"
#include "sim/converter.hpp"

namespace fp4scope::analysis {

namespace {

using formats::Overflow;
using formats::Rounding;

constexpr std::int64_t chunk = 1 << 24;

/// The random word of a pattern.
std::uint32_t word_of(std::uint32_t bits) { return (bits ^ bits >> 15) * 0x9E3779B1u; }

/// One chunk of patterns on both sides, and room for its codes.
struct Patterns {
  explicit Patterns(cuda::Stream& s)
      : stream(s),
        x(chunk * 4),
        words(static_cast<std::size_t>(chunk)),
        device_x(s.device(), chunk * 4),
        device_words(s.device(), chunk * 4),
        device_codes(s.device(), chunk * 2),
        codes(chunk * 2),
        model(static_cast<std::size_t>(chunk)) {}

  /// Pattern i is (first + i) * stride modulo 2^32, made odd: else the last bits would never be set.
  void fill(std::int64_t first, std::int64_t stride) {
    auto* const bits = x.as<std::uint32_t>();
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < chunk; ++i) {
      bits[i] = static_cast<std::uint32_t>((first + i) * (stride | 1));
      words[static_cast<std::size_t>(i)] = word_of(bits[i]);
    }
    stream.upload(device_x.as<void>(), bits, chunk * 4);
    stream.upload(device_words.as<void>(), words.data(), chunk * 4);
    stream.wait();
  }
  float value(std::int64_t i) const { return x.as<float>()[i]; }

  cuda::Stream& stream;
  cuda::HostMemory x;
  std::vector<std::uint32_t> words;
  cuda::Memory device_x, device_words, device_codes;
  cuda::HostMemory codes;  ///< the device's, one or two bytes each
  std::vector<std::uint16_t> model;
};

/// The place of x in the format: its neighbours and the midpoint between them.
std::string place(const formats::Format& f, double x) {
  const std::uint32_t toward_zero = formats::encode(f, x, Rounding::toward_zero).code;
  const std::uint32_t away = formats::encode(f, x, x < 0 ? Rounding::down : Rounding::up).code;
  const double low = formats::decode_double(f, toward_zero), high = formats::decode_double(f, away);
  if (!(low < high) && !(high < low)) return fmt::format("nearest value {}", low);
  const double middle = (low + high) / 2;
  return fmt::format("between {} and {}, {} their midpoint {}", low, high,
                     x == middle               ? "on"
                     : (x < middle) == (x > 0) ? "short of"
                                               : "beyond",
                     middle);
}

std::string explain(const formats::Format& f, float x, std::uint32_t model, std::uint32_t device) {
  return fmt::format("x = {:a} ({}, 0x{:08x}), {}\n  model  0x{:02x} ({})\n  device 0x{:02x} ({})", x, x,
                     __builtin_bit_cast(std::uint32_t, x), place(f, x), model, formats::decode_double(f, model), device,
                     formats::decode_double(f, device));
}

/// Compares the device's codes with `model` once both have been filled.
void compare_codes(DeviceCheck& check, Patterns& p, const formats::Format& f) {
  const auto why = [&](std::int64_t i) {
    const std::uint32_t device = f.bits > 8 ? p.codes.as<std::uint16_t>()[i] : p.codes.as<std::uint8_t>()[i];
    return explain(f, p.value(i), p.model[static_cast<std::size_t>(i)], device);
  };
  if (f.bits > 8) compare(check, p.model.data(), p.codes.as<std::uint16_t>(), chunk, why);
  else compare(check, p.model.data(), p.codes.as<std::uint8_t>(), chunk, why);
}

/// Runs device(codes) and model(i) on the chunk.
template <class Device, class Model>
void check_chunk(DeviceCheck& check, Patterns& p, const formats::Format& f, const Device& device, const Model& model) {
  const double start = wall_seconds();
  device();
  p.stream.download(p.codes.as<void>(), p.device_codes.as<void>(), chunk * (f.bits > 8 ? 2 : 1));
  p.stream.wait();
  const double middle = wall_seconds();
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < chunk; ++i) p.model[i] = static_cast<std::uint16_t>(model(i));
  check.device_seconds += middle - start;
  check.model_seconds += wall_seconds() - middle;
  compare_codes(check, p, f);
}

/// A conversion: a format, a direction, a policy.
struct Conversion {
  formats::Format format;
  Rounding rounding;
  Overflow overflow;
};

std::vector<Conversion> conversions(bool all) {
  std::vector<Conversion> list;
  for (const formats::Format& f : formats::all_formats) {
    for (int r = 0; r < (all ? 6 : 1); ++r) {
      for (int o = 0; o < (all ? 2 : 1); ++o) list.push_back({f, static_cast<Rounding>(r), static_cast<Overflow>(o)});
    }
  }
  return list;
}

DeviceCheck named(const Conversion& c) {
  DeviceCheck check;
  check.what = fmt::format("encode {} {}{}", c.format.name, rounding_names[static_cast<std::size_t>(c.rounding)],
                           c.overflow == Overflow::nan ? " nan" : "");
  return check;
}

/// Every stride-th pattern through every conversion.
void check_encode(DeviceChecks& checks, Patterns& p, const std::vector<Conversion>& list, std::int64_t stride,
                  double from, double share) {
  std::vector<DeviceCheck> out;
  for (const Conversion& c : list) out.push_back(named(c));
  const std::int64_t patterns = (std::int64_t{1} << 32) / stride;
  for (std::int64_t first = 0; first < patterns && !checks.stopped(); first += chunk) {
    checks.tell(from + share * static_cast<double>(first) / static_cast<double>(patterns), "converters");
    p.fill(first, stride);
    for (std::size_t k = 0; k < list.size(); ++k) {
      const Conversion& c = list[k];
      const formats::FloatEncoder encode = formats::float_encoder(c.format, c.rounding, c.overflow);
      const bool random = c.rounding == Rounding::stochastic;
      const auto* const bits = p.x.as<std::uint32_t>();
      check_chunk(
          out[k], p, c.format,
          [&] {
            cuda::encode_values(p.stream, c.format, c.rounding, c.overflow, p.device_x.as<float>(), chunk,
                                random ? p.device_words.as<std::uint32_t>() : nullptr, p.device_codes.as<void>());
          },
          [&](std::int64_t i) { return encode(bits[i], p.words[static_cast<std::size_t>(i)]); });
    }
  }
  checks.done.insert(checks.done.end(), out.begin(), out.end());
}

/// Every library's converter by its defaults.
void check_converters(DeviceChecks& checks, Patterns& p, std::int64_t stride) {
  std::vector<DeviceCheck> out(std::size(sim::all_converters));
  const std::int64_t patterns = (std::int64_t{1} << 32) / stride;
  for (std::int64_t first = 0; first < patterns && !checks.stopped(); first += chunk) {
    checks.tell(0.1, "converters of other libraries");
    p.fill(first, stride);
    for (std::size_t k = 0; k < out.size(); ++k) {
      const sim::Converter& row = sim::all_converters[k];
      out[k].what = fmt::format("convert {} as {}", row.element.name, row.recipe);
      check_chunk(
          out[k], p, row.element,
          [&] {
            cuda::convert_values(p.stream, row, row.rounding, row.overflow, p.device_x.as<float>(), chunk, nullptr,
                                 p.device_codes.as<void>());
          },
          [&](std::int64_t i) { return sim::convert(row, p.value(i), row.rounding, row.overflow); });
    }
  }
  checks.done.insert(checks.done.end(), out.begin(), out.end());
}

/// Every code of every format.
void check_decode(DeviceChecks& checks) {
  for (const formats::Format& f : formats::all_formats) {
    const std::int64_t n = f.code_count(), width = f.bits > 8 ? 2 : 1;
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(n));
    std::vector<std::uint32_t> model(static_cast<std::size_t>(n)), device(static_cast<std::size_t>(n));
    std::vector<std::uint8_t> narrow(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      codes[i] = static_cast<std::uint16_t>(i);
      narrow[i] = static_cast<std::uint8_t>(i);
      model[i] = __builtin_bit_cast(std::uint32_t, formats::decode_float(f, static_cast<std::uint32_t>(i)));
    }
    const cuda::Memory in(checks.stream.device(), n * width), out(checks.stream.device(), n * 4);
    checks.stream.upload(in.as<void>(), width == 2 ? static_cast<const void*>(codes.data()) : narrow.data(), n * width);
    cuda::decode_values(checks.stream, f, in.as<void>(), n, out.as<float>());
    checks.stream.download(device.data(), out.as<void>(), n * 4);
    checks.stream.wait();
    // One NaN is as good as another.
    const auto same_nan = [](std::uint32_t bits) { return (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC00000u : bits; };
    std::transform(model.begin(), model.end(), model.begin(), same_nan);
    std::transform(device.begin(), device.end(), device.begin(), same_nan);
    DeviceCheck check;
    check.what = fmt::format("decode {}", f.name);
    compare(check, model.data(), device.data(), n, [&](std::int64_t i) {
      return fmt::format("code 0x{:02x}: model 0x{:08x}, device 0x{:08x}", i, model[i], device[i]);
    });
    checks.done.push_back(check);
  }
}

}  // namespace

void check_values(DeviceChecks& checks) {
  Patterns p(checks.stream);
  const bool full = checks.options.full;
  if (!checks.options.quick) check_encode(checks, p, conversions(full), 1, 0, full ? 0.8 : 0.05);
  if (!full) check_encode(checks, p, conversions(true), checks.options.quick ? 256 : 64, 0.05, 0.05);
  check_converters(checks, p, full ? 1 : checks.options.quick ? 256 : 64);
  check_decode(checks);
}

}  // namespace fp4scope::analysis
