/* Arithmetic on sizes. Where a product or a sum may overflow: vp_size_mul and vp_size_add in
 * base/memory.h. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_SIZES_H
#define VP_BASE_SIZES_H

#include <stddef.h>

static inline size_t vp_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t vp_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline size_t vp_ceil_div(size_t n, size_t by)
{
    return (n + by - 1) / by;
}

/* The smallest multiple of `to` that is n or more. */
static inline size_t vp_round_up(size_t n, size_t to)
{
    return vp_ceil_div(n, to) * to;
}

#endif
