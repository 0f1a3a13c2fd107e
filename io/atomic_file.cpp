#include "io/atomic_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "io/complain.hpp"
#include "io/mapped_file.hpp"

namespace fp4scope::io {
namespace {

/// Where a rename should land: `path`, or what it points to if it is a symbolic link.
std::string landing_place(const std::string& path) {
  std::error_code failure;
  if (!std::filesystem::is_symlink(path, failure)) return path;
  const std::filesystem::path target = std::filesystem::weakly_canonical(path, failure);
  return failure ? path : target.string();
}

/// An existing target must be a regular file that may be written.
void check_target(const std::string& path) {
  if (path.empty()) throw Error("output", "the file name is empty", "name a file");
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) return;  // absent, or open() will say why
  if (S_ISDIR(status.st_mode)) throw system_failure(path, "write", EISDIR);
  if (!S_ISREG(status.st_mode)) throw Error(shown(path), "is not a regular file", "name a file that can be replaced");
  if (::access(path.c_str(), W_OK) != 0) throw system_failure(path, "write", errno);
}

/// Makes the rename itself survive a power failure. Some file systems cannot; the file is whole either way.
void flush_folder(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  static std::atomic<unsigned> count = 0;  // two writers of one process never share a temporary
  path_ = landing_place(path_);
  check_target(path_);
  temporary_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
  descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw system_failure(path_, "write", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  constexpr std::size_t most = std::size_t{1} << 30;  // one write() moves less than 2 GiB
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), std::min(bytes.size(), most));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw system_failure(path_, "write", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t most = std::min(bytes.size(), std::size_t{1} << 30);
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), most, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw system_failure(path_, "write", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

void AtomicFile::append(std::string_view text) { append(std::as_bytes(std::span(text))); }

void AtomicFile::commit(Durability durability) {
  const bool flush = durability == Durability::flushed;
  if (flush && ::fsync(descriptor_) != 0) throw system_failure(path_, "write", errno);
  // Network file systems report a full disk as late as here.
  if (::close(std::exchange(descriptor_, -1)) != 0) throw system_failure(path_, "write", errno);
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) throw system_failure(path_, "write", errno);
  committed_ = true;
  if (flush) flush_folder(path_);
}

void write_text_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.append(text);
  file.commit();
}

std::string read_text_file(const std::string& path, std::size_t limit) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  if (bytes.size() > limit) {
    throw Error(shown(path),
                "has " + std::to_string(bytes.size()) + " bytes, more than the limit of " + std::to_string(limit),
                "is it the right file?");
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace fp4scope::io
