// The METHODs: how a block gets its scale, by block format. A table; adding a rule is adding a row.
#pragma once

#include <array>
#include <iterator>
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
  decoupled,       ///< under r^T H r: quantized at one scale, decoded with another
  closed_form,     ///< under r^T H r: scale and nearest elements in turn
  coordinate,      ///< under r^T H r: coordinate descent over scale and elements
  closest,         ///< under r^T H r: the best scale and elements
  row_scales,      ///< under the whole row's r^T H r: scales by block descent, nearest elements
  row_coordinate,  ///< the same with elements, by coordinate descent in a block
  row_closest,     ///< the same with a block's best scale and elements
  gptq,            ///< error feedback through the whole row's H, naive scales
  gptq_sse,        ///< the same with the scale of least squared error
  gptq_hessian,    ///< the same with the scale of least conditional loss
  gptq_feedback,   ///< the same with the scale whose own feedback loses least
  gptq_closest,    ///< the same with a block's best scale and elements
  gptq_ordered,    ///< gptq_feedback, blocks of the largest diagonal first
  eden,            ///< the rule of sim/eden.hpp; the scales are corrected once the elements are known
  select_element,  ///< the rule, then the better of two element types
  macro,           ///< the rule on data times a factor that 128 columns share (macro.hpp)
  macro_search,    ///< the same with the best of 16 factors
  residual,        ///< the rule, and codes of its own for what the codes leave
  residual_half,   ///< the same, half of the second values added
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
  /// X or H: the diagonal blocks of H at least.
  constexpr bool needs_hessian() const noexcept {
    return kind >= MethodKind::hessian && kind <= MethodKind::gptq_ordered;
  }
  /// H of the whole row.
  constexpr bool needs_full_hessian() const noexcept {
    return kind >= MethodKind::row_scales && kind <= MethodKind::gptq_ordered;
  }
  constexpr bool damps() const noexcept { return kind >= MethodKind::gptq && kind <= MethodKind::gptq_ordered; }
  /// Chooses the elements too: they need not be the nearest.
  constexpr bool gives_codes() const noexcept {
    return kind >= MethodKind::decoupled && kind <= MethodKind::gptq_ordered;
  }
  /// Blocks of 128 columns share a factor.
  constexpr bool has_macro() const noexcept { return macro_bits() > 0; }
  /// Bits that a macro block's factor takes.
  constexpr int macro_bits() const noexcept {
    return kind == MethodKind::macro ? 8 : kind == MethodKind::macro_search ? 4 : 0;
  }
  /// Of the second codes' values; 0 without second codes.
  constexpr double residual_weight() const noexcept {
    return kind == MethodKind::residual ? 1 : kind == MethodKind::residual_half ? 0.5 : 0;
  }
  /// Values are more than a block scale and codes say: they have no place in a quantized file.
  constexpr bool corrects() const noexcept { return has_macro() || residual_weight() > 0; }
  constexpr bool limits_nodes() const noexcept {
    return kind == MethodKind::closest || kind == MethodKind::row_closest || kind == MethodKind::gptq_closest;
  }
};

// clang-format off
inline constexpr Method own_methods[] = {
    {"nvfp4",      "naive",      MethodKind::rule,            sim::six_rule,              0,   "amax to 6, to nearest"},
    {"nvfp4",      "static6",    MethodKind::rule,            sim::six_rule,              0,   "the same as naive"},
    {"nvfp4",      "static4",    MethodKind::rule,            sim::four_rule,             0,   "amax to 4, to nearest"},
    {"nvfp4",      "prevent_zero", MethodKind::rule,          sim::prevent_zero(sim::six_rule), 0, "naive, a block that isn't zero has code 1 at least (arXiv 2605.08565)"},
    {"nvfp4",      "4over6",     MethodKind::four_over_six,   sim::six_rule,              256, "amax to 6 or to 4, by --select; ties to 6"},
    {"nvfp4",      "4over6_prevent_zero", MethodKind::four_over_six, sim::prevent_zero(sim::six_rule), 256, "4over6, both codes 1 at least"},
    {"nvfp4",      "sse",        MethodKind::sse,             sim::six_rule,              0,   "least squared error over all codes"},
    {"nvfp4",      "exhaustive", MethodKind::exhaustive,      sim::six_rule,              0,   "the same as sse, one code after the other"},
    {"nvfp4",      "scalesweep", MethodKind::window,          sim::six_rule,              0,   "least squared error over codes -3 .. +7 around naive's (arXiv 2606.07618)"},
    {"nvfp4",      "hessian",    MethodKind::hessian,         sim::six_rule,              0,   "least r^T H r over all codes"},
    {"nvfp4",      "ms_eden",    MethodKind::eden,            sim::eden_rule,             0,   "MS-EDEN: nearest elements, scales corrected and rounded stochastically"},
    {"mxfp4",      "naive",      MethodKind::rule,            sim::floor_rule,            0,   "the same as floor"},
    {"mxfp4",      "floor",      MethodKind::rule,            sim::floor_rule,            0,   "2^(floor(log2 amax) - 2), OCP MX v1.0"},
    {"mxfp4",      "ceil",       MethodKind::rule,            sim::ceil_rule,             0,   "2^ceil(log2(amax / 4))"},
    {"mxfp4",      "even",       MethodKind::rule,            sim::even_rule,             0,   "floor, one up from significand 1.75 on"},
    {"mxfp4",      "rceil",      MethodKind::rule,            sim::rceil_rule,            0,   "2^ceil(log2(amax / 6))"},
    {"mxfp4",      "oas",        MethodKind::rule,            sim::oas_rule,              0,   "2^ceil(log2(amax / 7)): even, but one lower where amax is 7 * 2^j (arXiv 2603.08713)"},
    {"mxfp4",      "uos",        MethodKind::rule,            sim::uos_rule,              0,   "2^ceil(log2(amax / 7.25)) (arXiv 2607.24377)"},
    {"mxfp4",      "static6",    MethodKind::rule,            sim::rceil_rule,            0,   "the same as rceil"},
    {"mxfp4",      "static4",    MethodKind::rule,            sim::ceil_rule,             0,   "the same as ceil"},
    {"mxfp4",      "sse",        MethodKind::sse,             sim::floor_rule,            0,   "least squared error over all codes"},
    {"mxfp4",      "exhaustive", MethodKind::exhaustive,      sim::floor_rule,            0,   "the same as sse, one code after the other"},
    {"mxfp4",      "hessian",    MethodKind::hessian,         sim::floor_rule,            0,   "least r^T H r over all codes"},
    {"mxfp4",      "macro",      MethodKind::macro,           sim::rceil_rule,            0,   "rceil on data times 1 + m/256, m shared by 128 columns, from their amax (arXiv 2603.08713)"},
    {"mxfp4",      "macro_search", MethodKind::macro_search,  sim::rceil_rule,            0,   "rceil on data times 1 + j/16 of least squared error over 128 columns"},
    {"mxfp4",      "macro_oas_search", MethodKind::macro_search, sim::oas_rule,           0,   "the same with oas"},
    {"mxfp4",      "residual",   MethodKind::residual,        sim::rceil_rule,            0,   "rceil, and rceil of what it leaves: two sets of codes (arXiv 2605.20402)"},
    {"mxfp4",      "residual_half", MethodKind::residual_half, sim::rceil_rule,           0,   "the same, half of the second values added"},
    {"nvint4",     "naive",      MethodKind::rule,            sim::seven_rule,            0,   "amax to 7, to nearest"},
    {"nvint4",     "static6",    MethodKind::rule,            sim::seven_rule,            0,   "the same as naive"},
    {"nvint4",     "sse",        MethodKind::sse,             sim::seven_rule,            0,   "least squared error over all codes"},
    {"nvint4",     "exhaustive", MethodKind::exhaustive,      sim::seven_rule,            0,   "the same as sse, one code after the other"},
    {"nvint4",     "hessian",    MethodKind::hessian,         sim::seven_rule,            0,   "least r^T H r over all codes"},
    {"if4",        "naive",      MethodKind::select_element,  sim::six_rule,              0,   "amax to 6, then E2M1 or INT4 * 6/7, by --select; ties to E2M1"},
    {"if4",        "sse",        MethodKind::sse,             sim::six_rule,              0,   "least squared error over all codes and both elements"},
    {"if4",        "exhaustive", MethodKind::exhaustive,      sim::six_rule,              0,   "the same as sse, one code after the other"},
    {"mxfp6_e2m3", "naive",      MethodKind::rule,            sim::binade_rule(4),        0,   "the same as floor"},
    {"mxfp6_e2m3", "floor",      MethodKind::rule,            sim::binade_rule(4),        0,   "2^(floor(log2 amax) - 2), OCP MX v1.0"},
    {"mxfp6_e2m3", "rceil",      MethodKind::rule,            sim::reach_rule(7.5),       0,   "2^ceil(log2(amax / 7.5)): nothing saturates"},
    {"mxfp6_e3m2", "naive",      MethodKind::rule,            sim::binade_rule(16),       0,   "the same as floor"},
    {"mxfp6_e3m2", "floor",      MethodKind::rule,            sim::binade_rule(16),       0,   "2^(floor(log2 amax) - 4), OCP MX v1.0"},
    {"mxfp6_e3m2", "rceil",      MethodKind::rule,            sim::reach_rule(28),        0,   "2^ceil(log2(amax / 28)): nothing saturates"},
    {"mxfp8_e4m3", "naive",      MethodKind::rule,            sim::binade_rule(256),      0,   "the same as floor"},
    {"mxfp8_e4m3", "floor",      MethodKind::rule,            sim::binade_rule(256),      0,   "2^(floor(log2 amax) - 8), OCP MX v1.0"},
    {"mxfp8_e4m3", "rceil",      MethodKind::rule,            sim::reach_rule(448),       0,   "2^ceil(log2(amax / 448)): nothing saturates"},
    {"mxfp8_e5m2", "naive",      MethodKind::rule,            sim::binade_rule(32768),    0,   "the same as floor"},
    {"mxfp8_e5m2", "floor",      MethodKind::rule,            sim::binade_rule(32768),    0,   "2^(floor(log2 amax) - 15), OCP MX v1.0"},
    {"mxfp8_e5m2", "rceil",      MethodKind::rule,            sim::reach_rule(57344),     0,   "2^ceil(log2(amax / 57344)): nothing saturates"},
    {"mxint8",     "naive",      MethodKind::rule,            sim::binade_rule(1),        0,   "the same as floor"},
    {"mxint8",     "floor",      MethodKind::rule,            sim::binade_rule(1),        0,   "2^(floor(log2 amax)), OCP MX v1.0"},
    {"mxint8",     "rceil",      MethodKind::rule,            sim::reach_rule(127.0 / 64), 0,   "2^ceil(log2(64 amax / 127)): nothing saturates"},
    {"mxint4",     "naive",      MethodKind::rule,            sim::binade_rule(1),        0,   "the same as floor"},
    {"mxint4",     "floor",      MethodKind::rule,            sim::binade_rule(1),        0,   "2^(floor(log2 amax)), OCP MX v1.0"},
    {"mxint4",     "rceil",      MethodKind::rule,            sim::reach_rule(7.0 / 4),   0,   "2^ceil(log2(4 amax / 7)): nothing saturates"},
    {"mxint4",     "sse",        MethodKind::sse,             sim::binade_rule(1),        0,   "least squared error over all codes"},
    {"mxint4",     "exhaustive", MethodKind::exhaustive,      sim::binade_rule(1),        0,   "the same as sse, one code after the other"},
};

/// Methods under r^T H r that choose elements too: the same for every format of joint_formats, from where its `hessian`
/// begins.
struct JointMethod {
  const char* name;
  MethodKind kind;
  const char* meaning;
};
inline constexpr JointMethod joint_methods[] = {
    {"decoupled",         MethodKind::decoupled,       "least r^T H r over pairs of a scale to quantize with and one to decode with"},
    {"closed_form",       MethodKind::closed_form,     "the best scale for the elements, then nearest elements, in turn, under r^T H r"},
    {"coordinate",        MethodKind::coordinate,      "coordinate descent over scale and elements under r^T H r, from hessian"},
    {"joint",             MethodKind::closest,         "least r^T H r over all scales and elements (closest vector)"},
    {"hessian_row",       MethodKind::row_scales,      "the whole row's r^T H r: scales, block by block until none improves"},
    {"hessian_row_fast",  MethodKind::row_coordinate,  "the same with elements, by coordinate descent in each block"},
    {"hessian_row_joint", MethodKind::row_closest,     "the same with each block's best scale and elements"},
    {"gptq",              MethodKind::gptq,            "GPTQ: errors fed back through the whole row's H, naive scales"},
    {"gptq_sse",          MethodKind::gptq_sse,        "GPTQ with scales of least squared error"},
    {"gptq_hessian",      MethodKind::gptq_hessian,    "GPTQ with scales of least conditional loss"},
    {"gptq_feedback",     MethodKind::gptq_feedback,   "GPTQ with the scale whose own feedback loses least"},
    {"gptq_joint",        MethodKind::gptq_closest,    "GPTQ with a block's best scale and elements under the conditional loss"},
    {"gptq_ordered",      MethodKind::gptq_ordered,    "gptq_feedback, blocks of the largest diagonal first"},
};
inline constexpr const char* joint_formats[] = {"nvfp4", "mxfp4", "nvint4"};
// clang-format on

namespace detail {
constexpr auto with_joint_methods() {
  std::array<Method, std::size(own_methods) + std::size(joint_formats) * std::size(joint_methods)> all{};
  std::size_t at = 0;
  for (const Method& m : own_methods) all[at++] = m;
  for (const char* format : joint_formats) {
    for (const Method& m : own_methods) {
      if (m.kind != MethodKind::hessian || std::string_view(format) != m.format) continue;
      for (const JointMethod& j : joint_methods) all[at++] = {m.format, j.name, j.kind, m.rule, m.scale_max, j.meaning};
    }
  }
  return all;
}
}  // namespace detail

inline constexpr auto all_methods = detail::with_joint_methods();

/// The method of that name for that format, or nullptr.
constexpr const Method* find_method(std::string_view format, std::string_view name) noexcept {
  for (const Method& m : all_methods) {
    if (format == m.format && name == m.name) return &m;
  }
  return nullptr;
}

}  // namespace fp4scope::search
