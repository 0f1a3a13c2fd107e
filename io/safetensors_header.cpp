#include "io/safetensors_header.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/strict_json.hpp"

namespace fp4scope::io {
namespace {

constexpr const char* damaged = "the file is damaged or was cut off; fetch it again";

/// One member of the header as it stands there.
struct Entry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<std::uint64_t>> shape, offsets;
};

/// Takes the JSON's events, refuses what the format doesn't know.
class HeaderReader {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  void operator()(const JsonEvent& event) {
    if (event.keys.empty()) {
      if (event.kind != JsonEvent::object) throw Error(shown(path_), "the header is not a JSON object", damaged);
    } else if (event.keys[0] == "__metadata__") {
      metadata_member(event);
    } else if (event.keys.size() == 1) {
      if (event.kind != JsonEvent::object) refuse(event, "is not a JSON object");
      entries.push_back({event.keys[0], {}, {}, {}});
    } else if (event.keys[1] == "dtype") {
      if (event.kind != JsonEvent::text) refuse(event, "has a dtype that is not a string");
      entries.back().dtype = event.string;
    } else if (event.keys[1] == "shape") {
      list_item(event, entries.back().shape);
    } else if (event.keys[1] == "data_offsets") {
      list_item(event, entries.back().offsets);
    } else {
      refuse(event, "has the unknown member " + in_quotes(event.keys[1]));
    }
  }

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

 private:
  [[noreturn]] void refuse(const JsonEvent& event, const std::string& what) const {
    throw Error(place(path_, event.keys[0]), what, damaged);
  }

  void metadata_member(const JsonEvent& event) {
    const bool expected = event.kind == (event.keys.size() == 1 ? JsonEvent::object : JsonEvent::text);
    if (!expected) throw Error(shown(path_), "__metadata__ does not map strings to strings", damaged);
    if (event.keys.size() == 2) metadata[event.keys[1]] = event.string;
  }

  void list_item(const JsonEvent& event, std::optional<std::vector<std::uint64_t>>& list) const {
    const bool expected = event.kind == (event.in_array ? JsonEvent::integer : JsonEvent::array);
    if (!expected) refuse(event, "has a " + event.keys[1] + " that is not a list of integers >= 0");
    if (!event.in_array) {
      list.emplace();
    } else if (list->size() == max_rank) {
      refuse(event, "has a " + event.keys[1] + " of more than " + std::to_string(max_rank) + " items");
    } else {
      list->push_back(event.number);
    }
  }

  const std::string& path_;
};

std::vector<std::int64_t> checked_shape(const Entry& entry, const std::string& where) {
  std::vector<std::int64_t> shape;
  for (const std::uint64_t axis : *entry.shape) {
    if (axis > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      throw Error(where, "has an axis of " + std::to_string(axis), damaged);
    }
    shape.push_back(static_cast<std::int64_t>(axis));
  }
  return shape;
}

/// The tensor of an entry, and its first byte counted from the data's start.
std::pair<TensorInfo, std::size_t> checked_tensor(const Entry& entry, std::size_t data_bytes, const std::string& path) {
  const std::string where = place(path, entry.name);
  if (!entry.dtype) throw Error(where, "has no dtype", damaged);
  if (!entry.shape) throw Error(where, "has no shape", damaged);
  if (!entry.offsets) throw Error(where, "has no data_offsets", damaged);
  const std::optional<DType> dtype = find_dtype(*entry.dtype);
  if (!dtype) throw Error(where, "has the unknown dtype " + in_quotes(*entry.dtype));
  if (entry.offsets->size() != 2) throw Error(where, "has data_offsets that are not a pair", damaged);
  const std::uint64_t begin = (*entry.offsets)[0];
  const std::uint64_t end = (*entry.offsets)[1];
  const std::string range = "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "]";
  if (begin > end) throw Error(where, range + " end before they begin", damaged);
  if (end > data_bytes) {
    throw Error(where, range + " lie beyond the file's " + std::to_string(data_bytes) + " bytes of data", damaged);
  }
  TensorInfo tensor{entry.name, *dtype, checked_shape(entry, where), end - begin, path};
  const std::optional<std::size_t> bytes = tensor_bytes(tensor.shape, dtype->bits);
  if (!bytes)
    throw Error(where, "shape " + tensor.shape_text() + " of " + dtype->name + " has no size in bytes", damaged);
  if (*bytes != tensor.bytes) {
    throw Error(where,
                "shape " + tensor.shape_text() + " of " + dtype->name + " takes " + std::to_string(*bytes) +
                    " bytes, " + range + " hold " + std::to_string(tensor.bytes),
                damaged);
  }
  return {std::move(tensor), begin};
}

/// The tensors tile the data: each begins where the one before it ended.
void check_tiling(const SafetensorsHeader& header, std::size_t data_bytes, const std::string& path) {
  std::vector<std::size_t> order(header.tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(header.begins[a], header.tensors[a].bytes) < std::pair(header.begins[b], header.tensors[b].bytes);
  });
  std::size_t covered = 0;
  for (const std::size_t i : order) {
    const std::size_t begin = header.begins[i];
    if (begin != covered) {
      throw Error(place(path, header.tensors[i].name),
                  std::string(begin < covered ? "overlaps the tensor before it" : "leaves a hole before it") +
                      ": begins at " + std::to_string(begin) + ", expected " + std::to_string(covered),
                  damaged);
    }
    covered += header.tensors[i].bytes;
  }
  if (covered != data_bytes) {
    throw Error(shown(path), std::to_string(data_bytes - covered) + " bytes of data belong to no tensor", damaged);
  }
}

/// The JSON between the length and the data.
std::string_view header_text(std::span<const std::byte> file, const std::string& path) {
  std::uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    throw Error(shown(path), "has " + std::to_string(file.size()) + " bytes, too short for a safetensors file",
                damaged);
  }
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > max_safetensors_header) {
    throw Error(shown(path),
                "a header of " + std::to_string(length) + " bytes is longer than the format's limit of " +
                    std::to_string(max_safetensors_header),
                "is it a safetensors file?");
  }
  if (length > file.size() - sizeof(length)) {
    throw Error(shown(path),
                "a header of " + std::to_string(length) + " bytes in a file of " + std::to_string(file.size()),
                damaged);
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(length), length);
  if (!text.starts_with('{')) throw Error(shown(path), "the header is not a JSON object", "is it a safetensors file?");
  return text;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, const std::string& path) {
  const std::string_view text = header_text(file, path);
  HeaderReader reader(path);
  visit_json(text, shown(path), 3, std::ref(reader));

  const std::size_t data_start = sizeof(std::uint64_t) + text.size();
  const std::size_t data_bytes = file.size() - data_start;
  std::sort(reader.entries.begin(), reader.entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  SafetensorsHeader header;
  header.metadata = std::move(reader.metadata);
  for (const Entry& entry : reader.entries) {
    auto [tensor, begin] = checked_tensor(entry, data_bytes, path);
    header.tensors.push_back(std::move(tensor));
    header.begins.push_back(begin);
  }
  check_tiling(header, data_bytes, path);
  for (std::size_t& begin : header.begins) begin += data_start;
  return header;
}

}  // namespace fp4scope::io
