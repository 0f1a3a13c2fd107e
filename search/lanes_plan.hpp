// What the vector code of lanes.cpp needs to know of a task, worked out once a call; for its inclusion alone.
#pragma once

#include "search/search.hpp"

namespace fp4scope::search::lanes {

inline constexpr int max_lanes = 16, max_lane_block = 64;
inline constexpr int max_candidates = 40;  ///< 8, and the codes of the three binades that has_lanes allows U / D

/// Levels and magnitudes are taken times `gain`, so that E2M1's are found in a table: 4 * {0, .5, .. 6}, 1 * {0, 1, ..
/// 7}.
enum class Levels : std::uint8_t { other, e2m1, int4 };

struct Plan {
  const SearchTask* task;
  const SearchSpace* space;
  sim::ScaleRule rule;       ///< with `unbiased` in it
  sim::ScaleRule four_rule;  ///< of four over six
  Levels levels;
  bool power_of_two;    ///< UE8M0
  float gain_per_unit;  ///< gain / (tensor scale * the grid's unit): a = amax * this
  float to_least_code;  ///< a * this is amax / D, at most 2^-20 too large
  float per_class[8];   ///< gain_per_unit / (1 + k / 8)
  float undersize;      ///< a <= this * v: r <= U, perhaps a little more
  float top;            ///< gain * the largest level, in grid units
  float relative;       ///< 1 + 4 lambda
  float absolute;       ///< 3 M / a^2
};

/// One block by the functions that search.cpp is made of.
int plain_code(const Plan& plan, const float* x, SearchCount& count, std::int64_t& chose_second);

/// The best of n ascending codes by the exact comparison.
int decide(const Plan& plan, const float* x, const int* codes, int n, SearchCount& count);

}  // namespace fp4scope::search::lanes
