/* The kernels of low precision in plain C, from their definitions: no trick of the fast ones is
 * in here. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "kernels/ref.h"

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The positive finite number with these bits; 2^128 for infinity's. */
static double value_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return isinf(x) ? 0x1p128 : (double)x;
}

/* The one below, or the next one, whichever is nearer. */
void vp_ref_to_bf16(uint16_t *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t sign = bits_of(x[i]) & 0x80000000u;
        uint32_t half = bits_of(fabsf(x[i])) >> 16;
        if (isnan(x[i])) {
            half |= 0x40;
        } else if (!isinf(x[i])) {
            const double below = fabs((double)x[i]) - value_of(half << 16);
            const double above = value_of((half + 1) << 16) - fabs((double)x[i]);
            half += above < below || (above == below && half % 2 == 1);
        }
        y[i] = (uint16_t)(sign >> 16 | half);
    }
}

/* A NaN keeps the top of its payload and becomes quiet, as VCVTPS2PH has it. */
void vp_ref_to_f16(uint16_t *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]);
        const double a = fabs((double)x[i]);
        uint32_t half;
        if (isnan(x[i])) {
            half = 0x7e00 | (bits >> 13 & 0x3ff);
        } else if (a >= 65520.0) { /* half a step past the greatest */
            half = 0x7c00;
        } else {
            int exponent; /* a is 2^exponent times at most 1 and more than 1/2 */
            (void)frexp(a, &exponent);
            exponent = a < 0x1p-14 ? -13 : exponent;
            /* a in steps; those below 2^-14 have the first exponent's, and no leading 1 */
            const uint32_t steps = (uint32_t)rint(ldexp(a, 11 - exponent));
            half = ((uint32_t)(exponent + 13) << 10) + steps;
        }
        y[i] = (uint16_t)((bits >> 16 & 0x8000) | half);
    }
}

/* As VCVTPH2PS has it. */
void vp_ref_from_f16(float *y, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const int power = x[i] >> 10 & 31, digits = x[i] & 0x3ff;
        uint32_t bits;
        if (power == 31) {
            bits = digits == 0 ? 0x7f800000u : 0x7fc00000u | (uint32_t)digits << 13;
        } else if (power == 0) {
            bits = bits_of(ldexpf((float)digits, -24));
        } else {
            bits = bits_of(ldexpf((float)(1024 + digits), power - 25));
        }
        bits |= (uint32_t)(x[i] & 0x8000) << 16;
        memcpy(&y[i], &bits, sizeof bits);
    }
}

/* What a row's numbers are multiplied with, 0 where none is left; each step into a variable of
 * its own: float32, whatever the compiler contracts. */
static float quantize(const float *x, size_t n, int32_t levels, float *scale,
                      int32_t *zero)
{
    float lo = 0.0f, hi = 0.0f;
    bool nan = false;
    for (size_t i = 0; i < n; i++) {
        nan |= isnan(x[i]) != 0;
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    const float range = hi - lo;
    const float inverse = (float)levels / range;
    *zero = 0;
    *scale = 0.0f;
    if (nan || !isfinite(range)) {
        *scale = NAN;
        return 0.0f;
    }
    if (!isfinite(inverse)) {
        return 0.0f;
    }
    *scale = range / (float)levels;
    *zero = (int32_t)lrintf(-lo * inverse);
    return inverse;
}

static int32_t level_of(float x, float inverse, int32_t zero, int32_t levels)
{
    const int32_t v = inverse == 0.0f ? 0 : (int32_t)lrintf(x * inverse) + zero;
    return v < 0 ? 0 : v > levels ? levels : v;
}

void vp_ref_quantize_u8(uint8_t *q, const float *x, size_t n, float *scale,
                        int32_t *zero)
{
    const float inverse = quantize(x, n, 255, scale, zero);
    for (size_t i = 0; i < n; i++) {
        q[i] = (uint8_t)level_of(x[i], inverse, *zero, 255);
    }
}

void vp_ref_quantize_s16(int16_t *q, const float *x, size_t n, int32_t levels,
                         float *scale, int32_t *zero)
{
    const float inverse = quantize(x, n, levels, scale, zero);
    for (size_t i = 0; i < n; i++) {
        q[i] = (int16_t)level_of(x[i], inverse, *zero, levels);
    }
}

void vp_ref_dequantize(float *c, size_t ldc, size_t rows, size_t cols,
                       const float *row_scale, const int32_t *zero, const float *scale,
                       const int32_t *sum)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < cols; i++) {
            const uint32_t bits = bits_of(c[r * ldc + i]);
            const uint32_t v = bits - (uint32_t)zero[r] * (uint32_t)sum[i];
            const float times = row_scale[r] * scale[i];
            c[r * ldc + i] = (float)(int32_t)v * times;
        }
    }
}
