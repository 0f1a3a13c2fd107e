// `crosscheck --device cuda`: every kernel of cuda/ against the model, byte for byte. A table of families: what was
// computed on both sides, how many outputs differ, and why the first one does.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/results.hpp"

namespace fp4scope::analysis {

/// One comparison of a kernel with the model.
struct DeviceCheck {
  std::string family;        ///< "encode", "codes at scales", "search", ...
  std::string what;          ///< "e4m3 rne saturate", "nvfp4 sse block 16, bf16, normal"
  std::int64_t outputs = 0;  ///< values or bytes compared
  std::int64_t mismatches = 0;
  double device_seconds = 0;  ///< copies included
  double model_seconds = 0;
  std::string example;  ///< the first mismatch, in lines; "" without
};

struct DeviceCrosscheckOptions {
  int device = 0;
  bool full = false;              ///< every converter in every direction on all 2^32 floats
  bool quick = false;             ///< every kernel on little data, for tools that slow a device down
  std::vector<std::string> only;  ///< families; empty: all
  std::function<void(double done, const std::string& what)> progress;
  std::function<void(const std::vector<DeviceCheck>&)> finished;  ///< receives each family when it is through
  const std::atomic<bool>* stop = nullptr;
};

/// The names that `only` takes.
std::vector<std::string> device_check_families();

/// Throws Error without a device. Stopped: empty.
std::vector<DeviceCheck> crosscheck_device(const DeviceCrosscheckOptions& options);

io::Table device_checks_table(const std::vector<DeviceCheck>& checks);

}  // namespace fp4scope::analysis
