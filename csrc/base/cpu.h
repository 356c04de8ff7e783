/* Which instruction set the kernels use, decided once a process.
 *
 * Targets are compiled side by side and chosen at run time from what the CPU and the
 * operating system allow. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_CPU_H
#define VP_BASE_CPU_H

#include <stdbool.h>

typedef enum {
    VP_TARGET_BASELINE, /* the ABI's floor: SSE2 on x86-64 */
    VP_TARGET_AVX2,     /* AVX2 and FMA */
    VP_TARGET_AVX512,   /* AVX-512 F, BW, DQ, VL */
    VP_TARGET_AMX,      /* AVX-512 as above, AMX's bfloat16 tiles */
    VP_TARGET_COUNT,
} vp_target;

/* "baseline", "avx2", "avx512", "amx". */
const char *vp_target_name(vp_target target);

/* Can this machine run it? (CPUID and XCR0; for AMX this asks the kernel for the use of
 * tiles, which then holds for the whole process.) */
bool vp_target_supported(vp_target target);

/* The target of that name; VP_TARGET_COUNT if there is none. */
vp_target vp_target_from_name(const char *name);

/* The best target that the machine supports. */
vp_target vp_target_best(void);

#endif
