// HDF5 datasets as tensors: the floating-point ones, of either byte order, wherever they are.

#include <hdf5.h>

#include "io/tensor_file.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::bytes_of;
using testing::error_of;
using testing::says;

/// A 16-bit type: sign, `exponent_bits`, the rest mantissa.
hid_t half_type(hid_t like, std::size_t exponent_bits, std::size_t bias) {
  const hid_t type = H5Tcopy(like);
  const std::size_t mantissa_bits = 15 - exponent_bits;
  H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, bias);
  return type;
}

class Hdf5Tensors : public testing::TempFolder {
 protected:
  /// A dataset [2, 3] of 1 .. 6 as `type`.
  static void put(hid_t file, const char* name, hid_t type, bool chunked) {
    const std::vector<double> data = {1, 2, 3, 4, 5, 6};
    const hsize_t axes[] = {2, 3}, chunk[] = {1, 2};
    const hid_t space = H5Screate_simple(2, axes, nullptr);
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (chunked) {
      H5Pset_chunk(creation, 2, chunk);
      H5Pset_deflate(creation, 6);
    }
    const hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    const hid_t dataset = H5Dcreate2(file, name, type, space, links, creation, H5P_DEFAULT);
    H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, data.data());
    for (const hid_t id : {dataset, links, creation, space}) H5Idec_ref(id);
  }

  std::string sample() const {
    const std::string name = path("x.h5");
    const hid_t file = H5Fcreate(name.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put(file, "f32", H5T_IEEE_F32LE, false);
    put(file, "a/b/f32 big", H5T_IEEE_F32BE, true);
    put(file, "a/f64", H5T_IEEE_F64LE, true);
    put(file, "a/f64 big", H5T_IEEE_F64BE, false);
    const hid_t types[] = {half_type(H5T_IEEE_F32LE, 5, 15), half_type(H5T_IEEE_F32BE, 5, 15),
                           half_type(H5T_IEEE_F32LE, 8, 127)};
    put(file, "f16", types[0], true);
    put(file, "f16 big", types[1], false);
    put(file, "bf16", types[2], false);
    put(file, "integers", H5T_STD_I32LE, false);
    for (const hid_t type : types) H5Tclose(type);
    H5Lcreate_soft("/f32", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_hard(file, "/", file, "a/loop", H5P_DEFAULT, H5P_DEFAULT);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t scalar = H5Dcreate2(file, "scalar", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const float seven = 7;
    H5Dwrite(scalar, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, &seven);
    H5Dclose(scalar);
    H5Sclose(space);
    H5Fclose(file);
    return name;
  }
};

TEST_F(Hdf5Tensors, EveryFloatingPointDatasetIsRead) {
  const auto opened = open_tensors(sample());
  std::vector<std::string> names;
  for (const TensorInfo& tensor : opened->tensors()) names.push_back(tensor.name + " " + tensor.dtype.name);
  EXPECT_EQ(names, (std::vector<std::string>{"a/b/f32 big F32", "a/f64 F64", "a/f64 big F64", "bf16 BF16", "f16 F16",
                                             "f16 big F16", "f32 F32", "scalar F32"}));
  for (const TensorInfo& tensor : opened->tensors()) {
    if (tensor.name == "scalar") continue;
    EXPECT_EQ(tensor.shape_text(), "[2, 3]");
    EXPECT_EQ(opened->read(tensor).data, (std::vector<float>{1, 2, 3, 4, 5, 6})) << tensor.name;
    EXPECT_EQ(opened->raw(tensor).size(), tensor.bytes);
    EXPECT_EQ(opened->raw(tensor).data(), opened->raw(tensor).data()) << "valid while the file is open";
  }
  EXPECT_EQ(opened->read(*opened->find("scalar")).data, std::vector<float>{7});
}

TEST_F(Hdf5Tensors, AClaimBeyondTheFileTakesNoMemory) {
  const std::string name = path("huge.h5");
  const hid_t file = H5Fcreate(name.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t axis = hsize_t{1} << 44, chunk = 1024;
  const hid_t space = H5Screate_simple(1, &axis, nullptr);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(creation, 1, &chunk);
  const hid_t dataset = H5Dcreate2(file, "huge", H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  for (const hid_t id : {dataset, creation, space}) H5Idec_ref(id);
  H5Fclose(file);
  const auto opened = open_tensors(name);
  EXPECT_TRUE(
      says(error_of([&] { opened->read(opened->tensors()[0]); }), "tensor 'huge': claims 70368744177664 bytes"));
}

TEST_F(Hdf5Tensors, ADamagedFileIsOneLine) {
  const std::string whole = bytes_of(sample());
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(
      says(error_of([&] { open_tensors(file("cut.h5", whole.substr(0, whole.size() / 2))); }), "cannot be opened"));
  EXPECT_TRUE(says(error_of([&] { open_tensors(file("text.hdf5", "hello")); }), "cannot be opened"));
  EXPECT_TRUE(says(error_of([&] { open_tensors(file("empty.h5", "")); }), "cannot be opened"));
  EXPECT_TRUE(says(error_of([&] { open_tensors(path("absent.h5")); }), "No such file"));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(Hdf5Tensors, TheSignatureTellsWithoutAnEnding) {
  EXPECT_EQ(open_tensors(file("blob", bytes_of(sample())))->tensors().size(), 8u);
}

}  // namespace
}  // namespace fp4scope::io
