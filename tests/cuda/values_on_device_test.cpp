// The claim of cuda::encode_values, convert_values and decode_values: the codes of formats::encode_float and
// sim::convert and the values of formats::decode_float, for every format, rounding, policy and converter, at any
// alignment; for E2M1, E4M3, E5M2 and UE8M0 of all 2^32 floats, where the device has an instruction by that.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/cuda.hpp"
#include "formats/encode_float.hpp"

namespace fp4scope {
namespace {

using formats::Format;
using formats::Overflow;
using formats::Rounding;

constexpr const char* rounding_names[] = {"rne", "rna", "rtz", "rup", "rdn", "stochastic"};
constexpr const char* overflow_names[] = {"saturate", "nan"};

std::int64_t failures = 0;

void report(const char* family, std::int64_t compared, std::int64_t different) {
  failures += different;
  std::printf("%-44s %12lld codes, %s\n", family, static_cast<long long>(compared),
              different == 0 ? "all the same" : "DIFFERENT");
}

/// Mismatches of codes of `width` bytes; the first by pattern, both codes and value. expect(first, count, out) writes
/// the right ones: a loop over an array of its own, which a compiler makes vectors of.
template <class Expect>
std::int64_t count_different(const std::string& what, std::int64_t n, int width, const void* got,
                             const std::uint32_t* bits, const Expect& expect) {
  constexpr std::int64_t piece = 4096;
  const auto code_of = [&](std::int64_t i) -> std::uint32_t {
    return width == 1 ? static_cast<const std::uint8_t*>(got)[i] : static_cast<const std::uint16_t*>(got)[i];
  };
  std::int64_t different = 0, least = n;
  std::uint32_t least_expected = 0;
#pragma omp parallel for schedule(static)
  for (std::int64_t first = 0; first < n; first += piece) {
    const std::int64_t count = std::min(piece, n - first);
    std::uint32_t expected[piece];
    expect(first, count, expected);
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < count; ++i) wrong += code_of(first + i) != expected[i] ? 1 : 0;
    if (wrong == 0) continue;
    std::int64_t i = 0;
    while (code_of(first + i) == expected[i]) ++i;
#pragma omp critical
    {
      different += wrong;
      if (first + i < least) least_expected = expected[i];
      least = std::min(least, first + i);
    }
  }
  if (different == 0) return 0;
  std::printf("%s: %lld differ, first 0x%08x (%.9g): cpu 0x%02x, gpu 0x%02x\n", what.c_str(),
              static_cast<long long>(different), bits[least],
              static_cast<double>(__builtin_bit_cast(float, bits[least])), least_expected, code_of(least));
  return different;
}

// ---- every format, rounding and policy ----

constexpr std::int64_t patterns = (1 << 22) + 3;

/// Floats spread over all patterns, with every exponent and sign and the specials among them, and words.
struct Inputs {
  std::vector<std::uint32_t> bits, words;
  Inputs() : bits(patterns), words(patterns) {
    for (std::uint32_t i = 0; i < patterns; ++i) {
      bits[i] = i * 1024u + (i * 2654435761u >> 22);
      words[i] = (i ^ i >> 7) * 2246822519u;
      if (i % 64 == 1) bits[i] &= 0xFFF00000u;  // short numbers: ties, powers of two, infinities
      if (i % 64 == 2) bits[i] = (bits[i] & 0xFFF00000u) - 1;
      if (i % 1024 == 3) bits[i] = i >> 10;  // the least subnormals
    }
  }
};

/// Inputs on the device behind `offset` elements, so that alignment is that of a single value where it isn't zero.
struct OnDevice {
  std::int64_t offset;
  cuda::Memory x, words, codes;
  OnDevice(cuda::Stream& stream, const Inputs& in, std::int64_t offset_)
      : offset(offset_),
        x(0, (patterns + offset_) * 4),
        words(0, (patterns + offset_) * 4),
        codes(0, (patterns + offset_) * 2) {
    stream.upload(x.as<float>() + offset, in.bits.data(), patterns * 4);
    stream.upload(words.as<std::uint32_t>() + offset, in.words.data(), patterns * 4);
    stream.wait();
  }
};

void check_formats(cuda::Stream& stream, const Inputs& in, OnDevice& device) {
  std::vector<std::uint8_t> got(patterns * 2);
  std::int64_t compared = 0, different = 0;
  for (const Format& f : formats::all_formats) {
    const int width = f.bits > 8 ? 2 : 1;
    for (int mode = 0; mode < 6; ++mode) {
      for (int policy = 0; policy < 2; ++policy) {
        const auto rounding = static_cast<Rounding>(mode);
        const auto overflow = static_cast<Overflow>(policy);
        const bool random = rounding == Rounding::stochastic;
        std::uint8_t* const codes = device.codes.as<std::uint8_t>() + device.offset * width;
        stream.fill(device.codes.as<void>(), 0xAA, device.codes.bytes());
        cuda::encode_values(stream, f, rounding, overflow, device.x.as<float>() + device.offset, patterns,
                            random ? device.words.as<std::uint32_t>() + device.offset : nullptr, codes);
        stream.download(got.data(), codes, patterns * width);
        stream.wait();
        const formats::FloatEncoder encoder = formats::float_encoder(f, rounding, overflow);
        const std::string what = std::string(f.name) + " " + rounding_names[mode] + " " + overflow_names[policy];
        const auto expect = [&](std::int64_t first, std::int64_t count, std::uint32_t* out) {
          const std::uint32_t *const bits = in.bits.data() + first, *const word = in.words.data() + first;
          for (std::int64_t i = 0; i < count; ++i) out[i] = encoder(bits[i], word[i]);
        };
        different += count_different(what, patterns, width, got.data(), in.bits.data(), expect);
        compared += patterns;
      }
    }
  }
  report(device.offset == 0 ? "16 formats x 6 roundings x 2 policies" : "the same, unaligned", compared, different);
}

void check_converters(cuda::Stream& stream, const Inputs& in, OnDevice& device) {
  constexpr std::int64_t n = 1 << 20;
  std::vector<std::uint8_t> got(n * 2);
  std::int64_t compared = 0, different = 0;
  for (const sim::Converter& c : sim::all_converters) {
    const int width = c.element.bits > 8 ? 2 : 1;
    for (int mode = 0; mode < 6; ++mode) {
      for (int policy = 0; policy < 2; ++policy) {
        const auto rounding = static_cast<Rounding>(mode);
        const auto overflow = static_cast<Overflow>(policy);
        if (rounding != c.rounding && !c.offers(rounding)) continue;
        if (!c.offers(overflow)) continue;
        std::uint8_t* const codes = device.codes.as<std::uint8_t>();
        const std::int64_t first = mode * 2 + policy;  // at several alignments
        cuda::convert_values(stream, c, rounding, overflow, device.x.as<float>() + first, n,
                             device.words.as<std::uint32_t>() + first, codes);
        stream.download(got.data(), codes, n * width);
        stream.wait();
        const std::string what =
            std::string(c.recipe) + " " + c.element.name + " " + rounding_names[mode] + " " + overflow_names[policy];
        const auto expect = [&](std::int64_t from, std::int64_t count, std::uint32_t* out) {
          const std::uint32_t *const bits = in.bits.data() + first + from, *const word = in.words.data() + first + from;
          for (std::int64_t i = 0; i < count; ++i) {
            out[i] = sim::convert(c, __builtin_bit_cast(float, bits[i]), rounding, overflow, word[i]);
          }
        };
        different += count_different(what, n, width, got.data(), in.bits.data() + first, expect);
        compared += n;
      }
    }
  }
  report("converters of other libraries", compared, different);
}

// ---- all 2^32 floats ----

constexpr std::int64_t chunk = 1 << 26;

struct Whole {
  const char* name;
  Format format;
  Rounding rounding;
};
constexpr Whole wholes[] = {{"e2m1 rne", formats::e2m1, Rounding::nearest_even},
                            {"e4m3 rne", formats::e4m3, Rounding::nearest_even},
                            {"e5m2 rne", formats::e5m2, Rounding::nearest_even},
                            {"ue8m0 rup", formats::ue8m0, Rounding::up},
                            {"ue8m0 rtz", formats::ue8m0, Rounding::toward_zero}};

/// One of `wholes` as a constant, so that little is left of the encoder.
template <int index>
std::int64_t compare_chunk(const std::uint8_t* got, const std::uint32_t* bits) {
  constexpr formats::FloatEncoder encoder =
      formats::float_encoder(wholes[index].format, wholes[index].rounding, Overflow::saturate);
  const auto expect = [&](std::int64_t first, std::int64_t count, std::uint32_t* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = encoder(bits[first + i]);
  };
  return count_different(wholes[index].name, chunk, 1, got, bits, expect);
}

void check_all_floats(cuda::Stream& stream) {
  constexpr std::int64_t (*compare[])(const std::uint8_t*, const std::uint32_t*) = {
      compare_chunk<0>, compare_chunk<1>, compare_chunk<2>, compare_chunk<3>, compare_chunk<4>};
  const cuda::HostMemory bits(chunk * 4), got(chunk);
  const cuda::Memory x(0, chunk * 4), codes(0, chunk);
  std::int64_t different[std::size(wholes)] = {};
  for (std::int64_t first = 0; first < std::int64_t{1} << 32; first += chunk) {
    std::uint32_t* const b = bits.as<std::uint32_t>();
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < chunk; ++i) b[i] = static_cast<std::uint32_t>(first + i);
    stream.upload(x.as<float>(), b, chunk * 4);
    for (std::size_t k = 0; k < std::size(wholes); ++k) {
      const Whole& whole = wholes[k];
      cuda::encode_values(stream, whole.format, whole.rounding, Overflow::saturate, x.as<float>(), chunk, nullptr,
                          codes.as<void>());
      stream.download(got.as<void>(), codes.as<void>(), chunk);
      stream.wait();
      different[k] += compare[k](got.as<std::uint8_t>(), b);
    }
  }
  for (std::size_t k = 0; k < std::size(wholes); ++k) {
    report((std::string("all 2^32 floats, ") + wholes[k].name).c_str(), std::int64_t{1} << 32, different[k]);
  }
}

// ---- decode ----

void check_decode(cuda::Stream& stream) {
  std::int64_t compared = 0, different = 0;
  for (const Format& f : formats::all_formats) {
    const auto n = static_cast<std::int64_t>(f.bits > 8 ? f.code_count() : 256);
    const int width = f.bits > 8 ? 2 : 1;
    for (const std::int64_t offset : {0, 1}) {
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * width));
      for (std::int64_t i = 0; i < n; ++i) std::memcpy(codes.data() + i * width, &i, static_cast<std::size_t>(width));
      std::vector<std::uint32_t> got(static_cast<std::size_t>(n));
      const cuda::Memory in(0, (n + offset) * width), out(0, (n + offset) * 4);
      stream.upload(in.as<std::uint8_t>() + offset * width, codes.data(), n * width);
      cuda::decode_values(stream, f, in.as<std::uint8_t>() + offset * width, n, out.as<float>() + offset);
      stream.download(got.data(), out.as<float>() + offset, n * 4);
      stream.wait();
      for (std::int64_t i = 0; i < n; ++i) {
        const auto code = static_cast<std::uint32_t>(i);
        const auto expected = __builtin_bit_cast(std::uint32_t, formats::decode_float(f, code));
        if (got[code] == expected) continue;
        if (different++ < 20) {
          std::printf("decode %s 0x%02x: cpu 0x%08x, gpu 0x%08x\n", f.name, code, expected, got[code]);
        }
      }
      compared += n;
    }
  }
  report("decode, every code of 16 formats", compared, different);
}

int run() {
  if (cuda::devices().empty()) {
    std::printf("skipped: %s\n", cuda::why_none().c_str());
    return 77;
  }
  cuda::Stream stream;
  const Inputs in;
  OnDevice aligned(stream, in, 0), unaligned(stream, in, 1);
  check_formats(stream, in, aligned);
  check_formats(stream, in, unaligned);
  check_converters(stream, in, aligned);
  check_decode(stream);
  check_all_floats(stream);
  std::printf("%s\n", failures == 0 ? "all the same" : "DIFFERENT");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
