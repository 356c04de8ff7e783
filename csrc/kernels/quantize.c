/* Rows to integers, and tiles of integers back.
 *
 * The bits are plain C's: every rounding is one that the definition has. So a zero point is added
 * to integers, where no compiler makes a multiply-add of it. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/simd_int.h"
#include "kernels/target.h"

VP_INLINE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* What the row is multiplied with; 0: its integers are all 0.
 *
 * Its least and greatest numbers are found as integers. A float32's bits grow with it where it is
 * positive, and are a negative integer where it is not: so the greatest integer is the greatest
 * number, from 0 on. As unsigned integers negative ones are the greater, and grow the
 * further they are from 0. NaN, of either sign, is beyond infinity. */
VP_INLINE float quantize(const float *x, size_t n, int32_t levels, float *scale,
                         int32_t *zero)
{
    vi up[2] = {vi_set(0), vi_set(0)}, down[2] = {vi_set(0), vi_set(0)};
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        /* else gcc loads each of them for both maxima */
        const vi a = vi_bits(vf_opaque(vf_load(x + i)));
        const vi b = vi_bits(vf_opaque(vf_load(x + i + VW)));
        up[0] = vi_max(up[0], a);
        up[1] = vi_max(up[1], b);
        down[0] = vi_umax(down[0], a);
        down[1] = vi_umax(down[1], b);
    }
    for (; i < n; i += VW) {
        const size_t left = n - i;
        const vi a = vi_bits(left < VW ? vf_load_n(x + i, left) : vf_load(x + i));
        up[0] = vi_max(up[0], a);
        down[0] = vi_umax(down[0], a);
    }
    const uint32_t most = (uint32_t)vi_hmax(vi_max(up[0], up[1]));
    const uint32_t least = vi_humax(vi_umax(down[0], down[1]));
    const float hi = float_of(most), lo = least >> 31 ? float_of(least) : 0.0f;

    const float range = hi - lo, inverse = (float)levels / range;
    const bool finite = isfinite(range), any = finite && isfinite(inverse);
    *scale = !finite ? NAN : any ? range / (float)levels : 0.0f;
    *zero = any ? (int32_t)lrintf(-lo * inverse) : 0;
    return any ? inverse : 0.0f;
}

/* Never below 0: the least number's product is -zero, rounded as *zero was. */
VP_INLINE vi integers(const float *x, vf inverse, vi zero)
{
    return vi_add(vi_round(vf_mul(vf_load(x), inverse)), zero);
}

VP_INLINE void block_u8(uint8_t *q, const float *x, vf inverse, vi zero)
{
    vi_store_u8(q, integers(x, inverse, zero), integers(x + VW, inverse, zero),
                integers(x + 2 * VW, inverse, zero),
                integers(x + 3 * VW, inverse, zero));
}

void VP_NAME(quantize_u8)(uint8_t *q, const float *x, size_t n, float *scale,
                          int32_t *zero)
{
    const float times = quantize(x, n, 255, scale, zero);
    if (times == 0.0f) {
        memset(q, 0, n);
        return;
    }
    const vf inverse = vf_set(times);
    const vi zeros = vi_set(*zero);
    size_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        block_u8(q + i, x + i, inverse, zeros);
    }
    if (i < n) {
        float from[4 * VW] = {0};
        uint8_t to[4 * VW];
        memcpy(from, x + i, (n - i) * sizeof *from);
        block_u8(to, from, inverse, zeros);
        memcpy(q + i, to, n - i);
    }
}

VP_INLINE void block_s16(int16_t *q, const float *x, vf inverse, vi zero, vi levels)
{
    vi_store_16(q, vi_min(levels, integers(x, inverse, zero)),
                vi_min(levels, integers(x + VW, inverse, zero)));
}

void VP_NAME(quantize_s16)(int16_t *q, const float *x, size_t n, int32_t levels,
                           float *scale, int32_t *zero)
{
    const float times = quantize(x, n, levels, scale, zero);
    if (times == 0.0f) {
        memset(q, 0, n * sizeof *q);
        return;
    }
    const vf inverse = vf_set(times);
    const vi zeros = vi_set(*zero), most = vi_set(levels);
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        block_s16(q + i, x + i, inverse, zeros, most);
    }
    if (i < n) {
        float from[2 * VW] = {0};
        int16_t to[2 * VW];
        memcpy(from, x + i, (n - i) * sizeof *from);
        block_s16(to, from, inverse, zeros, most);
        memcpy(q + i, to, (n - i) * sizeof *to);
    }
}

VP_INLINE vf dequantize(vf c, vi zero, vi sum, vf row_scale, vf scale)
{
    return vf_mul(vi_float(vi_sub(vi_bits(c), vi_mul(zero, sum))),
                  vf_mul(row_scale, scale));
}

void VP_NAME(dequantize)(float *c, size_t ldc, size_t rows, size_t cols,
                         const float *row_scale, const int32_t *zero,
                         const float *scale, const int32_t *sum)
{
    size_t i = 0;
    for (; i + VW <= cols; i += VW) {
        const vf by = vf_load(scale + i);
        const vi of = vi_load(sum + i);
        for (size_t r = 0; r < rows; r++) {
            float *p = c + r * ldc + i;
            vf_store(p, dequantize(vf_load(p), vi_set(zero[r]), of,
                                   vf_set(row_scale[r]), by));
        }
    }
    if (i < cols) {
        const size_t n = cols - i;
        const vf by = vf_load_n(scale + i, n);
        const vi of = vi_load_n(sum + i, n);
        for (size_t r = 0; r < rows; r++) {
            float *p = c + r * ldc + i;
            vf_store_n(p,
                       dequantize(vf_load_n(p, n), vi_set(zero[r]), of,
                                  vf_set(row_scale[r]), by),
                       n);
        }
    }
}
