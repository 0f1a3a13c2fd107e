# Highway (SIMD). Debian has it as a shared library alone; all that is used of it beside headers is the choice of the
# instruction set, which cmake/hwy_targets.cpp makes where nothing but glibc may be needed.
pkg_check_modules(HWY REQUIRED libhwy)
add_library(fp4scope_hwy INTERFACE)
if(FP4SCOPE_STATIC)
  add_library(fp4scope_hwy_targets STATIC cmake/hwy_targets.cpp)
  target_link_libraries(fp4scope_hwy INTERFACE fp4scope_hwy_targets)
else()
  target_link_libraries(fp4scope_hwy INTERFACE ${HWY_LINK_LIBRARIES})
endif()
