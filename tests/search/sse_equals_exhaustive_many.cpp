// The pruned search against the exhaustive one on millions of blocks; a check to be run once, not a test:
//
//   sse_equals_exhaustive_many [MILLIONS = 1] [SEED = 1]
//
// Families, formats, block sizes and tensor scales in turn. Prints the blocks compared and the mismatches; exit 1 if
// there are any.
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "search/methods.hpp"
#include "search/sse.hpp"
#include "tests/search/blocks.hpp"

namespace {

using namespace fp4scope;

struct SizeRow {
  const char* format;
  int block;
};

constexpr SizeRow size_rows[] = {{"nvfp4", 16}, {"nvfp4", 32},  {"nvfp4", 2},  {"mxfp4", 32},
                                 {"mxfp4", 16}, {"nvint4", 16}, {"nvint4", 32}};

/// Blocks of every family at one tensor scale; returns the mismatches.
long compare(const SizeRow& row, float t, int per_family, std::uint64_t seed) {
  const search::SearchSpace space =
      search::make_space(*formats::find_block_format(row.format), t, search::find_method(row.format, "sse")->rule);
  blocks::Maker maker(row.format, seed);
  long mismatches = 0;
  for (const blocks::FamilyRow& family : blocks::all_families) {
    for (int i = 0; i < per_family; ++i) {
      const std::vector<float> x = maker.make(family.family, t, row.block);
      const search::Block block = {x.data(), row.block, sim::amax(x.data(), row.block)};
      const int got = search::sse_code(space, block), want = search::sse_code_ref(space, block);
      if (got == want) continue;
      ++mismatches;
      std::printf("%s: got 0x%X, want 0x%X\n", blocks::describe(row.format, family.name, t, x).c_str(),
                  static_cast<unsigned>(got), static_cast<unsigned>(want));
    }
  }
  return mismatches;
}

}  // namespace

int main(int argc, char** argv) {
  const double millions = argc > 1 ? std::atof(argv[1]) : 1;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  constexpr int per_family = 100;
  const auto batch = static_cast<long>(per_family * std::size(blocks::all_families));
  const auto batches = static_cast<long>(millions * 1e6) / batch + 1;
  long mismatches = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : mismatches)
  for (long b = 0; b < batches; ++b) {
    // Every other batch has a random tensor scale with a full significand.
    std::mt19937_64 words(seed * 1000003 + static_cast<std::uint64_t>(b));
    const auto random_bits = static_cast<std::uint32_t>(1 + words() % 0x7F7FFFFF);
    const float listed = blocks::tensor_scales[words() % std::size(blocks::tensor_scales)];
    const float t = b % 2 ? __builtin_bit_cast(float, random_bits) : listed;
    mismatches += compare(size_rows[static_cast<std::size_t>(b / 2) % std::size(size_rows)], t, per_family, words());
  }
  std::printf("%ld blocks compared, %ld mismatches\n", batches * batch, mismatches);
  return mismatches == 0 ? 0 : 1;
}
