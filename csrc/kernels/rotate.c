/* Rotary position embedding of the heads of a row.
 *
 * Compiled once per target. Column by column: where all heads share a table, its numbers are
 * loaded once for them. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/target.h"

/* n lanes of each head from channel i on, and of their other halves; n == VW but in a tail.
 * own: each head has a table. turn: 1, or -1 for the way back. */
VP_INLINE void rotate_column(float *x, size_t heads, size_t d, const float *table,
                             size_t apart, size_t i, size_t n, bool half, bool own,
                             vf turn)
{
#define LOAD(p) (n == VW ? vf_load(p) : vf_load_n(p, n))
#define STORE(p, v) (n == VW ? vf_store(p, v) : vf_store_n(p, v, n))
    const size_t other = half ? i + d / 2 : i;
    vf cos_a = vf_set(0.0f), sin_a = cos_a, cos_b = cos_a, sin_b = cos_a;
    for (size_t h = 0; h < heads; h++, x += d) {
        if (own || h == 0) {
            const float *t = table + h * apart;
            cos_a = LOAD(t + i);
            sin_a = vf_mul(LOAD(t + d + i), turn);
            cos_b = LOAD(t + other);
            sin_b = vf_mul(LOAD(t + d + other), turn);
        }
        const vf a = LOAD(x + i), b = half ? LOAD(x + other) : vf_swap(a);
        STORE(x + i, vf_fma(b, sin_a, vf_mul(a, cos_a)));
        if (half) {
            STORE(x + other, vf_fma(a, sin_b, vf_mul(b, cos_b)));
        }
    }
#undef STORE
#undef LOAD
}

VP_INLINE void rotate_heads(float *x, size_t heads, size_t d, const float *table,
                            size_t apart, bool half, bool own, bool inverse)
{
    const vf turn = vf_set(inverse ? -1.0f : 1.0f);
    const size_t columns = half ? d / 2 : d;
    size_t i = 0;
    for (; i + VW <= columns; i += VW) {
        rotate_column(x, heads, d, table, apart, i, VW, half, own, turn);
    }
    if (i < columns) {
        rotate_column(x, heads, d, table, apart, i, columns - i, half, own, turn);
    }
}

void VP_NAME(rotate)(float *x, size_t heads, size_t d, const float *table, size_t apart,
                     bool half, bool inverse)
{
    if (half && apart == 0) {
        rotate_heads(x, heads, d, table, apart, true, false, inverse);
    } else if (half) {
        rotate_heads(x, heads, d, table, apart, true, true, inverse);
    } else if (apart == 0) {
        rotate_heads(x, heads, d, table, apart, false, false, inverse);
    } else {
        rotate_heads(x, heads, d, table, apart, false, true, inverse);
    }
}
