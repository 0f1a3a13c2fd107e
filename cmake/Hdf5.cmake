# HDF5's serial C library, as fp4scope_hdf5. Static: with the libraries that Debian's archive itself needs.
set(HDF5_USE_STATIC_LIBRARIES ${FP4SCOPE_STATIC})
find_package(HDF5 REQUIRED COMPONENTS C)
add_library(fp4scope_hdf5 INTERFACE)
target_include_directories(fp4scope_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_libraries(fp4scope_hdf5 INTERFACE ${HDF5_LIBRARIES})
