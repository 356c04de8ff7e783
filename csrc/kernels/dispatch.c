/* Which table of kernels is in use. SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/kernels.h"

const vp_kernels *vp_kernels_for(vp_target target)
{
    switch (target) {
#define CASE(name, arch, vectors, features) \
    VP_ON_##arch(case VP_TARGET_##name : return &vp_kernels_##vectors;)
        VP_TARGETS(CASE)
#undef CASE
    default:
        return &vp_kernels_baseline;
    }
}

vp_target vp_target_current(void)
{
    static atomic_int chosen = -1;
    int target = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (target < 0) {
        const char *name = getenv("VITPOOL_TARGET");
        target = (int)(name == NULL || *name == '\0' ? vp_target_best()
                                                     : vp_target_from_name(name));
        if (target < VP_TARGET_COUNT && !vp_target_enable((vp_target)target)) {
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
