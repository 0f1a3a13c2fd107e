// HDF5 datasets as tensors: binary16, bfloat16, binary32 and binary64 of either byte order, in any group.

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "io/complain.hpp"
#include "io/dtype.hpp"
#include "io/hdf5_handle.hpp"
#include "io/readers.hpp"

namespace fp4scope::io {
namespace {

/// HDF5 describes a number by its fields; before 1.14 it has no name for the two of 16 bits.
struct FloatLayout {
  const char* name;
  std::size_t bytes, exponent_bits, mantissa_bits, bias;
};
constexpr FloatLayout layouts[] = {
    {"F16", 2, 5, 10, 15}, {"BF16", 2, 8, 7, 127}, {"F32", 4, 8, 23, 127}, {"F64", 8, 11, 52, 1023}};

/// The dtype of an HDF5 type: sign on top, then exponent, then mantissa with its leading bit implied.
std::optional<DType> dtype_of(hid_t type) {
  if (H5Tget_class(type) != H5T_FLOAT || H5Tget_norm(type) != H5T_NORM_IMPLIED) return std::nullopt;
  if (H5Tget_order(type) != H5T_ORDER_LE && H5Tget_order(type) != H5T_ORDER_BE) return std::nullopt;
  std::size_t sign = 0, exponent = 0, exponent_bits = 0, mantissa = 0, mantissa_bits = 0;
  if (H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits) < 0) return std::nullopt;
  for (const FloatLayout& layout : layouts) {
    const bool same = H5Tget_size(type) == layout.bytes && exponent_bits == layout.exponent_bits &&
                      mantissa_bits == layout.mantissa_bits && H5Tget_ebias(type) == layout.bias && mantissa == 0 &&
                      exponent == mantissa_bits && sign == exponent + exponent_bits;
    if (same) return find_dtype(layout.name);
  }
  return std::nullopt;
}

/// The paths of all datasets. Soft and external links are not followed.
std::vector<std::string> dataset_paths(hid_t file, const std::string& where) {
  std::vector<std::string> paths;
  const auto collect = [](hid_t, const char* name, const H5O_info_t* info, void* to) -> herr_t {
    if (info->type == H5O_TYPE_DATASET) static_cast<std::vector<std::string>*>(to)->emplace_back(name);
    return 0;
  };
  hdf5_check(H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_INC, collect, &paths, H5O_INFO_BASIC), where,
             "has groups that cannot be walked", "the file is damaged");
  std::sort(paths.begin(), paths.end());
  return paths;
}

class Hdf5File : public TensorFile {
 public:
  /// Inside a session, so that a failure half-way closes the file in it too.
  explicit Hdf5File(const std::string& path) {
    bytes_ = MappedFile(path).bytes().size();  // says why if there is no such file
    files_ = {path};
    file_ = Hdf5Handle(hdf5_check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), shown(path),
                                  "cannot be opened as an HDF5 file", "is it damaged or being written?"));
    for (const std::string& name : dataset_paths(file_, shown(path))) add(name);
  }

  ~Hdf5File() override {
    const Hdf5Session session;
    file_ = Hdf5Handle();
  }

  Values read(const TensorInfo& tensor) const override {
    const TensorInfo& own = tensors_[index_of(*this, tensor)];
    return widen(own.dtype, load(own, std::nullopt));
  }

  Values read_rows(const TensorInfo& tensor, std::int64_t first, std::int64_t count) const override {
    const TensorInfo& own = tensors_[index_of(*this, tensor)];
    return widen(own.dtype, load(own, Rows{first, count}));
  }

  std::span<const std::byte> raw(const TensorInfo& tensor) const override {
    const TensorInfo& own = tensors_[index_of(*this, tensor)];
    const std::scoped_lock lock(loading_);
    const auto found = loaded_.find(own.name);
    return found != loaded_.end() ? found->second : loaded_.emplace(own.name, load(own, std::nullopt)).first->second;
  }

 private:
  /// Lists a dataset if it holds numbers that can be read.
  void add(const std::string& name) {
    const std::string where = place(files_[0], name);
    const Hdf5Handle dataset = open(name);
    const Hdf5Handle type(H5Dget_type(dataset));
    const Hdf5Handle space(H5Dget_space(dataset));
    const std::optional<DType> dtype = dtype_of(type);
    if (!dtype || H5Sget_simple_extent_type(space) == H5S_NULL) return;
    const int rank = hdf5_check(H5Sget_simple_extent_ndims(space), where, "has no shape", "the file is damaged");
    std::vector<hsize_t> axes(static_cast<std::size_t>(rank));
    hdf5_check(H5Sget_simple_extent_dims(space, axes.data(), nullptr), where, "has no shape", "the file is damaged");
    std::vector<std::int64_t> shape(axes.begin(), axes.end());
    const std::optional<std::size_t> bytes = tensor_bytes(shape, dtype->bits);
    if (!bytes) throw Error(where, "has a shape too large for any file", "the file is damaged");
    tensors_.push_back({name, *dtype, std::move(shape), *bytes, files_[0]});
  }

  Hdf5Handle open(const std::string& name) const {
    return Hdf5Handle(hdf5_check(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), place(files_[0], name), "cannot be opened",
                                 "the file is damaged"));
  }

  struct Rows {
    std::int64_t first, count;
  };

  /// The bytes of some rows of the dataset, or of the whole, little-endian.
  std::vector<std::byte> load(const TensorInfo& tensor, std::optional<Rows> rows) const {
    const std::string where = place(tensor.file, tensor.name);
    constexpr std::size_t slack = std::size_t{1} << 24;  // a dataset never written takes no room in the file
    // Deflate shrinks by 1032 at most: a claim beyond that is no data, and must not take the memory.
    if (tensor.bytes > slack && (tensor.bytes - slack) / 1032 > bytes_) {
      throw Error(where, "claims " + std::to_string(tensor.bytes) + " bytes in a file of " + std::to_string(bytes_),
                  "the file is damaged");
    }
    std::vector<std::byte> data(rows ? row_bytes(tensor, rows->first, rows->count).size : tensor.bytes);
    if (data.empty()) return data;
    const Hdf5Session session;
    const Hdf5Handle dataset = open(tensor.name);
    const Hdf5Handle stored(H5Dget_type(dataset));
    const Hdf5Handle wanted(H5Tcopy(stored));
    H5Tset_order(wanted, H5T_ORDER_LE);
    const Hdf5Handle from(H5Dget_space(dataset));
    const hsize_t elements = data.size() / H5Tget_size(stored);
    const Hdf5Handle to(H5Screate_simple(1, &elements, nullptr));
    if (rows) {
      std::vector<hsize_t> begin(tensor.shape.size(), 0), extent(tensor.shape.begin(), tensor.shape.end());
      begin[0] = static_cast<hsize_t>(rows->first);
      extent[0] = static_cast<hsize_t>(rows->count);
      hdf5_check(H5Sselect_hyperslab(from, H5S_SELECT_SET, begin.data(), nullptr, extent.data(), nullptr), where,
                 "cannot be read in rows", "the file is damaged");
    }
    hdf5_check(H5Dread(dataset, wanted, to, from, H5P_DEFAULT, data.data()), where, "cannot be read",
               "the file is damaged, or compressed by a filter that HDF5 lacks here");
    return data;
  }

  std::size_t bytes_ = 0;
  Hdf5Handle file_;
  mutable std::mutex loading_;
  mutable std::map<std::string, std::vector<std::byte>> loaded_;
};

}  // namespace

std::unique_ptr<TensorFile> open_hdf5(const std::string& path) {
  const Hdf5Session session;
  return std::make_unique<Hdf5File>(path);
}

}  // namespace fp4scope::io
