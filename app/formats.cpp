// fp4scope formats [NAME]: the formats, those of a TOML file too, or one format's every code and value.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/encode.hpp"
#include "analysis/names.hpp"
#include "analysis/quantize.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;
using formats::Format;

std::string value_text(const Format& f, std::uint32_t code) {
  const formats::Decoded d = formats::decode(f, code);
  const std::string sign = d.negative ? "-" : "";
  if (d.cls == formats::CodeClass::nan) return sign + "nan";
  if (d.cls == formats::CodeClass::infinite) return sign + "inf";
  if (d.cls == formats::CodeClass::zero) return sign + "0";
  return fmt::format("{}", formats::decode_double(f, code));
}

const char* class_text(formats::CodeClass c) {
  static const char* const names[] = {"zero", "subnormal", "normal", "inf", "nan"};
  return names[static_cast<std::size_t>(c)];
}

const char* specials_text(const Format& f) { return f.has_inf() ? "Inf, NaN" : f.has_nan() ? "NaN" : "-"; }

Json to_json(const Format& f) {
  return {{"name", f.name},
          {"bits", f.bits},
          {"exponent_bits", f.exponent_bits},
          {"mantissa_bits", f.mantissa_bits},
          {"bias", f.bias},
          {"signed", f.is_signed},
          {"twos_complement", f.twos_complement},
          {"has_zero", f.has_zero},
          {"has_inf", f.has_inf()},
          {"has_nan", f.has_nan()},
          {"max", formats::decode_double(f, f.max_code)},
          {"smallest", formats::decode_double(f, f.has_zero ? 1 : 0)},
          {"source", f.source}};
}

Json to_json(const formats::BlockFormat& f, const analysis::FormatTable& table) {
  Json j = {{"name", f.name},
            {"element", f.element.name},
            {"scale", f.scale.name},
            {"block", f.block},
            {"tensor_scale", f.tensor_scaled ? "amax" : "none"},
            {"scale_max", f.scale_max},
            {"methods", table.method_names(f.name)}};
  if (f.levels.count > 0) j["levels"] = std::vector<double>(f.levels.value, f.levels.value + f.levels.count);
  return j;
}

/// The codes that a format with levels of its own gives out, and -0.
std::vector<std::uint32_t> level_codes(const formats::BlockFormat& f) {
  std::vector<std::uint32_t> codes;
  for (const std::uint32_t sign : {0u, f.element.sign_bit()}) {
    for (int k = 0; k < f.levels.count; ++k) codes.push_back(sign | static_cast<std::uint32_t>(k));
  }
  return codes;
}

std::string tensor_scale_text(const formats::BlockFormat& f) {
  return f.tensor_scaled ? fmt::format("amax / ({} * {})", f.element_max(), f.scale_max) : "none";
}

void print_all(const analysis::FormatTable& table, bool json) {
  if (json) {
    Json j;
    for (const Format& f : formats::all_formats) j["elements"].push_back(to_json(f));
    for (const std::string& name : table.names()) j["block_formats"].push_back(to_json(*table.find(name), table));
    fmt::print("{}\n", j.dump(2));
    return;
  }
  std::vector<std::vector<std::string>> rows;
  for (const Format& f : formats::all_formats) {
    rows.push_back({f.name, fmt::format("{}", f.bits),
                    f.twos_complement ? "-" : fmt::format("{}/{}/{}", f.exponent_bits, f.mantissa_bits, f.bias),
                    value_text(f, f.has_zero ? 1 : 0), value_text(f, f.max_code), specials_text(f), f.source});
  }
  fmt::print("{}", text_table({"format", "bits", "exp/man/bias", "smallest", "largest", "specials", "source"}, rows));
  rows.clear();
  for (const std::string& name : table.names()) {
    const formats::BlockFormat& f = *table.find(name);
    rows.push_back({f.name, f.element.name, f.scale.name, fmt::format("{}", f.block), tensor_scale_text(f),
                    analysis::join(table.method_names(name))});
  }
  fmt::print("\n{}", text_table({"block format", "element", "scale", "block", "tensor scale", "methods"}, rows));
}

/// A block format: what it is made of, what its methods do, and its codes where they are levels of its own.
void print_methods(const formats::BlockFormat& f, const analysis::FormatTable& table, bool json) {
  if (json) {
    Json j = to_json(f, table);
    for (const std::uint32_t code : level_codes(f)) {
      j["codes"].push_back({{"code", code}, {"value", formats::element_value(f, code)}});
    }
    return fmt::print("{}\n", j.dump(2));
  }
  const std::string elements = f.levels.count > 0 ? "levels of its own" : std::string(f.element.name) + " elements";
  fmt::print("{}: {}, a {} scale for every {}, tensor scale {}\n", f.name, elements, f.scale.name, f.block,
             tensor_scale_text(f));
  std::vector<std::vector<std::string>> rows;
  for (const search::Method* m : table.methods(f.name)) rows.push_back({m->name, m->meaning});
  fmt::print("{}", text_table({"method", "block scale"}, rows));
  if (f.levels.count == 0) return;
  rows.clear();
  for (const std::uint32_t code : level_codes(f)) {
    rows.push_back(
        {fmt::format("0x{:x}", code), fmt::format("{:04b}", code), fmt::format("{}", formats::element_value(f, code))});
  }
  fmt::print("\n{}", text_table({"code", "bits", "value"}, rows));
}

[[noreturn]] void refuse(const analysis::FormatTable& table, const std::string& name) {
  std::vector<std::string> names = analysis::element_names();
  for (const std::string& f : table.names()) names.push_back(f);
  throw UsageError("formats", "unknown format '" + name + "'", analysis::suggestion(name, names));
}

void print_codes(const Format& f, bool json) {
  const int digits = (f.bits + 3) / 4;
  if (json) {
    Json j = to_json(f);
    for (std::uint32_t code = 0; code < f.code_count(); ++code) {
      const formats::Decoded d = formats::decode(f, code);
      const bool finite = d.cls != formats::CodeClass::nan && d.cls != formats::CodeClass::infinite;
      const Json value = finite ? Json(formats::decode_double(f, code)) : Json(value_text(f, code));
      j["codes"].push_back({{"code", code},
                            {"value", value},
                            {"class", class_text(d.cls)},
                            {"significand", d.value.significand},
                            {"exponent", d.value.exponent}});
    }
    fmt::print("{}\n", j.dump(2));
    return;
  }
  std::vector<std::vector<std::string>> rows;
  for (std::uint32_t code = 0; code < f.code_count(); ++code) {
    const formats::Decoded d = formats::decode(f, code);
    rows.push_back({fmt::format("0x{:0{}x}", code, digits), fmt::format("{:0{}b}", code, f.bits), value_text(f, code),
                    fmt::format("{} * 2^{}", d.value.significand, d.value.exponent), class_text(d.cls)});
  }
  fmt::print("{}: {}\n{}", f.name, f.source, text_table({"code", "bits", "value", "exact", "class"}, rows));
}

}  // namespace

void add_formats(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("formats", "the formats, or one format's every code and value");
  auto name = std::make_shared<std::string>(), file = std::make_shared<std::string>();
  command->add_option("NAME", *name, "a number format (its codes) or a block format (its methods)")->type_name("");
  command->add_option("--formats", *file, "your own: [format.NAME] levels = [...], scale = \"...\", block = N")
      ->type_name("TOML");
  command->callback([name, file, &context] {
    const analysis::Formats table = analysis::load_formats(*file);
    if (name->empty()) return print_all(*table, context.common.json);
    if (const formats::BlockFormat* f = table->find(*name)) return print_methods(*f, *table, context.common.json);
    const Format* f = formats::find_format(*name);
    if (!f) refuse(*table, *name);
    print_codes(*f, context.common.json);
  });
}

}  // namespace fp4scope::app
