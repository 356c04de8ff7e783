/* Which table of kernels is in use. SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/kernels.h"

const vp_kernels *vp_kernels_for(vp_target target)
{
#if defined(VP_X86)
    switch (target) {
    case VP_TARGET_AMX:
        return &vp_kernels_amx;
    case VP_TARGET_AVX512:
        return &vp_kernels_avx512;
    case VP_TARGET_AVX2:
        return &vp_kernels_avx2;
    default:
        break;
    }
#endif
    (void)target;
    return &vp_kernels_baseline;
}

vp_target vp_target_current(void)
{
    static atomic_int chosen = -1;
    int target = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (target < 0) {
        const char *name = getenv("VITPOOL_TARGET");
        target = (int)(name == NULL || *name == '\0' ? vp_target_best()
                                                     : vp_target_from_name(name));
        if (target < VP_TARGET_COUNT && !vp_target_supported((vp_target)target)) {
            target = VP_TARGET_COUNT;
        }
        atomic_store_explicit(&chosen, target, memory_order_relaxed);
    }
    return (vp_target)target;
}

const vp_kernels *vp_kernels_get(void)
{
    const vp_target target = vp_target_current();
    return vp_kernels_for(target < VP_TARGET_COUNT ? target : vp_target_best());
}
