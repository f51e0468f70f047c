# The C libraries that come with a pkg-config file. Used by the build, and installed for programs
# that link the static library through find_package(mpiquant).
pkg_check_modules(cjson REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(crypto REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(openblas REQUIRED IMPORTED_TARGET openblas)
pkg_search_module(scalapack REQUIRED IMPORTED_TARGET scalapack-openmpi scalapack)
pkg_search_module(hdf5 REQUIRED IMPORTED_TARGET hdf5-openmpi hdf5-mpi)
