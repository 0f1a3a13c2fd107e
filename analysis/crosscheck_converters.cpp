#include "analysis/crosscheck_converters.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "sim/converter.hpp"

namespace fp4scope::analysis {

namespace {

constexpr std::size_t converters = std::size(sim::all_converters);
constexpr std::int64_t chunk = 1 << 14;
using Codes = std::array<std::uint16_t, chunk>;

/// One converter by its defaults on a chunk of patterns. The row is a constant here, so the loop is vector code.
template <std::size_t Row>
void convert_chunk(std::uint32_t first, Codes& codes) {
  constexpr sim::Converter row = sim::all_converters[Row];
  for (std::uint32_t i = 0; i < chunk; ++i) {
    const auto x = __builtin_bit_cast(float, first + i);
    codes[i] = static_cast<std::uint16_t>(sim::convert(row, x, row.rounding, row.overflow));
  }
}

using ConvertChunk = void (*)(std::uint32_t, Codes&);

template <std::size_t... Row>
constexpr std::array<ConvertChunk, converters> table_of(std::index_sequence<Row...>) {
  return {convert_chunk<Row>...};
}

constexpr std::array<ConvertChunk, converters> convert_row = table_of(std::make_index_sequence<converters>());

void count(std::uint32_t bits, std::uint32_t code, std::uint32_t other, ConverterPair& pair) {
  const std::uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) ++pair.nan;
  else if (magnitude == 0x7F800000) ++pair.infinite;
  else if (magnitude == 0) ++pair.zero;
  else ++pair.finite;
  if (magnitude == 0 || magnitude >= 0x7F800000 || (pair.has_example && pair.bits < bits)) return;
  pair.has_example = true;
  pair.bits = bits;
  pair.code = code;
  pair.other_code = other;
}

void add(ConverterPair& total, const ConverterPair& part) {
  total.nan += part.nan;
  total.zero += part.zero;
  total.infinite += part.infinite;
  total.finite += part.finite;
  if (!part.has_example || (total.has_example && total.bits < part.bits)) return;
  total.has_example = true;
  total.bits = part.bits;
  total.code = part.code;
  total.other_code = part.other_code;
}

/// All pairs of rows on one chunk.
void compare_chunk(const std::vector<std::size_t>& rows, std::uint32_t first, std::vector<Codes>& codes,
                   std::vector<ConverterPair>& pairs) {
  for (std::size_t i = 0; i < rows.size(); ++i) convert_row[rows[i]](first, codes[i]);
  std::size_t k = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = i + 1; j < rows.size(); ++j, ++k) {
      if (codes[i] == codes[j]) continue;
      for (std::uint32_t n = 0; n < chunk; ++n) {
        if (codes[i][n] != codes[j][n]) count(first + n, codes[i][n], codes[j][n], pairs[k]);
      }
    }
  }
}

}  // namespace

std::vector<ConverterPair> crosscheck_converters(const std::string& element,
                                                 const std::function<void(double)>& progress,
                                                 const std::atomic<bool>* stop) {
  std::vector<std::size_t> rows;
  for (std::size_t i = 0; i < converters; ++i) {
    if (element == sim::all_converters[i].element.name) rows.push_back(i);
  }
  std::vector<ConverterPair> none;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = i + 1; j < rows.size(); ++j) {
      none.emplace_back();
      none.back().element = element;
      none.back().first = sim::all_converters[rows[i]].recipe;
      none.back().second = sim::all_converters[rows[j]].recipe;
    }
  }
  std::vector<ConverterPair> pairs = none;
  constexpr std::int64_t chunks = (std::int64_t{1} << 32) / chunk;
  std::atomic<std::int64_t> done{0};
#pragma omp parallel
  {
    std::vector<Codes> codes(rows.size());
    std::vector<ConverterPair> mine = none;
#pragma omp for schedule(dynamic, 64)
    for (std::int64_t c = 0; c < chunks; ++c) {
      if (stop && *stop) continue;
      compare_chunk(rows, static_cast<std::uint32_t>(c * chunk), codes, mine);
      if (++done % 4096 == 0 && progress) {
#pragma omp critical(progress)
        progress(static_cast<double>(done) / static_cast<double>(chunks));
      }
    }
#pragma omp critical(total)
    for (std::size_t k = 0; k < pairs.size(); ++k) add(pairs[k], mine[k]);
  }
  return stop && *stop ? std::vector<ConverterPair>{} : pairs;
}

std::string example_text(const ConverterPair& p) {
  if (!p.has_example) return "";
  const formats::Format& f = *formats::find_format(p.element);
  return fmt::format("{} (0x{:08x}): 0x{:x} ({}) and 0x{:x} ({})", __builtin_bit_cast(float, p.bits), p.bits, p.code,
                     formats::decode_double(f, p.code), p.other_code, formats::decode_double(f, p.other_code));
}

io::Table converters_table(const std::vector<ConverterPair>& pairs) {
  io::Table table;
  table.columns = {{"element", "", "the element format"},
                   {"first", "", "a recipe"},
                   {"second", "", "another recipe"},
                   {"finite_differ", "1", "finite binary32 patterns other than zeros whose codes differ"},
                   {"zero_differ", "1", "zeros (of two) whose codes differ"},
                   {"infinite_differ", "1", "infinities (of two) whose codes differ"},
                   {"nan_differ", "1", "NaN patterns (of 16,777,214) whose codes differ"},
                   {"example", "", "the first finite pattern, with both codes and values"}};
  for (const ConverterPair& p : pairs) {
    table.rows.push_back({p.element, p.first, p.second, p.finite, p.zero, p.infinite, p.nan, example_text(p)});
  }
  return table;
}

}  // namespace fp4scope::analysis
