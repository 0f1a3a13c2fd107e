#include <utility>

#include "io/dtype.hpp"
#include "io/readers.hpp"
#include "io/safetensors_header.hpp"

namespace fp4scope::io {
namespace {

class SafetensorsFile : public TensorFile {
 public:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {
    SafetensorsHeader header = parse_safetensors_header(file_.bytes(), file_.path());
    tensors_ = std::move(header.tensors);
    metadata_ = std::move(header.metadata);
    begins_ = std::move(header.begins);
    files_ = {file_.path()};
  }

  Values read(const TensorInfo& tensor) const override {
    const TensorInfo& own = tensors_[index_of(*this, tensor)];
    require_readable(own);
    return widen(own.dtype, raw(own), file_);
  }

  Values read_rows(const TensorInfo& tensor, std::int64_t first, std::int64_t count) const override {
    const TensorInfo& own = tensors_[index_of(*this, tensor)];
    require_readable(own);
    const ByteRange range = row_bytes(own, first, count);
    return widen(own.dtype, raw(own).subspan(range.begin, range.size), file_);
  }

  std::span<const std::byte> raw(const TensorInfo& tensor) const override {
    const std::size_t i = index_of(*this, tensor);
    return file_.bytes().subspan(begins_[i], tensors_[i].bytes);
  }

  void release(const TensorInfo& tensor) const override { file_.release(raw(tensor)); }

 private:
  MappedFile file_;
  std::vector<std::size_t> begins_;
};

}  // namespace

std::unique_ptr<TensorFile> open_safetensors(MappedFile file) {
  return std::make_unique<SafetensorsFile>(std::move(file));
}

}  // namespace fp4scope::io
