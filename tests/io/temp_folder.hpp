// A folder of its own for a test, and the bytes of the small files in it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "formats/error.hpp"

namespace fp4scope::io::testing {

class TempFolder : public ::testing::Test {
 protected:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "fp4scope-io-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~TempFolder() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  /// Writes the bytes, gives the path.
  std::string file(const std::string& name, std::string_view bytes) const {
    std::ofstream(path(name), std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path(name);
  }

  std::size_t files_left() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

 private:
  std::string folder_;
};

inline std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <typename T>
std::string as_bytes(std::initializer_list<T> numbers) {
  return {reinterpret_cast<const char*>(numbers.begin()), numbers.size() * sizeof(T)};
}

template <typename T>
T bits_of(auto value) {
  static_assert(sizeof(T) == sizeof(value));
  T bits;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

/// The one line of the Error that `action` throws, "" if it throws none.
template <typename Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code, 1);
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << "more than one line";
    return error.what();
  }
  return "";
}

/// Does `text` contain `part`? With both in the message of a failure.
inline ::testing::AssertionResult says(const std::string& text, const std::string& part) {
  if (!text.empty() && text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << text << "\" does not say \"" << part << "\"";
}

}  // namespace fp4scope::io::testing
