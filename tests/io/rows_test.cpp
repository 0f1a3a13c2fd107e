// Rows read alone are the rows of the whole tensor, from every kind of file.

#include <hdf5.h>

#include <cstring>

#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::as_bytes;
using testing::error_of;
using testing::says;

constexpr std::int64_t rows = 5, inner = 6;  // [5, 2, 3]

class Rows : public testing::TempFolder {
 protected:
  /// Numbers that need rounding where `fine`.
  static std::vector<double> numbers(bool fine) {
    std::vector<double> data(rows * inner);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<double>(i) + (fine && i % 4 == 1 ? 0.1 : 0);
    return data;
  }

  static std::string text_of(const std::vector<double>& data) {
    return {reinterpret_cast<const char*>(data.data()), data.size() * sizeof(double)};
  }

  std::string safetensors(const std::string& name) const {
    SafetensorsWriter writer(path(name), {{"before", "F32", {1}}, {"w", "F64", {rows, 2, 3}}, {"scalar", "F32", {}}},
                             {});
    const std::string one = as_bytes({1.0f}), data = text_of(numbers(true));
    writer.write("before", std::as_bytes(std::span(one)));
    writer.write("w", std::as_bytes(std::span(data)));
    writer.write("scalar", std::as_bytes(std::span(one)));
    writer.commit();
    return path(name);
  }

  std::string npy(const std::string& descr, std::string data) const {
    std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (5, 2, 3), }";
    header.resize(117, ' ');
    header += '\n';
    if (descr[0] == '>') {
      for (std::size_t i = 0; i < data.size(); i += 8) std::reverse(data.begin() + i, data.begin() + i + 8);
    }
    return file("x.npy", "\x93NUMPY" + std::string{1, 0} + as_bytes({static_cast<std::uint16_t>(118)}) + header + data);
  }

  std::string hdf5(bool chunked) const {
    const hid_t opened = H5Fcreate(path("x.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hsize_t axes[] = {rows, 2, 3}, chunk[] = {2, 1, 3};
    const hid_t space = H5Screate_simple(3, axes, nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
    if (chunked) H5Pset_chunk(creation, 3, chunk);
    const hid_t data = H5Dcreate2(opened, "w", H5T_IEEE_F64BE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    H5Dwrite(data, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers(true).data());
    for (const hid_t id : {data, creation, space}) H5Idec_ref(id);
    H5Fclose(opened);
    return path("x.h5");
  }

  static void expect_rows(const std::string& name) {
    const auto opened = open_tensors(name);
    const TensorInfo& tensor = opened->tensors().back();
    const Values whole = opened->read(tensor);
    ASSERT_EQ(whole.data.size(), static_cast<std::size_t>(rows * inner)) << name;
    for (std::int64_t first = 0; first <= rows; ++first) {
      for (std::int64_t count = 0; count <= rows - first; ++count) {
        const Values some = opened->read_rows(tensor, first, count);
        const std::vector<float> expected(whole.data.begin() + first * inner,
                                          whole.data.begin() + (first + count) * inner);
        EXPECT_EQ(some.data, expected) << name << " " << first << " " << count;
        std::int64_t changed = 0;
        for (std::int64_t i = first * inner; i < (first + count) * inner; ++i) changed += i % 4 == 1;
        EXPECT_EQ(some.changed, changed) << name << " " << first << " " << count;
      }
    }
    const std::pair<std::int64_t, std::int64_t> outside[] = {{-1, 1}, {0, 6}, {5, 1}, {6, 0}, {2, -1}, {1, INT64_MAX}};
    for (const auto& [first, count] : outside) {
      EXPECT_TRUE(says(error_of([&, at = first, n = count] { opened->read_rows(tensor, at, n); }), "has 5 rows"))
          << name;
    }
  }
};

TEST_F(Rows, AreThoseOfTheWholeTensorInEveryKindOfFile) {
  expect_rows(safetensors("x.safetensors"));
  safetensors("model-1.safetensors");
  expect_rows(file("model.safetensors.index.json", R"({"weight_map": {"w": "model-1.safetensors"}})"));
  expect_rows(npy("<f8", text_of(numbers(true))));
  expect_rows(npy(">f8", text_of(numbers(true))));
  expect_rows(hdf5(false));
  expect_rows(hdf5(true));
}

TEST_F(Rows, AScalarHasNone) {
  const auto opened = open_tensors(safetensors("x.safetensors"));
  EXPECT_TRUE(says(error_of([&] { opened->read_rows(*opened->find("scalar"), 0, 1); }), "has no rows"));
}

TEST_F(Rows, LargeTensorsAreWidenedInPartsOfTheSameValues) {
  std::vector<float> data((std::size_t{3} << 22) + 5);  // 48 MiB and a bit: four parts
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i % 1000003);
  SafetensorsWriter writer(path("x.safetensors"), {{"w", "F32", {static_cast<std::int64_t>(data.size())}}}, {});
  writer.write("w", std::as_bytes(std::span(data)));
  writer.commit();
  const auto opened = open_tensors(path("x.safetensors"));
  EXPECT_TRUE(opened->read(opened->tensors()[0]).data == data);
  EXPECT_EQ(std::memcmp(opened->raw(opened->tensors()[0]).data(), data.data(), data.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace fp4scope::io
