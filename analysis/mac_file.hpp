// `mac`: files through the multiply-accumulate unit of sim/mac.hpp.
//
//   beats     safetensors: a, w U8 [beats, 16], one code a byte, a_sf, w_sf U8 [beats], first U8 [beats]
//             -> acc F32 [segments]; with a trace also lanes F32 [beats, 16], the accumulators after each beat
//   operands  two tensors of outputs of `quantize`, rows of blocks of 16
//             -> acc F32 [rows of a, rows of w], a segment each; tensor scales are left to whoever reads it
#pragma once

#include <atomic>
#include <string>

#include "analysis/tensors.hpp"
#include "sim/mac.hpp"

namespace fp4scope::analysis {

struct MacOptions {
  sim::MacFormat format = sim::MacFormat::nvfp4;
  sim::MacFirst first = sim::MacFirst::loads;
  bool canonicalize = false;  ///< E2M1's code 8, -0, becomes 0; refused otherwise. An integer's 8 is always refused
  bool trace = false;         ///< of beats: write the lanes
  std::string tool;           ///< "fp4scope 0.1.0"
  Notice notice;
  const std::atomic<bool>* stop = nullptr;
};

struct MacCount {
  std::int64_t beats = 0, segments = 0;
  std::int64_t short_segments = 0;  ///< of less than mac_least_segment beats, whose words the published RTL loses
  std::int64_t canonicalized = 0;   ///< codes
};

/// Throws Error; `out` is whole or absent.
MacCount mac_file(const MacOptions& options, const std::string& in, const std::string& out);

/// `a`, `w`: "FILE" or "FILE:NAME". Throws Error; `out` is whole or absent, absent when `stop` turns true.
MacCount mac_operands(const MacOptions& options, const std::string& a, const std::string& w, const std::string& out);

}  // namespace fp4scope::analysis
