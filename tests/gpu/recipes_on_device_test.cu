// The claim: recipes, converters, rotations, layouts and stochastic rounding are one source with the same bits on a CPU
// and on every GPU thread. encode_float on the device is compared with encode, its plain twin, on the CPU.
// A NaN counts as one value wherever it is a float: its sign and payload are the processor's; its codes are compared.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "formats/encode_float.hpp"
#include "formats/exact.hpp"
#include "formats/layout.hpp"
#include "search/if4.hpp"
#include "sim/eden.hpp"
#include "sim/hadamard.hpp"
#include "sim/recipes.hpp"
#include "tests/gpu/on_device.cuh"

namespace fp4scope {
namespace {

using formats::Overflow;
using formats::Rounding;

FP4SCOPE_HD std::uint32_t bits_of(float x) { return x == x ? __builtin_bit_cast(std::uint32_t, x) : 0x7FC00000u; }

/// A hash of i, for words and for what needs no distribution.
FP4SCOPE_HD std::uint32_t mixed(std::uint32_t i) {
  i = (i ^ i >> 16) * 0x7FEB352Du;
  i = (i ^ i >> 15) * 0x846CA68Bu;
  return i ^ i >> 16;
}

// ---- element codes: 2^22 float patterns, spread over all of them ----

constexpr std::uint32_t patterns = 1u << 22;

FP4SCOPE_HD float pattern(std::uint32_t i) {
  return __builtin_bit_cast(float, i * 1024u + (i * 2654435761u >> 22));
}

/// Of every rounding and policy; 0xFFFF where a row does not offer them.
struct Codes {
  std::uint16_t code[6][2];
};

/// encode_float on the device, encode on the CPU.
struct Encode {
  formats::Format format;
  FP4SCOPE_HD Codes operator()(std::uint32_t i) const {
    Codes codes;
    for (int mode = 0; mode < 6; ++mode) {
      for (int policy = 0; policy < 2; ++policy) {
        codes.code[mode][policy] = static_cast<std::uint16_t>(
            one(pattern(i), static_cast<Rounding>(mode), static_cast<Overflow>(policy), mixed(i)));
      }
    }
    return codes;
  }
  FP4SCOPE_HD std::uint32_t one(float x, Rounding mode, Overflow policy, std::uint32_t word) const {
#ifdef __CUDA_ARCH__
    return formats::encode_float(format, x, mode, policy, word);
#else
    return formats::encode(format, x, mode, policy, word).code;
#endif
  }
};

/// What a converter row offers, of a binary32 and of a binary64 with as many patterns.
struct Convert {
  sim::Converter row;
  bool binary64;
  FP4SCOPE_HD Codes operator()(std::uint32_t i) const {
    Codes codes;
    for (int mode = 0; mode < 6; ++mode) {
      for (int policy = 0; policy < 2; ++policy) {
        const auto m = static_cast<Rounding>(mode);
        const auto o = static_cast<Overflow>(policy);
        const bool offered = row.offers(o) && (row.rounding_set == 0 ? m == row.rounding : row.offers(m));
        codes.code[mode][policy] = offered ? static_cast<std::uint16_t>(one(i, m, o)) : 0xFFFF;
      }
    }
    return codes;
  }
  FP4SCOPE_HD std::uint32_t one(std::uint32_t i, Rounding mode, Overflow policy) const {
    if (!binary64) return sim::convert(row, pattern(i), mode, policy, mixed(i));
    return sim::convert(row, double_pattern(i), mode, policy, mixed(i));
  }
  /// Half of them in binary32's range, where exponents are 2^-160 .. 2^159, half anywhere.
  FP4SCOPE_HD static double double_pattern(std::uint32_t i) {
    const std::uint64_t low = static_cast<std::uint64_t>(mixed(i)) << (i % 3 * 16);
    const std::uint64_t exponent = i % 2 ? i >> 11 & 0x7FF : 863 + mixed(i + 1) % 320;
    return __builtin_bit_cast(double, static_cast<std::uint64_t>(i >> 1 & 1) << 63 | exponent << 52 | low >> 12);
  }
};

// ---- recipes: tensors of 64 blocks, each of one kind ----

constexpr std::uint32_t blocks = 102400, blocks_per_tensor = 64;
constexpr int widest = 32;

enum Kind { normal, mixed_exponents, block_exponents, element_ties, bf16_ties, subnormals, zeros, huge, nonfinite };
constexpr int kinds = 9;

using Random = std::mt19937_64;

float any_sign(Random& random, float magnitude) { return random() & 1 ? -magnitude : magnitude; }

float tied_value(Random& random, int exponent) {
  constexpr float midpoint[] = {0.25f, 0.5f, 0.75f, 1.25f, 1.5f, 1.75f, 2.5f, 3.5f, 4.5f, 5.0f, 5.5f, 6.0f, 7.0f, 8.0f};
  return std::ldexp(any_sign(random, midpoint[random() % std::size(midpoint)]), exponent);
}

float nonfinite_value(Random& random, float otherwise) {
  constexpr std::uint32_t bits[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F812345, 0xFFFFFFFF};
  return random() % 24 == 0 ? __builtin_bit_cast(float, bits[random() % std::size(bits)]) : otherwise;
}

/// An element of a block whose exponent is `exponent`.
float element_of(Random& random, Kind kind, int exponent) {
  std::normal_distribution<float> distribution;
  const float z = distribution(random);
  const auto word = static_cast<std::uint32_t>(random());
  switch (kind) {
    case normal: return z;
    case mixed_exponents: return std::ldexp(z, static_cast<int>(word % 80) - 40);
    case block_exponents: return std::ldexp(z, exponent);
    case element_ties: return tied_value(random, exponent / 16);
    case bf16_ties: return __builtin_bit_cast(float, (__builtin_bit_cast(std::uint32_t, z) & 0xFFFF0000u) | 0x8000u);
    case subnormals: return __builtin_bit_cast(float, word & (0x80000000u | (0x7FFFFFu >> (word >> 24 & 15))));
    case zeros: return word % 64 == 0 && exponent > 0 ? z : any_sign(random, 0);
    case huge: return any_sign(random, std::ldexp(1 + std::fabs(z) / 8, 126));
    case nonfinite: return nonfinite_value(random, z);
  }
  return 0;
}

/// `x`, blocks of n, and each tensor's maximum. Where there is NaN or Inf, a third of the maxima are of the finite
/// elements, a third skip NaN, a third are NaN; where there are ties, they are 6 * 448 times a power of two.
struct Data {
  int n;
  std::vector<float> x, amax;
};

float tensor_amax(const std::vector<float>& x, std::size_t first, std::size_t last, std::size_t tensor, Kind kind) {
  if (kind == element_ties) return std::ldexp(2688.0f, static_cast<int>(tensor % 16) - 8);
  float amax = 0;
  bool nan = false;
  for (std::size_t i = first; i < last; ++i) {
    nan = nan || std::isnan(x[i]);
    if (tensor % 3 != 0 || std::isfinite(x[i])) amax = std::max(amax, std::isnan(x[i]) ? 0 : std::fabs(x[i]));
  }
  return nan && tensor % 3 == 2 ? std::numeric_limits<float>::quiet_NaN() : amax;
}

Data make_data(int n, bool with_nonfinite) {
  Data data = {n, std::vector<float>(std::size_t{blocks} * n), {}};
  Random random(42);
  const std::size_t tensor_size = std::size_t{blocks_per_tensor} * n;
  for (std::size_t t = 0; t < blocks / blocks_per_tensor; ++t) {
    const auto kind = static_cast<Kind>(t % (with_nonfinite ? kinds : nonfinite));
    const std::size_t first = t * tensor_size;
    int exponent = 0;
    for (std::size_t i = 0; i < tensor_size; ++i) {
      if (i % n == 0) exponent = static_cast<int>(random() % 250) - 130;
      const float v = element_of(random, kind, exponent);
      const bool narrow = (i / n) % 2 != 0 && kind != bf16_ties;
      data.x[first + i] = narrow ? sim::round_bf16(v) : v;
    }
    data.amax.push_back(tensor_amax(data.x, first, first + tensor_size, t / kinds, kind));
  }
  return data;
}

/// The block's amax as the row takes it.
FP4SCOPE_HD float block_amax(const sim::Recipe& r, const float* x, int n) {
  float amax = 0;
  for (int i = 0; i < n; ++i) {
    const float magnitude = static_cast<float>(sim::magnitude(x[i]));
    if (magnitude != magnitude && r.nan_amax) return magnitude;
    if (magnitude > amax) amax = magnitude;
  }
  return amax;
}

struct RecipeAnswer {
  std::uint32_t encode, decode, value;
  std::int32_t scale;
  std::uint8_t codes[widest], integer_codes[widest];
  std::uint32_t values[widest], integer_values[widest], decoded[widest], integer_decoded[widest];
};

/// `times`: 1, or 1.5 for the second candidate of four over six.
struct RecipeBlocks {
  sim::Recipe row;
  formats::BlockFormat format;
  Rounding rounding;
  float times;
  int n;
  const float* x;
  const float* amax;

  FP4SCOPE_HD RecipeAnswer operator()(std::uint32_t block) const {
    const float* const in = x + static_cast<std::size_t>(block) * n;
    const float b = block_amax(row, in, n);
    const sim::RecipeTensor t = sim::recipe_tensor(row, amax[block / blocks_per_tensor], row.scale_max);
    const float v = sim::block_value(row, t, b) * times;
    RecipeAnswer a = {};
    a.encode = bits_of(t.encode);
    a.decode = bits_of(t.decode);
    a.value = bits_of(v);
    a.scale = row.value == sim::BlockStep::rational ? sim::rational_scale_code(format, t, b)
                                                    : sim::recipe_scale_code(row, format, v);
    floating_elements(t, b, in, a);
    if (format.selects()) integer_elements(t, b, in, a);
    return a;
  }
  FP4SCOPE_HD void floating_elements(const sim::RecipeTensor& t, float b, const float* in, RecipeAnswer& a) const {
    float values[widest] = {};
    sim::recipe_codes(row, format, t, a.scale, b, in, n, rounding, a.codes, values);
    for (int i = 0; i < n; ++i) {
      a.values[i] = bits_of(values[i]);
      a.decoded[i] = bits_of(sim::recipe_decode(row, format, t, a.scale, a.codes[i], false));
    }
  }
  FP4SCOPE_HD void integer_elements(const sim::RecipeTensor& t, float b, const float* in, RecipeAnswer& a) const {
    float values[widest] = {};
    sim::recipe_int4_codes(row, format, t, a.scale, b, in, n, a.integer_codes, values);
    for (int i = 0; i < n; ++i) {
      a.integer_values[i] = bits_of(values[i]);
      a.integer_decoded[i] = bits_of(sim::recipe_decode(row, format, t, a.scale, a.integer_codes[i], true));
    }
  }
};

bool recipe_is_the_same(const sim::Recipe& r, const Data& data, Rounding rounding, float times) {
  const formats::BlockFormat& format = *formats::find_block_format(r.format);
  const DeviceArray<float> x(data.x), amax(data.amax);
  const RecipeBlocks cpu = {r, format, rounding, times, data.n, data.x.data(), data.amax.data()};
  RecipeBlocks gpu = cpu;
  gpu.x = x.get();
  gpu.amax = amax.get();
  std::string what = std::string("recipe ") + r.name + ' ' + r.format + ' ' + r.methods;
  if (times != 1) what += " * 1.5";
  if (r.element.offers(rounding)) what += " rounding " + std::to_string(static_cast<int>(rounding));
  return each_is_the_same(what, blocks, cpu, gpu);
}

bool recipes_are_the_same() {
  const Data narrow[] = {make_data(16, false), make_data(16, true)};
  const Data wide[] = {make_data(32, false), make_data(32, true)};
  bool ok = true;
  for (const sim::Recipe& r : sim::all_recipes) {
    const int size = r.block != 0 ? r.block : formats::find_block_format(r.format)->block;
    const Data& data = (size == 16 ? narrow : wide)[r.nan_defined];
    for (const Rounding rounding : {Rounding::nearest_even, Rounding::nearest_away, Rounding::toward_zero}) {
      if (rounding != r.element.rounding && !r.element.offers(rounding)) continue;
      ok = recipe_is_the_same(r, data, rounding, 1) && ok;
    }
    if (r.candidates == sim::Candidates::four_over_six) {
      ok = recipe_is_the_same(r, data, r.element.rounding, 1.5f) && ok;
    }
  }
  return ok;
}

// ---- rotations: every size and arithmetic, there and back ----

struct Rotate {
  int n;
  sim::HadamardArithmetic arithmetic;
  bool back;
  const float* x;
  const std::int8_t* signs;
  float* y;
  /// One vector -> its values in y, and a hash of them.
  FP4SCOPE_HD std::uint32_t operator()(std::uint32_t vector) const {
    const float* const in = x + static_cast<std::size_t>(vector) * n;
    float* const out = y + static_cast<std::size_t>(vector) * n;
    if (back) {
      sim::rotate_back(in, signs, n, arithmetic, out);
    } else {
      sim::rotate(in, signs, n, arithmetic, out);
    }
    std::uint32_t hash = 0;
    for (int j = 0; j < n; ++j) hash = (hash ^ bits_of(out[j])) * 16777619u;
    return hash;
  }
};

std::vector<std::uint32_t> all_bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float v : values) bits.push_back(bits_of(v));
  return bits;
}

bool rotation_is_the_same(int n, sim::HadamardArithmetic arithmetic, bool back, const std::vector<float>& x,
                          const std::vector<std::int8_t>& signs) {
  std::vector<float> y(x.size());
  const DeviceArray<float> dx(x), dy(y);
  const DeviceArray<std::int8_t> ds(signs);
  const Rotate cpu = {n, arithmetic, back, x.data(), signs.data(), y.data()};
  const Rotate gpu = {n, arithmetic, back, dx.get(), ds.get(), dy.get()};
  const std::string what = (back ? "rotate_back " : "rotate ") + std::to_string(n) + " arithmetic " +
                           std::to_string(static_cast<int>(arithmetic));
  const bool hashes = each_is_the_same(what + ", hashes", static_cast<std::uint32_t>(x.size()) / n, cpu, gpu);
  return same(what.c_str(), all_bits(y), all_bits(dy.host())) && hashes;
}

/// Vectors of n, each of one kind, the kinds in turn.
std::vector<float> make_vectors(int n, std::size_t size) {
  Random random(7);
  std::vector<float> x(size);
  int exponent = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (i % n == 0) exponent = static_cast<int>(random() % 250) - 130;
    x[i] = element_of(random, static_cast<Kind>(i / n % kinds), exponent);
  }
  return x;
}

bool rotations_are_the_same() {
  std::vector<std::int8_t> signs(sim::max_hadamard_size);
  for (std::uint32_t i = 0; i < signs.size(); ++i) signs[i] = mixed(i) & 1 ? -1 : 1;
  bool ok = true;
  for (int n = 2; n <= sim::max_hadamard_size; n *= 2) {
    const std::vector<float> x = make_vectors(n, 1 << 17);
    for (int arithmetic = 0; arithmetic < 4; ++arithmetic) {
      for (const bool back : {false, true}) {
        ok = rotation_is_the_same(n, static_cast<sim::HadamardArithmetic>(arithmetic), back, x, signs) && ok;
      }
    }
  }
  return ok;
}

// ---- layouts ----

struct LayoutAnswer {
  std::int64_t rows, cols, size, offset, row, col, back;
};

/// Matrices of up to 400 rows and 30 or 2^20 scale columns: (row, col) -> offset, offset -> (row, col).
struct Scales {
  formats::ScaleLayout layout;
  FP4SCOPE_HD LayoutAnswer operator()(std::uint32_t i) const {
    const std::int64_t rows = 1 + mixed(i) % 400, cols = 1 + (mixed(i + 1) % (i % 16 == 0 ? 1u << 20 : 30u));
    LayoutAnswer a = {formats::padded_scale_rows(layout, rows), formats::padded_scale_cols(cols)};
    a.size = formats::swizzled_size(layout, rows, cols);
    const std::int64_t row = mixed(i + 2) % a.rows, col = mixed(i + 3) % a.cols;
    a.offset = formats::swizzled_offset(layout, row, col, cols);
    const formats::ScalePosition at = formats::swizzled_position(layout, mixed(i + 4) % a.size, cols);
    a.row = at.row;
    a.col = at.col;
    a.back = formats::swizzled_offset(layout, at.row, at.col, cols);
    return a;
  }
};

struct NibbleAnswer {
  std::int64_t byte, high, scale, block_bytes, element;
};

struct Nibbles {
  formats::NibbleOrder order;
  FP4SCOPE_HD NibbleAnswer operator()(std::uint32_t i) const {
    const std::int64_t e = i < 4096 ? i : static_cast<std::int64_t>(mixed(i)) << (i % 12);
    const formats::NibblePosition at = formats::nibble_position(order, e);
    NibbleAnswer a = {at.byte, at.high ? 1 : 0};
    a.scale = formats::scale_byte(order, e) * 2 + (formats::is_scale_byte(order, i) ? 1 : 0);
    a.block_bytes = formats::nibble_block_bytes(order);
    a.element = formats::nibble_element(order, at);
    return a;
  }
};

bool layouts_are_the_same() {
  bool ok = true;
  for (const formats::ScaleLayout& layout : {formats::scales_128x4, formats::scales_8x4}) {
    const Scales scales = {layout};
    ok = each_is_the_same("scales " + std::to_string(layout.rows) + "x4", 1u << 20, scales, scales) && ok;
  }
  for (const formats::NibbleOrder& order :
       {formats::pair_nibbles, formats::ggml_mxfp4_nibbles, formats::ggml_nvfp4_nibbles}) {
    const Nibbles nibbles = {order};
    ok = each_is_the_same("nibbles " + std::to_string(order.elements), 1u << 20, nibbles, nibbles) && ok;
  }
  return ok;
}

// ---- stochastic rounding, the choice between elements, exact sums ----

struct StochasticCodes {
  std::uint8_t codes[widest];
};

struct Stochastic {
  formats::Format element, scale;
  sim::Grid grid;
  double factor;
  float tensor_scale;
  int n;
  const float* x;
  FP4SCOPE_HD StochasticCodes operator()(std::uint32_t block) const {
    const float* const in = x + static_cast<std::size_t>(block) * n;
    constexpr sim::ScaleRule six = {6, Rounding::nearest_even};
    const int code = sim::scale_code(scale, sim::unbiased(six), sim::amax(in, n), tensor_scale);
    const double step = tensor_scale * formats::decode_double(scale, static_cast<std::uint32_t>(code));
    std::uint32_t words[widest];
    for (int i = 0; i < n; ++i) words[i] = mixed(block * widest + static_cast<std::uint32_t>(i));
    StochasticCodes a = {};
    sim::quantize_block_stochastic(element, grid, in, n, step, words, a.codes, factor);
    return a;
  }
};

bool stochastic_is_the_same() {
  const Data data = make_data(16, false);
  const DeviceArray<float> x(data.x);
  bool ok = true;
  for (const formats::BlockFormat& f : formats::all_block_formats) {
    for (int integer = 0; integer < (f.selects() ? 2 : 1) && f.element.bits <= 4; ++integer) {
      for (const float tensor_scale : {1.0f, 0x1.23456p-10f}) {
        const formats::Format element = integer ? formats::int4 : f.element;
        const Stochastic cpu = {element,      f.scale, sim::make_grid(f, integer != 0), sim::grid_factor(f),
                                tensor_scale, data.n,  data.x.data()};
        Stochastic gpu = cpu;
        gpu.x = x.get();
        ok = each_is_the_same(std::string("stochastic ") + f.name + ' ' + element.name, blocks, cpu, gpu) && ok;
      }
    }
  }
  return ok;
}

struct Selected {
  std::int16_t mse, mae, absmax, naive_plus_one, sse, exhaustive;
};

struct Select {
  const search::SelectingSpace* spaces;
  int n;
  const float* x;
  FP4SCOPE_HD Selected operator()(std::uint32_t i) const {
    const float* const in = x + static_cast<std::size_t>(i) * n;
    const search::Block block = {in, n, sim::amax(in, n)};
    const search::SearchSpace& space = spaces->floating;
    const int code = sim::scale_code(space.scale, space.start, block.amax, static_cast<float>(space.tensor_scale));
    const int above = code < space.last_code ? code + 1 : code;
    return {at(block, search::Select::mse, code),
            at(block, search::Select::mae, code),
            at(block, search::Select::absmax, code),
            at(block, search::Select::mse, above),
            static_cast<std::int16_t>(search::selecting_sse_code(*spaces, block)),
            static_cast<std::int16_t>(search::selecting_sse_code_ref(*spaces, block))};
  }
  FP4SCOPE_HD std::int16_t at(const search::Block& block, search::Select select, int code) const {
    return static_cast<std::int16_t>(search::select_element(*spaces, block, select, code));
  }
};

bool selection_is_the_same() {
  constexpr std::uint32_t count = 51200;
  const Data data = make_data(16, false);
  const DeviceArray<float> x(data.x);
  bool ok = true;
  for (const float tensor_scale : {1.0f, 0x1.23456p-10f}) {
    const search::SelectingSpace spaces = search::make_selecting_space(formats::if4, tensor_scale, sim::six_rule);
    const DeviceArray<search::SelectingSpace> ds(std::vector<search::SelectingSpace>{spaces});
    const Select cpu = {&spaces, data.n, data.x.data()}, gpu = {ds.get(), data.n, x.get()};
    ok = each_is_the_same("IF4 selection", count, cpu, gpu) && ok;
  }
  return ok;
}

struct EdenAnswer {
  std::int32_t code;
  std::uint32_t tensor_scale;
  std::uint64_t correction;
};

/// Every code, corrections about 1 and far from it.
struct Eden {
  formats::Format scale;
  FP4SCOPE_HD EdenAnswer operator()(std::uint32_t i) const {
    const double energy = 1 + mixed(i) * 0x1p-32, product = mixed(i + 1) * (i % 5 == 0 ? 0x1p-36 : 0x1p-31);
    const double correction = sim::eden_correction(energy, i % 97 == 0 ? 0 : product);
    const int code = static_cast<int>(i % (scale.max_code + 1));
    const float amax = __builtin_bit_cast(float, mixed(i + 2) % 0x7F800000u);
    return {sim::eden_scale_code(scale, code, correction, mixed(i + 3)), bits_of(sim::eden_tensor_scale(amax)),
            __builtin_bit_cast(std::uint64_t, correction)};
  }
};

struct ExactAnswer {
  std::int64_t product, sum;
  std::int32_t product_exponent, sum_exponent;
  std::uint64_t fits;
};

/// Products and sums of two codes' values.
struct Exact {
  formats::Format f, g;
  FP4SCOPE_HD ExactAnswer operator()(std::uint32_t i) const {
    const formats::Dyadic a = formats::decode(f, mixed(i)).value, b = formats::decode(g, mixed(i + 1)).value;
    const formats::Dyadic product = formats::multiply(a, b);
    const formats::ExactSum sum = formats::add(a, b);
    return {product.significand, sum.value.significand, product.exponent, sum.value.exponent, sum.fits ? 1u : 0u};
  }
};

/// Triton's division, div.full, is within 2 ulp; recipe scalesweep takes its 1 / s for the IEEE quotient.
struct TritonReciprocal {
  FP4SCOPE_HD std::uint32_t operator()(std::uint32_t i) const {
    constexpr formats::Format e4m3 = formats::e4m3;
    const float s = formats::decode_float(e4m3, 1 + i);
#ifdef __CUDA_ARCH__
    float quotient;
    asm("div.full.f32 %0, 0f3F800000, %1;" : "=f"(quotient) : "f"(s));
    return __builtin_bit_cast(std::uint32_t, quotient);
#else
    return __builtin_bit_cast(std::uint32_t, 1 / s);
#endif
  }
};

bool element_codes_are_the_same() {
  bool ok = true;
  for (const formats::Format& f : formats::all_formats) {
    ok = each_is_the_same(std::string("encode_float as encode ") + f.name, patterns, Encode{f}, Encode{f}) && ok;
  }
  for (const sim::Converter& c : sim::all_converters) {
    const std::string what = std::string("convert ") + c.recipe + ' ' + c.element.name;
    ok = each_is_the_same(what, patterns, Convert{c, false}, Convert{c, false}) && ok;
    ok = each_is_the_same(what + " binary64", patterns, Convert{c, true}, Convert{c, true}) && ok;
  }
  return ok;
}

bool scalars_are_the_same() {
  bool ok = each_is_the_same("1 / s by div.full, E4M3", 126, TritonReciprocal{}, TritonReciprocal{});
  for (const formats::Format& f : formats::all_formats) {
    ok = each_is_the_same(std::string("eden ") + f.name, 1u << 20, Eden{f}, Eden{f}) && ok;
    for (const formats::Format& g : {formats::e2m1, formats::e4m3, formats::ue8m0, formats::int8, formats::fp16}) {
      const std::string what = std::string("exact product and sum ") + f.name + ' ' + g.name;
      ok = each_is_the_same(what, 1u << 18, Exact{f, g}, Exact{f, g}) && ok;
    }
  }
  return ok;
}

}  // namespace
}  // namespace fp4scope

int main() {
  using namespace fp4scope;
  CHECK(cudaFree(nullptr));  // before any work on the CPU
  bool ok = element_codes_are_the_same();
  ok = scalars_are_the_same() && ok;
  ok = layouts_are_the_same() && ok;
  ok = rotations_are_the_same() && ok;
  ok = stochastic_is_the_same() && ok;
  ok = selection_is_the_same() && ok;
  ok = recipes_are_the_same() && ok;
  std::printf(ok ? "all the same\n" : "DIFFERENT\n");
  return ok ? 0 : 1;
}
