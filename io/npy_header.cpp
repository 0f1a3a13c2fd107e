// The header of a .npy file:
//
//   "\x93NUMPY"   major minor   length: u16 (version 1) or u32 (2 and 3), little-endian
//   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   padded with spaces, ended by a newline   data
//
// Source: NumPy NEP 1 and numpy.lib.format, versions 1.0 to 3.0. Only what NumPy writes for plain arrays is taken.

#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/readers.hpp"

namespace fp4scope::io {
namespace {

constexpr const char* resave = "save it again with numpy.save";

/// Reads a Python dict of a string, a bool and a tuple of integers, in any order.
class DictParser {
 public:
  DictParser(std::string_view text, const std::string& path) : rest_(text), path_(path) {}

  void parse() {
    expect('{');
    while (!take('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && !descr) {
        descr = string();
      } else if (key == "fortran_order" && !fortran_order) {
        fortran_order = boolean();
      } else if (key == "shape" && !shape) {
        shape = tuple();
      } else {
        fail("has the unexpected key " + in_quotes(key));
      }
      if (take('}')) break;
      expect(',');
    }
    skip_space();
    if (!rest_.empty()) fail("goes on behind its dict");
    if (!descr || !fortran_order || !shape) fail("lacks descr, fortran_order or shape");
  }

  std::optional<std::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(shown(path_), "the npy header " + what, resave); }

  void skip_space() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size())); }

  bool take(std::string_view token) {
    skip_space();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  bool take(char token) { return take(std::string_view(&token, 1)); }

  void expect(char token) {
    if (!take(token)) fail("has no '" + std::string(1, token) + "' where one belongs");
  }

  std::string_view string() {
    const char quote = take('\'') ? '\'' : take('"') ? '"' : '\0';
    const std::size_t end = quote == '\0' ? std::string_view::npos : rest_.find(quote);
    if (end == std::string_view::npos) fail("has no string where one belongs");
    const std::string_view text = rest_.substr(0, end);
    if (text.find('\\') != std::string_view::npos) fail("has an escape in a string");
    rest_.remove_prefix(end + 1);
    return text;
  }

  bool boolean() {
    if (take("True")) return true;
    if (!take("False")) fail("has a fortran_order that is neither True nor False");
    return false;
  }

  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> axes;
    expect('(');
    while (!take(')')) {
      if (axes.size() == max_rank) fail("has more than " + std::to_string(max_rank) + " axes");
      axes.push_back(integer());
      if (take(')')) break;
      expect(',');
    }
    return axes;
  }

  std::int64_t integer() {
    skip_space();
    std::int64_t value = 0;
    const auto [end, failure] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (failure != std::errc() || value < 0) fail("has a shape that is not a tuple of integers >= 0");
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    take('L');  // NumPy on Python 2 wrote long integers so
    return value;
  }

  std::string_view rest_;
  const std::string& path_;
};

/// The version, checked, and where the dict begins and ends.
std::pair<std::size_t, std::size_t> dict_range(std::span<const std::byte> file, const std::string& path) {
  constexpr std::size_t longest = 1'000'000;  // a header of 64 axes takes some 1500
  constexpr std::string_view magic = "\x93NUMPY";
  if (file.size() < 10 || std::memcmp(file.data(), magic.data(), magic.size()) != 0) {
    throw Error(shown(path), "does not begin as a .npy file does", resave);
  }
  const int major = std::to_integer<int>(file[6]);
  if (major < 1 || major > 3 || file[7] != std::byte{0}) {
    throw Error(shown(path),
                "is .npy version " + std::to_string(major) + "." + std::to_string(std::to_integer<int>(file[7])) +
                    ", known are 1.0, 2.0 and 3.0",
                resave);
  }
  const std::size_t width = major == 1 ? 2 : 4;
  const std::size_t begin = 8 + width;
  if (file.size() < begin) throw Error(shown(path), "ends inside its header", resave);
  std::uint32_t length = 0;
  std::memcpy(&length, file.data() + 8, width);
  if (length > longest) throw Error(shown(path), "an npy header of " + std::to_string(length) + " bytes", resave);
  if (length > file.size() - begin) throw Error(shown(path), "ends inside its header", resave);
  return {begin, begin + length};
}

/// "<f4" -> F32, and whether the bytes must be swapped.
std::pair<DType, bool> dtype_of(std::string_view descr, const std::string& path) {
  constexpr std::pair<std::string_view, std::string_view> known[] = {
      {"f4", "F32"}, {"f2", "F16"}, {"f8", "F64"}, {"u1", "U8"},  {"i1", "I8"},   {"u2", "U16"}, {"i2", "I16"},
      {"u4", "U32"}, {"i4", "I32"}, {"u8", "U64"}, {"i8", "I64"}, {"b1", "BOOL"}, {"c8", "C64"},
  };
  const char order = descr.empty() ? '\0' : descr[0];
  for (const auto& [code, name] : known) {
    if (descr.empty() || descr.substr(1) != code) continue;
    const bool one_byte = code.ends_with('1');
    const bool known_order = order == '<' || order == '=' || order == '>' || (order == '|' && one_byte);
    if (known_order) return {*find_dtype(name), order == '>' && !one_byte};
  }
  throw Error(shown(path), "has elements of type " + in_quotes(descr) + ", which is not known here",
              "save it as float16, float32 or float64");
}

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> file, const std::string& path) {
  const auto [begin, end] = dict_range(file, path);
  DictParser dict({reinterpret_cast<const char*>(file.data()) + begin, end - begin}, path);
  dict.parse();
  const auto [dtype, big_endian] = dtype_of(*dict.descr, path);
  if (*dict.fortran_order && dict.shape->size() > 1) {
    throw Error(shown(path), "is in Fortran order", "save numpy.ascontiguousarray of it");
  }
  const std::optional<std::size_t> bytes = tensor_bytes(*dict.shape, dtype.bits);
  if (!bytes) throw Error(shown(path), "has a shape too large for any file", resave);
  if (*bytes != file.size() - end) {
    throw Error(shown(path),
                "its shape takes " + std::to_string(*bytes) + " bytes, " + std::to_string(file.size() - end) +
                    " follow the header",
                resave);
  }
  return {dtype, std::move(*dict.shape), end, big_endian};
}

}  // namespace fp4scope::io
