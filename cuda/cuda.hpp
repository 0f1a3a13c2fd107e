// The kernels as plain C++: what sim/ and search/ compute, many blocks at once, in a GPU's memory, with the same bytes.
//
// Built without nvcc there are no devices (none.cpp) and nothing else here may be called. A function that takes a
// Stream queues its work there and returns; memory that it was given has to live until the stream's wait(). Pointers
// named x, scales, packed, ... point into the stream's device unless a docstring says host. Failures, those of earlier
// kernels too, throw Error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "search/recipe_search.hpp"
#include "search/search.hpp"
#include "sim/converter.hpp"
#include "sim/hadamard.hpp"
#include "sim/tensor_core.hpp"

namespace fp4scope::cuda {

struct Device {
  std::string name;     ///< "NVIDIA H200"
  int major, minor;     ///< compute capability
  int processors;       ///< streaming multiprocessors
  std::int64_t cache;   ///< bytes of its second-level cache
  std::int64_t memory;  ///< bytes
};

/// Those of this host, looked for once. Empty without nvcc, without a driver, without a device.
const std::vector<Device>& devices();

/// Why there are none: "this program was built without nvcc", "no NVIDIA driver ..."; "" if there are some.
const std::string& why_none();

/// Bytes in a device's memory.
class Memory {
 public:
  Memory() = default;
  Memory(int device, std::int64_t bytes);
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  std::int64_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  [[maybe_unused]] int device_ = 0;
};

/// Page-locked bytes of the host: copies from and to them run beside kernels.
class HostMemory {
 public:
  HostMemory() = default;
  explicit HostMemory(std::int64_t bytes);
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  std::int64_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

/// Work in order. Different streams run side by side.
class Stream {
 public:
  explicit Stream(int device = 0);
  Stream(const Stream&) = delete;
  ~Stream();

  int device() const { return device_; }
  void* handle() const { return handle_; }  ///< a cudaStream_t
  void upload(void* to, const void* from_host, std::int64_t bytes);
  void download(void* to_host, const void* from, std::int64_t bytes);
  void copy(void* to, const void* from, std::int64_t bytes);
  void fill(void* to, int byte, std::int64_t bytes);
  void wait();

 private:
  void* handle_ = nullptr;
  int device_ = 0;
};

/// Seconds of device time between two points of a stream.
class Timer {
 public:
  explicit Timer(Stream& stream);
  Timer(const Timer&) = delete;
  ~Timer();

  void start();
  void stop();
  double seconds();  ///< waits

 private:
  [[maybe_unused]] Stream& stream_;
  [[maybe_unused]] void* from_ = nullptr;
  [[maybe_unused]] void* to_ = nullptr;
};

/// What the elements of a matrix are; bf16 and f16 widen to binary32 exactly.
enum class Type : std::uint8_t { f32, bf16, f16 };
constexpr std::int64_t width(Type type) { return type == Type::f32 ? 4 : 2; }

/// What has to be known of a tensor before its elements are quantized; magnitudes as binary32 bits, which order as they
/// do. analysis/matrix.hpp's Survey has the same.
struct Extremes {
  std::uint32_t finite_amax;  ///< the largest finite magnitude
  std::uint32_t amax;         ///< the largest that is no NaN
  std::uint32_t has_nan;      ///< 0 or 1
  std::uint32_t reserved;
  std::uint64_t nonfinite;        ///< how many
  std::uint64_t first_nonfinite;  ///< the lowest index, ~0 if all are finite
};

/// x[n] -> *out, in device memory.
void find_extremes(Stream& stream, Type type, const void* x, std::int64_t n, Extremes* out);

/// The same, and sim::tensor_scale of the largest finite magnitude -> *tensor_scale, in device memory, as quantize()
/// takes it.
void find_tensor_scale(Stream& stream, Type type, const void* x, std::int64_t n, double element_max, double scale_max,
                       Extremes* out, float* tensor_scale);

/// A matrix [rows, cols], row-major, anywhere in device memory.
struct Matrix {
  Type type;
  const void* x;
  std::int64_t rows, cols;
};

/// Which task quantize() serves: methods that choose a scale for nearest elements, recipe `exact`, elements of 4 bits.
bool serves(const search::SearchTask& task);

/// The bytes of search::quantize_rows on columns padded with zeros to P, a multiple of task.block:
/// scales [rows, P / block], packed [rows, P / 2], the even column in the low nibble. A block with a NaN or an Inf gets
/// the scale format's NaN and codes of zero. `tensor_scale`, in device memory, takes the place of task.tensor_scale
/// unless null. task.hessians is host memory; task.stop is not looked at. Needs serves(task).
void quantize(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
              std::uint8_t* packed, const float* tensor_scale = nullptr);

/// The same by the plain functions of search/ and sim/, one thread a block: what quantize() does where no faster kernel
/// serves, and what the faster ones are compared with.
void quantize_plain(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                    std::uint8_t* packed, const float* tensor_scale = nullptr);

// ---- recipes ----

/// As search::recipe_block for every block of a matrix, columns padded with zeros: scales [rows, P / block], codes
/// packed [rows, P / 2] for elements of up to 4 bits, else [rows, P]. task.tensor is sim::recipe_tensor's of the whole
/// tensor. Tiles of `tile_rows` rows share a scale. Every row, criterion, rounding and shape is served; NVFP4 rows of
/// sim::all_recipes that round to nearest even, by one candidate or by four over six's mse, have kernels of their own
/// where cols % 16 == 0, matrix.x is aligned to 16 bytes and codes to 8; the plain functions do the rest.
void quantize_recipe(Stream& stream, const search::RecipeTask& task, int block, int tile_rows, const Matrix& matrix,
                     std::uint8_t* scales, std::uint8_t* codes);

/// The same by the plain functions, one thread a block.
void quantize_recipe_plain(Stream& stream, const search::RecipeTask& task, int block, int tile_rows,
                           const Matrix& matrix, std::uint8_t* scales, std::uint8_t* codes);

// ---- least r^T H r ----

/// H of every block of columns in a device's memory, with what the filter needs of it: made once a layer, used by one
/// stream at a time.
class DeviceHessians {
 public:
  DeviceHessians(Stream& stream, const search::Hessians& hessians);
  DeviceHessians(const DeviceHessians&) = delete;
  ~DeviceHessians();

  struct Parts;
  Parts& parts() const { return *parts_; }

 private:
  Parts* parts_;
};

/// Which task quantize_hessian() serves: MethodKind::hessian, rows for tiles, elements of 4 bits, even blocks up to 64.
bool serves_hessian(const search::SearchTask& task);

/// Of quantize_hessian(): all blocks, those that the filter left with a few candidates or without any news, and those
/// that the host decided.
struct HessianStages {
  std::int64_t blocks, few, all, host;
};

/// quantize() for MethodKind::hessian. Waits for the stream: the few blocks that the device can't decide are downloaded
/// and decided by search::hessian_code with task.hessians. `count` and `stages`, of the host, may be null. Needs
/// serves_hessian(task).
void quantize_hessian(Stream& stream, const search::SearchTask& task, const DeviceHessians& hessians,
                      const Matrix& matrix, std::uint8_t* scales, std::uint8_t* packed,
                      const float* tensor_scale = nullptr, search::SearchCount* count = nullptr,
                      HessianStages* stages = nullptr);

/// The same with every code's loss in binary64.
void quantize_hessian_plain(Stream& stream, const search::SearchTask& task, const DeviceHessians& hessians,
                            const Matrix& matrix, std::uint8_t* scales, std::uint8_t* packed,
                            const float* tensor_scale = nullptr);

// ---- elements at given scales ----

struct ElementTask {
  const formats::BlockFormat* format;
  int block;
  float tensor_scale = 1;
  formats::Rounding rounding = formats::Rounding::nearest_even;  ///< or stochastic; others for wide elements alone
  std::uint64_t seed = 1;                                        ///< of stochastic rounding, with
  std::uint32_t stream = 0;                                      ///< the tensor's own numbers and
  std::int64_t first_row = 0;                                    ///< the matrix's first row in the tensor
};

/// Codes at given scales [rows, P / block], as analysis/quantize.hpp's pipeline has them: packed [rows, P / 2] for
/// elements of up to 4 bits, else [rows, P]. IF4's selection in bit 7 of a scale.
void encode(Stream& stream, const ElementTask& task, const Matrix& matrix, const std::uint8_t* scales,
            std::uint8_t* codes);

/// The exact products, rounded once to `out_type`: out [rows, cols] of codes and scales over P columns.
void dequantize(Stream& stream, const ElementTask& task, std::int64_t rows, std::int64_t cols,
                const std::uint8_t* scales, const std::uint8_t* codes, Type out_type, void* out);

/// Runs of n columns rotated as sim/hadamard.hpp has it, columns padded with zeros to P, a multiple of n: out [rows,
/// P]. signs [n], of the host.
void rotate(Stream& stream, int n, const std::int8_t* signs, sim::HadamardArithmetic arithmetic, bool back,
            const Matrix& matrix, float* out);

/// x[n] -> codes[n] of one byte, or two for formats of 16 bits; words[n] random numbers, null unless stochastic.
void encode_values(Stream& stream, const formats::Format& format, formats::Rounding rounding,
                   formats::Overflow overflow, const float* x, std::int64_t n, const std::uint32_t* words, void* codes);

/// The same by a row of sim/converter.hpp; `rounding` and `overflow` are what the row offers.
void convert_values(Stream& stream, const sim::Converter& converter, formats::Rounding rounding,
                    formats::Overflow overflow, const float* x, std::int64_t n, const std::uint32_t* words,
                    void* codes);

/// codes[n] -> values[n]; a NaN is the positive quiet one, 0x7FC00000.
void decode_values(Stream& stream, const formats::Format& format, const void* codes, std::int64_t n, float* values);

// ---- errors ----

/// What analysis/metrics.hpp sums up of one row: each term is a block's own sum, blocks in order.
struct RowSums {
  double energy, sse, max_error, magnitude, stored_magnitude;
  double sse_sse, sse_energy, energy_energy;  ///< products of a block's squared error and energy
  double naive_sse, sse_naive, naive_naive;  ///< naive's squared error; products with a block's own, and of itself
  std::uint32_t zeros, saturated, underflowed, subnormal, moved_up, moved_down;
  std::uint64_t distance;
};

struct SumTask {
  const formats::BlockFormat* format;
  const search::Method* naive;  ///< the yardstick of moved scales: a rule, or a rule that selects the element
  search::Select select;
  int block, tile_rows;
  float tensor_scale;
  int first_normal;  ///< scale codes below it are subnormal, or zero
  bool nearest;      ///< the codes are the nearest at their scales
};

inline constexpr int sums_reach = 16;  ///< offsets beyond it count as that

/// Sums over the rows of a matrix, its scales [rows, P / block] and its codes, packed for elements of up to 4 bits:
/// sums [rows]; moves [2 sums_reach + 1] is added to: blocks by their scale code less naive's.
void sum_errors(Stream& stream, const SumTask& task, const Matrix& matrix, const std::uint8_t* scales,
                const std::uint8_t* codes, RowSums* sums, std::uint64_t* moves);

/// *count = blocks, a tile counted once, that four over six mapped to 4, or that a selecting format made INT4: by their
/// scales. Blocks that are not finite are neither.
void count_second(Stream& stream, const search::SearchTask& task, const Matrix& matrix, const std::uint8_t* scales,
                  std::uint64_t* count);
void count_second(Stream& stream, const search::RecipeTask& task, int block, int tile_rows, const Matrix& matrix,
                  const std::uint8_t* scales, std::uint64_t* count);

// ---- facts: what the device's own approximate instructions return; sim/approximate.hpp has Hopper's ----

enum class Instruction : std::uint8_t {
  reciprocal,          ///< rcp.approx.ftz.f32
  log2,                ///< lg2.approx.ftz.f32
  divide_full,         ///< div.full.f32
  divide_approximate,  ///< div.approx.f32
};

/// out[i] = the instruction on a[i], or on a[i] and b[i]; b may be null where it takes one.
void probe(Stream& stream, Instruction instruction, const float* a, const float* b, std::int64_t n, float* out);

// ---- matrix instructions: what the device's own tensor cores return; sim/instructions.hpp has the models ----

/// Where a warpgroup instruction (wgmma) reads A.
enum class OperandA : std::uint8_t { shared, registers };

/// `count` sets, one after the other: A [m, k], B [k, n], C [m, n] -> D [m, n], row-major, as the instruction's formats
/// say: fp4 and fp8 one code a byte, fp16 and bf16 two bytes, tf32 and binary32 four. Aligned to 4 bytes.
struct MmaSets {
  std::int64_t count;
  const void *a, *b, *c;
  void* d;
  const std::uint8_t *scale_a = nullptr, *scale_b = nullptr;  ///< of block-scaled ones: [m, k / block], [k / block, n]
  OperandA operand_a = OperandA::shared;
};

/// Why mma() can't run a row of sim::all_instructions on a device; "" if it can. Rows for the same instruction
/// (@variant) are the same here. Instructions of a warpgroup need Hopper, block scales consumer Blackwell.
std::string why_no_mma(int device, const sim::Instruction& instruction);

/// Each set by one instruction.
void mma(Stream& stream, const sim::Instruction& instruction, const MmaSets& sets);

}  // namespace fp4scope::cuda
