// A file that is whole or absent: written beside its final name, flushed, renamed at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace fp4scope::io {

/// Does commit() wait until the bytes are on the disk?
enum class Durability : std::uint8_t {
  flushed,  ///< whole even after a power failure
  cached,   ///< whole after a kill; for files whose reader can tell a torn one
};

/// Writes PATH.tmp-<pid>-<n>; commit() makes it PATH; destruction without commit() removes it.
/// A PATH that is a symbolic link stays one: the file that it points to is replaced.
/// Every failed system call (full disk, no permission, no such folder) throws Error with the path and the reason; so
/// does a PATH that exists and is no regular file, at construction, since a rename would replace a device.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);
  /// At an offset, wherever append() stands; what is skipped reads as zeros.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  /// Flushes to the disk and renames into place.
  void commit(Durability durability = Durability::flushed);
  /// For libraries that insist on opening the file themselves: the temporary name. Such a writer closes its handle
  /// before commit().
  const std::string& temporary_path() const { return temporary_; }

 private:
  std::string path_, temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

/// The whole text in one call.
void write_text_file(const std::string& path, std::string_view text);
/// Throws Error if it can't be read, or is larger than `limit` bytes.
std::string read_text_file(const std::string& path, std::size_t limit = std::size_t{1} << 30);

}  // namespace fp4scope::io
