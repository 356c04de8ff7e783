/* Activations, sums of rows, the end of a matrix product, pixel normalisation.
 *
 * Compiled once per target. Each kernel walks whole vectors, then one tail of n < VW lanes
 * through vf_load_n / vf_store_n. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/target.h"

/* The normal distribution's Phi(x) = (1 + erf(x / sqrt 2)) / 2, to 1.2 ulp: 1/2 plus x times
 * a polynomial in x^2 below 1.35; above, 2^m(|x|) with a polynomial m for log2 Phi(-|x|), or
 * one minus that. Beyond 5.65 it is 0 or 1 to float32. Both are computed, a lane takes one.
 * The three fits are our own (minimax 5e-9, 6e-10; 2^r on [-1/2, 1/2] 7e-8 of the tail). */
VP_INLINE vf vf_phi(vf x)
{
    const vf z = vf_abs(x);
    const vf t = vf_mul(z, z);
    vf p = vf_set(-0x1.a51ce4p-18f);
    p = vf_fma(p, t, vf_set(0x1.c834e8p-14f));
    p = vf_fma(p, t, vf_set(-0x1.356b3ap-10f));
    p = vf_fma(p, t, vf_set(0x1.46b1f0p-7f));
    p = vf_fma(p, t, vf_set(-0x1.10575ep-4f));
    p = vf_fma(p, t, vf_set(0x1.988450p-2f));
    vf m = vf_set(0x1.20e4e0p-15f);
    m = vf_fma(m, z, vf_set(-0x1.905bdep-11f));
    m = vf_fma(m, z, vf_set(0x1.045d9cp-7f));
    m = vf_fma(m, z, vf_set(-0x1.b08f80p-5f));
    m = vf_fma(m, z, vf_set(-0x1.d70262p-2f));
    m = vf_fma(m, z, vf_set(-0x1.266cdap+0f));
    m = vf_fma(m, z, vf_set(-0x1.001904p+0f));
    m = vf_less(z, vf_set(5.65f), m, vf_set(-151.0f));
    const vf n = vf_round(m);
    const vf r = vf_sub(m, n);
    vf e = vf_set(0x1.5c08dcp-10f);
    e = vf_fma(e, r, vf_set(0x1.3d0c52p-7f));
    e = vf_fma(e, r, vf_set(0x1.c6b6e6p-5f));
    e = vf_fma(e, r, vf_set(0x1.ebf918p-3f));
    e = vf_fma(e, r, vf_set(0x1.62e428p-1f));
    e = vf_fma(e, r, vf_set(1.0f));
    const vf tail = vf_ldexp(e, n);
    const vf far = vf_less(x, vf_set(0.0f), tail, vf_sub(vf_set(1.0f), tail));
    return vf_less(z, vf_set(1.35f), vf_fma(x, p, vf_set(0.5f)), far);
}

/* x / (1 + e^(-a x)) */
VP_INLINE vf vf_swish(vf x, float a)
{
    const vf e = vf_exp(vf_mul(x, vf_set(-a)));
    return vf_div(x, vf_add(e, vf_set(1.0f)));
}

VP_INLINE vf vf_act(vf x, vp_act act)
{
    switch (act) {
    case VP_ACT_GELU:
        return vf_mul(x, vf_phi(x));
    case VP_ACT_GELU_TANH: {
        /* (1 + tanh u) / 2 = sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3) */
        const vf x2 = vf_mul(x, x);
        const vf u = vf_mul(
            x, vf_fma(x2, vf_set(0.044715f * 1.5957691216f), vf_set(1.5957691216f)));
        const vf e = vf_exp(vf_sub(vf_set(0.0f), u));
        return vf_div(x, vf_add(e, vf_set(1.0f)));
    }
    case VP_ACT_QUICK_GELU:
        return vf_swish(x, 1.702f);
    case VP_ACT_SILU:
        return vf_swish(x, 1.0f);
    case VP_ACT_RELU:
        return vf_nan_or(x, vf_max(vf_set(0.0f), x));
    case VP_ACT_NONE:
        break;
    }
    return x;
}

/* Calls `body` with the activation as a constant, so that the choice is made once. */
#define WITH_CONSTANT_ACT(act, body) \
    switch (act) {                   \
    case VP_ACT_NONE:                \
        body(VP_ACT_NONE);           \
        break;                       \
    case VP_ACT_GELU:                \
        body(VP_ACT_GELU);           \
        break;                       \
    case VP_ACT_GELU_TANH:           \
        body(VP_ACT_GELU_TANH);      \
        break;                       \
    case VP_ACT_QUICK_GELU:          \
        body(VP_ACT_QUICK_GELU);     \
        break;                       \
    case VP_ACT_SILU:                \
        body(VP_ACT_SILU);           \
        break;                       \
    case VP_ACT_RELU:                \
        body(VP_ACT_RELU);           \
        break;                       \
    }

void VP_NAME(add)(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf_store(y + i, vf_add(vf_load(y + i), vf_load(x + i)));
    }
    if (i < n) {
        vf_store_n(y + i, vf_add(vf_load_n(y + i, n - i), vf_load_n(x + i, n - i)),
                   n - i);
    }
}

VP_INLINE vf max_with_nan(vf a, vf b)
{
    /* max gives its second operand where either is NaN: only a's NaN could get lost. */
    return vf_nan_or(a, vf_max(a, b));
}

void VP_NAME(maximum)(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf_store(y + i, max_with_nan(vf_load(y + i), vf_load(x + i)));
    }
    if (i < n) {
        vf_store_n(y + i,
                   max_with_nan(vf_load_n(y + i, n - i), vf_load_n(x + i, n - i)),
                   n - i);
    }
}

void VP_NAME(axpby)(float *y, float a, const float *x, float b, size_t n)
{
    const vf va = vf_set(a), vb = vf_set(b);
    size_t i = 0;
    if (b == 0.0f) {
        for (; i + VW <= n; i += VW) {
            vf_store(y + i, vf_mul(va, vf_load(x + i)));
        }
        if (i < n) {
            vf_store_n(y + i, vf_mul(va, vf_load_n(x + i, n - i)), n - i);
        }
        return;
    }
    for (; i + VW <= n; i += VW) {
        vf_store(y + i, vf_fma(va, vf_load(x + i), vf_mul(vb, vf_load(y + i))));
    }
    if (i < n) {
        vf_store_n(
            y + i,
            vf_fma(va, vf_load_n(x + i, n - i), vf_mul(vb, vf_load_n(y + i, n - i))),
            n - i);
    }
}

/* n lanes at column c of a product's row, finished and stored; n == VW but in a tail. The
 * pointers are of that row. */
VP_INLINE void finish_vector(const vp_finish *f, const float *product,
                             const float *gate, const float *residual, float *out,
                             size_t c, size_t n, vp_act act)
{
#define LOAD(p) (n == VW ? vf_load((p) + c) : vf_load_n((p) + c, n))
    vf v = LOAD(product);
    if (f->bias != NULL) {
        v = vf_add(v, LOAD(f->bias));
    }
    if (gate != NULL) {
        vf g = LOAD(gate);
        if (f->gate_bias != NULL) {
            g = vf_add(g, LOAD(f->gate_bias));
        }
        v = vf_mul(vf_act(g, act), v);
    } else {
        v = vf_act(v, act);
    }
    if (f->scale != NULL) {
        v = vf_mul(v, LOAD(f->scale));
    }
    if (residual != NULL) {
        v = vf_add(LOAD(residual), v);
    }
#undef LOAD
    if (n == VW) {
        vf_store(out + c, v);
    } else {
        vf_store_n(out + c, v, n);
    }
}

VP_INLINE void finish_tile(const float *product, size_t stride, size_t rows,
                           size_t cols, const vp_finish *how, vp_act act)
{
    const vp_finish f = *how; /* a copy: no store can change it */
    for (size_t r = 0; r < rows; r++) {
        const float *row = product + r * stride;
        const float *gate = f.gate != NULL ? f.gate + r * f.gate_stride : NULL;
        const float *residual =
            f.residual != NULL ? f.residual + r * f.residual_stride : NULL;
        float *out = f.out + r * f.out_stride;
        size_t c = 0;
        for (; c + VW <= cols; c += VW) {
            finish_vector(&f, row, gate, residual, out, c, VW, act);
        }
        if (c < cols) {
            finish_vector(&f, row, gate, residual, out, c, cols - c, act);
        }
    }
}

void VP_NAME(finish)(const float *product, size_t stride, size_t rows, size_t cols,
                     const vp_finish *how)
{
#define BODY(constant) finish_tile(product, stride, rows, cols, how, constant)
    WITH_CONSTANT_ACT(how->act, BODY)
#undef BODY
}

void VP_NAME(normalize_u8)(float *out, const uint8_t *pixels, size_t n, size_t channels,
                           const float *mean, const float *std)
{
    /* 255 and std divide, as in torchvision's to_tensor and normalize: the same bits. */
    for (size_t c = 0; c < channels; c++) {
        float *plane = out + c * n;
        const vf m = vf_set(mean[c]), s = vf_set(std[c]), full = vf_set(255.0f);
        size_t i = 0;
        for (; i + VW <= n; i += VW) {
            uint8_t gathered[VW];
            for (size_t lane = 0; lane < VW; lane++) {
                gathered[lane] = pixels[(i + lane) * channels + c];
            }
            const vf v = vf_div(vf_from_u8(gathered), full);
            vf_store(plane + i, vf_div(vf_sub(v, m), s));
        }
        for (; i < n; i++) {
            plane[i] = ((float)pixels[i * channels + c] / 255.0f - mean[c]) / std[c];
        }
    }
}
