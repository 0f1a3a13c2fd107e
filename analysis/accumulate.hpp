// How matrix units sum, eight columns side by side, with the bits of the plain model.
//
//   exact     the sum in real numbers
//   fma       s = fl32(s + a b), one k after the other
//   mul_add   s = fl32(s + fl32(a b))
//   machine   instructions one after the other along K, each as sim/tensor_core.hpp has it, the first one's C = 0
//
// The plain model takes integers one product at a time. Two fast ways return the same bits; what allows them is proved
// for a pair of rows from facts about each row, so that ordinary data never needs the plain model:
//
// 1. Scaled blocks (exact_group > 0). Let every value of the two rows be a multiple of 2^p and 2^q, and 2^h >= |a| |b|:
//    by Cauchy and Schwarz no sum of some products' magnitudes is larger. A step cuts its terms below 2^(greatest - F).
//    Let h' be the larger one of h and the largest scales' exponents. If p + q >= h' - F, nothing is cut: products are
//    multiples of 2^(p + q), so is the running value, which starts at 0 and is only ever cut at a place of its own
//    significand, and greatest <= h'. A step is then RZ_24(C + sum), and since h - (p + q) <= F = 35, every partial sum
//    of it is exact in binary64 in any order, and so is C + sum.
// 2. Aligned products. greatest, 1 / greatest and the products are exact in binary64; product / 2^(greatest - F) is
//    below 2^(F + 2) <= 2^27, so conversion to int32 cuts it as the unit does; 33 such terms fit binary64.
//
// Both need results that are zero or normal (p + q, or the least exponent of a product less F, at least -126) and
// h <= 127.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/block_format.hpp"
#include "sim/instructions.hpp"

namespace fp4scope::analysis {

enum class Summing : std::uint8_t { exact, fma, mul_add, machine };

/// What a unit reads. `codes`: elements and block scales as they are stored.
enum class Fed : std::uint8_t { real, f32, bf16, f16, e4m3, codes };

struct Unit {
  std::string arch, name;
  Summing summing = Summing::exact;
  Fed fed = Fed::real;
  const sim::Instruction* instruction = nullptr;  ///< of Summing::machine

  int k() const { return instruction ? instruction->k : 1; }  ///< K is padded with zeros to a multiple
  bool exact() const { return summing == Summing::exact; }
};

/// `arch`: exact, fp32 or an architecture of sim/instructions.hpp. `name`: fma or mul_add of fp32, an instruction of an
/// architecture with an fp32 result, "" for the default: the instruction that reads the codes of formats a and b as
/// they are, else the one for bf16, else f16. A null format stands for values as given. Throws UsageError.
Unit find_unit(const std::string& arch, const std::string& name, const formats::BlockFormat* a, int block_a,
               const formats::BlockFormat* b, int block_b);
const std::vector<std::string>& arch_names();

inline constexpr int lanes = 8;  ///< columns that are summed side by side

/// What is known of a row of an operand.
struct RowFacts {
  int lowest_bit = 1 << 20;       ///< every value is a multiple of 2^lowest_bit
  int least_exponent = 1 << 20;   ///< of a value that isn't 0
  int most_scale = -(1 << 20);    ///< the largest exponent of a block scale
  double norm = 0;                ///< no less than the Euclidean norm
};

/// A row of A, or `lanes` rows of B side by side, [k][lanes]. `power`: 2^exponent of each value as the unit sees it, 0
/// for a zero that takes no part; for a unit of scaled blocks the block's scale. `facts`: 1 or `lanes`.
struct Line {
  const double* value;
  const double* power;
  const RowFacts* facts;
};

/// 2^exponent of a value of a format with that least exponent; of zero 2^zero_exponent, or 0 where that is no exponent.
double power_of(double value, int least_exponent, int zero_exponent);

/// Adds a value to a row's facts; call finish_facts after the last.
void add_to_facts(RowFacts& facts, double value, double power);
void finish_facts(RowFacts& facts);

/// Whether the fast sum of this pair of rows is proved; of Summing::exact, that binary64 sums it without rounding.
bool proves_fast(const Unit& unit, const RowFacts& a, const RowFacts& b);

/// The unit's sums over k products from 0, right where the pair is proved; k a multiple of unit.k(). Not of exact.
void sum_fast(const Unit& unit, const Line& a, const Line& b, std::int64_t k, double out[lanes]);
/// One lane, any pair of rows.
double sum_plain(const Unit& unit, const Line& a, const Line& b, int lane, std::int64_t k);

/// sum * factor in real numbers, rounded to odd (exact_products.hpp). Returns the number of lanes that took wide sums.
int exact_lanes(const Line& a, const Line& b, std::int64_t k, double factor, double out[lanes]);

/// sum_k a b of a row and eight lanes in binary64, in the order of k.
void dot_lanes(const double* a, const double* b, std::int64_t k, double out[lanes]);

}  // namespace fp4scope::analysis
