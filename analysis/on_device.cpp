#include "analysis/on_device.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstring>

#include "analysis/curvature.hpp"
#include "analysis/naive_baseline.hpp"
#include "analysis/places.hpp"
#include "formats/error.hpp"
#include "formats/pack.hpp"

namespace fp4scope::analysis {

namespace {

constexpr std::int64_t half_bytes = std::int64_t{16} << 20;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Runs `work`, whose seconds are added to `seconds`.
template <class Work>
void timed(double& seconds, const Work& work) {
  const double start = now();
  work();
  seconds += now() - start;
}

/// memcpy by all of this thread's cores.
void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
  constexpr std::int64_t piece = std::int64_t{1} << 20;
#pragma omp parallel for schedule(static)
  for (std::int64_t first = 0; first < bytes; first += piece) {
    std::memcpy(to + first, from + first, static_cast<std::size_t>(std::min(piece, bytes - first)));
  }
}

/// Bytes of a row of codes on the GPU.
std::int64_t code_bytes(const Quantized& q) { return q.config.format->element.bits <= 4 ? q.cols / 2 : q.cols; }

}  // namespace

std::string device_obstacle(const QuantizeConfig& c) {
  if (needs_whole_tensor(c)) return "a tensor scale of " + c.scaling_text() + " is searched on the CPU";
  if (c.recipe) return "";
  const search::SearchTask task = {c.format, c.method, c.select, c.block, 1, nullptr, nullptr, c.tile_rows()};
  if (cuda::serves(task) || cuda::serves_hessian(task)) return "";
  return fmt::format("{} {} runs on the CPU", c.format->name, c.method->name);
}

std::string device_has() {
  return "a GPU has every recipe, and the methods that choose scales for elements of 4 bits; --device cpu has all";
}

cuda::Type device_type(const std::string& dtype) {
  if (dtype == "F32") return cuda::Type::f32;
  if (dtype == "BF16") return cuda::Type::bf16;
  if (dtype == "F16") return cuda::Type::f16;
  throw Error("cuda", "no kernel reads " + dtype);
}

void DeviceSeconds::add(const DeviceSeconds& other) {
  starting = std::max(starting, other.starting);
  reading += other.reading;
  copying += other.copying;
  computing += other.computing;
  writing += other.writing;
}

OnDevice::Half::Half(int device) : stream(device), memory(half_bytes) {}

OnDevice::OnDevice(int device)
    : device_(device), stream_(device), halves_{Half(device), Half(device)}, small_(device, 1024) {}

std::unique_ptr<OnDevice> OnDevice::start(int device) {
  const double before = now();
  auto gpu = std::make_unique<OnDevice>(device);
  gpu->seconds_.starting = now() - before;
  return gpu;
}

double OnDevice::bytes_per_element(cuda::Type type) {
  // The data, its values, one code a byte at most, scales of blocks of 2, and what kernels take for themselves.
  return static_cast<double>(cuda::width(type)) + 4 + 1 + 0.5 + 1.5;
}

void OnDevice::reserve(cuda::Memory& memory, std::int64_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = cuda::Memory();  // the old goes before the new comes
  memory = cuda::Memory(device_, bytes);
}

void OnDevice::wait_for_kernels() {
  timed(seconds_.computing, [&] { stream_.wait(); });
}

void OnDevice::load(cuda::Type type, std::int64_t rows, std::int64_t cols, const void* x) {
  const std::int64_t bytes = rows * cols * cuda::width(type);
  wait_for_kernels();
  reserve(x_, bytes);
  matrix_ = {type, x_.as<void>(), rows, cols};
  int next = 0;
  for (std::int64_t first = 0; first < bytes; first += half_bytes, next = 1 - next) {
    Half& half = halves_[static_cast<std::size_t>(next)];
    const std::int64_t count = std::min(half_bytes, bytes - first);
    timed(seconds_.copying, [&] { half.stream.wait(); });
    timed(seconds_.reading,
          [&] { copy_bytes(half.memory.as<std::byte>(), static_cast<const std::byte*>(x) + first, count); });
    half.stream.upload(x_.as<std::byte>() + first, half.memory.as<void>(), count);
  }
  timed(seconds_.copying, [&] {
    for (Half& half : halves_) half.stream.wait();
  });
}

cuda::Extremes OnDevice::extremes() {
  cuda::Extremes found = {};
  cuda::find_extremes(stream_, matrix_.type, matrix_.x, matrix_.rows * matrix_.cols, small_.as<cuda::Extremes>());
  stream_.download(&found, small_.as<void>(), sizeof found);
  wait_for_kernels();
  return found;
}

cuda::ElementTask OnDevice::element_task(const Quantized& q) {
  const QuantizeConfig& c = q.config;
  return {c.format, c.block, q.tensor_scale, c.rounding, c.seed, c.stream, q.first_row};
}

const cuda::DeviceHessians& OnDevice::hessians_of(const Curvature& curvature) {
  const std::string name = fmt::format("{:016x} {}", curvature.psd.hash, curvature.blocks.block);
  if (!hessians_ || name != hessians_name_) {
    hessians_.reset();  // the old go before the new come
    hessians_ = std::make_unique<cuda::DeviceHessians>(stream_, curvature.blocks);
    hessians_name_ = name;
  }
  return *hessians_;
}

void OnDevice::run_kernels(Quantized& q, const Curvature* curvature) {
  const QuantizeConfig& c = q.config;
  auto* const scales = scales_.as<std::uint8_t>();
  auto* const codes = codes_.as<std::uint8_t>();
  if (c.recipe) return cuda::quantize_recipe(stream_, recipe_task(q), c.block, c.tile_rows(), matrix_, scales, codes);
  if (c.method->needs_hessian()) {
    const cuda::DeviceHessians& hessians = hessians_of(*curvature);
    cuda::quantize_hessian(stream_, search_task(q, curvature), hessians, matrix_, scales, codes, nullptr, &q.count);
  } else {
    cuda::quantize(stream_, search_task(q), matrix_, scales, codes);
  }
  if (c.rounding != formats::Rounding::nearest_even) cuda::encode(stream_, element_task(q), matrix_, scales, codes);
}

std::int64_t OnDevice::count_second(const Quantized& q) {
  const QuantizeConfig& c = q.config;
  const bool chooses = c.recipe ? c.recipe->candidates != sim::Candidates::one
                                : c.format->selects() || c.method->kind == search::MethodKind::four_over_six;
  if (!chooses) return 0;
  std::uint64_t count = 0;
  const auto* const scales = scales_.as<std::uint8_t>();
  auto* const found = small_.as<std::uint64_t>();
  if (c.recipe) cuda::count_second(stream_, recipe_task(q), c.block, c.tile_rows(), matrix_, scales, found);
  else cuda::count_second(stream_, search_task(q), matrix_, scales, found);
  stream_.download(&count, small_.as<void>(), sizeof count);
  wait_for_kernels();
  return static_cast<std::int64_t>(count);
}

Quantized OnDevice::quantize(const QuantizeConfig& config, const Piece& piece, const std::string& where,
                             const Curvature* curvature) {
  Quantized q = start_quantized(config, matrix_.rows, matrix_.cols, piece, where);
  scale_bytes_ = q.rows * q.blocks_per_row();
  code_bytes_ = q.rows * code_bytes(q);
  reserve(scales_, scale_bytes_);
  reserve(codes_, code_bytes_);
  if (curvature) take_curvature(q, *curvature);
  timed(seconds_.computing, [&] { run_kernels(q, curvature); });
  q.chose_second = count_second(q);
  return q;
}

MeasuredRows OnDevice::measure(const Quantized& q) {
  MeasuredRows measured = {matrix_.cols, q.blocks_per_row(), {}, {}};
  measured.rows.resize(static_cast<std::size_t>(q.rows));
  const auto bytes = static_cast<std::int64_t>(measured.rows.size() * sizeof(cuda::RowSums));
  reserve(sums_, bytes);
  const cuda::SumTask task = {q.config.format,
                              &q.config.naive(),
                              q.config.select,
                              q.config.block,
                              q.config.tile_rows(),
                              q.tensor_scale,
                              first_normal_code(q.config.format->scale),
                              has_nearest_elements(q)};
  auto* const moves = small_.as<std::uint64_t>();
  stream_.fill(moves, 0, sizeof measured.moves);
  cuda::sum_errors(stream_, task, matrix_, scales_.as<std::uint8_t>(), codes_.as<std::uint8_t>(),
                   sums_.as<cuda::RowSums>(), moves);
  stream_.download(measured.rows.data(), sums_.as<void>(), bytes);
  stream_.download(measured.moves.data(), moves, sizeof measured.moves);
  wait_for_kernels();
  return measured;
}

void OnDevice::for_each_part(const cuda::Memory& from, std::int64_t bytes, const Part& part) {
  wait_for_kernels();
  const auto count_at = [&](std::int64_t first) { return std::min(half_bytes, bytes - first); };
  const auto start = [&](std::int64_t first) {
    if (first >= bytes) return;
    Half& half = halves_[static_cast<std::size_t>(first / half_bytes % 2)];
    half.stream.download(half.memory.as<void>(), from.as<std::byte>() + first, count_at(first));
  };
  start(0);
  for (std::int64_t first = 0; first < bytes; first += half_bytes) {
    start(first + half_bytes);
    Half& half = halves_[static_cast<std::size_t>(first / half_bytes % 2)];
    timed(seconds_.copying, [&] { half.stream.wait(); });
    timed(seconds_.writing, [&] {
      part(first, {half.memory.as<const std::byte>(), static_cast<std::size_t>(count_at(first))});
    });
  }
}

void OnDevice::for_each_part_of_scales(const Part& part) { for_each_part(scales_, scale_bytes_, part); }
void OnDevice::for_each_part_of_codes(const Part& part) { for_each_part(codes_, code_bytes_, part); }

void OnDevice::for_each_part_of_values(const Quantized& q, std::int64_t cols, cuda::Type type, const Part& part) {
  const std::int64_t bytes = q.rows * cols * cuda::width(type);
  reserve(values_, bytes);
  cuda::dequantize(stream_, element_task(q), q.rows, cols, scales_.as<std::uint8_t>(), codes_.as<std::uint8_t>(), type,
                   values_.as<void>());
  for_each_part(values_, bytes, part);
}

void OnDevice::download(Quantized& q) {
  q.scales.resize(static_cast<std::size_t>(scale_bytes_));
  q.codes.resize(static_cast<std::size_t>(q.rows * q.cols));
  for_each_part_of_scales([&](std::int64_t offset, std::span<const std::byte> bytes) {
    std::memcpy(q.scales.data() + offset, bytes.data(), bytes.size());
  });
  const bool pairs = q.config.format->element.bits <= 4;
  for_each_part_of_codes([&](std::int64_t offset, std::span<const std::byte> bytes) {
    const auto* const packed = reinterpret_cast<const std::uint8_t*>(bytes.data());
    const auto count = static_cast<std::int64_t>(bytes.size()) * (pairs ? 2 : 1);
    std::uint8_t* const out = q.codes.data() + offset * (pairs ? 2 : 1);
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < count; ++i) {
      out[i] = pairs ? static_cast<std::uint8_t>(formats::unpack_nibble(packed, i)) : packed[i];
    }
  });
}

}  // namespace fp4scope::analysis
