# cmake --install: the program, the library, its headers, the data, the documents, and how other
# programs find the library: a pkg-config file and a CMake package.
include(CMakePackageConfigHelpers)
set(mq_cmake_folder ${CMAKE_INSTALL_LIBDIR}/cmake/mpiquant)

install(TARGETS mpiquant_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(PROGRAMS tools/mpiquant-calib tools/mpiquant-calib-multimodal
        DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/mpiquant)
install(DIRECTORY jobs DESTINATION ${CMAKE_INSTALL_DATADIR}/mpiquant USE_SOURCE_PERMISSIONS)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES README.md CHANGELOG.md LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(DIRECTORY include/mpiquant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# A static library hands its own libraries on to whoever links it, so they are exported with it.
install(TARGETS mpiquant mq_flags mq_dependencies EXPORT mpiquantTargets)
install(EXPORT mpiquantTargets NAMESPACE mpiquant:: DESTINATION ${mq_cmake_folder})
configure_package_config_file(cmake/mpiquantConfig.cmake.in
  ${PROJECT_BINARY_DIR}/mpiquantConfig.cmake INSTALL_DESTINATION ${mq_cmake_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mpiquantConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/mpiquantConfig.cmake
  ${PROJECT_BINARY_DIR}/mpiquantConfigVersion.cmake cmake/Libraries.cmake
  DESTINATION ${mq_cmake_folder})

set(mq_pc_requires
  "libcjson libxxhash libcrypto openblas ${scalapack_MODULE_NAME} ${hdf5_MODULE_NAME}")
set(mq_pc_libs "${MQ_DNNL_LIBRARY} ${MQ_GOMP_LIBRARY} -lpthread -lm")
if(NOT MQ_WITH_DNNL)
  set(mq_pc_libs "-lpthread -lm")
endif()
# Relative, so that the file stays true under `cmake --install --prefix`.
file(RELATIVE_PATH mq_pc_up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/mpiquant.pc.in ${PROJECT_BINARY_DIR}/mpiquant.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/mpiquant.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
