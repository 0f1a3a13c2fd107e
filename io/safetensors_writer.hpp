// Safetensors out, streamed: the header is written first, so names, dtypes and shapes are declared first, the data
// follows in that order, and the file appears under its name only when it is whole.
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

  /// Data is laid out in the order of `entries`. Throws Error on a doubled name, an unknown dtype, or text
  /// that is not UTF-8.
  SafetensorsWriter(const std::string& path, const std::vector<Entry>& entries,
                    const std::map<std::string, std::string>& metadata);

  /// All of an entry's bytes, little-endian, C order; entries in any order. Don't mix with append().
  /// Throws Error for an unknown name, another size than declared, or a second time.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// The next entry's bytes, little-endian, C order; several calls may share an entry's bytes.
  /// Throws Error when bytes overrun what was declared.
  void append(std::span<const std::byte> bytes);
  /// Throws Error if anything declared is missing.
  void commit();

 private:
  std::string path_;
  AtomicFile file_;
  std::size_t remaining_ = 0;
  struct Place {
    std::uint64_t offset;
    std::size_t bytes;
    bool written;
  };
  std::map<std::string, Place> places_;
};

}  // namespace fp4scope::io
