#include "analysis/quantize.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>

#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

const std::vector<std::string> select_names = {"mse", "mae", "absmax"};
const std::vector<std::string> planned_format_names = {"if4"};

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const formats::BlockFormat& f : formats::all_block_formats) names.push_back(f.name);
  return names;
}

std::vector<std::string> method_names(const std::string& format) {
  std::vector<std::string> names;
  for (const search::Method& m : search::all_methods) {
    if (format == m.format) names.push_back(m.name);
  }
  return names;
}

namespace {

/// Designed, named and not built yet: refused by name, with what there is.
void refuse_planned(const std::string& where, const std::string& name, const std::vector<std::string>& planned,
                    const std::vector<std::string>& built) {
  for (const std::string& p : planned) {
    if (p == name) throw UsageError(where, "'" + name + "' is not built yet", "there are: " + join(built));
  }
}

const formats::BlockFormat& parse_format(const std::string& name) {
  refuse_planned("--format", name, planned_format_names, format_names());
  const formats::BlockFormat* format = formats::find_block_format(name);
  if (!format) throw UsageError("--format", "unknown format '" + name + "'", suggestion(name, format_names()));
  return *format;
}

const search::Method& parse_method(const std::string& format, const std::string& name) {
  const search::Method* method = search::find_method(format, name);
  if (method) return *method;
  const std::vector<std::string> names = method_names(format);
  for (const search::Method& m : search::all_methods) {
    if (name == m.name) {
      throw UsageError("--scale", "'" + name + "' is not a method of " + format, "there are: " + join(names));
    }
  }
  throw UsageError("--scale", "unknown method '" + name + "'", suggestion(name, names));
}

void parse_tensor_scale(const QuantizeWords& words, QuantizeConfig& c) {
  const std::vector<std::string> known = {"amax", "none", "a positive number"};
  const std::string word = !words.tensor_scale.empty() ? words.tensor_scale : c.format->tensor_scaled ? "amax" : "none";
  refuse_planned("--tensor-scale", word, {"search"}, known);
  const int default_max = c.method->scale_max != 0 ? c.method->scale_max : c.format->scale_max;
  c.scale_max = words.scale_max != 0 ? words.scale_max : default_max;
  if (c.scale_max < 0) throw UsageError("--scale-max", "must be positive");
  if (words.scale_max != 0 && word != "amax") {
    throw UsageError("--scale-max", "has no effect without an amax tensor scale", "--tensor-scale amax");
  }
  if (word == "none") {
    c.scaling = TensorScaling::none;
  } else if (word == "amax") {
    c.scaling = TensorScaling::amax;
    if (c.scale_max == 0) {
      throw UsageError("--tensor-scale", std::string(c.format->name) + " has no default for the scale max",
                       "give --scale-max N, the largest block scale to aim at");
    }
    if (c.scale_max > (1 << 20)) throw UsageError("--scale-max", "must be at most 1048576");
  } else {
    char* end = nullptr;
    c.scaling_value = std::strtof(word.c_str(), &end);
    if (end == word.c_str() || *end != '\0') {
      throw UsageError("--tensor-scale", "unknown word '" + word + "'", "there are: " + join(known));
    }
    if (!(c.scaling_value > 0) || !std::isfinite(c.scaling_value)) {
      throw UsageError("--tensor-scale", "'" + word + "' is not a positive finite binary32 number");
    }
    c.scaling = TensorScaling::value;
  }
}

}  // namespace

std::string QuantizeConfig::scaling_text() const {
  if (scaling == TensorScaling::amax) return "amax";
  if (scaling == TensorScaling::none) return "none";
  return fmt::format("{}", scaling_value);
}

QuantizeConfig parse_config(const QuantizeWords& words) {
  QuantizeConfig c;
  c.format = &parse_format(words.format.empty() ? "nvfp4" : words.format);
  c.method = &parse_method(c.format->name, words.scale.empty() ? "naive" : words.scale);
  c.block = words.block == 0 ? c.format->block : words.block;
  if (c.block < 2 || c.block % 2 != 0 || c.block > search::max_block) {
    throw UsageError("--block", fmt::format("{} is not an even number from 2 to {}", c.block, search::max_block));
  }
  const std::string select = words.select.empty() ? "mse" : words.select;
  if (select == "mse") c.select = search::Select::mse;
  else if (select == "mae") c.select = search::Select::mae;
  else if (select == "absmax") c.select = search::Select::absmax;
  else throw UsageError("--select", "unknown criterion '" + select + "'", suggestion(select, select_names));
  if (!words.select.empty() && !c.method->chooses()) {
    throw UsageError("--select", std::string("has no effect on ") + c.method->name,
                     "it chooses between the two of 4over6");
  }
  const std::string nonfinite = words.nonfinite.empty() ? "refuse" : words.nonfinite;
  if (nonfinite != "refuse" && nonfinite != "propagate") {
    throw UsageError("--nonfinite", "unknown word '" + nonfinite + "'", suggestion(nonfinite, {"refuse", "propagate"}));
  }
  c.nonfinite = nonfinite == "refuse" ? Nonfinite::refuse : Nonfinite::propagate;
  parse_tensor_scale(words, c);
  return c;
}

double Quantized::step(std::int64_t row, std::int64_t block_index) const {
  const std::uint8_t code = scales[static_cast<std::size_t>(row * blocks_per_row() + block_index)];
  return static_cast<double>(tensor_scale) * formats::decode_double(config.format->scale, code);
}

namespace {

float finite_amax(const Matrix& m) {
  float largest = 0;
  for (const float x : m.data) {
    const float magnitude = std::fabs(x);
    if (magnitude > largest && std::isfinite(magnitude)) largest = magnitude;
  }
  return largest;
}

void encode_rows(Quantized& q, const Matrix& m) {
  const sim::Grid grid = sim::make_grid(q.config.format->element);
  q.codes.assign(static_cast<std::size_t>(q.rows * q.cols), 0);
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
      const std::int64_t at = r * q.cols + b * q.config.block;
      sim::quantize_block(q.config.format->element, grid, m.data.data() + at, q.config.block, q.step(r, b),
                          q.codes.data() + at);
    }
  }
}

}  // namespace

Quantized quantize(const QuantizeConfig& config, const Matrix& matrix, const std::string& where,
                   const search::Hessians* hessians, const std::atomic<bool>* stop) {
  if (config.nonfinite == Nonfinite::refuse) {
    const std::string found = describe_nonfinite(matrix);
    if (!found.empty()) throw Error(where, found, "mend the data, or --nonfinite propagate to make such blocks NaN");
  }
  const bool whole = matrix.cols % config.block == 0;
  const Matrix wide = whole ? Matrix{} : pad_columns(matrix, config.block);
  const Matrix& m = whole ? matrix : wide;
  Quantized q;
  q.config = config;
  q.rows = m.rows;
  q.cols = m.cols;
  q.amax = finite_amax(m);
  if (config.scaling == TensorScaling::amax) {
    q.tensor_scale = sim::tensor_scale(q.amax, config.format->element_max(), config.scale_max);
  } else if (config.scaling == TensorScaling::value) {
    q.tensor_scale = config.scaling_value;
  }
  const search::SearchTask task = {config.format,  config.method, config.select, config.block,
                                   q.tensor_scale, hessians,      stop};
  search::SearchResult found = search::search_scales(task, m.data.data(), m.rows, m.cols);
  q.scales = std::move(found.scales);
  q.chose_four = found.chose_four;
  q.count = found.count;
  if (stop && *stop) return q;
  encode_rows(q, m);
  return q;
}

std::vector<float> dequantize(const Quantized& q) {
  std::vector<float> values(q.codes.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < q.rows; ++r) {
    float* const out = values.data() + r * q.cols;
    for_each_value(q, r, q.cols, [out](std::int64_t c, double value) { out[c] = static_cast<float>(value); });
  }
  return values;
}

double bits_per_weight(const Quantized& q, std::int64_t original_cols) {
  const double codes = static_cast<double>(q.rows * q.cols) * q.config.format->element.bits;
  const double scales = static_cast<double>(q.scales.size()) * 8;
  const double tensor = q.config.scaling == TensorScaling::none ? 0 : 32;
  return (codes + scales + tensor) / static_cast<double>(q.rows * original_cols);
}

}  // namespace fp4scope::analysis
