// Operands and results of a device's matrix instructions as a safetensors file: for set N of an instruction NAME
//   NAME/N.A [m, k], NAME/N.B [k, n], NAME/N.C [m, n], NAME/N.D [m, n]     block scales: NAME/N.SA, NAME/N.SB
// U8 codes of 8 and 4 bits (one a byte), F16, BF16, F32 (tf32 too) otherwise. Metadata: device, architecture.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "formats/error.hpp"
#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"
#include "tests/cuda/tensor_core_probe.hpp"

namespace fp4scope::probe {

struct Record {
  const sim::Instruction* row;
  Batch batch;
};

/// Of an instruction: 2 sets of a warpgroup's, 4 or 6 of a warp's, 5 to 13 KB.
inline Batch record_sets(const sim::Instruction& r, std::uint64_t seed) {
  // Three terms, cancelling, opposite, spread; of FP8 subnormals that meet large numbers.
  constexpr std::int64_t of_warp[] = {1, 3, 7, 13, 26, 42}, of_group[] = {1, 7};
  const bool warp = r.opcode == sim::Opcode::mma;
  const std::int64_t count = !warp ? 2 : r.a.bits == 8 ? 6 : 4;
  Batch out = empty_batch(r, 0, count);
  for (std::int64_t s = 0; s < count; ++s) SetMaker(r, warp ? of_warp[s] : of_group[s], seed)(out, s);
  return out;
}

inline const char* dtype_of(const formats::Format& f) {
  if (f.bits <= 8) return "U8";
  if (f.bits == 19) return "F32";
  return formats::same_format(f, formats::fp16) ? "F16" : "BF16";
}

/// The arrays of a record's set by their suffix: bytes, dtype, shape.
struct Array {
  const char* suffix;
  const std::vector<std::uint8_t>* all;
  std::string dtype;
  std::vector<std::int64_t> shape;
  int width;

  std::size_t bytes() const { return static_cast<std::size_t>(shape[0] * shape[1] * width); }
};
inline std::vector<Array> arrays_of(const sim::Instruction& r, const Batch& x) {
  std::vector<Array> out = {{".A", &x.a, dtype_of(r.a), {r.m, r.k}, width_of(r.a)},
                            {".B", &x.b, dtype_of(r.b), {r.k, r.n}, width_of(r.b)},
                            {".C", &x.c, r.f16_addend ? "F16" : "F32", {r.m, r.n}, width_of_c(r)},
                            {".D", &x.d, r.f16_result() ? "F16" : "F32", {r.m, r.n}, width_of_d(r)}};
  if (r.scaled) out.push_back({".SA", &x.scale_a, "U8", {r.m, r.k / r.block}, 1});
  if (r.scaled) out.push_back({".SB", &x.scale_b, "U8", {r.k / r.block, r.n}, 1});
  return out;
}

inline void write_records(const std::string& path, const std::vector<Record>& records,
                          const std::map<std::string, std::string>& metadata) {
  std::vector<io::SafetensorsWriter::Entry> entries;
  const auto each = [&](auto f) {
    for (const Record& record : records) {
      const std::string name = record.row->name;
      for (std::int64_t s = 0; s < record.batch.count; ++s) {
        for (const Array& x : arrays_of(*record.row, record.batch))
          f(name.substr(0, name.find('@')) + "/" + std::to_string(s) + x.suffix, s, x);
      }
    }
  };
  each([&](const std::string& name, std::int64_t, const Array& x) { entries.push_back({name, x.dtype, x.shape}); });
  io::SafetensorsWriter writer(path, entries, metadata);
  each([&](const std::string& name, std::int64_t s, const Array& x) {
    const auto* const at = reinterpret_cast<const std::byte*>(x.all->data()) + static_cast<std::size_t>(s) * x.bytes();
    writer.write(name, std::span(at, x.bytes()));
  });
  writer.commit();
}

/// The sets of an instruction in a file; none if it has none of that name.
inline Batch read_records(const io::TensorFile& file, const sim::Instruction& r) {
  const std::string whole = r.name, name = whole.substr(0, whole.find('@'));
  Batch out;
  while (file.find(name + "/" + std::to_string(out.count) + ".D")) ++out.count;
  out = empty_batch(r, 0, out.count);
  for (std::int64_t s = 0; s < out.count; ++s) {
    for (const Array& x : arrays_of(r, out)) {
      const io::TensorInfo* const info = file.find(name + "/" + std::to_string(s) + x.suffix);
      if (!info || info->shape != x.shape || info->dtype.name != x.dtype)
        throw Error(name, "its records are not as they should be", "record them again");
      const auto raw = file.raw(*info);
      std::memcpy(const_cast<std::uint8_t*>(x.all->data()) + static_cast<std::size_t>(s) * x.bytes(), raw.data(),
          x.bytes());
    }
  }
  return out;
}

}  // namespace fp4scope::probe
