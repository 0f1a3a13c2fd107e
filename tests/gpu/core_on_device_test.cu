// The claim of formats/, sim/ and search/: one source, the same bits on a CPU and on every GPU thread.
// Each function below runs on both over the same inputs, and every output bit is compared.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "formats/codec.hpp"
#include "search/four_over_six.hpp"
#include "search/hessian.hpp"
#include "search/window.hpp"
#include "sim/block.hpp"
#include "tests/gpu/on_device.cuh"

namespace fp4scope {
namespace {

// ---- encode: 2^22 float patterns, spread over all of them, every rounding mode and policy ----

constexpr std::uint32_t patterns = 1u << 22;

FP4SCOPE_HD std::uint32_t encode_one(const formats::Format& f, std::uint32_t i) {
  const std::uint32_t bits = i * 1024u + (i * 2654435761u >> 22);
  const float x = __builtin_bit_cast(float, bits);
  std::uint32_t mixed = 0;
  for (int mode = 0; mode < 6; ++mode) {
    for (int policy = 0; policy < 2; ++policy) {
      const formats::Encoded e = formats::encode(f, x, static_cast<formats::Rounding>(mode),
                                                 static_cast<formats::Overflow>(policy), i * 40503u << 16 | i);
      mixed = (mixed ^ (e.code << 8 | e.status)) * 16777619u;
      mixed ^= __builtin_bit_cast(std::uint32_t, formats::decode_float(f, e.code));
    }
  }
  return mixed;
}

__global__ void encode_kernel(formats::Format f, std::uint32_t* out) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < patterns) out[i] = encode_one(f, i);
}

bool encode_is_the_same(const formats::Format& f) {
  std::vector<std::uint32_t> cpu(patterns);
#pragma omp parallel for
  for (std::uint32_t i = 0; i < patterns; ++i) cpu[i] = encode_one(f, i);
  const DeviceArray<std::uint32_t> gpu(patterns);
  encode_kernel<<<patterns / 256, 256>>>(f, gpu.get());
  return same((std::string("encode and decode ") + f.name).c_str(), cpu, gpu.host());
}

// ---- searches: random, heavy-tailed, tied, tiny and mixed blocks ----

/// No padding, so that its bytes can be compared.
struct Answer {
  std::uint8_t rule, sse, exhaustive, mse, mae, absmax, window, reserved;
  std::uint32_t wide;   // a hash of comparisons beyond binary64
  std::uint32_t codes;  // a hash of the block's element codes at the sse scale
  double loss, radius;  // r^T H r at the sse scale
};

static_assert(sizeof(Answer) == 32);

FP4SCOPE_HD Answer answer_one(const search::SearchSpace& space, const formats::Format& element, const float* x, int n,
                              const double* h, const double* envelope) {
  const search::Block block = {x, n, sim::amax(x, n)};
  Answer a = {};
  a.rule = static_cast<std::uint8_t>(
      sim::scale_code(space.scale, space.start, block.amax, static_cast<float>(space.tensor_scale)));
  a.sse = static_cast<std::uint8_t>(search::sse_code(space, block));
  a.exhaustive = static_cast<std::uint8_t>(search::sse_code_ref(space, block));
  a.mse = static_cast<std::uint8_t>(search::four_over_six(space, block, search::Select::mse).code);
  a.mae = static_cast<std::uint8_t>(search::four_over_six(space, block, search::Select::mae).code);
  a.absmax = static_cast<std::uint8_t>(search::four_over_six(space, block, search::Select::absmax).code);
  a.window = static_cast<std::uint8_t>(search::scalesweep_code(space, block));
  for (int code = 1; code <= space.last_code && block.amax > 0; code += 9) {  // 128-bit sums, and the widest
    a.wide = a.wide * 3 + 1 + static_cast<std::uint32_t>(search::compare_sse_wide(space, space, block, code, a.sse));
  }
  std::uint8_t codes[32];
  sim::quantize_block(element, space.grid, x, n, space.step(a.sse), codes);
  for (int i = 0; i < n; ++i) a.codes = a.codes * 31 + codes[i];
  double room[64];
  const search::LossInterval loss = search::hessian_loss(space, block, {h, envelope}, a.sse, room);
  a.loss = loss.value;
  a.radius = loss.radius;
  return a;
}

__global__ void answer_kernel(search::SearchSpace space, formats::Format element, const float* x, int n, int blocks,
                              const double* h, const double* envelope, Answer* out) {
  const int b = blockIdx.x * blockDim.x + threadIdx.x;
  if (b < blocks) out[b] = answer_one(space, element, x + static_cast<std::int64_t>(b) * n, n, h, envelope);
}

std::vector<float> make_blocks(int blocks, int n) {
  std::mt19937_64 random(42);
  std::normal_distribution<double> normal;
  std::vector<float> x(static_cast<std::size_t>(blocks) * n);
  for (int b = 0; b < blocks; ++b) {
    for (int i = 0; i < n; ++i) {
      const double z = normal(random);
      double v = z;
      switch (b % 6) {
        case 0: break;
        case 1: v = z * z * z; break;                                           // heavy tails
        case 2: v = std::round(z * 8) / 16; break;                              // ties
        case 3: v = z * 0x1p-12; break;                                         // subnormal scales
        case 4: v = std::ldexp(z, static_cast<int>(random() % 60) - 30); break; // mixed exponents
        default: v = i == b % n ? z : 0; break;                                 // one element
      }
      const float f = static_cast<float>(v);
      x[static_cast<std::size_t>(b) * n + i] =
          b % 2 ? f : formats::decode_float(formats::bf16, formats::encode(formats::bf16, f).code);
    }
  }
  return x;
}

bool searches_are_the_same(const formats::BlockFormat& format, int n, float tensor_scale, sim::ScaleRule rule) {
  constexpr int blocks = 60000;
  const std::vector<float> x = make_blocks(blocks, n);
  std::vector<double> h(n * n), envelope(n, 1.5);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) h[i * n + j] = std::pow(0.9, std::abs(i - j));
  }
  const search::SearchSpace space = search::make_space(format, tensor_scale, rule);
  std::vector<Answer> cpu(blocks);
#pragma omp parallel for
  for (int b = 0; b < blocks; ++b) {
    const float* const in = x.data() + static_cast<std::size_t>(b) * n;
    cpu[b] = answer_one(space, format.element, in, n, h.data(), envelope.data());
  }
  const DeviceArray<float> dx(x);
  const DeviceArray<double> dh(h), de(envelope);
  const DeviceArray<Answer> gpu(blocks);
  answer_kernel<<<(blocks + 63) / 64, 64>>>(space, format.element, dx.get(), n, blocks, dh.get(), de.get(), gpu.get());
  char name[96];
  std::snprintf(name, sizeof name, "searches %s block %d tensor scale %g", format.name, n, tensor_scale);
  return same(name, cpu, gpu.host());
}

}  // namespace
}  // namespace fp4scope

int main() {
  using namespace fp4scope;
  bool ok = true;
  for (const formats::Format& f : formats::all_formats) ok = encode_is_the_same(f) && ok;
  constexpr sim::ScaleRule six = {6, formats::Rounding::nearest_even}, seven = {7, formats::Rounding::nearest_even};
  for (const int n : {16, 32}) {
    for (const float t : {1.0f, 0x1.23456p-10f}) {
      ok = searches_are_the_same(formats::nvfp4, n, t, six) && ok;
      ok = searches_are_the_same(formats::mxfp4, n, t, sim::floor_rule) && ok;
      ok = searches_are_the_same(formats::nvint4, n, t, seven) && ok;
    }
  }
  std::printf(ok ? "all the same\n" : "DIFFERENT\n");
  return ok ? 0 : 1;
}
