# Every third-party pin of the C++ side, and nowhere else. System packages come first; the fallback
# is a checkout of one exact commit.
include(FetchContent)
find_package(Threads REQUIRED)
find_package(OpenMP COMPONENTS CXX) # of the compiler; without it the run time uses one thread

# --- Arrow and Parquet --------------------------------------------------------------------------
# The Python extension must share the pyarrow wheel's libraries. A plain C++ build prefers a system
# Arrow and falls back to the wheel of the Python it finds.
set(ARROW_QUANT_PYARROW_SERIES 26.0) # also in pyproject.toml; cmake refuses any other

if(NOT ARROW_QUANT_BUILD_PYTHON)
  find_package(Arrow CONFIG QUIET)
  find_package(Parquet CONFIG QUIET)
endif()

if(TARGET Parquet::parquet_shared AND NOT ARROW_QUANT_BUILD_PYTHON)
  add_library(ArrowQuant::arrow ALIAS Arrow::arrow_shared)
  add_library(ArrowQuant::parquet ALIAS Parquet::parquet_shared)
else()
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND
      "${Python_EXECUTABLE}" -c
      "import pyarrow as p; print(p.__version__, p.get_include(), p.get_library_dirs()[0], sep=';')"
    OUTPUT_VARIABLE pyarrow_facts
    OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE pyarrow_missing ERROR_QUIET)
  if(pyarrow_missing)
    message(FATAL_ERROR "No Arrow C++ found and no pyarrow in ${Python_EXECUTABLE}. Install it: "
                        "pip install 'pyarrow==${ARROW_QUANT_PYARROW_SERIES}.*'")
  endif()
  list(GET pyarrow_facts 0 pyarrow_version)
  list(GET pyarrow_facts 1 pyarrow_include)
  list(GET pyarrow_facts 2 ARROW_QUANT_ARROW_LIBDIR)
  if(NOT pyarrow_version MATCHES "^${ARROW_QUANT_PYARROW_SERIES}[.]")
    message(FATAL_ERROR "pyarrow ${pyarrow_version} found, ${ARROW_QUANT_PYARROW_SERIES}.* needed")
  endif()
  foreach(library arrow parquet)
    file(GLOB library_file "${ARROW_QUANT_ARROW_LIBDIR}/lib${library}.so.*00"
         "${ARROW_QUANT_ARROW_LIBDIR}/lib${library}.*00.dylib")
    add_library(ArrowQuant::${library} SHARED IMPORTED)
    set_target_properties(
      ArrowQuant::${library} PROPERTIES IMPORTED_LOCATION "${library_file}"
                                        INTERFACE_INCLUDE_DIRECTORIES "${pyarrow_include}")
  endforeach()
endif()

# --- OpenBLAS -----------------------------------------------------------------------------------
# As with Arrow: the Python extension shares the library of a wheel, scipy-openblas32; a plain C++
# build prefers a system OpenBLAS and falls back to the wheel. The wheel's symbols have a prefix.
set(ARROW_QUANT_OPENBLAS_LEAST 0.3.30) # also in pyproject.toml

if(NOT ARROW_QUANT_BUILD_PYTHON)
  find_library(OPENBLAS_LIBRARY openblas PATH_SUFFIXES openblas-pthread openblas)
  find_path(OPENBLAS_INCLUDE_DIR openblas_config.h PATH_SUFFIXES openblas-pthread openblas)
  mark_as_advanced(OPENBLAS_LIBRARY OPENBLAS_INCLUDE_DIR)
endif()

add_library(ArrowQuant::openblas SHARED IMPORTED)
if(OPENBLAS_LIBRARY AND OPENBLAS_INCLUDE_DIR)
  set_target_properties(
    ArrowQuant::openblas PROPERTIES IMPORTED_LOCATION "${OPENBLAS_LIBRARY}"
                                    INTERFACE_INCLUDE_DIRECTORIES "${OPENBLAS_INCLUDE_DIR}")
else()
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND
      "${Python_EXECUTABLE}" -c
      "import scipy_openblas32 as b; print(b.__version__, b.get_include_dir(), b.get_lib_dir(), \
b.get_library(fullname=True), sep=';')"
    OUTPUT_VARIABLE openblas_facts
    OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE openblas_missing ERROR_QUIET)
  if(openblas_missing)
    message(FATAL_ERROR "No OpenBLAS found and no scipy_openblas32 in ${Python_EXECUTABLE}. Install "
                        "libopenblas-dev, or: pip install scipy-openblas32")
  endif()
  list(GET openblas_facts 0 openblas_version)
  list(GET openblas_facts 1 openblas_include)
  list(GET openblas_facts 2 ARROW_QUANT_OPENBLAS_LIBDIR)
  list(GET openblas_facts 3 openblas_file)
  if(openblas_version VERSION_LESS ARROW_QUANT_OPENBLAS_LEAST)
    message(FATAL_ERROR "scipy-openblas32 ${openblas_version} found, "
                        "${ARROW_QUANT_OPENBLAS_LEAST} or later needed")
  endif()
  set_target_properties(
    ArrowQuant::openblas
    PROPERTIES IMPORTED_LOCATION "${ARROW_QUANT_OPENBLAS_LIBDIR}/${openblas_file}"
               INTERFACE_INCLUDE_DIRECTORIES "${openblas_include}"
               INTERFACE_COMPILE_DEFINITIONS ARROW_QUANT_BLAS_PREFIX=scipy_)
endif()

# --- Header libraries and Highway ---------------------------------------------------------------
# aq_checkout(name repository commit): make the sources of one exact commit available.
function(aq_checkout name repository commit)
  message(STATUS "${name}: no system package, using commit ${commit} of ${repository}")
  FetchContent_Declare(${name} GIT_REPOSITORY ${repository} GIT_TAG ${commit} SYSTEM)
  FetchContent_MakeAvailable(${name})
  set(${name}_SOURCE_DIR "${${name}_SOURCE_DIR}" PARENT_SCOPE)
endfunction()

# Highway 1.0.3 or later: SIMD with run-time dispatch.
find_package(hwy CONFIG QUIET)
if(NOT TARGET hwy::hwy)
  set(HWY_ENABLE_TESTS OFF)
  set(HWY_ENABLE_EXAMPLES OFF)
  set(HWY_ENABLE_CONTRIB OFF)
  set(HWY_ENABLE_INSTALL OFF)
  aq_checkout(highway https://github.com/google/highway.git 457c891775a7397bdb0376bb1031e6e027af1c48) # 1.2.0
  add_library(hwy::hwy ALIAS hwy)
endif()

# nlohmann_json 3.11 or later: strict JSON through its SAX interface.
find_package(nlohmann_json 3.11 CONFIG QUIET)
if(NOT TARGET nlohmann_json::nlohmann_json)
  set(JSON_BuildTests OFF)
  aq_checkout(json https://github.com/nlohmann/json.git bc889afb4c5bf1c0d8ee29ef35eaaf4c8bef8a5d) # 3.11.2
endif()

# xxHash 0.8 or later, as headers only.
add_library(ArrowQuant::xxhash INTERFACE IMPORTED)
find_path(XXHASH_INCLUDE_DIR xxhash.h)
if(NOT XXHASH_INCLUDE_DIR)
  aq_checkout(xxhash https://github.com/Cyan4973/xxHash.git 35b0373c697b5f160d3db26b1cbb45a0d5ba788c) # 0.8.1
  set(XXHASH_INCLUDE_DIR "${xxhash_SOURCE_DIR}")
endif()
target_include_directories(ArrowQuant::xxhash SYSTEM INTERFACE "${XXHASH_INCLUDE_DIR}")

# GoogleTest and GoogleMock 1.12 or later, only for the tests. Debian has each in a package of its
# own; where one is missing, both are built here, since the two must be of one version.
if(ARROW_QUANT_BUILD_TESTS)
  find_path(GMOCK_INCLUDE_DIR gmock/gmock.h)
  if(GMOCK_INCLUDE_DIR)
    find_package(GTest CONFIG QUIET)
  endif()
  if(NOT TARGET GTest::gmock)
    set(INSTALL_GTEST OFF)
    aq_checkout(googletest https://github.com/google/googletest.git 58d77fa8070e8cec2dc1ed015d66b454c8d78850) # 1.12.1
  endif()
endif()
