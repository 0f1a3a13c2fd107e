# HDF5's serial C library, as fp4scope_hdf5. Debian and Ubuntu name it hdf5-serial, others hdf5.
pkg_search_module(HDF5 REQUIRED hdf5-serial hdf5)
add_library(fp4scope_hdf5 INTERFACE)
# One interface whatever the version: Debian 12 has 1.10, newer systems 1.14.
target_compile_definitions(fp4scope_hdf5 INTERFACE H5_USE_110_API)
target_include_directories(fp4scope_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
if(FP4SCOPE_STATIC)
  # Debian's archive holds the S3 driver, which asks for libcurl and libcrypto; hdf5_without_s3.cpp answers instead.
  find_library(HDF5_ARCHIVE libhdf5.a PATHS ${HDF5_LIBRARY_DIRS} REQUIRED)
  add_library(hdf5_without_s3 STATIC cmake/hdf5_without_s3.cpp)
  target_link_libraries(fp4scope_hdf5 INTERFACE ${HDF5_ARCHIVE} hdf5_without_s3 -l:libsz.a -l:libaec.a -l:libz.a dl m)
else()
  target_link_directories(fp4scope_hdf5 INTERFACE ${HDF5_LIBRARY_DIRS})
  target_link_libraries(fp4scope_hdf5 INTERFACE ${HDF5_LIBRARIES})
endif()
