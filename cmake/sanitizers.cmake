# One build with AddressSanitizer and UndefinedBehaviorSanitizer together (preset "asan").
if(ARROW_QUANT_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
