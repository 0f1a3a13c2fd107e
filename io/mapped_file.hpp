// The bytes of a file, read-only, mapped rather than copied.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace fp4scope::io {

class MappedFile {
 public:
  /// Throws Error if `path` is absent, unreadable or not a regular file. An empty file has no bytes.
  explicit MappedFile(std::string path);
  /// Bytes that somebody else keeps alive, under a name for error messages.
  MappedFile(std::string name, std::span<const std::byte> bytes);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  /// Gives the memory behind `part` of bytes() back to the system, which reads it again if it is touched again: what
  /// streams through a file larger than memory says so of what it has read.
  void release(std::span<const std::byte> part) const;

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
  bool mapped_ = false;
};

}  // namespace fp4scope::io
