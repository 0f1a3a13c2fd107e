// A checkpoint out: a folder of .safetensors shards with their index, whole or absent, that a kill can't lose.
//
//   OUT.partial/work          what is being made: the caller's words. Another work's folder is never touched.
//   OUT.partial/lock          held by the process that writes
//   OUT.partial/records/S     of a finished shard S: the caller's note. Written after S is whole and on the disk.
//   OUT.partial/checkpoint/   what becomes OUT: shards, copied files, texts, S.index.json
//
// commit() renames OUT.partial/checkpoint to OUT and removes the rest; a run that ends before its first shard is whole
// removes OUT.partial too. So at any kill OUT is absent or whole, and what
// OUT.partial/records names needs no second computation; everything else in checkpoint/ is made again.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors_writer.hpp"

namespace fp4scope::io {

class CheckpointWriter {
 public:
  /// One .safetensors file of the checkpoint.
  struct Shard {
    std::string file;  ///< a bare name, "model-00001-of-00002.safetensors"
    std::vector<SafetensorsWriter::Entry> entries;
    std::map<std::string, std::string> metadata;
  };

  /// `work`: everything that decides the bytes (configuration, identity of the input), as text. `index` is the bare
  /// name of the index. A fresh start needs neither OUT nor OUT.partial; with `resume` OUT.partial of the same work
  /// goes on, and none is a fresh start. Throws Error, with the mend: OUT is there; OUT.partial is there, is another
  /// work's, or is being written; two shards or tensors of one name; the folder can't be made.
  CheckpointWriter(std::string out, std::string work, std::vector<Shard> shards, std::string index, bool resume);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  const std::vector<Shard>& shards() const { return shards_; }
  /// Whole from an earlier run, or finished in this.
  bool finished(const std::string& file) const { return notes_.contains(file); }
  /// What finish() was given.
  const std::string& note(const std::string& file) const { return notes_.at(file); }

  /// To write a shard's tensors with; finish() commits it.
  SafetensorsWriter begin(const Shard& shard) const;
  void finish(const Shard& shard, SafetensorsWriter& writer, const std::string& note);

  /// A file's bytes under a relative name; folders are made.
  void copy(const std::string& from, const std::string& name);
  void write_text(const std::string& name, std::string_view text);

  /// Every shard finished: writes the index, and OUT appears.
  void commit();

  /// Of all tensors.
  std::size_t total_bytes() const;
  /// OUT.partial
  const std::string& partial() const { return partial_; }

 private:
  std::string inside(const std::string& name) const { return partial_ + "/checkpoint/" + name; }
  std::string record(const std::string& file) const { return partial_ + "/records/" + file; }
  void check_shards() const;
  void start(bool resume);
  void lock();
  void read_records();
  void clear_rest();
  std::string index_text() const;

  std::string out_, partial_, work_, index_;
  std::vector<Shard> shards_;
  std::map<std::string, std::string> notes_;
  int lock_ = -1;
  bool landed_ = false;  ///< an earlier run was killed after OUT appeared
};

/// "OUT.partial" of "OUT" and "OUT/".
std::string partial_of(const std::string& out);

/// What tells whether a file is the same one: its bare name, size and time of change, one line.
std::string file_identity(const std::string& path);

}  // namespace fp4scope::io
