// A file is whole or absent, whatever the disk, the path and the limits say.

#include "io/atomic_file.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "io/results.hpp"
#include "io/safetensors_writer.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::bytes_of;
using testing::error_of;
using testing::says;

class AtomicFiles : public testing::TempFolder {};

/// No file may pass `bytes` while this lives: what a full disk does, without one.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_ = {};
  sighandler_t handler_ = SIG_DFL;
};

TEST_F(AtomicFiles, AFileAppearsAtCommitAndNotBefore) {
  {
    AtomicFile file(path("out"));
    file.append("hello, ");
    file.append("world");
    EXPECT_FALSE(std::filesystem::exists(path("out")));
    file.commit();
  }
  EXPECT_EQ(bytes_of(path("out")), "hello, world");
  EXPECT_EQ(files_left(), 1u);
}

TEST_F(AtomicFiles, WithoutCommitNothingIsLeftAndNothingLost) {
  write_text_file(path("out"), "before");
  { AtomicFile(path("out")).append("after"); }
  EXPECT_EQ(read_text_file(path("out")), "before");
  EXPECT_EQ(files_left(), 1u);
}

TEST_F(AtomicFiles, TwoWritersOfOneNameDoNotMix) {
  AtomicFile first(path("out")), second(path("out"));
  first.append("first");
  second.append("2");
  first.commit();
  EXPECT_EQ(bytes_of(path("out")), "first");
  second.commit();
  EXPECT_EQ(bytes_of(path("out")), "2");
}

TEST_F(AtomicFiles, ASymbolicLinkStaysALink) {
  write_text_file(path("real"), "before");
  std::filesystem::create_symlink("real", path("link"));
  write_text_file(path("link"), "after");
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_EQ(bytes_of(path("real")), "after");
}

TEST_F(AtomicFiles, AMissingFolderIsToldAtOnce) {
  const std::string line = error_of([&] { AtomicFile file(path("absent/out")); });
  EXPECT_TRUE(says(line, "absent/out: cannot write: No such file or directory"));
  EXPECT_TRUE(says(line, "folders must exist"));
}

TEST_F(AtomicFiles, AFolderIsNotReplaced) {
  std::filesystem::create_directory(path("folder"));
  EXPECT_TRUE(says(error_of([&] { AtomicFile file(path("folder")); }), "Is a directory"));
  EXPECT_TRUE(says(error_of([&] { AtomicFile file(path("folder/")); }), "Is a directory"));
  EXPECT_TRUE(says(error_of([&] { AtomicFile file(""); }), "empty"));
}

TEST_F(AtomicFiles, ADeviceIsNotReplaced) {
  EXPECT_TRUE(says(error_of([&] { AtomicFile file("/dev/null"); }), "not a regular file"));
  EXPECT_TRUE(says(error_of([&] { AtomicFile file("/dev/full"); }), "not a regular file"));
}

TEST_F(AtomicFiles, AnUnreadableFileIsAnError) {
  EXPECT_TRUE(says(error_of([&] { read_text_file(path("absent")); }), "cannot read: No such file"));
  EXPECT_TRUE(says(error_of([&] { read_text_file(path("")); }), "cannot read: Is a directory"));
  write_text_file(path("big"), "12345");
  EXPECT_TRUE(says(error_of([&] { read_text_file(path("big"), 4); }), "more than the limit of 4"));
}

TEST_F(AtomicFiles, AFullDiskLeavesNothing) {
  const FileSizeLimit limit(1 << 16);
  const std::string line = error_of([&] { write_text_file(path("out"), std::string(1 << 20, 'x')); });
  EXPECT_TRUE(says(line, "out: cannot write: File too large"));
  EXPECT_EQ(files_left(), 0u);
}

TEST_F(AtomicFiles, AFullDiskStopsASafetensorsFile) {
  const FileSizeLimit limit(1 << 16);
  const std::vector<std::byte> data(1 << 20);
  const std::string line = error_of([&] {
    SafetensorsWriter writer(path("out.safetensors"), {{"a", "U8", {1 << 20}}}, {});
    writer.write("a", data);
  });
  EXPECT_TRUE(says(line, "cannot write"));
  EXPECT_EQ(files_left(), 0u);
}

TEST_F(AtomicFiles, AFullDiskStopsAResultsFileInOneLine) {
  std::vector<std::uint8_t> noise(1 << 18);
  std::uint32_t state = 1;
  for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  const std::vector<Record> records = {{{1.0}, {{"/runs/0/noise", {1 << 18}, noise, {}}}}};
  ::testing::internal::CaptureStderr();
  {
    const FileSizeLimit limit(1 << 16);
    const std::string line = error_of([&] { write_results(path("out.h5"), {}, {{"x", "1", ""}}, records); });
    EXPECT_TRUE(says(line, "out.h5: cannot write: File too large"));
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(files_left(), 0u);
}

}  // namespace
}  // namespace fp4scope::io
