# Everything but glibc statically: the compiler's libraries, OpenMP's, and fmt as headers.
if(FP4SCOPE_STATIC)
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libgomp.a OUTPUT_VARIABLE gomp OUTPUT_STRIP_TRAILING_WHITESPACE)
  set_target_properties(OpenMP::OpenMP_CXX PROPERTIES INTERFACE_LINK_LIBRARIES "${gomp};pthread")
  add_library(fp4scope_fmt ALIAS fmt::fmt-header-only)
else()
  add_library(fp4scope_fmt ALIAS fmt::fmt)
endif()
