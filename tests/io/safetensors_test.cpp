// Safetensors: what the writer writes the reader reads, and no header that contradicts itself gets through.

#include <chrono>
#include <cstdint>
#include <map>

#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::as_bytes;
using testing::bytes_of;
using testing::error_of;
using testing::says;

std::span<const std::byte> raw_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

/// A whole file of that JSON and data.
std::string safetensors(const std::string& json, const std::string& data) {
  return as_bytes<std::uint64_t>({json.size()}) + json + data;
}

class Safetensors : public testing::TempFolder {
 protected:
  std::string refusal(const std::string& bytes) const {
    const std::string name = file("t.safetensors", bytes);
    const std::string line = error_of([&] { open_tensors(name); });
    EXPECT_TRUE(says(line, "t.safetensors"));
    return line;
  }
  std::string refusal(const std::string& json, const std::string& data) const {
    return refusal(safetensors(json, data));
  }
};

TEST_F(Safetensors, WhatIsWrittenIsReadBack) {
  const std::string weights = as_bytes({1.5f, -0.0f, 0x1p-149f, 3e38f, 2.0f, 7.0f});
  const std::string packed = "\x12\x34\x56";
  SafetensorsWriter writer(
      path("t.safetensors"),
      {{"z/weight", "F32", {2, 3}}, {"", "F4", {2, 3}}, {"odd \"name\"\n\u00e9", "U8", {}}, {"none", "BF16", {0, 5}}},
      {{"format", "pt"}, {"config", "{\"a\": 1}"}});
  writer.write("", raw_bytes(packed));
  writer.write("z/weight", raw_bytes(weights));
  writer.write("odd \"name\"\n\u00e9", raw_bytes("\x07"));
  writer.commit();

  const auto opened = open_tensors(path("t.safetensors"));
  ASSERT_EQ(opened->tensors().size(), 4u);
  EXPECT_EQ(opened->metadata().at("config"), "{\"a\": 1}");
  EXPECT_EQ(opened->files(), std::vector<std::string>{path("t.safetensors")});
  const TensorInfo* const tensor = opened->find("z/weight");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape_text(), "[2, 3]");
  EXPECT_EQ(tensor->elements(), 6);
  const Values values = opened->read(*tensor);
  EXPECT_EQ(values.changed, 0);
  ASSERT_EQ(values.data.size(), 6u);
  EXPECT_EQ(std::memcmp(values.data.data(), weights.data(), weights.size()), 0);
  const auto nibbles = opened->raw(*opened->find(""));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(nibbles.data()), nibbles.size()), packed);
  EXPECT_EQ(opened->find("none")->elements(), 0);
  EXPECT_EQ(opened->find("absent"), nullptr);
  EXPECT_EQ(opened->find("odd \"name\"\n\u00e9")->bytes, 1u);
}

TEST_F(Safetensors, TheHeaderIsPaddedOrderedAndWithoutSurprises) {
  SafetensorsWriter writer(path("t.safetensors"), {{"b", "U8", {1}}, {"a", "U8", {1}}}, {{"k", "v"}});
  writer.write("a", raw_bytes("y"));
  writer.write("b", raw_bytes("x"));
  writer.commit();
  const std::string expected =
      "{\"__metadata__\":{\"k\":\"v\"},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
      "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}";
  const std::string bytes = bytes_of(path("t.safetensors"));
  EXPECT_EQ(bytes.substr(8, expected.size()), expected);
  EXPECT_EQ((bytes.size() - 2) % 8, 0u);
  EXPECT_EQ(bytes.substr(bytes.size() - 2), "xy");
}

TEST_F(Safetensors, EveryTensorStartsAtAMultipleOfItsElement) {
  SafetensorsWriter writer(path("t.safetensors"),
                           {{"u8", "U8", {3}}, {"f16", "F16", {1}}, {"f64", "F64", {1}}, {"f32", "F32", {1}}, {"f4", "F4", {2}}}, {});
  const std::string bytes = "12345678";
  for (const auto& [name, size] : std::map<std::string, std::size_t>{{"u8", 3}, {"f16", 2}, {"f64", 8}, {"f32", 4}, {"f4", 1}}) {
    writer.write(name, raw_bytes(bytes.substr(0, size)));
  }
  writer.commit();
  const auto opened = open_tensors(path("t.safetensors"));
  const auto* const start = opened->raw(*opened->find("f64")).data();
  for (const TensorInfo& t : opened->tensors()) {
    const auto offset = static_cast<std::size_t>(opened->raw(t).data() - start);
    EXPECT_EQ(offset * 8 % static_cast<std::size_t>(t.dtype.bits), 0u) << t.name;
    EXPECT_EQ(std::memcmp(opened->raw(t).data(), bytes.data(), t.bytes), 0) << t.name;
  }
}

TEST_F(Safetensors, AnEmptyListIsAFile) {
  SafetensorsWriter(path("t.safetensors"), {}, {}).commit();
  EXPECT_TRUE(open_tensors(path("t.safetensors"))->tensors().empty());
}

TEST_F(Safetensors, TheWriterHoldsToItsDeclaration) {
  const std::string name = path("t.safetensors");
  EXPECT_TRUE(says(error_of([&] { SafetensorsWriter(name, {{"a", "U8", {1}}, {"a", "U8", {1}}}, {}); }), "taken"));
  EXPECT_TRUE(says(error_of([&] { SafetensorsWriter(name, {{"__metadata__", "U8", {1}}}, {}); }), "taken"));
  EXPECT_TRUE(says(error_of([&] { SafetensorsWriter(name, {{"a", "F5", {1}}}, {}); }), "unknown dtype 'F5'"));
  EXPECT_TRUE(says(error_of([&] { SafetensorsWriter(name, {{"a", "F4", {3}}}, {}); }), "whole number of bytes"));
  EXPECT_TRUE(says(error_of([&] { SafetensorsWriter(name, {{"a\xff", "U8", {1}}}, {}); }), "not UTF-8"));
  EXPECT_TRUE(says(error_of([&] { SafetensorsWriter(name, {{"a", "U8", {1}}}, {}).commit(); }), "never written"));
  EXPECT_TRUE(says(error_of([&] {
                     SafetensorsWriter(name, {{"a", "U8", {1}}}, {}).write("a", raw_bytes("ab"));
                   }),
                   "2 bytes where 1 were declared"));
  EXPECT_TRUE(says(error_of([&] { SafetensorsWriter(name, {{"a", "U8", {1}}}, {}).write("b", raw_bytes("a")); }), "not declared"));
  EXPECT_TRUE(says(error_of([&] {
                     SafetensorsWriter writer(name, {{"a", "U8", {1}}}, {});
                     writer.write("a", raw_bytes("a"));
                     writer.write("a", raw_bytes("a"));
                   }),
                   "written before"));
  EXPECT_TRUE(says(error_of([&] {
                     SafetensorsWriter writer(name, {{"a", "U8", {3}}}, {});
                     writer.write_part("a", 2, raw_bytes("ab"));
                   }),
                   "ends beyond the 3 bytes"));
  EXPECT_TRUE(says(error_of([&] {
                     SafetensorsWriter writer(name, {{"a", "U8", {3}}}, {});
                     writer.write_part("a", 1, raw_bytes("bc"));
                     writer.commit();
                   }),
                   "not written whole"));
  EXPECT_EQ(files_left(), 0u);
}

TEST_F(Safetensors, PartsMakeTheWhole) {
  SafetensorsWriter whole(path("whole.safetensors"), {{"a", "U8", {5}}, {"b", "U8", {2}}}, {});
  whole.write("a", raw_bytes("abcde"));
  whole.write("b", raw_bytes("fg"));
  whole.commit();
  SafetensorsWriter parts(path("parts.safetensors"), {{"a", "U8", {5}}, {"b", "U8", {2}}}, {});
  parts.write_part("a", 0, raw_bytes("ab"));
  parts.write_part("b", 0, raw_bytes("fg"));
  parts.write_part("a", 2, raw_bytes("cde"));
  parts.commit();
  EXPECT_EQ(read_text_file(path("whole.safetensors")), read_text_file(path("parts.safetensors")));
}

TEST_F(Safetensors, EveryTypeIsListedAndFourAreRead) {
  const auto is_read = [&](const std::string& dtype, std::int64_t count) {
    SafetensorsWriter writer(path("t.safetensors"), {{"a", dtype, {count}}}, {});
    writer.write("a", raw_bytes(std::string(8, '\0')));
    writer.commit();
    const auto opened = open_tensors(path("t.safetensors"));
    const std::string line = error_of([&] { opened->read(opened->tensors()[0]); });
    EXPECT_EQ(line.empty(), opened->tensors()[0].readable()) << line;
    return line.empty();
  };
  EXPECT_TRUE(is_read("F32", 2) && is_read("F16", 4) && is_read("BF16", 4) && is_read("F64", 1));
  EXPECT_FALSE(is_read("F4", 16) || is_read("F8_E8M0", 8) || is_read("F8_E4M3", 8) || is_read("U8", 8));
  EXPECT_FALSE(is_read("I64", 1) || is_read("BOOL", 8) || is_read("C64", 1) || is_read("U16", 4));
}

TEST_F(Safetensors, AFileWithoutAWholeHeaderIsRefused) {
  EXPECT_TRUE(says(refusal(""), "too short"));
  EXPECT_TRUE(says(refusal("1234567"), "too short"));
  EXPECT_TRUE(says(refusal(as_bytes<std::uint64_t>({100}) + "{}"), "a header of 100 bytes in a file of 10"));
  EXPECT_TRUE(says(refusal(as_bytes<std::uint64_t>({0})), "not a JSON object"));
}

TEST_F(Safetensors, AHugeHeaderLengthIsRefusedAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(says(refusal(as_bytes<std::uint64_t>({2'000'000'000}) + "{}"), "limit"));
  EXPECT_TRUE(says(refusal(as_bytes<std::uint64_t>({~std::uint64_t{0}}) + "{}"), "limit"));
  EXPECT_TRUE(says(refusal(as_bytes<std::uint64_t>({~std::uint64_t{0} - 7}) + "{}"), "limit"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

TEST_F(Safetensors, WhatIsNoStrictJsonIsRefused) {
  EXPECT_TRUE(says(refusal("[]", ""), "not a JSON object"));
  EXPECT_TRUE(says(refusal(" {}", ""), "not a JSON object"));
  EXPECT_TRUE(says(refusal("{", ""), "not JSON"));
  EXPECT_TRUE(says(refusal("{}}", ""), "not JSON"));
  EXPECT_TRUE(says(refusal(std::string("{}\0{", 4), ""), "not JSON"));
  EXPECT_TRUE(says(refusal("{\"a\xff\":1}", ""), "not JSON"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"shape\":" + std::string(100'000, '[') + "}}", ""), "nests deeper"));
  EXPECT_TRUE(says(refusal("{\"a\":" + std::string(100'000, '{') + "}", ""), "not JSON"));
  const std::string tensor = "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}";
  EXPECT_TRUE(says(refusal("{\"a\":" + tensor + ",\"a\":" + tensor + "}", "x"), "'a' twice"));
  EXPECT_TRUE(
      says(refusal("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "x"), "twice"));
}

TEST_F(Safetensors, WrongMembersAreRefused) {
  EXPECT_TRUE(says(refusal("{\"a\":1}", ""), "tensor 'a': is not a JSON object"));
  EXPECT_TRUE(says(refusal("{\"a\":{}}", ""), "has no dtype"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"dtype\":\"U8\"}}", ""), "has no shape"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", ""), "has no data_offsets"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"dtype\":8}}", ""), "dtype that is not a string"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"dtype\":\"U8\",\"more\":1}}", ""), "unknown member 'more'"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"shape\":3}}", ""), "not a list of integers"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"shape\":[-1]}}", ""), "not a list of integers"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"shape\":[1.0]}}", ""), "not a list of integers"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"shape\":[\"1\"]}}", ""), "not a list of integers"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"shape\":[99999999999999999999]}}", ""), "not a list of integers"));
  EXPECT_TRUE(says(refusal("{\"a\":{\"shape\":[[1]]}}", ""), "nests deeper"));
  EXPECT_TRUE(says(refusal("{\"__metadata__\":1}", ""), "strings to strings"));
  EXPECT_TRUE(says(refusal("{\"__metadata__\":{\"a\":1}}", ""), "strings to strings"));
  EXPECT_TRUE(says(refusal("{\"__metadata__\":{\"a\":[]}}", ""), "strings to strings"));
}

TEST_F(Safetensors, WrongSizesAndPlacesAreRefused) {
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets + "]}";
  };
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return refusal("{\"a\":" + tensor(dtype, shape, offsets) + "}", "12345678");
  };
  EXPECT_TRUE(says(one("F5", "8", "0,8"), "unknown dtype 'F5'"));
  EXPECT_TRUE(says(one("U8", "8", "8,0"), "end before they begin"));
  EXPECT_TRUE(says(one("U8", "9", "0,9"), "beyond the file"));
  EXPECT_TRUE(says(one("U8", "1", "18446744073709551614,18446744073709551615"), "beyond the file"));
  EXPECT_TRUE(says(one("U8", "7", "0,8"), "takes 7 bytes"));
  EXPECT_TRUE(says(one("F32", "8", "0,8"), "takes 32 bytes"));
  EXPECT_TRUE(says(one("U8", "8", "0"), "not a pair"));
  EXPECT_TRUE(says(one("U8", "8", "0,4,8"), "not a pair"));
  EXPECT_TRUE(says(one("F4", "15", "0,8"), "no size in bytes"));
  EXPECT_TRUE(says(one("U8", "9223372036854775808", "0,8"), "an axis of 9223372036854775808"));
  EXPECT_TRUE(says(one("U8", "4294967296,4294967296,8", "0,8"), "no size in bytes"));
  EXPECT_TRUE(says(one("U8", "0,4294967296,4294967296", "0,0"), "no size in bytes"));
  EXPECT_TRUE(says(one("F64", "2305843009213693953", "0,8"), "no size in bytes"));
  EXPECT_TRUE(says(one("U8", "7", "0,7"), "1 bytes of data belong to no tensor"));
  EXPECT_TRUE(says(one("U8", "7", "1,8"), "hole"));
  EXPECT_TRUE(says(refusal("{}", "x"), "1 bytes of data belong to no tensor"));
  std::string many = "1";
  for (int i = 0; i < 100; ++i) many += ",1";
  EXPECT_TRUE(says(one("U8", many, "0,1"), "more than 64"));
  const auto two = [&](const std::string& first, const std::string& second) {
    return refusal("{\"a\":" + tensor("U8", "4", first) + ",\"b\":" + tensor("U8", "4", second) + "}", "12345678");
  };
  EXPECT_TRUE(says(two("0,4", "3,7"), "'b': overlaps"));
  EXPECT_TRUE(says(two("4,8", "4,8"), "hole"));
  EXPECT_TRUE(says(two("0,4", "0,4"), "overlaps"));
}

TEST_F(Safetensors, AnErrorStaysOnOneLineWhateverTheName) {
  EXPECT_TRUE(says(refusal("{\"a\\n\\u001b[2J\":1}", ""), "'a\\x0a\\x1b[2J'"));
  EXPECT_LT(refusal("{\"" + std::string(1'000'000, 'a') + "\":1}", "").size(), 1000u);
}

TEST_F(Safetensors, APathThatIsNoFileIsRefused) {
  EXPECT_TRUE(says(error_of([&] { open_tensors(path("absent.safetensors")); }), "No such file"));
  EXPECT_TRUE(says(error_of([&] { open_tensors("/dev/zero"); }), "not a regular file"));
  EXPECT_TRUE(says(error_of([&] { open_tensors(""); }), "No such file"));
  EXPECT_TRUE(says(error_of([&] { open_tensors(file("notes.txt", "hello, world")); }), "no kind of tensor file"));
  EXPECT_TRUE(says(error_of([&] { open_tensors(file("empty", "")); }), "no kind of tensor file"));
}

TEST_F(Safetensors, TheContentTellsWhereTheNameDoesNot) {
  const std::string bytes = safetensors("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "x");
  EXPECT_EQ(open_tensors(file("blob", bytes))->tensors().size(), 1u);
}

}  // namespace
}  // namespace fp4scope::io
