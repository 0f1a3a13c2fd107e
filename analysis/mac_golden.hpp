// The published unit's own vectors: three segments of ten beats for each format and the word of each segment
// (mit-han-lab/fouroversix, if4_mac/tb: {nvfp4,if4}_mac_golden_ref.svh).
//
// They come from Python's random.Random(seed), drawn beat by beat: a's scale, w's scale, a's 16 codes, w's 16 codes; a
// code is a choice among the 15 that aren't 8; a scale 7 uniform bits, under IF4 after its bit 7, one bit.
#pragma once

#include <array>
#include <random>

#include "analysis/mac_beats.hpp"

namespace fp4scope::analysis {

inline constexpr int mac_golden_segments = 3, mac_golden_length = 10;

struct MacGolden {
  std::uint32_t seed;
  std::array<std::uint32_t, mac_golden_segments> words;  ///< binary32 bits
};

constexpr MacGolden mac_golden(sim::MacFormat format) {
  if (format == sim::MacFormat::if4) return {20260402, {0xC802A96Cu, 0x493F9837u, 0x4A323662u}};
  return {20260403, {0x48E076B2u, 0xC66D5C82u, 0x499463B2u}};
}

/// Python's random.Random(seed), 0 <= seed < 2^32: the Mersenne Twister MT19937 (Matsumoto, Nishimura 1998), its state
/// made by the authors' initialization from an array of 2002, which std::mt19937 has not, of the one word `seed`.
class PythonRandom {
 public:
  explicit PythonRandom(std::uint32_t seed) {
    State state{seed};
    engine_.seed(state);
  }

  /// Uniform in 0 .. n - 1: as many high bits as n has, drawn again while they are no less than n.
  std::uint32_t below(std::uint32_t n) {
    const int bits = formats::bit_length(n);
    std::uint32_t drawn = n;
    while (drawn >= n) drawn = static_cast<std::uint32_t>(engine_()) >> (32 - bits);
    return drawn;
  }

 private:
  /// What std::mt19937 takes for a seed sequence: it hands over all 624 words of the state.
  struct State {
    using result_type = std::uint32_t;
    std::uint32_t key;

    template <class Iterator>
    void generate(Iterator begin, Iterator end) const {
      const auto n = static_cast<std::uint32_t>(end - begin);
      const auto mixed = [&](std::uint32_t i) {
        const auto before = static_cast<std::uint32_t>(begin[i - 1]);
        return before ^ before >> 30;
      };
      begin[0] = 19650218u;
      for (std::uint32_t i = 1; i < n; ++i) begin[i] = 1812433253u * mixed(i) + i;
      std::uint32_t i = 1;
      const auto next = [&] {
        if (++i < n) return;
        begin[0] = begin[n - 1];
        i = 1;
      };
      for (std::uint32_t k = 0; k < n; ++k, next()) {
        begin[i] = (static_cast<std::uint32_t>(begin[i]) ^ mixed(i) * 1664525u) + key;
      }
      for (std::uint32_t k = 1; k < n; ++k, next()) {
        begin[i] = (static_cast<std::uint32_t>(begin[i]) ^ mixed(i) * 1566083941u) - i;
      }
      begin[0] = 0x80000000u;
    }
  };

  std::mt19937 engine_;
};

inline MacBeats mac_golden_beats(sim::MacFormat format) {
  PythonRandom random(mac_golden(format).seed);
  const auto scale = [&] {
    const std::uint32_t integer = format == sim::MacFormat::if4 ? random.below(2) << 7 : 0;
    return static_cast<std::uint8_t>(integer | random.below(128));
  };
  const auto code = [&] {
    const std::uint32_t choice = random.below(15);
    return static_cast<std::uint8_t>(choice < 8 ? choice : choice + 1);
  };
  MacBeats beats;
  for (int i = 0; i < mac_golden_segments * mac_golden_length; ++i) {
    beats.first.push_back(i % mac_golden_length == 0);
    beats.a_scale.push_back(scale());
    beats.w_scale.push_back(scale());
    for (int lane = 0; lane < sim::mac_lanes; ++lane) beats.a.push_back(code());
    for (int lane = 0; lane < sim::mac_lanes; ++lane) beats.w.push_back(code());
  }
  return beats;
}

}  // namespace fp4scope::analysis
