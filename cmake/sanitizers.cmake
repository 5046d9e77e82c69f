# One build with AddressSanitizer and UndefinedBehaviorSanitizer together (preset "asan").
if(ARROW_QUANT_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

# Another one with ThreadSanitizer (preset "tsan"), which goes with neither.
if(ARROW_QUANT_SANITIZE_THREADS)
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
endif()
