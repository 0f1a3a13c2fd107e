# GMP (and MPFR for the tests), which bring no CMake package.
pkg_check_modules(GMP REQUIRED IMPORTED_TARGET gmp)
if(FP4SCOPE_TESTS)
  pkg_check_modules(MPFR REQUIRED IMPORTED_TARGET mpfr)
endif()
