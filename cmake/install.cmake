# The C++ package: a shared library, public headers and find_package(ArrowQuant).
include(CMakePackageConfigHelpers)

add_library(arrow_quant SHARED $<TARGET_OBJECTS:arrow_quant_objects>)
add_library(ArrowQuant::arrow_quant ALIAS arrow_quant)
target_include_directories(
  arrow_quant PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                     $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(arrow_quant PUBLIC cxx_std_20)
target_link_libraries(arrow_quant PRIVATE ArrowQuant::arrow ArrowQuant::parquet
                                          ArrowQuant::openblas hwy::hwy Threads::Threads)
if(OpenMP_CXX_FOUND)
  target_link_libraries(arrow_quant PRIVATE OpenMP::OpenMP_CXX)
endif()
set_target_properties(
  arrow_quant PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
                         INSTALL_RPATH "${ARROW_QUANT_ARROW_LIBDIR};${ARROW_QUANT_OPENBLAS_LIBDIR}")

install(TARGETS arrow_quant EXPORT ArrowQuantTargets)
install(DIRECTORY include/arrow_quant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(
  EXPORT ArrowQuantTargets
  NAMESPACE ArrowQuant::
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ArrowQuant)
configure_package_config_file(
  cmake/ArrowQuantConfig.cmake.in ${PROJECT_BINARY_DIR}/ArrowQuantConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ArrowQuant)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ArrowQuantConfigVersion.cmake
                                 COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ArrowQuantConfig.cmake
              ${PROJECT_BINARY_DIR}/ArrowQuantConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ArrowQuant)
