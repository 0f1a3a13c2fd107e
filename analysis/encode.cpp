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
        formats::encode(*options.element, values[i], options.rounding, options.overflow, words[0]);
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
  io::SafetensorsWriter writer(out, entries,
                               {{"tool", tool},
                                {"element", options.element->name},
                                {"rounding", rounding_names[static_cast<std::size_t>(options.rounding)]},
                                {"overflow", overflow_names[static_cast<std::size_t>(options.overflow)]},
                                {"recipe", "exact"},
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
