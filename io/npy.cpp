#include <algorithm>
#include <filesystem>
#include <mutex>
#include <utility>

#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/readers.hpp"

namespace fp4scope::io {
namespace {

class NpyFile : public TensorFile {
 public:
  explicit NpyFile(MappedFile file) : file_(std::move(file)) {
    NpyHeader header = parse_npy_header(file_.bytes(), file_.path());
    data_ = file_.bytes().subspan(header.begin);
    big_endian_ = header.big_endian;
    const std::string name = std::filesystem::path(file_.path()).stem().string();
    tensors_ = {{name, header.dtype, std::move(header.shape), data_.size(), file_.path()}};
    files_ = {file_.path()};
  }

  Values read(const TensorInfo& tensor) const override {
    require_readable(tensors_[index_of(*this, tensor)]);
    return widened(data_);
  }

  Values read_rows(const TensorInfo& tensor, std::int64_t first, std::int64_t count) const override {
    const TensorInfo& own = tensors_[index_of(*this, tensor)];
    require_readable(own);
    const ByteRange range = row_bytes(own, first, count);
    return widened(data_.subspan(range.begin, range.size));
  }

  std::span<const std::byte> raw(const TensorInfo& tensor) const override {
    index_of(*this, tensor);
    if (!big_endian_) return data_;
    std::call_once(swapping_, [this] { swapped_ = swapped(data_); });
    return swapped_;
  }

 private:
  /// Each number's bytes turned around; a complex number is two.
  std::vector<std::byte> swapped(std::span<const std::byte> stored) const {
    const DType& dtype = tensors_[0].dtype;
    const std::ptrdiff_t width = dtype.name == "C64" ? 4 : dtype.bits / 8;
    std::vector<std::byte> bytes(stored.begin(), stored.end());
    for (auto number = bytes.begin(); number != bytes.end(); number += width) std::reverse(number, number + width);
    return bytes;
  }

  Values widened(std::span<const std::byte> stored) const {
    return big_endian_ ? widen(tensors_[0].dtype, swapped(stored)) : widen(tensors_[0].dtype, stored, file_);
  }

  MappedFile file_;
  std::span<const std::byte> data_;
  bool big_endian_ = false;
  mutable std::once_flag swapping_;
  mutable std::vector<std::byte> swapped_;
};

}  // namespace

std::unique_ptr<TensorFile> open_npy(MappedFile file) { return std::make_unique<NpyFile>(std::move(file)); }

}  // namespace fp4scope::io
