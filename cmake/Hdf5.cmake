# HDF5's serial C library, as fp4scope_hdf5. Debian and Ubuntu name it hdf5-serial, others hdf5.
pkg_search_module(HDF5 REQUIRED hdf5-serial hdf5)
add_library(fp4scope_hdf5 INTERFACE)
target_include_directories(fp4scope_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_directories(fp4scope_hdf5 INTERFACE ${HDF5_LIBRARY_DIRS})
target_link_libraries(fp4scope_hdf5 INTERFACE ${HDF5_LIBRARIES})
