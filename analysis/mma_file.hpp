// `mma`: what a matrix instruction makes of the operands in a file, and the list of instructions with their evidence.
//
//   for every prefix P:  P.A [M, K], P.B [K, N], P.C [M, N], and P.SA [M, K/block], P.SB [K/block, N]  ->  P.D [M, N]
//
// Matrices are row-major and of exactly the instruction's shape. fp16, bf16 and tf32 elements are F16, BF16 and F32 (of
// which tf32 keeps the upper 19 bits); 8- and 6-bit elements are U8, one code a byte; e2m1 is packed along K, the low
// nibble the even k: A [M, K/2], B [K/2, N]. Scales are U8. C is F32 or F16 as the instruction has it, and so is D.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "sim/instructions.hpp"

namespace fp4scope::analysis {

/// volta, turing, ampere, ada, hopper, blackwell, rtx_blackwell, cdna1, cdna2, cdna3.
std::vector<std::string> architecture_names();

/// The rows that --arch ARCH means, all of them for "": blackwell has sm_120's behind its own.
/// Throws UsageError for another name.
std::vector<sim::Instruction> instructions_of(const std::string& architecture);

/// The row for an instruction's name. wgmma's N and tcgen05's M and N are free as in PTX, and the row has them.
/// Throws UsageError with the nearest right name.
sim::Instruction find_operation(const std::string& architecture, const std::string& name);

/// The row as a JSON object: shape, formats, steps and the k's of each, bits, C, result, exponents, evidence.
std::string instruction_json(const sim::Instruction& row);
/// Short words for people: "16 + 16 k", "measured: ..., or what was published".
std::string steps_text(const sim::Instruction& row);
std::string result_text(const sim::Instruction& row);
std::string evidence_text(const sim::Instruction& row);

struct MmaCount {
  std::int64_t products = 0;  ///< matrix products, one a prefix
  std::int64_t outputs = 0, nan = 0, infinite = 0;
};

/// Every prefix of `in` to P.D in `out`, whole or absent; absent when `stop` turns true. The metadata of `out` has the
/// tool, the instruction's name and architecture, and the row with its evidence as JSON. Throws Error.
MmaCount mma_file(const sim::Instruction& row, const std::string& in, const std::string& out, const std::string& tool,
                  const std::atomic<bool>* stop = nullptr);

}  // namespace fp4scope::analysis
