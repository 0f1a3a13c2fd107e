#include "io/checkpoint_writer.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/atomic_file.hpp"
#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/mapped_file.hpp"

namespace fp4scope::io {
namespace {

namespace fs = std::filesystem;

void make_folder(const std::string& path) {
  std::error_code failure;
  fs::create_directories(path, failure);
  if (failure) throw system_failure(path, "make the folder", failure.value());
}

void remove_all(const std::string& path) {
  std::error_code failure;
  fs::remove_all(path, failure);
  if (failure) throw system_failure(path, "remove", failure.value());
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

/// "a/b/" -> "a/b"
std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

/// A rename is durable once its folder is.
void flush_folder(const std::string& path) {
  const int descriptor = ::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

std::size_t bytes_of(const SafetensorsWriter::Entry& entry) {
  const std::optional<DType> dtype = find_dtype(entry.dtype);
  return dtype ? tensor_bytes(entry.shape, dtype->bits).value_or(0) : 0;  // the shard's writer refuses what has none
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::string out, std::string work, std::vector<Shard> shards, std::string index,
                                   bool resume)
    : out_(without_slash(std::move(out))),
      partial_(partial_of(out_)),
      work_(std::move(work)),
      index_(std::move(index)),
      shards_(std::move(shards)) {
  if (out_.empty()) throw Error("output", "the folder's name is empty", "name a folder");
  check_shards();
  try {
    start(resume);
  } catch (...) {
    if (lock_ >= 0) ::close(lock_);
    throw;
  }
}

CheckpointWriter::~CheckpointWriter() {
  if (notes_.empty() && !landed_) {  // nothing that a later run could keep
    std::error_code ignored;
    fs::remove(partial_ + "/work", ignored);
    fs::remove_all(partial_, ignored);
  }
  if (lock_ >= 0) ::close(lock_);
}

void CheckpointWriter::check_shards() const {
  std::set<std::string> files, tensors;
  for (const Shard& shard : shards_) {
    if (!files.insert(shard.file).second) throw Error(shown(out_), "two shards are called " + in_quotes(shard.file));
    for (const SafetensorsWriter::Entry& e : shard.entries) {
      if (!tensors.insert(e.name).second) throw Error(shown(out_), "two tensors are called " + in_quotes(e.name));
    }
  }
}

void CheckpointWriter::start(bool resume) {
  const bool begun = exists(partial_ + "/work");
  if (begun) lock();  // first: a run that goes on is not one that was stopped
  if (begun && !resume) {
    throw Error(shown(partial_), "is left of a run that was stopped", "--resume to go on with it, or remove it");
  }
  if (exists(out_) && !begun) throw Error(shown(out_), "is there already", "name another folder, or remove it");
  if (exists(partial_) && !begun) {
    std::error_code ignored;
    const bool bare = fs::is_directory(partial_, ignored) && !exists(partial_ + "/checkpoint");
    if (!bare) throw Error(shown(partial_), "is in the way, and no run left it", "move it, or name another folder");
  }
  if (!begun) {
    make_folder(partial_);
    lock();
  }
  if (begun && read_text_file(partial_ + "/work") != work_) {
    throw Error(shown(partial_), "was begun with other options, another version or another input",
                "give the same again, or remove it");
  }
  landed_ = begun && exists(out_) && !exists(partial_ + "/checkpoint");
  if (begun && exists(out_) && !landed_) {
    throw Error(shown(out_), "is there already, beside " + shown(partial_), "name another folder, or remove one");
  }
  if (!begun) write_text_file(partial_ + "/work", work_);
  make_folder(partial_ + "/records");
  if (!landed_) make_folder(partial_ + "/checkpoint");
  read_records();
  if (!landed_) clear_rest();
}

void CheckpointWriter::lock() {
  const std::string path = partial_ + "/lock";
  lock_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) throw system_failure(path, "write", errno);
  if (::flock(lock_, LOCK_EX | LOCK_NB) == 0) return;
  if (errno == EWOULDBLOCK) throw Error(shown(partial_), "is being written by another run", "wait for its end");
}

void CheckpointWriter::read_records() {
  std::error_code ignored;
  for (const Shard& shard : shards_) {
    if (!exists(record(shard.file))) continue;
    if (!landed_ && !fs::is_regular_file(inside(shard.file), ignored)) continue;
    notes_[shard.file] = read_text_file(record(shard.file));
  }
}

/// Temporary files of a killed run, and what is made again anyway.
void CheckpointWriter::clear_rest() {
  std::vector<std::string> rest;
  std::error_code failure;
  const std::string folder = partial_ + "/checkpoint";
  for (fs::directory_iterator entry(folder, failure), end; !failure && entry != end; entry.increment(failure)) {
    if (!finished(entry->path().filename().string())) rest.push_back(entry->path().string());
  }
  if (failure) throw system_failure(folder, "list the folder", failure.value());
  for (const std::string& path : rest) remove_all(path);
}

SafetensorsWriter CheckpointWriter::begin(const Shard& shard) const {
  return SafetensorsWriter(inside(shard.file), shard.entries, shard.metadata);
}

void CheckpointWriter::finish(const Shard& shard, SafetensorsWriter& writer, const std::string& note) {
  writer.commit();
  write_text_file(record(shard.file), note);
  notes_[shard.file] = note;
}

void CheckpointWriter::copy(const std::string& from, const std::string& name) {
  if (landed_) return;
  make_folder(fs::path(inside(name)).parent_path().string());
  const MappedFile source(from);
  AtomicFile file(inside(name));
  constexpr std::size_t part = std::size_t{1} << 24;
  for (std::size_t at = 0; at < source.bytes().size(); at += part) {
    const auto bytes = source.bytes().subspan(at, std::min(part, source.bytes().size() - at));
    file.append(bytes);
    source.release(bytes);
  }
  file.commit();
}

void CheckpointWriter::write_text(const std::string& name, std::string_view text) {
  if (landed_) return;
  write_text_file(inside(name), text);
}

std::size_t CheckpointWriter::total_bytes() const {
  std::size_t bytes = 0;
  for (const Shard& shard : shards_) {
    for (const SafetensorsWriter::Entry& e : shard.entries) bytes += bytes_of(e);
  }
  return bytes;
}

/// {"metadata": {"total_size": BYTES}, "weight_map": {TENSOR: SHARD, ...}}, names sorted.
std::string CheckpointWriter::index_text() const {
  nlohmann::ordered_json j;
  std::map<std::string, std::string> shard_of;
  for (const Shard& shard : shards_) {
    for (const SafetensorsWriter::Entry& e : shard.entries) shard_of[e.name] = shard.file;
  }
  j["metadata"]["total_size"] = total_bytes();
  j["weight_map"] = shard_of;
  return j.dump(2, ' ', false) + "\n";
}

void CheckpointWriter::commit() {
  for (const Shard& shard : shards_) {
    if (!finished(shard.file)) throw Error(shown(out_), "shard " + in_quotes(shard.file) + " is not written");
  }
  if (!landed_) {
    write_text(index_, index_text());
    flush_folder(partial_ + "/checkpoint");
    if (std::rename((partial_ + "/checkpoint").c_str(), out_.c_str()) != 0) throw system_failure(out_, "write", errno);
    flush_folder(fs::path(out_).parent_path().string());
  }
  remove_all(partial_ + "/work");  // first: what is left of a kill from here on is nobody's
  remove_all(partial_);
}

std::string partial_of(const std::string& out) { return without_slash(out) + ".partial"; }

std::string file_identity(const std::string& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) throw system_failure(path, "read", errno);
  return fs::path(path).filename().string() + " " + std::to_string(status.st_size) + " " +
         std::to_string(status.st_mtim.tv_sec) + "." + std::to_string(status.st_mtim.tv_nsec);
}

}  // namespace fp4scope::io
