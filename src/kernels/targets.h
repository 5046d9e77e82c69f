// The instruction sets every kernel is compiled for. Include before any Highway header.
//
// Every kernel file must see the same set, or tests that iterate over the set would miss some. The
// scalar target stays in as the fallback and as the reference of the others. Left out: SSSE3 (a CPU
// that has it but not SSE4.2 is too old to be worth the code size) and SVE (its vectors have no
// size at compile time, which the kernels rely on; NEON serves those CPUs).
#pragma once

#define HWY_COMPILE_ALL_ATTAINABLE
// Under a sanitizer the scalar target and one other are enough: the rest takes most of the time of
// the build and has the same loads and stores, wider.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HWY_DISABLED_TARGETS (~(HWY_AVX2 | HWY_NEON | HWY_EMU128 | HWY_SCALAR))
#else
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE_256 | HWY_SVE2 | HWY_SVE2_128)
#endif
