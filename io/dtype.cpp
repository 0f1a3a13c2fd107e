#include "io/dtype.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "io/complain.hpp"

namespace fp4scope::io {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and copied as they are");

constexpr std::pair<std::string_view, int> known[] = {
    {"F32", 32},        {"F16", 16},        {"BF16", 16},   {"F64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
    {"U8", 8},          {"I8", 8},          {"U16", 16},    {"I16", 16},    {"U32", 32},    {"I32", 32},
    {"U64", 64},        {"I64", 64},        {"BOOL", 8},    {"C64", 64},
};

/// Moves the 15 bits into binary32's fields, a number 2^112 too small, and scales it up: exact, subnormals included.
float widen_half(std::uint16_t half) {
  const std::uint32_t magnitude = half & 0x7FFFu;
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t scaled = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f);
  const std::uint32_t special = 0x7F800000u | (magnitude << 13);  // Inf and NaN keep their mantissa
  return std::bit_cast<float>((magnitude >= 0x7C00u ? special : scaled) | sign);
}

float widen_bfloat(std::uint16_t upper) { return std::bit_cast<float>(std::uint32_t{upper} << 16); }

/// `Stored` elements, which may lie unaligned, through `to_float`.
template <typename Stored, typename Convert>
void convert(std::span<const std::byte> raw, float* out, Convert to_float) {
  for (std::size_t i = 0; i < raw.size() / sizeof(Stored); ++i) {
    Stored element;
    std::memcpy(&element, raw.data() + i * sizeof(Stored), sizeof(Stored));
    out[i] = to_float(element);
  }
}

}  // namespace

std::optional<DType> find_dtype(std::string_view name) {
  for (const auto& [known_name, bits] : known) {
    if (name == known_name) return DType{std::string(name), bits};
  }
  return std::nullopt;
}

std::optional<std::size_t> tensor_bytes(std::span<const std::int64_t> shape, int bits) {
  if (shape.size() > max_rank) return std::nullopt;
  std::int64_t total_bits = bits;
  bool empty = false;
  for (const std::int64_t axis : shape) {
    if (axis < 0) return std::nullopt;
    if (axis == 0) empty = true;
    if (axis > 0 && __builtin_mul_overflow(total_bits, axis, &total_bits)) return std::nullopt;
  }
  if (empty) return 0;
  if (total_bits % 8 != 0) return std::nullopt;
  return static_cast<std::size_t>(total_bits / 8);
}

std::int64_t widen(const DType& dtype, std::span<const std::byte> raw, float* out) {
  std::int64_t changed = 0;
  if (dtype.name == "F32") convert<float>(raw, out, [](float x) { return x; });
  else if (dtype.name == "F16") convert<std::uint16_t>(raw, out, widen_half);
  else if (dtype.name == "BF16") convert<std::uint16_t>(raw, out, widen_bfloat);
  else {
    convert<double>(raw, out, [&changed](double x) {
      const auto rounded = static_cast<float>(x);
      changed += static_cast<double>(rounded) != x && !std::isnan(x);
      return rounded;
    });
  }
  return changed;
}

Values widen(const DType& dtype, std::span<const std::byte> raw) {
  Values values;
  values.data.resize(raw.size() * 8 / static_cast<std::size_t>(dtype.bits));
  values.changed = widen(dtype, raw, values.data.data());
  return values;
}

Values widen(const DType& dtype, std::span<const std::byte> raw, const MappedFile& file) {
  constexpr std::size_t part = std::size_t{1} << 24;  // a multiple of every element's bytes
  const std::size_t width = static_cast<std::size_t>(dtype.bits) / 8;
  Values values;
  values.data.resize(raw.size() / width);
  for (std::size_t first = 0; first < raw.size(); first += part) {
    const std::span<const std::byte> bytes = raw.subspan(first, std::min(part, raw.size() - first));
    values.changed += widen(dtype, bytes, values.data.data() + first / width);
    file.release(bytes);
  }
  return values;
}

ByteRange row_bytes(const TensorInfo& tensor, std::int64_t first, std::int64_t count) {
  if (tensor.shape.empty()) throw Error(place(tensor.file, tensor.name), "has no rows", "read it whole");
  const std::int64_t rows = tensor.shape[0];
  if (first < 0 || count < 0 || first > rows || count > rows - first) {
    throw Error(place(tensor.file, tensor.name), "has " + std::to_string(rows) + " rows, not those from " +
                                                     std::to_string(first) + ", " + std::to_string(count) + " of them");
  }
  const std::size_t row = rows == 0 ? 0 : tensor.bytes / static_cast<std::size_t>(rows);
  return {static_cast<std::size_t>(first) * row, static_cast<std::size_t>(count) * row};
}

}  // namespace fp4scope::io
