# MPFR, which brings no CMake package; for the tests' oracles alone.
pkg_check_modules(MPFR REQUIRED mpfr)
add_library(fp4scope_mpfr INTERFACE)
target_link_libraries(fp4scope_mpfr INTERFACE mpfr gmp)
