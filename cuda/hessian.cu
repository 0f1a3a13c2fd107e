// The Hessian search's stages in their order; hessian.cuh has what each decides.
#include "cuda/hessian.cuh"

namespace fp4scope::cuda {

namespace {

/// The space, with the device's tensor scale where there is one.
__global__ void space_kernel(search::SearchSpace space, const float* tensor_scale, search::SearchSpace* out) {
  if (tensor_scale) space.tensor_scale = *tensor_scale;
  static_assert(sizeof(search::SearchSpace) % 4 == 0);
  const auto* const from = reinterpret_cast<const std::uint32_t*>(&space);
  auto* const to = reinterpret_cast<std::uint32_t*>(out);
  for (unsigned i = threadIdx.x; i < sizeof(search::SearchSpace) / 4; i += blockDim.x) to[i] = from[i];
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
  std::vector<std::int64_t> column(size);
  std::vector<float> x(size * static_cast<std::size_t>(device.n));
  search::SearchTask with_scale = task;
  const Scratch values(stream, number * device.n * 4), codes(stream, number);
  gather_listed_kernel<<<grid_of(number * device.n, 256), 256, 0, handle(stream)>>>(device, number,
                                                                                    values.as<float>());
  check_launch("gather listed");
  double tensor_scale = 0;
  stream.download(x.data(), values.as<void>(), number * device.n * 4);
  stream.download(column.data(), device.host, number * 8);
  stream.download(&tensor_scale, &device.space->tensor_scale, 8);
  stream.wait();
  with_scale.tensor_scale = static_cast<float>(tensor_scale);
  for (std::int64_t& b : column) b %= device.per_row;
  const std::vector<std::uint8_t> decided = decide_on_host(with_scale, x, column, count);
  stream.upload(codes.as<void>(), decided.data(), number);
  write_listed_kernel<<<grid_of(number, 4), 128, 0, handle(stream)>>>(device, number, values.as<float>(),
                                                                      codes.as<std::uint8_t>());
  check_launch("write listed");
  stream.wait();
}

void quantize_in_stages(Stream& stream, const search::SearchTask& task, const DeviceHessians::Parts& parts,
                        const Matrix& matrix, std::uint8_t* scales, std::uint8_t* packed, const float* tensor_scale,
                        bool filtered, search::SearchCount* count, HessianStages* stages) {
  select(stream.device());
  const std::int64_t per_row = (matrix.cols + task.block - 1) / task.block, blocks = matrix.rows * per_row;
  if (stages) *stages = {blocks, 0, 0, 0};
  if (blocks == 0) return;
  const Scratch space(stream, sizeof(search::SearchSpace)), counts(stream, sizeof(ListCounts));
  const Scratch few(stream, filtered ? blocks * static_cast<std::int64_t>(sizeof(Listed)) : 0);
  const Scratch all(stream, filtered ? blocks * 8 : 0), host(stream, blocks * 8);
  const HessianTask device = {task.format->element, matrix.type, matrix.x, matrix.rows, matrix.cols, per_row,
                              task.block, parts.h.as<double>(), parts.envelope.as<double>(),
                              space.as<search::SearchSpace>(), scales, packed, few.as<Listed>(),
                              all.as<std::int64_t>(), host.as<std::int64_t>(), counts.as<ListCounts>()};
  stream.fill(counts.as<void>(), 0, sizeof(ListCounts));
  space_kernel<<<1, 256, 0, handle(stream)>>>(search::make_space(*task.format, task.tensor_scale, task.method->rule),
                                              tensor_scale, space.as<search::SearchSpace>());
  check_launch("space");
  if (filtered) {
    filter_hessian(stream, task, parts, device);
    decide_few(stream, device);
  }
  decide_all(stream, device, filtered ? device.all : nullptr, blocks);
  ListCounts found = {};
  stream.download(&found, counts.as<void>(), sizeof found);
  stream.wait();
  search::SearchCount sum = {};
  sum.candidates = static_cast<std::int64_t>(found.candidates), sum.wide = static_cast<std::int64_t>(found.wide);
  if (found.host > 0) finish_on_host(stream, task, device, static_cast<std::int64_t>(found.host), sum);
  if (count) count->candidates += sum.candidates, count->exact += sum.exact, count->wide += sum.wide;
  if (stages) {
    *stages = {blocks, static_cast<std::int64_t>(found.few),
               filtered ? static_cast<std::int64_t>(found.all) : blocks, static_cast<std::int64_t>(found.host)};
  }
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
