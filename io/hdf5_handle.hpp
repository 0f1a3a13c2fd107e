// HDF5's C library with owners for its handles, Errors for its failures, and one user at a time.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>

#include "formats/error.hpp"

namespace fp4scope::io {

/// Held around any use of the library, which is not thread-safe; keeps it from printing its own error stack.
class Hdf5Session {
 public:
  Hdf5Session() : lock_(mutex()) {
    H5Eget_auto2(H5E_DEFAULT, &printer_, &printer_data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Hdf5Session() {
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, printer_, printer_data_);
  }
  Hdf5Session(const Hdf5Session&) = delete;
  Hdf5Session& operator=(const Hdf5Session&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex the_one;
    return the_one;
  }

  std::scoped_lock<std::mutex> lock_;
  H5E_auto2_t printer_ = nullptr;
  void* printer_data_ = nullptr;
};

/// Owns an identifier of any sort, and closes it.
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  explicit Hdf5Handle(hid_t id) : id_(id) {}
  ~Hdf5Handle() {
    if (id_ >= 0) H5Idec_ref(id_);
  }
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }

  operator hid_t() const { return id_; }  // NOLINT: every call of the library takes one
  bool valid() const { return id_ >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// An identifier or count that must not be negative.
template <typename T>
T hdf5_check(T result, const std::string& where, const char* what, const char* mend = "") {
  if (result < 0) throw Error(where, what, mend);
  return result;
}

}  // namespace fp4scope::io
