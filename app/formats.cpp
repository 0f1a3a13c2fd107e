// fp4scope formats [NAME]: the formats, or one format's every code and value.
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

Json to_json(const formats::BlockFormat& f) {
  return {{"name", f.name},
          {"element", f.element.name},
          {"scale", f.scale.name},
          {"block", f.block},
          {"tensor_scale", f.tensor_scaled ? "amax" : "none"},
          {"scale_max", f.scale_max},
          {"methods", analysis::method_names(f.name)}};
}

std::string tensor_scale_text(const formats::BlockFormat& f) {
  return f.tensor_scaled ? fmt::format("amax / ({} * {})", f.element_max(), f.scale_max) : "none";
}

void print_all(bool json) {
  if (json) {
    Json j;
    for (const Format& f : formats::all_formats) j["elements"].push_back(to_json(f));
    for (const formats::BlockFormat& f : formats::all_block_formats) j["block_formats"].push_back(to_json(f));
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
  for (const formats::BlockFormat& f : formats::all_block_formats) {
    rows.push_back({f.name, f.element.name, f.scale.name, fmt::format("{}", f.block), tensor_scale_text(f),
                    analysis::join(analysis::method_names(f.name))});
  }
  fmt::print("\n{}", text_table({"block format", "element", "scale", "block", "tensor scale", "methods"}, rows));
}

/// A block format: what it is made of, and what its methods do.
void print_methods(const formats::BlockFormat& f, bool json) {
  if (json) return fmt::print("{}\n", to_json(f).dump(2));
  fmt::print("{}: {} elements, a {} scale for every {}, tensor scale {}\n", f.name, f.element.name, f.scale.name,
             f.block, tensor_scale_text(f));
  std::vector<std::vector<std::string>> rows;
  for (const search::Method& m : search::all_methods) {
    if (f.name == std::string(m.format)) rows.push_back({m.name, m.meaning});
  }
  fmt::print("{}", text_table({"method", "block scale"}, rows));
}

[[noreturn]] void refuse(const std::string& name) {
  std::vector<std::string> names = analysis::element_names();
  for (const std::string& f : analysis::format_names()) names.push_back(f);
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
  auto name = std::make_shared<std::string>();
  command->add_option("NAME", *name, "a number format (its codes) or a block format (its methods)")->type_name("");
  command->callback([name, &context] {
    if (name->empty()) return print_all(context.common.json);
    if (const formats::BlockFormat* f = formats::find_block_format(*name))
      return print_methods(*f, context.common.json);
    const Format* f = formats::find_format(*name);
    if (!f) refuse(*name);
    print_codes(*f, context.common.json);
  });
}

}  // namespace fp4scope::app
