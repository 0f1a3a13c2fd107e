#include "io/safetensors_writer.hpp"

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
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

/// The length, the JSON and the padding that lets the data begin at a multiple of 8; and how many bytes of data follow.
std::pair<std::string, std::size_t> header_of(const std::string& path,
                                              const std::vector<SafetensorsWriter::Entry>& entries,
                                              const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + json_object(metadata, path);
  std::set<std::string> names = {"__metadata__"};
  std::size_t offset = 0;
  for (const SafetensorsWriter::Entry& entry : entries) {
    if (!names.insert(entry.name).second) throw Error(place(path, entry.name), "the name is taken", "rename one");
    const std::size_t end = offset + checked_bytes(entry, path);
    if (end < offset) throw Error(place(path, entry.name), "the file would pass 2^64 bytes");
    if (text.size() > 1) text += ',';
    text += json_string(entry.name, path) + ":{\"dtype\":\"" + entry.dtype +
            "\",\"shape\":" + nlohmann::json(entry.shape).dump() + ",\"data_offsets\":[" + std::to_string(offset) +
            "," + std::to_string(end) + "]}";
    offset = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > max_safetensors_header) throw Error(shown(path), "the header would pass the format's 100 MB");
  std::string header(sizeof(std::uint64_t), '\0');
  for (std::size_t i = 0; i < header.size(); ++i) header[i] = static_cast<char>(text.size() >> (8 * i));
  return {header + text, offset};
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<Entry>& entries,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), file_(path) {
  const auto [header, data_bytes] = header_of(path, entries, metadata);
  file_.append(header);
  remaining_ = data_bytes;
  std::uint64_t offset = header.size();
  for (const Entry& entry : entries) {
    const std::size_t bytes = checked_bytes(entry, path);
    places_[entry.name] = {offset, bytes, false};
    offset += bytes;
  }
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto found = places_.find(name);
  if (found == places_.end()) throw Error(place(path_, name), "was not declared");
  Place& place_of = found->second;
  if (place_of.written) throw Error(place(path_, name), "was written before");
  if (place_of.bytes != bytes.size()) throw Error(place(path_, name), "has another size than declared");
  file_.write_at(place_of.offset, bytes);
  place_of.written = true;
  remaining_ -= bytes.size();
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > remaining_) throw Error(shown(path_), "more data than the header declares");
  file_.append(bytes);
  remaining_ -= bytes.size();
}

void SafetensorsWriter::commit() {
  if (remaining_ != 0) throw Error(shown(path_), std::to_string(remaining_) + " declared bytes were never written");
  file_.commit();
}

}  // namespace fp4scope::io
