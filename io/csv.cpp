#include <charconv>
#include <cmath>
#include <string_view>

#include "io/results.hpp"

namespace fp4scope::io {
namespace {

/// Quoted where RFC 4180, 2.6 asks for it; quotes inside are doubled (2.7).
std::string field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

std::string field(std::int64_t number) { return std::to_string(number); }

std::string field(double number) {
  if (std::isnan(number)) return "nan";
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof(text), number).ptr);
}

}  // namespace

std::string to_csv(const Table& table) {
  std::string csv;
  for (std::size_t c = 0; c < table.columns.size(); ++c) csv += (c > 0 ? "," : "") + field(table.columns[c].name);
  csv += "\r\n";
  for (const std::vector<Cell>& row : table.rows) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (c > 0) csv += ',';
      csv += std::visit([](const auto& cell) { return field(cell); }, row[c]);
    }
    csv += "\r\n";
  }
  return csv;
}

}  // namespace fp4scope::io
