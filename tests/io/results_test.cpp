// The results file: the same records give the same bytes, what is written is read back, and nothing is left half done.

#include "io/results.hpp"

#include <hdf5.h>

#include <limits>

#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::bits_of;
using testing::bytes_of;
using testing::error_of;
using testing::says;

const std::vector<Column> columns = {
    {"tensor", "", "the tensor's name"}, {"zeta", "1", "relative error"}, {"blocks", "1", "how many blocks"}};

std::vector<Record> some_records(std::size_t count) {
  std::vector<Record> records;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string run = "/runs/" + std::to_string(1000 + i) + "/";
    const auto n = static_cast<std::int64_t>(i);
    const double value = 1.0 / (1.0 + static_cast<double>(i));
    Record record{{"layer/\u00e9" + std::string(i, 'x'), value, n - 1}, {}};
    record.datasets.push_back(
        {run + "codes", {2, 3}, std::vector<std::uint8_t>{1, 2, 3, 4, 5, 6}, {{"format", "ue4m3"}}});
    record.datasets.push_back({run + "losses", {n}, std::vector<double>(i, value), {{"unit", "1"}}});
    record.datasets.push_back({run + "moves", {}, std::vector<std::int32_t>{-7}, {}});
    record.datasets.push_back({run + "deep/group/x", {2}, std::vector<float>{1.5f, -0.0f}, {}});
    record.datasets.push_back({run + "big", {300, 1000}, std::vector<std::int64_t>(300'000, n), {}});
    records.push_back(record);
  }
  return records;
}

const Attributes attributes = {{"schema_version", std::int64_t{1}}, {"config", "a = 1\n[b]\nc = \"\u00e9\"\n"}};

class Results : public testing::TempFolder {};

TEST_F(Results, TheSameRecordsGiveTheSameBytes) {
  write_results(path("a.h5"), attributes, columns, some_records(20));
  write_results(path("b, of another name.h5"), attributes, columns, some_records(20));
  const std::string bytes = bytes_of(path("a.h5"));
  EXPECT_FALSE(bytes.empty());
  EXPECT_TRUE(bytes == bytes_of(path("b, of another name.h5")));
  EXPECT_EQ(files_left(), 2u);
}

TEST_F(Results, TheTableIsReadBack) {
  std::vector<Record> records = some_records(20);
  records[3].row[1] = std::numeric_limits<double>::infinity();
  records[4].row[1] = -0.0;
  records[5].row[1] = bits_of<double>(std::uint64_t{0x7FF8'0000'0000'1234});
  records[6].row[2] = std::numeric_limits<std::int64_t>::min();
  records[7].row[0] = "";
  write_results(path("out.h5"), attributes, columns, records);
  const Table table = read_table(path("out.h5"));
  ASSERT_EQ(table.columns.size(), columns.size());
  for (std::size_t c = 0; c < columns.size(); ++c) {
    EXPECT_EQ(table.columns[c].name, columns[c].name);
    EXPECT_EQ(table.columns[c].unit, columns[c].unit);
    EXPECT_EQ(table.columns[c].description, columns[c].description);
  }
  ASSERT_EQ(table.rows.size(), records.size());
  for (std::size_t r = 0; r < records.size(); ++r) {
    EXPECT_EQ(table.rows[r][0], records[r].row[0]);
    EXPECT_EQ(bits_of<std::uint64_t>(std::get<double>(table.rows[r][1])),
              bits_of<std::uint64_t>(std::get<double>(records[r].row[1])));
    EXPECT_EQ(table.rows[r][2], records[r].row[2]);
  }
}

TEST_F(Results, NoRecordsAreAFileToo) {
  write_results(path("out.h5"), {}, columns, {});
  const Table table = read_table(path("out.h5"));
  EXPECT_EQ(table.columns.size(), 3u);
  EXPECT_TRUE(table.rows.empty());
  write_results(path("none.h5"), {}, {}, {});
  EXPECT_TRUE(read_table(path("none.h5")).columns.empty());
}

TEST_F(Results, ALongConfigurationFits) {
  const std::string config(300'000, 'c');
  write_results(path("out.h5"), {{"config", config}}, columns, some_records(1));
  const hid_t file = H5Fopen(path("out.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t attribute = H5Aopen(file, "config", H5P_DEFAULT);
  const hid_t type = H5Aget_type(attribute);
  char* text = nullptr;
  EXPECT_GE(H5Aread(attribute, type, &text), 0);
  EXPECT_TRUE(text != nullptr && config == text);
  H5free_memory(text);
  H5Tclose(type);
  H5Aclose(attribute);
  H5Fclose(file);
}

TEST_F(Results, DatasetsAreChunkedChecksummedAndTimeless) {
  write_results(path("out.h5"), attributes, columns, some_records(2));
  const hid_t file = H5Fopen(path("out.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  for (const char* const name : {"/table/zeta", "/runs/1001/big", "/runs/1000/codes"}) {
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    const hid_t creation = H5Dget_create_plist(dataset);
    EXPECT_EQ(H5Pget_layout(creation), H5D_CHUNKED) << name;
    EXPECT_EQ(H5Pget_nfilters(creation), 3) << name;
    EXPECT_GT(H5Pall_filters_avail(creation), 0) << name;
    hbool_t tracks = true;
    EXPECT_GE(H5Pget_obj_track_times(creation, &tracks), 0);
    EXPECT_FALSE(tracks) << name;
    H5Pclose(creation);
    H5Dclose(dataset);
  }
  H5Fclose(file);
}

TEST_F(Results, WhatDoesNotFitIsRefusedAndLeavesNothing) {
  const auto refusal = [&](const std::vector<Column>& names, const std::vector<Record>& records) {
    return error_of([&] { write_results(path("out.h5"), {}, names, records); });
  };
  EXPECT_TRUE(says(refusal({{"a", "1", ""}}, {{{1.0, 2.0}, {}}}), "row 0 has 2 cells for 1 columns"));
  EXPECT_TRUE(says(refusal({{"a", "1", ""}}, {{{1.0}, {}}, {{std::int64_t{1}}, {}}}), "another type in column 'a'"));
  EXPECT_TRUE(says(refusal({{"a", "1", ""}, {"a", "1", ""}}, {{{1.0, 2.0}, {}}}), "two datasets are named '/table/a'"));
  EXPECT_TRUE(says(refusal({{"a,b", "1", ""}}, {{{1.0}, {}}}), "comma"));
  EXPECT_TRUE(says(refusal({{"", "1", ""}}, {{{1.0}, {}}}), "no dataset path"));
  const auto dataset = [&](const std::string& name, std::vector<std::int64_t> shape) {
    return refusal({}, {{{}, {{"/x", {1}, std::vector<float>{1}, {}}, {name, shape, std::vector<float>{1, 2}, {}}}}});
  };
  EXPECT_TRUE(says(dataset("/y", {3}), "does not fit"));
  EXPECT_TRUE(says(dataset("/y", {-2}), "does not fit"));
  EXPECT_TRUE(says(dataset("/x", {2}), "two datasets are named '/x'"));
  EXPECT_TRUE(says(dataset("/x/y", {2}), "cannot make the group '/x'"));
  EXPECT_TRUE(says(dataset("/table", {2}), "cannot make the dataset '/table'"));
  EXPECT_TRUE(says(dataset("y", {2}), "no dataset path"));
  EXPECT_TRUE(says(dataset("/y//z", {2}), "no dataset path"));
  EXPECT_TRUE(says(dataset("/./z", {2}), "no dataset path"));
  EXPECT_TRUE(says(dataset("/", {2}), "no dataset path"));
  EXPECT_EQ(files_left(), 0u);
}

TEST_F(Results, APathThatCannotBeWrittenIsOneLine) {
  ::testing::internal::CaptureStderr();
  std::filesystem::create_directory(path("folder"));
  EXPECT_TRUE(says(error_of([&] { write_results(path("folder"), {}, columns, {}); }), "Is a directory"));
  EXPECT_TRUE(says(error_of([&] { write_results(path("absent/out.h5"), {}, columns, {}); }), "No such file"));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(files_left(), 1u);
}

TEST_F(Results, AFileThatIsNoResultsFileIsOneLine) {
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(says(error_of([&] { read_table(path("absent.h5")); }), "No such file"));
  EXPECT_TRUE(says(error_of([&] { read_table(file("text.h5", "hello")); }), "not an HDF5 file"));
  write_results(path("out.h5"), {}, columns, some_records(3));
  const std::string bytes = bytes_of(path("out.h5"));
  EXPECT_TRUE(
      says(error_of([&] { read_table(file("cut.h5", bytes.substr(0, bytes.size() / 2))); }), "not an HDF5 file"));
  H5Fclose(H5Fcreate(path("other.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  EXPECT_TRUE(says(error_of([&] { read_table(path("other.h5")); }), "has no /table"));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(Results, EveryFlippedBitOfAColumnIsFound) {
  std::vector<Record> records;
  for (int i = 0; i < 500; ++i) records.push_back({{0.1 * i}, {}});
  write_results(path("out.h5"), {}, {{"x", "1", ""}}, records);
  const hid_t opened = H5Fopen(path("out.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(opened, "/table/x", H5P_DEFAULT);
  const hid_t space = H5Dget_space(dataset);
  hsize_t first = 0, size = 0;
  haddr_t begin = 0;
  unsigned mask = 0;
  EXPECT_GE(H5Dget_chunk_info(dataset, space, 0, &first, &mask, &begin, &size), 0);
  for (const hid_t id : {space, dataset, opened}) H5Idec_ref(id);
  const std::string bytes = bytes_of(path("out.h5"));
  ASSERT_GT(size, 100u);
  for (std::size_t i = begin; i < begin + size; i += 7) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    file("flipped.h5", flipped);
    EXPECT_TRUE(says(error_of([&] { read_table(path("flipped.h5")); }), "column 'x': cannot be read")) << i;
  }
}

TEST(Csv, QuotesWhatNeedsItAndKeepsEveryBit) {
  const Table table{{{"na,me", "", ""}, {"x", "1", ""}, {"n", "1", ""}},
                    {{"plain", 0.1, std::int64_t{-3}},
                     {"a \"b\", c\n", 1e300, std::int64_t{0}},
                     {"", std::numeric_limits<double>::infinity(), std::int64_t{1}},
                     {"", -std::numeric_limits<double>::quiet_NaN(), std::int64_t{2}}}};
  EXPECT_EQ(to_csv(table), "\"na,me\",x,n\r\nplain,0.1,-3\r\n\"a \"\"b\"\", c\n\",1e+300,0\r\n,inf,1\r\n,nan,2\r\n");
}

}  // namespace
}  // namespace fp4scope::io
