// Safetensors out: names, dtypes and shapes are declared first, the data follows in any order, and the file appears
// under its name only when it is whole.
//
// Wide types are laid out first, as the format's own library does, so that every tensor starts at a multiple of its
// element's size: readers that view the mapped bytes (PyTorch) insist on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/atomic_file.hpp"

namespace fp4scope::io {

class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    std::string dtype;  ///< "U8", "U16", "F32", "BF16", ...
    std::vector<std::int64_t> shape;
  };

  /// Throws Error on a doubled name, an unknown dtype, or text that is not UTF-8.
  SafetensorsWriter(const std::string& path, std::vector<Entry> entries,
                    const std::map<std::string, std::string>& metadata);

  /// All of an entry's bytes, little-endian, C order; entries in any order.
  /// Throws Error for an unknown name, another size than declared, or a second time.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// Bytes of an entry from `offset` on; parts of one entry don't overlap and come one after the other, those of
  /// different entries from any threads at once. Throws Error for an unknown name, or beyond what was declared.
  void write_part(const std::string& name, std::uint64_t offset, std::span<const std::byte> bytes);
  /// Throws Error if anything declared is missing.
  void commit();

 private:
  struct Place {
    std::uint64_t offset;
    std::size_t bytes;
    std::size_t written;
  };

  std::string path_;
  AtomicFile file_;
  std::map<std::string, Place> places_;
};

}  // namespace fp4scope::io
