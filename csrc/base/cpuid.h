/* CPUID, the instruction by which an x86 CPU tells what it is.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_CPUID_H
#define VP_BASE_CPUID_H

#include <stdbool.h>
#include <stdint.h>
#if defined(VP_X86)
#include <cpuid.h>
#endif

typedef struct {
    uint32_t eax, ebx, ecx, edx;
} vp_cpuid_answer;

/* Asks the core that the calling thread runs on. False, and `answer` untouched, where the
 * leaf is above the last one that the CPU has, or the CPU is no x86. */
static inline bool vp_cpuid(uint32_t leaf, uint32_t subleaf, vp_cpuid_answer *answer)
{
#if defined(VP_X86)
    return __get_cpuid_count(leaf, subleaf, &answer->eax, &answer->ebx, &answer->ecx,
                             &answer->edx) != 0;
#else
    (void)leaf, (void)subleaf, (void)answer;
    return false;
#endif
}

#endif
