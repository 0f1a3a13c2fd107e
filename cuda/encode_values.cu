// Single values to codes and back: every format, rounding and policy by formats/encode_float.hpp, those that a GPU
// has an instruction for by that (convert.cuh), other libraries' converters by sim/converter.hpp.
//
// A thread takes four values, in whole words where the arrays are aligned to them.
#include "cuda/convert.cuh"
#include "cuda/launch.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256;

// (x, random word) -> code

struct FloatCode {
  formats::FloatEncoder encoder;
  __device__ std::uint32_t operator()(float x, std::uint32_t word) const { return encoder(__float_as_uint(x), word); }
};

struct ConverterCode {
  sim::Converter converter;
  formats::Rounding rounding;
  formats::Overflow overflow;
  __device__ std::uint32_t operator()(float x, std::uint32_t word) const {
    return sim::convert(converter, x, rounding, overflow, word);
  }
};

/// On its own a value is half of a pair.
template <Conversion instruction>
struct InstructionCode {
  __device__ std::uint32_t operator()(float x, std::uint32_t) const {
    return convert_pair<instruction>(x, 0.0f) & 0xFF;
  }
};

template <class Code, class T>
__device__ void encode_four(const Code& code, const float4& x, const uint4& word, T* codes) {
  const std::uint32_t c[4] = {code(x.x, word.x), code(x.y, word.y), code(x.z, word.z), code(x.w, word.w)};
  if constexpr (sizeof(T) == 1) {
    *reinterpret_cast<std::uint32_t*>(codes) = c[0] | c[1] << 8 | c[2] << 16 | c[3] << 24;
  } else {
    *reinterpret_cast<uint2*>(codes) = make_uint2(c[0] | c[1] << 16, c[2] | c[3] << 16);
  }
}

template <Conversion instruction>
__device__ void encode_four(const InstructionCode<instruction>&, const float4& x, const uint4&, std::uint8_t* codes) {
  *reinterpret_cast<std::uint32_t*>(codes) = convert_pair<instruction>(x.x, x.y) | convert_pair<instruction>(x.z, x.w)
                                                                                       << 16;
}

/// `fours` is n / 4, or 0 where the arrays aren't aligned.
template <class Code, class T>
__global__ void encode_values_kernel(Code code, const float* x, std::int64_t n, std::int64_t fours,
                                     const std::uint32_t* words, T* codes) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = first; i < fours; i += stride) {
    const float4 values = __ldcs(reinterpret_cast<const float4*>(x) + i);
    const uint4 four = words != nullptr ? __ldcs(reinterpret_cast<const uint4*>(words) + i) : make_uint4(0, 0, 0, 0);
    encode_four(code, values, four, codes + 4 * i);
  }
  for (std::int64_t i = 4 * fours + first; i < n; i += stride) {
    codes[i] = static_cast<T>(code(x[i], words != nullptr ? words[i] : 0));
  }
}

/// The value of a code; NaN as 0x7FC00000, which a GPU's own conversions of binary64 don't give.
__device__ float decoded(const formats::Format& format, std::uint32_t code) {
  const float value = formats::decode_float(format, code);
  return value == value ? value : __uint_as_float(0x7FC00000u);
}

/// One byte a code: the values of all 256 are found once a thread block.
__global__ void decode_bytes_kernel(formats::Format format, const std::uint8_t* codes, std::int64_t n,
                                    std::int64_t fours, float* values) {
  __shared__ float value[256];
  value[threadIdx.x] = decoded(format, threadIdx.x);
  __syncthreads();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = first; i < fours; i += stride) {
    const std::uint32_t four = reinterpret_cast<const std::uint32_t*>(codes)[i];
    reinterpret_cast<float4*>(values)[i] =
        make_float4(value[four & 0xFF], value[four >> 8 & 0xFF], value[four >> 16 & 0xFF], value[four >> 24]);
  }
  for (std::int64_t i = 4 * fours + first; i < n; i += stride) values[i] = value[codes[i]];
}

__global__ void decode_kernel(formats::Format format, const std::uint16_t* codes, std::int64_t n, float* values) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < n; i += stride) {
    values[i] = decoded(format, codes[i]);
  }
}

template <class T, class Code>
void launch(Stream& stream, const Code& code, const float* x, std::int64_t n, const std::uint32_t* words, void* codes) {
  select(stream.device());
  const bool whole = aligned(x, 16) && aligned(words, 16) && aligned(codes, 4 * sizeof(T));
  const auto kernel = encode_values_kernel<Code, T>;
  kernel<<<filling_grid(stream, kernel, threads, n, 4 * threads), threads, 0, handle(stream)>>>(
      code, x, n, whole ? n / 4 : 0, words, static_cast<T*>(codes));
  check_launch("encode_values");
}

}  // namespace

void encode_values(Stream& stream, const formats::Format& format, formats::Rounding rounding,
                   formats::Overflow overflow, const float* x, std::int64_t n, const std::uint32_t* words,
                   void* codes) {
  const FloatCode code = {formats::float_encoder(format, rounding, overflow)};
  if (format.bits > 8) return launch<std::uint16_t>(stream, code, x, n, words, codes);
  const auto by = [&]<Conversion instruction>() {
    launch<std::uint8_t>(stream, InstructionCode<instruction>(), x, n, nullptr, codes);
  };
  switch (instruction_of(format, rounding, overflow)) {
    case Conversion::e4m3: return by.operator()<Conversion::e4m3>();
    case Conversion::e5m2: return by.operator()<Conversion::e5m2>();
    case Conversion::e2m1: return by.operator()<Conversion::e2m1>();
    case Conversion::e2m3: return by.operator()<Conversion::e2m3>();
    case Conversion::e3m2: return by.operator()<Conversion::e3m2>();
    case Conversion::ue8m0_up: return by.operator()<Conversion::ue8m0_up>();
    case Conversion::ue8m0_toward_zero: return by.operator()<Conversion::ue8m0_toward_zero>();
    case Conversion::none: return launch<std::uint8_t>(stream, code, x, n, words, codes);
  }
}

void convert_values(Stream& stream, const sim::Converter& converter, formats::Rounding rounding,
                    formats::Overflow overflow, const float* x, std::int64_t n, const std::uint32_t* words,
                    void* codes) {
  const ConverterCode code = {converter, rounding, overflow};
  if (converter.element.bits > 8) launch<std::uint16_t>(stream, code, x, n, words, codes);
  else launch<std::uint8_t>(stream, code, x, n, words, codes);
}

void decode_values(Stream& stream, const formats::Format& format, const void* codes, std::int64_t n, float* values) {
  select(stream.device());
  if (format.bits > 8) {
    const unsigned grid = filling_grid(stream, decode_kernel, threads, n, threads);
    decode_kernel<<<grid, threads, 0, handle(stream)>>>(format, static_cast<const std::uint16_t*>(codes), n, values);
  } else {
    const unsigned grid = filling_grid(stream, decode_bytes_kernel, threads, n, 4 * threads);
    const std::int64_t fours = aligned(codes, 4) && aligned(values, 16) ? n / 4 : 0;
    decode_bytes_kernel<<<grid, threads, 0, handle(stream)>>>(format, static_cast<const std::uint8_t*>(codes), n, fours,
                                                              values);
  }
  check_launch("decode_values");
}

}  // namespace fp4scope::cuda
