// quantize_file's tensors straight from the file to the GPUs and back: bytes as stored through page-locked memory,
// scales, packed codes and values to their place in the output. Each GPU has a few tensors in flight, a thread and
// streams each: while one is read, another computes and a third is written. A tensor stays in the GPU's memory between
// the pass that finds its amax and the one that quantizes it; one that doesn't fit passes twice, in pieces of rows.
#pragma once

#include <span>

#include "analysis/quantize_file.hpp"
#include "io/safetensors_writer.hpp"

namespace fp4scope::analysis {

/// Whether GPUs take the file's own bytes and give the output's: no other basis, nothing that the CPU has to look at.
bool goes_straight(const QuantizeFileOptions& options, std::span<const io::TensorInfo* const> tensors);

/// Needs goes_straight, options.devices, device_obstacle "". In the order of `tensors`; empty if interrupted.
/// Throws Error: the first in that order.
std::vector<QuantizedTensor> quantize_on_devices(const QuantizeFileOptions& options, const io::TensorFile& file,
                                                 std::span<const io::TensorInfo* const> tensors,
                                                 io::SafetensorsWriter& writer);

}  // namespace fp4scope::analysis
