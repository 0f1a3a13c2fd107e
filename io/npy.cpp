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
    return widen(tensors_[0].dtype, raw(tensor));
  }

  std::span<const std::byte> raw(const TensorInfo& tensor) const override {
    index_of(*this, tensor);
    if (!big_endian_) return data_;
    std::call_once(swapping_, [this] { swap(); });
    return swapped_;
  }

 private:
  /// Turns each number's bytes around; a complex number is two.
  void swap() const {
    const DType& dtype = tensors_[0].dtype;
    const std::ptrdiff_t width = dtype.name == "C64" ? 4 : dtype.bits / 8;
    swapped_.assign(data_.begin(), data_.end());
    for (auto number = swapped_.begin(); number != swapped_.end(); number += width) {
      std::reverse(number, number + width);
    }
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
