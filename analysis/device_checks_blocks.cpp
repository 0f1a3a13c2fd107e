// Blocks: a tensor's extremes, scales by every method, recipe and Hessian, codes at given scales and back, rotations.
// Data of several kinds, each in every dtype: what models look like, ties by construction, values one last place beside
// a decision, magnitudes far apart, zeros, a single value, NaN and Inf.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "analysis/curvature.hpp"
#include "analysis/device_checks.hpp"
#include "analysis/distributions.hpp"
#include "analysis/encode.hpp"
#include "analysis/quantize.hpp"
#include "formats/pack.hpp"
#include "search/sse.hpp"
#include "sim/encode_lanes.hpp"
#include "sim/hadamard.hpp"
#include "sim/random.hpp"

namespace fp4scope::analysis {

namespace {

using formats::BlockFormat;

enum class Data { normal, student_t, ties, beside, spread, special };
constexpr Data finite_data[] = {Data::normal, Data::student_t, Data::ties, Data::beside, Data::spread};

/// Values at a midpoint of E2M1 or INT4 times a block scale times `tensor_scale`, or one binary32 beside it; each block
/// of 16 has its scale, and as its largest the top level at that scale.
void put_beside(Matrix& m, float tensor_scale, std::uint64_t seed) {
  constexpr double middles[] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 0.5, 1.5, 4.5, 5.5, 6.5};
  for (std::int64_t i = 0; i < m.size(); ++i) {
    std::uint32_t w[4], of_block[4];
    sim::random_words(seed, 0, static_cast<std::uint64_t>(i), w);
    sim::random_words(seed, 1, static_cast<std::uint64_t>(i / 16), of_block);
    const double scale = formats::decode_double(formats::e4m3, 1 + of_block[0] % 126) * tensor_scale;
    const bool top = i % 16 == of_block[1] % 16;
    const auto x = static_cast<float>((top ? 6 : middles[w[0] % 12]) * scale);
    const auto moved = __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, x) + w[1] % 3 - 1);
    m.data[static_cast<std::size_t>(i)] = (w[2] & 1) != 0 ? -moved : moved;
  }
}

/// A run of 16 in turn: zeros, zeros with signs, one value alone, the least numbers, the largest, one NaN, one Inf.
void put_special(Matrix& m, std::uint64_t seed) {
  for (std::int64_t i = 0; i < m.size(); ++i) {
    std::uint32_t w[4];
    sim::random_words(seed, 2, static_cast<std::uint64_t>(i), w);
    float& x = m.data[static_cast<std::size_t>(i)];
    const bool here = i % 16 == (i / 16) % 16;
    switch (i / 16 % 8) {
      case 0: x = 0; break;
      case 1: x = (w[0] & 1) != 0 ? -0.0f : 0.0f; break;
      case 2: x = here ? x : 0; break;
      case 3: x *= 0x1p-130f; break;
      case 4: x *= 0x1p+15f; break;
      case 5: x = here ? std::nanf("") : x; break;
      case 6: x = here ? (x < 0 ? -INFINITY : INFINITY) : x; break;
      default: break;
    }
  }
}

Matrix make_data(Data kind, std::int64_t rows, std::int64_t cols, std::uint64_t seed, float tensor_scale = 1) {
  Distribution d;
  d.kind = kind == Data::student_t ? "student_t" : "normal";
  d.sigma = kind == Data::normal ? 0.02 : 1;
  d.rows = rows;
  d.cols = cols;
  d.seed = seed;
  d.dtype = "f32";
  Matrix m = sample(d);
  if (kind == Data::beside) put_beside(m, tensor_scale, seed);
  if (kind == Data::special) put_special(m, seed);
  for (std::int64_t i = 0; i < m.size(); ++i) {
    float& x = m.data[static_cast<std::size_t>(i)];
    if (kind == Data::ties) x = std::round(x * 8) / 16;
    if (kind == Data::spread) x = std::ldexp(x, static_cast<int>((i * 7 + i / 16) % 24) - 12);
  }
  return m;
}

std::string number(double x) { return fmt::format("{:a} ({})", x, x); }

/// One block of a comparison, and what both sides made of it.
struct BlockView {
  const Quantized& model;
  const Matrix& data;  ///< padded
  const std::uint8_t* scales;
  const std::uint8_t* codes;  ///< packed, or one a byte
  bool packed;
};

std::uint32_t device_code(const BlockView& v, std::int64_t at) {
  return v.packed ? formats::unpack_nibble(v.codes, at) : v.codes[at];
}

/// The squared errors of both scales, and which is less in real numbers.
std::string explain_losses(const BlockView& v, std::int64_t row, std::int64_t b, int device) {
  const BlockFormat& format = *v.model.config.format;
  if (format.element.bits > 4 || format.selects() || v.model.config.tiles || v.model.config.recipe) return "";
  const search::SearchSpace space = search::make_space(format, v.model.tensor_scale, v.model.config.method->rule);
  const int n = v.model.config.block, model = v.model.scale_code(row, b);
  const float* const x = v.data.row(row) + b * n;
  const search::Block block = {x, n, sim::amax(x, n)};
  if (!std::isfinite(block.amax) || device > space.last_code || model > space.last_code) return "";
  const int order = search::compare_sse(space, block, device, search::sums_at(space, block, device), model,
                                        search::sums_at(space, block, model));
  return fmt::format("\n  block amax {}: the device's squared error is {} in real numbers", number(block.amax),
                     order < 0   ? "less"
                     : order > 0 ? "more"
                                 : "the same");
}

std::string explain_scale(const BlockView& v, std::int64_t row, std::int64_t b) {
  const std::int64_t at = row * v.model.blocks_per_row() + b;
  const formats::Format& scale = v.model.config.format->scale;
  const std::uint8_t model = v.model.scales[static_cast<std::size_t>(at)], device = v.scales[at];
  return fmt::format("row {}, block {}: scale\n  model  0x{:02x} ({})\n  device 0x{:02x} ({})", row, b, model,
                     formats::decode_double(scale, model), device, formats::decode_double(scale, device)) +
         explain_losses(v, row, b, device);
}

std::string explain_code(const BlockView& v, std::int64_t row, std::int64_t col) {
  const std::int64_t at = row * v.model.cols + col, b = col / v.model.config.block;
  const BlockFormat& format = *v.model.config.format;
  const double step = v.model.step(row, b), x = v.data.row(row)[col];
  const bool integer = v.model.integer(row, b);
  const std::uint32_t model = v.model.codes[static_cast<std::size_t>(at)], device = device_code(v, at);
  std::string text = fmt::format(
      "row {}, column {}: x = {}, block scale 0x{:02x}, tensor scale * block scale = {}\n  model  0x{:x} ({})\n"
      "  device 0x{:x} ({})",
      row, col, number(x), v.model.scales[static_cast<std::size_t>(row * v.model.blocks_per_row() + b)], number(step),
      model, formats::element_value(format, model, integer), device, formats::element_value(format, device, integer));
  if (format.element.bits > 4 || !(step > 0)) return text;
  const sim::Grid grid = sim::make_grid(format, integer);
  double nearest = grid.midpoint[0];
  const double y = sim::grid_factor(format) * std::fabs(x);
  for (int k = 1; k + 1 < grid.levels; ++k) {
    if (std::fabs(y - grid.midpoint[k] * step) < std::fabs(y - nearest * step)) nearest = grid.midpoint[k];
  }
  const double threshold = nearest * step;
  return text + fmt::format("\n  nearest midpoint {} at {}: |x| is {}", nearest, number(threshold),
                            y == threshold  ? "on it"
                            : y < threshold ? "below it"
                                            : "above it");
}

/// Scales and codes of both sides; `codes` as the kernel wrote them.
void compare_blocks(DeviceCheck& check, const BlockView& v) {
  const Quantized& q = v.model;
  compare(check, q.scales.data(), v.scales, static_cast<std::int64_t>(q.scales.size()),
          [&](std::int64_t i) { return explain_scale(v, i / q.blocks_per_row(), i % q.blocks_per_row()); });
  std::vector<std::uint8_t> device(q.codes.size());
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < device.size(); ++i) {
    device[i] = static_cast<std::uint8_t>(device_code(v, static_cast<std::int64_t>(i)));
  }
  compare(check, q.codes.data(), device.data(), static_cast<std::int64_t>(device.size()),
          [&](std::int64_t i) { return explain_code(v, i / q.cols, i % q.cols); });
}

/// A configuration on data: model, then `kernel(matrix, q, scales, codes)` on the device.
template <class Kernel>
void check_config(DeviceChecks& checks, DeviceCheck& check, const QuantizeConfig& config, const TwoSides& sides,
                  const Curvature* curvature, const Kernel& kernel) {
  const double start = wall_seconds();
  const Quantized q = quantize(config, sides.model, "crosscheck", curvature);
  const double middle = wall_seconds();
  const bool packed = config.format->element.bits <= 4;
  const cuda::Memory scales(checks.stream.device(), static_cast<std::int64_t>(q.scales.size()));
  const cuda::Memory codes(checks.stream.device(), static_cast<std::int64_t>(q.codes.size()) / (packed ? 2 : 1));
  checks.stream.fill(scales.as<void>(), 0xAA, scales.bytes());
  checks.stream.fill(codes.as<void>(), 0xAA, codes.bytes());
  kernel(sides.device(), q, scales.as<std::uint8_t>(), codes.as<std::uint8_t>());
  const std::vector<std::uint8_t> got_scales = downloaded(checks.stream, scales);
  const std::vector<std::uint8_t> got_codes = downloaded(checks.stream, codes);
  check.model_seconds += middle - start;
  check.device_seconds += wall_seconds() - middle;
  const Matrix padded = pad_columns(sides.model, config.block);
  compare_blocks(check, {q, padded, got_scales.data(), got_codes.data(), packed});
}

search::SearchTask task_of(const QuantizeConfig& c, const Quantized& q, const search::Hessians* hessians = nullptr) {
  search::SearchTask task = {};
  task.format = c.format;
  task.method = c.method;
  task.select = c.select;
  task.block = c.block;
  task.tensor_scale = q.tensor_scale;
  task.hessians = hessians;
  task.tile_rows = c.tile_rows();
  task.unbiased = c.unbiased;
  return task;
}

constexpr cuda::Type all_types[] = {cuda::Type::f32, cuda::Type::bf16, cuda::Type::f16};

/// Rows and columns that are no multiples of anything, and some that are.
struct Shape {
  std::int64_t rows, cols;
};
constexpr std::int64_t whole_cols = 1024;
Shape whole(const DeviceChecks& checks) { return {checks.options.quick ? 16 : 128, whole_cols}; }
Shape ragged(const DeviceChecks& checks) { return {checks.options.quick ? 11 : 67, 500}; }

/// Data for blocks, made once for all configurations.
std::vector<TwoSides> make_inputs(const DeviceChecks& checks, bool finite) {
  cuda::Stream& stream = checks.stream;
  std::vector<TwoSides> inputs;
  std::uint64_t seed = 1;
  for (const cuda::Type type : all_types) {
    for (const Shape shape : {whole(checks), ragged(checks)}) {
      for (const Data kind : finite_data) {
        inputs.push_back(two_sides(stream, make_data(kind, shape.rows, shape.cols, seed++, 0x1.23456p-9f), type));
      }
      if (!finite) inputs.push_back(two_sides(stream, make_data(Data::special, shape.rows, shape.cols, seed++), type));
    }
  }
  return inputs;
}

}  // namespace

void check_extremes(DeviceChecks& checks) {
  DeviceCheck check;
  check.what = "largest magnitudes, NaN and Inf";
  for (const TwoSides& sides : make_inputs(checks, false)) {
    Survey survey(sides.model.cols);
    survey.add(sides.model);
    const cuda::Memory out(checks.stream.device(), sizeof(cuda::Extremes));
    cuda::find_extremes(checks.stream, sides.type, sides.memory.as<void>(), sides.model.size(),
                        out.as<cuda::Extremes>());
    cuda::Extremes e = {};
    checks.stream.download(&e, out.as<void>(), sizeof e);
    checks.stream.wait();
    std::int64_t nonfinite = 0;
    for (const float x : sides.model.data) nonfinite += !std::isfinite(x);
    const std::int64_t model[] = {std::bit_cast<std::int32_t>(survey.finite_amax()),
                                  std::bit_cast<std::int32_t>(survey.amax()), survey.has_nan(), nonfinite};
    const std::int64_t device[] = {e.finite_amax, e.amax, e.has_nan, static_cast<std::int64_t>(e.nonfinite)};
    compare(check, model, device, 4, [&](std::int64_t i) {
      constexpr const char* names[] = {"finite amax", "amax", "NaN", "non-finite values"};
      return fmt::format("{}: model 0x{:x}, device 0x{:x}", names[i], model[i], device[i]);
    });
  }
  checks.done.push_back(check);
}

void check_searches(DeviceChecks& checks) {
  const std::vector<TwoSides> inputs = make_inputs(checks, false);
  std::size_t at = 0;
  for (const search::Method& method : search::all_methods) {
    checks.tell(0.2 + 0.3 * static_cast<double>(at++) / static_cast<double>(std::size(search::all_methods)),
                fmt::format("{} {}", method.format, method.name));
    for (const int block : {16, 32}) {
      QuantizeWords words = {method.format, method.name, "", "", "propagate", block};
      if (method.corrects() || method.needs_hessian() || method.random()) continue;
      DeviceCheck check;
      check.what = fmt::format("{} {} block {}", method.format, method.name, block);
      for (const char* tensor_scale : {"", "none"}) {
        words.tensor_scale = tensor_scale;
        for (const std::string& select : select_names) {
          if (select != "mse" && !method.chooses()) continue;
          words.select = method.chooses() ? select : "";
          const QuantizeConfig config = parse_config(words);
          for (const TwoSides& sides : inputs) {
            if (checks.stopped()) return;
            if (!cuda::serves(task_of(config, {}))) continue;
            check_config(checks, check, config, sides, nullptr,
                         [&](const cuda::Matrix& m, const Quantized& q, std::uint8_t* scales, std::uint8_t* codes) {
                           cuda::quantize(checks.stream, task_of(config, q), m, scales, codes);
                         });
          }
        }
      }
      if (check.outputs > 0) checks.done.push_back(check);
    }
  }
}

void check_recipes(DeviceChecks& checks) {
  const std::vector<TwoSides> finite = make_inputs(checks, true), all = make_inputs(checks, false);
  std::size_t at = 0;
  for (const sim::Recipe& row : sim::all_recipes) {
    checks.tell(0.5 + 0.3 * static_cast<double>(at++) / static_cast<double>(std::size(sim::all_recipes)),
                fmt::format("{} {}", row.name, row.format));
    const std::string method = std::string(row.methods).substr(0, std::string_view(row.methods).find(' '));
    QuantizeWords words = {row.format, method, "", "", "", row.block};
    words.recipe = row.name;
    const QuantizeConfig config = parse_config(words);
    DeviceCheck check;
    check.what = fmt::format("{} {} {}", row.name, row.format, method);
    for (const TwoSides& sides : row.nan_defined ? all : finite) {
      if (checks.stopped()) return;
      check_config(
          checks, check, config, sides, nullptr,
          [&](const cuda::Matrix& m, const Quantized& q, std::uint8_t* scales, std::uint8_t* codes) {
            const search::RecipeTask task = {config.recipe, config.format, q.constants, config.select, config.rounding};
            cuda::quantize_recipe(checks.stream, task, config.block, config.tile_rows(), m, scales, codes);
          });
    }
    checks.done.push_back(check);
  }
}

void check_hessian(DeviceChecks& checks) {
  struct Inputs {
    const char* name;
    double correlation, outlier_gain;
    std::int64_t tokens;
  };
  constexpr Inputs all_inputs[] = {{"AR(.9)", .9, 1, 256},
                                   {"with outliers", .9, 20, 256},
                                   {"independent", 0, 1, 256},
                                   {"rank 8", .5, 1, 8},
                                   {"rank 1", .5, 1, 1}};
  for (const char* format : {"nvfp4", "nvint4", "mxfp4"}) {
    for (const int block : {16, 32}) {
      for (const Inputs& inputs : all_inputs) {
        checks.tell(0.85, fmt::format("{} hessian", format));
        const QuantizeConfig config = parse_config({format, "hessian", "", "", "propagate", block});
        SyntheticActivations activations;
        activations.correlation = inputs.correlation;
        activations.outlier_gain = inputs.outlier_gain;
        activations.tokens = inputs.tokens;
        DeviceCheck check;
        check.what = fmt::format("{} hessian block {}, inputs {}", format, block, inputs.name);
        const Curvature curvature = curvature_of(sample(activations, whole_cols), block, false);
        const cuda::DeviceHessians hessians(checks.stream, curvature.blocks);
        std::uint64_t seed = 100;
        for (const cuda::Type type : all_types) {
          for (const Data kind : {Data::normal, Data::student_t, Data::ties, Data::special}) {
            if (checks.stopped()) return;
            const Shape shape = whole(checks);
            const TwoSides sides = two_sides(checks.stream, make_data(kind, shape.rows, shape.cols, seed++), type);
            check_config(checks, check, config, sides, &curvature,
                         [&](const cuda::Matrix& m, const Quantized& q, std::uint8_t* scales, std::uint8_t* codes) {
                           const search::SearchTask task = task_of(config, q, &curvature.blocks);
                           cuda::quantize_hessian(checks.stream, task, hessians, m, scales, codes);
                         });
          }
        }
        checks.done.push_back(check);
      }
    }
  }
}

namespace {

/// Every 16-bit pattern as a row, once for each scale code; quick: every 61st.
void check_all_codes(DeviceChecks& checks, const BlockFormat& format, cuda::Type type) {
  const std::int64_t patterns = checks.options.quick ? 1024 : 1 << 16, stride = checks.options.quick ? 61 : 1;
  const formats::Format& narrow = type == cuda::Type::bf16 ? formats::bf16 : formats::fp16;
  const std::int64_t last = format.selects() ? 255 : format.scale.max_code;
  Matrix m = {last + 1, patterns, std::vector<float>(static_cast<std::size_t>((last + 1) * patterns))};
  for (std::int64_t i = 0; i < m.size(); ++i) {
    const std::int64_t pattern = i % patterns * stride;
    m.data[static_cast<std::size_t>(i)] = formats::decode_float(narrow, static_cast<std::uint32_t>(pattern));
  }
  const TwoSides sides = two_sides(checks.stream, std::move(m), type);
  DeviceCheck check;
  check.what = fmt::format("codes of {}: every {} at every scale", format.name, type_names[static_cast<int>(type)]);
  for (const float tensor_scale : {1.0f, 0x1.23456p-7f}) {
    if (tensor_scale != 1 && !format.tensor_scaled) continue;
    QuantizeConfig config = parse_config({format.name, "naive", "", "1", "propagate", 16});
    Quantized q;
    q.config = config;
    q.rows = last + 1;
    q.cols = patterns;
    q.tensor_scale = tensor_scale;
    q.scales.resize(static_cast<std::size_t>(q.rows * q.blocks_per_row()));
    q.codes.resize(static_cast<std::size_t>(q.rows * q.cols));
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < q.rows; ++row) {
      std::uint8_t* const scales = q.scales.data() + row * q.blocks_per_row();
      std::fill_n(scales, q.blocks_per_row(), static_cast<std::uint8_t>(row));
      sim::encode_blocks(format, tensor_scale, sides.model.row(row), q.blocks_per_row(), 16, scales,
                         q.codes.data() + row * q.cols);
    }
    const cuda::Memory scales(checks.stream.device(), static_cast<std::int64_t>(q.scales.size()));
    const cuda::Memory codes(checks.stream.device(), static_cast<std::int64_t>(q.codes.size()) / 2);
    checks.stream.upload(scales.as<void>(), q.scales.data(), scales.bytes());
    const cuda::ElementTask task = {&format, 16, tensor_scale};
    cuda::encode(checks.stream, task, sides.device(), scales.as<std::uint8_t>(), codes.as<std::uint8_t>());
    const std::vector<std::uint8_t> got = downloaded(checks.stream, codes);
    compare_blocks(check, {q, sides.model, q.scales.data(), got.data(), true});

    // And back: the exact products rounded once.
    const cuda::Memory values(checks.stream.device(), q.rows * q.cols * 4);
    cuda::dequantize(checks.stream, task, q.rows, q.cols, scales.as<std::uint8_t>(), codes.as<std::uint8_t>(),
                     cuda::Type::f32, values.as<void>());
    const std::vector<std::uint8_t> bytes = downloaded(checks.stream, values);
    const auto* const device = reinterpret_cast<const float*>(bytes.data());
    const std::vector<float> model = exact_values(q);
    std::vector<std::uint32_t> a(model.size()), b(model.size());
    const auto bits = [](float x) { return std::isnan(x) ? 0x7FC00000u : std::bit_cast<std::uint32_t>(x); };
    std::transform(model.begin(), model.end(), a.begin(), bits);
    std::transform(device, device + model.size(), b.begin(), bits);
    compare(check, a.data(), b.data(), static_cast<std::int64_t>(a.size()), [&](std::int64_t i) {
      return fmt::format("value of code 0x{:x} at scale 0x{:02x}: model 0x{:08x}, device 0x{:08x}", q.codes[i],
                         q.scales[static_cast<std::size_t>(i / 16)], a[i], b[i]);
    });
  }
  checks.done.push_back(check);
}

/// Stochastic codes, and elements of more than 4 bits in every direction, through quantize's own pipeline.
void check_other_codes(DeviceChecks& checks, const BlockFormat& format, formats::Rounding rounding,
                       const std::vector<TwoSides>& inputs) {
  QuantizeWords words = {format.name, "naive", "", "", "propagate", 0};
  if (rounding != formats::Rounding::nearest_even) words.rounding = rounding_names[static_cast<std::size_t>(rounding)];
  QuantizeConfig config = parse_config(words);
  config.seed = 7;
  config.stream = name_stream("crosscheck");
  DeviceCheck check;
  check.what = fmt::format("codes of {} {}", format.name, config.rounding_name());
  for (const TwoSides& sides : inputs) {
    if (checks.stopped()) return;
    check_config(checks, check, config, sides, nullptr,
                 [&](const cuda::Matrix& m, const Quantized& q, std::uint8_t* scales, std::uint8_t* codes) {
                   checks.stream.upload(scales, q.scales.data(), static_cast<std::int64_t>(q.scales.size()));
                   const cuda::ElementTask task = {config.format, config.block,  q.tensor_scale, config.rounding,
                                                   config.seed,   config.stream, q.first_row};
                   cuda::encode(checks.stream, task, m, scales, codes);
                 });
  }
  checks.done.push_back(check);
}

}  // namespace

void check_elements(DeviceChecks& checks) {
  checks.tell(0.15, "codes at given scales");
  for (const BlockFormat& format : formats::all_block_formats) {
    for (const cuda::Type type : {cuda::Type::bf16, cuda::Type::f16}) {
      if (format.element.bits <= 4 && !checks.stopped()) check_all_codes(checks, format, type);
    }
  }
  const std::vector<TwoSides> inputs = make_inputs(checks, false);
  for (const BlockFormat& format : formats::all_block_formats) {
    if (format.element.bits > 4) check_other_codes(checks, format, formats::Rounding::nearest_even, inputs);
    check_other_codes(checks, format, formats::Rounding::stochastic, inputs);
  }
}

void check_rotations(DeviceChecks& checks) {
  using sim::HadamardArithmetic;
  constexpr const char* names[] = {"exact", "float32", "float32 to bf16", "float32 to fp16"};
  for (int arithmetic = 0; arithmetic < 4; ++arithmetic) {
    DeviceCheck check;
    check.what = fmt::format("rotations of 2 to 1024, {}", names[arithmetic]);
    for (int n = 2; n <= sim::max_hadamard_size && !checks.stopped(); n *= 2) {
      checks.tell(0.95, "rotations");
      std::vector<std::int8_t> signs(static_cast<std::size_t>(n));
      sim::random_signs(3, 0, n, signs.data());
      for (const bool back : {false, true}) {
        const TwoSides sides = two_sides(checks.stream, make_data(Data::spread, 64, 1024, 5), cuda::Type::bf16);
        std::vector<float> model(sides.model.data.size());
        for (std::int64_t i = 0; i < sides.model.size(); i += n) {
          const auto turn = back ? sim::rotate_back : sim::rotate;
          turn(sides.model.data.data() + i, signs.data(), n, static_cast<HadamardArithmetic>(arithmetic),
               model.data() + i);
        }
        const cuda::Memory out(checks.stream.device(), sides.model.size() * 4);
        cuda::rotate(checks.stream, n, signs.data(), static_cast<HadamardArithmetic>(arithmetic), back, sides.device(),
                     out.as<float>());
        const std::vector<std::uint8_t> bytes = downloaded(checks.stream, out);
        compare(check, reinterpret_cast<const std::uint32_t*>(model.data()),
                reinterpret_cast<const std::uint32_t*>(bytes.data()), sides.model.size(), [&](std::int64_t i) {
                  return fmt::format("{} points, value {}: model {}, device {}", n, i, number(model[i]),
                                     number(reinterpret_cast<const float*>(bytes.data())[i]));
                });
      }
    }
    checks.done.push_back(check);
  }
}

}  // namespace fp4scope::analysis
