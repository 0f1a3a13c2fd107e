// The rows of instructions.hpp against MMA-Sim's outputs (golden/mma_sim.safetensors, 16,384 of them; committed are the
// first 4 of 24 and 2 of 8 matrices an instruction): block-scaled FP4 and FP8 on Blackwell, wgmma e4m3 on Hopper.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "io/tensor_file.hpp"
#include "sim/instructions.hpp"

namespace fp4scope {
namespace {

using sim::Architecture;
using sim::Instruction;

/// The complete file where FP4SCOPE_SHARED points, else the committed part.
std::string golden_path() {
  const char* shared = std::getenv("FP4SCOPE_SHARED");
  const std::string all = std::string(shared ? shared : "") + "/golden/mma_sim.safetensors";
  if (shared && std::filesystem::exists(all)) return all;
  return FP4SCOPE_DATA "/golden/mma_sim.safetensors";
}

struct Case {
  const char* key;  ///< in the file
  const char* name;
  Architecture architecture;
};

constexpr Case cases[] = {
    {"wgmma", "wgmma.m64n8k32.f32.e4m3.e4m3", Architecture::hopper},
    {"m16n8k32.block32.f32.e4m3.e4m3.f32.ue8m0", "mma.m16n8k32.block32.f32.e4m3.e4m3.f32.ue8m0",
     Architecture::rtx_blackwell},
    {"m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3", "mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3",
     Architecture::rtx_blackwell},
    {"m16n8k64.block16.f32.e2m1.e2m1.f32.ue8m0", "mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue8m0",
     Architecture::rtx_blackwell},
    {"m16n8k64.block32.f32.e2m1.e2m1.f32.ue8m0", "mma.m16n8k64.block32.f32.e2m1.e2m1.f32.ue8m0",
     Architecture::rtx_blackwell},
};

class File {
 public:
  File() : file_(io::open_tensors(golden_path())) {}

  bool has(const std::string& name) const { return file_->find(name) != nullptr; }

  std::vector<std::uint32_t> words(const std::string& name) const {
    const io::TensorInfo* t = file_->find(name);
    if (!t) return {};
    const auto raw = file_->raw(*t);
    const std::size_t size = t->dtype.name == "F32" ? 4 : 1;
    std::vector<std::uint32_t> out(raw.size() / size);
    for (std::size_t i = 0; i < raw.size(); ++i) {
      out[i / size] |= std::to_integer<std::uint32_t>(raw[i]) << (8 * (i % size));
    }
    return out;
  }

 private:
  std::unique_ptr<io::TensorFile> file_;
};

/// Codes [rows, k], or [k, columns] where a pair is one byte, one code an entry.
std::vector<std::uint32_t> unpacked(const std::vector<std::uint32_t>& bytes, int rows, int columns, bool along_rows) {
  std::vector<std::uint32_t> out(bytes.size() * 2);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      const std::uint32_t byte = bytes[static_cast<std::size_t>(i) * columns + j];
      const std::size_t even = along_rows ? (2 * static_cast<std::size_t>(i)) * columns + j
                                          : (static_cast<std::size_t>(i) * columns + j) * 2;
      out[even] = byte & 0xF;
      out[even + (along_rows ? static_cast<std::size_t>(columns) : 1)] = byte >> 4;
    }
  }
  return out;
}

TEST(TensorCore, gives_the_bits_of_a_published_model) {
  const File file;
  std::size_t compared = 0, differ = 0;
  for (const Case& c : cases) {
    const Instruction* r = sim::find_instruction(c.name, c.architecture);
    ASSERT_NE(r, nullptr) << c.name;
    for (int i = 0; file.has(std::string(c.key) + '|' + std::to_string(i) + "|D"); ++i) {
      const std::string prefix = std::string(c.key) + '|' + std::to_string(i) + '|';
      std::vector<std::uint32_t> a = file.words(prefix + "A"), b = file.words(prefix + "B");
      if (r->a.bits == 4) a = unpacked(a, r->m, r->k / 2, false), b = unpacked(b, r->k / 2, r->n, true);
      const auto scale_a = file.words(prefix + "SA"), scale_b = file.words(prefix + "SB");
      const auto addend = file.words(prefix + "C"), want = file.words(prefix + "D");
      const int blocks = r->scaled ? r->k / r->block : 0;
      for (int m = 0; m < r->m; ++m) {
        for (int n = 0; n < r->n; ++n, ++compared) {
          const std::size_t at = static_cast<std::size_t>(m) * r->n + n;
          const std::uint32_t got =
              sim::multiply_accumulate(*r, a.data() + static_cast<std::size_t>(m) * r->k, 1, b.data() + n, r->n,
                                       addend[at], scale_a.data() + m * blocks, 1, scale_b.data() + n, r->n);
          if (got == want[at] || ++differ > 10) continue;
          ADD_FAILURE() << prefix << " [" << m << ", " << n << "] is 0x" << std::hex << got << " = "
                        << __builtin_bit_cast(float, got) << ", the model has 0x" << want[at] << " = "
                        << __builtin_bit_cast(float, want[at]);
        }
      }
    }
  }
  EXPECT_EQ(differ, 0u);
  EXPECT_GE(compared, 3072u);
  std::cout << compared << " outputs compared, " << differ << " differ\n";
}

}  // namespace
}  // namespace fp4scope
