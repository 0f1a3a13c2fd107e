#include "analysis/lossless.hpp"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

constexpr int sixteen = 16, nan_code = 255, bias = 127;
constexpr int least_power = -9, greatest_power = 8, least_normal = -126;

void require_mxfp4(const Quantized& q) {
  if (q.config.format->name == std::string_view("mxfp4") && q.config.block % sixteen == 0) return;
  throw Error("NVFP4 from " + std::string(q.config.format->name),
              fmt::format("blocks of {}: only MXFP4 in blocks of 16 or 32 has the same elements", q.config.block));
}

bool any_nonzero(const std::uint8_t* codes) {
  std::uint32_t all = 0;
  for (int i = 0; i < sixteen; ++i) all |= codes[i];
  return (all & 7u) != 0;
}

/// E4M3's code of 2^(k - m) for the UE8M0 code k + 127; -1: it has none.
int nvfp4_scale_of(int ue8m0_code, int exponent) {
  const int power = ue8m0_code - bias - exponent;
  if (ue8m0_code >= nan_code || power < least_power || power > greatest_power) return -1;
  if (power < -6) return 1 << (power - least_power);  // subnormal: 2^-9, 2^-8, 2^-7
  return (power + 7) << 3;
}

}  // namespace

void LosslessCount::add(const Quantized& q) {
  require_mxfp4(q);
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; c += sixteen) {
      if (any_nonzero(q.codes.data() + r * q.cols + c)) {
        ++blocks_[q.scales[static_cast<std::size_t>(r * q.blocks_per_row() + c / q.config.block)]];
      }
    }
  }
}

Lossless LosslessCount::result() const {
  Lossless l;
  int top = -1;
  for (int code = 0; code < nan_code; ++code) top = blocks_[static_cast<std::size_t>(code)] > 0 ? code : top;
  if (top >= 0) l.exponent = std::max(top - bias - greatest_power, least_normal);
  for (int code = 0; code <= nan_code; ++code) {
    const std::int64_t count = blocks_[static_cast<std::size_t>(code)];
    l.blocks += count;
    if (nvfp4_scale_of(code, l.exponent) < 0) l.outside += count;
  }
  l.possible = l.outside == 0;
  return l;
}

Quantized to_nvfp4(const Quantized& q, int exponent) {
  require_mxfp4(q);
  Quantized out = q;
  out.config = parse_config({"nvfp4", "naive", "", "", "propagate", sixteen, 0});
  out.tensor_scale = static_cast<float>(std::ldexp(1.0, exponent));
  out.scales.assign(static_cast<std::size_t>(q.rows * q.cols / sixteen), 0);
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; c += sixteen) {
      if (!any_nonzero(q.codes.data() + r * q.cols + c)) continue;
      const int code = q.scales[static_cast<std::size_t>(r * q.blocks_per_row() + c / q.config.block)];
      const int scale = nvfp4_scale_of(code, exponent);
      if (scale < 0) {
        throw Error(fmt::format("row {}, column {}", q.first_row + r, c),
                    fmt::format("scale 0x{:02x} is no E4M3 number times 2^{}", code, exponent));
      }
      out.scales[static_cast<std::size_t>((r * q.cols + c) / sixteen)] = static_cast<std::uint8_t>(scale);
    }
  }
  return out;
}

}  // namespace fp4scope::analysis
