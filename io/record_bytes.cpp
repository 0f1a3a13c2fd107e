#include "io/record_bytes.hpp"

#include <array>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "formats/error.hpp"

namespace fp4scope::io {
namespace {

using nlohmann::json;

constexpr std::string_view magic = "fp4scope record\n";
constexpr std::uint32_t version = 1;
constexpr std::size_t prefix_bytes = magic.size() + 4 + 8 + 8;

/// FNV-1a over 64 bits: tells a torn or rotten file, keeps no secret.
std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

template <typename T>
void append_number(std::string& bytes, T number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(T));
}

template <typename T>
T number_at(std::string_view bytes, std::size_t position) {
  T number;
  std::memcpy(&number, bytes.data() + position, sizeof(T));
  return number;
}

template <typename T>
json to_binary(const T* data, std::size_t count) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(data);
  return json::binary(std::vector<std::uint8_t>(bytes, bytes + count * sizeof(T)));
}

template <typename T>
std::vector<T> from_binary(const json& value) {
  const auto& bytes = value.get_binary();
  std::vector<T> data(bytes.size() / sizeof(T));
  if (!data.empty()) std::memcpy(data.data(), bytes.data(), data.size() * sizeof(T));
  return data;
}

json cell_to_json(const Cell& cell) {
  if (const double* const number = std::get_if<double>(&cell)) return to_binary(number, 1);
  if (const std::int64_t* const integer = std::get_if<std::int64_t>(&cell)) return *integer;
  return std::get<std::string>(cell);
}

Cell cell_from_json(const json& value) {
  if (value.is_binary()) return from_binary<double>(value).at(0);
  if (value.is_string()) return value.get<std::string>();
  return value.get<std::int64_t>();
}

/// The place of its type in Array names an array's type.
template <std::size_t... I>
Array array_of_type(std::size_t type, const json& data, std::index_sequence<I...>) {
  Array array;
  const bool known =
      ((type == I && (array = from_binary<typename std::variant_alternative_t<I, Array>::value_type>(data), true)) ||
       ...);
  if (!known) throw std::out_of_range("array type");
  return array;
}

json dataset_to_json(const Dataset& dataset) {
  const json data =
      std::visit([](const auto& values) { return to_binary(values.data(), values.size()); }, dataset.data);
  return {{"path", dataset.path},
          {"shape", dataset.shape},
          {"type", dataset.data.index()},
          {"data", data},
          {"attributes", dataset.attributes}};
}

Dataset dataset_from_json(const json& value) {
  constexpr auto types = std::make_index_sequence<std::variant_size_v<Array>>();
  return {value.at("path").get<std::string>(), value.at("shape").get<std::vector<std::int64_t>>(),
          array_of_type(value.at("type").get<std::size_t>(), value.at("data"), types),
          value.at("attributes").get<std::map<std::string, std::string>>()};
}

}  // namespace

std::string record_to_bytes(const Record& record) {
  json row = json::array();
  for (const Cell& cell : record.row) row.push_back(cell_to_json(cell));
  json datasets = json::array();
  for (const Dataset& dataset : record.datasets) datasets.push_back(dataset_to_json(dataset));
  std::string payload;
  json::to_cbor(json{{"row", std::move(row)}, {"datasets", std::move(datasets)}}, payload);

  std::string bytes(magic);
  append_number(bytes, version);
  append_number(bytes, checksum(payload));
  append_number(bytes, std::uint64_t{payload.size()});
  return bytes + payload;
}

bool is_whole_record(std::string_view bytes) {
  if (bytes.size() < prefix_bytes || !bytes.starts_with(magic)) return false;
  const std::string_view payload = bytes.substr(prefix_bytes);
  return number_at<std::uint32_t>(bytes, magic.size()) == version &&
         number_at<std::uint64_t>(bytes, magic.size() + 12) == payload.size() &&
         number_at<std::uint64_t>(bytes, magic.size() + 4) == checksum(payload);
}

Record record_from_bytes(std::string_view bytes, const std::string& where) {
  constexpr const char* mend = "delete this file and resume";
  if (!is_whole_record(bytes)) throw Error(where, "the record is torn or of another version", mend);
  Record record;
  try {
    const json payload = json::from_cbor(bytes.substr(prefix_bytes));
    for (const json& cell : payload.at("row")) record.row.push_back(cell_from_json(cell));
    for (const json& dataset : payload.at("datasets")) record.datasets.push_back(dataset_from_json(dataset));
  } catch (const std::exception&) {  // a whole file that says something else
    throw Error(where, "the record holds something else than a result", mend);
  }
  return record;
}

}  // namespace fp4scope::io
