// GGUF, llama.cpp's file: header, key-value pairs (skipped but for the alignment), tensor infos, then the data.
//
//   "GGUF", version u32 (2, 3), tensors u64, pairs u64; pair: key text, type u32, value; text: length u64, bytes
//   info: name text, rank u32, axes u64 (fastest first), type u32, offset u64 in the data, which begins at a multiple of
//   the alignment (32, or general.alignment)
//
// Sources: ggml docs/gguf.md; type numbers of ggml.h. Little-endian files alone. Types F32, F16, BF16 and F64 are read;
// MXFP4 (17 bytes for 32 elements) and NVFP4 (36 bytes for 64) are raw blocks, formats/layout.hpp says how they lie; any
// other type is listed as GGML_<number>, its bytes those up to the next tensor.
#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "formats/layout.hpp"
#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/readers.hpp"

namespace fp4scope::io {
namespace {

/// A type of ggml's that is known here: bytes for so many elements of a row.
struct GgmlType {
  std::uint32_t number;
  DType dtype;
  std::int64_t elements, bytes;
};

const std::vector<GgmlType>& ggml_types() {
  static const std::vector<GgmlType> types = {
      {0, {"F32", 32}, 1, 4},
      {1, {"F16", 16}, 1, 2},
      {28, {"F64", 64}, 1, 8},
      {30, {"BF16", 16}, 1, 2},
      {39, {"MXFP4", 4}, 32, formats::nibble_block_bytes(formats::ggml_mxfp4_nibbles)},
      {40, {"NVFP4", 4}, 64, formats::nibble_block_bytes(formats::ggml_nvfp4_nibbles)},
  };
  return types;
}

/// What comes next in the file, never beyond its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  std::size_t at() const { return at_; }
  [[noreturn]] void refuse(const std::string& what) const { throw Error(shown(path_), what, "the file is damaged"); }
  std::span<const std::byte> take(std::uint64_t count) {
    if (count > bytes_.size() - at_) refuse("ends within its header");
    const auto taken = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return taken;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string text() {
    const auto bytes = take(number<std::uint64_t>());
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
  std::size_t at_ = 0;
};

constexpr std::uint32_t text_type = 8, array_type = 9;
/// Bytes of a value by type: u8 i8 u16 i16 u32 i32 f32 bool, text, array, u64 i64 f64.
constexpr std::uint64_t value_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

void skip_value(Cursor& in, std::uint32_t type, int depth) {
  if (type >= std::size(value_bytes)) in.refuse("has a value of type " + std::to_string(type) + ", which GGUF has not");
  if (type == text_type) {
    in.text();
    return;
  }
  if (type != array_type) {
    in.take(value_bytes[type]);
    return;
  }
  if (depth > 4) in.refuse("has arrays nested too deep");
  const auto inner = in.number<std::uint32_t>();
  const auto count = in.number<std::uint64_t>();
  if (inner >= std::size(value_bytes)) in.refuse("has an array of type " + std::to_string(inner));
  const std::uint64_t fixed = value_bytes[inner];
  if (fixed > 0) {
    if (count > ~std::uint64_t{0} / fixed) in.refuse("ends within its header");
    in.take(count * fixed);
    return;
  }
  for (std::uint64_t i = 0; i < count; ++i) skip_value(in, inner, depth + 1);
}

/// The alignment; everything else is skipped.
std::uint64_t read_pairs(Cursor& in, std::uint64_t count) {
  std::uint64_t alignment = 32;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string key = in.text();
    const auto type = in.number<std::uint32_t>();
    if (key == "general.alignment" && type == 4) {
      alignment = in.number<std::uint32_t>();
      if (alignment == 0 || alignment % 8 != 0) in.refuse("has an alignment of " + std::to_string(alignment));
      continue;
    }
    skip_value(in, type, 0);
  }
  return alignment;
}

/// A tensor as the header has it.
struct Info {
  TensorInfo tensor;
  std::uint64_t offset = 0;
  bool sized = true;  ///< its bytes are known by its type
};

Info read_info(Cursor& in, const std::string& path) {
  Info info;
  info.tensor.name = in.text();
  info.tensor.file = path;
  const auto rank = in.number<std::uint32_t>();
  if (rank > max_rank) in.refuse("tensor " + in_quotes(info.tensor.name) + " has " + std::to_string(rank) + " axes");
  for (std::uint32_t i = 0; i < rank; ++i) {
    info.tensor.shape.insert(info.tensor.shape.begin(), in.number<std::int64_t>());
  }
  if (!tensor_bytes(info.tensor.shape, 8)) in.refuse("tensor " + in_quotes(info.tensor.name) + " has no sane shape");
  const std::int64_t elements = info.tensor.elements();
  const auto number = in.number<std::uint32_t>();
  info.offset = in.number<std::uint64_t>();
  const auto& types = ggml_types();
  const auto type = std::find_if(types.begin(), types.end(), [&](const GgmlType& t) { return t.number == number; });
  if (type == types.end()) {
    info.tensor.dtype = {"GGML_" + std::to_string(number), 8};
    info.sized = false;
    return info;
  }
  info.tensor.dtype = type->dtype;
  const std::int64_t cols = rank == 0 ? 1 : info.tensor.shape.back();
  std::int64_t bytes = 0;
  if (cols % type->elements != 0 || __builtin_mul_overflow(elements / type->elements, type->bytes, &bytes)) {
    in.refuse("tensor " + in_quotes(info.tensor.name) + " has rows of " + std::to_string(cols) + ", no whole blocks of " +
              type->dtype.name);
  }
  info.tensor.bytes = static_cast<std::size_t>(bytes);
  return info;
}

class GgufFile : public TensorFile {
 public:
  explicit GgufFile(MappedFile file) : file_(std::move(file)) {
    files_ = {file_.path()};
    Cursor in(file_.bytes(), file_.path());
    in.take(4);
    const auto version = in.number<std::uint32_t>();
    if (version != 2 && version != 3) in.refuse("is GGUF of version " + std::to_string(version) + ", not 2 or 3");
    const auto count = in.number<std::uint64_t>();
    const std::uint64_t alignment = read_pairs(in, in.number<std::uint64_t>());
    std::vector<Info> infos;
    for (std::uint64_t i = 0; i < count; ++i) infos.push_back(read_info(in, file_.path()));
    const std::uint64_t begin = (in.at() + alignment - 1) / alignment * alignment;
    if (count > 0 && begin > file_.bytes().size()) in.refuse("ends before its data");
    place_tensors(in, infos, begin);
  }

  Values read(const TensorInfo& tensor) const override {
    const std::size_t at = index_of(*this, tensor);
    require_readable(tensors_[at]);
    return widen(tensors_[at].dtype, data_[at], file_);
  }
  Values read_rows(const TensorInfo& tensor, std::int64_t first, std::int64_t count) const override {
    const std::size_t at = index_of(*this, tensor);
    require_readable(tensors_[at]);
    const ByteRange range = row_bytes(tensors_[at], first, count);
    return widen(tensors_[at].dtype, data_[at].subspan(range.begin, range.size), file_);
  }
  std::span<const std::byte> raw(const TensorInfo& tensor) const override { return data_[index_of(*this, tensor)]; }

 private:
  /// Tensors by name, each within the data and apart from the others.
  void place_tensors(const Cursor& in, std::vector<Info>& infos, std::uint64_t begin) {
    const std::uint64_t size = infos.empty() ? 0 : file_.bytes().size() - begin;
    std::sort(infos.begin(), infos.end(), [](const Info& a, const Info& b) { return a.offset < b.offset; });
    for (std::size_t i = 0; i < infos.size(); ++i) {
      const std::uint64_t next = i + 1 < infos.size() ? infos[i + 1].offset : size;
      Info& info = infos[i];
      if (!info.sized && next >= info.offset) info.tensor.bytes = static_cast<std::size_t>(next - info.offset);
      if (info.offset > size || next < info.offset || info.tensor.bytes > next - info.offset) {
        in.refuse("tensor " + in_quotes(info.tensor.name) + " lies beyond the file's end, or in another tensor");
      }
    }
    std::sort(infos.begin(), infos.end(), [](const Info& a, const Info& b) { return a.tensor.name < b.tensor.name; });
    for (const Info& info : infos) {
      if (!tensors_.empty() && tensors_.back().name == info.tensor.name) {
        in.refuse("has two tensors of the name " + in_quotes(info.tensor.name));
      }
      tensors_.push_back(info.tensor);
      data_.push_back(file_.bytes().subspan(static_cast<std::size_t>(begin + info.offset), info.tensor.bytes));
    }
  }

  MappedFile file_;
  std::vector<std::span<const std::byte>> data_;
};

}  // namespace

std::unique_ptr<TensorFile> open_gguf(MappedFile file) { return std::make_unique<GgufFile>(std::move(file)); }

}  // namespace fp4scope::io
