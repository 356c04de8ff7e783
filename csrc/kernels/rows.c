/* Kernels that need a whole row: norms and softmax.
 *
 * Compiled once per target. A row's sums run in VW parallel lanes (times four, to hide the
 * latency of an add), then across the lanes: the order depends on n alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/target.h"

/* sum of f(x[i]) over a row; `F(v)` is an expression in the vector v, zero in tail lanes */
#define ROW_SUM(result, x, n, F)                                   \
    do {                                                           \
        vf s0 = vf_set(0.0f), s1 = s0, s2 = s0, s3 = s0;           \
        size_t i = 0;                                              \
        for (; i + 4 * VW <= (n); i += 4 * VW) {                   \
            s0 = vf_add(s0, F(vf_load((x) + i)));                  \
            s1 = vf_add(s1, F(vf_load((x) + i + VW)));             \
            s2 = vf_add(s2, F(vf_load((x) + i + 2 * VW)));         \
            s3 = vf_add(s3, F(vf_load((x) + i + 3 * VW)));         \
        }                                                          \
        for (; i + VW <= (n); i += VW) {                           \
            s0 = vf_add(s0, F(vf_load((x) + i)));                  \
        }                                                          \
        if (i < (n)) {                                             \
            const vf tail = F(vf_load_n((x) + i, (n) - i));        \
            s1 = vf_add(s1, vf_keep(tail, (n) - i, vf_set(0.0f))); \
        }                                                          \
        (result) = vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3))); \
    } while (0)

/* y = (x - shift) * scale * w + b */
VP_INLINE void scale_row(float *y, const float *x, const float *w, const float *b,
                         size_t n, float shift, float scale)
{
    const vf vshift = vf_set(shift), vscale = vf_set(scale);
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
#define LOAD(p) (lanes == VW ? vf_load(p) : vf_load_n(p, lanes))
        vf v = vf_mul(vf_sub(LOAD(x + i), vshift), vscale);
        if (w != NULL) {
            v = vf_mul(v, LOAD(w + i));
        }
        if (b != NULL) {
            v = vf_add(v, LOAD(b + i));
        }
#undef LOAD
        if (lanes == VW) {
            vf_store(y + i, v);
        } else {
            vf_store_n(y + i, v, lanes);
        }
    }
}

void VP_NAME(layer_norm)(float *y, const float *x, const float *w, const float *b,
                         size_t n, float eps)
{
    /* two passes: no cancellation, whatever the mean */
    float sum, squares;
#define ITSELF(v) (v)
    ROW_SUM(sum, x, n, ITSELF);
#undef ITSELF
    const float mean = sum / (float)n;
    const vf vmean = vf_set(mean);
#define SQUARED_DISTANCE(v) vf_mul(vf_sub(v, vmean), vf_sub(v, vmean))
    ROW_SUM(squares, x, n, SQUARED_DISTANCE);
#undef SQUARED_DISTANCE
    scale_row(y, x, w, b, n, mean, 1.0f / sqrtf(squares / (float)n + eps));
}

void VP_NAME(rms_norm)(float *y, const float *x, const float *w, size_t n, float eps)
{
    float squares;
#define SQUARE(v) vf_mul(v, v)
    ROW_SUM(squares, x, n, SQUARE);
#undef SQUARE
    scale_row(y, x, w, NULL, n, 0.0f, 1.0f / sqrtf(squares / (float)n + eps));
}

VP_INLINE float row_max(const float *x, size_t n)
{
    vf m0 = vf_set(-INFINITY), m1 = m0;
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        m0 = vf_max(m0, vf_load(x + i));
        m1 = vf_max(m1, vf_load(x + i + VW));
    }
    for (; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf v = lanes == VW ? vf_load(x + i) : vf_load_n(x + i, lanes);
        m0 = vf_max(m0, vf_keep(v, lanes, m0));
    }
    return vf_hmax(vf_max(m0, m1));
}

/* x = e^(scale x - shift) in place; returns the sum */
VP_INLINE float exp_row(float *x, size_t n, float scale, float shift)
{
    const vf vscale = vf_set(scale), vshift = vf_set(-shift);
    vf s0 = vf_set(0.0f), s1 = s0;
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        const vf e0 = vf_exp(vf_fma(vf_load(x + i), vscale, vshift));
        const vf e1 = vf_exp(vf_fma(vf_load(x + i + VW), vscale, vshift));
        vf_store(x + i, e0);
        vf_store(x + i + VW, e1);
        s0 = vf_add(s0, e0);
        s1 = vf_add(s1, e1);
    }
    for (; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf v = lanes == VW ? vf_load(x + i) : vf_load_n(x + i, lanes);
        const vf e = vf_exp(vf_fma(v, vscale, vshift));
        vf_store_n(x + i, e, lanes);
        s0 = vf_add(s0, vf_keep(e, lanes, vf_set(0.0f)));
    }
    return vf_sum(vf_add(s0, s1));
}

/* The shift of a softmax over a row with this maximum. Nothing but -inf (all masked): shift
 * by 0, so that e^-inf is 0, not NaN. */
VP_INLINE float shift_of(float max)
{
    return max == -INFINITY ? 0.0f : max;
}

void VP_NAME(softmax)(float *x, size_t n, float scale)
{
    const float sum = exp_row(x, n, scale, shift_of(scale * row_max(x, n)));
    VP_NAME(axpby)(x, sum == 0.0f ? 0.0f : 1.0f / sum, x, 0.0f, n);
}

void VP_NAME(softmax_block)(float *x, size_t n, float scale, float *max, float *sum,
                            float *shrink)
{
    const float block = scale * row_max(x, n);
    const float next = *max > block ? *max : block;
    *shrink = *max == next ? 1.0f : expf(*max - next);
    *sum = *sum * *shrink + exp_row(x, n, scale, shift_of(next));
    *max = next;
}
