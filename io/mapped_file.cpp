#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "io/complain.hpp"

namespace fp4scope::io {
namespace {

/// Closes on every way out.
struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

}  // namespace

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  const Descriptor descriptor{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};  // a FIFO must not block
  if (descriptor.number < 0) throw system_failure(path_, "read", errno);
  struct stat status = {};
  if (::fstat(descriptor.number, &status) != 0) throw system_failure(path_, "read", errno);
  if (S_ISDIR(status.st_mode)) throw system_failure(path_, "read", EISDIR);
  if (!S_ISREG(status.st_mode)) throw Error(shown(path_), "is not a regular file", "name a file");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return;  // an empty mapping does not exist
  void* const start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.number, 0);
  if (start == MAP_FAILED) throw system_failure(path_, "map into memory", errno);
  bytes_ = {static_cast<const std::byte*>(start), size};
  mapped_ = true;
}

MappedFile::MappedFile(std::string name, std::span<const std::byte> bytes) : path_(std::move(name)), bytes_(bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(other.bytes_), mapped_(std::exchange(other.mapped_, false)) {}

MappedFile::~MappedFile() {
  if (mapped_) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (!mapped_ || part.empty()) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = static_cast<std::size_t>(part.data() - bytes_.data()) / page * page;
  const std::size_t end = static_cast<std::size_t>(part.data() - bytes_.data()) + part.size();
  // A hint: where it fails the pages stay, and nothing else changes.
  static_cast<void>(::madvise(const_cast<std::byte*>(bytes_.data() + begin), end - begin, MADV_DONTNEED));
}

}  // namespace fp4scope::io
