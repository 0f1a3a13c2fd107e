// What the programs of this folder share: arrays on the device, a function run over 0 .. n - 1 on the CPU and on the
// device, and the comparison of what the two gave, bit for bit. Without a device a program exits with 77.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace fp4scope {

#define CHECK(call)                                                                            \
  do {                                                                                         \
    const cudaError_t error = (call);                                                          \
    if (error != cudaSuccess) {                                                                \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error));    \
      std::exit(error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ? 77 : 1);  \
    }                                                                                          \
  } while (false)

/// An array on the device.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : size_(n) { CHECK(cudaMalloc(&data_, n * sizeof(T))); }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    CHECK(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> out(size_);
    CHECK(cudaGetLastError());  // of a launch that never began
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

/// Compares bit for bit and prints the first difference.
template <class T>
bool same(const char* what, const std::vector<T>& cpu, const std::vector<T>& gpu) {
  std::size_t different = 0, first = 0, byte = 0;
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    if (std::memcmp(&cpu[i], &gpu[i], sizeof(T)) == 0) continue;
    if (different++ == 0) first = i;
  }
  std::printf("%-60s %10zu outputs of %3zu bytes, %zu differ", what, cpu.size(), sizeof(T), different);
  if (different) {
    const auto* a = reinterpret_cast<const unsigned char*>(&cpu[first]);
    const auto* b = reinterpret_cast<const unsigned char*>(&gpu[first]);
    while (a[byte] == b[byte]) ++byte;
    std::printf(", first at %zu, byte %zu: cpu 0x%02x, gpu 0x%02x", first, byte, a[byte], b[byte]);
  }
  std::printf("\n");
  return different == 0;
}

/// f(0) .. f(n - 1) on the device; `f` holds device pointers and is a kernel's argument (4096 bytes at most).
template <class Out, class Function>
__global__ void each_kernel(Function f, std::uint32_t n, Out* out) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = f(i);
}

/// The same function over 0 .. n - 1, `cpu` with host pointers and `gpu` with device pointers. Outputs have no padding.
template <class Function>
bool each_is_the_same(const std::string& what, std::uint32_t n, const Function& cpu, const Function& gpu) {
  using Out = decltype(cpu(0u));
  static_assert(std::has_unique_object_representations_v<Out> && sizeof(Function) <= 4000);
  const DeviceArray<Out> device(n);
  each_kernel<<<(n + 63) / 64, 64>>>(gpu, n, device.get());
  std::vector<Out> host(n);
#pragma omp parallel for schedule(dynamic, 256)
  for (std::uint32_t i = 0; i < n; ++i) host[i] = cpu(i);
  return same(what.c_str(), host, device.host());
}

}  // namespace fp4scope
