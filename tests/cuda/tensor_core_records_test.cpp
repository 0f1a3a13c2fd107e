// What an H200's matrix instructions gave, recorded once (tests/data/tensor_cores.safetensors, written by
// tensor_cores_on_device_test), against the rows of sim/instructions.hpp, without a device. Records come back as
// written.
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>

#include "formats/error.hpp"
#include "tests/cuda/tensor_core_records.hpp"

namespace fp4scope::probe {
namespace {

TEST(TensorCoreRecords, EveryRowGivesWhatTheDeviceGave) {
  const std::string path = FP4SCOPE_DATA "/tensor_cores.safetensors";
  const auto file = io::open_tensors(path);
  const auto found = file->metadata().find("architecture");
  ASSERT_NE(found, file->metadata().end());
  int instructions = 0;
  for (int a = 0; a < static_cast<int>(std::size(sim::architecture_names)); ++a) {
    if (found->second != sim::architecture_names[a]) continue;
    for (const Rows& rows : instructions_of(static_cast<sim::Architecture>(a))) {
      const Batch batch = read_records(*file, *rows[0]);
      Batch model = batch;
      run_model(*rows[0], model);
      EXPECT_EQ(model.d, batch.d) << rows[0]->name;
      instructions += batch.count > 0;
    }
  }
  EXPECT_EQ(instructions, 28);
}

TEST(TensorCoreRecords, ComeBackAsWrittenAndAreSmall) {
  const std::string path = testing::TempDir() + "tensor_core_records_" + std::to_string(getpid()) + ".safetensors";
  std::vector<Record> records;
  for (const Rows& rows : instructions_of(sim::Architecture::hopper)) {
    records.push_back({rows[0], record_sets(*rows[0], 1)});
    run_model(*rows[0], records.back().batch);
  }
  write_records(path, records, {{"architecture", "hopper"}});
  EXPECT_LE(std::filesystem::file_size(path), 300'000u);
  const auto file = io::open_tensors(path);
  EXPECT_EQ(records.size(), 28u);
  for (const Record& x : records) {
    const Batch back = read_records(*file, *x.row);
    EXPECT_TRUE(back.a == x.batch.a && back.b == x.batch.b && back.c == x.batch.c &&
        back.d == x.batch.d) << x.row->name;
    EXPECT_GT(back.count, 0) << x.row->name;
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace fp4scope::probe
