#include "analysis/terms.hpp"

#include <algorithm>
#include <cmath>

#include "analysis/exact_products.hpp"
#include "analysis/places.hpp"

namespace fp4scope::analysis {

const char* const term_names[term_count] = {"scale bias", "dead zone", "grid noise", "clipping"};

double Terms::cosine(Term a, Term b) const { return of(a, b) / (std::sqrt(of(a, a)) * std::sqrt(of(b, b))); }

namespace {

// Everything below is taken times L, so that s*, which is no binary number, becomes one: L s* = factor * amax. Levels
// are those of sim/grid.hpp: IF4's are 7 times (`factor`) as large, so that 6/7 is a whole number and L is 42 for both
// of its elements. With `top` = step * L / factor, the largest value of a block, and bits of binary64's 53:
//
//   L x                       8 (L) + 24
//   L Q*(x) = level * amax    8 + 24
//   L Q(x) = level * top      8 + 8 (L) + 24 (tensor scale) + 5 (block scale) = 45
//
// All are multiples of 2^-308 (levels and L 2^-16 each, tensor scale 2^-149, block scale 2^-127) below 2^287 (2^16,
// 2^16, 2^128, 2^127), and their differences below 2^288: inside of what ProductSum takes.

/// L.
double largest_level(const formats::BlockFormat& format) { return sim::grid_factor(format) * format.element_max(); }

/// What a format says about every block: levels by code, one row for each element type.
struct Tables {
  const formats::BlockFormat& format;
  sim::Grid grids[2];
  double level[2][256] = {};  ///< of the stored codes, with their signs
  double largest;             ///< L
  double dead_zone[2];        ///< half the smallest positive level

  explicit Tables(const formats::BlockFormat& f)
      : format(f), grids{sim::make_grid(f, false), sim::make_grid(f, true)}, largest(largest_level(f)) {
    const double factor = sim::grid_factor(f);
    for (std::uint32_t code = 0; code < f.element.code_count(); ++code) {
      level[0][code] = factor * formats::element_value(f, code);
      if (f.selects()) level[1][code] = 6 * formats::element_value(f, code, true);
    }
    for (int k = 0; k < 2; ++k) dead_zone[k] = wide() ? level[0][1] / 2 : grids[k].midpoint[0];
  }
  bool wide() const { return format.element.bits > 4; }
};

/// L Q*(x) of a block with that amax > 0, for magnitudes L |x|.
/// Elements above 4 bits: the quotient is L |x| / amax, and the boundaries m between levels have at most 8 bits. L |x|
/// (31 bits) and m amax (32) are equal or differ by more than 2^-32 of themselves, so the quotient rounded to binary64
/// lies on the same side of m as the real one (sim/scale.hpp): one division is enough.
struct Nearest {
  const formats::Format& element;
  const sim::Grid& grid;
  sim::Thresholds thresholds;
  double amax;
  bool wide;

  Nearest(const Tables& t, bool integer, double block_amax)
      : element(t.format.element),
        grid(t.grids[integer ? 1 : 0]),
        thresholds(sim::make_thresholds(grid, block_amax)),
        amax(block_amax),
        wide(t.wide()) {}
  double operator()(double magnitude) const {
    if (amax == 0) return 0;
    if (!wide) return grid.level[sim::nearest_index(thresholds, magnitude)] * amax;
    return formats::decode_double(element, formats::encode(element, magnitude / amax).code) * amax;
  }
};

struct Counts {
  std::int64_t elements = 0, dead = 0, clipped = 0, zeros = 0, blocks = 0;
};

constexpr int pairs = term_count * (term_count + 1) / 2;
constexpr int pair_of(int i, int j) { return i * term_count - i * (i - 1) / 2 + j - i; }  // i <= j
static_assert(pair_of(0, 3) == 3 && pair_of(1, 1) == 4 && pair_of(3, 3) == pairs - 1);

/// Exact sums: the order in which elements come does not matter.
struct Accumulators {
  ProductSum energy, error, inner[pairs];
  Counts counts;

  void add(const Accumulators& other) {
    energy.add(other.energy);
    error.add(other.error);
    for (int k = 0; k < pairs; ++k) inner[k].add(other.inner[k]);
    counts.elements += other.counts.elements;
    counts.dead += other.counts.dead;
    counts.clipped += other.counts.clipped;
    counts.zeros += other.counts.zeros;
    counts.blocks += other.counts.blocks;
  }
};

/// One element. Each term has its own condition, so that the identity with the error is a statement about all of them.
void add_element(Accumulators& sums, double x, double stored, double ideal, bool dead, bool clipped) {
  const Difference2 none = {0, 0}, distance = exact_difference(ideal, x), error = exact_difference(stored, x);
  const Difference2 term[term_count] = {clipped ? none : exact_difference(stored, ideal),
                                        dead && !clipped ? distance : none, !dead && !clipped ? distance : none,
                                        clipped ? error : none};
  sums.error.add_product(error, error);
  for (int i = 0; i < term_count; ++i) {
    if (term[i].high == 0) continue;
    for (int j = i; j < term_count; ++j) {
      if (term[j].high != 0) sums.inner[pair_of(i, j)].add_product(term[i], term[j]);
    }
  }
  sums.counts.dead += dead;
  sums.counts.clipped += clipped;
  sums.counts.zeros += stored == 0;
  ++sums.counts.elements;
}

/// Block b of a row, whose scale is that of values up to `amax`.
void add_block(Accumulators& sums, const Tables& tables, const Matrix& m, const Quantized& q, std::int64_t row,
               std::int64_t b, float amax) {
  const int integer = q.integer(row, b) ? 1 : 0;
  const Nearest nearest(tables, integer == 1, amax);
  const double step = q.step(row, b), top = step * tables.format.element_max();
  const double dead_zone = tables.dead_zone[integer] * amax;
  const float* const x = m.row(row);
  const std::uint8_t* const codes = q.codes.data() + row * q.cols;
  const std::int64_t last = std::min<std::int64_t>((b + 1) * q.config.block, m.cols);
  for (std::int64_t c = b * q.config.block; c < last; ++c) {
    const double magnitude = sim::magnitude(x[c]), scaled = tables.largest * magnitude;
    const bool dead = scaled < dead_zone;
    const bool clipped = step > 0 && magnitude > top;
    sums.energy.add_product(x[c], x[c]);
    add_element(sums, tables.largest * x[c], tables.level[integer][codes[c]] * top,
                std::copysign(nearest(scaled), x[c]), dead, clipped);
  }
}

/// The rows [first, last) that share their scales. Returns the sum of log2(s / s*).
double add_rows(Accumulators& sums, const Tables& tables, const Matrix& m, const Quantized& q, std::int64_t first,
                std::int64_t last) {
  double inflation = 0;
  for (std::int64_t column = 0, b = 0; column < m.cols; column += q.config.block, ++b) {
    const float amax = block_amax(m, q.config, first, b);
    for (std::int64_t r = first; r < last; ++r) add_block(sums, tables, m, q, r, b, amax);
    const double step = q.step(first, b);
    if (!(step > 0 && amax > 0)) continue;
    ++sums.counts.blocks;
    inflation += std::log2(step * tables.format.element_max() / static_cast<double>(amax));
  }
  return inflation;
}

}  // namespace

struct TermSums::Sums {
  Accumulators exact;
  double inflation = 0;
  double largest = 1;
};

TermSums::TermSums() : sums_(std::make_unique<Sums>()) {}
TermSums::~TermSums() = default;
TermSums::TermSums(TermSums&&) noexcept = default;
TermSums& TermSums::operator=(TermSums&&) noexcept = default;

void TermSums::add(const Matrix& original, const Quantized& q) {
  sums_->largest = largest_level(*q.config.format);
  const Tables tables(*q.config.format);
  const std::int64_t together = q.config.tile_rows(), groups = (original.rows + together - 1) / together;
  std::vector<double> inflation(static_cast<std::size_t>(groups));
#pragma omp parallel
  {
    Accumulators own;
#pragma omp for schedule(static)
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t first = g * together, last = std::min(first + together, original.rows);
      inflation[static_cast<std::size_t>(g)] = add_rows(own, tables, original, q, first, last);
    }
#pragma omp critical(fp4scope_terms)
    sums_->exact.add(own);
  }
  for (const double of_group : inflation) sums_->inflation += of_group;
}

Terms TermSums::terms() const {
  const Accumulators& a = sums_->exact;
  Terms t;
  t.elements = a.counts.elements;
  t.dead = a.counts.dead;
  t.clipped = a.counts.clipped;
  t.zeros = a.counts.zeros;
  t.blocks = a.counts.blocks;
  t.log_inflation = sums_->inflation;
  // L in whole numbers: it is a multiple of 2^-16.
  const auto divisor = static_cast<std::uint64_t>(sums_->largest * 0x1p16);
  constexpr int of_divisor = 32;  // the exponent of its square
  t.energy = rounded(a.energy);
  t.error = rounded(a.error, of_divisor, divisor);
  ProductSum total;
  for (int i = 0; i < term_count; ++i) {
    for (int j = i; j < term_count; ++j) {
      const ProductSum& product = a.inner[pair_of(i, j)];
      total.add(product);
      if (i != j) total.add(product);
      t.inner[i][j] = t.inner[j][i] = rounded(product, of_divisor, divisor);
    }
  }
  t.adds_up = total == a.error;
  return t;
}

Terms terms_of(const Matrix& original, const Quantized& q) {
  TermSums sums;
  sums.add(original, q);
  return sums.terms();
}

}  // namespace fp4scope::analysis
