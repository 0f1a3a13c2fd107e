// Block formats by name: the built-in rows, and those of a TOML document.
//
//   [format.mine]
//   levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]   # magnitudes, code = sign << 3 | index; or element = "e1m2"
//   scale = "ue5m3"
//   block = 16                              # even, 2 to 1024
//   tensor_scale = "amax"                   # or "none"; by default none for a power-of-two scale, amax for others
//   scale_max = 448                         # what an amax tensor scale aims at; by default the scale's largest
//
// What is refused is what the bit budgets of sim/grid.hpp, sim/scale.hpp and search/sse.hpp leave no room for:
//   levels   whole multiples of one power of two, at most 255 of it: 8 bits, midpoints 9, squares 16; the positive
//            ones within 2^-8 .. 2^8, so that squared errors stay within ExactSum's 2^-420 .. 2^400
//   scales   at most 5 significant bits, no sign needed, a NaN for blocks of non-finite data
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "search/methods.hpp"

namespace fp4scope::analysis {

/// A format of one's own as it is written; what is empty has a default.
struct FormatDefinition {
  std::string name;
  std::vector<double> levels;  ///< empty: `element`
  std::string element;
  std::string scale;
  std::optional<std::int64_t> block;
  std::string tensor_scale;
  std::optional<std::int64_t> scale_max;
};

/// Throws: who asks knows the file and the line. `key` is "" where the whole definition is meant.
using Refuse = std::function<void(const std::string& key, const std::string& what, const std::string& mend)>;

/// The definition with its defaults filled in, or refused. A scale_max stays empty where none is needed and the scale's
/// largest value is no whole number up to 2^20.
FormatDefinition complete(FormatDefinition definition, const Refuse& refuse);

/// Names of the elements and the scales that a definition may have.
std::vector<std::string> definable_elements();
std::vector<std::string> definable_scales();

/// Read-only, so that the formats and methods that it points to stay where they are.
class FormatTable {
 public:
  /// The built-in formats alone.
  FormatTable() = default;
  /// And these, as complete() gave them, of different names.
  explicit FormatTable(const std::vector<FormatDefinition>& definitions);

  /// nullptr where there is none.
  const formats::BlockFormat* find(const std::string& name) const;
  const search::Method* find_method(const std::string& format, const std::string& method) const;
  const FormatDefinition* definition(const std::string& format) const;  ///< of a format that is not built in

  std::vector<std::string> names() const;  ///< the built-in ones first
  std::vector<const search::Method*> methods(const std::string& format) const;
  std::vector<std::string> method_names(const std::string& format) const;

 private:
  struct Custom;
  const Custom* custom(const std::string& name) const;

  std::vector<std::shared_ptr<const Custom>> customs_;
};

using Formats = std::shared_ptr<const FormatTable>;

/// The [format.NAME] of a TOML document beside whatever else it holds. `where` names the file in errors.
/// Throws UsageError with the line.
Formats parse_formats(const std::string& toml, const std::string& where);

/// The same of a file: of formats alone, or a sweep's. "" for the built-in formats alone.
Formats load_formats(const std::string& path);

}  // namespace fp4scope::analysis
