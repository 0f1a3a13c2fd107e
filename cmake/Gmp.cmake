# GMP with its C++ interface, which brings no CMake package.
pkg_check_modules(GMPXX REQUIRED gmpxx gmp)
add_library(fp4scope_gmp INTERFACE)
if(FP4SCOPE_STATIC)
  target_link_libraries(fp4scope_gmp INTERFACE -l:libgmpxx.a -l:libgmp.a)
else()
  target_link_libraries(fp4scope_gmp INTERFACE gmpxx gmp)
endif()
