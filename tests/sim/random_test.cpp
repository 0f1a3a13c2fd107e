// sim/random.hpp: known answers of Philox4x32-10 (Random123's kat_vectors) and the layout of its counter and key.
#include "sim/random.hpp"

#include <gtest/gtest.h>

#include <array>
#include <random>

namespace fp4scope {
namespace {

using Four = std::array<std::uint32_t, 4>;
using Two = std::array<std::uint32_t, 2>;

/// Philox4x32-10, written from the publication.
Four philox(Four c, Two k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0], b = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(a)};
    k = {k[0] + 0x9E3779B9u, k[1] + 0xBB67AE85u};
  }
  return c;
}

Four words_of(std::uint64_t seed, std::uint32_t stream, std::uint64_t index) {
  Four words;
  sim::random_words(seed, stream, index, words.data());
  return words;
}

TEST(RandomWords, of_zeros_are_the_published_answer) {
  EXPECT_EQ(words_of(0, 0, 0), (Four{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
}

TEST(RandomWords, are_philox_of_index_stream_and_seed) {
  const std::uint32_t ones = 0xFFFFFFFF;
  ASSERT_EQ(philox({ones, ones, ones, ones}, {ones, ones}), (Four{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
  ASSERT_EQ(philox({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}),
            (Four{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
  std::mt19937_64 any(1);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t seed = any(), index = any();
    const auto stream = static_cast<std::uint32_t>(any());
    const Four counter = {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), stream, 0};
    const Two key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    ASSERT_EQ(words_of(seed, stream, index), philox(counter, key)) << seed << ' ' << stream << ' ' << index;
  }
}

TEST(OpenUniform, lies_inside_zero_and_one_and_is_symmetric) {
  EXPECT_EQ(sim::open_uniform(0, 0), 0x1p-53);
  EXPECT_EQ(sim::open_uniform(0xFFFFFFFF, 0xFFFFFFFF), 1 - 0x1p-53);
  EXPECT_EQ(sim::open_uniform(0x80000000, 0), 0.5 + 0x1p-53);
  EXPECT_EQ(sim::open_uniform(0, 0xFFF), 0x1p-53);
  EXPECT_EQ(sim::open_uniform(0, 0x1000), 0x3p-53);
  std::mt19937_64 any(2);
  for (int i = 0; i < 1000; ++i) {
    const auto high = static_cast<std::uint32_t>(any()), low = static_cast<std::uint32_t>(any());
    EXPECT_EQ(sim::open_uniform(high, low) + sim::open_uniform(~high, ~low), 1);
  }
}

}  // namespace
}  // namespace fp4scope
