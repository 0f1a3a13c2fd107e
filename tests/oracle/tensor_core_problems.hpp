// Operands for one output of a matrix instruction, of kinds that make its parameters visible.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "tests/oracle/oracle.hpp"
#include "tests/oracle/tensor_core_model.hpp"

namespace fp4scope::oracle {

enum class Kind { any, spread, cancelling, subnormal, zeros, tiny, special };
inline constexpr std::array kinds = {Kind::any,   Kind::spread, Kind::cancelling, Kind::subnormal,
                                     Kind::zeros, Kind::tiny,   Kind::special};
inline constexpr const char* kind_names[] = {"any", "spread", "cancelling", "subnormal", "zeros", "tiny", "special"};

class Problems {
 public:
  Problems(const Instruction& row, std::uint64_t seed) : r(row), words(seed) {}

  Problem operator()(Kind kind) {
    Problem p;
    const int reach = static_cast<int>(below(31));
    const std::uint64_t large = kind == Kind::subnormal ? below(3) : 0;  // whose numbers the other's subnormals meet
    for (int k = 0; k < r.k; ++k) p.a.push_back(large == 1 ? large_code(r.a) : code(r.a, kind, reach));
    for (int k = 0; k < r.k; ++k) p.b.push_back(large == 2 ? large_code(r.b) : code(r.b, kind, reach));
    if (kind == Kind::cancelling) cancel(p);
    for (int i = 0; r.scaled && i < r.k / r.block; ++i) {
      p.scale_a.push_back(scale(kind, reach));
      p.scale_b.push_back(scale(kind, reach));
    }
    p.c = addend(p, kind);
    return p;
  }

 private:
  const Instruction& r;
  Words words;

  std::uint64_t below(std::uint64_t n) { return words() % n; }

  std::uint32_t finite(const formats::Format& f, std::uint32_t low, std::uint32_t high) {
    const auto field = low + static_cast<std::uint32_t>(below(high - low + 1));
    const std::uint32_t magnitude = field << f.mantissa_bits | static_cast<std::uint32_t>(below(1u << f.mantissa_bits));
    const std::uint32_t sign = f.is_signed && below(2) ? 1u << (f.bits - 1) : 0;
    return std::min(magnitude, f.max_code) | sign;
  }

  std::uint32_t large_code(const formats::Format& f) {
    return finite(f, static_cast<std::uint32_t>(f.bias) / 2, f.max_code >> f.mantissa_bits);
  }

  std::uint32_t code(const formats::Format& f, Kind kind, int reach) {
    const std::uint32_t top = f.max_code >> f.mantissa_bits, sign = 1u << (f.bits - 1);
    const auto middle = static_cast<std::uint32_t>(f.bias);
    const std::uint32_t near = std::min<std::uint32_t>(top, middle + 8);
    switch (kind) {
      case Kind::any: return finite(f, 0, top);
      case Kind::spread: {
        const auto half = static_cast<std::uint32_t>(reach / 2);
        return finite(f, middle > half ? middle - half : 0, std::min(top, middle + 2));
      }
      case Kind::subnormal: return finite(f, 0, below(8) ? 0 : near);
      case Kind::zeros: return below(3) ? static_cast<std::uint32_t>(below(2)) * sign : finite(f, top / 2, top);
      case Kind::tiny: {
        const auto low = static_cast<std::uint32_t>(std::max(0, f.bias - 82));
        const std::uint32_t tiny = finite(f, low, std::min(top, low + static_cast<std::uint32_t>(reach) / 2));
        return below(2) ? tiny : tiny >> f.mantissa_bits << f.mantissa_bits;
      }
      case Kind::special:
        if (f.specials != formats::Specials::none && below(16) == 0) {
          const bool infinite = f.specials == formats::Specials::ieee && below(2);
          return (infinite ? f.max_code + 1 : (sign << 1) - 1 - sign) | static_cast<std::uint32_t>(below(2)) * sign;
        }
        return below(4) ? finite(f, 0, top) : static_cast<std::uint32_t>(below(2)) * sign;
      case Kind::cancelling: break;
    }
    return finite(f, middle > 2 ? middle - 2 : 0, near);
  }

  /// Products in pairs that cancel, but for a few.
  void cancel(Problem& p) {
    for (std::size_t k = 0; k + 1 < p.a.size(); k += 2) {
      if (below(6) == 0) continue;
      const std::size_t other = below(2) ? k + 1 : p.a.size() - 1 - k;
      p.a[other] = p.a[k] ^ (1u << (r.a.bits - 1));
      p.b[other] = p.b[k];
    }
  }

  std::uint32_t scale(Kind kind, int reach) {
    if (r.scale.has_zero) {  // UE4M3, its sign bit sometimes set
      const std::uint32_t sign = below(8) ? 0 : 0x80;
      if (kind == Kind::special && below(8) == 0) return 0x7F | sign;
      if (kind == Kind::zeros && below(2)) return sign;
      if (kind == Kind::tiny || kind == Kind::subnormal) return static_cast<std::uint32_t>(below(16));
      return static_cast<std::uint32_t>(below(0x7F)) | sign;
    }
    if (kind == Kind::special && below(8) == 0) return 0xFF;
    if (kind == Kind::any || kind == Kind::special) return static_cast<std::uint32_t>(below(255));
    if (kind == Kind::zeros) return static_cast<std::uint32_t>(200 + below(55));
    if (kind == Kind::tiny) return static_cast<std::uint32_t>(40 + below(30));
    return 127 + static_cast<std::uint32_t>(below(static_cast<std::uint64_t>(reach) + 1)) - 15;
  }

  /// Near the largest product, mostly.
  std::uint32_t addend(const Problem& p, Kind kind) {
    const int bias = r.f16_addend ? 15 : 127, top = r.f16_addend ? 30 : 254, digits = r.f16_addend ? 10 : 23;
    const std::uint32_t sign = static_cast<std::uint32_t>(below(2)) << (r.f16_addend ? 15 : 31);
    if (below(4) == 0) return sign;
    if (kind == Kind::special && below(6) == 0) {
      const auto fraction = static_cast<std::uint32_t>(below(2));
      return static_cast<std::uint32_t>(top + 1) << digits | fraction << (digits - 1) | sign;
    }
    int e = -1000;
    for (std::size_t k = 0; k < p.a.size(); ++k) {
      const auto block = r.scaled ? k / static_cast<std::size_t>(r.block) : 0;
      double x = value_of(r.a, p.a[k]) * value_of(r.b, p.b[k]);
      if (r.scaled) x *= value_of(r.scale, p.scale_a[block]) * value_of(r.scale, p.scale_b[block]);
      if (std::isfinite(x) && x != 0) e = std::max(e, std::ilogb(x));
    }
    const int field = std::clamp(e + bias + static_cast<int>(below(61)) - 30, 0, top);
    std::uint32_t mantissa = static_cast<std::uint32_t>(words()) & ((1u << digits) - 1);
    if (below(4) == 0) mantissa &= ~0u << below(static_cast<std::uint64_t>(digits));
    return static_cast<std::uint32_t>(field) << digits | mantissa | sign;
  }
};

}  // namespace fp4scope::oracle
