// Records survive a kill: whole or absent, exact to the bit, and a torn one is never mistaken for a result.

#include <limits>

#include "io/results.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::bits_of;
using testing::bytes_of;
using testing::error_of;
using testing::says;

Record sample() {
  const double nan = bits_of<double>(std::uint64_t{0xFFF4'0000'0000'0001});  // signalling, negative, with a payload
  Record record{{"a name\xff", nan, std::numeric_limits<std::int64_t>::min(), -0.0, 0x1p-1074, std::int64_t{7}}, {}};
  record.datasets.push_back({"/runs/1/a", {2}, std::vector<std::uint8_t>{0, 255}, {{"format", "ue4m3"}}});
  record.datasets.push_back({"/runs/1/b", {1, 1}, std::vector<std::int32_t>{-5}, {}});
  record.datasets.push_back({"/runs/1/c", {0}, std::vector<std::int64_t>{}, {}});
  record.datasets.push_back({"/runs/1/d", {1}, std::vector<float>{bits_of<float>(0x7FA00001u)}, {}});
  record.datasets.push_back({"/runs/1/e", {}, std::vector<double>{nan}, {}});
  return record;
}

class Records : public testing::TempFolder {
 protected:
  std::string record_file(const std::string& key) const { return path("out.h5.partial/" + key + ".record"); }
};

TEST_F(Records, ARecordComesBackToTheBit) {
  RecordStore store(path("out.h5.partial"));
  store.put("0001", sample());
  const Record expected = sample();
  const Record record = RecordStore(path("out.h5.partial")).get("0001");
  ASSERT_EQ(record.row.size(), expected.row.size());
  EXPECT_EQ(record.row[0], expected.row[0]);
  EXPECT_EQ(record.row[2], expected.row[2]);
  EXPECT_EQ(record.row[5], expected.row[5]);
  for (const std::size_t c : {1u, 3u, 4u}) {
    EXPECT_EQ(bits_of<std::uint64_t>(std::get<double>(record.row[c])),
              bits_of<std::uint64_t>(std::get<double>(expected.row[c])));
  }
  ASSERT_EQ(record.datasets.size(), expected.datasets.size());
  for (std::size_t d = 0; d < expected.datasets.size(); ++d) {
    EXPECT_EQ(record.datasets[d].path, expected.datasets[d].path);
    EXPECT_EQ(record.datasets[d].shape, expected.datasets[d].shape);
    EXPECT_EQ(record.datasets[d].attributes, expected.datasets[d].attributes);
    ASSERT_EQ(record.datasets[d].data.index(), expected.datasets[d].data.index());
  }
  EXPECT_EQ(bits_of<std::uint32_t>(std::get<std::vector<float>>(record.datasets[3].data).at(0)), 0x7FA00001u);
  EXPECT_EQ(bits_of<std::uint64_t>(std::get<std::vector<double>>(record.datasets[4].data).at(0)),
            0xFFF4'0000'0000'0001u);
}

TEST_F(Records, KeysAreSorted) {
  RecordStore store(path("out.h5.partial"));
  for (const char* const key : {"b", "a-b", "a", "a.b", "0002", "0001"}) store.put(key, {});
  store.put_note("config", "x = 1\n");
  EXPECT_EQ(store.keys(), (std::vector<std::string>{"0001", "0002", "a", "a-b", "a.b", "b"}));
  EXPECT_EQ(store.note("config"), "x = 1\n");
  EXPECT_EQ(store.note("absent"), "");
}

TEST_F(Records, EveryCutAndFlippedRecordIsTorn) {
  RecordStore store(path("out.h5.partial"));
  store.put("k", sample());
  const std::string whole = bytes_of(record_file("k"));
  const auto is_torn = [&](const std::string& bytes) {
    file("out.h5.partial/k.record", bytes);
    return !store.has("k") && says(error_of([&] { store.get("k"); }), "torn");
  };
  for (std::size_t size = 0; size < whole.size(); ++size) ASSERT_TRUE(is_torn(whole.substr(0, size))) << size;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
    ASSERT_TRUE(is_torn(flipped)) << i;
  }
  EXPECT_TRUE(is_torn(whole + "x"));
  EXPECT_EQ(store.keys(), std::vector<std::string>{"k"}) << "a torn record must not vanish from the table in silence";
  store.put("k", sample());
  EXPECT_TRUE(store.has("k"));
}

TEST_F(Records, AnAbsentRecordIsAnError) {
  const RecordStore store(path("out.h5.partial"));
  EXPECT_FALSE(store.has("k"));
  EXPECT_TRUE(says(error_of([&] { store.get("k"); }), "No such file"));
  EXPECT_TRUE(store.keys().empty());
}

TEST_F(Records, AKeyCannotLeaveTheFolder) {
  RecordStore store(path("out.h5.partial"));
  for (const std::string& key : {std::string(), std::string("../x"), std::string("a/b"), std::string(".hidden"),
                                 std::string("a\0b", 3), std::string(201, 'k')}) {
    EXPECT_TRUE(says(error_of([&] { store.put(key, {}); }), "no file name"));
  }
}

TEST_F(Records, RemoveTakesOnlyItsOwnFiles) {
  RecordStore store(path("out.h5.partial"));
  store.put("k", sample());
  store.put_note("config", "x");
  file("out.h5.partial/k.record.tmp-1-0", "left by a kill");
  file("out.h5.partial/thesis.txt", "not ours");
  store.remove();
  EXPECT_EQ(bytes_of(path("out.h5.partial/thesis.txt")), "not ours");
  EXPECT_TRUE(store.keys().empty());
  std::filesystem::remove(path("out.h5.partial/thesis.txt"));
  store.remove();
  EXPECT_EQ(files_left(), 0u);
}

TEST_F(Records, AFolderThatCannotBeMadeIsAnError) {
  EXPECT_TRUE(
      says(error_of([&] { RecordStore(path("absent/out.h5.partial")); }), "cannot make the folder: No such file"));
  EXPECT_TRUE(says(error_of([&] { RecordStore(file("taken", "")); }), "cannot make the folder: File exists"));
}

TEST_F(Records, RecordsMakeTheSameFileInAnyOrderOfPut) {
  RecordStore first(path("first.partial")), second(path("second.partial"));
  for (const char* const key : {"1", "2", "3"}) first.put(key, {{std::string(key)}, {}});
  for (const char* const key : {"3", "1", "2"}) second.put(key, {{std::string(key)}, {}});
  const auto assemble = [&](const RecordStore& store, const std::string& name) {
    std::vector<Record> records;
    for (const std::string& key : store.keys()) records.push_back(store.get(key));
    write_results(path(name), {}, {{"key", "", ""}}, records);
    return bytes_of(path(name));
  };
  EXPECT_TRUE(assemble(first, "first.h5") == assemble(second, "second.h5"));
}

}  // namespace
}  // namespace fp4scope::io
