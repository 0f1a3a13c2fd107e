#include "analysis/quantize_file_on_device.hpp"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <exception>
#include <mutex>
#include <thread>

#include "analysis/on_device.hpp"

namespace fp4scope::analysis {

namespace {

constexpr std::size_t most_in_flight = 4;  // tensors a GPU
constexpr double usable_memory = 0.8;      // of a GPU's

/// A tensor's rows as a GPU takes them.
class Rows {
 public:
  Rows(const io::TensorFile& file, const io::TensorInfo& tensor, const Notice& notice) : shape_(as_matrix(tensor)) {
    if (tensor.dtype.name == "F64") {
      rounded_ = read_matrix(file, tensor, notice);
      bytes_ = std::as_bytes(std::span(rounded_.data));
    } else {
      type_ = device_type(tensor.dtype.name);
      bytes_ = file.raw(tensor);
    }
  }

  const Shape2d& shape() const { return shape_; }
  cuda::Type type() const { return type_; }
  const std::byte* from(std::int64_t row) const { return bytes_.data() + row * shape_.cols * cuda::width(type_); }

 private:
  Shape2d shape_;
  cuda::Type type_ = cuda::Type::f32;
  Matrix rounded_;
  std::span<const std::byte> bytes_;
};

/// What the threads share.
struct Flight {
  const QuantizeFileOptions& options;
  const io::TensorFile& file;
  std::span<const io::TensorInfo* const> tensors;
  io::SafetensorsWriter& writer;
  double device_bytes = 0;  ///< for a tensor in flight

  std::mutex mutex = {};
  std::size_t next = 0, first_failure = 0;
  double total = 0, done = 0;
  std::vector<std::vector<std::string>> words = {};
  std::vector<QuantizedTensor> summary = {};
  std::vector<std::exception_ptr> failures = {};
  DeviceSeconds seconds = {};

  bool stopped() const { return options.stop && *options.stop; }
};

/// Rows at a time that fit, in whole tiles.
std::int64_t rows_that_fit(const Flight& flight, const Rows& rows) {
  const double row = static_cast<double>(rows.shape().cols) * OnDevice::bytes_per_element(rows.type());
  const int tile = flight.options.config.tile_rows();
  const auto tiles = static_cast<std::int64_t>(flight.device_bytes / (row * tile));
  return std::min(std::max<std::int64_t>(tiles, 1) * tile, rows.shape().rows);
}

/// Survey's of the whole tensor, from the GPU where its values are finite.
Survey survey_of(const Flight& flight, const io::TensorInfo& tensor, const Rows& rows, std::int64_t at_once,
                 OnDevice& gpu) {
  const Shape2d shape = rows.shape();
  std::uint32_t amax = 0;
  std::uint64_t nonfinite = 0;
  for (std::int64_t first = 0; first < shape.rows; first += at_once) {
    gpu.load(rows.type(), std::min(at_once, shape.rows - first), shape.cols, rows.from(first));
    const cuda::Extremes found = gpu.extremes();
    amax = std::max(amax, found.finite_amax);
    nonfinite += found.nonfinite;
  }
  if (nonfinite == 0) return Survey::of_finite(shape.cols, std::bit_cast<float>(amax));
  Survey survey(shape.cols);
  std::int64_t rounded = 0;
  constexpr std::int64_t elements_at_once = std::int64_t{1} << 24;
  const std::int64_t count = std::max<std::int64_t>(elements_at_once / shape.cols, 1);
  for (std::int64_t first = 0; first < shape.rows; first += count) {
    survey.add(read_matrix_rows(flight.file, tensor, first, std::min(count, shape.rows - first), rounded));
  }
  return survey;
}

/// Parts of a tensor's entries, one after the other, to the file.
class Output {
 public:
  Output(io::SafetensorsWriter& writer, std::string name) : writer_(writer), name_(std::move(name)) {}

  OnDevice::Part to(const char* suffix) {
    return [this, suffix](std::int64_t, std::span<const std::byte> bytes) {
      std::uint64_t& done = done_[suffix];
      writer_.write_part(name_ + suffix, done, bytes);
      done += bytes.size();
    };
  }

 private:
  io::SafetensorsWriter& writer_;
  std::string name_;
  std::map<std::string, std::uint64_t> done_;
};

/// One tensor through a GPU, into the file.
QuantizedTensor quantize_tensor(const Flight& flight, const io::TensorInfo& tensor, const Notice& notice,
                                OnDevice& gpu) {
  const QuantizeFileOptions& o = flight.options;
  const Rows rows(flight.file, tensor, notice);
  const Shape2d shape = rows.shape();
  const std::int64_t at_once = rows_that_fit(flight, rows);
  const Survey survey = survey_of(flight, tensor, rows, at_once, gpu);
  QuantizeConfig config = o.config;
  config.stream = name_stream(tensor.name);
  MetricSums sums;
  Quantized q;
  Output out(flight.writer, tensor.name);
  for (std::int64_t first = 0; first < shape.rows && !flight.stopped(); first += at_once) {
    const std::int64_t count = std::min(at_once, shape.rows - first);
    if (at_once < shape.rows) gpu.load(rows.type(), count, shape.cols, rows.from(first));
    q = gpu.quantize(config, {survey, first}, o.in + ": " + tensor.name);
    sums.add(gpu.measure(q));
    if (o.fake_quant) {
      gpu.for_each_part_of_values(q, shape.cols, rows.type(), out.to(""));
      continue;
    }
    gpu.for_each_part_of_scales(out.to(".scales"));
    gpu.for_each_part_of_codes(out.to(".codes"));
    if (o.dequantized) gpu.for_each_part_of_values(q, q.cols, cuda::Type::f32, out.to(".dequantized"));
  }
  q.rows = shape.rows;
  if (!o.fake_quant) write_constants(o, tensor.name, q, flight.writer);
  return summarize(tensor.name, shape, q, sums.metrics());
}

/// Tensors, one after the other, until none is left. Those before one that fails are done, so that the first failure of
/// all is the one that is told.
void fly(Flight& flight, int device) {
  std::unique_ptr<OnDevice> gpu;
  for (;;) {
    std::size_t i = 0;
    {
      const std::scoped_lock lock(flight.mutex);
      i = flight.next++;
      if (i >= flight.tensors.size() || i > flight.first_failure || flight.stopped()) break;
    }
    const io::TensorInfo& tensor = *flight.tensors[i];
    try {
      if (!gpu) gpu = OnDevice::start(device);
      const Notice notice = [&](const std::string& word) { flight.words[i].push_back(word); };
      flight.summary[i] = quantize_tensor(flight, tensor, notice, *gpu);
    } catch (...) {
      flight.failures[i] = std::current_exception();
      const std::scoped_lock lock(flight.mutex);
      flight.first_failure = std::min(flight.first_failure, i);
      continue;
    }
    const std::scoped_lock lock(flight.mutex);
    flight.done += static_cast<double>(tensor.elements());
    if (flight.options.progress) flight.options.progress(flight.done / flight.total, tensor.name);
  }
  if (!gpu) return;
  const std::scoped_lock lock(flight.mutex);
  flight.seconds.add(gpu->seconds());
}

/// The GPUs' threads, the first of each GPU first.
void fly_all(Flight& flight) {
  const std::vector<int>& devices = flight.options.devices;
  const std::size_t count = std::min(most_in_flight * devices.size(), flight.tensors.size());
  const int cores = std::max(1, omp_get_max_threads() / static_cast<int>(count));
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < count; ++i) {
    threads.emplace_back([&flight, cores, device = devices[i % devices.size()]] {
      omp_set_num_threads(cores);
      fly(flight, device);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// For a tensor in flight on the smallest of the GPUs.
double bytes_in_flight(const QuantizeFileOptions& o) {
  if (o.device_memory > 0) return static_cast<double>(o.device_memory);
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (const int device : o.devices) least = std::min(least, cuda::devices()[static_cast<std::size_t>(device)].memory);
  return usable_memory * static_cast<double>(least) / static_cast<double>(most_in_flight);
}

}  // namespace

bool goes_straight(const QuantizeFileOptions& o, std::span<const io::TensorInfo* const> tensors) {
  const bool wide = std::any_of(tensors.begin(), tensors.end(), [](const auto* t) { return t->dtype.name == "F64"; });
  return !o.transform.transposed && !o.transform.rotated() && !o.certificate && !(o.dequantized && o.config.recipe) &&
         !(o.fake_quant && wide) && o.activations.empty() && o.hessian.empty();
}

std::vector<QuantizedTensor> quantize_on_devices(const QuantizeFileOptions& o, const io::TensorFile& file,
                                                 std::span<const io::TensorInfo* const> tensors,
                                                 io::SafetensorsWriter& writer) {
  Flight flight = {o, file, tensors, writer, bytes_in_flight(o)};
  flight.first_failure = tensors.size();
  flight.words.resize(tensors.size());
  flight.summary.resize(tensors.size());
  flight.failures.resize(tensors.size());
  for (const io::TensorInfo* t : tensors) flight.total += static_cast<double>(t->elements());
  fly_all(flight);
  if (o.seconds) *o.seconds = flight.seconds;
  for (const std::vector<std::string>& words : flight.words) {
    for (const std::string& word : words) o.notice(word);
  }
  if (flight.first_failure < tensors.size()) std::rethrow_exception(flight.failures[flight.first_failure]);
  return flight.stopped() ? std::vector<QuantizedTensor>{} : std::move(flight.summary);
}

}  // namespace fp4scope::analysis
