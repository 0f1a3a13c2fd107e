#include "analysis/encode.hpp"

#include <span>

#include "formats/error.hpp"
#include "io/safetensors_writer.hpp"
#include "sim/random.hpp"

namespace fp4scope::analysis {

const std::vector<std::string> rounding_names = {"rne", "rna", "rtz", "rup", "rdn", "stochastic"};
const std::vector<std::string> overflow_names = {"saturate", "nan"};

std::vector<std::string> element_names() {
  std::vector<std::string> names;
  for (const formats::Format& f : formats::all_formats) names.push_back(f.name);
  return names;
}

std::vector<std::string> converter_names() {
  std::vector<std::string> names;
  for (const sim::Converter& c : sim::all_converters) {
    if (names.empty() || names.back() != c.recipe) names.push_back(c.recipe);
  }
  return names;
}

std::vector<std::string> elements_of(const std::string& recipe) {
  std::vector<std::string> names;
  for (const sim::Converter& c : sim::all_converters) {
    if (recipe == c.recipe) names.push_back(c.element.name);
  }
  return names;
}

std::vector<std::string> roundings_of(const sim::Converter& converter) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < rounding_names.size(); ++i) {
    if (converter.offers(static_cast<formats::Rounding>(i))) names.push_back(rounding_names[i]);
  }
  return names;
}

std::vector<std::string> overflows_of(const sim::Converter& converter) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < overflow_names.size(); ++i) {
    if (converter.offers(static_cast<formats::Overflow>(i))) names.push_back(overflow_names[i]);
  }
  return names;
}

namespace {

/// A recipe's code, and its status as EncodeCount says.
formats::Encoded converted(const EncodeOptions& options, float x) {
  const sim::Converter& c = *options.converter;
  const std::uint32_t code = sim::convert(c, x, options.rounding, options.overflow);
  const float magnitude = x < 0 ? -x : x;
  std::uint8_t status =
      formats::encode(c.element, c.deviates(sim::drops_sign) ? magnitude : x, options.rounding, options.overflow)
          .status;
  if ((status & formats::was_nan) == 0) {
    status = static_cast<std::uint8_t>(status & ~formats::inexact);
    if (formats::decode_float(c.element, code) != x) status |= formats::inexact;
  }
  return {code, status};
}

}  // namespace

std::vector<std::uint8_t> encode_values(const EncodeOptions& options, const std::vector<float>& values,
                                        EncodeCount& count) {
  const std::size_t width = options.element->bits > 8 ? 2 : 1;
  std::vector<std::uint8_t> codes(values.size() * width);
  std::int64_t inexact = 0, underflow = 0, overflow = 0, nan = 0;
#pragma omp parallel for schedule(static) reduction(+ : inexact, underflow, overflow, nan)
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t words[4] = {};
    if (options.rounding == formats::Rounding::stochastic) sim::random_words(options.seed, 0, i, words);
    const formats::Encoded e =
        options.converter ? converted(options, values[i])
                          : formats::encode(*options.element, values[i], options.rounding, options.overflow, words[0]);
    codes[i * width] = static_cast<std::uint8_t>(e.code);
    if (width == 2) codes[i * 2 + 1] = static_cast<std::uint8_t>(e.code >> 8);
    inexact += (e.status & formats::inexact) != 0;
    underflow += (e.status & formats::underflow) != 0;
    overflow += (e.status & formats::overflow) != 0;
    nan += (e.status & formats::was_nan) != 0;
  }
  count.values += static_cast<std::int64_t>(values.size());
  count.inexact += inexact;
  count.underflow += underflow;
  count.overflow += overflow;
  count.nan += nan;
  return codes;
}

EncodeCount encode_file(const EncodeOptions& options, const std::string& in, const std::string& out,
                        const std::string& tool, const Notice& notice) {
  const auto file = io::open_tensors(in);
  const std::string dtype = options.element->bits > 8 ? "U16" : "U8";
  std::vector<const io::TensorInfo*> chosen;
  std::vector<io::SafetensorsWriter::Entry> entries;
  for (const io::TensorInfo& t : file->tensors()) {
    if (t.dtype.name != "F32") {
      notice(t.name + " skipped, its dtype is " + t.dtype.name + ", not F32");
      continue;
    }
    chosen.push_back(&t);
    entries.push_back({t.name + ".codes", dtype, t.shape});
  }
  if (chosen.empty()) throw Error(in, "has no F32 tensor");
  const sim::Converter* c = options.converter;
  const bool named = !c || c->rounding_set != 0;
  io::SafetensorsWriter writer(
      out, entries,
      {{"tool", tool},
       {"element", options.element->name},
       {"rounding", named ? rounding_names[static_cast<std::size_t>(options.rounding)] : std::string(c->roundings)},
       {"overflow", overflow_names[static_cast<std::size_t>(options.overflow)]},
       {"recipe", c ? c->recipe : "exact"},
       {"seed", std::to_string(options.seed)}});
  EncodeCount count;
  for (const io::TensorInfo* t : chosen) {
    const std::vector<std::uint8_t> codes = encode_values(options, file->read(*t).data, count);
    if (options.stop && *options.stop) return count;
    writer.write(t->name + ".codes", std::as_bytes(std::span(codes)));
  }
  writer.commit();
  return count;
}

}  // namespace fp4scope::analysis
