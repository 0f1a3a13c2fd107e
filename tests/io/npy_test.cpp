// .npy: the three versions, both byte orders, every plain type; anything else is refused with the reason.

#include "io/tensor_file.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::as_bytes;
using testing::error_of;
using testing::says;

/// A .npy file as NumPy lays it out, padded to 64 bytes.
std::string npy(const std::string& dict, const std::string& data, int version = 1) {
  const std::size_t prefix = version == 1 ? 10 : 12;
  std::string header = dict;
  header.resize((prefix + dict.size() + 1 + 63) / 64 * 64 - prefix, ' ');
  header.back() = '\n';
  std::string bytes = "\x93NUMPY" + std::string{static_cast<char>(version), '\0'};
  bytes += version == 1 ? as_bytes({static_cast<std::uint16_t>(header.size())})
                        : as_bytes({static_cast<std::uint32_t>(header.size())});
  return bytes + header + data;
}

std::string dict(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

class Npy : public testing::TempFolder {
 protected:
  Values read(const std::string& bytes) const {
    const auto opened = open_tensors(file("x.npy", bytes));
    return opened->read(opened->tensors().at(0));
  }
  std::string refusal(const std::string& bytes) const {
    const std::string name = file("x.npy", bytes);
    return error_of([&] { open_tensors(name); });
  }
};

TEST_F(Npy, EveryVersionIsRead) {
  const std::string data = as_bytes({1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f});
  for (const int version : {1, 2, 3}) {
    const auto opened = open_tensors(file("my weights.npy", npy(dict("<f4", "(2, 3)"), data, version)));
    ASSERT_EQ(opened->tensors().size(), 1u);
    EXPECT_EQ(opened->tensors()[0].name, "my weights");
    EXPECT_EQ(opened->tensors()[0].shape_text(), "[2, 3]");
    EXPECT_EQ(opened->read(opened->tensors()[0]).data, (std::vector<float>{1, 2, 3, 4, 5, 6}));
  }
}

TEST_F(Npy, EveryShapeAndSpellingIsRead) {
  EXPECT_EQ(read(npy(dict("<f4", "()"), as_bytes({7.0f}))).data, std::vector<float>{7});
  EXPECT_EQ(read(npy(dict("<f4", "(1,)"), as_bytes({7.0f}))).data, std::vector<float>{7});
  EXPECT_EQ(read(npy(dict("<f4", "(1,)", "True"), as_bytes({7.0f}))).data, std::vector<float>{7});
  EXPECT_EQ(read(npy(dict("<f4", "(1L, 1L)"), as_bytes({7.0f}))).data, std::vector<float>{7});
  EXPECT_EQ(read(npy("{\"shape\":(1),\"fortran_order\":False,\"descr\":\"=f4\"}", as_bytes({7.0f}))).data,
            std::vector<float>{7});
  EXPECT_TRUE(read(npy(dict("<f4", "(0, 3)"), "")).data.empty());
}

TEST_F(Npy, BothByteOrdersAndAllPrecisionsAreRead) {
  const std::vector<float> expected = {1.5f, -2.0f};
  EXPECT_EQ(read(npy(dict("<f2", "(2,)"), as_bytes<std::uint16_t>({0x3E00, 0xC000}))).data, expected);
  EXPECT_EQ(read(npy(dict(">f2", "(2,)"), as_bytes<std::uint16_t>({0x003E, 0x00C0}))).data, expected);
  EXPECT_EQ(read(npy(dict("<f4", "(2,)"), as_bytes({1.5f, -2.0f}))).data, expected);
  EXPECT_EQ(read(npy(dict(">f4", "(2,)"), as_bytes<std::uint32_t>({0x0000C03F, 0x000000C0}))).data, expected);
  EXPECT_EQ(read(npy(dict("<f8", "(2,)"), as_bytes({1.5, -2.0}))).data, expected);
  EXPECT_EQ(
      read(npy(dict(">f8", "(2,)"), as_bytes<std::uint64_t>({0x0000'0000'0000'F83F, 0x0000'0000'0000'00C0}))).data,
      expected);
  EXPECT_EQ(read(npy(dict("<f8", "(1,)"), as_bytes({0.1}))).changed, 1);
}

TEST_F(Npy, IntegersAreListedAndNotRead) {
  const auto opened = open_tensors(file("x.npy", npy(dict(">i2", "(1,)"), as_bytes<std::uint16_t>({0x0100}))));
  EXPECT_EQ(opened->tensors()[0].dtype.name, "I16");
  EXPECT_EQ(std::to_integer<int>(opened->raw(opened->tensors()[0])[0]), 1);
  EXPECT_TRUE(says(error_of([&] { opened->read(opened->tensors()[0]); }), "F32, F16, BF16 and F64 can be read"));
  EXPECT_EQ(open_tensors(file("y.npy", npy(dict("|u1", "(2,)"), "ab")))->tensors()[0].dtype.name, "U8");
}

TEST_F(Npy, WhatIsNoPlainArrayIsRefused) {
  const std::string data = as_bytes({1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f});
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(2, 3)", "True"), data)), "Fortran order (save numpy.ascontiguousarray"));
  EXPECT_TRUE(says(refusal(npy(dict("|O", "(2, 3)"), data)), "type '|O'"));
  EXPECT_TRUE(says(refusal(npy(dict("|f4", "(2, 3)"), data)), "type '|f4'"));
  EXPECT_TRUE(says(refusal(npy(dict("<f16", "(2, 3)"), data)), "type '<f16'"));
  EXPECT_TRUE(says(refusal(npy(dict("", "(2, 3)"), data)), "type ''"));
  EXPECT_TRUE(
      says(refusal(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3), }", data)), "no string"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(2, 4)"), data)), "takes 32 bytes, 24 follow"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(2, 2)"), data)), "takes 16 bytes, 24 follow"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(4294967296, 4294967296)"), data)), "too large"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(99999999999999999999,)"), data)), "not a tuple of integers"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(-1,)"), data)), "not a tuple of integers"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "[2, 3]"), data)), "no '('"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(2, 3)", "0"), data)), "neither True nor False"));
}

TEST_F(Npy, ABrokenHeaderIsRefused) {
  const std::string data = as_bytes({1.0f});
  const std::string good = npy(dict("<f4", "(1,)"), data);
  EXPECT_TRUE(says(refusal(""), "does not begin as"));
  EXPECT_TRUE(says(refusal("\x93NUMPX" + good.substr(6)), "does not begin as"));
  EXPECT_TRUE(says(refusal(good.substr(0, 40)), "ends inside its header"));
  EXPECT_TRUE(says(refusal("\x93NUMPY\x04" + good.substr(7)), "version 4.0"));
  EXPECT_TRUE(says(refusal("\x93NUMPY\x02" + std::string("\0\xff\xff\xff\xff", 5) + good), "4294967295 bytes"));
  EXPECT_TRUE(says(refusal("\x93NUMPY\x02" + std::string("\0\xff\xff", 3)), "ends inside its header"));
  EXPECT_TRUE(says(refusal(npy("", data)), "no '{'"));
  EXPECT_TRUE(says(refusal(npy("{}", data)), "lacks descr"));
  EXPECT_TRUE(says(refusal(npy("{'descr': '<f4', 'descr': '<f4', }", data)), "unexpected key 'descr'"));
  EXPECT_TRUE(says(refusal(npy("{'more': 1}", data)), "unexpected key 'more'"));
  EXPECT_TRUE(says(refusal(npy("{'descr' '<f4'}", data)), "no ':'"));
  EXPECT_TRUE(says(refusal(npy("{'descr': '<f4' 'shape': ()}", data)), "no ','"));
  EXPECT_TRUE(says(refusal(npy("{'descr': '<f4", data)), "no string"));
  EXPECT_TRUE(says(refusal(npy("{'de\\x73cr': '<f4'}", data)), "escape"));
  EXPECT_TRUE(says(refusal(npy(dict("<f4", "(1,)") + " {", data)), "goes on behind"));
}

}  // namespace
}  // namespace fp4scope::io
