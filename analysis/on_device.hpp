// quantize.hpp's pipeline on a GPU: the same bytes, from data that stay in its memory.
//
//   load      the host's rows, as they are stored, through two page-locked halves: one is filled while the other is
//             copied
//   quantize  tensor scale on the host, block scales and codes on the GPU, where they stay
//   measure   metrics.hpp's sums of rows
//   download, for_each_part_of_...  scales, codes and values to the host
//
// One object a thread: several on one GPU overlap, so that while one reads a tensor another computes.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "analysis/metrics.hpp"
#include "analysis/quantize.hpp"
#include "cuda/cuda.hpp"

namespace fp4scope::analysis {

/// Why a GPU can't quantize so; "" if it can.
std::string device_obstacle(const QuantizeConfig& config);

/// What one can do, in a line.
std::string device_has();

/// A GPU's word for a dtype that it reads as stored: F32, BF16 or F16. Throws Error for another.
cuda::Type device_type(const std::string& dtype);

/// What its steps took, in seconds of this host's clock: of several threads added up, but for the first.
struct DeviceSeconds {
  double starting = 0;   ///< until a thread has its GPU, its streams and page-locked memory
  double reading = 0;    ///< from the file's pages to page-locked memory
  double copying = 0;    ///< waiting for copies to and from the GPU
  double computing = 0;  ///< waiting for its kernels
  double writing = 0;    ///< what took the parts of scales and codes

  void add(const DeviceSeconds& other);
};

class OnDevice {
 public:
  explicit OnDevice(int device);
  /// The same, with the seconds that it took.
  static std::unique_ptr<OnDevice> start(int device);

  /// `x` [rows, cols] of the host, row-major.
  void load(cuda::Type type, std::int64_t rows, std::int64_t cols, const void* x);
  /// Of what is loaded.
  cuda::Extremes extremes();
  /// Scales and codes of what is loaded stay on the GPU; what is returned has neither. `curvature`: as in quantize().
  /// Needs device_obstacle() "".
  Quantized quantize(const QuantizeConfig& config, const Piece& piece, const std::string& where,
                     const Curvature* curvature = nullptr);
  /// Sums of what was quantized last.
  MeasuredRows measure(const Quantized& q);
  /// Scales and codes, one byte an element, into what quantize() returned.
  void download(Quantized& q);
  /// Raw bytes as files have them, codes in pairs where they have 4 bits: part(offset, bytes), first to last.
  using Part = std::function<void(std::int64_t offset, std::span<const std::byte> bytes)>;
  void for_each_part_of_scales(const Part& part);
  void for_each_part_of_codes(const Part& part);
  /// The exact products of the first `cols` columns, rounded once to that type.
  void for_each_part_of_values(const Quantized& q, std::int64_t cols, cuda::Type type, const Part& part);

  /// Bytes in the GPU's memory for an element of that type.
  static double bytes_per_element(cuda::Type type);

  const DeviceSeconds& seconds() const { return seconds_; }

 private:
  /// Half of the way between host and GPU.
  struct Half {
    cuda::Stream stream;
    cuda::HostMemory memory;
    explicit Half(int device);
  };

  void reserve(cuda::Memory& memory, std::int64_t bytes);
  void wait_for_kernels();
  void for_each_part(const cuda::Memory& from, std::int64_t bytes, const Part& part);
  const cuda::DeviceHessians& hessians_of(const Curvature& curvature);
  void run_kernels(Quantized& q, const Curvature* curvature);
  static cuda::ElementTask element_task(const Quantized& q);
  std::int64_t count_second(const Quantized& q);

  int device_;
  cuda::Stream stream_;
  std::array<Half, 2> halves_;
  cuda::Memory x_, scales_, codes_, values_, sums_, small_;
  cuda::Matrix matrix_ = {cuda::Type::f32, nullptr, 0, 0};
  std::unique_ptr<cuda::DeviceHessians> hessians_;
  std::string hessians_name_;
  std::int64_t scale_bytes_ = 0, code_bytes_ = 0;
  DeviceSeconds seconds_;
};

}  // namespace fp4scope::analysis
