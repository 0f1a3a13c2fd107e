// The METHODs: how a block gets its scale, by block format. A table; adding a rule is adding a row.
#pragma once

#include <string_view>

#include "search/if4.hpp"
#include "search/window.hpp"
#include "sim/eden.hpp"
#include "sim/scale.hpp"

namespace fp4scope::search {

enum class MethodKind : std::uint8_t {
  rule,            ///< amax -> scale, no choice
  four_over_six,   ///< the better of two
  sse,             ///< the best of all, pruned
  exhaustive,      ///< the best of all, one by one: the yardstick
  window,          ///< the best of eleven codes around naive's
  hessian,         ///< the best of all under r^T H r
  eden,           ///< the rule of sim/eden.hpp; the scales are corrected once the elements are known
  select_element,  ///< the rule, then the better of two element types
};

struct Method {
  const char* format;  ///< a BlockFormat's name
  const char* name;    ///< as on the command line
  MethodKind kind;
  sim::ScaleRule rule;  ///< the rule, or where a search begins
  int scale_max;        ///< of an amax tensor scale; 0: the format's
  const char* meaning;

  constexpr bool chooses() const noexcept {  ///< --select decides
    return kind == MethodKind::four_over_six || kind == MethodKind::select_element;
  }
  constexpr bool random() const noexcept { return kind == MethodKind::eden; }  ///< --seed decides
  constexpr bool needs_hessian() const noexcept { return kind == MethodKind::hessian; }
};

// clang-format off
inline constexpr Method all_methods[] = {
    {"nvfp4",      "naive",      MethodKind::rule,           sim::six_rule,               0,   "amax to 6, to nearest"},
    {"nvfp4",      "static6",    MethodKind::rule,           sim::six_rule,               0,   "the same as naive"},
    {"nvfp4",      "static4",    MethodKind::rule,           sim::four_rule,              0,   "amax to 4, to nearest"},
    {"nvfp4",      "4over6",     MethodKind::four_over_six,  sim::six_rule,               256, "amax to 6 or to 4, by --select; ties to 6"},
    {"nvfp4",      "sse",        MethodKind::sse,            sim::six_rule,               0,   "least squared error over all codes"},
    {"nvfp4",      "exhaustive", MethodKind::exhaustive,     sim::six_rule,               0,   "the same as sse, one code after the other"},
    {"nvfp4",      "scalesweep", MethodKind::window,         sim::six_rule,               0,   "least squared error over codes -3 .. +7 around naive's (arXiv 2606.07618)"},
    {"nvfp4",      "hessian",    MethodKind::hessian,        sim::six_rule,               0,   "least r^T H r over all codes"},
    {"nvfp4",      "ms_eden",    MethodKind::eden,           sim::eden_rule,              0,   "MS-EDEN: nearest elements, scales corrected and rounded stochastically"},
    {"mxfp4",      "naive",      MethodKind::rule,           sim::floor_rule,             0,   "the same as floor"},
    {"mxfp4",      "floor",      MethodKind::rule,           sim::floor_rule,             0,   "2^(floor(log2 amax) - 2), OCP MX v1.0"},
    {"mxfp4",      "ceil",       MethodKind::rule,           sim::ceil_rule,              0,   "2^ceil(log2(amax / 4))"},
    {"mxfp4",      "even",       MethodKind::rule,           sim::even_rule,              0,   "floor, one up from significand 1.75 on"},
    {"mxfp4",      "rceil",      MethodKind::rule,           sim::rceil_rule,             0,   "2^ceil(log2(amax / 6))"},
    {"mxfp4",      "static6",    MethodKind::rule,           sim::rceil_rule,             0,   "the same as rceil"},
    {"mxfp4",      "static4",    MethodKind::rule,           sim::ceil_rule,              0,   "the same as ceil"},
    {"mxfp4",      "sse",        MethodKind::sse,            sim::floor_rule,             0,   "least squared error over all codes"},
    {"mxfp4",      "exhaustive", MethodKind::exhaustive,     sim::floor_rule,             0,   "the same as sse, one code after the other"},
    {"mxfp4",      "hessian",    MethodKind::hessian,        sim::floor_rule,             0,   "least r^T H r over all codes"},
    {"nvint4",     "naive",      MethodKind::rule,           sim::seven_rule,             0,   "amax to 7, to nearest"},
    {"nvint4",     "static6",    MethodKind::rule,           sim::seven_rule,             0,   "the same as naive"},
    {"nvint4",     "sse",        MethodKind::sse,            sim::seven_rule,             0,   "least squared error over all codes"},
    {"nvint4",     "exhaustive", MethodKind::exhaustive,     sim::seven_rule,             0,   "the same as sse, one code after the other"},
    {"nvint4",     "hessian",    MethodKind::hessian,        sim::seven_rule,             0,   "least r^T H r over all codes"},
    {"if4",        "naive",      MethodKind::select_element, sim::six_rule,               0,   "amax to 6, then E2M1 or INT4 * 6/7, by --select; ties to E2M1"},
    {"if4",        "sse",        MethodKind::sse,            sim::six_rule,               0,   "least squared error over all codes and both elements"},
    {"if4",        "exhaustive", MethodKind::exhaustive,     sim::six_rule,               0,   "the same as sse, one code after the other"},
    {"mxfp6_e2m3", "naive",      MethodKind::rule,           sim::binade_rule(4),         0,   "the same as floor"},
    {"mxfp6_e2m3", "floor",      MethodKind::rule,           sim::binade_rule(4),         0,   "2^(floor(log2 amax) - 2), OCP MX v1.0"},
    {"mxfp6_e2m3", "rceil",      MethodKind::rule,           sim::reach_rule(7.5),        0,   "2^ceil(log2(amax / 7.5)): nothing saturates"},
    {"mxfp6_e3m2", "naive",      MethodKind::rule,           sim::binade_rule(16),        0,   "the same as floor"},
    {"mxfp6_e3m2", "floor",      MethodKind::rule,           sim::binade_rule(16),        0,   "2^(floor(log2 amax) - 4), OCP MX v1.0"},
    {"mxfp6_e3m2", "rceil",      MethodKind::rule,           sim::reach_rule(28),         0,   "2^ceil(log2(amax / 28)): nothing saturates"},
    {"mxfp8_e4m3", "naive",      MethodKind::rule,           sim::binade_rule(256),       0,   "the same as floor"},
    {"mxfp8_e4m3", "floor",      MethodKind::rule,           sim::binade_rule(256),       0,   "2^(floor(log2 amax) - 8), OCP MX v1.0"},
    {"mxfp8_e4m3", "rceil",      MethodKind::rule,           sim::reach_rule(448),        0,   "2^ceil(log2(amax / 448)): nothing saturates"},
    {"mxfp8_e5m2", "naive",      MethodKind::rule,           sim::binade_rule(32768),     0,   "the same as floor"},
    {"mxfp8_e5m2", "floor",      MethodKind::rule,           sim::binade_rule(32768),     0,   "2^(floor(log2 amax) - 15), OCP MX v1.0"},
    {"mxfp8_e5m2", "rceil",      MethodKind::rule,           sim::reach_rule(57344),      0,   "2^ceil(log2(amax / 57344)): nothing saturates"},
    {"mxint8",     "naive",      MethodKind::rule,           sim::binade_rule(1),         0,   "the same as floor"},
    {"mxint8",     "floor",      MethodKind::rule,           sim::binade_rule(1),         0,   "2^(floor(log2 amax)), OCP MX v1.0"},
    {"mxint8",     "rceil",      MethodKind::rule,           sim::reach_rule(127.0 / 64), 0,   "2^ceil(log2(64 amax / 127)): nothing saturates"},
    {"mxint4",     "naive",      MethodKind::rule,           sim::binade_rule(1),         0,   "the same as floor"},
    {"mxint4",     "floor",      MethodKind::rule,           sim::binade_rule(1),         0,   "2^(floor(log2 amax)), OCP MX v1.0"},
    {"mxint4",     "rceil",      MethodKind::rule,           sim::reach_rule(7.0 / 4),    0,   "2^ceil(log2(4 amax / 7)): nothing saturates"},
    {"mxint4",     "sse",        MethodKind::sse,            sim::binade_rule(1),         0,   "least squared error over all codes"},
    {"mxint4",     "exhaustive", MethodKind::exhaustive,     sim::binade_rule(1),         0,   "the same as sse, one code after the other"},
};
// clang-format on

/// The method of that name for that format, or nullptr.
constexpr const Method* find_method(std::string_view format, std::string_view name) noexcept {
  for (const Method& m : all_methods) {
    if (format == m.format && name == m.name) return &m;
  }
  return nullptr;
}

}  // namespace fp4scope::search
