/* The types of numbers that packed weights may hold, and the types of rows that activations become
 * on their way into a product. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_DTYPE_H
#define VP_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>

/* X(name, bytes of one, what Python calls it)
 *
 * s8 and s8a16: integers -127 to 127 and one scale for each output; activations have 256 levels a
 * row, or as many as a sum in 32 bits allows (vp_levels). */
#define VP_DTYPES(X)       \
    X(f32, 4, "float32")   \
    X(bf16, 2, "bfloat16") \
    X(f16, 2, "float16")   \
    X(s8, 1, "int8")       \
    X(s8a16, 1, "int8_a16")

/* X(name, bytes of one): what a micro-kernel takes rows of activations as */
#define VP_ROW_TYPES(X) \
    X(f32, 4)           \
    X(bf16, 2)          \
    X(u8, 1)            \
    X(s8, 1)            \
    X(s16, 2)

typedef enum {
#define VP_DTYPE_ENUM(name, bytes, title) VP_DTYPE_##name,
    VP_DTYPES(VP_DTYPE_ENUM)
#undef VP_DTYPE_ENUM
        VP_DTYPE_COUNT,
} vp_dtype;

typedef enum {
#define VP_ROWS_ENUM(name, bytes) VP_ROWS_##name,
    VP_ROW_TYPES(VP_ROWS_ENUM)
#undef VP_ROWS_ENUM
        VP_ROWS_COUNT,
} vp_rows;

static inline size_t vp_dtype_bytes(vp_dtype dtype)
{
    static const size_t all[] = {
#define VP_DTYPE_SIZE(name, bytes, title) bytes,
        VP_DTYPES(VP_DTYPE_SIZE)
#undef VP_DTYPE_SIZE
    };
    return all[dtype];
}

static inline const char *vp_dtype_title(vp_dtype dtype)
{
    static const char *const all[] = {
#define VP_DTYPE_TITLE(name, bytes, title) title,
        VP_DTYPES(VP_DTYPE_TITLE)
#undef VP_DTYPE_TITLE
    };
    return all[dtype];
}

static inline size_t vp_rows_bytes(vp_rows rows)
{
    static const size_t all[] = {
#define VP_ROWS_SIZE(name, bytes) bytes,
        VP_ROW_TYPES(VP_ROWS_SIZE)
#undef VP_ROWS_SIZE
    };
    return all[rows];
}

/* Integers with a scale for each output? */
static inline int vp_dtype_is_int(vp_dtype dtype)
{
    return dtype == VP_DTYPE_s8 || dtype == VP_DTYPE_s8a16;
}

/* The largest inputs of an integer product: 127 times 255 times so many is below 2^31. */
#define VP_MOST_INT_INPUTS ((size_t)65536)

/* The greatest integer that an activation becomes in a product of k inputs: 127 times it times
 * k is below 2^31, on every machine. */
static inline int32_t vp_levels(vp_dtype dtype, size_t k)
{
    const size_t most = ((size_t)INT32_MAX) / 127 / (k > 0 ? k : 1);
    return dtype == VP_DTYPE_s8 ? 255 : most < INT16_MAX ? (int32_t)most : INT16_MAX;
}

#endif
