// One instruction of the device's tensor cores on many sets of operands: what sim/instructions.hpp is held to.
//
// A set is A [m, k], B [k, n], C [m, n] and gives D [m, n], row-major. With g = lane / 4, t = lane % 4, and a row of A
// or a column of B read as 32-bit words of 32 / bits elements, the first lowest (PTX ISA 9.0, 9.7.14.5 and 9.7.15.5),
// every shape here has the same fragments:
//   A register i          row g + 8 (i % 2), word t + 4 (i / 2)
//   B register i          column g, word t + 4 i
//   C and D register i    binary32: row g + 8 (i / 2), column 2 t + i % 2
//                         binary16: row g + 8 i, columns 2 t and 2 t + 1
// A warpgroup instruction gives its warp w rows 16 w to 16 w + 15 in the same way; B, and A unless it comes in
// registers, are read from shared memory.
//
// Shared memory: K-major without swizzle. The unit is a core matrix, 8 rows of 16 bytes one after the other; k spans
// two of them (32 bytes in every type), m eight, n one. Word w of row r is at
//   (w / 4) leading + (r / 8) stride + (r % 8) 16 + (w % 4) 4
// The descriptor's fields, each a number of bytes / 16: bits 0-13 the start; 16-29 `leading`, from one core matrix to
// the next along k; 32-45 `stride`, from one to the next along m or n; 49-51 the base offset, 0 for canonical layouts;
// 62-63 the swizzling mode, 0 for none; the rest 0.
//
// What ptxas 13.0 makes of them for sm_90a: an HMMA of mma.sync with 16 or 32 bits; 12 F2FP (unpacking to binary16), 2
// HMMA and 4 FADD, or 2 HADD2, of mma.sync with FP8; HGMMA or QGMMA of wgmma. For sm_120a: QMMA for FP8, OMMA for e2m1.
#include <string>
#include <string_view>
#include <type_traits>

#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int n = 8;

struct Sets {
  std::int64_t count;
  const std::uint8_t *a, *b;
  const void* c;
  void* d;
  const std::uint8_t *scale_a, *scale_b;
  OperandA operand_a;
};

// A type's name as asm() reads it, and its bits.
struct F32 {
  static constexpr char name[] = "f32";
  static constexpr int bits = 32;
};
struct Tf32 {
  static constexpr char name[] = "tf32";
  static constexpr int bits = 32;
};
struct F16 {
  static constexpr char name[] = "f16";
  static constexpr int bits = 16;
};
struct Bf16 {
  static constexpr char name[] = "bf16";
  static constexpr int bits = 16;
};
struct E4m3 {
  static constexpr char name[] = "e4m3";
  static constexpr int bits = 8;
};
struct E5m2 {
  static constexpr char name[] = "e5m2";
  static constexpr int bits = 8;
};

// ---- fragments ----

/// Elements first, first + stride, ... of `bits` each as one word. Up to 8 bits an element is a byte.
template <int bits>
__device__ std::uint32_t word_of(const std::uint8_t* x, int first, int stride) {
  std::uint32_t word = 0;
  for (int i = 0; i < 32 / bits; ++i) {
    const int at = first + i * stride;
    std::uint32_t code = 0;
    if constexpr (bits <= 8) code = x[at];
    if constexpr (bits == 16) code = reinterpret_cast<const std::uint16_t*>(x)[at];
    if constexpr (bits == 32) code = reinterpret_cast<const std::uint32_t*>(x)[at];
    word |= code << (bits * i);
  }
  return word;
}
template <int bits, int k>
__device__ std::uint32_t a_word(const std::uint8_t* a, int row, int word) {
  return word_of<bits>(a, row * k + word * (32 / bits), 1);
}
template <int bits>
__device__ std::uint32_t b_word(const std::uint8_t* b, int column, int word) {
  return word_of<bits>(b, word * (32 / bits) * n + column, n);
}

/// Registers of C, or of D, of a lane whose g counts from `row`.
template <bool half>
__device__ void load_c(const void* c, std::int64_t first, int row, int t, std::uint32_t* registers) {
  for (int i = 0; i < (half ? 2 : 4); ++i) {
    if constexpr (half) {
      registers[i] = reinterpret_cast<const std::uint32_t*>(c)[(first + (row + 8 * i) * n) / 2 + t];
    } else {
      registers[i] = reinterpret_cast<const std::uint32_t*>(c)[first + (row + 8 * (i / 2)) * n + 2 * t + i % 2];
    }
  }
}
template <bool half>
__device__ void store_d(void* d, std::int64_t first, int row, int t, const std::uint32_t* registers) {
  for (int i = 0; i < (half ? 2 : 4); ++i) {
    if constexpr (half) {
      reinterpret_cast<std::uint32_t*>(d)[(first + (row + 8 * i) * n) / 2 + t] = registers[i];
    } else {
      reinterpret_cast<std::uint32_t*>(d)[first + (row + 8 * (i / 2)) * n + 2 * t + i % 2] = registers[i];
    }
  }
}

// ---- instructions of a warp ----

/// d holds C before and D after. Shapes with half of k's words have half of A's and B's registers.
template <class D, class A, class B, int k>
__device__ void warp_instruction(const std::uint32_t* a, const std::uint32_t* b, std::uint32_t* d) {
  constexpr bool half = D::bits == 16, narrow = k * A::bits == 128;
  if constexpr (half && narrow) {
    asm volatile("mma.sync.aligned.m16n8k%5.row.col.%6.%7.%8.%6 {%0, %1}, {%2, %3}, {%4}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "n"(k), "C"(D::name), "C"(A::name), "C"(B::name));
  } else if constexpr (half) {
    asm volatile("mma.sync.aligned.m16n8k%8.row.col.%9.%10.%11.%9 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "n"(k), "C"(D::name), "C"(A::name),
                   "C"(B::name));
  } else if constexpr (narrow) {
    asm volatile("mma.sync.aligned.m16n8k%7.row.col.%8.%9.%10.%8 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "n"(k), "C"(D::name), "C"(A::name), "C"(B::name));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k%10.row.col.%11.%12.%13.%11 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "n"(k), "C"(D::name), "C"(A::name),
          "C"(B::name));
  }
}

/// A warp a set.
template <class D, class A, class B, int k>
__global__ void warp_kernel(Sets sets) {
  constexpr int m = 16, bits = A::bits, words = k * bits / 32;
  constexpr bool half = D::bits == 16;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * (blockDim.x / 32);
  for (std::int64_t s = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; s < sets.count;
       s += warps) {
    const std::uint8_t *a = sets.a + s * (m * k * bits / 8), *b = sets.b + s * (k * n * bits / 8);
    std::uint32_t a_registers[4] = {}, b_registers[2] = {}, d[4] = {};
    for (int i = 0; i < words / 2; ++i) a_registers[i] = a_word<bits, k>(a, g + 8 * (i % 2), t + 4 * (i / 2));
    for (int i = 0; i < words / 4; ++i) b_registers[i] = b_word<bits>(b, g, t + 4 * i);
    load_c<half>(sets.c, s * (m * n), g, t, d);
    warp_instruction<D, A, B, k>(a_registers, b_registers, d);
    store_d<half>(sets.d, s * (m * n), g, t, d);
  }
}

// ---- e2m1 with block scales: consumer Blackwell alone; compiled for it, never run yet ----

/// Byte i of a scale register is the scale of block i. Thread selectors 0: lanes t = 0 and 1 hold those of rows g and g
/// + 8, lane t = 0 those of column g; byte selectors 0 (PTX ISA 9.0, 9.7.14.3.1). Every lane gives what its t would
/// have. Four blocks of 16 have ue4m3 scales, two of 32 ue8m0.
template <int blocks>
__global__ void scaled_kernel([[maybe_unused]] Sets sets) {
#ifdef __CUDA_ARCH_FEAT_SM120_ALL
  constexpr int m = 16, k = 64;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * (blockDim.x / 32);
  for (std::int64_t s = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; s < sets.count;
       s += warps) {
    const std::uint8_t *a = sets.a + s * (m * k), *b = sets.b + s * (k * n);
    std::uint32_t a_registers[4], b_registers[2], d[4], scale_a = 0, scale_b = 0;
    for (int i = 0; i < 4; ++i) a_registers[i] = a_word<4, k>(a, g + 8 * (i % 2), t + 4 * (i / 2));
    for (int i = 0; i < 2; ++i) b_registers[i] = b_word<4>(b, g, t + 4 * i);
    for (int i = 0; i < blocks; ++i) {
      scale_a |= static_cast<std::uint32_t>(sets.scale_a[(s * m + g + 8 * (t % 2)) * blocks + i]) << (8 * i);
      scale_b |= static_cast<std::uint32_t>(sets.scale_b[(s * blocks + i) * n + g]) << (8 * i);
    }
    load_c<false>(sets.c, s * (m * n), g, t, d);
    constexpr std::uint16_t first = 0;
    if constexpr (blocks == 4) {
      asm volatile(
          "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, {%10}, {%11, %11}, {%12}, {%11, %11};"
          : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
          : "r"(a_registers[0]), "r"(a_registers[1]), "r"(a_registers[2]), "r"(a_registers[3]), "r"(b_registers[0]),
            "r"(b_registers[1]), "r"(scale_a), "h"(first), "r"(scale_b));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, {%10}, {%11, %11}, {%12}, {%11, %11};"
          : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
          : "r"(a_registers[0]), "r"(a_registers[1]), "r"(a_registers[2]), "r"(a_registers[3]), "r"(b_registers[0]),
            "r"(b_registers[1]), "r"(scale_a), "h"(first), "r"(scale_b));
    }
    store_d<false>(sets.d, s * (m * n), g, t, d);
  }
#endif
}

// ---- instructions of a warpgroup: Hopper alone ----

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
__device__ std::uint64_t descriptor(const std::uint32_t* start, std::uint32_t leading, std::uint32_t stride) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(start));
  return std::uint64_t{(address & 0x3FFFF) >> 4} | std::uint64_t{leading >> 4} << 16 | std::uint64_t{stride >> 4} << 32;
}

/// What follows scale-d: A's and B's signs, 1, and for 16-bit types "not transposed" for each in shared memory.
struct Tail16 {
  static constexpr char shared[] = "1, 1, 0, 0", registers[] = "1, 1, 0";
};
struct TailOther {
  static constexpr char shared[] = "1, 1", registers[] = "1, 1";
};

/// The instruction between its fence and its wait, in one piece: nothing moves an accumulator in between. scale-d is
/// true: C, in d, is added.
template <class D, class A, class B, int k>
__device__ void group_instruction(std::uint64_t a, std::uint64_t b, std::uint32_t* d) {
  using Tail = std::conditional_t<A::bits == 16, Tail16, TailOther>;
  if constexpr (D::bits == 16) {
    asm volatile(
        "{.reg .pred add; setp.eq.b32 add, 0, 0; wgmma.fence.sync.aligned;\n"
        "wgmma.mma_async.sync.aligned.m64n8k%4.%5.%6.%7 {%0, %1}, %2, %3, add, %8;\n"
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;}"
        : "+r"(d[0]), "+r"(d[1])
        : "l"(a), "l"(b), "n"(k), "C"(D::name), "C"(A::name), "C"(B::name), "C"(Tail::shared)
        : "memory");
  } else {
    float f[4];
    for (int i = 0; i < 4; ++i) f[i] = __uint_as_float(d[i]);
    asm volatile(
        "{.reg .pred add; setp.eq.b32 add, 0, 0; wgmma.fence.sync.aligned;\n"
        "wgmma.mma_async.sync.aligned.m64n8k%6.%7.%8.%9 {%0, %1, %2, %3}, %4, %5, add, %10;\n"
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;}"
        : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
        : "l"(a), "l"(b), "n"(k), "C"(D::name), "C"(A::name), "C"(B::name), "C"(Tail::shared)
        : "memory");
    for (int i = 0; i < 4; ++i) d[i] = __float_as_uint(f[i]);
  }
}
/// The same with A in registers.
template <class D, class A, class B, int k>
__device__ void group_instruction(const std::uint32_t* a, std::uint64_t b, std::uint32_t* d) {
  using Tail = std::conditional_t<A::bits == 16, Tail16, TailOther>;
  if constexpr (D::bits == 16) {
    asm volatile(
        "{.reg .pred add; setp.eq.b32 add, 0, 0; wgmma.fence.sync.aligned;\n"
        "wgmma.mma_async.sync.aligned.m64n8k%7.%8.%9.%10 {%0, %1}, {%2, %3, %4, %5}, %6, add, %11;\n"
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;}"
        : "+r"(d[0]), "+r"(d[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(k), "C"(D::name), "C"(A::name), "C"(B::name),
            "C"(Tail::registers)
        : "memory");
  } else {
    float f[4];
    for (int i = 0; i < 4; ++i) f[i] = __uint_as_float(d[i]);
    asm volatile(
        "{.reg .pred add; setp.eq.b32 add, 0, 0; wgmma.fence.sync.aligned;\n"
        "wgmma.mma_async.sync.aligned.m64n8k%9.%10.%11.%12 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, add, %13;\n"
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;}"
        : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(k), "C"(D::name), "C"(A::name), "C"(B::name),
            "C"(Tail::registers)
        : "memory");
    for (int i = 0; i < 4; ++i) d[i] = __float_as_uint(f[i]);
  }
}
#endif

constexpr int warpgroup = 128;

/// A block, which is one warpgroup, a set.
template <class D, class A, class B, int k>
__global__ void __launch_bounds__(warpgroup) group_kernel([[maybe_unused]] Sets sets) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int m = 64, bits = A::bits, words = 8;  // of 32 bytes of k
  constexpr bool half = D::bits == 16;
  static_assert(k * bits == words * 32);
  constexpr std::uint32_t core = 128, a_leading = m / 8 * core, b_leading = core;
  __shared__ alignas(128) std::uint32_t shared_a[m * words], shared_b[n * words];
  const std::uint64_t a_descriptor = descriptor(shared_a, a_leading, core);
  const std::uint64_t b_descriptor = descriptor(shared_b, b_leading, core);  // a single core matrix along n: any stride
  const int lane = threadIdx.x % 32, t = lane % 4, row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  for (std::int64_t s = blockIdx.x; s < sets.count; s += gridDim.x) {
    const std::uint8_t *a = sets.a + s * (m * k * bits / 8), *b = sets.b + s * (k * n * bits / 8);
    for (int i = static_cast<int>(threadIdx.x); i < (m + n) * words; i += warpgroup) {
      const int r = i / words % m, w = i % words;
      const auto leading = static_cast<int>(i < m * words ? a_leading : b_leading);
      std::uint32_t* const to = i < m * words ? shared_a : shared_b;
      const std::uint32_t value = i < m * words ? a_word<bits, k>(a, r, w) : b_word<bits>(b, r, w);
      to[(w / 4 * leading + r / 8 * static_cast<int>(core) + r % 8 * 16) / 4 + w % 4] = value;
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // the instruction reads by another way than threads
    __syncthreads();
    std::uint32_t d[4] = {}, registers[4] = {};
    load_c<half>(sets.c, s * (m * n), row, t, d);
    if (sets.operand_a == OperandA::shared) {
      group_instruction<D, A, B, k>(a_descriptor, b_descriptor, d);
    } else {
      for (int i = 0; i < 4; ++i) registers[i] = a_word<bits, k>(a, row + 8 * (i % 2), t + 4 * (i / 2));
      group_instruction<D, A, B, k>(registers, b_descriptor, d);
    }
    store_d<half>(sets.d, s * (m * n), row, t, d);
    __syncthreads();
  }
#endif
}

// ---- the table ----

struct Row {
  sim::Opcode opcode;
  int major;  ///< the only compute capability that has it, or 0
  std::string name;
  void (*kernel)(Sets);
};

template <class D, class A, class B, int k>
Row warp() {
  const std::string name =
      "mma.m16n8k" + std::to_string(k) + "." + D::name + "." + A::name + "." + B::name + "." + D::name;
  return {sim::Opcode::mma, 0, name, warp_kernel<D, A, B, k>};
}
template <class D, class A, class B, int k>
Row group() {
  const std::string name = "wgmma.m64n8k" + std::to_string(k) + "." + D::name + "." + A::name + "." + B::name;
  return {sim::Opcode::wgmma, 9, name, group_kernel<D, A, B, k>};
}

const Row rows[] = {
    warp<F32, F16, F16, 16>(),
    warp<F16, F16, F16, 16>(),
    warp<F32, Bf16, Bf16, 16>(),
    warp<F32, F16, F16, 8>(),
    warp<F16, F16, F16, 8>(),
    warp<F32, Bf16, Bf16, 8>(),
    warp<F32, Tf32, Tf32, 8>(),
    warp<F32, Tf32, Tf32, 4>(),
    warp<F32, E4m3, E4m3, 32>(),
    warp<F32, E4m3, E5m2, 32>(),
    warp<F32, E5m2, E4m3, 32>(),
    warp<F32, E5m2, E5m2, 32>(),
    warp<F16, E4m3, E4m3, 32>(),
    warp<F16, E4m3, E5m2, 32>(),
    warp<F16, E5m2, E4m3, 32>(),
    warp<F16, E5m2, E5m2, 32>(),
    group<F32, F16, F16, 16>(),
    group<F16, F16, F16, 16>(),
    group<F32, Bf16, Bf16, 16>(),
    group<F32, Tf32, Tf32, 8>(),
    group<F32, E4m3, E4m3, 32>(),
    group<F32, E4m3, E5m2, 32>(),
    group<F32, E5m2, E4m3, 32>(),
    group<F32, E5m2, E5m2, 32>(),
    group<F16, E4m3, E4m3, 32>(),
    group<F16, E4m3, E5m2, 32>(),
    group<F16, E5m2, E4m3, 32>(),
    group<F16, E5m2, E5m2, 32>(),
    {sim::Opcode::mma, 12, "mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3", scaled_kernel<4>},
    {sim::Opcode::mma, 12, "mma.m16n8k64.block32.f32.e2m1.e2m1.f32.ue8m0", scaled_kernel<2>},
};

/// The row of a model: its name up to '@', which tells apart models of one instruction.
const Row* find_row(const sim::Instruction& instruction) {
  const std::string_view name =
      std::string_view(instruction.name).substr(0, std::string_view(instruction.name).find('@'));
  for (const Row& row : rows) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

}  // namespace

std::string why_no_mma(int device, const sim::Instruction& instruction) {
  if (devices().empty()) return why_none();
  const Device& d = devices()[static_cast<std::size_t>(device)];
  const Row* const row = find_row(instruction);
  if (!row) return std::string("cuda/tensor_cores.cu has no ") + instruction.name;
  if (row->major == 0 || row->major == d.major) return "";
  return std::string(instruction.name) + " needs compute capability " + std::to_string(row->major) + ".0; " + d.name +
         " has " + std::to_string(d.major) + "." + std::to_string(d.minor);
}

void mma(Stream& stream, const sim::Instruction& instruction, const MmaSets& in) {
  const std::string why = why_no_mma(stream.device(), instruction);
  if (!why.empty()) throw Error("cuda", why);
  if (in.count == 0) return;
  const Row& row = *find_row(instruction);
  select(stream.device());
  constexpr int warps = 4;
  const std::int64_t blocks = row.opcode == sim::Opcode::wgmma ? in.count : (in.count + warps - 1) / warps;
  const Sets sets = {in.count,
                     static_cast<const std::uint8_t*>(in.a),
                     static_cast<const std::uint8_t*>(in.b),
                     in.c,
                     in.d,
                     in.scale_a,
                     in.scale_b,
                     in.operand_a};
  row.kernel<<<static_cast<unsigned>(std::min<std::int64_t>(blocks, 1 << 20)), warpgroup, 0, handle(stream)>>>(sets);
  check_launch(instruction.name);
}

}  // namespace fp4scope::cuda
