/* Kernels that need a whole row: norms and softmax.
 *
 * Compiled once per target. How a row is summed: kernels/row_sums.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/row_sums.h"
#include "kernels/target.h"

/* y = ((x - shift) * scale + offset) * w + b */
VP_INLINE void scale_row(float *y, const float *x, const float *w, const float *b,
                         size_t n, float shift, float scale, float offset)
{
    const vf vshift = vf_set(shift), vscale = vf_set(scale);
    const vf voffset = vf_set(offset);
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
#define LOAD(p) (lanes == VW ? vf_load(p) : vf_load_n(p, lanes))
        vf v = vf_fma(vf_sub(LOAD(x + i), vshift), vscale, voffset);
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
    /* Two passes: no cancellation, whatever the mean. The second one also finds how far
     * the rounded mean is from the true one: where the mean is not small, that would be
     * the largest error of all. */
    float sum, rest, squares;
    row_sums(x, n, 0.0f, &sum, &squares);
    const float mean = sum / (float)n;
    row_sums(x, n, mean, &rest, &squares);
    const float scale = 1.0f / sqrtf(squares / (float)n + eps);
    scale_row(y, x, w, b, n, mean, scale, -rest / (float)n * scale);
}

void VP_NAME(rms_norm)(float *y, const float *x, const float *w, size_t n, float eps)
{
    float sum, squares;
    row_sums(x, n, 0.0f, &sum, &squares);
    scale_row(y, x, w, NULL, n, 0.0f, 1.0f / sqrtf(squares / (float)n + eps), 0.0f);
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

/* log2 e: softmax works with powers of two, which need no reduction. */
#define LOG2E 0x1.715476p+0f

/* x = 2^(scale (x - shift)) in place, for exponents that are not positive; returns the sum.
 * The difference first: it is exact where it matters, with and without a fused product. */
VP_INLINE float exp2_row(float *x, size_t n, float scale, float shift)
{
    const vf vscale = vf_set(scale), vshift = vf_set(shift);
    vf s0 = vf_set(0.0f), s1 = s0;
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        const vf e0 = vf_exp2(vf_mul(vf_sub(vf_load(x + i), vshift), vscale));
        const vf e1 = vf_exp2(vf_mul(vf_sub(vf_load(x + i + VW), vshift), vscale));
        vf_store(x + i, e0);
        vf_store(x + i + VW, e1);
        s0 = vf_add(s0, e0);
        s1 = vf_add(s1, e1);
    }
    for (; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf v = lanes == VW ? vf_load(x + i) : vf_load_n(x + i, lanes);
        const vf e = vf_exp2(vf_mul(vf_sub(v, vshift), vscale));
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
    const float shift = shift_of(row_max(x, n));
    float sum = 0.0f;
    for (size_t i = 0; i < n; i += VP_PIECE) {
        sum +=
            exp2_row(x + i, n - i < VP_PIECE ? n - i : VP_PIECE, scale * LOG2E, shift);
    }
    VP_NAME(axpby)(x, sum == 0.0f ? 0.0f : 1.0f / sum, x, 0.0f, n);
}

void VP_NAME(softmax_block)(float *x, size_t n, float scale, float *max, float *sum,
                            float *shrink)
{
    const float block = row_max(x, n), power = scale * LOG2E;
    const float next = *max > block ? *max : block;
    *shrink = *max == next ? 1.0f : exp2f((*max - next) * power);
    *sum = *sum * *shrink + exp2_row(x, n, power, shift_of(next));
    *max = next;
}
