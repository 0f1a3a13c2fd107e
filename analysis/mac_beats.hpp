// Beats for the multiply-accumulate unit of sim/mac.hpp, and what it makes of them.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/mac.hpp"

namespace fp4scope::analysis {

/// One row a beat.
struct MacBeats {
  std::vector<std::uint8_t> a, w;              ///< [beats, 16], one 4-bit code a byte
  std::vector<std::uint8_t> a_scale, w_scale;  ///< [beats], scale bytes
  std::vector<std::uint8_t> first;             ///< [beats]: 1 where a segment begins, the first beat included

  std::size_t size() const { return first.size(); }
};

struct MacRun {
  std::vector<float> words;  ///< [segments]; the end of the beats closes the last one
  std::vector<float> lanes;  ///< [beats, 16], the accumulators after each beat; empty unless traced
};

inline MacRun run_mac(sim::MacFormat format, sim::MacFirst rule, const MacBeats& beats, bool trace) {
  MacRun run;
  float lanes[sim::mac_lanes] = {};
  for (std::size_t i = 0; i < beats.size(); ++i) {
    if (beats.first[i] && i > 0) run.words.push_back(sim::mac_reduce(lanes));
    const std::size_t lane = i * sim::mac_lanes;
    sim::mac_beat(format, rule, beats.first[i] != 0, &beats.a[lane], &beats.w[lane], beats.a_scale[i], beats.w_scale[i],
                  lanes);
    if (trace) run.lanes.insert(run.lanes.end(), lanes, lanes + sim::mac_lanes);
  }
  if (beats.size() > 0) run.words.push_back(sim::mac_reduce(lanes));
  return run;
}

}  // namespace fp4scope::analysis
