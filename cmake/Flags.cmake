# Warnings, floating-point rules and sanitizers. No -ffast-math and no contraction: the order-free
# sums need (x + C) - C to mean what it says, and gcc and clang contract a*b+c differently.
add_library(mq_flags INTERFACE)
target_compile_definitions(mq_flags INTERFACE _POSIX_C_SOURCE=200809L _FILE_OFFSET_BITS=64)
target_compile_options(mq_flags INTERFACE
  -ffp-contract=off -fno-math-errno -fno-trapping-math
  -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  # Messages are cut to their buffer on purpose.
  target_compile_options(mq_flags INTERFACE -Wno-format-truncation)
endif()
if(MQ_WERROR)
  target_compile_options(mq_flags INTERFACE -Werror)
endif()
if(MQ_SANITIZE)
  target_compile_options(mq_flags INTERFACE -fsanitize=${MQ_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(mq_flags INTERFACE -fsanitize=${MQ_SANITIZE})
endif()
set(CMAKE_C_FLAGS_RELEASE "-O3 -DNDEBUG")
