#include "analysis/dequantize_checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "analysis/checkpoint.hpp"
#include "analysis/model_folder.hpp"
#include "analysis/quantize_file.hpp"
#include "formats/error.hpp"
#include "io/dtype.hpp"
#include "io/safetensors_writer.hpp"

namespace fp4scope::analysis {

namespace {

constexpr std::int64_t elements_at_once = std::int64_t{1} << 24;

/// Of what belongs to no weight all that safetensors has a type for, with a word about the others.
std::vector<const io::TensorInfo*> copied(const Checkpoint& checkpoint, const Notice& notice) {
  std::vector<const io::TensorInfo*> list;
  for (const io::TensorInfo* t : checkpoint.rest()) {
    if (io::find_dtype(t->dtype.name)) list.push_back(t);
  }
  const std::size_t others = checkpoint.rest().size() - list.size();
  if (others > 0) notice(fmt::format("{} tensors of types that safetensors doesn't have are left out", others));
  return list;
}

std::vector<io::SafetensorsWriter::Entry> entries(const Checkpoint& checkpoint,
                                                  const std::vector<const io::TensorInfo*>& copies,
                                                  const std::string& dtype) {
  std::vector<io::SafetensorsWriter::Entry> list;
  for (const StoredWeight& w : checkpoint.weights()) list.push_back({w.name, dtype, w.shape});
  for (const io::TensorInfo* t : copies) list.push_back({t->name, t->dtype.name, t->shape});
  return list;
}

/// Throws UsageError where `out` is a file that is read.
void check_apart(const io::TensorFile& file, const std::string& out) {
  std::error_code ignored;
  for (const std::string& path : file.files()) {
    if (!std::filesystem::equivalent(path, out, ignored)) continue;
    throw UsageError("-o", out + " is a file of the checkpoint", "name another");
  }
}

/// Of the file's metadata what holds for values as well.
std::map<std::string, std::string> metadata(const Checkpoint& checkpoint, const std::string& in,
                                            const std::string& tool) {
  std::map<std::string, std::string> meta = checkpoint.file().metadata();
  meta.erase("fp4scope");
  meta["fp4scope_dequantized"] = nlohmann::json{{"tool", tool}, {"from", in}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
  return meta;
}

}  // namespace

std::size_t dequantize_checkpoint(const std::string& in, const std::string& out, const std::string& dtype,
                                  const std::string& tool, const Notice& notice, const std::atomic<bool>* stop) {
  const Checkpoint checkpoint(in);
  check_apart(checkpoint.file(), out);
  notice_unread(checkpoint, notice);
  const std::vector<const io::TensorInfo*> copies = copied(checkpoint, notice);
  io::SafetensorsWriter writer(out, entries(checkpoint, copies, dtype), metadata(checkpoint, in, tool));
  for (const StoredWeight& w : checkpoint.weights()) {
    if (w.rotated) notice(w.name + " was rotated before it was quantized: its values are those of the rotated weight");
    const std::int64_t at_once = std::max<std::int64_t>(elements_at_once / w.cols, 1);
    std::uint64_t offset = 0;
    for (std::int64_t first = 0; first < w.rows; first += at_once) {
      if (stop && *stop) return 0;
      const Quantized q = checkpoint.read(w, first, std::min(at_once, w.rows - first));
      const std::vector<std::byte> values = dequantized_as(dtype, q, w.cols);
      writer.write_part(w.name, offset, values);
      offset += values.size();
    }
    checkpoint.file().release(*w.codes);
  }
  for (const io::TensorInfo* t : copies) copy_tensor(checkpoint.file(), *t, t->name, writer);
  writer.commit();
  return checkpoint.weights().size();
}

bool is_quantized_file(const std::string& path) { return io::open_tensors(path)->metadata().contains("fp4scope"); }

}  // namespace fp4scope::analysis
