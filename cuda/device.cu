#include <utility>

#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

namespace {

struct Found {
  std::vector<Device> devices;
  std::string why_none;
};

Found look() {
  Found found;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    found.why_none = error == cudaSuccess ? "no CUDA device" : cudaGetErrorString(error);
    cudaGetLastError();  // nothing of this search is left to be found later
    return found;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, i), "cudaGetDeviceProperties");
    found.devices.push_back(
        {p.name, p.major, p.minor, p.multiProcessorCount, p.l2CacheSize, static_cast<std::int64_t>(p.totalGlobalMem)});
  }
  return found;
}

const Found& found() {
  static const Found once = look();
  return once;
}

}  // namespace

const std::vector<Device>& devices() { return found().devices; }
const std::string& why_none() { return found().why_none; }

Memory::Memory(int device, std::int64_t bytes) : bytes_(bytes), device_(device) {
  select(device);
  check(cudaMalloc(&data_, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))), "device memory");
}
Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)), device_(other.device_) {}
Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  return *this;
}
Memory::~Memory() {
  if (!data_) return;
  cudaSetDevice(device_);
  cudaFree(data_);
}

HostMemory::HostMemory(std::int64_t bytes) : bytes_(bytes) {
  check(cudaMallocHost(&data_, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))), "page-locked memory");
}
HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
HostMemory::~HostMemory() {
  if (data_) cudaFreeHost(data_);
}

Stream::Stream(int device) : device_(device) {
  select(device);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  handle_ = stream;
  // Scratch memory stays in the pool: else every wait() would give it back to the driver.
  cudaMemPool_t pool = nullptr;
  std::uint64_t all = ~std::uint64_t{0};
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "cudaMemPoolSetAttribute");
}
Stream::~Stream() { cudaStreamDestroy(static_cast<cudaStream_t>(handle_)); }

void Stream::upload(void* to, const void* from_host, std::int64_t bytes) {
  select(device_);
  check(cudaMemcpyAsync(to, from_host, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice,
                        static_cast<cudaStream_t>(handle_)),
        "upload");
}
void Stream::download(void* to_host, const void* from, std::int64_t bytes) {
  select(device_);
  check(cudaMemcpyAsync(to_host, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost,
                        static_cast<cudaStream_t>(handle_)),
        "download");
}
void Stream::copy(void* to, const void* from, std::int64_t bytes) {
  select(device_);
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice,
                        static_cast<cudaStream_t>(handle_)),
        "copy");
}
void Stream::fill(void* to, int byte, std::int64_t bytes) {
  select(device_);
  check(cudaMemsetAsync(to, byte, static_cast<std::size_t>(bytes), static_cast<cudaStream_t>(handle_)), "fill");
}
void Stream::wait() {
  select(device_);
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(handle_)), "kernel");
}

Timer::Timer(Stream& stream) : stream_(stream) {
  select(stream.device());
  cudaEvent_t from = nullptr, to = nullptr;
  check(cudaEventCreate(&from), "cudaEventCreate");
  from_ = from;
  check(cudaEventCreate(&to), "cudaEventCreate");
  to_ = to;
}
Timer::~Timer() {
  cudaEventDestroy(static_cast<cudaEvent_t>(from_));
  if (to_) cudaEventDestroy(static_cast<cudaEvent_t>(to_));
}
void Timer::start() {
  check(cudaEventRecord(static_cast<cudaEvent_t>(from_), cuda::handle(stream_)), "cudaEventRecord");
}
void Timer::stop() { check(cudaEventRecord(static_cast<cudaEvent_t>(to_), cuda::handle(stream_)), "cudaEventRecord"); }
double Timer::seconds() {
  float milliseconds = 0;
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(to_)), "kernel");
  check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from_), static_cast<cudaEvent_t>(to_)),
        "cudaEventElapsedTime");
  return milliseconds * 1e-3;
}

}  // namespace fp4scope::cuda
