// The recipes: other libraries' orders of operation, one row for each (recipe, block format, METHOD). A row names only
// what differs from the defaults of `Recipe`. Bugs of the sources are reproduced, and named in `meaning`.
//
// Read in the sources of TransformerEngine (core_nvfp4.cuh, quantize_4over6_nvfp4.cuh, reference_nvfp4.py), fouroversix
// (quantize/pytorch/reference.py), Model-Optimizer (nvfp4_tensor.py, mxfp4_tensor.py, fp4_kernel.py,
// fp4_kernel_hopper.py), torchao (nvfp4_tensor.py, mx_tensor.py), compressed-tensors (helpers.py, fp4_utils.py), vLLM
// (nvfp4_emulation_utils.py), flashinfer (quantization_utils.cuh), FP-Quant (quantizer.py), qwantize
// (nvfp4/reference.py, mxfp4/reference.py), ScaleSweep (kernel_ScaleSweep_MSE.py), microxcaling (mx_ops.py,
// elemwise_ops.py), ggml (ggml-quants.c, ggml-impl.h); OCP MX v1.0, 6.3.
#pragma once

#include <string_view>

#include "sim/recipe.hpp"

namespace fp4scope::sim {

namespace recipe_rows {

/// To nearest even, saturating; the sign is that of y < 0, so that -0 is coded 0.
inline constexpr Converter signed_by_comparison =
    converter_rows::with(converter_rows::saturating("", formats::e2m1, ""), [](Converter& c) { c.negative_zero = 0; });
/// The same, and NaN is coded 0.
inline constexpr Converter nan_is_zero =
    converter_rows::with(signed_by_comparison, [](Converter& c) { c.nan = c.negative_nan = 0; });
/// microxcaling rounds values and writes none for a block of NaN; its codes are zeros here.
constexpr Converter microxcaling_element(const formats::Format& element) {
  return converter_rows::with(converter_rows::microxcaling(element), [](Converter& c) { c.nan = c.negative_nan = 0; });
}

inline constexpr Recipe rational = {
    .name = "rational",
    .format = "nvfp4",
    .methods = "naive static6",
    .scale_max = 448,
    .tensor = TensorStep::rational,
    .value = BlockStep::rational,
    .data = DataStep::rational,
    .tiles = true,
    .meaning = "amax / 2688 is never rounded: every decision in real numbers",
};
inline constexpr Recipe te = {
    .name = "te",
    .format = "nvfp4",
    .methods = "naive static6",
    .block = 16,
    .scale_max = 448,
    .tensor = TensorStep::encode,
    .zero_tensor = ZeroTensor::one,
    .value = BlockStep::times_scaled_fl_q,
    .value_limited = true,
    .zero_data = ZeroData::flt_max,
    .nan_defined = true,
    .nan_amax = false,
    .decode = DecodeStep::te,
    .tiles = true,
    .rotates = true,
    .meaning = "TransformerEngine's CUDA kernel: b * (S * fl(1/6)); a block whose scale underflows has codes +-6",
};
inline constexpr Recipe te_ref = {
    .name = "te_ref",
    .format = "nvfp4",
    .methods = "naive static6",
    .block = 16,
    .scale_max = 448,
    .tensor = TensorStep::encode,
    .zero_tensor = ZeroTensor::flt_max,
    .value = BlockStep::times_scaled_fl_q,
    .zero_data = ZeroData::flt_max,
    .element = nan_is_zero,
    .nan_defined = true,
    .decode = DecodeStep::te,
    .tiles = true,
    .rotates = true,
    .meaning =
        "TransformerEngine's Python reference: as te, but -0 and NaN are coded 0 and a zero tensor has S = FLT_MAX",
};
inline constexpr Recipe fouroversix = {
    .name = "fouroversix",
    .format = "nvfp4",
    .methods = "naive static6",
    .block = 16,
    .scale_max = 448,
    .tensor = TensorStep::encode,
    .zero_tensor = ZeroTensor::zero_scales,
    .value = BlockStep::over_q_times_s,
    .cast = ScaleCast::e4m3_nan,
    .zero_data = ZeroData::zeros,
    .element = converter_rows::fouroversix,
    .sum = SumOrder::eight_lanes,
    .decode = DecodeStep::fouroversix,
    .tiles = true,
    .rotates = true,
    .meaning = "fouroversix's PyTorch reference: nothing clamps y, so 7 to 9 round to 8, which is written as -0",
};
inline constexpr Recipe modelopt_dyn = {
    .name = "modelopt_dyn",
    .format = "nvfp4",
    .methods = "naive static6",
    .scale_max = 448,
    .tensor = TensorStep::decode,
    .value = BlockStep::over_qd,
    .zero = {.least = 0x1p-9f, .zero_value = 1},
    .data = DataStep::divide,
    .element = converter_rows::modelopt,
    .nan_defined = true,
    .decode = DecodeStep::scale_first,
    .meaning = "Model-Optimizer, NVFP4QTensor on weights: b / (6 D), true divisions; a zero block has scale 1",
};
inline constexpr Recipe torchao = {
    .name = "torchao",
    .format = "nvfp4",
    .methods = "naive static6",
    .scale_max = 448,
    .tensor_optional = true,
    .tensor = TensorStep::decode,
    .value = BlockStep::over_q_over_d,
    .zero = {.least = 0x1p-6f},
    .data = DataStep::reciprocal_twice,
    .element = converter_rows::torchao(formats::e2m1),
    .meaning = "torchao: scales below 2^-6 are never used; x * ((1 / D) / s); one level with --tensor-scale none",
};
inline constexpr Recipe compressed_tensors = {
    .name = "compressed_tensors",
    .format = "nvfp4",
    .methods = "naive static6",
    .scale_max = 448,
    .tensor = TensorStep::encode,
    .zero_tensor = ZeroTensor::clamped,
    .value = BlockStep::over_q_times_s,
    .zero = {.zero_code = 0x20},
    .data = DataStep::divide_by_s,
    .element = signed_by_comparison,
    .meaning = "compressed-tensors in binary32: x / (s / S); a scale of 0 becomes 0.125",
};
inline constexpr Recipe vllm_emulation = {
    .name = "vllm_emulation",
    .format = "nvfp4",
    .methods = "naive static6",
    .scale_max = 448,
    .tensor = TensorStep::encode,
    .zero_tensor = ZeroTensor::one,
    .value = BlockStep::s_times_fl_q,
    .zero_data = ZeroData::zeros,
    .element = signed_by_comparison,
    .nan_defined = true,
    .meaning = "vLLM's Python emulation: S * (b * fl(1/6)); S is the caller's, here 2688 / a, 1 for a zero tensor",
};
inline constexpr Recipe flashinfer = {
    .name = "flashinfer",
    .format = "nvfp4",
    .methods = "naive static6",
    .block = 16,
    .scale_max = 448,
    .tensor = TensorStep::encode,
    .zero_tensor = ZeroTensor::one,
    .value = BlockStep::times_scaled_fl_q,
    .zero_data = ZeroData::zero_blocks,
    .nan_defined = true,
    .nan_amax = false,
    .meaning = "flashinfer and TensorRT-LLM in exact mode (fast math off): as te, but a zero block has codes 0",
};
inline constexpr Recipe fpquant = {
    .name = "fpquant",
    .format = "nvfp4",
    .methods = "naive static6",
    .scale_max = 448,
    .tensor = TensorStep::encode_twice,
    .value = BlockStep::over_q_times_s,
    .data = DataStep::divide,
    .zero_data = ZeroData::one,
    .element = signed_by_comparison,
    .meaning = "FP-Quant on binary32 data: S = 2688 * (1 / a), x / (s * D)",
};
inline constexpr Recipe scalesweep = {
    .name = "scalesweep",
    .format = "nvfp4",
    .methods = "scalesweep",
    .block = 16,
    .scale_max = 256,
    .tensor = TensorStep::decode,
    .value = BlockStep::sb_times_fl_q,
    .data = DataStep::scaled_first,
    .candidates = Candidates::scalesweep,
    .meaning = "ScaleSweep (arXiv 2606.07618): codes -3 .. +7 around amax / 6, binary32 errors, the first of the least",
};
inline constexpr Recipe qwantize = {
    .name = "qwantize",
    .format = "nvfp4",
    .methods = "naive static6",
    .value = BlockStep::over_q,
    .cast = ScaleCast::e4m3_nan,
    .zero = {.least = 1e-12f},
    .data = DataStep::divide,
    .zero_data = ZeroData::no_zero_x,
    .element = converter_rows::qwantize,
    .sum = SumOrder::eight_lanes,
    .meaning = "qwantize, no tensor scale: x / s, ties toward zero; a scale that underflowed to 0 gives codes +-6",
};
inline constexpr Recipe ocp = {
    .name = "ocp",
    .format = "mxfp4",
    .methods = "naive floor",
    .value = BlockStep::amax,
    .cast = ScaleCast::floor,
    .data = DataStep::divide,
    .meaning = "OCP MX v1.0, 6.3: floor, to nearest even, saturating",
};
inline constexpr Recipe microxcaling = {
    .name = "microxcaling",
    .format = "mxfp4",
    .methods = "naive floor",
    .value = BlockStep::amax,
    .cast = ScaleCast::floor_log2f,
    .data = DataStep::divide,
    .element = microxcaling_element(formats::e2m1),
    .nan_defined = true,
    .decode = DecodeStep::fake,
    .meaning =
        "microxcaling: floor of a binary32 logarithm; half away from zero, or --rounding rtz (its floor), rne (even)",
};
inline constexpr Recipe ggml = {
    .name = "ggml",
    .format = "mxfp4",
    .methods = "naive floor",
    .value = BlockStep::amax,
    .cast = ScaleCast::floor_log2f_wrapped,
    .data = DataStep::distance,
    .nan_defined = true,
    .nan_amax = false,
    .meaning = "ggml's MXFP4 on a CPU: the first of the least |q s - x|, so ties go toward zero and -0 is never coded",
};

/// `from` with other fields: with(te, [](Recipe& r) { r.name = ...; }).
template <class Change>
constexpr Recipe with(Recipe from, Change change) {
  change(from);
  return from;
}

inline constexpr auto four_over_six = [](Recipe& r) {
  r.methods = "4over6";
  r.selects = "mse mae";
  r.scale_max = 256;
  r.value = BlockStep::over_q_times_s;
  r.value_limited = false;
  r.candidates = Candidates::four_over_six;
  r.sum = SumOrder::row_tree;
  r.meaning = "4/6 in TransformerEngine's strict mode: fl(1.5 v) wins if its error is less; 448 by --scale-max";
};
inline constexpr auto fouroversix_4over6 = [](Recipe& r) {
  r.methods = "4over6";
  r.selects = "mse mae absmax";
  r.scale_max = 256;
  r.candidates = Candidates::four_over_six;
  r.meaning = "4/6: fl(1.5 v) wins if its error is less; errors see the unclamped 8";
};
inline constexpr auto fouroversix_mx = [](Recipe& r) {
  r.format = "mxfp4";
  r.block = 32;
  r.scale_max = 0;
  r.tensor = TensorStep::none;
  r.zero_tensor = ZeroTensor::computed;
  r.value = BlockStep::over_q;
  r.cast = ScaleCast::up_bits;
  r.data = DataStep::divide;
  r.meaning = "the power of two at or above b / Q, so nothing saturates; a code 0 means a zero block";
};
inline constexpr auto modelopt_static = [](Recipe& r) {
  r.name = "modelopt_export";
  r.value = BlockStep::over_q_m_over_aq;
  r.meaning = "Model-Optimizer's static export: ((b / 6) * 448) / (a / 6); a zero block has scale min(2688 / a, 448)";
};
inline constexpr auto modelopt_fake = [](Recipe& r) {
  r.name = "modelopt_fakequant";
  r.tensor = TensorStep::encode_nested;
  r.zero_tensor = ZeroTensor::small_is_one;
  r.value = BlockStep::over_q_times_s;
  r.zero = {};
  r.zero_data = ZeroData::zeros;
  r.nan_defined = false;
  r.meaning = "Model-Optimizer's fake quantization with IEEE divisions: S = 448 / (a / 6)";
};
inline constexpr auto modelopt_mx = [](Recipe& r) {
  r.name = "modelopt_mxfp4";
  r.format = "mxfp4";
  r.scale_max = 0;
  r.tensor = TensorStep::none;
  r.value = BlockStep::over_q;
  r.cast = ScaleCast::up_log2f;
  r.zero = {};
  r.element = converter_rows::modelopt_mxfp4;
  r.nan_defined = false;
  r.meaning = "Model-Optimizer's MXFP4QTensor: ties toward zero, and +0 is coded as -0";
};
// What GPU kernels with approximate instructions compute, with Hopper's bits for these instructions. Those that convert
// to FP4 in hardware run on later GPUs alone, whose bits are not recorded. Products are IEEE's: a build that flushes
// subnormal numbers (--use_fast_math) differs where S or a product is one.
inline constexpr auto flashinfer_fast = [](Recipe& r) {
  r.name = "flashinfer_hopper";
  r.value = BlockStep::s_times_fl_q;
  r.value_limited = false;
  r.data = DataStep::reciprocal_hopper;
  r.zero_data = ZeroData::zero_blocks_infinite;
  r.meaning =
      "flashinfer and TensorRT-LLM in fast mode, Hopper's reciprocals: x * rcp(s * rcp(S)); where s underflows but b "
      "is not 0 the codes are +-6, and NaN's for x = 0";
};
inline constexpr auto flashinfer_fast_mx = [](Recipe& r) {
  r.format = "mxfp4";
  r.methods = "naive rceil static6";
  r.block = 32;
  r.scale_max = 0;
  r.tensor = TensorStep::none;
  r.zero_tensor = ZeroTensor::computed;
  r.value = BlockStep::times_fl_q;
  r.cast = ScaleCast::up;
  r.data = DataStep::divide;
  r.zero_data = ZeroData::infinite;
  r.meaning = "flashinfer's UE8M0 scales: the power of two at or above b * rcp(6), and rcp(6) = fl(1/6)";
};
inline constexpr auto vllm_fast = [](Recipe& r) {
  r.name = "vllm_hopper";
  r.zero_data = ZeroData::zeros;
  r.meaning = "vLLM's CUDA kernel, Hopper's reciprocals: as flashinfer_hopper, but a scale of 0 has codes 0";
};
inline constexpr auto vllm_fast_mx = [](Recipe& r) {
  r.format = "mxfp4";
  r.block = 0;
  r.scale_max = 0;
  r.tensor = TensorStep::none;
  r.zero_tensor = ZeroTensor::computed;
  r.value = BlockStep::times_fl_q;
  r.cast = ScaleCast::down;
  r.meaning = "vLLM's UE8M0 scales: the power of two at or below b * rcp(6), so that b saturates";
};
inline constexpr auto cutlass_fast = [](Recipe& r) {
  r.name = "cutlass_hopper";
  r.data = DataStep::reciprocal_scaled_hopper;
  r.zero_data = ZeroData::flt_max;
  r.value_limited = false;
  r.nan_amax = true;
  r.meaning = "CUTLASS's epilogue LinCombBlockScaleFactor, Hopper's reciprocals: b * (S * rcp(6)), x * (S * rcp(s))";
};
inline constexpr auto vllm_triton = [](Recipe& r) {
  r.name = "vllm_emulation_triton_hopper";
  r.data = DataStep::reciprocal_twice_hopper;
  r.nan_defined = false;
  r.meaning = "vLLM's Triton emulation with Hopper's div.full: x * (S /~ s)";
};
inline constexpr auto modelopt_triton = [](Recipe& r) {
  r.name = "modelopt_triton_hopper";
  r.tensor = TensorStep::encode_nested_gpu;
  r.value = BlockStep::s_times_fl_q;
  r.data = DataStep::divide_hopper;
  r.meaning = "Model-Optimizer's fake quantization, Triton on Hopper: S = 448 * (1 / (a * fl(1/6))), x /~ (s * D)";
};
inline constexpr auto modelopt_triton_dyn = [](Recipe& r) {
  r.name = "modelopt_triton_dyn_hopper";
  r.tensor = TensorStep::decode_gpu;
  r.zero_tensor = ZeroTensor::zero_scales;
  r.value = BlockStep::over_qd_hopper;
  r.zero = {};
  r.data = DataStep::divide_hopper;
  r.zero_data = ZeroData::small_is_one;
  r.nan_defined = false;
  r.meaning =
      "Model-Optimizer's fp4_fake_quant_block, Triton on Hopper: b /~ (6 D), x /~ (s * D); s * D below 10^-5 counts as "
      "1, which makes blocks of tiny weights zeros";
};
inline constexpr auto torchao_mx = [](Recipe& r) {
  r.format = "mxfp4";
  r.scale_max = 0;
  r.tensor_optional = false;
  r.tensor = TensorStep::none;
  r.value = BlockStep::amax;
  r.cast = ScaleCast::floor;
  r.zero = {};
  r.data = DataStep::divide;
  r.meaning = "torchao's FLOOR: 2^(floor(log2 b) - 2)";
};
inline constexpr auto ct_mx = [](Recipe& r) {
  r.format = "mxfp4";
  r.scale_max = 0;
  r.tensor = TensorStep::none;
  r.zero_tensor = ZeroTensor::computed;
  r.value = BlockStep::amax;
  r.cast = ScaleCast::even;
  r.zero = {};
  r.data = DataStep::divide;
  r.meaning = "compressed-tensors' MXFP4: b rounded to nearest at two bits, so one up from significand 1.75 on";
};

/// The same recipe on another of its formats.
constexpr Recipe on(Recipe from, const char* format) {
  from.format = format;
  const formats::Format element = formats::find_block_format(format)->element;
  from.element = std::string_view(from.name) == "microxcaling" ? microxcaling_element(element)
                                                               : converter_rows::saturating("", element, "");
  return from;
}

}  // namespace recipe_rows

// clang-format off
inline constexpr Recipe all_recipes[] = {
    recipe_rows::rational,
    recipe_rows::with(recipe_rows::rational, [](Recipe& r) { r.format = "nvint4"; r.divisor = 7; r.meaning = "amax / 3136 is never rounded"; }),
    recipe_rows::te,
    recipe_rows::with(recipe_rows::te, recipe_rows::four_over_six),
    recipe_rows::te_ref,
    recipe_rows::with(recipe_rows::te_ref, recipe_rows::four_over_six),
    recipe_rows::with(recipe_rows::te, [](Recipe& r) { r.name = "te_fast"; r.data = DataStep::bf16_factor; r.meaning = "TransformerEngine's tuned kernel with fast math: x * bf16(S / s)"; }),
    recipe_rows::fouroversix,
    recipe_rows::with(recipe_rows::fouroversix, [](Recipe& r) { r.methods = "static4"; r.divisor = 4; r.meaning = "amax to 4, K = 4 * 448"; }),
    recipe_rows::with(recipe_rows::fouroversix, recipe_rows::fouroversix_4over6),
    recipe_rows::with(recipe_rows::fouroversix, recipe_rows::fouroversix_mx),
    recipe_rows::with(recipe_rows::with(recipe_rows::fouroversix, recipe_rows::fouroversix_mx), [](Recipe& r) { r.methods = "static4"; r.divisor = 4; }),
    recipe_rows::with(recipe_rows::fouroversix, [](Recipe& r) { r.format = "nvint4"; r.divisor = 7; r.element = converter_rows::saturating("", formats::int4, ""); r.meaning = "amax to 7, K = 7 * 448"; }),
    recipe_rows::with(recipe_rows::fouroversix, [](Recipe& r) { r.format = "if4"; r.methods = "naive"; r.selects = "mse mae absmax"; r.candidates = Candidates::int4; r.meaning = "INT4 * fl(6/7) wins over E2M1 if its error is less"; }),
    recipe_rows::modelopt_dyn,
    recipe_rows::with(recipe_rows::modelopt_dyn, recipe_rows::modelopt_static),
    recipe_rows::with(recipe_rows::modelopt_dyn, recipe_rows::modelopt_fake),
    recipe_rows::with(recipe_rows::modelopt_dyn, recipe_rows::modelopt_mx),
    recipe_rows::torchao,
    recipe_rows::with(recipe_rows::with(recipe_rows::torchao, recipe_rows::torchao_mx), [](Recipe& r) { r.methods = "naive floor"; }),
    recipe_rows::with(recipe_rows::with(recipe_rows::torchao, recipe_rows::torchao_mx), [](Recipe& r) { r.methods = "ceil"; r.cast = ScaleCast::ceil; r.meaning = "torchao's CEIL: 2^ceil(log2(b / 4))"; }),
    recipe_rows::with(recipe_rows::with(recipe_rows::torchao, recipe_rows::torchao_mx), [](Recipe& r) { r.methods = "even"; r.cast = ScaleCast::even; r.meaning = "torchao's EVEN: floor, one up from significand 1.75 on"; }),
    recipe_rows::with(recipe_rows::with(recipe_rows::torchao, recipe_rows::torchao_mx), [](Recipe& r) { r.methods = "rceil static6"; r.value = BlockStep::times_fl_q; r.cast = ScaleCast::up; r.meaning = "torchao's RCEIL: the power of two at or above b * fl(1/6)"; }),
    recipe_rows::compressed_tensors,
    recipe_rows::with(recipe_rows::compressed_tensors, recipe_rows::ct_mx),
    recipe_rows::with(recipe_rows::compressed_tensors, [](Recipe& r) { r.name = "compressed_tensors_bf16"; r.bf16 = in_bf16_tensor | in_bf16_block; r.meaning = "llm-compressor on bf16 weights: 2688 / a and b / 6 are rounded to bf16"; }),
    recipe_rows::vllm_emulation,
    recipe_rows::flashinfer,
    recipe_rows::fpquant,
    recipe_rows::with(recipe_rows::fpquant, [](Recipe& r) { r.name = "fpquant_bf16"; r.bf16 = in_bf16_block | in_bf16_divisor | in_bf16_quotient; r.meaning = "FP-Quant on bf16 data: b / 6, s * D and the quotient are rounded to bf16"; }),
    recipe_rows::qwantize,
    recipe_rows::with(recipe_rows::qwantize, [](Recipe& r) { r.methods = "sse"; r.candidates = Candidates::qwantize; r.meaning = "its search: E4M3 codes within bounds from the naive error, binary32 sums, the first of the least"; }),
    recipe_rows::with(recipe_rows::qwantize, [](Recipe& r) { r.format = "mxfp4"; r.methods = "naive floor"; r.value = BlockStep::amax; r.cast = ScaleCast::floor_shifted; r.zero = {}; r.meaning = "floor of a binary32 logarithm shifted by 125, code at least 1"; }),
    recipe_rows::with(recipe_rows::qwantize, [](Recipe& r) { r.format = "mxfp4"; r.methods = "sse"; r.value = BlockStep::amax; r.cast = ScaleCast::floor_shifted; r.zero = {}; r.candidates = Candidates::qwantize; r.meaning = "its search over UE8M0 codes 1 to 254"; }),
    recipe_rows::scalesweep,
    recipe_rows::ocp,
    recipe_rows::on(recipe_rows::ocp, "mxfp6_e2m3"), recipe_rows::on(recipe_rows::ocp, "mxfp6_e3m2"),
    recipe_rows::on(recipe_rows::ocp, "mxfp8_e4m3"), recipe_rows::on(recipe_rows::ocp, "mxfp8_e5m2"),
    recipe_rows::on(recipe_rows::ocp, "mxint8"),     recipe_rows::on(recipe_rows::ocp, "mxint4"),
    recipe_rows::microxcaling,
    recipe_rows::on(recipe_rows::microxcaling, "mxfp6_e2m3"), recipe_rows::on(recipe_rows::microxcaling, "mxfp6_e3m2"),
    recipe_rows::on(recipe_rows::microxcaling, "mxfp8_e4m3"), recipe_rows::on(recipe_rows::microxcaling, "mxfp8_e5m2"),
    recipe_rows::on(recipe_rows::microxcaling, "mxint8"),     recipe_rows::on(recipe_rows::microxcaling, "mxint4"),
    recipe_rows::ggml,
    recipe_rows::with(recipe_rows::ggml, [](Recipe& r) { r.format = "nvfp4"; r.methods = "naive static6"; r.value = BlockStep::over_q; r.cast = ScaleCast::e4m3_ggml; r.meaning = "ggml's NVFP4 on a CPU, no tensor scale: its own UE4M3 rounding, 256 and above are 448"; }),
    recipe_rows::with(recipe_rows::flashinfer, recipe_rows::flashinfer_fast),
    recipe_rows::with(recipe_rows::with(recipe_rows::flashinfer, recipe_rows::flashinfer_fast), recipe_rows::flashinfer_fast_mx),
    recipe_rows::with(recipe_rows::with(recipe_rows::flashinfer, recipe_rows::flashinfer_fast), recipe_rows::vllm_fast),
    recipe_rows::with(recipe_rows::with(recipe_rows::with(recipe_rows::flashinfer, recipe_rows::flashinfer_fast), recipe_rows::vllm_fast), recipe_rows::vllm_fast_mx),
    recipe_rows::with(recipe_rows::flashinfer, recipe_rows::cutlass_fast),
    recipe_rows::with(recipe_rows::vllm_emulation, recipe_rows::vllm_triton),
    recipe_rows::with(recipe_rows::with(recipe_rows::modelopt_dyn, recipe_rows::modelopt_fake), recipe_rows::modelopt_triton),
    recipe_rows::with(recipe_rows::modelopt_dyn, recipe_rows::modelopt_triton_dyn),
};
// clang-format on

/// Recipes whose bits rest on instructions without a published definition, so that they depend on the GPU: refused
/// under these names. Those measured on Hopper have rows.
struct ApproximateRecipe {
  const char* name;
  const char* instruction;
  const char* hopper = "";  ///< the row with Hopper's bits
};
inline constexpr ApproximateRecipe approximate_recipes[] = {
    {"flashinfer_fast", "rcp.approx.ftz", "flashinfer_hopper"},
    {"trtllm", "rcp.approx.ftz", "flashinfer_hopper"},
    {"vllm", "rcp.approx.ftz", "vllm_hopper"},
    {"cutlass", "rcp.approx.ftz", "cutlass_hopper"},
    {"modelopt_triton", "div.full", "modelopt_triton_hopper"},
    {"modelopt_triton_dyn", "div.full", "modelopt_triton_dyn_hopper"},
    {"modelopt_cuda_ext", "div.approx.ftz"},
    {"ggml_cuda", "div.approx.ftz and lg2.approx"},
    {"vllm_emulation_triton", "div.full", "vllm_emulation_triton_hopper"},
};

/// Is `word` among the space-separated words of `list`?
constexpr bool lists(std::string_view list, std::string_view word) noexcept {
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = list.find(' ', at) == std::string_view::npos ? list.size() : list.find(' ', at);
    if (list.substr(at, end - at) == word && !word.empty()) return true;
    at = end + 1;
  }
  return false;
}

/// The row of that recipe, format and method, or nullptr.
constexpr const Recipe* find_recipe(std::string_view name, std::string_view format, std::string_view method) noexcept {
  for (const Recipe& r : all_recipes) {
    if (name == r.name && format == r.format && lists(r.methods, method)) return &r;
  }
  return nullptr;
}

}  // namespace fp4scope::sim
