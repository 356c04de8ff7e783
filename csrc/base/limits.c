/* The sizes of a forward pass's pieces. SPDX-License-Identifier: Apache-2.0 */
#include "base/limits.h"

#include "base/parallel.h"
#include "base/sizes.h"

static vp_limits asked; /* under the global lock */

static size_t or_default(size_t asked_for, size_t otherwise)
{
    return asked_for != 0 ? asked_for : otherwise;
}

vp_limits vp_limits_get(size_t workers)
{
    vp_global_lock();
    const vp_limits limits = asked;
    vp_global_unlock();
    return (vp_limits){or_default(limits.chunk_bytes, vp_max(3, workers) << 22),
                       or_default(limits.block_keys, 512),
                       or_default(limits.block_queries, 2048)};
}

void vp_limits_set(vp_limits limits)
{
    vp_global_lock();
    asked = limits;
    vp_global_unlock();
}
