#include "analysis/code_counts.hpp"

#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <string_view>

namespace fp4scope::analysis {
namespace {

/// The code of an element's magnitude.
std::uint32_t magnitude_code(const formats::Format& element, std::uint32_t code) {
  const std::uint32_t sign = element.sign_bit();
  if ((code & sign) == 0) return code;
  if (!element.twos_complement) return code & ~sign;
  return std::min((element.code_count() - code) & (element.code_count() - 1), element.max_code);
}

/// Blocks of one row of a piece.
void count_row(const Quantized& q, std::int64_t row, const std::array<std::uint8_t, 256>& magnitudes, CodeCounts& to) {
  for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
    const std::uint8_t scale = q.scales[static_cast<std::size_t>(row * q.blocks_per_row() + b)];
    const std::uint8_t* const codes = q.codes.data() + row * q.cols + b * q.config.block;
    std::uint8_t largest = 0;
    for (int i = 0; i < q.config.block; ++i) {
      ++to.codes[codes[i]];
      largest = std::max(largest, magnitudes[codes[i]]);
    }
    ++to.scales[scale];
    ++(largest == 0 ? to.zero_scales[scale] : to.largest[largest]);
  }
}

void add_histogram(Histogram& to, const Histogram& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

/// Sum over the scale bytes for which `holds`, without a selection bit.
template <class Holds>
std::int64_t count_scales(const CodeCounts& c, const Holds& holds) {
  std::int64_t count = 0;
  for (std::uint32_t byte = 0; c.format && byte < 256; ++byte) {
    const std::uint32_t code = c.format->selects() ? byte & ~static_cast<std::uint32_t>(formats::selection_bit) : byte;
    if (holds(code)) count += c.scales[byte];
  }
  return count;
}

}  // namespace

std::int64_t total(const Histogram& counts) { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }

double entropy(const Histogram& counts) {
  const auto all = static_cast<double>(total(counts));
  double bits = 0;
  for (const std::int64_t count : counts) {
    if (count > 0) bits -= static_cast<double>(count) / all * std::log2(static_cast<double>(count) / all);
  }
  return bits > 0 ? bits : 0;  // one code alone gives -0
}

void CodeCounts::add(const Quantized& q) {
  if (!format) format = q.config.format;
  std::array<std::uint8_t, 256> magnitudes{};
  const formats::Format& element = q.config.format->element;
  for (std::uint32_t code = 0; code < 256; ++code) {
    magnitudes[code] = static_cast<std::uint8_t>(magnitude_code(element, code & (element.code_count() - 1)));
  }
#pragma omp parallel
  {
    CodeCounts own;
#pragma omp for schedule(static) nowait
    for (std::int64_t r = 0; r < q.rows; ++r) count_row(q, r, magnitudes, own);
#pragma omp critical(fp4scope_code_counts)
    add(own);
  }
}

void CodeCounts::add(const CodeCounts& other) {
  if (!format) format = other.format;
  add_histogram(codes, other.codes);
  add_histogram(scales, other.scales);
  add_histogram(zero_scales, other.zero_scales);
  add_histogram(largest, other.largest);
}

std::int64_t CodeCounts::minus_zeros() const {
  const bool has = format && format->element.sign_bit() != 0 && !format->element.twos_complement;
  return has ? codes[format->element.sign_bit()] : 0;
}

std::int64_t CodeCounts::saturated() const {
  if (!format) return 0;
  const formats::Format& element = format->element;
  std::int64_t count = 0;
  for (std::uint32_t code = 0; code < element.code_count(); ++code) {
    if (magnitude_code(element, code) == element.max_code) count += codes[code];
  }
  return count;
}

std::int64_t CodeCounts::nan_scales() const {
  return count_scales(*this,
                      [&](std::uint32_t code) { return std::isnan(formats::decode_double(format->scale, code)); });
}

std::int64_t CodeCounts::value_zero_scales() const {
  return count_scales(*this, [&](std::uint32_t code) { return formats::decode_double(format->scale, code) == 0; });
}

std::int64_t CodeCounts::subnormal_scales() const {
  if (!format || !format->scale.has_zero) return 0;
  const double normal = std::ldexp(1.0, format->scale.min_exponent());
  return count_scales(*this, [&](std::uint32_t code) {
    const double value = std::abs(formats::decode_double(format->scale, code));
    return value > 0 && value < normal;
  });
}

std::int64_t CodeCounts::negative_scales() const {
  if (!format || format->selects()) return 0;
  const std::uint32_t sign = format->scale.sign_bit();
  return count_scales(*this, [&](std::uint32_t code) { return (code & sign) != 0; });
}

int CodeCounts::least_scale() const {
  for (int i = 0; i < 256; ++i) {
    if (scales[static_cast<std::size_t>(i)] > zero_scales[static_cast<std::size_t>(i)]) return i;
  }
  return -1;
}

int CodeCounts::largest_scale() const {
  for (int i = 255; i >= 0; --i) {
    if (scales[static_cast<std::size_t>(i)] > zero_scales[static_cast<std::size_t>(i)]) return i;
  }
  return -1;
}

namespace {

/// Below this many of something, its absence says nothing.
constexpr std::int64_t few = 64;

std::string percent(std::int64_t part, std::int64_t whole) {
  return fmt::format("{:.4g} %", 100 * static_cast<double>(part) / static_cast<double>(whole));
}

/// Who writes which scale byte beside a block of zeros in a tensor that is not zeros.
struct ZeroByte {
  int byte;
  const char* who;
};
constexpr ZeroByte e4m3_zero_bytes[] = {
    {0x00, "te, te_ref, fouroversix, flashinfer, vllm_emulation, fpquant, qwantize and exact"},
    {0x08, "torchao, whose least scale is 2^-6"},
    {0x20, "compressed_tensors, which writes 0.125 for a scale of 0"},
    {0x38, "modelopt_dyn, whose scale of a zero block is 1"},
    {0x7E, "modelopt_export, whose scale of a zero block is min(2688 / amax, 448)"},
};

void zero_blocks(const CodeCounts& c, std::vector<std::string>& lines) {
  const std::int64_t count = c.zero_blocks();
  if (count == 0) return;
  int byte = 0, different = 0;
  for (int i = 0; i < 256; ++i) {
    if (c.zero_scales[static_cast<std::size_t>(i)] == 0) continue;
    byte = i;
    ++different;
  }
  if (different > 1) {
    lines.push_back(fmt::format("{} blocks of zeros have {} different scale bytes: consistent with scales that are not "
                                "those of the blocks alone, or with elements that all round to zero",
                                count, different));
    return;
  }
  std::string who;
  if (c.format->scale.has_zero) {
    for (const ZeroByte& z : e4m3_zero_bytes) who = z.byte == byte ? z.who : who;
  }
  lines.push_back(fmt::format("{} blocks of zeros have scale byte {:02X}{}{}", count, byte,
                              who.empty() ? "" : ": consistent with ", who));
}

void minus_zeros(const CodeCounts& c, std::vector<std::string>& lines) {
  const std::int64_t minus = c.minus_zeros(), plus = c.plus_zeros();
  if (minus + plus < few) return;
  if (minus == 0) {
    lines.push_back(fmt::format("none of {} zeros is coded -0: consistent with ggml, and with positive data", plus));
  } else {
    lines.push_back(
        fmt::format("{} of the zeros are coded -0: not consistent with ggml", percent(minus, minus + plus)));
  }
}

void e4m3_range(const CodeCounts& c, std::vector<std::string>& lines) {
  const int least = c.least_scale(), largest = c.largest_scale();
  if (largest < 0) return;
  if (largest == 0x7E) {
    lines.push_back("the largest block scale is 448 (7E): consistent with a tensor scale of amax / (6 * 448)");
  } else if (largest == 0x78) {
    lines.push_back(
        "the largest block scale is 256 (78): consistent with a tensor scale of amax / (6 * 256), as in 4/6");
  } else if (largest < 0x7E) {
    lines.push_back(fmt::format("the largest block scale byte is {:02X}: consistent with a tensor scale that is not "
                                "this tensor's own (shared by fused layers, or none)",
                                largest));
  }
  if (c.subnormal_scales() > 0) {
    lines.push_back(fmt::format("{} of the scales are subnormal: not consistent with torchao",
                                percent(c.subnormal_scales(), c.blocks())));
  } else if (least == 0x08) {
    lines.push_back("no scale is subnormal and the least is 2^-6 (08): consistent with torchao's clamp");
  }
}

/// Which code the largest magnitude of a block has.
void largest_elements(const CodeCounts& c, std::vector<std::string>& lines) {
  const std::int64_t blocks = total(c.largest), six = c.largest[7], four = c.largest[6];
  if (blocks < few) return;
  if (six == blocks) {
    lines.push_back("every nonzero block has an element 6: consistent with a rule that maps amax to 6");
    return;
  }
  const bool power = c.format->scale.mantissa_bits == 0;
  if (power && six + four == blocks) {
    lines.push_back(fmt::format("the largest element of every nonzero block is 4 or 6 ({} have 6): consistent with "
                                "floor, whose amax lies in 4 .. 8",
                                percent(six, blocks)));
  } else if (power && six + four + c.largest[5] == blocks) {
    lines.push_back("the largest element of every nonzero block is 3, 4 or 6: consistent with a scale rounded up or to "
                    "nearest, so that amax lies near 3 .. 6");
  } else if (!power && six + four == blocks) {
    lines.push_back(fmt::format("the largest element of every nonzero block is 6, or 4 in {}: consistent with 4/6 and "
                                "with a search",
                                percent(four, blocks)));
  } else {
    lines.push_back(fmt::format("{} of the nonzero blocks have no element 6, {} none above 3: consistent with a search",
                                percent(blocks - six, blocks), percent(blocks - six - four, blocks)));
  }
}

}  // namespace

std::vector<std::string> evidence(const CodeCounts& c) {
  std::vector<std::string> lines;
  if (!c.format || c.format->selects()) return lines;
  zero_blocks(c, lines);
  const bool e2m1 = formats::same_format(c.format->element, formats::e2m1) && c.format->levels.count == 0;
  if (e2m1) minus_zeros(c, lines);
  if (e2m1 && formats::same_format(c.format->scale, formats::e4m3)) e4m3_range(c, lines);
  if (e2m1) largest_elements(c, lines);
  return lines;
}

}  // namespace fp4scope::analysis
