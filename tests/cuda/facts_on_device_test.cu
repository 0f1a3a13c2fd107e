// The claims of sim/approximate.hpp, on the device itself: its functions are what a Hopper's instructions return, the
// two of one operand for all 2^32 inputs, the divisions for 10^9 pairs; and the recipes that rest on them write the
// bytes that the real instructions, in the order of the libraries' kernels, give.
#include <cuda_fp4.h>
#include <cuda_fp8.h>

#include <cmath>

#include "cuda/cuda.hpp"
#include "sim/recipes.hpp"
#include "tests/gpu/on_device.cuh"

namespace fp4scope {
namespace {

using cuda::Instruction;

__host__ __device__ std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
__host__ __device__ float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// 64 bits that look random, of an index (the finalizer of SplitMix64).
__host__ __device__ std::uint64_t mixed(std::uint64_t i) {
  i += 0x9E3779B97F4A7C15ull;
  i = (i ^ i >> 30) * 0xBF58476D1CE4E5B9ull;
  i = (i ^ i >> 27) * 0x94D049BB133111EBull;
  return i ^ i >> 31;
}

__host__ __device__ float emulated(Instruction instruction, float a, float b) {
  switch (instruction) {
    case Instruction::reciprocal: return sim::reciprocal_hopper(a);
    case Instruction::log2: return sim::log2_hopper(a);
    case Instruction::divide_full: return sim::divide_full_hopper(a, b);
    case Instruction::divide_approximate: return sim::divide_approximate_hopper(a, b);
  }
  return 0;
}

// ---- instructions ----

struct Operands {
  float a, b;
};

/// Pattern i of all, or pair i.
struct AllPatterns {
  __host__ __device__ Operands operator()(std::uint64_t i) const {
    return {from_bits(static_cast<std::uint32_t>(i)), 0};
  }
};
struct Pairs {
  /// A bf16 magnitude in [2^-20, 2^12).
  static __host__ __device__ float amax(std::uint64_t r) {
    return from_bits(static_cast<std::uint32_t>(107 + r % 32) << 23 | static_cast<std::uint32_t>(r >> 8 & 0x7F) << 16);
  }
  __host__ __device__ Operands operator()(std::uint64_t i) const {
    const std::uint64_t r = mixed(i), s = mixed(~i);
    const float a = from_bits(static_cast<std::uint32_t>(r)), b = from_bits(static_cast<std::uint32_t>(r >> 32));
    constexpr formats::Format e4m3 = formats::e4m3;
    const float scale = formats::decode_float(e4m3, static_cast<std::uint32_t>(s % 127));
    const float special[] = {0,
                             -0.0f,
                             0x1p-149f,
                             -0x1p-126f,
                             0x1.FFFFFCp-127f,
                             1,
                             -6,
                             0x1p126f,
                             0x1.000002p126f,
                             0x1p127f,
                             -0x1.FFFFFEp127f,
                             from_bits(0x7F800000u),
                             from_bits(0xFF800000u),
                             from_bits(0x7FC00000u)};
    switch (i % 8) {
      case 0: return {a, b};
      case 1:
        return {
            a, from_bits((bits_of(b) & 0x807FFFFFu) | static_cast<std::uint32_t>((s & 1 ? 250 : 0) + s / 2 % 5) << 23)};
      case 2: return {amax(r), 6 * (amax(s) * (1 / 2688.0f))};
      case 3: return {amax(r), scale * (amax(s >> 16) * (1 / 2688.0f))};
      case 4: return {2688 / amax(r), scale};
      case 5: return {1, scale};
      case 6:
        return {from_bits(0x3F800000u | (bits_of(a) & 0x7FFFFFu)), from_bits(0x3F800000u | (bits_of(b) & 0x7FFFFFu))};
      default: return {r & 1 ? a : special[r % 14], special[s % 14]};
    }
  }
};

template <class Make>
__global__ void make_kernel(Make make, std::uint64_t first, std::uint64_t n, float* a, float* b) {
  const std::uint64_t i = static_cast<std::uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const Operands o = make(first + i);
  a[i] = o.a;
  b[i] = o.b;
}

struct Mismatches {
  unsigned long long count;
  float a, b, got, want;
};

__global__ void compare_kernel(Instruction instruction, const float* a, const float* b, const float* got,
                               std::uint64_t n, Mismatches* out) {
  const std::uint64_t i = static_cast<std::uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float want = emulated(instruction, a[i], b[i]);
  if (bits_of(want) == bits_of(got[i])) return;
  if (atomicAdd(&out->count, 1ull) == 0) *out = {out->count, a[i], b[i], got[i], want};
}

/// Compares on the device; the first 2^20 of every 2^26 on the CPU too.
template <class Make>
bool instruction_is_emulated(const char* name, Instruction instruction, Make make, std::uint64_t count) {
  constexpr std::uint64_t at_once = std::uint64_t{1} << 26, on_cpu = std::uint64_t{1} << 20;
  cuda::Stream stream;
  const DeviceArray<float> a(at_once), b(at_once), got(at_once);
  const DeviceArray<Mismatches> found(std::vector<Mismatches>(1));
  std::uint64_t cpu_different = 0, cpu_count = 0;
  for (std::uint64_t first = 0; first < count; first += at_once) {
    const std::uint64_t n = std::min(at_once, count - first);
    const auto blocks = static_cast<unsigned>((n + 255) / 256);
    make_kernel<<<blocks, 256>>>(make, first, n, a.get(), b.get());
    CHECK(cudaDeviceSynchronize());
    cuda::probe(stream, instruction, a.get(), b.get(), static_cast<std::int64_t>(n), got.get());
    stream.wait();
    compare_kernel<<<blocks, 256>>>(instruction, a.get(), b.get(), got.get(), n, found.get());
    const auto some = static_cast<std::int64_t>(std::min(n, on_cpu));
    std::vector<float> results(static_cast<std::size_t>(some));
    CHECK(cudaMemcpy(results.data(), got.get(), results.size() * 4, cudaMemcpyDeviceToHost));
#pragma omp parallel for reduction(+ : cpu_different)
    for (std::int64_t i = 0; i < some; ++i) {
      const Operands o = make(first + static_cast<std::uint64_t>(i));
      cpu_different += bits_of(emulated(instruction, o.a, o.b)) != bits_of(results[static_cast<std::size_t>(i)]);
    }
    cpu_count += static_cast<std::uint64_t>(some);
  }
  const Mismatches m = found.host()[0];
  std::printf("%-20s %11llu inputs, %llu differ; on the CPU %llu of %llu\n", name,
              static_cast<unsigned long long>(count), m.count, static_cast<unsigned long long>(cpu_different),
              static_cast<unsigned long long>(cpu_count));
  if (m.count != 0) {
    std::printf("  first found: a 0x%08x, b 0x%08x: the device gives 0x%08x, the emulation 0x%08x\n", bits_of(m.a),
                bits_of(m.b), bits_of(m.got), bits_of(m.want));
  }
  return m.count == 0 && cpu_different == 0;
}

// ---- recipes ----

constexpr int block_size = 16;

struct Block {
  float a;  ///< the tensor's amax
  float x[block_size];
};

/// bf16 numbers up to a, dense enough for ties; blocks of zeros, of tiny numbers, and zeros of both signs.
__host__ __device__ Block make_block(std::uint64_t i) {
  Block out;
  const std::uint64_t r = mixed(i);
  out.a = from_bits(static_cast<std::uint32_t>(100 + r % 40) << 23 | static_cast<std::uint32_t>(r >> 8 & 0x7F) << 16);
  const int down = r >> 16 & 63;
  const int shift = down == 0 ? 200 : down < 4 ? 10 + down * 3 : static_cast<int>(r >> 24 & 7);
  for (int j = 0; j < block_size; ++j) {
    const std::uint64_t s = mixed(i * block_size + static_cast<std::uint64_t>(j) + (std::uint64_t{1} << 60));
    const int exponent = static_cast<int>(bits_of(out.a) >> 23) - 1 - shift - static_cast<int>(s >> 40 & 3);
    const bool zero = exponent <= 0 || (s >> 50 & 15) == 0;
    const auto sign = static_cast<std::uint32_t>(s & 1) << 31;
    out.x[j] = from_bits(
        sign |
        (zero ? 0u : static_cast<std::uint32_t>(exponent) << 23 | static_cast<std::uint32_t>(s >> 8 & 0x7F) << 16));
  }
  return out;
}

__host__ __device__ float amax_of(const Block& block) {
  float b = 0;
  for (const float x : block.x) b = std::fmax(b, std::fabs(x));
  return b;
}

__device__ float rcp(float x) {
  float y;
  asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ float divide(float a, float b) {
  float y;
  asm volatile("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
/// The E4M3 code of a number that is not negative, by the conversion instruction.
__device__ std::uint8_t e4m3_code(float v) {
  std::uint16_t pair;
  asm volatile("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(v));
  return static_cast<std::uint8_t>(pair);
}
__device__ float e4m3_value(std::uint8_t code) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
}
__device__ std::uint8_t e2m1_code(float y) {
  return static_cast<std::uint8_t>(__nv_cvt_float_to_fp4(y, __NV_E2M1, cudaRoundNearest));
}
/// |x| / s against the midpoints, as a Triton kernel has it; the sign is that of x < 0.
__device__ std::uint8_t triton_code(float magnitude, bool negative) {
  int code = 7;
  if (magnitude <= 0.25f) code = 0;
  else if (magnitude < 0.75f) code = 1;
  else if (magnitude <= 1.25f) code = 2;
  else if (magnitude < 1.75f) code = 3;
  else if (magnitude <= 2.5f) code = 4;
  else if (magnitude < 3.5f) code = 5;
  else if (magnitude <= 5.0f) code = 6;
  return static_cast<std::uint8_t>(code | (negative ? 8 : 0));
}

struct Written {
  std::uint8_t scale, codes[block_size];
};

enum class Kernel {
  flashinfer,
  vllm,
  cutlass,
  vllm_emulation_triton,
  modelopt_triton,
  modelopt_triton_dyn,
  flashinfer_mx,
  vllm_mx
};

/// The operations of the kernels, in their order.
__device__ Written real_kernel(Kernel kernel, const Block& block) {
  Written out = {};
  const float b = amax_of(block), gs = 2688 / block.a, sixth = 1 / 6.0f;
  float multiplier = 0;
  switch (kernel) {
    case Kernel::flashinfer:
    case Kernel::vllm: {
      out.scale = e4m3_code(gs * (b * rcp(6)));
      const float s = e4m3_value(out.scale);
      const bool zero = kernel == Kernel::vllm ? s == 0 : b == 0;
      multiplier = zero ? 0 : rcp(s * rcp(gs));
      break;
    }
    case Kernel::cutlass:
      out.scale = e4m3_code(b * (gs * rcp(6)));
      multiplier = std::fmin(gs * rcp(e4m3_value(out.scale)), sim::flt_max);
      break;
    case Kernel::vllm_emulation_triton: {
      out.scale = e4m3_code(gs * (b * sixth));
      const float s = e4m3_value(out.scale);
      multiplier = s == 0 ? 0 : divide(gs, s);
      break;
    }
    case Kernel::modelopt_triton:
    case Kernel::modelopt_triton_dyn: {
      const float g = block.a * sixth, decode = block.a * (1 / 2688.0f);
      const bool dynamic = kernel == Kernel::modelopt_triton_dyn;
      const float encode = (1 / (g <= 0x1p-24f ? 1 : g)) * 448;
      out.scale = e4m3_code(dynamic ? divide(b, 6 * decode) : b * sixth * encode);
      float divisor = e4m3_value(out.scale) * (dynamic ? decode : 1 / encode);
      const bool zero = !dynamic && divisor == 0;
      if (dynamic && !(divisor >= 1e-5f)) divisor = 1;
      for (int j = 0; j < block_size; ++j) {
        if (!zero) out.codes[j] = triton_code(divide(std::fabs(block.x[j]), divisor), block.x[j] < 0);
      }
      return out;
    }
    case Kernel::flashinfer_mx:
      out.scale = __nv_cvt_float_to_e8m0(b * rcp(6), __NV_SATFINITE, cudaRoundPosInf);
      multiplier = std::ldexp(1.0f, 127 - out.scale);
      break;
    case Kernel::vllm_mx: {
      const std::uint32_t exponent = bits_of(b * rcp(6)) >> 23;
      out.scale = static_cast<std::uint8_t>(exponent);
      const float s = from_bits(exponent << 23);
      multiplier = s == 0 ? 0 : rcp(s * rcp(1.0f));
      break;
    }
  }
  for (int j = 0; j < block_size; ++j) {
    const float y = block.x[j] * multiplier;
    out.codes[j] = kernel == Kernel::vllm_emulation_triton ? triton_code(std::fabs(y), y < 0) : e2m1_code(y);
  }
  return out;
}

__global__ void recipe_kernel(Kernel kernel, std::uint64_t first, std::uint64_t n, Written* out) {
  const std::uint64_t i = static_cast<std::uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = real_kernel(kernel, make_block(first + i));
}

Written on_cpu(const sim::Recipe& r, const formats::BlockFormat& format, const Block& block) {
  Written out = {};
  const float b = amax_of(block);
  const sim::RecipeTensor t =
      r.tensor == sim::TensorStep::none ? sim::RecipeTensor{} : sim::recipe_tensor(r, block.a, r.scale_max);
  const int code = sim::recipe_scale_code(r, format, sim::block_value(r, t, b));
  out.scale = static_cast<std::uint8_t>(code);
  sim::recipe_codes(r, format, t, code, b, block.x, block_size, formats::Rounding::nearest_even, out.codes);
  return out;
}

bool recipe_is_the_kernel(const char* name, const char* format_name, Kernel kernel) {
  constexpr std::uint64_t count = 10000000, at_once = 1000000;
  const sim::Recipe& r = *sim::find_recipe(name, format_name, "naive");
  const formats::BlockFormat& format = *formats::find_block_format(format_name);
  const DeviceArray<Written> device(at_once);
  std::uint64_t different = 0, first_different = ~std::uint64_t{0};
  for (std::uint64_t first = 0; first < count; first += at_once) {
    recipe_kernel<<<static_cast<unsigned>((at_once + 127) / 128), 128>>>(kernel, first, at_once, device.get());
    const std::vector<Written> got = device.host();
#pragma omp parallel for reduction(+ : different) reduction(min : first_different)
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(at_once); ++i) {
      const std::uint64_t index = first + static_cast<std::uint64_t>(i);
      const Written want = on_cpu(r, format, make_block(index));
      if (std::memcmp(&want, &got[static_cast<std::size_t>(i)], sizeof want) == 0) continue;
      ++different;
      first_different = std::min(first_different, index);
    }
  }
  std::printf("%-29s %s %llu blocks of %d, %llu differ\n", name, format_name, static_cast<unsigned long long>(count),
              block_size, static_cast<unsigned long long>(different));
  if (different == 0) return true;
  const Block block = make_block(first_different);
  const DeviceArray<Written> one(1);
  recipe_kernel<<<1, 1>>>(kernel, first_different, 1, one.get());
  const Written want = on_cpu(r, format, block), got = one.host()[0];
  std::printf("  first: block %llu, a %a, b %a: scale 0x%02x on the device, 0x%02x here\n",
              static_cast<unsigned long long>(first_different), block.a, amax_of(block), got.scale, want.scale);
  for (int j = 0; j < block_size; ++j) {
    if (got.codes[j] != want.codes[j]) {
      std::printf("  x[%d] = %a: code 0x%x on the device, 0x%x here\n", j, block.x[j], got.codes[j], want.codes[j]);
    }
  }
  return false;
}

int run() {
  if (cuda::devices().empty()) {
    std::printf("no device: %s\n", cuda::why_none().c_str());
    return 77;
  }
  if (cuda::devices()[0].major != 9) {
    std::printf("%s is no Hopper: the recorded facts are not its\n", cuda::devices()[0].name.c_str());
    return 77;
  }
  constexpr std::uint64_t patterns = std::uint64_t{1} << 32, pairs = 1000000000;
  bool ok = instruction_is_emulated("rcp.approx.ftz.f32", Instruction::reciprocal, AllPatterns{}, patterns);
  ok = instruction_is_emulated("lg2.approx.ftz.f32", Instruction::log2, AllPatterns{}, patterns) && ok;
  ok = instruction_is_emulated("div.full.f32", Instruction::divide_full, Pairs{}, pairs) && ok;
  ok = instruction_is_emulated("div.approx.f32", Instruction::divide_approximate, Pairs{}, pairs) && ok;
  ok = recipe_is_the_kernel("flashinfer_hopper", "nvfp4", Kernel::flashinfer) && ok;
  ok = recipe_is_the_kernel("vllm_hopper", "nvfp4", Kernel::vllm) && ok;
  ok = recipe_is_the_kernel("cutlass_hopper", "nvfp4", Kernel::cutlass) && ok;
  ok = recipe_is_the_kernel("vllm_emulation_triton_hopper", "nvfp4", Kernel::vllm_emulation_triton) && ok;
  ok = recipe_is_the_kernel("modelopt_triton_hopper", "nvfp4", Kernel::modelopt_triton) && ok;
  ok = recipe_is_the_kernel("modelopt_triton_dyn_hopper", "nvfp4", Kernel::modelopt_triton_dyn) && ok;
  ok = recipe_is_the_kernel("flashinfer_hopper", "mxfp4", Kernel::flashinfer_mx) && ok;
  ok = recipe_is_the_kernel("vllm_hopper", "mxfp4", Kernel::vllm_mx) && ok;
  if (ok) std::printf("all the same\n");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace fp4scope

int main() { return fp4scope::run(); }
