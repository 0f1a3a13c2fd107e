// cuda.hpp where there is no nvcc: no devices, and nothing that could be asked of them.
#include "cuda/cuda.hpp"
#include "formats/error.hpp"

namespace fp4scope::cuda {

namespace {
[[noreturn]] void refuse() { throw Error("cuda", why_none()); }
}  // namespace

const std::vector<Device>& devices() {
  static const std::vector<Device> none;
  return none;
}
const std::string& why_none() {
  static const std::string why = "this program was built without nvcc";
  return why;
}

Memory::Memory(int, std::int64_t) { refuse(); }
Memory::Memory(Memory&&) noexcept = default;
Memory& Memory::operator=(Memory&&) noexcept = default;
Memory::~Memory() = default;
HostMemory::HostMemory(std::int64_t) { refuse(); }
HostMemory::HostMemory(HostMemory&&) noexcept = default;
HostMemory& HostMemory::operator=(HostMemory&&) noexcept = default;
HostMemory::~HostMemory() = default;
Stream::Stream(int) { refuse(); }
Stream::~Stream() = default;
void Stream::upload(void*, const void*, std::int64_t) { refuse(); }
void Stream::download(void*, const void*, std::int64_t) { refuse(); }
void Stream::copy(void*, const void*, std::int64_t) { refuse(); }
void Stream::fill(void*, int, std::int64_t) { refuse(); }
void Stream::wait() { refuse(); }
Timer::Timer(Stream& stream) : stream_(stream) { refuse(); }
Timer::~Timer() = default;
void Timer::start() { refuse(); }
void Timer::stop() { refuse(); }
double Timer::seconds() { refuse(); }

void find_extremes(Stream&, Type, const void*, std::int64_t, Extremes*) { refuse(); }
void find_tensor_scale(Stream&, Type, const void*, std::int64_t, double, double, Extremes*, float*) { refuse(); }
bool serves(const search::SearchTask&) { return false; }
void quantize(Stream&, const search::SearchTask&, const Matrix&, std::uint8_t*, std::uint8_t*, const float*) {
  refuse();
}
void quantize_plain(Stream&, const search::SearchTask&, const Matrix&, std::uint8_t*, std::uint8_t*, const float*) {
  refuse();
}

void quantize_recipe(Stream&, const search::RecipeTask&, int, int, const Matrix&, std::uint8_t*, std::uint8_t*) {
  refuse();
}
void quantize_recipe_plain(Stream&, const search::RecipeTask&, int, int, const Matrix&, std::uint8_t*, std::uint8_t*) {
  refuse();
}

DeviceHessians::DeviceHessians(Stream&, const search::Hessians&) : parts_(nullptr) { refuse(); }
DeviceHessians::~DeviceHessians() = default;
bool serves_hessian(const search::SearchTask&) { return false; }
void quantize_hessian(Stream&, const search::SearchTask&, const DeviceHessians&, const Matrix&, std::uint8_t*,
                      std::uint8_t*, const float*, search::SearchCount*, HessianStages*) {
  refuse();
}
void quantize_hessian_plain(Stream&, const search::SearchTask&, const DeviceHessians&, const Matrix&, std::uint8_t*,
                            std::uint8_t*, const float*) {
  refuse();
}

void encode(Stream&, const ElementTask&, const Matrix&, const std::uint8_t*, std::uint8_t*) { refuse(); }
void dequantize(Stream&, const ElementTask&, std::int64_t, std::int64_t, const std::uint8_t*, const std::uint8_t*, Type,
                void*) {
  refuse();
}
void rotate(Stream&, int, const std::int8_t*, sim::HadamardArithmetic, bool, const Matrix&, float*) { refuse(); }
void encode_values(Stream&, const formats::Format&, formats::Rounding, formats::Overflow, const float*, std::int64_t,
                   const std::uint32_t*, void*) {
  refuse();
}
void convert_values(Stream&, const sim::Converter&, formats::Rounding, formats::Overflow, const float*, std::int64_t,
                    const std::uint32_t*, void*) {
  refuse();
}
void decode_values(Stream&, const formats::Format&, const void*, std::int64_t, float*) { refuse(); }

void sum_errors(Stream&, const SumTask&, const Matrix&, const std::uint8_t*, const std::uint8_t*, RowSums*,
                std::uint64_t*) {
  refuse();
}
void count_second(Stream&, const search::SearchTask&, const Matrix&, const std::uint8_t*, std::uint64_t*) { refuse(); }
void count_second(Stream&, const search::RecipeTask&, int, int, const Matrix&, const std::uint8_t*, std::uint64_t*) {
  refuse();
}

void probe(Stream&, Instruction, const float*, const float*, std::int64_t, float*) { refuse(); }
std::string why_no_mma(int, const sim::Instruction&) { return why_none(); }
void mma(Stream&, const sim::Instruction&, const MmaSets&) { refuse(); }

}  // namespace fp4scope::cuda
