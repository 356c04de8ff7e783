/* Which instruction set the kernels use. SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"

#include <string.h>

static const char *const names[VP_TARGET_COUNT] = {"baseline", "avx2", "avx512"};

const char *vp_target_name(vp_target target)
{
    return names[target];
}

bool vp_target_supported(vp_target target)
{
#if defined(VP_X86)
    /* These builtins look at XCR0 too: a CPU whose operating system does not save the
     * wide registers counts as one without them. */
    __builtin_cpu_init();
    switch (target) {
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
