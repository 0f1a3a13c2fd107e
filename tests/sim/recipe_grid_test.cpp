// Every NVFP4 recipe on grids that are exhaustive for bf16 up to a power of two, against the sources' operations in
// integers (recipe_oracle.hpp); and how often each recipe differs from real numbers there. The counts are constants:
// a change of one bit in one recipe changes its own.
//
// Random binary32 data would show nothing here: short significands make exact ties common, and every extra rounding
// flips some of them.
#include <gmpxx.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <random>

#include "search/recipe_search.hpp"
#include "tests/sim/recipe_oracle.hpp"

namespace fp4scope {
namespace {

using namespace recipe_oracle;

float to_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

// ---- the oracle itself, against GMP ----

/// 2^exponent * n, a rational.
mpq_class scaled(const mpz_class& n, int exponent) {
  const mpz_class places = mpz_class(1) << static_cast<unsigned>(std::abs(exponent));
  mpq_class q = exponent < 0 ? mpq_class(n, places) : mpq_class(n * places);
  q.canonicalize();
  return q;
}

mpq_class value_of(const Real& a) {
  return scaled(mpz_class(static_cast<unsigned long>(a.significand)), a.exponent) * (a.negative ? -1 : 1);
}

/// Whether `got` is a nearest number of that precision to q, and the even one of two.
bool is_nearest(const mpq_class& q, const Real& got, const Precision& p) {
  const mpq_class error = abs(q - value_of(got));
  int place = got.exponent;
  std::uint64_t significand = got.significand;
  for (; significand < 1u << (p.bits - 1) && place > p.lowest && significand != 0; --place) significand *= 2;
  if (significand == 0) place = p.lowest;
  const mpq_class half = scaled(1, place - 1);
  const bool below_a_power = abs(q) < abs(value_of(got)) && significand == 1u << (p.bits - 1) && place > p.lowest;
  const mpq_class allowed = below_a_power ? mpq_class(half / 2) : half;
  return error < allowed || (error == allowed && significand % 2 == 0);
}

TEST(RecipeOracle, operations_are_the_nearest_numbers_to_rationals) {
  std::mt19937_64 words(41);
  for (int i = 0; i < 200000; ++i) {
    const auto word = words();
    const std::uint32_t mask = i % 2 ? 0xFFFF0000u : 0xFFFFFFFFu;  // short significands have the ties
    Real a = from_bits(static_cast<std::uint32_t>(word) & mask),
         b = from_bits(static_cast<std::uint32_t>(word >> 32) & mask);
    if (a.kind != Real::Kind::finite || b.kind != Real::Kind::finite || b.zero()) continue;
    const Real product = times(a, b), quotient = over(a, b), shorter = to_brain(a);
    const auto text = [&] {
      char buffer[64];
      std::snprintf(buffer, sizeof buffer, "a 0x%08X, b 0x%08X", to_bits(a), to_bits(b));
      return std::string(buffer);
    };
    if (product.kind == Real::Kind::finite) {
      ASSERT_TRUE(is_nearest(value_of(a) * value_of(b), product, single)) << text();
    }
    if (quotient.kind == Real::Kind::finite) {
      ASSERT_TRUE(is_nearest(value_of(a) / value_of(b), quotient, single)) << text();
    }
    if (shorter.kind == Real::Kind::finite) {
      ASSERT_TRUE(is_nearest(value_of(a), shorter, brain)) << text();
    }
    ASSERT_EQ(to_bits(a), static_cast<std::uint32_t>(word) & mask);
  }
}

TEST(RecipeOracle, operations_are_the_processor_s) {
  std::mt19937_64 words(42);
  for (int i = 0; i < 2000000; ++i) {
    const auto word = words();
    const auto left = static_cast<std::uint32_t>(word), right = static_cast<std::uint32_t>(word >> 32);
    const volatile float a = to_float(left), b = to_float(right);
    const float product = a * b, quotient = a / b;
    const std::uint32_t p = to_bits(times(from_bits(left), from_bits(right)));
    const std::uint32_t q = to_bits(over(from_bits(left), from_bits(right)));
    ASSERT_TRUE(std::isnan(product) ? p == 0x7FC00000u : p == __builtin_bit_cast(std::uint32_t, product))
        << std::hex << "0x" << left << " * 0x" << right << ": 0x" << p;
    ASSERT_TRUE(std::isnan(quotient) ? q == 0x7FC00000u : q == __builtin_bit_cast(std::uint32_t, quotient))
        << std::hex << "0x" << left << " / 0x" << right << ": 0x" << q;
  }
}

// ---- the product ----

/// A row's recipe. "4over6 four": the second candidate of 4over6.
const sim::Recipe& recipe_of(const Row& row) {
  const std::string_view method = row.method;
  const sim::Recipe* r = sim::find_recipe(row.name, "nvfp4", method.substr(0, method.find(' ')));
  if (!r) std::abort();
  return *r;
}

sim::RecipeTensor tensor_of(const Row& row, const sim::Recipe& r, float a) {
  sim::RecipeTensor t;
  if (row.range != 0) t = sim::recipe_tensor(r, a, r.scale_max);
  t.amax = a;
  return t;
}

/// The byte that the recipe's own search gives; of 4over6, a candidate's.
int product_scale(const Row& row, const sim::Recipe& r, const sim::RecipeTensor& t, float b, search::RecipeRoom& room) {
  if (r.candidates == sim::Candidates::one) {
    std::uint8_t code = 0;
    return search::recipe_block({&r, &formats::nvfp4, t}, b, &b, 1, 1, &code, room).scale;
  }
  const float v = sim::block_value(r, t, b);
  return sim::recipe_scale_code(r, formats::nvfp4, row.top == 384 ? v * 1.5f : v);
}

/// What a comparison of one row found.
struct Found {
  long compared = 0, wrong = 0;
  long unlike[2] = {};  ///< differ from real numbers, in two classes of inputs
  std::string first;    ///< the first few wrong ones
};

void add(Found& found, const Found& part) {
  found.compared += part.compared;
  found.wrong += part.wrong;
  for (int k = 0; k < 2; ++k) found.unlike[k] += part.unlike[k];
  if (found.first.size() < 2000) found.first += part.first;
}

void note(Found& found, const Row& row, std::uint32_t a, int scale, std::uint32_t b, int got, int want) {
  if (++found.wrong > 3) return;
  char text[200];
  std::snprintf(text, sizeof text, "%s %s: a 0x%08X, s 0x%02X, b or x 0x%08X = %a: got 0x%02X, want 0x%02X\n", row.name,
                row.method, a, scale, b, static_cast<double>(to_float(b)), got, want);
  found.first += text;
}

struct Count {
  const char* name;
  const char* method;
  bool scaled;
  long unlike[2];
};

/// Prints the counts as rows of a table, and holds them to it.
void expect_counts(const char* title, const std::vector<Found>& found, const std::vector<Count>& want, bool print) {
  ASSERT_EQ(found.size(), std::size(all_rows));
  ASSERT_EQ(want.size(), std::size(all_rows));
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Row& row = all_rows[i];
    if (print) {
      std::printf("%s %-24s%-12s%s: %6ld and %6ld of %ld differ from real numbers\n", title, row.name, row.method,
                  row.range ? "" : " without a tensor scale", found[i].unlike[0], found[i].unlike[1],
                  found[i].compared);
    }
    EXPECT_EQ(found[i].wrong, 0) << found[i].first;
    ASSERT_STREQ(want[i].name, row.name);
    ASSERT_STREQ(want[i].method, row.method);
    ASSERT_EQ(want[i].scaled, row.range != 0);
    for (int k = 0; k < 2; ++k) {
      EXPECT_EQ(found[i].unlike[k], want[i].unlike[k]) << title << ' ' << row.name << ' ' << row.method << ' ' << k;
    }
  }
}

// ---- block scales ----

/// All pairs of a mantissa of a in the binade 2^(field - 127) and b = mantissa * 2^-gap <= a.
Found scales_of_row(const Row& row, std::uint32_t field, std::uint32_t a_mantissa) {
  const sim::Recipe& r = recipe_of(row);
  Found found;
  search::RecipeRoom room;
  const std::uint32_t a = field << 23 | a_mantissa << 16;
  const sim::RecipeTensor tensor = tensor_of(row, r, to_float(a));
  for (std::uint32_t gap = 0; gap <= 20; ++gap) {
    for (std::uint32_t m = 0; m < 128 && (gap > 0 || m <= a_mantissa); ++m, ++found.compared) {
      const std::uint32_t b = (field - gap) << 23 | m << 16;
      const int got = product_scale(row, r, tensor, to_float(b), room);
      const int want = row.scale(from_bits(a), from_bits(b));
      if (got != want) note(found, row, a, 0, b, got, want);
      const int real = real_scale(row.top, from_bits(a), from_bits(b));
      found.unlike[real < 8 ? 0 : 1] += want != real;
    }
  }
  return found;
}

/// Every row at one binade of a; without a tensor scale a has no part in b / 6, so b runs from 2^11 down instead.
std::vector<Found> scales(std::uint32_t field) {
  std::vector<Found> found(std::size(all_rows));
  for (std::size_t i = 0; i < std::size(all_rows); ++i) {
    const Row& row = all_rows[i];
#pragma omp parallel for schedule(dynamic)
    for (std::uint32_t m = 0; m < 128; ++m) {
      if (row.range == 0 && m < 127) continue;
      const Found part = scales_of_row(row, row.range == 0 ? 127 + 11 : field, m);
#pragma omp critical
      add(found[i], part);
    }
  }
  return found;
}

// Where the real scale is below 2^-6, E4M3's subnormals: clamps, zero rules and double rounding; and from there on,
// where rounding alone differs.
// clang-format off
const std::vector<Count> scale_counts = {
    {"rational",                "naive",       true,  {0, 0}},
    {"te",                      "naive",       true,  {25, 313}},
    {"te_ref",                  "naive",       true,  {25, 313}},
    {"te_fast",                 "naive",       true,  {25, 313}},
    {"flashinfer",              "naive",       true,  {25, 313}},
    {"fouroversix",             "naive",       true,  {20, 75}},
    {"fouroversix",             "static4",     true,  {13, 59}},
    {"te",                      "4over6",      true,  {13, 28}},
    {"te_ref",                  "4over6",      true,  {13, 28}},
    {"fouroversix",             "4over6",      true,  {13, 28}},
    {"te",                      "4over6 four", true,  {32, 103}},
    {"te_ref",                  "4over6 four", true,  {32, 103}},
    {"fouroversix",             "4over6 four", true,  {32, 103}},
    {"modelopt_dyn",            "naive",       true,  {27830, 90}},
    {"modelopt_export",         "naive",       true,  {27828, 105}},
    {"modelopt_fakequant",      "naive",       true,  {22, 182}},
    {"torchao",                 "naive",       true,  {91785, 74}},
    {"compressed_tensors",      "naive",       true,  {27822, 75}},
    {"compressed_tensors_bf16", "naive",       true,  {28128, 5668}},
    {"vllm_emulation",          "naive",       true,  {16, 163}},
    {"fpquant",                 "naive",       true,  {42, 164}},
    {"fpquant_bf16",            "naive",       true,  {244, 3869}},
    {"torchao",                 "naive",       false, {692, 0}},
    {"qwantize",                "naive",       false, {0, 81}},
    {"ggml",                    "naive",       false, {4, 172}},
};
// clang-format on

TEST(ScaleGrid, every_recipe_gives_its_source_s_byte_for_all_bf16_mantissas_and_gaps) {
  expect_counts("scale", scales(127), scale_counts, true);
}

/// What makes one binade of a exhaustive: every operation moves along with a power of two, while none over- or
/// underflows.
TEST(ScaleGrid, counts_do_not_depend_on_the_binade_of_the_tensor) {
  expect_counts("scale 2^-17", scales(110), scale_counts, false);
  expect_counts("scale 2^73", scales(200), scale_counts, false);
}

// ---- data ----

/// The code of x and of -x at a scale.
void compare_code(const Row& row, const sim::Recipe& r, const sim::RecipeTensor& t, std::uint32_t a, int scale,
                  std::uint32_t x, Found& found) {
  const float both[2] = {to_float(x), -to_float(x)};
  std::uint8_t codes[2];
  sim::recipe_codes(r, formats::nvfp4, t, scale, t.amax, both, 2, formats::Rounding::nearest_even, codes);
  const int want = row.code(from_bits(a), scale, from_bits(x));
  // ggml takes the first code of the least distance, and -0 is never the first.
  const int negative = want == 0 && r.data == sim::DataStep::distance ? 0 : want | 8;
  if (codes[0] != want) note(found, row, a, scale, x, codes[0], want);
  if (codes[1] != negative) note(found, row, a, scale, x ^ 0x80000000u, codes[1], negative);
  found.unlike[x % 0x10000u == 0 ? 0 : 1] += want != real_code(row.range, from_bits(a), scale, from_bits(x));
  ++found.compared;
}

/// midpoint * s * a / K rounded, in binary32 or bf16; its bits.
std::uint32_t tie(const Row& row, const Real& a, int scale, int k, const Precision& p) {
  const std::uint64_t n = (e2m1_halves(k) + e2m1_halves(k + 1)) * e4m3_units(scale);  // in units of 2^-11
  if (row.range == 0) return to_bits(rounded(false, n, -11, false, p));
  const Wide dividend = Wide{n * a.significand} << 60;
  const auto range = static_cast<unsigned>(row.range);
  return to_bits(rounded(false, dividend / range, a.exponent - 11 - 60, dividend % range != 0, p));
}

Found codes_of_row(const Row& row, std::uint32_t a_mantissa) {
  const sim::Recipe& r = recipe_of(row);
  const std::uint32_t a = 127u << 23 | a_mantissa << 16;
  const sim::RecipeTensor tensor = tensor_of(row, r, to_float(a));
  Found found;
  for (int scale = 1; scale <= 126; ++scale) {
    for (int k = 0; k < 7; ++k) {
      const std::uint32_t short_tie = tie(row, from_bits(a), scale, k, brain);
      const std::uint32_t long_tie = tie(row, from_bits(a), scale, k, single);
      for (const std::uint32_t x :
           {short_tie - 0x10000u, short_tie, short_tie + 0x10000u, long_tie - 1, long_tie, long_tie + 1}) {
        compare_code(row, r, tensor, a, scale, x, found);
      }
    }
  }
  return found;
}

// Of x that is a bf16 number, and of binary32 numbers that aren't.
// clang-format off
const std::vector<Count> code_counts = {
    {"rational",                "naive",       true,  {0, 0}},
    {"te",                      "naive",       true,  {6994, 61694}},
    {"te_ref",                  "naive",       true,  {6994, 61694}},
    {"te_fast",                 "naive",       true,  {39235, 158382}},
    {"flashinfer",              "naive",       true,  {6994, 61694}},
    {"fouroversix",             "naive",       true,  {6994, 61694}},
    {"fouroversix",             "static4",     true,  {5188, 54806}},
    {"te",                      "4over6",      true,  {2980, 44247}},
    {"te_ref",                  "4over6",      true,  {2980, 44247}},
    {"fouroversix",             "4over6",      true,  {2980, 44247}},
    {"te",                      "4over6 four", true,  {2980, 44247}},
    {"te_ref",                  "4over6 four", true,  {2980, 44247}},
    {"fouroversix",             "4over6 four", true,  {2980, 44247}},
    {"modelopt_dyn",            "naive",       true,  {4358, 50601}},
    {"modelopt_export",         "naive",       true,  {4358, 50601}},
    {"modelopt_fakequant",      "naive",       true,  {7174, 59201}},
    {"torchao",                 "naive",       true,  {6590, 57165}},
    {"compressed_tensors",      "naive",       true,  {4728, 49899}},
    {"compressed_tensors_bf16", "naive",       true,  {39601, 154524}},
    {"vllm_emulation",          "naive",       true,  {6994, 61694}},
    {"fpquant",                 "naive",       true,  {7716, 58764}},
    {"fpquant_bf16",            "naive",       true,  {52336, 154843}},
    {"torchao",                 "naive",       false, {84, 74}},
    {"qwantize",                "naive",       false, {756, 0}},
    {"ggml",                    "naive",       false, {756, 0}},
};
// clang-format on

TEST(DataGrid, every_recipe_gives_its_source_s_code_at_and_beside_every_tie) {
  std::vector<Found> found(std::size(all_rows));
  for (std::size_t i = 0; i < std::size(all_rows); ++i) {
#pragma omp parallel for schedule(dynamic)
    for (std::uint32_t m = 0; m < 128; ++m) {
      if (all_rows[i].range == 0 && m > 0) continue;
      const Found part = codes_of_row(all_rows[i], m);
#pragma omp critical
      add(found[i], part);
    }
  }
  expect_counts("code", found, code_counts, true);
}

// ---- binary32 logarithms ----

/// floor of log2 rounded to binary32, by another library than sim's series: 64 bits, then 24. No x within 2^-13 of a
/// power of two has a logarithm that close to a midpoint.
int floor_of_rounded_log2(float x, float& log) {
  log = static_cast<float>(std::log2(static_cast<long double>(x)));
  return static_cast<int>(std::floor(log));
}

/// log2(2^k (1 - d)) <= k - d / ln 2, and the binary32 numbers beside k, |k| <= 128, lie 2^-17 away at most: rounding
/// reaches k for d < 2^-18 alone. The last 2^12 floats of a binade are all those with d <= 2^-12; the others are
/// sampled.
TEST(Logarithms, floor_of_log2f_differs_from_the_exponent_for_exactly_7404_floats) {
  long differ = 0, near_one = 0;
  for (std::uint32_t field = 1; field < 255; ++field) {
    const int exponent = static_cast<int>(field) - 127;
    for (std::uint32_t m = (1u << 23) - (1u << 12); m < 1u << 23; ++m) {
      const float x = to_float(field << 23 | m);
      float log = 0;
      const int got = sim::floor_log2f(x), want = floor_of_rounded_log2(x, log);
      ASSERT_EQ(got, want) << std::hexfloat << x << ", its logarithm " << log;
      differ += got != exponent;
      near_one += got != exponent && std::abs(exponent + 1) < 2;
    }
    for (std::uint32_t m = 0; m < (1u << 23) - (1u << 12); m += 4093) {
      ASSERT_EQ(sim::floor_log2f(to_float(field << 23 | m)), exponent);
    }
  }
  EXPECT_EQ(differ, 7404);
  EXPECT_EQ(near_one, 0);
}

TEST(Logarithms, ceil_of_log2f_is_another_library_s_above_every_power_of_two) {
  for (std::uint32_t field = 1; field < 255; ++field) {
    for (std::uint32_t m = 0; m < 1u << 12; ++m) {
      const float x = to_float(field << 23 | m);
      const auto log = static_cast<float>(std::log2(static_cast<long double>(x)));
      ASSERT_EQ(sim::ceil_log2f(x), static_cast<int>(std::ceil(log))) << std::hexfloat << x;
    }
  }
}

/// qwantize's floor(fl(fl(fl(log2 x) - 2) + 127)): next to powers of two as above, in three roundings.
TEST(Logarithms, the_shifted_floor_is_another_library_s_below_every_power_of_two) {
  for (std::uint32_t field = 1; field < 255; ++field) {
    for (std::uint32_t m = (1u << 23) - (1u << 12); m < 1u << 23; ++m) {
      const float x = to_float(field << 23 | m);
      const auto log = static_cast<float>(std::log2(static_cast<long double>(x)));
      const volatile float shifted = log - 2;
      const volatile float moved = shifted + 127;
      const auto want = static_cast<int>(std::floor(moved));
      ASSERT_EQ(sim::floor_log2f_shifted(x, -2, 127), want) << std::hexfloat << x;
    }
  }
}

/// How many of all floats of five binades get another power of two than ceil(log2(b / 6)).
struct CeilErrors {
  long reciprocal = 0, quotient = 0, logarithm = 0;
  std::vector<std::uint32_t> low_reciprocal;  ///< the floats, where fl(1/6) is one unit in the last place low
};

/// Binades of 2^-100, 2^-50, 1, 2^50 and 2^100: a logarithm's last place grows with the exponent.
constexpr std::uint32_t five_fields[] = {27, 77, 127, 177, 227};

CeilErrors ceil_errors() {
  const sim::Recipe& rceil = *sim::find_recipe("torchao", "mxfp4", "rceil");
  const sim::Recipe& bits = *sim::find_recipe("fouroversix", "mxfp4", "naive");
  const sim::Recipe& log = *sim::find_recipe("modelopt_mxfp4", "mxfp4", "naive");
  const auto byte = [](const sim::Recipe& r, float b) {
    return sim::recipe_scale_code(r, formats::mxfp4, sim::block_value(r, {}, b));
  };
  CeilErrors errors;
  for (const std::uint32_t field : five_fields) {
    long reciprocal = 0, quotient = 0, logarithm = 0;
#pragma omp parallel for reduction(+ : reciprocal, quotient, logarithm)
    for (std::uint32_t m = 0; m < 1u << 23; ++m) {
      const float b = to_float(field << 23 | m);
      const int want = static_cast<int>(field) - 2 + (m > 1u << 22);  // m > 2^22: a significand above 1.5
      reciprocal += byte(rceil, b) != want;
      quotient += byte(bits, b) != want;
      logarithm += byte(log, b) != want;
      if (sim::power_code(sim::ScaleCast::up, b * to_float(0x3E2AAAAA), 0) == want) continue;
#pragma omp critical
      errors.low_reciprocal.push_back(field << 23 | m);
    }
    errors.reciprocal += reciprocal;
    errors.quotient += quotient;
    errors.logarithm += logarithm;
  }
  return errors;
}

TEST(Logarithms, ceil_of_log2_of_a_sixth_is_exact_by_reciprocal_and_by_quotient_and_not_by_log2f) {
  const CeilErrors errors = ceil_errors();
  EXPECT_EQ(errors.reciprocal, 0);
  EXPECT_EQ(errors.quotient, 0);
  EXPECT_EQ(errors.logarithm, 100);
  // fl(1/6) is above 1/6, the float below it is not: 6 * 2^k and the float above it then get the same power of two.
  std::vector<std::uint32_t> want;
  for (const std::uint32_t field : five_fields) want.push_back(field << 23 | 0x400001);
  EXPECT_EQ(errors.low_reciprocal, want);
}

}  // namespace
}  // namespace fp4scope
