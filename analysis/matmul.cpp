#include "analysis/matmul.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

const char* const product_part_names[product_part_count] = {"weights",      "activations", "both",  "conversion",
                                                            "accumulation", "epilogue",    "output"};

namespace {

/// x / y; 0 where x is.
double share(double x, double y) { return x == 0 ? 0 : x / y; }

}  // namespace

double ProductError::relative() const { return std::sqrt(share(error, energy)); }
double ProductError::relative(int part) const { return std::sqrt(share(inner[part][part], energy)); }
double ProductError::shrinkage(int part) const { return 0 - share(along[part], energy); }
double ProductError::cosine() const { return error == 0 ? 1 : share(along_out, std::sqrt(out_energy * energy)); }

double ProductError::rest() const {
  if (error == 0) return 0;
  double sum = 0;
  for (const auto& row : inner) {
    for (const double product : row) sum += product;
  }
  return std::fabs(error - sum) / error;
}

KOrder parse_k_order(const std::string& text) {
  const std::vector<std::string> known = {"forward", "reverse", "split:N"};
  if (text.empty() || text == "forward") return {};
  if (text == "reverse") return {true, 1};
  if (text.rfind("split:", 0) == 0 && text.size() > 6 && text.size() < 12 &&
      text.find_first_not_of("0123456789", 6) == std::string::npos) {
    const int parts = std::stoi(text.substr(6));
    if (parts > 0) return {false, parts};
  }
  throw UsageError("--k-order", "unknown word '" + text + "'", "there are: " + join(known));
}

namespace {

AlphaStep default_alpha(const QuantizeConfig* a) {
  const std::string recipe = a ? a->recipe_name() : "";
  if (recipe == "te" || recipe == "te_ref") return AlphaStep::te;
  return recipe == "fouroversix" ? AlphaStep::fouroversix : AlphaStep::product;
}

bool has_amax(const QuantizeConfig* c) { return c && c->scaling == TensorScaling::amax && c->scale_max > 0; }

AlphaStep parse_alpha(const std::string& name, const QuantizeConfig* a, const QuantizeConfig* b, const Unit& unit) {
  if (name.empty()) {
    const AlphaStep step = default_alpha(a);
    return has_amax(a) && has_amax(b) ? step : AlphaStep::product;
  }
  std::vector<std::string> names;
  for (const AlphaRow& row : alpha_rows) {
    names.emplace_back(row.name);
    if (name != row.name) continue;
    if (unit.exact() || unit.fed == Fed::f32) {
      throw UsageError("--alpha", unit.arch + " has the tensor scales in its operands", "leave it out");
    }
    const bool by_amax = row.step == AlphaStep::te || row.step == AlphaStep::fouroversix;
    if (by_amax && (!has_amax(a) || !has_amax(b))) {
      throw UsageError("--alpha", name + " needs both operands' amax", "--tensor-scale amax, or --alpha product");
    }
    return row.step;
  }
  throw UsageError("--alpha", "unknown name '" + name + "'", suggestion(name, names));
}

}  // namespace

MatmulConfig parse_matmul(const MatmulWords& words, const QuantizeConfig* a, const QuantizeConfig* b) {
  for (const QuantizeConfig* side : {a, b}) {
    if (side && side->method->corrects()) {
      throw UsageError("--scale", std::string(side->method->name) + "'s values are not codes times scales");
    }
  }
  MatmulConfig c;
  c.unit = find_unit(words.arch, words.instruction, a ? a->format : nullptr, a ? a->block : 0, b ? b->format : nullptr,
                     b ? b->block : 0);
  if (c.unit.exact() && !words.k_order.empty()) throw UsageError("--k-order", "exact sums have none", "leave it out");
  c.order = parse_k_order(words.k_order);
  c.alpha = parse_alpha(words.alpha, a, b, c.unit);
  c.promote = words.promote;
  if (c.promote < 0 || c.promote % c.unit.k() != 0 || (c.promote > 0 && c.unit.exact())) {
    throw UsageError("--promote", fmt::format("{} is no multiple of {}'s K of {}", c.promote, c.unit.name, c.unit.k()));
  }
  const std::vector<std::string> dtypes = {"f32", "bf16", "f16"};
  if (words.out_dtype.empty() || words.out_dtype == "f32") c.out_dtype = "F32";
  else if (words.out_dtype == "bf16") c.out_dtype = "BF16";
  else if (words.out_dtype == "f16") c.out_dtype = "F16";
  else throw UsageError("--out-dtype", "unknown type '" + words.out_dtype + "'", suggestion(words.out_dtype, dtypes));
  return c;
}

namespace {

/// One operand as the product takes it, row by row.
struct Side {
  const Matrix& given;
  const Quantized* q;
  const Unit& unit;
  const formats::Format* type = nullptr;  ///< of the instruction's operand
  std::int64_t cols = 0;                  ///< padded
  bool reversed = false;
  double tensor_scale = 1;         ///< that what the unit reads lacks
  float to_e4m3 = 1;               ///< and the scale of its conversion
  std::vector<float> dequantized;  ///< of Fed::f32
  std::vector<RowFacts> facts;
  bool converted = false;  ///< whether the unit reads other values than the stored ones

  double factor() const { return tensor_scale * static_cast<double>(to_e4m3); }
  std::int64_t place(std::int64_t c) const {
    const std::int64_t k = unit.k();
    return reversed ? (cols / k - 1 - c / k) * k + c % k : c;
  }
};

/// Room for rows: [cols], `stride` apart.
struct Places {
  double *given, *stored, *lost, *fed, *power;
  std::int64_t stride;
};
constexpr int place_count = 5;

Places places_of(std::vector<double>& room, std::int64_t cols, std::int64_t at, std::int64_t stride) {
  double* const start = room.data() + at;
  const std::int64_t apart = cols * stride;
  return {start, start + apart, start + 2 * apart, start + 3 * apart, start + 4 * apart, stride};
}

/// An element without its tensor scale.
struct Stored {
  double given, value, base, scale;
};

/// What the unit reads of it.
double fed_value(const Side& s, const Stored& e, std::int64_t row, std::int64_t c) {
  constexpr formats::Format bf16 = formats::bf16, fp16 = formats::fp16, e4m3 = formats::e4m3;
  const auto rounded_to = [](const formats::Format& f, double x) {
    const auto code = formats::encode(f, x, formats::Rounding::nearest_even, formats::Overflow::nan).code;
    return formats::decode_double(f, code);
  };
  switch (s.unit.fed) {
    case Fed::f32:
      return s.q ? s.dequantized[static_cast<std::size_t>(row * s.q->cols + c)] : static_cast<float>(e.given);
    case Fed::bf16: return rounded_to(bf16, e.base);
    case Fed::f16: return rounded_to(fp16, e.base);
    case Fed::e4m3:
      return formats::decode_double(e4m3, formats::encode(e4m3, e.base / static_cast<double>(s.to_e4m3)).code);
    case Fed::real:
    case Fed::codes: break;
  }
  return e.base;
}

/// The exponent of that, as 2^e; of scaled blocks the scale.
double power_in_unit(const Side& s, double fed, double scale) {
  if (!s.type) return fed == 0 ? 0 : 1;
  const sim::Instruction& i = *s.unit.instruction;
  if (i.exact_group > 0) return scale;
  const double shared = i.scaled ? scale : 1;
  return shared * power_of(fed / shared, i.least_normal(*s.type), i.zero_exponent);
}

/// visit(column, Stored) for a row's own columns.
template <class Visit>
void for_each_stored(const Side& s, std::int64_t row, const Visit& visit) {
  const float* const x = s.given.row(row);
  if (!s.q) {
    for (std::int64_t c = 0; c < s.given.cols; ++c) visit(c, Stored{x[c], x[c], x[c], 1});
    return;
  }
  const Quantized& q = *s.q;
  const formats::BlockFormat& format = *q.config.format;
  for (std::int64_t first = 0; first < s.given.cols; first += q.config.block) {
    const std::int64_t b = first / q.config.block;
    const double scale = formats::decode_double(format.scale, static_cast<std::uint32_t>(q.scale_code(row, b)));
    const double step = q.step(row, b);
    const bool integer = q.integer(row, b);
    for (std::int64_t c = first; c < std::min(first + q.config.block, s.given.cols); ++c) {
      const std::uint8_t code = q.codes[static_cast<std::size_t>(row * q.cols + c)];
      visit(c, Stored{x[c], q.value(row, c, step, integer), sim::dequantize(format, code, scale, integer), scale});
    }
  }
}

/// Padding stays as it is: zeros.
void fill_row(const Side& s, std::int64_t row, const Places& p) {
  for_each_stored(s, row, [&](std::int64_t c, const Stored& e) {
    const std::int64_t at = s.place(c) * p.stride;
    const double fed = fed_value(s, e, row, c);
    p.given[at] = e.given;
    p.stored[at] = e.value;
    p.lost[at] = e.value - e.given;
    p.fed[at] = fed;
    p.power[at] = power_in_unit(s, fed, e.scale);
  });
}

/// amax / 448 of what has no tensor scale any more, 1 for zeros.
float e4m3_scale(const Side& s) {
  double amax = 0;
  for (std::int64_t r = 0; r < s.given.rows; ++r) {
    for_each_stored(s, r, [&amax](std::int64_t, const Stored& e) { amax = std::max(amax, std::fabs(e.base)); });
  }
  return amax == 0 ? 1 : static_cast<float>(amax) / 448;
}

void gather_facts(Side& s) {
  s.facts.assign(static_cast<std::size_t>(s.given.rows), {});
  bool converted = false, finite = true;
#pragma omp parallel for schedule(static) reduction(|| : converted) reduction(&& : finite)
  for (std::int64_t r = 0; r < s.given.rows; ++r) {
    RowFacts& facts = s.facts[static_cast<std::size_t>(r)];
    for_each_stored(s, r, [&](std::int64_t c, const Stored& e) {
      const double fed = fed_value(s, e, r, c);
      add_to_facts(facts, fed, power_in_unit(s, fed, e.scale));
      const double wanted = s.unit.fed == Fed::f32 ? e.value : e.base;
      converted = converted || fed * static_cast<double>(s.to_e4m3) != wanted;
      finite = finite && std::isfinite(fed);
    });
    finish_facts(facts);
  }
  s.converted = converted;
  if (!finite) {
    throw Error("operands", fmt::format("values of {} are beyond the range of {}'s operands",
                                        s.q ? s.q->config.format->name : s.given.dtype, s.unit.name),
                "an instruction with bf16 operands has binary32's range");
  }
}

Side make_side(const Operand& o, const MatmulConfig& c, bool is_b, std::int64_t cols) {
  Side s = {*o.given, o.q, c.unit, nullptr, 0, false, 1, 1, {}, {}, false};
  if (c.unit.instruction) s.type = is_b ? &c.unit.instruction->b : &c.unit.instruction->a;
  s.cols = cols;
  s.reversed = c.order.reversed;
  if (c.unit.fed == Fed::f32) {
    if (o.q) s.dequantized = dequantize(*o.q, o.given);
  } else if (o.q) {
    s.tensor_scale = static_cast<double>(o.q->tensor_scale);
  }
  if (c.unit.fed == Fed::e4m3) s.to_e4m3 = e4m3_scale(s);
  gather_facts(s);
  return s;
}

float alpha_of(const MatmulConfig& c, const Side& a, const Side& b) {
  if (c.unit.exact() || c.unit.fed == Fed::f32) return 1;
  const float da = a.q ? a.q->tensor_scale : 1, db = b.q ? b.q->tensor_scale : 1;
  const auto range = [](const Side& s) {
    return static_cast<float>(s.q->config.format->element_max() * s.q->config.scale_max);
  };
  float alpha = da * db;
  switch (c.alpha) {
    case AlphaStep::product: break;
    case AlphaStep::te: alpha = a.q->amax * b.q->amax * (1 / (range(a) * range(b))); break;
    case AlphaStep::fouroversix: alpha = (a.q->amax * b.q->amax) / (range(a) * range(b)); break;
    case AlphaStep::reciprocal: alpha = 1 / ((1 / da) * (1 / db)); break;
  }
  return c.unit.fed == Fed::e4m3 ? a.to_e4m3 * b.to_e4m3 * alpha : alpha;
}

/// Runs of K that are summed from 0: all of it, or by split and promotion.
struct Runs {
  std::int64_t cols, slice, piece;

  Runs(const MatmulConfig& c, std::int64_t cols_) : cols(cols_) {
    const std::int64_t k = c.unit.k(), instructions = cols / k;
    slice = (instructions + c.order.split - 1) / c.order.split * k;
    piece = c.promote > 0 ? c.promote : slice;
  }
};

Line part(const Line& line, std::int64_t first, int width) {
  return {line.value + first * width, line.power + first * width, line.facts};
}

/// The unit's sums of a row and eight columns; how many of them had a proof.
int sum_all(const Unit& unit, const Runs& runs, const Line& a, const Line& b, double out[lanes]) {
  bool fast[lanes];
  for (int j = 0; j < lanes; ++j) fast[j] = proves_fast(unit, a.facts[0], b.facts[j]);
  const auto proved = static_cast<int>(std::count(fast, fast + lanes, true));
  const auto sum_run = [&](std::int64_t first, std::int64_t count, double* sum) {
    const Line x = part(a, first, 1), y = part(b, first, lanes);
    if (proved > 0) sum_fast(unit, x, y, count, sum);
    for (int j = 0; j < lanes; ++j) {
      if (!fast[j]) sum[j] = sum_plain(unit, x, y, j, count);
    }
  };
  if (runs.piece >= runs.cols) {
    sum_run(0, runs.cols, out);
    return proved;
  }
  float total[lanes] = {};
  for (std::int64_t from = 0; from < runs.cols; from += runs.slice) {
    const std::int64_t to = std::min(from + runs.slice, runs.cols);
    float slice[lanes] = {};
    for (std::int64_t first = from; first < to; first += runs.piece) {
      double sum[lanes];
      sum_run(first, std::min(runs.piece, to - first), sum);
      for (int j = 0; j < lanes; ++j) slice[j] += static_cast<float>(sum[j]);
    }
    for (int j = 0; j < lanes; ++j) total[j] += slice[j];
  }
  std::copy_n(total, lanes, out);
  return proved;
}

double rounded_out(const std::string& dtype, double x) {
  if (dtype == "F32") return static_cast<float>(x);
  const formats::Format& f = dtype == "BF16" ? formats::bf16 : formats::fp16;
  return formats::decode_double(f, formats::encode(f, x, formats::Rounding::nearest_even, formats::Overflow::nan).code);
}

/// What a multiplication needs beside the two sides.
struct Task {
  const MatmulConfig& config;
  Side a, b;
  Runs runs;
  float alpha;
  double factor;
};

/// Eight outputs of one row: exact products, what is returned, and the parts of the difference.
struct Outputs {
  double exact[lanes], out[lanes], part[product_part_count][lanes];
  int proved;
};

/// The outputs from sums of what the unit reads.
void finish(const Task& t, const double* sum, const double* fed, const double* stored, Outputs& o) {
  for (int j = 0; j < lanes; ++j) {
    const double scaled = static_cast<double>(static_cast<float>(sum[j]) * t.alpha);
    o.out[j] = rounded_out(t.config.out_dtype, scaled);
    o.part[of_conversion][j] = t.a.converted || t.b.converted ? fed[j] * t.factor - stored[j] : 0;
    o.part[of_sum][j] = (sum[j] - fed[j]) * t.factor;
    o.part[of_epilogue][j] = scaled - sum[j] * t.factor;
    o.part[of_output][j] = o.out[j] - scaled;
  }
}

void multiply_row(const Task& t, const Places& a, const RowFacts& of_a, const Places& b, const RowFacts* of_b,
                  Outputs& o) {
  const std::int64_t k = t.a.cols;
  o = {};
  dot_lanes(a.given, b.given, k, o.exact);
  if (t.b.q) dot_lanes(a.given, b.lost, k, o.part[of_weights]);
  if (t.a.q) dot_lanes(a.lost, b.given, k, o.part[of_activations]);
  if (t.a.q && t.b.q) dot_lanes(a.lost, b.lost, k, o.part[of_both]);
  const Line x = {a.fed, a.power, &of_a}, y = {b.fed, b.power, of_b};
  if (t.config.unit.exact()) {
    double real[lanes];
    o.proved = lanes - exact_lanes(x, y, k, t.factor, real);
    for (int j = 0; j < lanes; ++j) {
      o.out[j] = rounded_out(t.config.out_dtype, real[j]);
      o.part[of_output][j] = o.out[j] - real[j];
    }
    return;
  }
  double sum[lanes], fed[lanes], stored[lanes] = {};
  o.proved = sum_all(t.config.unit, t.runs, x, y, sum);
  dot_lanes(a.fed, b.fed, k, fed);
  if (t.a.converted || t.b.converted) dot_lanes(a.stored, b.stored, k, stored);
  finish(t, sum, fed, stored, o);
}

void add(ProductError& sum, const Outputs& o, int j) {
  const double error = o.out[j] - o.exact[j];
  sum.energy += o.exact[j] * o.exact[j];
  sum.error += error * error;
  sum.out_energy += o.out[j] * o.out[j];
  sum.along_out += o.out[j] * o.exact[j];
  for (int p = 0; p < product_part_count; ++p) {
    sum.along[p] += o.part[p][j] * o.exact[j];
    for (int q = p; q < product_part_count; ++q) sum.inner[p][q] += o.part[p][j] * o.part[q][j];
  }
}

void add(ProductError& total, const ProductError& tile) {
  total.energy += tile.energy;
  total.error += tile.error;
  total.out_energy += tile.out_energy;
  total.along_out += tile.along_out;
  for (int p = 0; p < product_part_count; ++p) {
    total.along[p] += tile.along[p];
    for (int q = p; q < product_part_count; ++q) total.inner[q][p] = total.inner[p][q] += tile.inner[p][q];
  }
}

constexpr std::int64_t doubles_in_memory = std::int64_t{1} << 25;  // of rows of A that meet every row of B: 256 MiB

/// Rows [first, last) of A against eight rows of B.
struct Tile {
  ProductError error;
  std::int64_t proved = 0;
};
void multiply_tile(const Task& t, std::vector<double>& rows, std::int64_t first, std::int64_t last, std::int64_t column,
                   std::vector<double>& room, Tile& tile, Product& out) {
  const std::int64_t k = t.a.cols, wide = k * place_count;
  const int width = static_cast<int>(std::min<std::int64_t>(lanes, out.cols - column));
  room.assign(static_cast<std::size_t>(wide * lanes), 0.0);
  RowFacts facts[lanes];
  for (int j = 0; j < width; ++j) {
    fill_row(t.b, column + j, places_of(room, k, j, lanes));
    facts[j] = t.b.facts[static_cast<std::size_t>(column + j)];
  }
  const Places b = places_of(room, k, 0, lanes);
  Outputs o;
  for (std::int64_t r = first; r < last; ++r) {
    multiply_row(t, places_of(rows, k, (r - first) * wide, 1), t.a.facts[static_cast<std::size_t>(r)], b, facts, o);
    tile.proved += o.proved - (lanes - width);  // lanes beyond the last column are zeros, always proved
    for (int j = 0; j < width; ++j) {
      add(tile.error, o, j);
      out.out[static_cast<std::size_t>(r * out.cols + column + j)] = static_cast<float>(o.out[j]);
    }
  }
}

}  // namespace

Product multiply(const Operand& a, const Operand& b, const MatmulConfig& c, const std::atomic<bool>* stop,
                 const std::function<void(double)>& progress) {
  if (a.given->cols != b.given->cols) {
    throw Error("operands", fmt::format("A has {} columns and B {}", a.given->cols, b.given->cols),
                "K lies along the rows of both");
  }
  const std::int64_t k = padded(a.given->cols, c.unit.k());
  Task t = {c, make_side(a, c, false, k), make_side(b, c, true, k), Runs(c, k), 1, 1};
  t.alpha = alpha_of(c, t.a, t.b);
  t.factor = t.a.factor() * t.b.factor();
  Product out;
  out.rows = a.given->rows;
  out.cols = b.given->rows;
  out.alpha = t.alpha;
  out.out.resize(static_cast<std::size_t>(out.rows * out.cols));
  const std::int64_t tile_count = (out.cols + lanes - 1) / lanes;
  std::vector<Tile> tiles(static_cast<std::size_t>(tile_count));
  const std::int64_t wide = k * place_count, chunk = std::max<std::int64_t>(doubles_in_memory / wide, 8);
  for (std::int64_t first = 0; first < out.rows; first += chunk) {
    const std::int64_t last = std::min(first + chunk, out.rows);
    std::vector<double> rows(static_cast<std::size_t>((last - first) * wide));
#pragma omp parallel for schedule(static)
    for (std::int64_t r = first; r < last; ++r) fill_row(t.a, r, places_of(rows, k, (r - first) * wide, 1));
#pragma omp parallel
    {
      std::vector<double> room;
#pragma omp for schedule(dynamic, 1)
      for (std::int64_t i = 0; i < tile_count; ++i) {
        if (stop && *stop) continue;
        multiply_tile(t, rows, first, last, i * lanes, room, tiles[static_cast<std::size_t>(i)], out);
      }
    }
    if (stop && *stop) return {};
    if (progress) progress(static_cast<double>(last) / static_cast<double>(out.rows));
  }
  for (const Tile& tile : tiles) {
    add(out.error, tile.error);
    out.proved += tile.proved;
  }
  return out;
}

std::vector<double> product_in_binary64(const Matrix& a, const Matrix& b) {
  std::vector<double> out(static_cast<std::size_t>(a.rows * b.rows));
  const std::int64_t k = a.cols;
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t column = 0; column < b.rows; column += lanes) {
    const int width = static_cast<int>(std::min<std::int64_t>(lanes, b.rows - column));
    std::vector<double> y(static_cast<std::size_t>(k * lanes)), x(static_cast<std::size_t>(k));
    for (int j = 0; j < width; ++j) {
      for (std::int64_t c = 0; c < k; ++c) y[static_cast<std::size_t>(c * lanes + j)] = b.row(column + j)[c];
    }
    for (std::int64_t r = 0; r < a.rows; ++r) {
      std::copy_n(a.row(r), k, x.data());
      double sum[lanes];
      dot_lanes(x.data(), y.data(), k, sum);
      std::copy_n(sum, width, out.data() + r * b.rows + column);
    }
  }
  return out;
}

}  // namespace fp4scope::analysis
