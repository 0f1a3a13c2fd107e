// Products against the plain model, rationals and loops by hand; the parts of their errors.
#include "analysis/matmul.hpp"

#include <gmpxx.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <bit>
#include <cmath>
#include <random>

#include "analysis/distributions.hpp"
#include "analysis/exact_products.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

QuantizeConfig config(const char* format, const char* tensor_scale = "", const char* recipe = "") {
  QuantizeWords words;
  words.format = format;
  words.tensor_scale = tensor_scale;
  words.recipe = recipe;
  return parse_config(words);
}

/// Normal data times 2^e with one e a run of 16 columns, |e| <= spread, and some zeros.
Matrix random_matrix(std::int64_t rows, std::int64_t cols, int spread, unsigned seed) {
  std::mt19937 source(seed);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-spread, spread), one_of(0, 15);
  Matrix m = {rows, cols, {}};
  int e = 0;
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    if (i % 16 == 0) e = exponent(source);
    m.data.push_back(one_of(source) == 0 ? 0 : std::ldexp(normal(source), e));
  }
  return m;
}

struct Pair {
  Matrix a, b;
  Quantized aq, bq;

  Pair(const QuantizeConfig& c, std::int64_t m, std::int64_t n, std::int64_t k, int spread, unsigned seed = 1)
      : a(random_matrix(m, k, spread, seed)),
        b(random_matrix(n, k, spread, seed + 1000)),
        aq(quantize(c, a, "a")),
        bq(quantize(c, b, "b")) {}
  Product multiply(const MatmulConfig& c) const { return analysis::multiply({&a, &aq}, {&b, &bq}, c); }
  MatmulConfig parse(const MatmulWords& words) const { return parse_matmul(words, &aq.config, &bq.config); }
};

MatmulWords words(const std::string& arch, const std::string& instruction = "") {
  MatmulWords w;
  w.arch = arch;
  w.instruction = instruction;
  return w;
}

std::uint32_t bits(double x) { return std::bit_cast<std::uint32_t>(static_cast<float>(x)); }

/// A value as the code of an instruction's operand.
std::uint32_t code_of(const formats::Format& f, double x) {
  return formats::encode(f, x, formats::Rounding::nearest_even, formats::Overflow::nan).code;
}

struct Lines {
  std::vector<double> a, b, pa, pb;
  RowFacts of_a;
  RowFacts of_b[lanes] = {};

  Line x() const { return {a.data(), pa.data(), &of_a}; }
  Line y() const { return {b.data(), pb.data(), of_b}; }
};

/// Values of the operand type with exponents up to `spread` apart, some zeros, some subnormal for large spreads.
Lines random_lines(const Unit& unit, std::int64_t k, int spread, std::mt19937& source) {
  const sim::Instruction& i = *unit.instruction;
  std::normal_distribution<double> normal;
  std::uniform_int_distribution<int> exponent(-spread, spread), one_of(0, 7);
  Lines l;
  const auto draw = [&](const formats::Format& f) {
    const double v = one_of(source) == 0 ? 0 : std::ldexp(normal(source), exponent(source));
    return formats::decode_double(f, formats::encode(f, v).code);
  };
  for (std::size_t c = 0; c < static_cast<std::size_t>(k); ++c) {
    l.a.push_back(c % 2 == 1 ? l.a[c - 1] : draw(i.a));
    l.pa.push_back(power_of(l.a.back(), i.a.min_exponent(), i.zero_exponent));
    add_to_facts(l.of_a, l.a.back(), l.pa.back());
    for (int j = 0; j < lanes; ++j) {
      const bool opposite = j == 3 && c % 2 == 1;  // lane 3 cancels pair by pair
      l.b.push_back(opposite ? -l.b[(c - 1) * lanes + 3] : draw(i.b));
      l.pb.push_back(power_of(l.b.back(), i.b.min_exponent(), i.zero_exponent));
      add_to_facts(l.of_b[j], l.b.back(), l.pb.back());
    }
  }
  finish_facts(l.of_a);
  for (RowFacts& facts : l.of_b) finish_facts(facts);
  return l;
}

/// Instruction after instruction from codes, with no part of the fast ways.
std::uint32_t by_codes(const sim::Instruction& i, const Lines& l, int lane, std::int64_t k) {
  std::uint32_t running = 0;
  for (std::int64_t first = 0; first < k; first += i.k) {
    std::uint32_t a[64], b[64];
    for (int c = 0; c < i.k; ++c) {
      a[c] = code_of(i.a, l.a[static_cast<std::size_t>(first + c)]);
      b[c] = code_of(i.b, l.b[static_cast<std::size_t>((first + c) * lanes + lane)]);
    }
    running = sim::multiply_accumulate(i, a, 1, b, 1, running);
  }
  return running;
}

TEST(Accumulate, FastAndPlainSumsAreTheInstructionsBits) {
  std::mt19937 source(7);
  for (const char* name : {"hopper mma.m16n8k16.f32.bf16.bf16.f32", "hopper mma.m16n8k16.f32.f16.f16.f32",
                           "hopper wgmma.m64n8k32.f32.e4m3.e4m3", "ampere mma.m16n8k16.f32.bf16.bf16.f32",
                           "ada mma.m16n8k32.f32.e4m3.e4m3.f32", "volta mma.m8n8k4.f32.f16.f16.f32",
                           "hopper mma.m16n8k32.f32.e4m3.e4m3.f32", "cdna1 mfma.m32n32k8.f32.f16.f16",
                           "cdna2 mfma.m32n32k8.f32.f16.f16", "cdna3 mfma.m16n16k16.f32.f16.f16"}) {
    const std::string text = name, arch = text.substr(0, text.find(' '));
    const Unit unit = find_unit(arch, text.substr(arch.size() + 1), nullptr, 0, nullptr, 0);
    int proved = 0;
    for (const int spread : {0, 2, 6, 12, 30, 70}) {
      for (int again = 0; again < 12; ++again) {
        const Lines l = random_lines(unit, 128, spread, source);
        double fast[lanes];
        if (proves_fast(unit, l.of_a, l.of_b[0])) sum_fast(unit, l.x(), l.y(), 128, fast);
        for (int j = 0; j < lanes; ++j) {
          const std::uint32_t want = by_codes(*unit.instruction, l, j, 128);
          ASSERT_EQ(bits(sum_plain(unit, l.x(), l.y(), j, 128)), want) << name << " lane " << j << " spread " << spread;
          if (!proves_fast(unit, l.of_a, l.of_b[j]) || !proves_fast(unit, l.of_a, l.of_b[0])) continue;
          ++proved;
          ASSERT_EQ(bits(fast[j]), want) << name << " lane " << j << " spread " << spread;
        }
      }
    }
    const bool none_is_fast = arch.starts_with("cdna") || text == "hopper mma.m16n8k32.f32.e4m3.e4m3.f32";
    EXPECT_EQ(proved == 0, none_is_fast) << name;
  }
}

TEST(Accumulate, SumsOutsideBinary32sNormalRangeProveNothing) {
  const Unit unit = find_unit("hopper", "", nullptr, 0, nullptr, 0);
  RowFacts a, b;
  add_to_facts(a, 0x1p-60, 0x1p-60);
  add_to_facts(b, 0x1p-50, 0x1p-50);
  finish_facts(a);
  finish_facts(b);
  EXPECT_FALSE(proves_fast(unit, a, b));
  RowFacts large;
  add_to_facts(large, 0x1p100, 0x1p100);
  finish_facts(large);
  EXPECT_FALSE(proves_fast(unit, large, large));
  EXPECT_TRUE(proves_fast(unit, large, b));
}

/// D of [m, n] from the stored codes and scales alone.
std::uint32_t by_stored(const sim::Instruction& i, const Pair& p, std::int64_t m, std::int64_t n) {
  const auto scale = [&](const Quantized& q, std::int64_t row, std::int64_t c) {
    return c < q.cols ? q.scales[static_cast<std::size_t>(row * q.blocks_per_row() + c / q.config.block)] : 0u;
  };
  const auto code = [](const Quantized& q, std::int64_t row, std::int64_t c) {
    return c < q.cols ? q.codes[static_cast<std::size_t>(row * q.cols + c)] : 0u;
  };
  std::uint32_t running = 0;
  for (std::int64_t first = 0; first < p.aq.cols; first += i.k) {
    std::uint32_t a[64], b[64], sa[4], sb[4];
    for (int c = 0; c < i.k; ++c) {
      a[c] = code(p.aq, m, first + c);
      b[c] = code(p.bq, n, first + c);
    }
    for (int s = 0; s < i.k / i.block; ++s) {
      sa[s] = scale(p.aq, m, first + s * i.block);
      sb[s] = scale(p.bq, n, first + s * i.block);
    }
    running = sim::multiply_accumulate(i, a, 1, b, 1, running, sa, 1, sb, 1);
  }
  return running;
}

TEST(Matmul, BlackwellIsTheInstructionsBitsOfCodesAndScales) {
  for (const char* format : {"nvfp4", "mxfp4", "mxfp8_e4m3", "mxfp6_e2m3"}) {
    std::int64_t proved = 0, outputs = 0;
    for (const int spread : {0, 2, 4, 8, 14, 30}) {
      const Pair p(config(format, "none"), 9, 11, 400, spread, static_cast<unsigned>(spread));
      const MatmulConfig c = p.parse(words("blackwell"));
      ASSERT_TRUE(c.unit.instruction->scaled) << c.unit.name;
      const Product out = p.multiply(c);
      proved += out.proved;
      outputs += out.rows * out.cols;
      for (std::int64_t m = 0; m < out.rows; ++m) {
        for (std::int64_t n = 0; n < out.cols; ++n) {
          ASSERT_EQ(bits(out.out[static_cast<std::size_t>(m * out.cols + n)]), by_stored(*c.unit.instruction, p, m, n))
              << c.unit.name << " [" << m << ", " << n << "] spread " << spread;
        }
      }
    }
    EXPECT_GT(proved, outputs / 8) << format;
    if (std::string(format) == "nvfp4" || std::string(format) == "mxfp4") {
      EXPECT_LT(proved, outputs) << format;
    }
  }
}

TEST(Matmul, ScalesOfBlocksOfZerosCount) {
  // A square block's row of zeros has the block's scale, far above the others', and C is cut for its sake.
  Matrix a = {32, 64, std::vector<float>(32 * 64, 0.0f)}, b = {1, 64, std::vector<float>(64, 0.0f)};
  for (std::size_t c = 32; c < 64; ++c) a.data[c] = std::ldexp(1.0f + static_cast<float>(c) / 64, -100);
  a.data[64] = 0x1p100f;  // row 1 of the first square
  for (float& x : b.data) x = 1.5f;
  QuantizeConfig c = config("mxfp4");
  Pair p(c, 1, 1, 64, 0);
  p.a = a;
  p.b = b;
  p.bq = quantize(c, b, "b");
  c.tiles = true;
  p.aq = quantize(c, a, "a");
  const MatmulConfig m = p.parse(words("blackwell"));
  const Product out = p.multiply(m);
  EXPECT_EQ(bits(out.out[0]), by_stored(*m.unit.instruction, p, 0, 0));
  EXPECT_EQ(out.out[0], 0);  // 2^100 of scale leaves nothing of 2^-100
}

using Rationals = std::vector<mpq_class>;

Rationals rationals(const Quantized& q, std::int64_t cols) {
  Rationals out;
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto scale = q.scales[static_cast<std::size_t>(r * q.blocks_per_row() + c / q.config.block)];
      const auto code = q.codes[static_cast<std::size_t>(r * q.cols + c)];
      out.push_back(mpq_class(q.tensor_scale) * mpq_class(formats::decode_double(q.config.format->scale, scale)) *
                    mpq_class(formats::decode_double(q.config.format->element, code)));
    }
  }
  return out;
}

Rationals rationals(const Matrix& m) {
  Rationals out;
  for (const float x : m.data) out.emplace_back(x);
  return out;
}

Rationals product(const Rationals& a, const Rationals& b, std::int64_t m, std::int64_t n, std::int64_t k) {
  Rationals out;
  for (std::int64_t r = 0; r < m; ++r) {
    for (std::int64_t s = 0; s < n; ++s) {
      mpq_class sum = 0;
      for (std::int64_t c = 0; c < k; ++c) {
        sum += a[static_cast<std::size_t>(r * k + c)] * b[static_cast<std::size_t>(s * k + c)];
      }
      out.push_back(sum);
    }
  }
  return out;
}

/// The number of the dtype after x, away from zero or toward it.
float neighbour(const std::string& dtype, float x, bool away) {
  const formats::Format& f = dtype == "bf16" ? formats::bf16 : formats::fp16;
  if (dtype == "f32") return std::nextafter(x, away ? std::copysign(INFINITY, x) : 0);
  const std::uint32_t code = code_of(f, x);
  return formats::decode_float(f, away ? code + 1 : code - 1);
}

bool is_even(const std::string& dtype, float x) {
  const std::uint32_t code = dtype == "f32" ? bits(x) : code_of(dtype == "bf16" ? formats::bf16 : formats::fp16, x);
  return (code & 1) == 0;
}

/// Whether y, not 0, is the dtype's nearest to x: no neighbour is nearer, and none as near where y is odd.
bool is_nearest(const std::string& dtype, float y, const mpq_class& x) {
  const mpq_class own = abs(mpq_class(y) - x);
  for (const bool away : {false, true}) {
    const float next = neighbour(dtype, y, away);
    if (std::isinf(next)) continue;
    const mpq_class other = abs(mpq_class(next) - x);
    if (other < own || (other == own && !is_even(dtype, y))) return false;
  }
  return true;
}

TEST(Matmul, ExactIsTheRealNumberRoundedOnce) {
  std::int64_t proved = 0, outputs = 0;
  for (const char* format : {"nvfp4", "mxfp4", "nvint4"}) {
    for (const int spread : {0, 6, 40}) {
      const Pair p(config(format), 5, 9, 100, spread, static_cast<unsigned>(spread) + 3);
      const Rationals want = product(rationals(p.aq, 100), rationals(p.bq, 100), 5, 9, 100);
      for (const char* dtype : {"f32", "bf16", "f16"}) {
        MatmulWords w = words("exact");
        w.out_dtype = dtype;
        const Product out = p.multiply(p.parse(w));
        proved += out.proved;
        outputs += 45;
        for (std::size_t i = 0; i < want.size(); ++i) {
          if (std::isinf(out.out[i])) {
            ASSERT_GE(abs(want[i]), 65520) << dtype;
            continue;
          }
          if (out.out[i] == 0) {
            ASSERT_LE(abs(want[i]), mpq_class(0x1p-25)) << dtype;
            continue;
          }
          ASSERT_TRUE(is_nearest(dtype, out.out[i], want[i]))
              << format << " " << dtype << " [" << i / 9 << ", " << i % 9 << "] " << std::hex << bits(out.out[i]) << " "
              << out.out[i] << " for " << want[i].get_d();
        }
        EXPECT_EQ(out.error.inner[of_sum][of_sum], 0);
      }
    }
  }
  EXPECT_GT(proved, outputs / 4);
  EXPECT_LT(proved, outputs);
}

TEST(Matmul, SumsRoundedToOddKeepWhatTheyLost) {
  for (const double low : {0x1p-60, -0x1p-60, 0x1p-300, 0.0}) {
    ProductSum sum;
    sum.add_product(1 + 0x1p-52, 1);
    sum.add_product(low, 1);
    const double value = rounded_to_odd(sum, 2);
    // 2 + 2^-51 has an odd last bit: it stays, or what is below it in magnitude becomes odd from 2 + 2^-51 - tiny.
    EXPECT_EQ(value, 2 + 0x1p-51) << low;
  }
  ProductSum even;
  even.add_product(1 + 0x1p-51, -1);
  even.add_product(-0x1p-200, 1);
  EXPECT_EQ(rounded_to_odd(even), -(1 + 0x1p-51 + 0x1p-52));
  EXPECT_EQ(rounded_to_odd(ProductSum{}), 0);
}

TEST(Matmul, PartsAddUpAndAreWhatTheyAreCalled) {
  const Pair p(config("nvfp4"), 6, 10, 160, 2);
  const Rationals a = rationals(p.a), b = rationals(p.b), aq = rationals(p.aq, 160), bq = rationals(p.bq, 160);
  const auto minus = [](Rationals x, const Rationals& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] -= y[i];
    return x;
  };
  const auto times = [](const Rationals& x, const Rationals& y) { return product(x, y, 6, 10, 160); };
  const Rationals exact = times(a, b);
  for (const char* arch : {"exact", "fp32", "ampere", "hopper", "blackwell"}) {
    MatmulWords w = words(arch);
    w.out_dtype = "bf16";
    const Product out = p.multiply(p.parse(w));
    const ProductError& e = out.error;
    EXPECT_LT(e.rest(), 1e-12) << arch;
    const auto near = [&](const Rationals& part, int index) {
      mpq_class inner = 0, along = 0;
      for (std::size_t i = 0; i < part.size(); ++i) {
        inner += part[i] * part[i];
        along += part[i] * exact[i];
      }
      EXPECT_NEAR(e.inner[index][index] / inner.get_d(), 1, 1e-11) << arch << " " << product_part_names[index];
      EXPECT_NEAR(e.along[index] / along.get_d(), 1, 1e-9) << arch << " " << product_part_names[index];
    };
    near(times(a, minus(bq, b)), of_weights);
    near(times(minus(aq, a), b), of_activations);
    near(times(minus(aq, a), minus(bq, b)), of_both);
    mpq_class error = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const mpq_class lost = mpq_class(out.out[i]) - exact[i];
      error += lost * lost;
    }
    EXPECT_NEAR(e.error / error.get_d(), 1, 1e-11) << arch;
  }
}

TEST(Matmul, Fp32StepsAreFmaAndMulAdd) {
  const Pair p(config("nvfp4"), 4, 9, 96, 3);
  const std::vector<float> a = exact_values(p.aq), b = exact_values(p.bq);
  const auto sum = [&](std::size_t m, std::size_t n, std::size_t from, std::size_t to, bool fused) {
    float s = 0;
    for (std::size_t c = from; c < to; ++c) {
      const float x = a[m * 96 + c], y = b[n * 96 + c];
      const float product = x * y;
      s = fused ? std::fma(x, y, s) : s + product;
    }
    return s;
  };
  for (const bool fused : {true, false}) {
    MatmulWords w = words("fp32", fused ? "fma" : "mul_add");
    const Product whole = p.multiply(p.parse(w));
    w.k_order = "split:3";
    const Product split = p.multiply(p.parse(w));
    for (std::size_t m = 0; m < 4; ++m) {
      for (std::size_t n = 0; n < 9; ++n) {
        ASSERT_EQ(bits(whole.out[m * 9 + n]), bits(sum(m, n, 0, 96, fused))) << m << " " << n;
        const float parts = (sum(m, n, 0, 32, fused) + sum(m, n, 32, 64, fused)) + sum(m, n, 64, 96, fused);
        ASSERT_EQ(bits(split.out[m * 9 + n]), bits(parts)) << m << " " << n;
      }
    }
  }
}

TEST(Matmul, FmaRoundsOnceWhereBinary64WouldRoundTwice) {
  // 1 + 2^-23 plus 2^-24 less 2^-70 is below the tie; binary64 would make it the tie, which goes up to the even number.
  const Matrix a = {1, 3, {1, 0x1p-23f, (1 + 0x1p-23f) * 0x1p-24f}}, b = {1, 3, {1, 1, 1 - 0x1p-23f}};
  const MatmulConfig fma = parse_matmul(words("fp32"), nullptr, nullptr);
  EXPECT_EQ(multiply({&a, nullptr}, {&b, nullptr}, fma).out[0], 1 + 0x1p-23f);
}

TEST(Matmul, FmaKeepsAnInfinity) {
  for (const float sign : {1.0f, -1.0f}) {
    const Matrix a = {1, 4, {3e38f, 2, 1e-30f, 7}}, b = {1, 4, {sign * 3e38f, -1, 1, 3}};
    for (const char* step : {"fma", "mul_add"}) {
      const Product p = multiply({&a, nullptr}, {&b, nullptr}, parse_matmul(words("fp32", step), nullptr, nullptr));
      EXPECT_EQ(p.out[0], sign * HUGE_VALF) << step;
    }
  }
}

TEST(Matmul, ProductsOfZerosHaveNoError) {
  const Matrix zeros = {2, 64, std::vector<float>(128)}, b = random_matrix(3, 64, 8, 1);
  const QuantizeConfig c = config("nvfp4");
  const Quantized zq = quantize(c, zeros, "zeros"), bq = quantize(c, b, "b");
  for (const char* arch : {"exact", "fp32", "blackwell"}) {
    const Product p = multiply({&zeros, &zq}, {&b, &bq}, parse_matmul(words(arch), &c, &c));
    EXPECT_EQ(p.error.relative(), 0) << arch;
    EXPECT_EQ(p.error.relative(of_weights), 0) << arch;
    EXPECT_EQ(p.error.shrinkage(of_sum), 0) << arch;
    EXPECT_EQ(p.error.cosine(), 1) << arch;
  }
}

TEST(Matmul, BlackwellIsSm100AndSm120ForWhatSm100Lacks) {
  const auto unit = [](const char* arch, const char* name, const QuantizeConfig& c) {
    return std::string(parse_matmul(words(arch, name), &c, &c).unit.name);
  };
  const char* const mma = "mma.m16n8k64.block16.f32.e2m1.e2m1.f32.ue4m3";
  const char* const tcgen05 = "tcgen05.m128n8k64.block16.f32.e2m1.e2m1.ue4m3";
  const QuantizeConfig nv = config("nvfp4"), mx = config("mxfp4");
  QuantizeConfig nv32 = nv;
  nv32.block = 32;
  EXPECT_EQ(unit("blackwell", "", nv), tcgen05);
  EXPECT_EQ(unit("blackwell", mma, nv), mma);
  EXPECT_EQ(unit("rtx_blackwell", "", nv), mma);
  EXPECT_EQ(unit("rtx_blackwell", "", nv32), mma) << "two neighbours share a scale";
  EXPECT_EQ(unit("rtx_blackwell", "", mx), "mma.m16n8k64.block32.f32.e2m1.e2m1.f32.ue8m0");
}

TEST(Matmul, ExactKeepsWhatBinary64WouldLose) {
  Matrix a = {1, 96, std::vector<float>(96, 0.0f)}, b = {1, 96, std::vector<float>(96, 1.0f)};
  a.data[0] = 1;
  a.data[40] = 0x1p60f;
  a.data[70] = -0x1p60f;
  const QuantizeConfig c = config("mxfp4", "none");
  const Quantized aq = quantize(c, a, "a"), bq = quantize(c, b, "b");
  const Product out = multiply({&a, &aq}, {&b, &bq}, parse_matmul(words("exact"), &c, &c));
  EXPECT_EQ(out.out[0], 1);
  EXPECT_EQ(out.proved, 0);
}

TEST(Matmul, ReversedInstructionsKeepTheirSteps) {
  const Matrix a = random_matrix(4, 96, 8, 1), b = random_matrix(7, 96, 8, 2);
  const auto turned = [](const Matrix& m) {
    Matrix out = m;
    for (std::size_t i = 0; i < m.data.size(); ++i) {
      const std::size_t c = i % 96;
      out.data[i] = m.data[i - c + (5 - c / 16) * 16 + c % 16];
    }
    return out;
  };
  MatmulWords w = words("ampere");  // two steps of 8 an instruction
  const Matrix ra = turned(a), rb = turned(b);
  const Product forward = multiply({&ra, nullptr}, {&rb, nullptr}, parse_matmul(w, nullptr, nullptr));
  w.k_order = "reverse";
  EXPECT_EQ(multiply({&a, nullptr}, {&b, nullptr}, parse_matmul(w, nullptr, nullptr)).out, forward.out);
}

TEST(Matmul, ReversedOrderStartsWithTheLastInstruction) {
  const Pair p(config("nvfp4", "none"), 3, 5, 256, 6);
  MatmulWords w = words("blackwell");
  w.k_order = "reverse";
  const MatmulConfig c = p.parse(w);
  const Product out = p.multiply(c);
  Pair turned = p;
  const auto turn = [](Quantized& q) {
    const Quantized old = q;
    for (std::size_t r = 0; r < static_cast<std::size_t>(q.rows); ++r) {
      for (std::size_t k = 0; k < 256; ++k) q.codes[r * 256 + k] = old.codes[r * 256 + (3 - k / 64) * 64 + k % 64];
      for (std::size_t k = 0; k < 16; ++k) q.scales[r * 16 + k] = old.scales[r * 16 + (3 - k / 4) * 4 + k % 4];
    }
  };
  turn(turned.aq);
  turn(turned.bq);
  for (std::int64_t i = 0; i < 15; ++i) {
    ASSERT_EQ(bits(out.out[static_cast<std::size_t>(i)]), by_stored(*c.unit.instruction, turned, i / 5, i % 5)) << i;
  }
}

TEST(Matmul, PromotionMovesSumsIntoFp32) {
  const Pair p(config("nvfp4"), 3, 5, 384, 3);
  MatmulWords w = words("hopper", "wgmma.m64n8k32.f32.e4m3.e4m3");
  const Product plain = p.multiply(p.parse(w));
  w.promote = 128;
  const Product promoted = p.multiply(p.parse(w));
  w.promote = 0;
  w.k_order = "split:3";
  EXPECT_EQ(promoted.out, p.multiply(p.parse(w)).out);
  EXPECT_NE(promoted.out, plain.out);
}

TEST(Matmul, AlphaIsComputedInTheOrderOfItsRow) {
  MatmulWords w = words("blackwell");
  int te_differs = 0, six_differs = 0, back_differs = 0;
  for (unsigned seed = 0; te_differs == 0 || six_differs == 0 || back_differs == 0; ++seed) {
    ASSERT_LT(seed, 1000u);
    Matrix a = random_matrix(1, 16, 1, seed), b = random_matrix(1, 16, 1, seed + 1000);
    const QuantizeConfig c = config("nvfp4");
    const Quantized aq = quantize(c, a, "a"), bq = quantize(c, b, "b");
    const float aa = aq.amax, ab = bq.amax, da = aq.tensor_scale, db = bq.tensor_scale;
    const float product = da * db, te = aa * ab * (1 / (2688.0f * 2688.0f)), six = (aa * ab) / (2688.0f * 2688.0f);
    const float back = 1 / ((1 / da) * (1 / db));
    te_differs += te != six && te != product;
    six_differs += six != product;
    back_differs += back != product;
    const auto alpha = [&](const char* name) {
      w.alpha = name;
      return multiply({&a, &aq}, {&b, &bq}, parse_matmul(w, &c, &c)).alpha;
    };
    EXPECT_EQ(alpha("product"), product);
    EXPECT_EQ(alpha("te"), te);
    EXPECT_EQ(alpha("fouroversix"), six);
    EXPECT_EQ(alpha("reciprocal"), back);
  }
  const Pair te(config("nvfp4", "", "te"), 2, 2, 32, 1, 5);
  EXPECT_EQ(te.parse(words("blackwell")).alpha, AlphaStep::te);
}

TEST(Matmul, ThreadsChangeNothing) {
  const Pair p(config("nvfp4"), 20, 30, 192, 2);
  const MatmulConfig c = p.parse(words("hopper", "wgmma.m64n8k32.f32.e4m3.e4m3"));
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Product one = p.multiply(c);
  omp_set_num_threads(3);
  const Product three = p.multiply(c);
  omp_set_num_threads(before);
  EXPECT_EQ(one.out, three.out);
  EXPECT_EQ(one.error.error, three.error.error);
  EXPECT_EQ(one.error.inner[of_sum][of_both], three.error.inner[of_sum][of_both]);
}

TEST(Matmul, WrongWordsAreRefused) {
  const QuantizeConfig nv = config("nvfp4"), none = config("nvfp4", "none"), if4 = config("if4");
  EXPECT_THROW(parse_matmul(words("hoper"), &nv, &nv), UsageError);
  EXPECT_THROW(parse_matmul(words("hopper", "mma.m16n8k16.f16.f16.f16.f16"), &nv, &nv), UsageError);
  EXPECT_THROW(parse_matmul(words("hopper", "mma.m16n8k8.f32.tf32.tf32.f32"), &nv, &nv), UsageError);
  MatmulWords w = words("blackwell");
  w.alpha = "te";
  EXPECT_THROW(parse_matmul(w, &nv, &none), UsageError);
  w = words("hopper", "wgmma.m64n8k32.f32.e4m3.e4m3");
  w.promote = 100;
  EXPECT_THROW(parse_matmul(w, &nv, &nv), UsageError);
  EXPECT_FALSE(parse_matmul(words("blackwell"), &if4, &if4).unit.instruction->scaled);
  EXPECT_THROW(parse_k_order("split:0"), UsageError);
}

}  // namespace
}  // namespace fp4scope::analysis
