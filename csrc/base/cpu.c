/* Which instruction set the kernels use. SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"

#include <string.h>
#if defined(VP_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const names[VP_TARGET_COUNT] = {"baseline", "avx2", "avx512", "amx"};

const char *vp_target_name(vp_target target)
{
    return names[target];
}

#if defined(VP_X86)
/* The kernel lets a process use AMX's tiles only once it has asked. */
static bool tiles_usable(void)
{
#if defined(__linux__)
    /* Not every compiler's cpu_supports knows AMX, and its names for the bits differ. */
    const unsigned tile = 1u << 24, bf16 = 1u << 22;
    const long request_permission = 0x1023,
               tile_data = 18; /* asm/prctl.h; XCR0's bit */
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & tile) != 0 &&
           (edx & bf16) != 0 &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}
#endif

bool vp_target_supported(vp_target target)
{
#if defined(VP_X86)
    /* These builtins look at XCR0 too: a CPU whose operating system does not save the
     * wide registers counts as one without them. */
    __builtin_cpu_init();
    switch (target) {
    case VP_TARGET_AMX:
        return vp_target_supported(VP_TARGET_AVX512) && tiles_usable();
    case VP_TARGET_AVX512:
        return __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
               __builtin_cpu_supports("fma");
    case VP_TARGET_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    default:
        break;
    }
#endif
    return target == VP_TARGET_BASELINE;
}

vp_target vp_target_from_name(const char *name)
{
    int t = 0;
    while (t < VP_TARGET_COUNT && strcmp(name, names[t]) != 0) {
        t++;
    }
    return (vp_target)t;
}

vp_target vp_target_best(void)
{
    int t = VP_TARGET_COUNT - 1;
    while (!vp_target_supported((vp_target)t)) {
        t--;
    }
    return (vp_target)t;
}
