#include "analysis/c_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <limits>

#include "analysis/against.hpp"
#include "analysis/names.hpp"
#include "formats/error.hpp"
#include "io/dtype.hpp"

namespace fp4scope::analysis {
namespace {

const std::vector<ClassWords>& classes() {
  static const std::vector<ClassWords> words = difference_classes();
  return words;
}

void put_text(const std::string& text, char* room, std::size_t size) {
  if (!room || size == 0) return;
  const std::size_t length = std::min(text.size(), size - 1);
  std::memcpy(room, text.data(), length);
  room[length] = '\0';
}

struct Arguments {
  const void* x;
  std::string dtype;
  std::int64_t rows, cols;
  const std::uint8_t *codes, *scales;
  float tensor_scale;
  AgainstOptions options;
};

Matrix read(const Arguments& a) {
  std::string name = a.dtype;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const std::vector<std::string> known = {"F32", "BF16", "F16", "F64"};
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    throw UsageError("dtype", "unknown type '" + a.dtype + "'", suggestion(a.dtype, known));
  }
  const io::DType dtype = *io::find_dtype(name);
  const auto bytes = static_cast<std::size_t>(a.rows * a.cols * dtype.bits / 8);
  return {a.rows, a.cols, io::widen(dtype, {static_cast<const std::byte*>(a.x), bytes}).data, name};
}

/// The format, with the block that was asked for or its own.
const formats::BlockFormat& format_of(AgainstOptions& o) {
  const formats::BlockFormat* format = formats::find_block_format(o.format);
  if (!format) throw UsageError("format", "unknown format '" + o.format + "'", suggestion(o.format, format_names()));
  if (o.block == 0) o.block = format->block;
  if (o.block < 2 || o.block % 2 != 0) throw UsageError("block", fmt::format("{} is no even number", o.block));
  return *format;
}

AgainstReport compare(Arguments a) {
  if (!a.x || !a.codes || !a.scales) throw UsageError("crosscheck", "x, codes or scales is NULL");
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 64;
  if (a.rows < 1 || a.cols < 1 || a.rows > most / a.cols) {
    throw UsageError("crosscheck", fmt::format("[{}, {}] is no shape", a.rows, a.cols));
  }
  const formats::BlockFormat& format = format_of(a.options);
  const bool packed = format.element.bits <= 4;
  if (packed && a.cols % 2 != 0) throw UsageError("cols", fmt::format("{} columns can't be packed in pairs", a.cols));
  const std::int64_t blocks = padded(a.cols, a.options.block) / a.options.block;
  TheirBytes theirs;
  theirs.where = "codes";
  theirs.codes = {a.codes, static_cast<std::size_t>(packed ? a.rows * (a.cols / 2) : a.rows * a.cols)};
  theirs.scales = {a.scales, static_cast<std::size_t>(a.rows * blocks)};
  theirs.scales_shape = {a.rows, blocks};
  if (a.tensor_scale != 0) theirs.tensor_scale = {a.tensor_scale, false};
  a.options.nibbles = packed ? "low" : "";
  a.options.layout = "linear";
  return compare_against(a.options, "x", read(a), theirs);
}

void put_counts(const AgainstReport& report, fp4scope_counts& out) {
  const Explained& e = report.explained.at(0);
  out.blocks = e.count.blocks;
  out.equal = e.count.equal;
  out.scales_differ = e.count.scales_differ;
  out.codes_differ = e.count.codes_differ;
  out.elements = e.count.elements;
  out.elements_differ = e.count.elements_differ;
  for (const ClassCount& k : e.classes) {
    for (std::size_t i = 0; i < classes().size(); ++i) {
      if (classes()[i].name == k.name) out.classes[i] = k.blocks;
    }
  }
  put_text(e.count.name, out.recipe, sizeof(out.recipe));
}

}  // namespace
}  // namespace fp4scope::analysis

int fp4scope_crosscheck(const void* x, const char* dtype, int64_t rows, int64_t cols, const uint8_t* codes,
                        const uint8_t* scales, float tensor_scale, const char* format, const char* recipe, int block,
                        char* report, size_t report_size, fp4scope_counts* out) {
  using namespace fp4scope::analysis;
  if (out) *out = {};
  try {
    Arguments a = {x, dtype ? dtype : "", rows, cols, codes, scales, tensor_scale, {}};
    a.options.format = format ? format : "";
    a.options.recipe = recipe ? recipe : "";
    a.options.block = block;
    const AgainstReport found = compare(a);
    put_text(against_text(found, false), report, report_size);
    if (out) put_counts(found, *out);
    return found.agrees() ? 0 : 1;
  } catch (const std::exception& error) {
    put_text(error.what(), report, report_size);
    return 2;
  }
}

const char* fp4scope_class_name(int index) {
  using fp4scope::analysis::classes;
  const bool there = index >= 0 && index < static_cast<int>(classes().size());
  return there ? classes()[static_cast<std::size_t>(index)].name.c_str() : nullptr;
}
