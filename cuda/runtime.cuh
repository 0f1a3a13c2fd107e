// What every .cu file here needs: errors as exceptions, the stream's own handle, elements of any type as floats.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/cuda.hpp"
#include "formats/error.hpp"

namespace fp4scope::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw Error("cuda", std::string(what) + ": " + cudaGetErrorString(error));
}

/// After a launch: was it accepted, did an earlier one fail?
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

inline cudaStream_t handle(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

/// Makes a device the calling thread's.
inline void select(int device) { check(cudaSetDevice(device), "cudaSetDevice"); }

/// Scratch memory that lives as long as the work queued so far; freed in the stream's order.
class Scratch {
 public:
  Scratch(Stream& stream, std::int64_t bytes) : stream_(handle(stream)) {
    select(stream.device());
    check(cudaMallocAsync(&data_, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1)), stream_),
          "scratch memory");
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { cudaFreeAsync(data_, stream_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  cudaStream_t stream_;
};

__device__ inline float widened(const float* x, std::int64_t i) { return x[i]; }
__device__ inline float widened(const __nv_bfloat16* x, std::int64_t i) {
  return __uint_as_float(static_cast<std::uint32_t>(reinterpret_cast<const std::uint16_t*>(x)[i]) << 16);
}
__device__ inline float widened(const __half* x, std::int64_t i) { return __half2float(x[i]); }

/// f(const T* x) with x as what it points to.
template <class Function>
void with_type(Type type, const void* x, const Function& f) {
  switch (type) {
    case Type::f32: return f(static_cast<const float*>(x));
    case Type::bf16: return f(static_cast<const __nv_bfloat16*>(x));
    case Type::f16: return f(static_cast<const __half*>(x));
  }
}

/// The number of blocks of `threads` that cover n, at most what a grid's x takes.
inline unsigned grid_of(std::int64_t n, int threads) {
  return static_cast<unsigned>(std::min<std::int64_t>((n + threads - 1) / threads, 0x7FFFFFFF));
}

}  // namespace fp4scope::cuda
