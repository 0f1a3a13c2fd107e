// FP4SCOPE_HD marks the functions that g++, clang, static_assert and every GPU thread evaluate alike.
// They are constexpr and noexcept, take scalars and plain pointers, and use no run-time library.
// Device code copies a row of data before it names it (`constexpr Format f = e2m1;`): nvcc has no namespace-scope
// constants of class type there.
#pragma once

#ifdef __CUDACC__
#define FP4SCOPE_HD __host__ __device__
#else
#define FP4SCOPE_HD
#endif
