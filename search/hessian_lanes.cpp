#include "search/hessian_lanes.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "search/hessian_lanes.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef FP4SCOPE_SEARCH_HESSIAN_LANES_ONCE
#define FP4SCOPE_SEARCH_HESSIAN_LANES_ONCE
namespace fp4scope::search {
namespace {

constexpr int table_row =
    16;  ///< floats per code: thresholds at 0 .. 6, L * step at 7, values of levels 1 .. 7 at 8 .. 14
constexpr int most_lanes = 16;  ///< of binary32, in 512 bits

/// One vector of rows.
struct LaneTask {
  const HessianFilter* filter;
  const float* table;     ///< [code][table_row]
  int first, last;        ///< codes
  int start;              ///< where the visit begins
  float* x;               ///< [place][lanes]
  float* amax;            ///< [lanes]
  float* r;               ///< room, [place][lanes]
  float* y2;              ///< room, [code][lanes]: |y|^2 as far as it was summed, or infinity
  float* limit;           ///< out, [lanes]: what exceeds it is excluded
  float* left;            ///< out, [lanes]: how many candidates are left
  float* code;            ///< out, [lanes]: the highest of them
  int low = 0, high = 0;  ///< out: the codes visited
};

}  // namespace
}  // namespace fp4scope::search
#endif

HWY_BEFORE_NAMESPACE();
namespace fp4scope::search {
namespace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, most_lanes>;
using V = hn::Vec<D>;
using M = hn::Mask<D>;

struct Search {
  V gap;    ///< D of hessian_filter.hpp
  V best;   ///< the least |y|^2
  V upper;  ///< U: what a lower bound of |y| must exceed
  V limit;  ///< U^2
};

/// r at a code, element by element: x - the nearest value. Signs of zero don't matter.
HWY_INLINE void residuals(const LaneTask& task, const float* row) {
  const D d;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  const V t0 = hn::Set(d, row[0]), t1 = hn::Set(d, row[1]), t2 = hn::Set(d, row[2]), t3 = hn::Set(d, row[3]);
  const V t4 = hn::Set(d, row[4]), t5 = hn::Set(d, row[5]), t6 = hn::Set(d, row[6]);
  const V v1 = hn::Set(d, row[8]), v2 = hn::Set(d, row[9]), v3 = hn::Set(d, row[10]), v4 = hn::Set(d, row[11]);
  const V v5 = hn::Set(d, row[12]), v6 = hn::Set(d, row[13]), v7 = hn::Set(d, row[14]);
  for (int i = 0; i < task.filter->n; ++i) {
    const V x = hn::Load(d, task.x + i * lanes), magnitude = hn::Abs(x);
    V value = hn::IfThenElseZero(hn::Gt(magnitude, t0), v1);
    value = hn::IfThenElse(hn::Gt(magnitude, t1), v2, value);
    value = hn::IfThenElse(hn::Gt(magnitude, t2), v3, value);
    value = hn::IfThenElse(hn::Gt(magnitude, t3), v4, value);
    value = hn::IfThenElse(hn::Gt(magnitude, t4), v5, value);
    value = hn::IfThenElse(hn::Gt(magnitude, t5), v6, value);
    value = hn::IfThenElse(hn::Gt(magnitude, t6), v7, value);
    hn::Store(hn::Sub(x, hn::CopySign(value, x)), d, task.r + i * lanes);
  }
}

/// |G^T r|^2 by groups of four columns; ends early where every lane is above the limit.
HWY_INLINE V factored_loss(const LaneTask& task, V limit) {
  const D d;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  const int n = task.filter->n, rank = task.filter->rank;
  const float* g = task.filter->factor.data();
  V sum = hn::Zero(d);
  for (int c = 0; c < rank; c += 4) {
    V y0 = hn::Zero(d), y1 = y0, y2 = y0, y3 = y0;
    for (int i = c; i < n; ++i, g += 4) {
      const V r = hn::Load(d, task.r + i * lanes);
      y0 = hn::MulAdd(hn::Set(d, g[0]), r, y0);
      y1 = hn::MulAdd(hn::Set(d, g[1]), r, y1);
      y2 = hn::MulAdd(hn::Set(d, g[2]), r, y2);
      y3 = hn::MulAdd(hn::Set(d, g[3]), r, y3);
    }
    sum = hn::MulAdd(y0, y0, hn::MulAdd(y1, y1, sum));
    sum = hn::MulAdd(y2, y2, hn::MulAdd(y3, y3, sum));
    if (hn::AllTrue(d, hn::Gt(sum, limit))) break;
  }
  return sum;
}

/// Lanes whose every value is zero at the code below `code`: the code stands for nothing new.
HWY_INLINE M all_dead_below(const LaneTask& task, int code) {
  const D d;
  const float below = code == task.first ? -1 : task.table[(code - 1) * table_row];
  return hn::Le(hn::Load(d, task.amax), hn::Set(d, below));
}

/// Visits a code: |y|^2, kept as infinity where the code below has the same values. 1 + 2^-20 covers the roundings.
HWY_INLINE V visit(const LaneTask& task, int code, Search& search) {
  const D d;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  const V roundings = hn::Set(d, 1 + 0x1p-20f);
  residuals(task, task.table + code * table_row);
  const V sum = factored_loss(task, search.limit);
  const V kept = hn::IfThenElse(all_dead_below(task, code), hn::Set(d, __builtin_inff()), sum);
  hn::Store(kept, d, task.y2 + code * lanes);
  search.best = hn::Min(search.best, kept);
  search.upper = hn::Mul(hn::Add(hn::Sqrt(search.best), search.gap), roundings);
  search.limit = hn::Mul(hn::Mul(search.upper, search.upper), roundings);
  return sum;
}

/// Lanes whose dead zone at a code excludes it and all above.
HWY_INLINE M dead_zone_excludes(const LaneTask& task, int code, const Search& search) {
  const D d;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  const V threshold = hn::Set(d, task.table[code * table_row]);
  const V upper = hn::Mul(search.upper, hn::Set(d, 1 + 0x1p-20f));
  M excluded = hn::Lt(upper, hn::Zero(d));  // none
  for (int i = 0; i < task.filter->n; ++i) {
    const V magnitude = hn::Abs(hn::Load(d, task.x + i * lanes));
    const V bound = hn::Mul(upper, hn::Set(d, task.filter->spread[static_cast<std::size_t>(i)]));
    excluded = hn::Or(excluded, hn::And(hn::Le(magnitude, threshold), hn::Gt(magnitude, bound)));
  }
  return excluded;
}

/// What L * step must not be below, or some element clips too much.
HWY_INLINE V least_top(const LaneTask& task, const Search& search) {
  const D d;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  const V upper = hn::Mul(search.upper, hn::Set(d, 1 + 0x1p-20f)), less = hn::Set(d, 1 - 0x1p-20f);
  V least = hn::Zero(d);
  for (int i = 0; i < task.filter->n; ++i) {
    const V magnitude = hn::Mul(hn::Abs(hn::Load(d, task.x + i * lanes)), less);
    const V spread = hn::Set(d, task.filter->spread[static_cast<std::size_t>(i)]);
    least = hn::Max(least, hn::NegMulAdd(upper, spread, magnitude));
  }
  return hn::Mul(least, less);
}

HWY_INLINE void visit_upward(LaneTask& task, Search& search) {
  const D d;
  task.high = task.start;
  visit(task, task.start, search);
  for (int code = task.start + 1; code <= task.last; ++code) {
    M done = all_dead_below(task, code);
    if ((code - task.start) % 4 == 0) done = hn::Or(done, dead_zone_excludes(task, code, search));
    if (hn::AllTrue(d, done)) return;
    visit(task, code, search);
    task.high = code;
  }
}

HWY_INLINE void visit_downward(LaneTask& task, Search& search) {
  const D d;
  V least = hn::Zero(d);
  M done = hn::Lt(least, least);  // none
  task.low = task.start;
  for (int code = task.start - 1; code >= task.first; --code) {
    const float top = task.table[code * table_row + 7];
    if ((task.start - code) % 4 == 1) least = least_top(task, search);
    done = hn::Or(done, hn::Gt(least, hn::Set(d, top)));
    if (hn::AllTrue(d, done)) return;
    const V sum = visit(task, code, search);
    task.low = code;
    const V change = hn::Set(d, top * task.filter->total * (1 + 0x1p-20f));
    const V root = hn::Mul(hn::Sqrt(sum), hn::Set(d, 1 - 0x1p-20f));
    done = hn::Or(done, hn::Gt(hn::Sub(root, change), search.upper));
  }
}

/// Which candidates are left at the final limit.
HWY_INLINE void count_left(const LaneTask& task, const Search& search) {
  const D d;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  V left = hn::Zero(d), code = left;
  for (int c = task.low; c <= task.high; ++c) {
    const M open = hn::Le(hn::Load(d, task.y2 + c * lanes), search.limit);
    left = hn::Add(left, hn::IfThenElseZero(open, hn::Set(d, 1.0f)));
    code = hn::IfThenElse(open, hn::Set(d, static_cast<float>(c)), code);
  }
  hn::Store(search.limit, d, task.limit);
  hn::Store(left, d, task.left);
  hn::Store(code, d, task.code);
}

void filter_lanes(LaneTask& task) {
  const D d;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  V size = hn::Zero(d);
  for (int i = 0; i < task.filter->n; ++i) {
    const V magnitude = hn::Abs(hn::Load(d, task.x + i * lanes));
    size = hn::MulAdd(magnitude, hn::Set(d, task.filter->size[static_cast<std::size_t>(i)]), size);
  }
  const V infinity = hn::Set(d, __builtin_inff());
  const V gap = hn::MulAdd(size, hn::Set(d, task.filter->gap), hn::Set(d, 0x1p-68f));
  Search search = {gap, infinity, infinity, infinity};
  visit_upward(task, search);
  visit_downward(task, search);
  count_left(task, search);
}

int lane_count() { return static_cast<int>(hn::Lanes(D())); }

}  // namespace HWY_NAMESPACE
}  // namespace
}  // namespace fp4scope::search
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

namespace fp4scope::search {
namespace {

HWY_EXPORT(filter_lanes);
HWY_EXPORT(lane_count);

constexpr std::int64_t group_rows = 2048;  ///< rows packed at a time: they stay in the second-level cache

/// The largest float <= t, or < t.
float threshold(double t, bool passes_on_it) {
  if (t > FLT_MAX) return FLT_MAX;
  const auto f = static_cast<float>(t);
  return f > t || (f == t && passes_on_it) ? std::nextafter(f, 0.0f) : f;
}

void make_table(const SearchSpace& space, std::vector<float>& table) {
  table.assign(static_cast<std::size_t>(space.last_code + 1) * table_row, 0.0f);
  for (int code = space.first_code; code <= space.last_code; ++code) {
    float* const row = table.data() + code * table_row;
    const double step = space.step(code);
    const auto value = [&](int k) { return static_cast<float>(std::min(space.grid.level[k] * step, double{FLT_MAX})); };
    for (int k = 0; k < 7; ++k) {
      row[k] = threshold(space.grid.midpoint[k] * step, k % 2 == 1);
      if (k + 1 < space.grid.levels) row[8 + k] = value(k + 1);
    }
    row[7] = value(space.grid.levels - 1);
  }
}

/// What the groups of one call share.
struct Call {
  const SearchSpace& space;
  const BlockHessian& hessian;
  int n;
  std::uint8_t* scales;
  std::int64_t scale_stride;
  HessianRoom& room;
  SearchCount& count;
};

int plain_code(Call& call, const float* x, float amax) {
  return hessian_code(call.space, {x, call.n, amax}, call.hessian, call.room.scalar.data(), call.room.loss.data(),
                      &call.count);
}

/// Packs a group and decides what needs no filter; the other rows are listed by their naive code.
int pack_group(Call& call, const float* x, std::int64_t stride, int rows) {
  constexpr int none = 256;
  HessianRoom& room = call.room;
  int sizes[none] = {};
  std::vector<int>& guess = room.guess;
  for (int row = 0; row < rows; ++row) {
    const float* const values = x + row * stride;
    __builtin_prefetch(x + std::min(row + 8, rows - 1) * stride);
    float* const packed = room.packed.data() + static_cast<std::int64_t>(row) * call.n;
    std::copy_n(values, call.n, packed);
    const float amax = sim::amax(packed, call.n);
    room.amax[static_cast<std::size_t>(row)] = amax;
    int& at = guess[static_cast<std::size_t>(row)];
    at = none;
    std::uint8_t& scale = call.scales[row * call.scale_stride];
    if (!std::isfinite(amax)) {
      scale = static_cast<std::uint8_t>(call.space.scale.nan_code());
    } else if (!room.filter.usable || !(amax >= 0x1p-40f && amax <= 0x1p40f)) {
      scale = static_cast<std::uint8_t>(plain_code(call, packed, amax));
    } else {
      const int naive =
          sim::scale_code(call.space.scale, call.space.start, amax, static_cast<float>(call.space.tensor_scale));
      at = std::clamp(naive, call.space.first_code, call.space.last_code);
      ++sizes[at];
    }
  }
  int begin[none], total = 0;
  for (int code = 0; code < none; ++code) begin[code] = total, total += sizes[code];
  for (int row = 0; row < rows; ++row) {
    const int at = guess[static_cast<std::size_t>(row)];
    if (at != none) room.order[static_cast<std::size_t>(begin[at]++)] = row;
  }
  return total;
}

/// Arrays of one batch in a room, each on a boundary of 64 bytes.
LaneTask make_task(Call& call) {
  HessianRoom& room = call.room;
  const int n = call.n, codes = call.space.last_code + 1;
  room.batch.resize(static_cast<std::size_t>((2 * n + codes + 4) * most_lanes + most_lanes));
  const auto address = reinterpret_cast<std::uintptr_t>(room.batch.data());
  float* next = room.batch.data() + (64 - address % 64) % 64 / sizeof(float);
  const auto take = [&](int vectors) { return std::exchange(next, next + vectors * most_lanes); };
  LaneTask task = {};
  task.filter = &room.filter;
  task.table = room.table.data();
  task.first = call.space.first_code;
  task.last = call.space.last_code;
  task.x = take(n), task.r = take(n), task.y2 = take(codes), task.amax = take(1);
  task.limit = take(1), task.left = take(1), task.code = take(1);
  return task;
}

/// A row's values by place into a lane.
void set_lane(const Call& call, LaneTask& task, int row, int lane, int lanes) {
  const int* const order = call.room.filter.order.data();
  const float* const packed = call.room.packed.data() + static_cast<std::int64_t>(row) * call.n;
  float* const x = task.x + lane;
  for (int place = 0; place < call.n; ++place) x[place * lanes] = packed[order[place]];
  task.amax[lane] = call.room.amax[static_cast<std::size_t>(row)];
}

/// The answer of a lane: the one candidate that is left, or the best of those that are.
int lane_code(Call& call, const LaneTask& task, int row, int lane, int lanes) {
  if (task.left[lane] == 1) return static_cast<int>(task.code[lane]);
  int codes[256], number = 0;
  for (int code = task.low; code <= task.high; ++code) {
    if (task.y2[code * lanes + lane] <= task.limit[lane]) codes[number++] = code;
  }
  const float* const packed = call.room.packed.data() + static_cast<std::int64_t>(row) * call.n;
  const Block block = {packed, call.n, call.room.amax[static_cast<std::size_t>(row)]};
  return best_hessian_code(call.space, block, call.hessian, codes, number, call.room.scalar.data(),
                           call.room.loss.data(), &call.count);
}

/// Rows order[from .. from + number), at most as many as lanes; lanes without a row repeat the last.
void decide_batch(Call& call, LaneTask& task, int from, int number, int lanes) {
  const int* const order = call.room.order.data() + from;
  for (int lane = 0; lane < lanes; ++lane) set_lane(call, task, order[std::min(lane, number - 1)], lane, lanes);
  task.start = call.room.guess[static_cast<std::size_t>(order[0])];
  HWY_DYNAMIC_DISPATCH(filter_lanes)(task);
  call.count.candidates += static_cast<std::int64_t>(number) * (task.high - task.low + 1);
  for (int lane = 0; lane < number; ++lane) {
    const int row = order[lane];
    call.scales[row * call.scale_stride] = static_cast<std::uint8_t>(lane_code(call, task, row, lane, lanes));
  }
}

/// Whether |r_i| <= |x_i| and all magnitudes are those of the data.
bool fits_lanes(const SearchSpace& space, int n) {
  return n <= max_filter_block && space.factor == 1 && space.grid.levels >= 2 && space.tensor_scale > 0 &&
         std::isfinite(space.tensor_scale);
}

}  // namespace

void hessian_lane_codes(const SearchSpace& space, const BlockHessian& hessian, int n, const float* x,
                        std::int64_t stride, std::int64_t rows, std::uint8_t* scales, std::int64_t scale_stride,
                        HessianRoom& room, SearchCount& count) {
  const auto size = static_cast<std::size_t>(n);
  const auto group = static_cast<std::size_t>(std::min(rows, group_rows));
  room.scalar.resize(2 * size);
  room.loss.resize(256);
  room.packed.resize(group * size);
  room.amax.resize(group);
  room.order.resize(group);
  room.guess.resize(group);
  room.filter.usable = false;
  if (fits_lanes(space, n)) make_hessian_filter(hessian, n, room.filter);
  if (room.filter.usable) make_table(space, room.table);
  const int lanes = HWY_DYNAMIC_DISPATCH(lane_count)();
  for (std::int64_t first = 0; first < rows; first += group_rows) {
    const int here = static_cast<int>(std::min(rows - first, group_rows));
    Call call = {space, hessian, n, scales + first * scale_stride, scale_stride, room, count};
    const int listed = pack_group(call, x + first * stride, stride, here);
    LaneTask task = make_task(call);
    for (int from = 0; from < listed; from += lanes) {
      decide_batch(call, task, from, std::min(lanes, listed - from), lanes);
    }
  }
}

}  // namespace fp4scope::search
#endif  // HWY_ONCE
