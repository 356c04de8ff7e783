/* The types of numbers that packed weights may hold, and what activations become on their way
 * into a product. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_DTYPE_H
#define VP_BASE_DTYPE_H

#include <stddef.h>

/* X(name, bytes of one) */
#define VP_DTYPES(X) X(f32, sizeof(float))

typedef enum {
#define VP_DTYPE_ENUM(name, bytes) VP_DTYPE_##name,
    VP_DTYPES(VP_DTYPE_ENUM)
#undef VP_DTYPE_ENUM
        VP_DTYPE_COUNT,
} vp_dtype;

static inline size_t vp_dtype_bytes(vp_dtype dtype)
{
    static const size_t all[] = {
#define VP_DTYPE_SIZE(name, bytes) bytes,
        VP_DTYPES(VP_DTYPE_SIZE)
#undef VP_DTYPE_SIZE
    };
    return all[dtype];
}

#endif
