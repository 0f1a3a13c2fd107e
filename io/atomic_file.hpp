// A file that is whole or absent: written beside its final name, flushed, renamed at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace fp4scope::io {

/// Writes PATH.tmp-<pid>; commit() makes it PATH; destruction without commit() removes it.
/// Every failed system call (full disk, no permission, no such folder) throws Error with the path and the reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void append(const std::string& text);
  /// Flushes to the disk and renames into place.
  void commit();
  /// For libraries that insist on opening the file themselves (HDF5): the temporary name. Such a writer closes its
  /// handle before commit().
  const std::string& temporary_path() const { return temporary_; }

 private:
  std::string path_, temporary_;
  int descriptor_ = -1;
};

/// The whole text in one call.
void write_text_file(const std::string& path, const std::string& text);
/// Throws Error if it can't be read.
std::string read_text_file(const std::string& path);

}  // namespace fp4scope::io
