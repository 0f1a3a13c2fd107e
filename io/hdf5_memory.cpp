#include "io/hdf5_memory.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "formats/error.hpp"

namespace fp4scope::io {

Hdf5Memory::~Hdf5Memory() { std::free(data_); }

/// The driver's realloc. Its free is left out: the bytes are ours when the file is closed.
void* Hdf5Memory::grow(void* data, std::size_t size, H5FD_file_image_op_t, void* self) {
  void* const grown = std::realloc(data, size);
  if (grown == nullptr) return nullptr;
  auto* const memory = static_cast<Hdf5Memory*>(self);
  memory->data_ = static_cast<std::byte*>(grown);
  memory->size_ = size;
  return grown;
}

void Hdf5Memory::use_for(hid_t access) {
  constexpr std::size_t growth = std::size_t{1} << 20;
  H5FD_file_image_callbacks_t callbacks = {};
  callbacks.image_realloc = grow;
  callbacks.image_free = [](void*, H5FD_file_image_op_t, void*) -> herr_t { return 0; };
  callbacks.udata_copy = [](void* self) { return self; };
  callbacks.udata_free = [](void*) -> herr_t { return 0; };
  callbacks.udata = this;
  const bool done =
      H5Pset_fapl_core(access, growth, false) >= 0 && H5Pset_file_image_callbacks(access, &callbacks) >= 0;
  if (!done) throw Error("HDF5", "cannot build a file in memory", "is its core driver built in?");
}

std::span<const std::byte> Hdf5Memory::bytes() const {
  // The memory grows by whole steps. The file ends where its superblock says (HDF5 file format 3.0, II.A, versions 2
  // and 3: signature 8, version and sizes 4, base address 8, extension address 8, end of file address 8).
  constexpr std::size_t end_address = 28;
  if (size_ < end_address + sizeof(std::uint64_t)) return {};
  std::uint64_t end = 0;
  std::memcpy(&end, data_ + end_address, sizeof(end));
  return {data_, std::min<std::size_t>(end, size_)};
}

}  // namespace fp4scope::io
