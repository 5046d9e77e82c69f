# Warnings for our own sources only; third-party headers are system includes.
add_library(arrow_quant_warnings INTERFACE)
target_compile_options(arrow_quant_warnings INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
                                                      -Wold-style-cast -Woverloaded-virtual
                                                      -Wno-missing-field-initializers
                                                      # False alarms of g++ 12 in string concatenation.
                                                      $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
option(ARROW_QUANT_WERROR "Treat warnings as errors" OFF)
if(ARROW_QUANT_WERROR)
  target_compile_options(arrow_quant_warnings INTERFACE -Werror)
endif()
