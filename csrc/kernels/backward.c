/* The backward passes of norms, softmax and activations.
 *
 * Compiled once per target. What a forward pass would have had to keep (mean, deviation,
 * Phi) is computed again. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/act.h"
#include "kernels/row_sums.h"
#include "kernels/target.h"

VP_INLINE vf load_up_to(const float *p, size_t lanes)
{
    return lanes == VW ? vf_load(p) : vf_load_n(p, lanes);
}

VP_INLINE void store_up_to(float *p, vf a, size_t lanes)
{
    if (lanes == VW) {
        vf_store(p, a);
    } else {
        vf_store_n(p, a, lanes);
    }
}

/* A row of a norm: its normalised numbers are h = (x - shift) * scale + offset. */
typedef struct {
    const float *x, *dy, *w;
    float *dw, *db;
    vf shift, scale, offset;
} norm_row;

VP_INLINE vf normalised(const norm_row *r, size_t i, size_t lanes)
{
    const vf x = load_up_to(r->x + i, lanes);
    return vf_fma(vf_sub(x, r->shift), r->scale, r->offset);
}

/* The gradient of h: dy w. */
VP_INLINE vf gradient_of_normalised(const norm_row *r, size_t i, size_t lanes)
{
    const vf dy = load_up_to(r->dy + i, lanes);
    return r->w != NULL ? vf_mul(dy, load_up_to(r->w + i, lanes)) : dy;
}

/* Adds lanes of g and g h to a chain, of dy h and dy to dw and db. */
VP_INLINE void add_norm_terms(const norm_row *r, size_t i, size_t lanes, vf *sum,
                              vf *dot)
{
    const vf h = normalised(r, i, lanes), g = gradient_of_normalised(r, i, lanes);
    const vf dy = load_up_to(r->dy + i, lanes);
    const vf zero = vf_set(0.0f);
    *sum = vf_add(*sum, lanes == VW ? g : vf_keep(g, lanes, zero));
    const vf gh = vf_mul(g, h);
    *dot = lanes == VW ? vf_fma(g, h, *dot) : vf_add(*dot, vf_keep(gh, lanes, zero));
    if (r->dw != NULL) {
        store_up_to(r->dw + i, vf_fma(dy, h, load_up_to(r->dw + i, lanes)), lanes);
    }
    if (r->db != NULL) {
        store_up_to(r->db + i, vf_add(dy, load_up_to(r->db + i, lanes)), lanes);
    }
}

/* The sums of g and of g h over a row. */
VP_INLINE void norm_sums(const norm_row *r, size_t n, float *sum, float *dot)
{
    const vf zero = vf_set(0.0f);
    vf all_sums = zero, all_dots = zero;
    for (size_t start = 0; start < n; start += VP_PIECE) {
        const size_t end = n - start < VP_PIECE ? n : start + VP_PIECE;
        vf s0 = zero, s1 = zero, d0 = zero, d1 = zero;
        size_t i = start;
        for (; i + 2 * VW <= end; i += 2 * VW) {
            add_norm_terms(r, i, VW, &s0, &d0);
            add_norm_terms(r, i + VW, VW, &s1, &d1);
        }
        for (; i < end; i += VW) {
            add_norm_terms(r, i, end - i < VW ? end - i : VW, &s0, &d0);
        }
        all_sums = vf_add(all_sums, vf_add(s0, s1));
        all_dots = vf_add(all_dots, vf_add(d0, d1));
    }
    *sum = vf_sum(all_sums);
    *dot = vf_sum(all_dots);
}

/* dx (+)= scale (g - mean(g) - h mean(g h)); without the mean where the norm has none. */
VP_INLINE void norm_backward(const norm_row *row, float *dx, size_t n, bool centred,
                             bool add)
{
    const norm_row r = *row; /* a copy: no store can change it */
    float sum, dot;
    norm_sums(&r, n, &sum, &dot);
    const vf mean = vf_set(centred ? sum / (float)n : 0.0f);
    const vf slope = vf_set(dot / (float)n);
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf h = normalised(&r, i, lanes);
        const vf g = vf_sub(gradient_of_normalised(&r, i, lanes), mean);
        vf v = vf_mul(vf_fnma(h, slope, g), r.scale);
        if (add) {
            v = vf_add(load_up_to(dx + i, lanes), v);
        }
        store_up_to(dx + i, v, lanes);
    }
}

void VP_NAME(layer_norm_backward)(float *dx, const float *dy, const float *x,
                                  const float *w, float *dw, float *db, size_t n,
                                  float eps, bool add)
{
    /* mean and deviation as layer_norm finds them */
    float sum, rest, squares;
    row_sums(x, n, 0.0f, &sum, &squares);
    const float mean = sum / (float)n;
    row_sums(x, n, mean, &rest, &squares);
    const float scale = 1.0f / sqrtf(squares / (float)n + eps);
    const norm_row r = {x,
                        dy,
                        w,
                        dw,
                        db,
                        vf_set(mean),
                        vf_set(scale),
                        vf_set(-rest / (float)n * scale)};
    norm_backward(&r, dx, n, true, add);
}

void VP_NAME(rms_norm_backward)(float *dx, const float *dy, const float *x,
                                const float *w, float *dw, size_t n, float eps,
                                bool add)
{
    float sum, squares;
    row_sums(x, n, 0.0f, &sum, &squares);
    const float scale = 1.0f / sqrtf(squares / (float)n + eps);
    const vf zero = vf_set(0.0f);
    const norm_row r = {x, dy, w, dw, NULL, zero, vf_set(scale), zero};
    norm_backward(&r, dx, n, false, add);
}

/* sum of x y, in VW lanes of pieces */
VP_INLINE float dot_row(const float *x, const float *y, size_t n)
{
    const vf zero = vf_set(0.0f);
    vf all = zero;
    for (size_t start = 0; start < n; start += VP_PIECE) {
        const size_t end = n - start < VP_PIECE ? n : start + VP_PIECE;
        vf s0 = zero, s1 = zero;
        size_t i = start;
        for (; i + 2 * VW <= end; i += 2 * VW) {
            s0 = vf_fma(vf_load(x + i), vf_load(y + i), s0);
            s1 = vf_fma(vf_load(x + i + VW), vf_load(y + i + VW), s1);
        }
        for (; i < end; i += VW) { /* what is not loaded is 0 */
            const size_t lanes = end - i < VW ? end - i : VW;
            s0 = vf_fma(load_up_to(x + i, lanes), load_up_to(y + i, lanes), s0);
        }
        all = vf_add(all, vf_add(s0, s1));
    }
    return vf_sum(all);
}

void VP_NAME(dot)(float *sum, const float *x, const float *y, size_t n)
{
    *sum = dot_row(x, y, n);
}

void VP_NAME(softmax_backward)(float *ds, const float *p, const float *dp, size_t n,
                               float scale)
{
    const vf sum = vf_set(dot_row(p, dp, n)), vscale = vf_set(scale);
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf d = vf_sub(load_up_to(dp + i, lanes), sum);
        store_up_to(ds + i, vf_mul(vf_mul(load_up_to(p + i, lanes), vscale), d), lanes);
    }
}

VP_INLINE void act_row(float *dx, const float *dy, const float *x, size_t n, vp_act act)
{
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf slope = vf_act_slope(load_up_to(x + i, lanes), act);
        store_up_to(dx + i, vf_mul(load_up_to(dy + i, lanes), slope), lanes);
    }
}

void VP_NAME(act_backward)(float *dx, const float *dy, const float *x, size_t n,
                           vp_act act){
#define BODY(constant) act_row(dx, dy, x, n, constant)
    VP_WITH_CONSTANT_ACT(act, BODY)
#undef BODY
}

VP_INLINE void gate_row(float *dv, float *dg, const float *dh, const float *v,
                        const float *g, size_t n, vp_act act)
{
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf h = load_up_to(dh + i, lanes), gate = load_up_to(g + i, lanes);
        const vf hv = vf_mul(h, load_up_to(v + i, lanes));
        store_up_to(dv + i, vf_mul(h, vf_act(gate, act)), lanes);
        store_up_to(dg + i, vf_mul(hv, vf_act_slope(gate, act)), lanes);
    }
}

void VP_NAME(gate_backward)(float *dv, float *dg, const float *dh, const float *v,
                            const float *g, size_t n, vp_act act)
{
#define BODY(constant) gate_row(dv, dg, dh, v, g, n, constant)
    VP_WITH_CONSTANT_ACT(act, BODY)
#undef BODY
}
