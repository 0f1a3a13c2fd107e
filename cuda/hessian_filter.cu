// The Hessian search's filter on tensor cores: for each candidate code of a block
//
//   y = G^T x - s G^T q,   q the nearest levels at step s,   and |y|^2
//
// in place of r^T H r, with the bounds of search/hessian_filter.hpp (D for these roundings: hessian.cpp) and its
// exclusions. Rows of one block of columns share G, so 16 rows with a candidate each are one product with G. G^T x is
// taken once a block, G^T q has q exact in binary16 and G in two pieces.
//
// Levels come from a table. Codes are visited in windows of eight, which begin at a multiple of four (of eight where
// the table would be too large; of UE8M0 anywhere). A word has the level's index for each of the eight steps, four bits
// apiece, by the upper bits of |x| relative to the window's binade. bfloat16 and binary16 have no more bits than the
// table looks at: exact. For binary32 bit 3 says that a threshold lies among the values of an entry; then |x| is
// compared with it. An index is a level in binary16 as it stands: E2M1's three bits at bits 9 to 11 are the level times
// 2^-14, k at bits 6 to 8 is k 2^-18.
//
// A row is decided when one candidate is left. Rows go together in 16s: a window that begins a little below the code of
// the largest element's rule and, of E4M3, the one above; with what these leave, the exclusions say for each row where
// it can end above and below, and all go as far as the last one needs. Visiting more codes than needed changes nothing.
#include "cuda/hessian.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int warps = 8, threads = 32 * warps;
constexpr int cta_rows = 128;  ///< rows of a block of threads, 16 at a time
constexpr unsigned full = 0xFFFFFFFFu, infinity = 0x7F800000u;

enum class Kind { nvfp4, nvint4, mxfp4 };
FP4SCOPE_HD constexpr bool is_power(Kind kind) { return kind == Kind::mxfp4; }
FP4SCOPE_HD constexpr bool is_integer(Kind kind) { return kind == Kind::nvint4; }

/// The upper bits of |x| that the table sees, as a shift of its binary32; and the binades of a table: from one below
/// the lowest threshold's to above the highest's, 9.4 / 0.25 of E4M3 codes above 7, 35 / 0.25 of codes up to 7, 640 /
/// 0.25 of eight powers of two.
template <class T>
constexpr int key_shift = sizeof(T) == 2 && !std::is_same_v<T, __half> ? 16 : 13;
FP4SCOPE_HD constexpr int binades(Kind kind) { return is_power(kind) ? 14 : 10; }
/// Of E4M3: windows that begin at codes 0, 8 (and every further binade), 4, 12 (and every further binade).
template <class T>
constexpr bool any_four = key_shift<T> == 16;
FP4SCOPE_HD constexpr int tables(Kind kind, bool four) { return is_power(kind) ? 1 : four ? 4 : 2; }
FP4SCOPE_HD constexpr int first_code_of(Kind kind, int which) {
  return is_power(kind) ? 0 : which % 2 * 8 + which / 2 * 4;
}
template <class T>
FP4SCOPE_HD constexpr int table_words(Kind kind) {
  return tables(kind, any_four<T>) * binades(kind) << (23 - key_shift<T>);
}

/// What depends on the tensor scale.
struct Geometry {
  int usable;
  int low[2];                      ///< the exponent + 127 where a table begins: of codes from 0 or 4, from 8 or 12
  float tensor_scale, over_scale;  ///< and its inverse, rounded
};

struct FilterTask {
  HessianTask task;
  const void* filters;
  const std::uint32_t* table;
  const Geometry* geometry;
  int first_code, last_code, nan_code;
  float over_start;     ///< 1 / the divisor of the largest element's rule
  float midpoint;       ///< the first threshold, in steps
  float over_midpoint;  ///< 1 / midpoint
  float over_top;       ///< 1 / the last level, of E4M3 at 15/16 of a step
  float unit;           ///< a level is that many of its binary16
  bool vectors;         ///< four elements may be read at once
};

// ---- the table ----

FP4SCOPE_HD constexpr double step_of(Kind kind, double tensor_scale, int code) {
  if (is_power(kind)) return tensor_scale * formats::exp2_exact(code - 127);
  return code < 8 ? tensor_scale * code * 0x1p-9 : tensor_scale * (8 + code % 8) * formats::exp2_exact(code / 8 - 10);
}

__device__ int exponent_of(double x) { return static_cast<int>(__double_as_longlong(x) >> 52 & 0x7FF) - 1023; }

/// The word of one entry: values from x to `last`.
__device__ std::uint32_t table_word(const sim::Grid& grid, Kind kind, double tensor_scale, int first_code, double x,
                                    double last) {
  std::uint32_t word = 0;
  for (int k = 0; k < 8; ++k) {
    const double step = step_of(kind, tensor_scale, first_code + k);
    if (step == 0) continue;
    const sim::Thresholds thresholds = sim::make_thresholds(grid, step);
    const auto index = static_cast<std::uint32_t>(sim::nearest_index(thresholds, x));
    const bool same = sim::nearest_index(thresholds, last) == static_cast<int>(index);
    word |= (index | (same ? 0u : 8u)) << 4 * k;
  }
  return word;
}

__global__ void table_kernel(const search::SearchSpace* space, Kind kind, bool four, int shift, bool wide,
                             Geometry* geometry, std::uint32_t* table) {
  const double t = space->tensor_scale;
  const bool usable = t >= 0x1p-60 && t <= 0x1p60;
  const int mantissa = 23 - shift, words = binades(kind) << mantissa;
  int low[2] = {0, 0};
  for (int k = 0; usable && k < 2; ++k) {
    const int lowest = is_power(kind) ? 0 : k == 0 ? 1 : 8;
    low[k] = exponent_of(space->grid.midpoint[0] * step_of(kind, t, lowest)) - 1;
  }
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i == 0) *geometry = {usable, {low[0] + 127, low[1] + 127}, static_cast<float>(t), static_cast<float>(1 / t)};
  if (!usable || i >= tables(kind, four) * words) return;
  const int at = i % words, which = i / words;
  const double binade = formats::exp2_exact(low[which % 2] + (at >> mantissa)), parts = formats::exp2_exact(mantissa);
  const double x = binade * (1 + (at & ((1 << mantissa) - 1)) / parts);
  const double last = wide ? x + binade * (1 / parts - 0x1p-23) : x;
  table[i] = table_word(space->grid, kind, t, first_code_of(kind, which), x, last);
}

// ---- 16 rows ----

struct Four {
  float v[4];
};

__device__ Four read_four(const float* x) {
  const float4 v = *reinterpret_cast<const float4*>(x);
  return {{v.x, v.y, v.z, v.w}};
}
__device__ Four read_four(const __nv_bfloat16* x) {
  const uint2 v = *reinterpret_cast<const uint2*>(x);
  return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xFFFF0000u), __uint_as_float(v.y << 16),
           __uint_as_float(v.y & 0xFFFF0000u)}};
}
__device__ Four read_four(const __half* x) {
  const uint2 v = *reinterpret_cast<const uint2*>(x);
  const float2 a = __half22float2(*reinterpret_cast<const __half2*>(&v.x)),
               b = __half22float2(*reinterpret_cast<const __half2*>(&v.y));
  return {{a.x, a.y, b.x, b.y}};
}

/// d += a b in binary16 or bfloat16, 16 rows of a, 8 columns of b.
struct Half {
  static __device__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], uint2 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
  }
};
struct Bfloat {
  static __device__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], uint2 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
  }
};

/// A lane's share of 16 rows: of its rows g and g + 8, h = 0 and 1, four elements of each tile.
template <int tiles>
struct Share {
  std::uint32_t magnitude[2][4 * tiles];  ///< binary32
  std::uint32_t sign[2][2 * tiles];       ///< of pairs, at bits 15 and 31
  float yx[2 * tiles][4];                 ///< G^T x, as an accumulator
  std::uint32_t amax[2];
  float gap[2];              ///< D
  std::uint32_t best[2][4];  ///< the least |y|^2 that this lane has, with the code in the low 8 bits
  float upper[2];            ///< U of the row
  int start[2];              ///< the first window visited, in units
};

template <class T, Kind kind, int tiles>
struct Filter {
  const FilterTask& f;
  const PackedFilter<tiles>& filter;
  const std::uint32_t* table;  ///< shared memory
  const Geometry& geometry;
  int lane;

  // Windows and steps are counted in units: four codes of E4M3, one of UE8M0.
  static constexpr int unit_codes = is_power(kind) ? 1 : 4;
  static constexpr int window = is_power(kind) ? 3 : 1;  ///< log2 of its units
  static constexpr int four = is_power(kind) ? 2 : 0;    ///< log2 of four codes' units
  static constexpr int last_unit = is_power(kind) ? 254 : 31;
  static constexpr float up = 1 + 0x1p-20f, down = 1 - 0x1p-20f;

  /// The steps of four codes: fma(slope, k, base), or base 2^k. Infinite where there are none, so that losses are
  /// infinite or NaN there and none is the best.
  struct Steps {
    float base, slope;
  };
  __device__ Steps steps_of(int unit) const {
    const float none = __uint_as_float(infinity);
    if (is_power(kind)) {
      // The window of code 0 may begin up to 7 units below it.
      const int power = unit > 0 ? unit << 23 : unit > -8 ? 1 << (22 + unit) : static_cast<int>(infinity);
      return {geometry.tensor_scale * __int_as_float(power), 0};
    }
    if (unit < 0 || unit > last_unit) return {none, none};
    const float binade = geometry.tensor_scale * __int_as_float((max(unit >> 1, 1) + 120) << 23);
    return {binade * ((unit > 1 ? 1.0f : 0.0f) + (unit % 2 != 0 ? 0.5f : 0.0f)), binade * 0.125f};
  }

  /// The last unit whose first step is at most x, in units of the tensor scale; of E4M3 from unit 2 on.
  __device__ static int unit_of(float x) {
    const auto bits = static_cast<int>(__float_as_uint(x));
    return is_power(kind) ? bits >> 23 : (bits >> 22) - 240;
  }

  __device__ uint2 fragment(const typename PackedFilter<tiles>::Fragment& from) const {
    return *reinterpret_cast<const uint2*>(&from);
  }

  // -- elements --

  /// A value that the compiler keeps in a register and doesn't compute again at each use.
  __device__ static std::uint32_t kept(std::uint32_t x) {
    asm("" : "+r"(x));
    return x;
  }

  __device__ void read(Share<tiles>& s, std::int64_t row, std::int64_t col) const {
    const T* const x = static_cast<const T*>(f.task.x);
    std::uint32_t bits[2][4 * tiles];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        const int e = 16 * t + 4 * (lane % 4);
        const std::int64_t r = row + lane / 4 + 8 * h, at = r * f.task.cols + col + e;
        Four four = {{0, 0, 0, 0}};
        if (r < f.task.rows && e < f.task.n) {
          if (f.vectors) {
            four = read_four(x + at);
          } else {
            for (int i = 0; i < 4; ++i) four.v[i] = col + e + i < f.task.cols ? widened(x, at + i) : 0;
          }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) bits[h][4 * t + i] = __float_as_uint(four.v[i]);
      }
      s.amax[h] = 0;
#pragma unroll
      for (int i = 0; i < 4 * tiles; ++i) {
        s.magnitude[h][i] = kept(bits[h][i] & 0x7FFFFFFFu);
        s.amax[h] = max(s.amax[h], s.magnitude[h][i]);
      }
#pragma unroll
      for (int p = 0; p < 2 * tiles; ++p) {
        s.sign[h][p] = kept(__byte_perm(bits[h][2 * p], bits[h][2 * p + 1], 0x7632) & 0x80008000u);
      }
      s.amax[h] = max(s.amax[h], __shfl_xor_sync(full, s.amax[h], 1));
      s.amax[h] = max(s.amax[h], __shfl_xor_sync(full, s.amax[h], 2));
    }
    project(s, bits);
  }

  /// x in pieces of bfloat16: one of bfloat16, two of binary16, three of binary32; each takes the upper bits.
  static constexpr int pieces = key_shift<T> == 16 ? 1 : std::is_same_v<T, float> ? 3 : 2;

  __device__ void project(Share<tiles>& s, std::uint32_t (&bits)[2][4 * tiles]) const {
    std::uint32_t a[pieces][tiles][4];
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int h = k % 2, e = 4 * t + k / 2 * 2;
          a[p][t][k] = __byte_perm(bits[h][e], bits[h][e + 1], 0x7632);
        }
      }
      if (p + 1 == pieces) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 4 * tiles; ++i) {
          const float x = __uint_as_float(bits[h][i]), upper = __uint_as_float(bits[h][i] & 0xFFFF0000u);
          bits[h][i] = __float_as_uint(x - upper);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 2 * tiles; ++j) {
      float(&d)[4] = s.yx[j];
      d[0] = d[1] = d[2] = d[3] = 0;
#pragma unroll
      for (int order = 2; order >= 0; --order) {  // the smallest products first
#pragma unroll
        for (int p = pieces - 1; p >= 0; --p) {
          if (order - p < 0) continue;
#pragma unroll
          for (int t = 0; t < tiles; ++t) {
            Bfloat::multiply(d, a[p][t], fragment(filter.bfloat[t][j][order - p][lane]));
          }
        }
      }
    }
  }

  /// D, and where to start. Rows that the filter doesn't take have an amax that begin() is not asked for.
  __device__ void begin(Share<tiles>& s, const float (&size)[4 * tiles], float gap) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 4 * tiles; ++i) sum = __fmaf_rn(__uint_as_float(s.magnitude[h][i]), size[i], sum);
      sum += __shfl_xor_sync(full, sum, 1);
      sum += __shfl_xor_sync(full, sum, 2);
      s.gap[h] = __fmaf_rn(sum, gap, 0x1p-68f);
      for (int k = 0; k < 4; ++k) s.best[h][k] = infinity;
      s.upper[h] = __uint_as_float(infinity);
      const float quotient = __uint_as_float(s.amax[h]) * geometry.over_scale * f.over_start;
      if (is_power(kind)) {
        s.start[h] = min(max(unit_of(quotient) - 2, 0), last_unit);
      } else {  // a code 4 or more below; of the first binade roughly
        const int below = static_cast<int>(__float_as_uint(quotient) >> 20) - 120 * 8 - 4;
        s.start[h] = min(max(below >> (any_four<T> ? 2 : 3), 0) << (any_four<T> ? 0 : 1), last_unit - 1);
      }
    }
  }

  // -- levels --

  /// The indices at the eight codes of a window. Exact: see the head of this file.
  __device__ std::uint32_t indices(std::uint32_t magnitude, int unit) const {
    constexpr int shift = key_shift<T>, size = binades(kind) << 23;
    const bool first = unit < 2;
    int low = is_power(kind) ? geometry.low[0] + unit : first ? geometry.low[0] : geometry.low[1] + (unit >> 1) - 1;
    low = min(max(low, 0), 254) << 23;
    const int at = __viaddmin_s32_relu(static_cast<int>(magnitude), -low, size - (1 << shift)) >> shift;
    const int which = is_power(kind) ? 0 : (first ? 0 : 1) + (any_four<T> ? unit % 2 * 2 : 0);
    const std::uint32_t word = table[at + which * (size >> shift)];
    return std::is_same_v<T, float> ? settled(word, magnitude, unit * unit_codes) : word;
  }

  /// binary32: compares with the thresholds that lie inside an entry.
  __device__ std::uint32_t settled(std::uint32_t word, std::uint32_t magnitude, int first) const {
    for (std::uint32_t open = word & 0x88888888u; open != 0; open &= open - 1) {
      const int at = __ffs(static_cast<int>(open)) - 4;
      const int index = static_cast<int>(word >> at & 7);
      const sim::Grid& grid = f.task.space->grid;
      const double threshold = grid.midpoint[index] * step_of(kind, geometry.tensor_scale, first + at / 4);
      const double x = __uint_as_float(magnitude);
      word += static_cast<std::uint32_t>(index % 2 == 1 ? x >= threshold : x > threshold) << at;
    }
    return word & 0x77777777u;
  }

  // -- candidates --

  /// The code that a lane has of four, once sum_of_squares has been reduced.
  __device__ int own_of_four() const { return lane % 2 * 2 + lane / 2 % 2; }

  /// Sums over the four lanes of a row: v[k][h] of candidates k -> of own_of_four()'s, all of it.
  __device__ void reduce(const float (&v)[4][2], float (&out)[2]) const {
    const bool odd = lane % 2 != 0, upper_half = lane / 2 % 2 != 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float a0 = odd ? v[2][h] : v[0][h], a1 = odd ? v[3][h] : v[1][h];
      const float b0 = odd ? v[0][h] : v[2][h], b1 = odd ? v[1][h] : v[3][h];
      const float s0 = a0 + __shfl_xor_sync(full, b0, 1), s1 = a1 + __shfl_xor_sync(full, b1, 1);
      const float keep = upper_half ? s1 : s0, send = upper_half ? s0 : s1;
      out[h] = keep + __shfl_xor_sync(full, send, 2);
    }
  }

  /// Four candidates of each row from codes first[h] on: keeps each lane's four least.
  template <int quarter>
  __device__ void visit_four(Share<tiles>& s, const std::uint32_t (&levels)[2][2 * tiles], const int (&first)[2],
                             const Steps (&steps)[2], const uint2 (&g)[tiles][2 * tiles][2]) const {
    constexpr int field = is_integer(kind) ? 6 : 9;
    float sums[4][2];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float y2[2] = {0, 0}, step[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        step[h] =
            is_power(kind) ? steps[h].base * (1 << (4 * quarter + k)) : __fmaf_rn(steps[h].slope, k, steps[h].base);
      }
      std::uint32_t a[tiles][4];
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int h = i % 2, p = 2 * t + i / 2;
          const std::uint32_t from = levels[h][p];
          const std::uint32_t moved = field >= 4 * k ? from << (field - 4 * k) : from >> (4 * k - field);
          a[t][i] = (moved & (0x00070007u << field)) | s.sign[h][p];
        }
      }
#pragma unroll
      for (int j = 0; j < 2 * tiles; ++j) {
        float d[4] = {0, 0, 0, 0};
#pragma unroll
        for (int piece = 1; piece >= 0; --piece) {
#pragma unroll
          for (int t = 0; t < tiles; ++t) Half::multiply(d, a[t], g[t][j][piece]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float y = __fmaf_rn(-step[i / 2], d[i], s.yx[j][i]);
          y2[i / 2] = __fmaf_rn(y, y, y2[i / 2]);
        }
      }
      sums[k][0] = y2[0], sums[k][1] = y2[1];
    }
    float own[2];
    reduce(sums, own);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int code = first[h] + 4 * quarter + own_of_four();
      const bool real = code >= f.first_code && code <= f.last_code;
      keep(s.best[h], real ? (__float_as_uint(own[h]) & ~0xFFu) | static_cast<unsigned>(code) : infinity);
    }
  }

  __device__ static void keep(std::uint32_t (&best)[4], std::uint32_t value) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const std::uint32_t other = max(best[k], value);
      best[k] = min(best[k], value);
      value = other;
    }
  }

  /// Visits a window of each row, the lower or the upper four codes only where no row needs the others.
  __device__ void visit(Share<tiles>& s, int from_start, bool lower, bool upper,
                        const uint2 (&g)[tiles][2 * tiles][2]) const {
    std::uint32_t low[2][2 * tiles], high[2][2 * tiles];
    int first[2];
    Steps steps[2][2];
    const float scale = f.unit * filter.unscale;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int unit = s.start[h] + (from_start << window);
      first[h] = unit * unit_codes;
      steps[0][h] = steps_of(unit);
      steps[1][h] = is_power(kind) ? steps[0][h] : steps_of(unit + 1);
#pragma unroll
      for (int q = 0; q < 2; ++q) steps[q][h].base *= scale, steps[q][h].slope *= scale;
      const int at = is_power(kind) ? unit : max(unit, 0);
      const unsigned last_four = !is_power(kind) && unit == -1 ? 0x5410 : 0x7632;  // of codes -4 .. 3: as of 0 .. 3
#pragma unroll
      for (int p = 0; p < 2 * tiles; ++p) {
        const std::uint32_t a = indices(s.magnitude[h][2 * p], at);
        const std::uint32_t b = indices(s.magnitude[h][2 * p + 1], at);
        low[h][p] = __byte_perm(a, b, 0x5410);
        high[h][p] = __byte_perm(a, b, last_four);
      }
    }
    if (lower) visit_four<0>(s, low, first, steps[0], g);
    if (upper) visit_four<1>(s, high, first, steps[1], g);
  }

  /// U, rounded up: sqrt.approx errs by 2^-22 at most.
  __device__ void tighten(Share<tiles>& s) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float root;
      asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(__uint_as_float(least(s.best[h][0]) | 0xFFu)));
      s.upper[h] = (root + s.gap[h]) * up;
    }
  }

  /// The least over a row's four lanes.
  __device__ static std::uint32_t least(std::uint32_t value) {
    value = min(value, __shfl_xor_sync(full, value, 1));
    return min(value, __shfl_xor_sync(full, value, 2));
  }

  // -- exclusions: search/hessian_filter.hpp --

  /// |G^T x|.
  __device__ float length_of_projection(const Share<tiles>& s, int h) const {
    float sum = 0, root;
#pragma unroll
    for (int j = 0; j < 2 * tiles; ++j) {
      sum = __fmaf_rn(s.yx[j][2 * h], s.yx[j][2 * h], sum);
      sum = __fmaf_rn(s.yx[j][2 * h + 1], s.yx[j][2 * h + 1], sum);
    }
    sum += __shfl_xor_sync(full, sum, 1);
    sum += __shfl_xor_sync(full, sum, 2);
    asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(sum));
    return root;
  }

  /// How many fours of codes a row needs beyond the first that it visited, above and below, with U as it is.
  ///   Above: fours are excluded with all further ones where the first midpoint at their first step, m s, is at least
  ///   an element with |x| > U spread, or where the code below, 7/8 or more (UE8M0: half) of it, has all values zero.
  ///   Below: where the largest level L at their last step s is less than some |x| - U spread, or L s sum e_i less than
  ///   |G^T x| - U: values are at most L s, so |y| is at least |G^T x| - L s sum e_i. The last step is at most
  ///   15/16 of the first of the four above (UE8M0: 8 times their own first).
  __device__ void bounds(const Share<tiles>& s, int h, const float (&spread)[4 * tiles], int& above, int& below) const {
    float dead = __uint_as_float(s.amax[h]) * (is_power(kind) ? 2.0f : 1.15f), clipped = 0;
#pragma unroll
    for (int i = 0; i < 4 * tiles; ++i) {
      const float x = __uint_as_float(s.magnitude[h][i]), bound = s.upper[h] * spread[i] * up;
      dead = fminf(dead, x > bound ? x : dead);
      clipped = fmaxf(clipped, __fmaf_rn(x, down, -bound));
    }
    dead = fminf(dead, __shfl_xor_sync(full, dead, 1));
    dead = fminf(dead, __shfl_xor_sync(full, dead, 2));
    clipped = fmaxf(clipped, __shfl_xor_sync(full, clipped, 1));
    clipped = fmaxf(clipped, __shfl_xor_sync(full, clipped, 2));
    clipped = fmaxf(clipped, (length_of_projection(s, h) * down - s.upper[h] * up) / filter.total * down);
    // Units with a first step above that of `until` are excluded, and those with a last step below that of `from`.
    const int until = unit_of(dead * f.over_midpoint * geometry.over_scale * up);
    const int from = unit_of(clipped * f.over_top * geometry.over_scale * down);
    above = (min(until, last_unit) - s.start[h]) >> four;
    below = (s.start[h] - max(is_power(kind) && from > 0 ? from + 1 : from, 0) + (1 << four) - 1) >> four;
  }

  /// The most that any row needs.
  __device__ static int most(const bool (&active)[2], const int (&needed)[2]) {
    const int here = max(active[0] ? needed[0] : 0, active[1] ? needed[1] : 0);
    return __reduce_max_sync(full, here);
  }

  __device__ int search_rows(Share<tiles>& s, const bool (&active)[2], const float (&spread)[4 * tiles],
                             const uint2 (&g)[tiles][2 * tiles][2]) const {
    constexpr int sure = is_power(kind) ? 1 : 3;  // the window above is hardly ever excluded
    int above = sure, below = 0, visited = 0;     // fours
    for (int at = 0; at <= above || below > 0; at += 2) {
      const bool downward = at > above;
      const int from_start = downward ? (above | 1) / 2 - at / 2 : at / 2;
      visit(s, from_start, !downward || below > 1, downward || at < above, g);
      visited += 2;
      if (downward) below -= 2;
      if (at + 1 != sure) continue;
      tighten(s);
      int up_to[2], down_to[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) bounds(s, h, spread, up_to[h], down_to[h]);
      above = max(sure, most(active, up_to)), below = most(active, down_to);
    }
    tighten(s);
    return visited;
  }

  // -- results --

  /// How many candidates a row has left, and 256 or more where a lane may have had further ones than it kept: steps a
  /// factor of two apart, which tie most often, are in one lane.
  __device__ int left(const Share<tiles>& s, int h) const {
    const float limit = s.upper[h] * s.upper[h] * up;
    int number = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) number += (__uint_as_float(s.best[h][k]) <= limit) << (k == 3 ? 8 : 0);
    number += __shfl_xor_sync(full, number, 1);
    return number + __shfl_xor_sync(full, number, 2);
  }

  /// Lists rows: their lanes together.
  __device__ void list(const Share<tiles>& s, int h, std::int64_t block, int number, bool here) const {
    const float limit = s.upper[h] * s.upper[h] * up;
    int mine = 0;
#pragma unroll
    for (int k = 0; k < 3; ++k) mine += __uint_as_float(s.best[h][k]) <= limit;
    int before = 0;  // codes of the lanes before this one
    for (int k = 0; k < 3; ++k) {
      const int other = __shfl_sync(full, mine, (lane & 28) + k);
      before += k < lane % 4 ? other : 0;
    }
    const bool few = here && number <= most_listed;
    unsigned at = 0;
    if (here && lane % 4 == 0) {
      at = static_cast<unsigned>(atomicAdd(few ? &f.task.counts->few : &f.task.counts->all, 1ull));
      if (few) {
        f.task.few[at].block = static_cast<std::uint32_t>(block);
        f.task.few[at].number = static_cast<std::uint8_t>(number);
      } else {
        f.task.all[at] = static_cast<std::uint32_t>(block);
      }
    }
    at = __shfl_sync(full, at, lane & 28);
    if (!few) return;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (k < mine) f.task.few[at].code[before + k] = static_cast<std::uint8_t>(s.best[h][k]);
    }
  }

  /// The codes of a lane's elements at a scale's code; zeros with their signs where it has no levels.
  __device__ void write_codes(const Share<tiles>& s, int h, std::int64_t block, int code, bool levels) const {
#pragma unroll
    for (int t = 0; t < tiles; ++t) {
      const int e = 16 * t + 4 * (lane % 4);
      if (e >= f.task.n) return;
      std::uint32_t out = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int unit = is_power(kind) ? code : code / 8 * 2, k = is_power(kind) ? 0 : code % 8;
        const std::uint32_t word = levels ? indices(s.magnitude[h][4 * t + i], unit) : 0;
        const std::uint32_t index = word >> 4 * k & 7;
        const std::uint32_t negative = s.sign[h][2 * t + i / 2] >> (i % 2 * 16 + 15) & 1;
        out |= (is_integer(kind) ? (negative ? 0 - index : index) & 15 : index | negative << 3) << 4 * i;
      }
      *reinterpret_cast<std::uint16_t*>(f.task.packed + block * (f.task.n / 2) + e / 2) =
          static_cast<std::uint16_t>(out);
    }
  }
};

/// Blocks of threads at a time: more of them hide more latency, fewer leave more registers.
template <class T>
constexpr int ctas = key_shift<T> == 16 ? 3 : 2;

template <class T, Kind kind, int tiles>
__global__ void __launch_bounds__(threads, tiles == 1 ? ctas<T> : 1) filter_kernel(FilterTask f) {
  extern __shared__ std::uint32_t table[];
  const Geometry geometry = *f.geometry;
  for (int i = static_cast<int>(threadIdx.x); i < table_words<T>(kind); i += threads) table[i] = f.table[i];
  __syncthreads();
  const HessianTask& task = f.task;
  const auto column_groups = static_cast<unsigned>((task.per_row + warps - 1) / warps);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x % column_groups) * warps + threadIdx.x / 32;
  if (column >= task.per_row) return;
  const auto& packed = static_cast<const PackedFilter<tiles>*>(f.filters)[column];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Filter<T, kind, tiles> filter = {f, packed, table, geometry, lane};
  uint2 g[tiles][2 * tiles][2];
  float size[4 * tiles], spread[4 * tiles];
  for (int t = 0; t < tiles; ++t) {
    for (int j = 0; j < 2 * tiles; ++j) {
      for (int piece = 0; piece < 2; ++piece) g[t][j][piece] = filter.fragment(packed.half[t][j][piece][lane]);
    }
    for (int i = 0; i < 4; ++i) {
      size[4 * t + i] = packed.size[16 * t + 4 * (lane % 4) + i];
      spread[4 * t + i] = packed.spread[16 * t + 4 * (lane % 4) + i];
    }
  }
  const bool usable = packed.usable != 0 && geometry.usable != 0;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x / column_groups) * cta_rows;
  // Up to here every value is zero at every code: the lowest is the answer. Exact: a power of two times the scale.
  const std::uint32_t all_zero =
      geometry.usable && !is_power(kind) ? __float_as_uint(f.midpoint * geometry.tensor_scale * 0x1p-9f) : 0;
  unsigned long long visited = 0;
  for (std::int64_t row = first; row < first + cta_rows && row < task.rows; row += 16) {
    Share<tiles> s;
    filter.read(s, row, column * task.n);
    filter.begin(s, size, packed.gap);
    bool active[2];
    for (int h = 0; h < 2; ++h) {
      active[h] = usable && s.amax[h] > all_zero && s.amax[h] >= (127 - 40) << 23 && s.amax[h] <= (127 + 40) << 23;
    }
    if (__any_sync(full, active[0] || active[1])) visited += filter.search_rows(s, active, spread, g);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t r = row + lane / 4 + 8 * h, block = r * task.per_row + column;
      const bool here = r < task.rows, plain = s.amax[h] <= all_zero || s.amax[h] >= infinity;
      const int number = active[h] ? 0 : 256;
      const int candidates = filter.left(s, h) + number;
      const bool decided = here && (plain || (active[h] && candidates == 1));
      const int best = static_cast<int>(filter.least(s.best[h][0]) & 0xFFu);
      const int code = !plain ? best : s.amax[h] >= infinity ? f.nan_code : s.amax[h] == 0 ? 0 : f.first_code;
      if (decided) {
        if (lane % 4 == 0) task.scales[block] = static_cast<std::uint8_t>(code);
        filter.write_codes(s, h, block, code, !plain);
      }
      if (__any_sync(full, here && !decided)) filter.list(s, h, block, candidates, here && !decided);
    }
  }
  if (lane == 0) atomicAdd(&task.counts->candidates, visited * 64);
}

template <class T, Kind kind, int tiles>
void launch(Stream& stream, const FilterTask& f) {
  const int bytes = 4 * table_words<T>(kind);
  check(cudaFuncSetAttribute(filter_kernel<T, kind, tiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "shared memory");
  const std::int64_t grid = (f.task.per_row + warps - 1) / warps * ((f.task.rows + cta_rows - 1) / cta_rows);
  filter_kernel<T, kind, tiles>
      <<<static_cast<unsigned>(grid), threads, static_cast<std::size_t>(bytes), handle(stream)>>>(f);
  check_launch("filter");
}

template <class T, Kind kind>
void launch(Stream& stream, const DeviceHessians::Parts& parts, const FilterTask& f) {
  parts.tiles == 1 ? launch<T, kind, 1>(stream, f) : launch<T, kind, 2>(stream, f);
}

/// Which of the kinds a format is: its grid, and scales whose codes are E4M3's or UE8M0's.
bool find_kind(const formats::BlockFormat& format, Kind& kind) {
  if (format.levels.count > 0 || format.selects()) return false;
  const auto same = [](const formats::Format& a, const formats::Format& b) {
    return std::string_view(a.name) == b.name;
  };
  const bool floating = same(format.element, formats::e2m1), integer = same(format.element, formats::int4);
  if (floating && same(format.scale, formats::ue8m0)) return kind = Kind::mxfp4, true;
  if (!same(format.scale, formats::e4m3)) return false;
  kind = integer ? Kind::nvint4 : Kind::nvfp4;
  return floating || integer;
}

template <Kind kind>
void run(Stream& stream, const DeviceHessians::Parts& parts, FilterTask f) {
  with_type(f.task.type, f.task.x, [&](const auto* x) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
    constexpr int words = table_words<T>(kind);
    static_assert(sizeof(Geometry) + 4 * words <= room_of_filter);
    auto* const geometry = static_cast<Geometry*>(f.task.filter_room);
    auto* const table = reinterpret_cast<std::uint32_t*>(geometry + 1);
    f.table = table, f.geometry = geometry;
    table_kernel<<<grid_of(words, 128), 128, 0, handle(stream)>>>(f.task.space, kind, any_four<T>, key_shift<T>,
                                                                  std::is_same_v<T, float>, geometry, table);
    check_launch("table");
    launch<T, kind>(stream, parts, f);
  });
}

}  // namespace

bool has_filter_kernel(const search::SearchTask& task) {
  Kind kind;
  return find_kind(*task.format, kind) && task.block <= 32 && task.block % 4 == 0;
}

void filter_hessian(Stream& stream, const search::SearchTask& task, const DeviceHessians::Parts& parts,
                    const HessianTask& device) {
  Kind kind = Kind::nvfp4;
  find_kind(*task.format, kind);
  const search::SearchSpace space = search::make_space(*task.format, task.tensor_scale, task.method->rule);
  FilterTask f = {};
  f.task = device;
  f.filters = parts.filters.as<void>();
  f.last_code = space.last_code;
  f.first_code = space.first_code, f.nan_code = static_cast<int>(space.scale.nan_code());
  f.over_start = static_cast<float>(1 / space.start.divisor);
  f.midpoint = static_cast<float>(space.grid.midpoint[0]);
  f.over_midpoint = 1 / f.midpoint;
  f.over_top = static_cast<float>(1 / (space.top() * (kind == Kind::mxfp4 ? 1 : 0.9375)));
  f.unit = kind == Kind::nvint4 ? 0x1p18f : 0x1p14f;
  f.vectors = device.cols % device.n == 0 && device.cols % 4 == 0 &&
              reinterpret_cast<std::uintptr_t>(device.x) % static_cast<std::uintptr_t>(4 * width(device.type)) == 0;
  if (kind == Kind::nvfp4) run<Kind::nvfp4>(stream, parts, f);
  if (kind == Kind::nvint4) run<Kind::nvint4>(stream, parts, f);
  if (kind == Kind::mxfp4) run<Kind::mxfp4>(stream, parts, f);
}

}  // namespace fp4scope::cuda
