/* The targets: the sets of CPU features that code is compiled for. This is their only list;
 * base/cpu.c, kernels/, ukernels/, setup.py and the tests read it.
 *
 *     X(name, architecture, vectors, features), from the least to the best
 *
 * name          what VITPOOL_TARGET calls it; a source named *__<name>.c is compiled for it
 * architecture  x86, arm64, or any
 * vectors       whose table of element-wise kernels it uses: its own, or an earlier target's,
 *               whose features it then needs too
 * features      what the CPU must have, by the compiler's names: NEEDS(amx_bf16) is
 *               -mamx-bf16, NEEDS(i8mm) +i8mm of -march. The reader defines NEEDS.
 *
 * A target that brings micro-kernels alone names another's vectors, and nothing but those
 * micro-kernels is compiled for it. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_TARGETS_H
#define VP_BASE_TARGETS_H

#define VP_TARGETS(X)                                                       \
    X(baseline, any, baseline, ) /* the ABI's floor: SSE2 on x86 */         \
    X(avx2, x86, avx2, NEEDS(avx2) NEEDS(fma) NEEDS(f16c))                  \
    X(avxvnni, x86, avx2, NEEDS(avxvnni))                                   \
    X(avx512, x86, avx512,                                                  \
      NEEDS(avx2) NEEDS(fma) NEEDS(avx512f) NEEDS(avx512bw) NEEDS(avx512dq) \
          NEEDS(avx512vl))                                                  \
    X(avx512vnni, x86, avx512, NEEDS(avx512vnni))                           \
    X(avx512bf16, x86, avx512, NEEDS(avx512vnni) NEEDS(avx512bf16))         \
    X(amx, x86, avx512,                                                     \
      NEEDS(avx512vnni) NEEDS(avx512bf16) NEEDS(amx_tile) NEEDS(amx_bf16)   \
          NEEDS(amx_int8))                                                  \
    X(neon, arm64, neon, ) /* the ABI's floor as well */                    \
    X(neondot, arm64, neon, NEEDS(dotprod))                                 \
    X(neoni8mm, arm64, neon, NEEDS(dotprod) NEEDS(i8mm))                    \
    X(neonbf16, arm64, neon, NEEDS(dotprod) NEEDS(i8mm) NEEDS(bf16))

/* VP_ON_x86(...) is its arguments when x86 is what we compile for, else nothing; and so on. */
#define VP_ON_any(...) __VA_ARGS__
#if defined(VP_X86)
#define VP_ON_x86(...) __VA_ARGS__
#else
#define VP_ON_x86(...)
#endif
#if defined(VP_ARM64)
#define VP_ON_arm64(...) __VA_ARGS__
#else
#define VP_ON_arm64(...)
#endif

#endif
