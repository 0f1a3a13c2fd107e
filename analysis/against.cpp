#include "analysis/against.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/names.hpp"
#include "formats/error.hpp"
#include "formats/layout.hpp"
#include "formats/pack.hpp"

namespace fp4scope::analysis {

namespace {

struct NamedLayout {
  const char* name;
  const formats::ScaleLayout* layout;  ///< null: row-major
};
constexpr NamedLayout layouts[] = {
    {"linear", nullptr}, {"128x4", &formats::scales_128x4}, {"8x4", &formats::scales_8x4}};
const std::vector<std::string> layout_names = {"linear", "128x4", "8x4"};
const std::vector<std::string> nibble_names = {"low", "high", "halves"};

/// Scale columns from one row to the next in a row-major array: the blocks of a row, or more where rows are padded. 0
/// if the bytes are no such array.
std::int64_t row_stride(const TheirBytes& t, std::int64_t rows, std::int64_t blocks) {
  const auto size = static_cast<std::int64_t>(t.scales.size());
  if (size == rows * blocks) return blocks;
  const std::vector<std::int64_t>& shape = t.scales_shape;
  if (shape.size() == 2 && shape[0] >= rows && shape[1] >= blocks &&
      shape[0] <= formats::padded_scale_rows(formats::scales_128x4, rows) &&
      shape[1] <= formats::padded_scale_cols(blocks)) {
    return shape[1];
  }
  return size == formats::swizzled_size(formats::scales_128x4, rows, blocks) ? formats::padded_scale_cols(blocks) : 0;
}

bool fits(const TheirBytes& t, const NamedLayout& layout, std::int64_t rows, std::int64_t blocks) {
  if (!layout.layout) return row_stride(t, rows, blocks) != 0;
  return static_cast<std::int64_t>(t.scales.size()) == formats::swizzled_size(*layout.layout, rows, blocks);
}

/// [rows, blocks], of which the first `count` rows are read.
std::vector<std::uint8_t> read_scales(const TheirBytes& t, const NamedLayout& layout, std::int64_t rows,
                                      std::int64_t blocks, std::int64_t count) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(count * blocks));
  const std::int64_t stride = layout.layout ? 0 : row_stride(t, rows, blocks);
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t c = 0; c < blocks; ++c) {
      const std::int64_t at = layout.layout ? formats::swizzled_offset(*layout.layout, r, c, blocks) : r * stride + c;
      out[static_cast<std::size_t>(r * blocks + c)] = t.scales[static_cast<std::size_t>(at)];
    }
  }
  return out;
}

/// How their codes lie in a row: packed or one a byte, with or without the block's padding.
struct CodeRow {
  std::int64_t bytes = 0;  ///< 0: they don't fit
  bool packed = false;
};

CodeRow code_row(const TheirBytes& t, std::int64_t rows, std::int64_t cols, int bits, int block) {
  const auto size = static_cast<std::int64_t>(t.codes.size());
  for (const std::int64_t width : {padded(cols, block), cols}) {
    if (bits <= 4 && width % 2 == 0 && size == rows * width / 2) return {width / 2, true};
    if (size == rows * width) return {width, false};
  }
  return {};
}

/// Where a packed row has its element c: even columns in the low or the high nibble, or ggml's order, in which a byte
/// holds elements of a block that lie half a block apart.
std::int64_t packed_place(const std::string& nibbles, std::int64_t c, int block) {
  if (nibbles == "low") return c;
  if (nibbles == "high") return c ^ 1;
  const std::int64_t within = c % block, half = block / 2;
  return c - within + within % half * 2 + within / half;
}

/// [count, padded cols], one a byte; padding that is not there is 0.
std::vector<std::uint8_t> read_codes(const TheirBytes& t, const CodeRow& row, const std::string& nibbles,
                                     std::int64_t cols, int block, std::int64_t count) {
  const std::int64_t width = padded(cols, block);
  std::vector<std::uint8_t> out(static_cast<std::size_t>(count * width), 0);
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < count; ++r) {
    const std::uint8_t* const in = t.codes.data() + r * row.bytes;
    const std::int64_t present = std::min(width, row.packed ? 2 * row.bytes : row.bytes);
    for (std::int64_t c = 0; c < present; ++c) {
      const std::uint32_t code = row.packed ? formats::unpack_nibble(in, packed_place(nibbles, c, block)) : in[c];
      out[static_cast<std::size_t>(r * width + c)] = static_cast<std::uint8_t>(code);
    }
  }
  return out;
}

/// One way to take the format.
struct Way {
  const formats::BlockFormat* format = nullptr;
  int block = 0;

  std::string text() const { return fmt::format("{} in blocks of {}", format->name, block); }
};

/// The first rows of the matrix.
struct Head {
  const Matrix* matrix;
  std::int64_t count;
};

/// How far a reading lies from the matrix, whatever its tensor scale and recipe are:
///
///   sqrt(1 - <x, v>^2 / (<x, x> <v, v>)),   v = block scale * element
///
/// about 0.1 for the right one. Blocks with a NaN or an Inf are left out. The order of the sums is fixed.
double reading_error(const Head& head, const Way& way, const std::vector<std::uint8_t>& codes,
                     const std::vector<std::uint8_t>& scales) {
  const formats::BlockFormat& f = *way.format;
  const std::int64_t cols = head.matrix->cols, width = padded(cols, way.block), blocks = width / way.block;
  double elements[2][256], scale_values[256], xx = 0, xv = 0, vv = 0;
  for (std::uint32_t code = 0; code < 256; ++code) {
    const std::uint32_t narrow = code & (f.element.code_count() - 1);
    elements[0][code] = formats::element_value(f, narrow);
    elements[1][code] = f.selects() ? formats::element_value(f, narrow, true) * 6 / 7 : 0;
    scale_values[code] = formats::decode_double(f.scale, f.selects() ? code & 0x7F : code);
  }
  for (std::int64_t r = 0; r < head.count; ++r) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::uint8_t scale = scales[static_cast<std::size_t>(r * blocks + b)];
      const double* const value = elements[f.selects() && (scale & formats::selection_bit) != 0];
      double sums[3] = {};
      for (std::int64_t c = b * way.block; c < std::min((b + 1) * way.block, cols); ++c) {
        const double x = head.matrix->row(r)[c];
        const double v = value[codes[static_cast<std::size_t>(r * width + c)]] * scale_values[scale];
        sums[0] += x * x;
        sums[1] += x * v;
        sums[2] += v * v;
      }
      if (!std::isfinite(sums[0]) || !std::isfinite(sums[2])) continue;
      xx += sums[0];
      xv += sums[1];
      vv += sums[2];
    }
  }
  const double cosine = xx > 0 && vv > 0 && xv > 0 ? xv / std::sqrt(xx) / std::sqrt(vv) : 0;
  return std::sqrt(std::max(0.0, 1 - cosine * cosine));
}

double equal_share(const std::vector<std::uint8_t>& ours, const std::vector<std::uint8_t>& theirs) {
  std::int64_t equal = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) equal += ours[i] == theirs[i];
  return static_cast<double>(equal) / static_cast<double>(ours.size());
}

/// One word for each way to read one thing, with the error of the best whole reading that has it.
struct Reading {
  std::string name;
  std::vector<std::uint8_t> bytes;
  double error = 1;
};

/// The reading that is given, or of the least error, the first one of equals.
Choice choose(const std::string& what, const std::string& given, const std::vector<Reading>& readings,
              const std::vector<std::uint8_t>& naive) {
  const Reading *best = nullptr, *second = nullptr;
  for (const Reading& r : readings) {
    if (given.empty() ? !best || r.error < best->error : r.name == given) best = &r;
  }
  for (const Reading& r : readings) {
    if (&r != best && (!second || r.error < second->error)) second = &r;
  }
  Choice c = {what, best->name, !given.empty(), best->error, equal_share(naive, best->bytes), "", 1, false};
  if (!second) return c;
  c.second = second->name;
  c.second_error = second->error;
  c.ambiguous = !c.given && best->error == second->error && best->bytes != second->bytes;
  return c;
}

constexpr std::int64_t detection_elements = 1 << 18;

/// All readings of one format and block.
struct Readings {
  Way way;
  std::vector<Reading> nibbles, scales;
  double error = 1;  ///< of the best; of any order, for a given one need not be the right one
};

Readings read_all(const Way& way, const Head& head, const TheirBytes& theirs) {
  const std::int64_t rows = head.matrix->rows, cols = head.matrix->cols, blocks = padded(cols, way.block) / way.block;
  const CodeRow row = code_row(theirs, rows, cols, way.format->element.bits, way.block);
  Readings all = {way, {}, {}, 1};
  for (const std::string& name : nibble_names) {
    if (!row.packed && name != "low") continue;
    if (name == "halves" && 2 * row.bytes % way.block != 0) continue;
    all.nibbles.push_back({name, read_codes(theirs, row, name, cols, way.block, head.count), 1});
  }
  for (const NamedLayout& layout : layouts) {
    if (!fits(theirs, layout, rows, blocks)) continue;
    all.scales.push_back({layout.name, read_scales(theirs, layout, rows, blocks, head.count), 1});
  }
  for (Reading& n : all.nibbles) {
    for (Reading& s : all.scales) {
      const double error = reading_error(head, way, n.bytes, s.bytes);
      n.error = std::min(n.error, error);
      s.error = std::min(s.error, error);
      all.error = std::min(all.error, error);
    }
  }
  return all;
}

/// Recipe exact's naive of the first rows, with their tensor scale where it is known.
Quantized naive_head(const Way& way, const Head& head, const Survey& survey, const AgainstOptions& options,
                     const TheirBytes& theirs) {
  QuantizeWords words = {way.format->name, "naive", "", "", "propagate", way.block, 0};
  words.tiles = options.tiles;
  QuantizeConfig c = parse_config(words);
  if (theirs.tensor_scale && way.format->tensor_scaled) {
    c.scaling = TensorScaling::value;
    c.scaling_value = theirs.tensor_scale->reciprocal ? 1 / theirs.tensor_scale->value : theirs.tensor_scale->value;
  }
  const Matrix& m = *head.matrix;
  const Matrix first = {head.count, m.cols, {m.data.begin(), m.data.begin() + head.count * m.cols}, m.dtype};
  const Piece piece = {survey, 0};
  return quantize(c, first, theirs.where, nullptr, nullptr, &piece);
}

/// What is read.
struct Detection {
  Way way;
  std::vector<Choice> choices;  ///< format, nibbles, scales
};

/// The formats that their bytes may be of.
std::vector<const formats::BlockFormat*> possible_formats(const AgainstOptions& options, const TheirBytes& theirs) {
  std::vector<const formats::BlockFormat*> out;
  if (!options.format.empty()) {
    if (const formats::BlockFormat* f = formats::find_block_format(options.format)) return {f};
    throw UsageError("--format", "unknown format '" + options.format + "'",
                     suggestion(options.format, analysis::format_names()));
  }
  const bool any = std::any_of(std::begin(sim::all_recipes), std::end(sim::all_recipes),
                               [&](const sim::Recipe& r) { return options.recipe == r.name; });
  for (const formats::BlockFormat& f : formats::all_block_formats) {
    const bool has = std::any_of(std::begin(sim::all_recipes), std::end(sim::all_recipes), [&](const sim::Recipe& r) {
      return options.recipe == r.name && r.format == std::string_view(f.name);
    });
    if (any && !has) continue;  // the recipe that is asked for says something of the format
    const bool power = f.scale.mantissa_bits == 0;
    if ((theirs.scales_dtype == "F8_E4M3" && power) || (theirs.scales_dtype == "F8_E8M0" && !power)) continue;
    out.push_back(&f);
  }
  return out;
}

std::vector<Way> possible_ways(const AgainstOptions& options, const Matrix& m, const TheirBytes& theirs) {
  std::vector<Way> ways;
  for (const formats::BlockFormat* f : possible_formats(options, theirs)) {
    std::vector<int> blocks = {f->block};
    for (const int block : {16, 32, 64, 128, 8, 256, 4, 2, 512, 1024}) {
      if (block != f->block) blocks.push_back(block);
    }
    if (options.block != 0) blocks = {options.block};
    for (const int block : blocks) {
      const std::int64_t count = padded(m.cols, block) / block;
      if (code_row(theirs, m.rows, m.cols, f->element.bits, block).bytes == 0) continue;
      const bool any = std::any_of(std::begin(layouts), std::end(layouts), [&](const NamedLayout& l) {
        return (options.layout.empty() || options.layout == l.name) && fits(theirs, l, m.rows, count);
      });
      if (!any) continue;
      ways.push_back({f, block});
    }
  }
  return ways;
}

[[noreturn]] void refuse_sizes(const AgainstOptions& options, const Matrix& m, const TheirBytes& theirs) {
  const formats::BlockFormat* f = formats::find_block_format(options.format.empty() ? "nvfp4" : options.format);
  const int bits = f ? f->element.bits : 4, block = options.block != 0 ? options.block : f ? f->block : 16;
  const auto size = static_cast<std::int64_t>(theirs.codes.size());
  if (code_row(theirs, m.rows, m.cols, bits, block).bytes == 0) {
    throw Error(theirs.where, fmt::format("{} bytes of codes don't fit a matrix [{}, {}]", size, m.rows, m.cols),
                bits <= 4 ? fmt::format("[{}, {}] packed or [{}, {}] one a byte is {} or {}", m.rows, m.cols / 2,
                                        m.rows, m.cols, m.rows * (m.cols / 2), m.rows * m.cols)
                          : fmt::format("one a byte is {}", m.rows * m.cols));
  }
  const std::int64_t blocks = padded(m.cols, block) / block;
  throw Error(theirs.where,
              fmt::format("{} bytes of scales don't fit blocks of {}{} in a matrix [{}, {}]", theirs.scales.size(),
                          block, options.layout.empty() ? "" : ", " + options.layout + ",", m.rows, m.cols),
              fmt::format("linear is {}, 128x4 {}, 8x4 {}; --block and --layout say otherwise", m.rows * blocks,
                          formats::swizzled_size(formats::scales_128x4, m.rows, blocks),
                          formats::swizzled_size(formats::scales_8x4, m.rows, blocks)));
}

void check_words(const AgainstOptions& o, const Matrix& m) {
  if (!o.nibbles.empty() && std::find(nibble_names.begin(), nibble_names.end(), o.nibbles) == nibble_names.end()) {
    throw UsageError("--nibbles", "unknown order '" + o.nibbles + "'", suggestion(o.nibbles, nibble_names));
  }
  if (!o.layout.empty() && std::find(layout_names.begin(), layout_names.end(), o.layout) == layout_names.end()) {
    throw UsageError("--layout", "unknown layout '" + o.layout + "'", suggestion(o.layout, layout_names));
  }
  if (o.block != 0 && (o.block < 2 || o.block % 2 != 0 || o.block > search::max_block)) {
    throw UsageError("--block", fmt::format("{} is not an even number from 2 to {}", o.block, search::max_block));
  }
  if (m.rows <= 0 || m.cols <= 0) throw Error("IN", "the matrix has no elements");
}

Detection detect(const AgainstOptions& options, const Matrix& m, const Survey& survey, const TheirBytes& theirs) {
  const std::vector<Way> ways = possible_ways(options, m, theirs);
  if (ways.empty()) refuse_sizes(options, m, theirs);
  const std::int64_t tile = options.tiles ? search::max_block : 1;  // tiles are read whole
  const std::int64_t most = detection_elements / m.cols / tile * tile;
  const Head head = {&m, std::clamp<std::int64_t>(most, std::min(tile, m.rows), m.rows)};
  std::vector<Readings> found;
  for (const Way& way : ways) found.push_back(read_all(way, head, theirs));
  std::stable_sort(found.begin(), found.end(), [](const Readings& a, const Readings& b) { return a.error < b.error; });
  const Readings& best = found[0];
  const Quantized naive = naive_head(best.way, head, survey, options, theirs);
  Choice format = {"format", best.way.text(), ways.size() == 1, best.error, 0, "", 1, false};
  if (found.size() > 1) {
    format.second = found[1].way.text();
    format.second_error = found[1].error;
    format.ambiguous = found[0].error == found[1].error;
  }
  const std::string nibbles = best.nibbles.size() > 1 ? options.nibbles : "low";
  const Choice codes = choose("nibbles", nibbles, best.nibbles, naive.codes);
  const Choice scales = choose("scales", options.layout, best.scales, naive.scales);
  format.agreement = (codes.agreement + scales.agreement) / 2;
  return {best.way, {format, codes, scales}};
}

RecipeCount count_row(const RecipeRow& row, const TensorPair& pair) {
  RecipeCount count = {row.run.name, row.recipe, row.method, 0, 0, 0, 0, 0, 0, {}};
  const Quantized& q = *pair.ours;
  count.blocks = q.rows * q.blocks_per_row();
  count.elements = q.rows * pair.cols;
  std::int64_t equal = 0, scales = 0, elements = 0;
#pragma omp parallel for schedule(static) reduction(+ : equal, scales, elements)
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
      const std::uint8_t *ours = pair.our_codes(r, b), *theirs = pair.their_codes(r, b);
      std::int64_t different = 0;
      for (int i = 0; i < pair.compared(b); ++i) different += ours[i] != theirs[i];
      const bool same = q.scales[pair.at(r, b)] == pair.scales[pair.at(r, b)];
      equal += same && different == 0;
      scales += !same;
      elements += different;
    }
  }
  count.equal = equal;
  count.scales_differ = scales;
  count.codes_differ = count.blocks - equal - scales;
  count.elements_differ = elements;
  return count;
}

/// What --recipe and --scale name.
bool wanted(const RecipeRow& row, const AgainstOptions& o) {
  if (!o.recipe.empty() && row.recipe != o.recipe) return false;
  if (o.method.empty() || row.method == o.method) return true;
  const QuantizeConfig& c = row.run.config;
  if (c.recipe) return sim::lists(c.recipe->methods, o.method);
  const search::Method* method = search::find_method(c.format->name, o.method);  // an alias, as static6
  return method && method->kind == c.method->kind && method->rule.divisor == c.method->rule.divisor &&
         method->rule.rounding == c.method->rule.rounding && method->rule.least == c.method->rule.least;
}

void check_recipe(const std::vector<RecipeRow>& rows, const AgainstOptions& o, const Way& way) {
  if (std::any_of(rows.begin(), rows.end(), [&](const RecipeRow& row) { return wanted(row, o); })) return;
  QuantizeWords words = {way.format->name, o.method, "", "", "", way.block, 0};
  words.recipe = o.recipe;
  words.tiles = o.tiles;
  parse_config(words);  // says what is wrong with them, and what there is
  throw UsageError(
      o.method.empty() ? "--recipe" : "--scale",
      fmt::format("{} is not among what {} is held against", o.method.empty() ? o.recipe : o.method, way.format->name),
      "rules, sse and the recipes' own methods are");
}

/// Codes that no element has can't be compared.
void check_codes(const std::vector<std::uint8_t>& codes, const Way& way, std::int64_t cols, const std::string& where) {
  const std::uint32_t count = way.format->element.code_count();
  const std::int64_t width = padded(cols, way.block);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] < count) continue;
    const auto at = static_cast<std::int64_t>(i);
    throw Error(where, fmt::format("row {}, column {} holds 0x{:02x}, no code of {}'s {} bits", at / width, at % width,
                                   codes[i], way.format->name, way.format->element.bits));
  }
}

const NamedLayout& layout_of(const std::string& name) {
  return *std::find_if(std::begin(layouts), std::end(layouts), [&](const NamedLayout& l) { return name == l.name; });
}

/// Their bytes as arrays, and the other readings of their scales.
TensorPair read_theirs(const Detection& d, const Matrix& m, std::int64_t cols, const TheirBytes& theirs) {
  const Way& way = d.way;
  const CodeRow row = code_row(theirs, m.rows, cols, way.format->element.bits, way.block);
  const std::string &nibbles = d.choices[1].taken, &layout = d.choices[2].taken;
  const std::int64_t blocks = m.cols / way.block;
  TensorPair pair = {nullptr,
                     nullptr,
                     &m,
                     cols,
                     read_codes(theirs, row, nibbles, cols, way.block, m.rows),
                     read_scales(theirs, layout_of(layout), m.rows, blocks, m.rows),
                     {}};
  check_codes(pair.codes, way, cols, theirs.where);
  for (const NamedLayout& other : layouts) {
    if (layout == other.name || !fits(theirs, other, m.rows, blocks)) continue;
    pair.other_scales.emplace_back(other.name, read_scales(theirs, other, m.rows, blocks, m.rows));
  }
  return pair;
}

/// Ranked: blocks that agree whole, then scales, then elements, then the nearest tensor scale, then the tables' order.
struct Ranked {
  RecipeRow row;
  RecipeCount count;
};

bool better(const Ranked& a, const Ranked& b) {
  if (a.count.equal != b.count.equal) return a.count.equal > b.count.equal;
  if (a.count.scales_differ != b.count.scales_differ) return a.count.scales_differ < b.count.scales_differ;
  if (a.count.elements_differ != b.count.elements_differ) return a.count.elements_differ < b.count.elements_differ;
  return std::llabs(a.count.tensor_scale_ulps.value_or(0)) < std::llabs(b.count.tensor_scale_ulps.value_or(0));
}

}  // namespace

AgainstReport compare_against(const AgainstOptions& options, const std::string& name, const Matrix& matrix,
                              const TheirBytes& theirs) {
  check_words(options, matrix);
  if (theirs.tensor_scale && (!(theirs.tensor_scale->value > 0) || !std::isfinite(theirs.tensor_scale->value))) {
    throw Error(theirs.where, fmt::format("its tensor scale {} is not a positive number", theirs.tensor_scale->value));
  }
  Survey survey(matrix.cols);
  survey.add(matrix);
  const Detection d = detect(options, matrix, survey, theirs);
  AgainstReport report = {name,        matrix.dtype, matrix.rows,         matrix.cols, d.way.format->name,
                          d.way.block, d.choices,    theirs.tensor_scale, {},          {}};
  const Matrix m = pad_columns(matrix, d.way.block);
  TensorPair pair = read_theirs(d, m, matrix.cols, theirs);
  const std::vector<RecipeRow> rows = recipe_rows(*d.way.format, d.way.block, options.tiles);
  check_recipe(rows, options, d.way);
  std::vector<Ranked> ranked;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (options.stop && *options.stop) return report;
    if (options.progress) options.progress(static_cast<double>(i) / static_cast<double>(rows.size()), rows[i].run.name);
    RecipeRow row = rows[i];
    std::optional<std::int64_t> distance;
    if (theirs.tensor_scale && !take_tensor_scale(row, survey, *theirs.tensor_scale, distance)) continue;
    if (!defined_on(row, survey)) continue;
    const Quantized q = quantize(row.run.config, m, name, nullptr, options.stop);
    if (options.stop && *options.stop) return report;
    pair.run = &row.run;
    pair.ours = &q;
    ranked.push_back({row, count_row(row, pair)});
    ranked.back().count.tensor_scale_ulps = distance;
  }
  std::stable_sort(ranked.begin(), ranked.end(), better);
  for (const Ranked& r : ranked) report.ranking.push_back(r.count);
  std::vector<const Ranked*> explain;
  const auto given =
      std::find_if(ranked.begin(), ranked.end(), [&](const Ranked& r) { return wanted(r.row, options); });
  if (given == ranked.end()) {
    throw Error(name, "what recipe " + options.recipe + " does with it is undefined",
                "NaN or Inf in the data, or a tensor scale where the recipe has none");
  }
  explain.push_back(&*given);
  if (given->count.equal < ranked[0].count.equal) explain.push_back(&ranked[0]);
  for (const Ranked* r : explain) {
    const Quantized q = quantize(r->row.run.config, m, name, nullptr, options.stop);
    if (options.stop && *options.stop) return report;
    pair.run = &r->row.run;
    pair.ours = &q;
    report.explained.push_back(
        {r->count, r->count.equal == r->count.blocks ? std::vector<ClassCount>{} : classify(pair)});
  }
  return report;
}

}  // namespace fp4scope::analysis
