// The Hessian search's stages in their order; hessian.cuh has what each decides.
#include <utility>

#include "cuda/hessian.cuh"

namespace fp4scope::cuda {

namespace {

/// Puts the space into device memory, with the device's tensor scale where there is one, and empties the lists.
__global__ void space_kernel(const __grid_constant__ search::SearchSpace space, const float* tensor_scale,
                             search::SearchSpace* out, ListCounts* counts) {
  static_assert(sizeof(search::SearchSpace) % 4 == 0);
  const auto* const from = reinterpret_cast<const std::uint32_t*>(&space);
  auto* const to = reinterpret_cast<std::uint32_t*>(out);
  for (unsigned i = threadIdx.x; i < sizeof(search::SearchSpace) / 4; i += blockDim.x) to[i] = from[i];
  __syncthreads();
  if (threadIdx.x > 0) return;
  if (tensor_scale) out->tensor_scale = *tensor_scale;
  *counts = {};
}

__global__ void gather_listed_kernel(HessianTask task, std::int64_t number, float* x) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < number * task.n) x[i] = task.value(task.host[i / task.n], static_cast<int>(i % task.n));
}

__global__ void write_listed_kernel(HessianTask task, std::int64_t number, const float* x, const std::uint8_t* codes) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (at < number) write_block(task, task.host[at], x + at * task.n, codes[at], static_cast<int>(threadIdx.x % 32));
}

/// Blocks that the device left: their values come to the host, their codes go back.
void finish_on_host(Stream& stream, const search::SearchTask& task, const HessianTask& device, std::int64_t number,
                    search::SearchCount& count) {
  const auto size = static_cast<std::size_t>(number);
  std::vector<std::uint32_t> listed(size);
  std::vector<std::int64_t> column(size);
  std::vector<float> x(size * static_cast<std::size_t>(device.n));
  search::SearchTask with_scale = task;
  const Scratch values(stream, number * device.n * 4), codes(stream, number);
  gather_listed_kernel<<<grid_of(number * device.n, 256), 256, 0, handle(stream)>>>(device, number,
                                                                                    values.as<float>());
  check_launch("gather listed");
  double tensor_scale = 0;
  stream.download(x.data(), values.as<void>(), number * device.n * 4);
  stream.download(listed.data(), device.host, number * 4);
  stream.download(&tensor_scale, &device.space->tensor_scale, 8);
  stream.wait();
  with_scale.tensor_scale = static_cast<float>(tensor_scale);
  for (std::size_t i = 0; i < size; ++i) column[i] = listed[i] % device.per_row;
  const std::vector<std::uint8_t> decided = decide_on_host(with_scale, x, column, count);
  stream.upload(codes.as<void>(), decided.data(), number);
  write_listed_kernel<<<grid_of(number, 4), 128, 0, handle(stream)>>>(device, number, values.as<float>(),
                                                                      codes.as<std::uint8_t>());
  check_launch("write listed");
  stream.wait();
}

/// Blocks at a time: lists of 20 bytes each.
constexpr std::int64_t most_blocks = std::int64_t{1} << 24;

/// Lists for so many blocks, and what else the stages need, in memory that the next call uses again.
HessianTask with_room(Stream& stream, DeviceHessians::Parts& parts, std::int64_t blocks) {
  constexpr std::int64_t space = (sizeof(search::SearchSpace) + 255) / 256 * 256, counts = 256;
  const std::int64_t lists = blocks * static_cast<std::int64_t>(sizeof(Listed) + 2 * sizeof(std::uint32_t));
  const std::int64_t bytes = counts + space + room_of_filter + lists;
  if (parts.room.bytes() < bytes) parts.room = Memory(stream.device(), bytes);
  auto* next = parts.room.as<unsigned char>();
  const auto take = [&](std::int64_t size) { return std::exchange(next, next + size); };
  HessianTask task = {};
  task.counts = reinterpret_cast<ListCounts*>(take(counts));
  task.space = reinterpret_cast<search::SearchSpace*>(take(space));
  task.filter_room = take(room_of_filter);
  task.all = reinterpret_cast<std::uint32_t*>(take(4 * blocks));
  task.host = reinterpret_cast<std::uint32_t*>(take(4 * blocks));
  task.few = reinterpret_cast<Listed*>(take(0));
  return task;
}

HessianTask make_device_task(Stream& stream, const search::SearchTask& task, DeviceHessians::Parts& parts,
                             const Matrix& matrix, std::uint8_t* scales, std::uint8_t* packed) {
  const std::int64_t per_row = (matrix.cols + task.block - 1) / task.block;
  HessianTask device = with_room(stream, parts, matrix.rows * per_row);
  device.element = task.format->element;
  device.type = matrix.type, device.x = matrix.x;
  device.rows = matrix.rows, device.cols = matrix.cols, device.per_row = per_row, device.n = task.block;
  device.h = parts.h.as<double>(), device.envelope = parts.envelope.as<double>();
  device.scales = scales, device.packed = packed;
  return device;
}

struct Counts {
  search::SearchCount search;
  HessianStages stages;
};

/// Rows of at most most_blocks blocks.
void quantize_rows(Stream& stream, const search::SearchTask& task, DeviceHessians::Parts& parts, const Matrix& matrix,
                   std::uint8_t* scales, std::uint8_t* packed, const float* tensor_scale, bool filtered, Counts& counts) {
  const std::int64_t blocks = matrix.rows * ((matrix.cols + task.block - 1) / task.block);
  const HessianTask device = make_device_task(stream, task, parts, matrix, scales, packed);
  space_kernel<<<1, 256, 0, handle(stream)>>>(search::make_space(*task.format, task.tensor_scale, task.method->rule),
                                              tensor_scale, const_cast<search::SearchSpace*>(device.space),
                                              device.counts);
  check_launch("space");
  if (filtered) {
    filter_hessian(stream, task, parts, device);
    decide_few(stream, device);
  }
  decide_all(stream, device, filtered ? device.all : nullptr, blocks);
  auto& found = *parts.counts.as<ListCounts>();
  stream.download(&found, device.counts, sizeof found);
  stream.wait();
  const auto host = static_cast<std::int64_t>(found.host);
  counts.search.candidates += static_cast<std::int64_t>(found.candidates);
  counts.search.wide += static_cast<std::int64_t>(found.wide);
  if (host > 0) finish_on_host(stream, task, device, host, counts.search);
  HessianStages& stages = counts.stages;
  stages.blocks += blocks, stages.few += static_cast<std::int64_t>(found.few), stages.host += host;
  stages.all += filtered ? static_cast<std::int64_t>(found.all) : blocks;
}

void quantize_in_stages(Stream& stream, const search::SearchTask& task, DeviceHessians::Parts& parts,
                        const Matrix& matrix, std::uint8_t* scales, std::uint8_t* packed, const float* tensor_scale,
                        bool filtered, search::SearchCount* count, HessianStages* stages) {
  select(stream.device());
  const std::int64_t per_row = (matrix.cols + task.block - 1) / task.block;
  const std::int64_t rows = std::max<std::int64_t>(1, most_blocks / std::max<std::int64_t>(1, per_row));
  Counts counts = {};
  for (std::int64_t first = 0; first < matrix.rows && per_row > 0; first += rows) {
    const Matrix some = {matrix.type, static_cast<const unsigned char*>(matrix.x) + first * matrix.cols * width(matrix.type),
                         std::min(rows, matrix.rows - first), matrix.cols};
    quantize_rows(stream, task, parts, some, scales + first * per_row, packed + first * per_row * task.block / 2,
                  tensor_scale, filtered, counts);
  }
  if (count) {
    count->candidates += counts.search.candidates, count->exact += counts.search.exact;
    count->wide += counts.search.wide;
  }
  if (stages) *stages = counts.stages;
}

template <class T>
Memory uploaded(Stream& stream, const std::vector<T>& values) {
  Memory memory(stream.device(), static_cast<std::int64_t>(values.size() * sizeof(T)));
  stream.upload(memory.as<void>(), values.data(), memory.bytes());
  stream.wait();
  return memory;
}

}  // namespace

DeviceHessians::DeviceHessians(Stream& stream, const search::Hessians& hessians) : parts_(nullptr) {
  Parts parts = {};
  parts.block = hessians.block;
  parts.columns = static_cast<std::int64_t>(hessians.count());
  parts.tiles = hessians.block <= 16 ? 1 : hessians.block <= 32 ? 2 : 0;
  parts.h = uploaded(stream, hessians.h);
  parts.envelope = uploaded(stream, hessians.envelope);
  if (parts.tiles == 1) parts.filters = uploaded(stream, pack_filters<1>(hessians));
  if (parts.tiles == 2) parts.filters = uploaded(stream, pack_filters<2>(hessians));
  parts.counts = HostMemory(sizeof(ListCounts));
  parts_ = new Parts(std::move(parts));
}

DeviceHessians::~DeviceHessians() { delete parts_; }

bool serves_hessian(const search::SearchTask& task) {
  return task.method->kind == search::MethodKind::hessian && task.tile_rows == 1 && task.block % 2 == 0 &&
         task.block <= search::max_filter_block && task.format->element.bits <= 4 && !task.format->selects();
}

void quantize_hessian(Stream& stream, const search::SearchTask& task, const DeviceHessians& hessians,
                      const Matrix& matrix, std::uint8_t* scales, std::uint8_t* packed, const float* tensor_scale,
                      search::SearchCount* count, HessianStages* stages) {
  quantize_in_stages(stream, task, hessians.parts(), matrix, scales, packed, tensor_scale, has_filter_kernel(task),
                     count, stages);
}

void quantize_hessian_plain(Stream& stream, const search::SearchTask& task, const DeviceHessians& hessians,
                            const Matrix& matrix, std::uint8_t* scales, std::uint8_t* packed,
                            const float* tensor_scale) {
  quantize_in_stages(stream, task, hessians.parts(), matrix, scales, packed, tensor_scale, false, nullptr, nullptr);
}

}  // namespace fp4scope::cuda
