// The Hessian search of many rows against an exhaustive one that shares no code with it; a check to be run once, not a
// test:
//
//   hessian_equals_exhaustive_many [MILLIONS = 1] [SEED = 1]
//
// Formats, block sizes, kinds of H and families of blocks in turn. Values come from tables of one's own; the loss of
// each code is computed in 80-bit arithmetic (u = 2^-64) as an interval, and codes whose intervals overlap are compared
// in GMP integers, unless all their values are equal. Prints blocks, codes left to GMP and mismatches; exit 1 if there
// are any.
#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "search/hessian_lanes.hpp"
#include "search/methods.hpp"
#include "tests/oracle/search_oracle.hpp"
#include "tests/search/blocks.hpp"
#include "tests/search/matrices.hpp"

namespace {

using namespace fp4scope;
using blocks::Maker;
using Wide = long double;
static_assert(__LDBL_MANT_DIG__ == 64, "the bounds are those of 80-bit arithmetic");

struct FormatRow {
  const char* format;
  bool tensor_scaled;
};

constexpr FormatRow format_rows[] = {
    {"nvfp4", true}, {"nvfp4", false}, {"mxfp4", false}, {"nvint4", true}, {"nvint4", false}};
constexpr int sizes[] = {8, 16, 32};
constexpr int batch_rows = 96;

struct Result {
  long blocks = 0;
  long compared_exactly = 0;
  long mismatches = 0;
};

// ---- kinds of H ----

using Tokens = std::vector<std::vector<float>>;

blocks::Matrix gram(const char* name, const Tokens& tokens) {
  const auto n = static_cast<int>(tokens[0].size());
  std::vector<double> h(static_cast<std::size_t>(n * n));
  for (const std::vector<float>& v : tokens) {
    for (int i = 0; i < n * n; ++i) h[static_cast<std::size_t>(i)] += static_cast<double>(v[i / n]) * v[i % n];
  }
  return blocks::make_matrix(name, n, [&](int i, int j) { return h[static_cast<std::size_t>(i * n + j)]; });
}

/// Tokens common + noise * normal, every `outlier`th channel a hundred times larger.
Tokens tokens(int count, int n, double common, double noise, int outlier, Maker& maker) {
  Tokens all;
  for (int t = 0; t < count; ++t) {
    std::vector<float> v;
    const double direction = common * maker.normal();
    for (int i = 0; i < n; ++i) {
      const double factor = outlier > 0 && i % outlier == 1 ? 100 : 1;
      v.push_back(static_cast<float>(factor * (direction + noise * maker.normal())));
    }
    all.push_back(v);
  }
  return all;
}

constexpr int kinds = 8;

blocks::Matrix make_hessian(int kind, int n, Maker& maker) {
  switch (kind) {
    case 0: return blocks::autoregressive(n, 0.9);
    case 1: return gram("common direction", tokens(4 * n, n, 1 << maker.below(6), 1, 0, maker));
    case 2: return gram("outlier channels", tokens(4 * n, n, 1, 1, 5, maker));
    case 3: return gram("one token", tokens(1, n, 0, 1, 0, maker));
    case 4: return gram("one token, equal columns", tokens(1, n, 1, 0, 0, maker));
    case 5: return gram("fewer tokens than columns", tokens(2 + maker.below(n - 2), n, 1, 1, 0, maker));
    case 6: return blocks::rank_one(n, maker.uniform());
    default: break;
  }
  std::vector<double> diagonal;
  for (int i = 0; i < n; ++i) diagonal.push_back(std::exp(2 * maker.normal()));
  return blocks::diagonal(diagonal);
}

// ---- the exhaustive search ----

struct CodeLoss {
  Wide low;
  Wide high;
  std::vector<double> values;
};

/// A block scale's value, times the tensor scale: 4 + 24 bits.
double step_of(const oracle::ScaledFormat& format, int code, float tensor_scale) {
  if (format.power_of_two) return tensor_scale * std::ldexp(1.0, code - 127);
  return tensor_scale * (code < 8 ? std::ldexp(code, -9) : std::ldexp(8 + code % 8, code / 8 - 10));
}

/// The nearest level's value: twice |x| against the sum of two levels times the step, all exact; ties to the even code.
double nearest_of(const oracle::ScaledFormat& format, double step, double magnitude) {
  int k = 0;
  while (k < 7) {
    const double border = (format.twice_level[k] + format.twice_level[k + 1]) * step / 2;
    if (!(2 * magnitude > border || (2 * magnitude == border && k % 2 == 1))) break;
    ++k;
  }
  return format.twice_level[k] * step / 2;
}

/// The loss of a code: r rounds once, each term twice, a row's sum n times, the total n times: (2 n + 4) u of
/// sum |r_i| |h_ij| |r_j|, which is summed beside it. The radius takes (2 n + 16) 2^-63, twice as much.
CodeLoss loss_of(const oracle::ScaledFormat& format, double step, const float* x, const blocks::Matrix& m, int n) {
  CodeLoss loss = {0, 0, {}};
  Wide r[32], sum = 0, size = 0;
  for (int i = 0; i < n; ++i) {
    const double magnitude = std::fabs(static_cast<double>(x[i])), value = nearest_of(format, step, magnitude);
    loss.values.push_back(value);
    const Wide error = static_cast<Wide>(magnitude) - static_cast<Wide>(value);
    r[i] = x[i] < 0 ? -error : error;
  }
  for (int i = 0; i < n; ++i) {
    const double* row = m.h.data() + i * n;
    Wide dot = 0, reach = 0;
    for (int j = 0; j < i; ++j) {
      const Wide term = static_cast<Wide>(row[j]) * r[j];
      dot += term;
      reach += std::fabs(term);
    }
    sum += r[i] * (2 * dot + row[i] * r[i]);
    size += std::fabs(r[i]) * (2 * reach + std::fabs(row[i] * r[i]));
  }
  const Wide radius = (2 * n + 16) * 0x1p-63L * size;
  loss.low = sum - radius;
  loss.high = sum + radius;
  return loss;
}

int exhaustive(const oracle::ScaledFormat& format, float t, const float* x, const blocks::Matrix& m, int n,
               const std::vector<mpz_class>& h, Result& result) {
  std::vector<CodeLoss> loss;
  Wide least = HUGE_VALL;
  for (int code = format.first_code(); code <= format.last_code; ++code) {
    loss.push_back(loss_of(format, step_of(format, code, t), x, m, n));
    least = std::min(least, loss.back().high);
  }
  int best = -1;
  mpz_class best_loss = -1;
  oracle::BlockOracle block(format, t, x, n);
  const auto at = [&](int code) -> const CodeLoss& {
    return loss[static_cast<std::size_t>(code - format.first_code())];
  };
  for (int code = format.first_code(); code <= format.last_code; ++code) {
    if (at(code).low > least) continue;
    if (best < 0) {
      best = code;
      continue;
    }
    if (at(code).values == at(best).values) continue;
    if (best_loss < 0) best_loss = block.hessian(best, h);
    const mpz_class here = block.hessian(code, h);
    ++result.compared_exactly;
    if (here >= best_loss) continue;
    best = code;
    best_loss = here;
  }
  return best;
}

// ---- batches ----

/// Half of the rows are normal around the usual scale, the others of every family.
std::vector<float> make_rows(const FormatRow& row, int n, float t, Maker& maker) {
  std::vector<float> x;
  const double unit = row.tensor_scaled ? 0x1p9 * static_cast<double>(t) : 0.024;
  for (int k = 0; k < batch_rows; ++k) {
    const blocks::FamilyRow& family = blocks::all_families[k / 2 % std::size(blocks::all_families)];
    std::vector<float> values = maker.make(family.family, t, n);
    if (k % 2 == 0) {
      const double size = k % 4 == 0 ? unit : unit * std::exp(maker.normal());
      for (float& value : values) value = static_cast<float>(size * maker.normal());
    }
    if (std::all_of(values.begin(), values.end(), [](float value) { return value == 0; })) values[0] = t;
    x.insert(x.end(), values.begin(), values.end());
  }
  return x;
}

Result compare(long batch, std::uint64_t seed) {
  const FormatRow& row = format_rows[static_cast<std::size_t>(batch) % std::size(format_rows)];
  const int n = sizes[static_cast<std::size_t>(batch) / std::size(format_rows) % std::size(sizes)];
  Maker maker(row.format, seed);
  const blocks::Matrix m = make_hessian(static_cast<int>(batch % kinds), n, maker);
  const float t = row.tensor_scaled ? static_cast<float>(std::ldexp(1 + maker.uniform(), -9 - maker.below(6))) : 1;
  const std::vector<float> x = make_rows(row, n, t, maker);
  const search::SearchSpace space =
      search::make_space(*formats::find_block_format(row.format), t, search::find_method(row.format, "hessian")->rule);
  std::uint8_t got[batch_rows];
  search::HessianRoom room;
  search::SearchCount count;
  search::hessian_lane_codes(space, {m.h.data(), m.envelope.data()}, n, x.data(), n, batch_rows, got, 1, room, count);
  Result result;
  const oracle::ScaledFormat& format = oracle::scaled_format(row.format);
  const std::vector<mpz_class> h = oracle::matrix_units(m.h.data(), n);
  for (int k = 0; k < batch_rows; ++k) {
    const float* values = x.data() + k * n;
    const int want = exhaustive(format, t, values, m, n, h, result);
    ++result.blocks;
    if (got[k] == want) continue;
    ++result.mismatches;
    std::printf("%s, %s: got 0x%X, want 0x%X\n", m.name.c_str(),
                blocks::describe(row.format, "", t, {values, values + n}).c_str(), static_cast<unsigned>(got[k]),
                static_cast<unsigned>(want));
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  const double millions = argc > 1 ? std::atof(argv[1]) : 1;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const auto batches = static_cast<long>(millions * 1e6) / batch_rows + 1;
  long blocks = 0, compared_exactly = 0, mismatches = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : blocks, compared_exactly, mismatches)
  for (long b = 0; b < batches; ++b) {
    std::mt19937_64 words(seed * 1000003 + static_cast<std::uint64_t>(b));
    const Result result = compare(b, words());
    blocks += result.blocks;
    compared_exactly += result.compared_exactly;
    mismatches += result.mismatches;
  }
  std::printf("%ld blocks compared, %ld comparisons in GMP, %ld mismatches\n", blocks, compared_exactly, mismatches);
  return mismatches == 0 ? 0 : 1;
}
