# Everything outside C and POSIX that mpiquant is built on, behind one interface target.
find_package(MPI REQUIRED COMPONENTS C)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
include(cmake/Libraries.cmake)

add_library(mq_dependencies INTERFACE)
target_link_libraries(mq_dependencies INTERFACE
  MPI::MPI_C Threads::Threads PkgConfig::cjson PkgConfig::xxhash PkgConfig::crypto
  PkgConfig::scalapack PkgConfig::hdf5 PkgConfig::openblas m)

# oneDNN's own CMake package asks for OpenCL on Debian, which its CPU engine does not need.
if(MQ_WITH_DNNL)
  find_path(MQ_DNNL_INCLUDE oneapi/dnnl/dnnl.h REQUIRED)
  find_library(MQ_DNNL_LIBRARY dnnl REQUIRED)
  find_library(MQ_GOMP_LIBRARY NAMES gomp libgomp.so.1 REQUIRED)
  target_include_directories(mq_dependencies SYSTEM INTERFACE ${MQ_DNNL_INCLUDE})
  target_link_libraries(mq_dependencies INTERFACE ${MQ_DNNL_LIBRARY} ${MQ_GOMP_LIBRARY})
  target_compile_definitions(mq_dependencies INTERFACE MQ_WITH_DNNL)
endif()
target_compile_definitions(mq_dependencies INTERFACE
  MQ_SCALAPACK_VERSION="${scalapack_VERSION}")
