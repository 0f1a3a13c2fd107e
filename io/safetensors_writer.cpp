#include "io/safetensors_writer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/safetensors_header.hpp"

namespace fp4scope::io {
namespace {

/// The text as a JSON string. Only UTF-8 can be one.
std::string json_string(const std::string& text, const std::string& path) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(shown(path), "the name or text " + in_quotes(text) + " is not UTF-8", "safetensors hold UTF-8 alone");
  }
}

std::string json_object(const std::map<std::string, std::string>& members, const std::string& path) {
  std::string text = "{";
  for (const auto& [key, value] : members) {
    text += (text.size() == 1 ? "" : ",") + json_string(key, path) + ":" + json_string(value, path);
  }
  return text + "}";
}

std::size_t checked_bytes(const SafetensorsWriter::Entry& entry, const std::string& path) {
  const std::optional<DType> dtype = find_dtype(entry.dtype);
  if (!dtype) throw Error(place(path, entry.name), "has the unknown dtype " + in_quotes(entry.dtype));
  const std::optional<std::size_t> bytes = tensor_bytes(entry.shape, dtype->bits);
  if (!bytes) throw Error(place(path, entry.name), "has a shape that takes no whole number of bytes");
  return *bytes;
}

/// Wide types first, otherwise as declared.
std::vector<SafetensorsWriter::Entry> aligned(std::vector<SafetensorsWriter::Entry> entries, const std::string& path) {
  const auto bits = [&](const SafetensorsWriter::Entry& entry) {
    const std::optional<DType> dtype = find_dtype(entry.dtype);
    if (!dtype) throw Error(place(path, entry.name), "has the unknown dtype " + in_quotes(entry.dtype));
    return dtype->bits;
  };
  std::stable_sort(entries.begin(), entries.end(), [&](const auto& a, const auto& b) { return bits(a) > bits(b); });
  return entries;
}

std::string entry_json(const SafetensorsWriter::Entry& entry, std::uint64_t begin, std::uint64_t end,
                       const std::string& path) {
  return json_string(entry.name, path) + ":{\"dtype\":\"" + entry.dtype +
         "\",\"shape\":" + nlohmann::json(entry.shape).dump() + ",\"data_offsets\":[" + std::to_string(begin) + "," +
         std::to_string(end) + "]}";
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<Entry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), file_(path) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + json_object(metadata, path);
  std::uint64_t offset = 0;
  for (const Entry& entry : aligned(std::move(entries), path)) {
    const std::size_t bytes = checked_bytes(entry, path);
    const bool fresh = entry.name != "__metadata__" && places_.try_emplace(entry.name, Place{offset, bytes, 0}).second;
    if (!fresh) throw Error(place(path, entry.name), "the name is taken", "rename one");
    if (offset + bytes < offset) throw Error(place(path, entry.name), "the file would pass 2^64 bytes");
    text += (text.size() > 1 ? "," : "") + entry_json(entry, offset, offset + bytes, path);
    offset += bytes;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins at a multiple of 8
  if (text.size() > max_safetensors_header) throw Error(shown(path), "the header would pass the format's 100 MB");
  std::string length(sizeof(std::uint64_t), '\0');
  for (std::size_t i = 0; i < length.size(); ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  file_.append(length + text);
  for (auto& [name, entry] : places_) entry.offset += length.size() + text.size();
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto found = places_.find(name);
  if (found == places_.end()) throw Error(place(path_, name), "was not declared");
  const Place& entry = found->second;
  if (entry.written > 0) throw Error(place(path_, name), "was written before");
  if (entry.bytes != bytes.size()) {
    throw Error(place(path_, name),
                std::to_string(bytes.size()) + " bytes where " + std::to_string(entry.bytes) + " were declared");
  }
  write_part(name, 0, bytes);
}

void SafetensorsWriter::write_part(const std::string& name, std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto found = places_.find(name);
  if (found == places_.end()) throw Error(place(path_, name), "was not declared");
  Place& entry = found->second;
  if (offset > entry.bytes || bytes.size() > entry.bytes - offset) {
    throw Error(place(path_, name), "a part ends beyond the " + std::to_string(entry.bytes) + " bytes declared");
  }
  file_.write_at(entry.offset + offset, bytes);
  entry.written += bytes.size();
}

void SafetensorsWriter::commit() {
  for (const auto& [name, entry] : places_) {
    if (entry.written != entry.bytes) {
      throw Error(place(path_, name), entry.written == 0 ? "was declared and never written" : "is not written whole");
    }
  }
  file_.commit();
}

}  // namespace fp4scope::io
