// The fast searches against brute force in whole numbers on millions of blocks; a check to be run once, not a test:
//
//   sse_equals_exhaustive_many [MILLIONS = 1] [SEED = 1]
//
// Brute force: every code's sum of squared errors as a whole number of units, in 128 bits where they fit, in GMP where
// not; nearest elements by trying every level. Compared with it: search_scales (the vector path where there is one) and
// sse_code. Formats x blocks of 8, 16 and 32 x tensor scale from amax, none or adversarial x normal data of sigma .005
// to 1 in binary32 and bf16, Student-t, lattices dense in ties, and every family of blocks.hpp.
// Prints blocks, ties of the optimum and mismatches by row; exit 1 if there are any.
#include <gmpxx.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "search/search.hpp"
#include "search/wide_sum.hpp"
#include "tests/search/blocks.hpp"

namespace {

using namespace fp4scope;
__extension__ typedef __int128 Wide;

struct SizeRow {
  const char* format;
  int block;
  bool power_of_two;
  int twice_level[8];
};

constexpr SizeRow size_rows[] = {
    {"nvfp4", 16, false, {0, 1, 2, 3, 4, 6, 8, 12}},    {"nvfp4", 8, false, {0, 1, 2, 3, 4, 6, 8, 12}},
    {"nvfp4", 32, false, {0, 1, 2, 3, 4, 6, 8, 12}},    {"mxfp4", 32, true, {0, 1, 2, 3, 4, 6, 8, 12}},
    {"mxfp4", 16, true, {0, 1, 2, 3, 4, 6, 8, 12}},     {"mxfp4", 8, true, {0, 1, 2, 3, 4, 6, 8, 12}},
    {"nvint4", 16, false, {0, 2, 4, 6, 8, 10, 12, 14}}, {"nvint4", 8, false, {0, 2, 4, 6, 8, 10, 12, 14}},
    {"nvint4", 32, false, {0, 2, 4, 6, 8, 10, 12, 14}}};

/// A block scale, by definition of its format.
double scale(const SizeRow& row, int code) {
  if (row.power_of_two) return std::ldexp(1, code - 127);
  return code < 8 ? std::ldexp(code, -9) : std::ldexp(8 + code % 8, code / 8 - 10);
}

/// The least distance of a magnitude from the levels, squared; half_step = step / 2, all in one unit.
template <class Integer>
Integer squared_error(const SizeRow& row, const Integer& magnitude, const Integer& half_step) {
  Integer least = magnitude;
  for (int k = 1; k < 8; ++k) {
    const Integer signed_error = magnitude - row.twice_level[k] * half_step;
    const Integer error = signed_error < 0 ? Integer(-signed_error) : signed_error;
    if (error > least) break;  // the levels ascend
    least = error;
  }
  return least * least;
}

struct Answer {
  int code = 0;
  bool tie = false;
};

/// `units(x)`: a double as a whole number of units.
template <class Integer, class Units>
Answer least_code(const SizeRow& row, float t, const std::vector<float>& x, int first, int last, const Units& units) {
  std::vector<Integer> magnitude;
  for (const float value : x) magnitude.push_back(units(std::fabs(static_cast<double>(value))));
  Answer best;
  Integer least = -1;
  for (int code = first; code <= last; ++code) {
    const Integer half_step = units(static_cast<double>(t) * scale(row, code) / 2);
    Integer sum = 0;
    for (const Integer& m : magnitude) sum += squared_error<Integer>(row, m, half_step);
    if (least < 0 || sum < least) {
      best = {code, false};
      least = sum;
    } else if (sum == least) {
      best.tie = true;
    }
  }
  return best;
}

mpz_class gmp_units(double x, int unit) {
  int exponent = 0;
  const double significand = std::frexp(x, &exponent);
  mpz_class n(std::ldexp(significand, 53));
  const int shift = exponent - 53 - unit;
  return shift >= 0 ? mpz_class(n << static_cast<unsigned>(shift)) : mpz_class(n >> static_cast<unsigned>(-shift));
}

/// Every code, in GMP where the numbers ask for it. UE8M0's 255 codes would ask always, so those that can't matter are
/// left out: a step above 4 amax gives zeros, as the first such code does. At the code whose step lies in (amax / 2,
/// amax] the largest element errs by at most amax / 4 and every element by at most |x|; at a step below 2^-21 amax
/// every element errs by at least |x| - 2^-18 amax, and the largest by 1 - 2^-18 of itself: worse in sum for n <= 32.
Answer brute_force(const SizeRow& row, float t, const std::vector<float>& x, double amax, bool& by_gmp) {
  if (amax == 0) return {};
  int first = row.power_of_two ? 0 : 1, last = row.power_of_two ? 254 : 126;
  const bool ordinary = row.power_of_two && amax / t > 0x1p-90 && amax / t < 0x1p90;
  if (ordinary) {
    const int middle = 127 + std::ilogb(amax / t);
    first = std::max(first, middle - 21);
    last = std::min(last, middle + 4);
  }
  int unit = search::lowest_bit(static_cast<double>(t) * scale(row, first) / 2);
  for (int code = first; code <= last; ++code) {
    unit = std::min(unit, search::lowest_bit(static_cast<double>(t) * scale(row, code) / 2));
  }
  for (const float value : x) {
    if (value != 0) unit = std::min(unit, search::lowest_bit(value));
  }
  const double top = std::max(amax, 7.0 * t * scale(row, last));
  by_gmp = search::highest_bit(top) + 1 - unit > 60;
  if (by_gmp) return least_code<mpz_class>(row, t, x, first, last, [unit](double v) { return gmp_units(v, unit); });
  return least_code<Wide>(row, t, x, first, last, [unit](double v) { return static_cast<Wide>(std::ldexp(v, -unit)); });
}

float to_bf16(float x) { return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, x) & 0xFFFF0000u); }

struct Batch {
  std::vector<float> x;
  float tensor_scale;
};

/// Blocks of one kind; kinds alternate between the data of a tensor with its tensor scale, the same without one, and
/// the families of blocks.hpp at an adversarial one.
Batch make_batch(const SizeRow& row, int blocks, std::mt19937_64& words) {
  Batch batch;
  const int kind = static_cast<int>(words() % 4);
  if (kind == 3) {
    blocks::Maker maker(row.format, words());
    const auto random_bits = static_cast<std::uint32_t>(1 + words() % 0x7F7FFFFF);
    const float listed = blocks::tensor_scales[words() % std::size(blocks::tensor_scales)];
    batch.tensor_scale = words() % 2 ? __builtin_bit_cast(float, random_bits) : listed;
    for (int i = 0; i < blocks; ++i) {
      const auto& family = blocks::all_families[words() % std::size(blocks::all_families)];
      const std::vector<float> x = maker.make(family.family, batch.tensor_scale, row.block);
      batch.x.insert(batch.x.end(), x.begin(), x.end());
    }
    return batch;
  }
  const float sigmas[] = {0.005f, 0.01f, 0.024f, 0.1f, 0.3f, 1};
  const float sigma = sigmas[words() % std::size(sigmas)];
  const int shape = static_cast<int>(words() % 4);
  std::normal_distribution<float> normal(0, sigma);
  std::student_t_distribution<float> student(5);
  for (int i = 0; i < blocks * row.block; ++i) {
    const float x = shape == 2 ? sigma * student(words) : normal(words);
    const float lattice = std::ldexp(std::round(x / sigma * 8), -9);  // 2^-9 / 2 is a step: ties are dense
    batch.x.push_back(shape == 0 ? x : shape == 3 ? lattice : to_bf16(x));
  }
  float amax = 0;
  for (const float x : batch.x) amax = std::max(amax, std::fabs(x));
  const float by_amax = sim::tensor_scale(amax, row.twice_level[7] / 2.0, 448);
  batch.tensor_scale = row.power_of_two || kind == 0 ? 1 : by_amax;
  return batch;
}

struct Count {
  long blocks = 0, ties = 0, gmp = 0, mismatches = 0;
};

Count compare(const SizeRow& row, int blocks, std::mt19937_64& words) {
  const Batch batch = make_batch(row, blocks, words);
  search::SearchTask task = {formats::find_block_format(row.format), search::find_method(row.format, "sse")};
  task.block = row.block;
  task.tensor_scale = batch.tensor_scale;
  const std::vector<std::uint8_t> fast =
      search::search_scales(task, batch.x.data(), 1, static_cast<std::int64_t>(batch.x.size())).scales;
  const search::SearchSpace space = search::make_space(*task.format, task.tensor_scale, task.method->rule);
  Count count;
  for (int i = 0; i < blocks; ++i) {
    const std::vector<float> x(batch.x.begin() + i * row.block, batch.x.begin() + (i + 1) * row.block);
    const float amax = sim::amax(x.data(), row.block);
    bool by_gmp = false;
    const Answer want = brute_force(row, batch.tensor_scale, x, amax, by_gmp);
    const int plain = search::sse_code(space, {x.data(), row.block, amax});
    ++count.blocks;
    count.ties += want.tie;
    count.gmp += by_gmp;
    if (fast[static_cast<std::size_t>(i)] == want.code && plain == want.code) continue;
    ++count.mismatches;
    std::printf("%s: fast 0x%X, plain 0x%X, want 0x%X\n",
                blocks::describe(row.format, "", batch.tensor_scale, x).c_str(),
                static_cast<unsigned>(fast[static_cast<std::size_t>(i)]), static_cast<unsigned>(plain),
                static_cast<unsigned>(want.code));
  }
  return count;
}

}  // namespace

int main(int argc, char** argv) {
  const double millions = argc > 1 ? std::atof(argv[1]) : 1;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  constexpr int blocks_at_once = 500;
  constexpr auto kinds = static_cast<long>(std::size(size_rows));
  const long batches = (static_cast<long>(millions * 1e6) / blocks_at_once / kinds + 1) * kinds;
  Count by_row[std::size(size_rows)];
#pragma omp parallel for schedule(dynamic)
  for (long b = 0; b < batches; ++b) {
    std::mt19937_64 words(seed * 1000003 + static_cast<std::uint64_t>(b));
    const Count c = compare(size_rows[b % kinds], blocks_at_once, words);
#pragma omp critical
    {
      Count& sum = by_row[b % kinds];
      sum.blocks += c.blocks;
      sum.ties += c.ties;
      sum.gmp += c.gmp;
      sum.mismatches += c.mismatches;
    }
  }
  Count total;
  std::printf("%-7s %5s %10s %9s %9s %10s\n", "format", "block", "blocks", "ties", "by GMP", "mismatches");
  for (std::size_t r = 0; r < std::size(size_rows); ++r) {
    const Count& c = by_row[r];
    std::printf("%-7s %5d %10ld %9ld %9ld %10ld\n", size_rows[r].format, size_rows[r].block, c.blocks, c.ties, c.gmp,
                c.mismatches);
    total.blocks += c.blocks;
    total.mismatches += c.mismatches;
  }
  std::printf("%ld blocks compared, %ld mismatches\n", total.blocks, total.mismatches);
  return total.mismatches == 0 ? 0 : 1;
}
