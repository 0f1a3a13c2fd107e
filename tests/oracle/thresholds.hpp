// Where the code of a binary32 changes, found with MPFR alone: a table that covers all 2^32 patterns.
//
// Rounding is monotone, and within one sign patterns order like magnitudes. So if the two ends of a run of finite
// patterns have the same code, all between have it; if not, halve the run. Zero, Inf and NaN stand by themselves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "formats/codec.hpp"
#include "tests/oracle/mpfr_rounding.hpp"

namespace fp4scope::oracle {

/// The patterns from the previous segment's end up to this one's, all of the same code.
struct Segment {
  std::uint64_t end;
  std::uint32_t code;
};

inline double float_value(std::uint64_t bits) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits)); }

class CodeTable {
 public:
  explicit CodeTable(MpfrEncoder& encoder) {
    constexpr std::uint64_t infinity = 0x7F800000;
    for (const std::uint64_t sign : {std::uint64_t{0}, std::uint64_t{0x80000000}}) {
      append(sign + 1, encoder(float_value(sign)));
      const std::uint64_t first = sign + 1, last = sign + infinity - 1;
      bisect(encoder, first, encoder(float_value(first)), last, encoder(float_value(last)));
      append(sign + infinity + 1, encoder(float_value(sign + infinity)));
      append(sign + 0x80000000, encoder(float_value(sign + 0x7FC00000)));
    }
  }

  std::uint32_t code(std::uint32_t bits) const {
    const auto ends_later = [](std::uint64_t pattern, const Segment& s) { return pattern < s.end; };
    return std::upper_bound(segments.begin(), segments.end(), bits, ends_later)->code;
  }

  std::vector<Segment> segments;  ///< neighbours differ in code; the last one ends at 2^32

 private:
  void append(std::uint64_t end, std::uint32_t code) {
    if (!segments.empty() && segments.back().code == code) segments.pop_back();
    segments.push_back({end, code});
  }

  /// Finite patterns first .. last of one sign.
  void bisect(MpfrEncoder& encoder, std::uint64_t first, std::uint32_t first_code, std::uint64_t last,
              std::uint32_t last_code) {
    if (first_code == last_code) return append(last + 1, first_code);
    const std::uint64_t middle = first + (last - first) / 2;
    bisect(encoder, first, first_code, middle, encoder(float_value(middle)));
    bisect(encoder, middle + 1, encoder(float_value(middle + 1)), last, last_code);
  }
};

}  // namespace fp4scope::oracle
