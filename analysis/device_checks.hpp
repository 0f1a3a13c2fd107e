// What the families of crosscheck_device.hpp share: the device's side of a comparison, and the comparison itself.
#pragma once

#include <chrono>

#include "analysis/crosscheck_device.hpp"
#include "analysis/matrix.hpp"
#include "cuda/cuda.hpp"

namespace fp4scope::analysis {

/// Seconds since some moment.
inline double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct DeviceChecks {
  cuda::Stream& stream;
  const DeviceCrosscheckOptions& options;
  std::vector<DeviceCheck>& done;

  bool stopped() const { return options.stop && *options.stop; }
  void tell(double share, const std::string& what) const {
    if (options.progress) options.progress(share, what);
  }
};

/// model[n] against device[n]; explain(i) describes the first that differs.
template <class Model, class Device, class Explain>
void compare(DeviceCheck& check, const Model* model, const Device* device, std::int64_t n, const Explain& explain) {
  std::int64_t different = 0, first = n;
#pragma omp parallel for schedule(static) reduction(+ : different) reduction(min : first)
  for (std::int64_t i = 0; i < n; ++i) {
    if (model[i] == device[i]) continue;
    ++different;
    first = i < first ? i : first;
  }
  check.outputs += n;
  if (different > 0 && check.mismatches == 0) check.example = explain(first);
  check.mismatches += different;
}

/// A matrix as one dtype holds it, on both sides.
struct TwoSides {
  Matrix model;  ///< widened
  cuda::Memory memory;
  cuda::Type type;

  cuda::Matrix device() const { return {type, memory.as<void>(), model.rows, model.cols}; }
};

/// Rounds m to the type (its NaN stay NaN) and uploads it.
TwoSides two_sides(cuda::Stream& stream, Matrix m, cuda::Type type);

extern const char* const type_names[3];  ///< by cuda::Type

/// What is compared by the host: [bytes] of device memory.
std::vector<std::uint8_t> downloaded(cuda::Stream& stream, const cuda::Memory& memory);

// The families.
void check_values(DeviceChecks& checks);     ///< encode and decode of numbers, converters
void check_extremes(DeviceChecks& checks);   ///< a tensor's maxima
void check_elements(DeviceChecks& checks);   ///< codes at given scales, and back
void check_searches(DeviceChecks& checks);   ///< block scales of every method, recipe exact
void check_recipes(DeviceChecks& checks);    ///< every order-defined recipe
void check_hessian(DeviceChecks& checks);    ///< least r^T H r
void check_rotations(DeviceChecks& checks);  ///< Hadamard

}  // namespace fp4scope::analysis
