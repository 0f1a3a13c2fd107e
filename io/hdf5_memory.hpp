// An HDF5 file that is built in memory, so that it can be written like any other file: a full disk is then met by our
// own write(), not by a library that keeps the file, tries again and complains at exit.
#pragma once

#include <hdf5.h>

#include <cstddef>
#include <span>

namespace fp4scope::io {

/// The memory behind HDF5's core driver, which owns it no longer than the file is open. Outlives the file's handle.
/// (H5Fget_file_image would do, but HDF5 1.10 gives it a superblock with a wrong checksum in the formats of 1.8 and
/// on.)
class Hdf5Memory {
 public:
  Hdf5Memory() = default;
  ~Hdf5Memory();
  Hdf5Memory(const Hdf5Memory&) = delete;
  Hdf5Memory& operator=(const Hdf5Memory&) = delete;

  /// Files created with this access list live here.
  void use_for(hid_t access);

  /// The file, once it is closed; empty if there was none.
  std::span<const std::byte> bytes() const;

 private:
  static void* grow(void* data, std::size_t size, H5FD_file_image_op_t operation, void* self);

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fp4scope::io
