#include "analysis/format_table.hpp"

#define TOML_EXCEPTIONS 1
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "analysis/names.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"
#include "search/space.hpp"

namespace fp4scope::analysis {

namespace {

constexpr double least_level = 0x1p-8, largest_level = 0x1p8;
constexpr int most_units = 255;  // 8 bits
constexpr std::int64_t most_scale_max = 1 << 20;

bool is_definable_element(const formats::Format& f) { return f.bits <= 4; }

bool is_definable_scale(const formats::Format& f) {
  return f.bits <= 8 && !f.twos_complement && f.has_nan() && f.mantissa_bits <= 4;
}

/// The codes of a grid of one's own: a sign and three bits of index.
formats::Format levels_element(std::size_t count) {
  formats::Format f = formats::e2m1;
  f.name = "levels";
  f.max_code = static_cast<std::uint32_t>(count - 1);
  f.source = "levels of one's own";
  return f;
}

std::string list(const std::vector<double>& levels) {
  std::string text;
  for (const double level : levels) text += fmt::format("{}{}", text.empty() ? "" : ", ", level);
  return "[" + text + "]";
}

/// Whether all levels are whole multiples of largest's 8-bit unit.
bool fit_eight_bits(const std::vector<double>& levels) {
  int lowest = 2000;  // the exponent of the last bit that is set in any level
  for (const double level : levels) {
    int exponent = 0;
    const auto bits = static_cast<std::uint64_t>(std::ldexp(std::frexp(level, &exponent), 53));
    if (bits != 0) lowest = std::min(lowest, exponent - 53 + std::countr_zero(bits));
  }
  return levels.back() <= std::ldexp(most_units, lowest);
}

/// The nearest levels that fit, where rounding keeps them apart; else "".
std::string nearest_levels(std::vector<double> levels) {
  double unit = largest_level;
  while (unit * most_units / 2 >= levels.back()) unit /= 2;
  for (double& level : levels) level = std::nearbyint(level / unit) * unit;
  for (std::size_t k = 1; k < levels.size(); ++k) {
    if (levels[k] <= levels[k - 1] || levels[k] < least_level) return "";
  }
  return "the nearest: " + list(levels);
}

void check_levels(const std::vector<double>& levels, const Refuse& refuse) {
  if (levels.size() < 2 || levels.size() > 8) {
    refuse("levels", fmt::format("{} levels", levels.size()), "2 to 8, a sign bit mirrors them");
  }
  for (const double level : levels) {
    if (level < 0)
      refuse("levels", fmt::format("level {} is negative", level), "levels are magnitudes, the sign is mirrored");
    if (!std::isfinite(level)) refuse("levels", fmt::format("level {} is not finite", level), "");
  }
  if (levels.front() != 0) refuse("levels", fmt::format("the first level is {}", levels.front()), "start at 0");
  for (std::size_t k = 1; k < levels.size(); ++k) {
    if (levels[k] > levels[k - 1]) continue;
    refuse("levels", fmt::format("level {} follows {}", levels[k], levels[k - 1]), "write them in ascending order");
  }
  for (std::size_t k = 1; k < levels.size(); ++k) {
    if (levels[k] >= least_level && levels[k] <= largest_level) continue;
    refuse("levels", fmt::format("level {} is not from 1/256 to 256", levels[k]),
           "multiply all levels by a power of two, block scales take it up");
  }
  if (fit_eight_bits(levels)) return;
  refuse("levels", "the levels are not whole multiples of one power of two, 255 at most", nearest_levels(levels));
}

void check_name(const std::string& name, const Refuse& refuse) {
  const bool plain =
      !name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
  if (!plain) refuse("", "'" + name + "' is no name for a format", "lower-case letters, digits and _");
  if (formats::find_block_format(name) || formats::find_format(name)) {
    refuse("", "'" + name + "' is a built-in format", "choose another name");
  }
}

template <class Predicate>
std::vector<std::string> names_of(const Predicate& predicate) {
  std::vector<std::string> names;
  for (const formats::Format& f : formats::all_formats) {
    if (predicate(f)) names.push_back(f.name);
  }
  return names;
}

void check_word(const std::string& key, const std::string& word, const std::vector<std::string>& known,
                const Refuse& refuse) {
  if (std::find(known.begin(), known.end(), word) != known.end()) return;
  if (formats::find_format(word)) {
    refuse(key, fmt::format("'{}' can't be the {}", word, key), "there are: " + join(known));
  }
  refuse(key, fmt::format("unknown {} '{}'", key, word), suggestion(word, known));
}

double largest_of(const FormatDefinition& d) {
  if (!d.levels.empty()) return d.levels.back();
  const formats::Format& element = *formats::find_format(d.element);
  return formats::decode_double(element, element.max_code);
}

void complete_tensor_scale(FormatDefinition& d, const Refuse& refuse) {
  const formats::Format& scale = *formats::find_format(d.scale);
  if (d.tensor_scale.empty()) d.tensor_scale = scale.mantissa_bits == 0 ? "none" : "amax";
  check_word("tensor_scale", d.tensor_scale, {"amax", "none"}, refuse);
  if (!d.scale_max) {
    const double largest = formats::decode_double(scale, scale.max_code);
    if (largest == std::floor(largest) && largest <= static_cast<double>(most_scale_max)) {
      d.scale_max = static_cast<std::int64_t>(largest);
    } else if (d.tensor_scale == "amax") {
      refuse("tensor_scale", d.scale + " has no default for the scale max",
             "give scale_max, or tensor_scale = \"none\"");
    }
    return;
  }
  if (*d.scale_max < 1 || *d.scale_max > most_scale_max) {
    refuse("scale_max", fmt::format("'scale_max' = {} is not from 1 to {}", *d.scale_max, most_scale_max), "");
  }
  if (static_cast<double>(*d.scale_max) * largest_of(d) < 1) {
    refuse("scale_max",
           fmt::format("'scale_max' = {} times the largest level, {}, is below 1", *d.scale_max, largest_of(d)),
           "a larger scale_max");
  }
}

}  // namespace

std::vector<std::string> definable_elements() { return names_of(is_definable_element); }
std::vector<std::string> definable_scales() { return names_of(is_definable_scale); }

FormatDefinition complete(FormatDefinition d, const Refuse& refuse) {
  check_name(d.name, refuse);
  for (double& level : d.levels) level += 0.0;  // -0 is 0
  if (d.levels.empty() && d.element.empty()) refuse("", "it needs levels", "levels = [...], or element = \"...\"");
  if (!d.levels.empty() && !d.element.empty()) refuse("element", "it has levels already", "leave one of the two out");
  if (d.element.empty()) check_levels(d.levels, refuse);
  else check_word("element", d.element, definable_elements(), refuse);
  if (d.scale.empty()) refuse("", "it needs a scale", "there are: " + join(definable_scales()));
  check_word("scale", d.scale, definable_scales(), refuse);
  if (!d.block) d.block = 16;
  if (*d.block < 2 || *d.block % 2 != 0 || *d.block > search::max_block) {
    refuse("block", fmt::format("a block of {} is not an even number from 2 to {}", *d.block, search::max_block), "");
  }
  complete_tensor_scale(d, refuse);
  return d;
}

/// A definition with what it becomes; the rows point to the texts.
struct FormatTable::Custom {
  FormatDefinition definition;
  std::string naive_meaning;
  formats::BlockFormat format;
  std::vector<search::Method> methods;

  explicit Custom(const FormatDefinition& d) : definition(d) {
    const bool own = !d.levels.empty();
    format = {definition.name.c_str(),        own ? levels_element(d.levels.size()) : *formats::find_format(d.element),
              *formats::find_format(d.scale), static_cast<int>(*d.block),
              d.tensor_scale == "amax",       static_cast<int>(d.scale_max.value_or(0))};
    format.levels.count = static_cast<int>(d.levels.size());
    std::copy(d.levels.begin(), d.levels.end(), format.levels.value);
    set_methods();
  }
  Custom(const Custom&) = delete;
  Custom& operator=(const Custom&) = delete;

 private:
  /// Naive: amax to the largest level, to nearest; of a power of two as OCP MX v1.0 has it, which is amax over
  /// 2^floor(log2 of the largest level) rounded toward zero. Divisors are levels or powers of two: 8 bits at most.
  void set_methods() {
    const double top = format.element_max();
    const bool power_of_two = format.scale.mantissa_bits == 0;
    const int binade = std::ilogb(top);
    const sim::ScaleRule rule = power_of_two ? sim::ScaleRule{std::ldexp(1, binade), formats::Rounding::toward_zero}
                                             : sim::ScaleRule{top, formats::Rounding::nearest_even};
    naive_meaning = power_of_two ? fmt::format("2^(floor(log2 amax) {} {}), as OCP MX v1.0", binade < 0 ? '+' : '-',
                                               std::abs(binade))
                                 : fmt::format("amax to {}, to nearest", top);
    using Kind = search::MethodKind;
    const char* const name = format.name;
    methods = {{name, "naive", Kind::rule, rule, 0, naive_meaning.c_str()},
               {name, "sse", Kind::sse, rule, 0, "least squared error over all codes"},
               {name, "exhaustive", Kind::exhaustive, rule, 0, "the same as sse, one code after the other"},
               {name, "hessian", Kind::hessian, rule, 0, "least r^T H r over all codes"}};
    if (!format.scale.has_zero) return;
    methods.push_back({name, "prevent_zero", Kind::rule, sim::prevent_zero(rule), 0,
                       "naive, a block that isn't zero has code 1 at least"});
  }
};

FormatTable::FormatTable(const std::vector<FormatDefinition>& definitions) {
  for (const FormatDefinition& d : definitions) customs_.push_back(std::make_shared<const Custom>(d));
}

const FormatTable::Custom* FormatTable::custom(const std::string& name) const {
  for (const auto& c : customs_) {
    if (c->definition.name == name) return c.get();
  }
  return nullptr;
}

const formats::BlockFormat* FormatTable::find(const std::string& name) const {
  if (const Custom* c = custom(name)) return &c->format;
  return formats::find_block_format(name);
}

const FormatDefinition* FormatTable::definition(const std::string& format) const {
  const Custom* c = custom(format);
  return c ? &c->definition : nullptr;
}

std::vector<std::string> FormatTable::names() const {
  std::vector<std::string> names;
  for (const formats::BlockFormat& f : formats::all_block_formats) names.push_back(f.name);
  for (const auto& c : customs_) names.push_back(c->definition.name);
  return names;
}

std::vector<const search::Method*> FormatTable::methods(const std::string& format) const {
  std::vector<const search::Method*> found;
  if (const Custom* c = custom(format)) {
    for (const search::Method& m : c->methods) found.push_back(&m);
    return found;
  }
  for (const search::Method& m : search::all_methods) {
    if (format == m.format) found.push_back(&m);
  }
  return found;
}

const search::Method* FormatTable::find_method(const std::string& format, const std::string& method) const {
  for (const search::Method* m : methods(format)) {
    if (method == m->name) return m;
  }
  return nullptr;
}

std::vector<std::string> FormatTable::method_names(const std::string& format) const {
  std::vector<std::string> names;
  for (const search::Method* m : methods(format)) names.push_back(m->name);
  return names;
}

namespace {

/// One [format.NAME] of a document.
class Reader {
 public:
  Reader(const toml::table& table, std::string where, std::string name)
      : table_(table), where_(std::move(where)), name_(std::move(name)) {}

  FormatDefinition read() const {
    static const std::vector<std::string> known = {"levels", "element", "scale", "block", "tensor_scale", "scale_max"};
    for (const auto& [key, node] : table_) {
      const std::string word(key.str());
      if (std::find(known.begin(), known.end(), word) != known.end()) continue;
      fail(node, "unknown key '" + word + "'", suggestion(word, known));
    }
    FormatDefinition d;
    d.name = name_;
    d.levels = levels();
    d.element = text("element");
    d.scale = text("scale");
    d.block = whole("block");
    d.tensor_scale = text("tensor_scale");
    d.scale_max = whole("scale_max");
    return complete(d, [this](const std::string& key, const std::string& what, const std::string& mend) {
      const toml::node* node = table_.get(key);
      fail(node ? *node : static_cast<const toml::node&>(table_), what, mend);
    });
  }

  [[noreturn]] void fail(const toml::node& node, const std::string& what, const std::string& mend) const {
    throw UsageError(fmt::format("{}:{}", where_, node.source().begin.line),
                     fmt::format("[format.{}]: {}", name_, what), mend);
  }

 private:
  std::string text(const std::string& key) const {
    const toml::node* node = table_.get(key);
    if (!node) return "";
    if (!node->is_string() || node->value<std::string>()->empty())
      fail(*node, "'" + key + "' is not a word", "write \"...\"");
    return *node->value<std::string>();
  }

  std::optional<std::int64_t> whole(const std::string& key) const {
    const toml::node* node = table_.get(key);
    if (!node) return std::nullopt;
    if (!node->is_integer()) fail(*node, "'" + key + "' is not a whole number", "");
    return node->value<std::int64_t>();
  }

  std::vector<double> levels() const {
    const toml::node* node = table_.get("levels");
    if (!node) return {};
    std::vector<double> values;
    if (!node->is_array() || node->as_array()->empty()) fail(*node, "'levels' is not a list", "levels = [0, 1, 2]");
    for (const toml::node& element : *node->as_array()) {
      if (!element.is_number()) fail(element, "a level is not a number", "");
      values.push_back(*element.value<double>());
    }
    return values;
  }

  const toml::table& table_;
  std::string where_, name_;
};

toml::table parse_document(const std::string& text, const std::string& where) {
  try {
    return toml::parse(text, where);
  } catch (const toml::parse_error& e) {
    throw UsageError(fmt::format("{}:{}", where, e.source().begin.line), std::string(e.description()), "TOML 1.0");
  }
}

Formats read_formats(const toml::table& root, const std::string& where) {
  const toml::node* node = root.get("format");
  if (!node) return std::make_shared<const FormatTable>();
  const auto fail = [&](const toml::node& at, const std::string& what) {
    throw UsageError(fmt::format("{}:{}", where, at.source().begin.line), what, "write [format.NAME]");
  };
  if (!node->is_table()) fail(*node, "'format' is not a table of formats");
  std::vector<FormatDefinition> definitions;
  for (const auto& [key, value] : *node->as_table()) {
    const std::string name(key.str());
    if (!value.is_table()) fail(value, "'" + name + "' in [format] is no format");
    definitions.push_back(Reader(*value.as_table(), where, name).read());
  }
  return std::make_shared<const FormatTable>(definitions);
}

}  // namespace

Formats parse_formats(const std::string& toml, const std::string& where) {
  return read_formats(parse_document(toml, where), where);
}

Formats load_formats(const std::string& path) {
  if (path.empty()) return std::make_shared<const FormatTable>();
  // A sweep's keys, so that its file serves here too.
  static const std::vector<std::string> known = {"format",    "activations", "input", "nonfinite",
                                                 "per_block", "quantize",    "seed"};
  const toml::table root = parse_document(io::read_text_file(path), path);
  for (const auto& [key, node] : root) {
    const std::string word(key.str());
    if (std::find(known.begin(), known.end(), word) != known.end()) continue;
    throw UsageError(fmt::format("{}:{}", path, node.source().begin.line), "unknown key '" + word + "'",
                     suggestion(word, {"format"}));
  }
  if (!root.contains("format")) throw UsageError(path, "holds no format", "write [format.NAME]");
  return read_formats(root, path);
}

}  // namespace fp4scope::analysis
