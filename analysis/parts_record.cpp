#include "analysis/parts_record.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

namespace fp4scope::analysis {

namespace {

using Texts = std::map<std::string, std::string>;

void add_profile(const std::string& path, const Profile& p, const std::string& unit, const Texts& attributes,
                 io::Record& record) {
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(p.count.size())};
  const auto add = [&](const char* name, const io::Array& data, const std::string& what, const std::string& of) {
    Texts texts = attributes;
    texts["unit"] = of;
    texts["description"] = what;
    record.datasets.push_back({path + name, shape, data, texts});
  };
  add("_count", p.count, unit, unit);
  add("_sse", p.sse, "sum of (wq - w)^2", "1");
  add("_energy", p.energy, "sum of w^2", "1");
  add("_bias", p.bias, "sum of |wq| - |w|", "1");
}

/// Values of the element's codes, in their order.
std::string code_values(const formats::BlockFormat& format) {
  std::string text;
  for (std::uint32_t code = 0; code < format.element.code_count(); ++code) {
    text += fmt::format("{}{}", code ? "," : "", formats::element_value(format, code));
  }
  return text;
}

}  // namespace

void add_parts(const Parts& parts, const formats::BlockFormat& format, double energy, const std::string& group,
               io::Record& record) {
  std::vector<double> remaining;
  for (const double left : parts.causes.remaining) remaining.push_back(left == 0 ? 0 : left / energy);
  record.datasets.push_back(
      {group + "cause_remaining",
       {static_cast<std::int64_t>(remaining.size())},
       remaining,
       {{"unit", "1"},
        {"description", "squared error / sum w^2 left when a set of steps is ideal, bit i: cause i"},
        {"causes", fmt::format("{}", fmt::join(cause_names, ","))}}});
  const std::string normal = fmt::format("{}", first_normal_code(format.scale));
  add_profile(group + "code", parts.places.by_code, "elements", {{"values", code_values(format)}}, record);
  add_profile(group + "ratio", parts.places.by_ratio, "elements", {}, record);
  add_profile(group + "position", parts.places.by_position, "elements", {}, record);
  add_profile(group + "column", parts.places.by_column, "elements", {}, record);
  add_profile(group + "row", parts.places.by_row, "elements", {}, record);
  add_profile(group + "scale_code", parts.places.by_scale_code, "blocks",
              {{"format", format.scale.name}, {"first_normal", normal}}, record);
  if (!parts.layer) return;
  std::vector<double> inner;
  for (const auto& row : parts.layer->inner) {
    for (const double x : row) inner.push_back(x == 0 ? 0 : x / parts.layer->energy);
  }
  record.datasets.push_back(
      {group + "layer_terms",
       {layer_term_count, layer_term_count},
       inner,
       {{"unit", "1"}, {"description", "products of the output errors by weights, activations, both / |X W^T|^2"}}});
}

}  // namespace fp4scope::analysis
