// The Hessian search's filter on tensor cores: for each candidate code of a block
//
//   y = G^T x - s G^T q,   q the nearest levels at step s,   and |y|^2
//
// in place of r^T H r, with the bounds of search/hessian_filter.hpp (D for these roundings: hessian.cpp) and its
// exclusions. Rows of one block of columns share G, so 16 rows with a candidate each are one product with G. G^T x is
// taken once a block, G^T q has q exact in binary16 and G in two pieces.
//
// Levels come from a table. Codes are visited in groups of eight: of an E4M3 scale one binade, of UE8M0 eight binades.
// A word has the level's index for each of the eight steps, four bits apiece, by the upper bits of |x| relative to the
// group's binade. bfloat16 and binary16 have no more bits than the table looks at: exact. For binary32 bit 3 says that
// a threshold lies among the values of an entry; then |x| is compared with it. An index is a level in binary16 as it
// stands: E2M1's three bits at bits 9 to 11 are the level times 2^-14, k at bits 6 to 8 is k 2^-18.
//
// A row is decided when one candidate is left. Rows go together in 16s, from the group of the largest element's rule
// up, then down, until each excludes the rest; visiting more codes than needed changes nothing.
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
FP4SCOPE_HD constexpr int tables(Kind kind) { return is_power(kind) ? 1 : 2; }  ///< codes up to 7 of E4M3 are no binade
template <class T>
FP4SCOPE_HD constexpr int table_words(Kind kind) {
  return tables(kind) * binades(kind) << (23 - key_shift<T>);
}

/// What depends on the tensor scale.
struct Geometry {
  int usable;
  int low[2];  ///< the exponent + 127 where a table begins: for codes up to 7, for the next eight
  float tensor_scale;
};

struct FilterTask {
  HessianTask task;
  const void* filters;
  const std::uint32_t* table;
  const Geometry* geometry;
  int last_code;
  float start_divisor;  ///< the largest element's rule
  float midpoint, top;  ///< the first threshold and the last level, in steps
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

__global__ void table_kernel(const search::SearchSpace* space, Kind kind, int shift, bool wide, Geometry* geometry,
                             std::uint32_t* table) {
  const double t = space->tensor_scale;
  const bool usable = t >= 0x1p-60 && t <= 0x1p60;
  const int first_of[2] = {0, 8}, mantissa = 23 - shift, words = binades(kind) << mantissa;
  int low[2] = {0, 0};
  for (int k = 0; usable && k < tables(kind); ++k) {
    const int lowest = is_power(kind) || k == 1 ? first_of[k] : 1;
    low[k] = exponent_of(space->grid.midpoint[0] * step_of(kind, t, lowest)) - 1;
  }
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i == 0) *geometry = {usable, {low[0] + 127, low[1] + 127}, static_cast<float>(t)};
  if (!usable || i >= tables(kind) * words) return;
  const int at = i % words, which = i / words;
  const double binade = formats::exp2_exact(low[which] + (at >> mantissa)), parts = formats::exp2_exact(mantissa);
  const double x = binade * (1 + (at & ((1 << mantissa) - 1)) / parts);
  const double last = wide ? x + binade * (1 / parts - 0x1p-23) : x;
  table[i] = table_word(space->grid, kind, t, first_of[which], x, last);
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
  float gap[2];                ///< D
  std::uint32_t best[2][3];    ///< the least |y|^2 that this lane has, with the code in the low 8 bits
  float upper[2];              ///< U of the row
  int start[2];                ///< the first group visited
};

template <class T, Kind kind, int tiles>
struct Filter {
  const FilterTask& f;
  const PackedFilter<tiles>& filter;
  const std::uint32_t* table;  ///< shared memory
  const Geometry& geometry;
  int lane;

  static constexpr int last_group = is_power(kind) ? 31 : 15;
  static constexpr float up = 1 + 0x1p-20f, down = 1 - 0x1p-20f;

  /// A group's scale: step k is base (1 + k / 8), base k / 8 of group 0, or base 2^k. Infinite beyond the last, so that
  /// losses are infinite or NaN there and no best ones.
  __device__ float base_of(int group) const {
    if (group < 0 || group > last_group) return __uint_as_float(infinity);
    const int exponent = is_power(kind) ? 8 * group - 127 : (group > 0 ? group : 1) - 7;
    const int power = exponent > -127 ? (exponent + 127) << 23 : 1 << 22;
    return geometry.tensor_scale * __int_as_float(power);
  }

  __device__ uint2 fragment(const typename PackedFilter<tiles>::Fragment& from) const {
    return *reinterpret_cast<const uint2*>(&from);
  }

  // -- elements --

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
        s.magnitude[h][i] = bits[h][i] & 0x7FFFFFFFu;
        s.amax[h] = max(s.amax[h], s.magnitude[h][i]);
      }
#pragma unroll
      for (int p = 0; p < 2 * tiles; ++p) {
        s.sign[h][p] = __byte_perm(bits[h][2 * p], bits[h][2 * p + 1], 0x7632) & 0x80008000u;
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
      s.best[h][0] = s.best[h][1] = s.best[h][2] = infinity;
      s.upper[h] = __uint_as_float(infinity);
      const float quotient = __fdividef(__uint_as_float(s.amax[h]), geometry.tensor_scale * f.start_divisor);
      const int exponent = static_cast<int>(__float_as_uint(quotient) >> 23) - 127;
      s.start[h] = min(max(is_power(kind) ? (exponent + 127) >> 3 : exponent + 7, 0), last_group);
    }
  }

  // -- levels --

  /// The indices at the eight codes of a group. Exact: see the head of this file.
  __device__ std::uint32_t indices(std::uint32_t magnitude, int group) const {
    constexpr int shift = key_shift<T>, size = binades(kind) << 23;
    const bool first = !is_power(kind) && group == 0;
    int low = first ? geometry.low[0] : is_power(kind) ? geometry.low[0] + 8 * group : geometry.low[1] + group - 1;
    low = min(max(low, 0), 254) << 23;
    const int at = __viaddmin_s32_relu(static_cast<int>(magnitude), -low, size - (1 << shift)) >> shift;
    const std::uint32_t word = table[at + (is_power(kind) || first ? 0 : size >> shift)];
    return std::is_same_v<T, float> ? settled(word, magnitude, group) : word;
  }

  /// binary32: compares with the thresholds that lie inside an entry.
  __device__ std::uint32_t settled(std::uint32_t word, std::uint32_t magnitude, int group) const {
    for (std::uint32_t open = word & 0x88888888u; open != 0; open &= open - 1) {
      const int at = __ffs(static_cast<int>(open)) - 4;
      const int index = static_cast<int>(word >> at & 7);
      const sim::Grid& grid = f.task.space->grid;
      const double threshold = grid.midpoint[index] * step_of(kind, geometry.tensor_scale, 8 * group + at / 4);
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

  /// Candidates 4 k .. 4 k + 3 of a group: keeps each lane's three least.
  template <int quarter>
  __device__ void visit_four(Share<tiles>& s, const std::uint32_t (&levels)[2][2 * tiles], const int (&group)[2],
                             const float (&base)[2], const uint2 (&g)[tiles][2 * tiles][2]) const {
    constexpr int field = is_integer(kind) ? 6 : 9;
    float sums[4][2];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float y2[2] = {0, 0}, step[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (is_power(kind)) {
          step[h] = base[h] * (1 << (4 * quarter + k));
        } else {
          step[h] = __fmaf_rn(base[h], (4 * quarter + k) * 0.125f, group[h] > 0 ? base[h] : 0);
        }
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
      const int code = 8 * group[h] + 4 * quarter + own_of_four();
      const bool real = quarter == 1 ? code <= f.last_code : is_power(kind) || code != 0;
      keep(s.best[h], real ? (__float_as_uint(own[h]) & ~0xFFu) | static_cast<unsigned>(code) : infinity);
    }
  }

  __device__ static void keep(std::uint32_t (&best)[3], std::uint32_t value) {
    const std::uint32_t second = max(best[0], value), third = max(best[1], second);
    best[0] = min(best[0], value);
    best[1] = min(best[1], second);
    best[2] = min(best[2], third);
  }

  /// Visits a group of each row.
  __device__ void visit(Share<tiles>& s, int from_start, const uint2 (&g)[tiles][2 * tiles][2]) const {
    std::uint32_t low[2][2 * tiles], high[2][2 * tiles];
    int group[2];
    float base[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      group[h] = s.start[h] + from_start;
      base[h] = base_of(group[h]) * (f.unit * filter.unscale);
#pragma unroll
      for (int p = 0; p < 2 * tiles; ++p) {
        const std::uint32_t a = indices(s.magnitude[h][2 * p], group[h]);
        const std::uint32_t b = indices(s.magnitude[h][2 * p + 1], group[h]);
        low[h][p] = __byte_perm(a, b, 0x5410);
        high[h][p] = __byte_perm(a, b, 0x7632);
      }
    }
    visit_four<0>(s, low, group, base, g);
    visit_four<1>(s, high, group, base, g);
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

  /// Whether this lane sees that a group and all above are excluded.
  __device__ bool excluded_above(const Share<tiles>& s, int h, int group, const float (&spread)[4 * tiles]) const {
    if (group > last_group) return true;
    const float base = base_of(group), dead = f.midpoint * base * down;
    if (__uint_as_float(s.amax[h]) <= dead * (is_power(kind) ? 0.5f : 0.875f)) return true;  // at the code below
    bool excluded = false;
#pragma unroll
    for (int i = 0; i < 4 * tiles; ++i) {
      const float x = __uint_as_float(s.magnitude[h][i]);
      excluded = excluded || (x <= dead && x > s.upper[h] * spread[i] * up);
    }
    return excluded;
  }

  __device__ bool excluded_below(const Share<tiles>& s, int h, int group, const float (&spread)[4 * tiles]) const {
    if (group < 0) return true;
    const float last = f.top * base_of(group) * (is_power(kind) ? 128.0f : 1.875f) * up;
    bool excluded = false;
#pragma unroll
    for (int i = 0; i < 4 * tiles; ++i) {
      excluded = excluded || __uint_as_float(s.magnitude[h][i]) * down - s.upper[h] * spread[i] * up > last;
    }
    return excluded;
  }

  /// Of a row's lanes.
  __device__ bool any_of_row(bool value) const { return (__ballot_sync(full, value) >> (lane & 28) & 15u) != 0; }

  __device__ int search_rows(Share<tiles>& s, const bool (&active)[2], const float (&spread)[4 * tiles],
                             const uint2 (&g)[tiles][2 * tiles][2]) const {
    visit(s, 0, g);
    visit(s, 1, g);  // it is hardly ever excluded
    tighten(s);
    int visited = 2;
    for (int direction = 1; direction >= -1; direction -= 2) {
      for (int from_start = direction > 0 ? 2 : -1;; from_start += direction) {
        bool needed = false;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int group = s.start[h] + from_start;
          const bool mine = direction > 0 ? excluded_above(s, h, group, spread) : excluded_below(s, h, group, spread);
          const bool excluded = any_of_row(mine);
          needed = needed || (active[h] && !excluded);
        }
        if (!__any_sync(full, needed)) break;
        visit(s, from_start, g);
        tighten(s);
        ++visited;
      }
    }
    return visited;
  }

  // -- results --

  /// How many candidates a row has left: those of a lane in bits 0 to 3, more than it has kept in bit 8.
  __device__ int left(const Share<tiles>& s, int h) const {
    const float limit = s.upper[h] * s.upper[h] * up;
    int number = 0;
    for (int k = 0; k < 3; ++k) number += (__uint_as_float(s.best[h][k]) <= limit) << (k == 2 ? 8 : 0);
    number += __shfl_xor_sync(full, number, 1);
    return number + __shfl_xor_sync(full, number, 2);
  }

  /// Lists a row: its lanes together.
  __device__ void list(const Share<tiles>& s, int h, std::int64_t block, int number, bool here) const {
    const float limit = s.upper[h] * s.upper[h] * up;
    Listed entry = {block, 0, {}};
    for (int from = 0; from < 4; ++from) {
      for (int k = 0; k < 2; ++k) {
        const std::uint32_t value = __shfl_sync(full, s.best[h][k], (lane & 28) + from);
        if (__uint_as_float(value) <= limit && entry.number < most_listed) {
          entry.code[entry.number++] = static_cast<std::uint8_t>(value);
        }
      }
    }
    if (!here || lane % 4 != 0) return;
    if (number > most_listed) {
      f.task.all[atomicAdd(&f.task.counts->all, 1ull)] = block;
    } else {
      f.task.few[atomicAdd(&f.task.counts->few, 1ull)] = entry;
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
        const std::uint32_t word = levels ? indices(s.magnitude[h][4 * t + i], code >> 3) : 0;
        const std::uint32_t index = word >> 4 * (code & 7) & 7;
        const std::uint32_t negative = s.sign[h][2 * t + i / 2] >> (i % 2 * 16 + 15) & 1;
        out |= (is_integer(kind) ? (negative ? 0 - index : index) & 15 : index | negative << 3) << 4 * i;
      }
      *reinterpret_cast<std::uint16_t*>(f.task.packed + block * (f.task.n / 2) + e / 2) =
          static_cast<std::uint16_t>(out);
    }
  }
};

template <class T, Kind kind, int tiles>
__global__ void __launch_bounds__(threads, tiles == 1 ? 2 : 1) filter_kernel(FilterTask f) {
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
      const int code = !plain                    ? best
                       : s.amax[h] >= infinity   ? static_cast<int>(task.space->scale.nan_code())
                       : s.amax[h] == 0          ? 0
                                                 : task.space->first_code;
      if (decided) {
        if (lane % 4 == 0) task.scales[block] = static_cast<std::uint8_t>(code);
        filter.write_codes(s, h, block, code, !plain);
      }
      if (__any_sync(full, here && !decided)) filter.list(s, h, block, candidates, here && !decided);
    }
  }
  if (lane == 0) atomicAdd(&task.counts->candidates, visited * 128);
}

template <class T, Kind kind, int tiles>
void launch(Stream& stream, const FilterTask& f) {
  const int bytes = 4 * table_words<T>(kind);
  check(cudaFuncSetAttribute(filter_kernel<T, kind, tiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "shared memory");
  const std::int64_t grid = (f.task.per_row + warps - 1) / warps * ((f.task.rows + cta_rows - 1) / cta_rows);
  filter_kernel<T, kind, tiles><<<static_cast<unsigned>(grid), threads, static_cast<std::size_t>(bytes),
                                  handle(stream)>>>(f);
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
    const Scratch memory(stream, 4 * words + static_cast<std::int64_t>(sizeof(Geometry)));
    auto* const geometry = memory.as<Geometry>();
    auto* const table = reinterpret_cast<std::uint32_t*>(geometry + 1);
    f.table = table, f.geometry = geometry;
    table_kernel<<<grid_of(words, 128), 128, 0, handle(stream)>>>(f.task.space, kind, key_shift<T>,
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
  f.start_divisor = static_cast<float>(space.start.divisor);
  f.midpoint = static_cast<float>(space.grid.midpoint[0]);
  f.top = static_cast<float>(space.top());
  f.unit = kind == Kind::nvint4 ? 0x1p18f : 0x1p14f;
  f.vectors = device.cols % device.n == 0 && device.cols % 4 == 0 &&
              reinterpret_cast<std::uintptr_t>(device.x) % static_cast<std::uintptr_t>(4 * width(device.type)) == 0;
  if (kind == Kind::nvfp4) run<Kind::nvfp4>(stream, parts, f);
  if (kind == Kind::nvint4) run<Kind::nvint4>(stream, parts, f);
  if (kind == Kind::mxfp4) run<Kind::mxfp4>(stream, parts, f);
}

}  // namespace fp4scope::cuda
