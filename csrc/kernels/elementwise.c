/* Activations, sums of rows, the end of a matrix product, pixel normalisation.
 *
 * Compiled once per target. Each kernel walks whole vectors, then one tail of n < VW lanes
 * through vf_load_n / vf_store_n. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/target.h"

/* The normal distribution's Phi(x) = (1 + erf(x / sqrt 2)) / 2. Phi(-|x|) = 2^m with m =
 * -1 + |x| q(|x|), and Phi(|x|) is one minus that. q and 2^r on [-1/2, 1/2] are our own
 * minimax fits: 3.7e-8 (1 + x^2) up to 5.65 and 7e-8 of the value, x^2 being what half an ulp
 * of x alone makes of it. From there q falls on, to m = -127 at 11.355: nothing. */
VP_INLINE vf vf_phi(vf x)
{
    const vf z = vf_min(vf_set(11.355f), vf_abs(x)); /* NaN passes, as in vf_exp */
    const vf z2 = vf_mul(z, z);
    /* both in pairs (Estrin): half the latency of a chain */
#define PAIR(b, a) vf_fma(vf_set(b), z, vf_set(a))
    vf q = PAIR(-0x1.962386p-26f, 0x1.83b184p-21f);
    q = vf_fma(q, z2, PAIR(-0x1.3db7a6p-17f, 0x1.1b767ap-14f));
    q = vf_fma(q, z2, PAIR(-0x1.04f436p-12f, -0x1.0ae9ecp-14f));
    q = vf_fma(q, z2, PAIR(0x1.cc43aep-8f, -0x1.ae0076p-5f));
    q = vf_fma(q, z2, PAIR(-0x1.d63a1cp-2f, -0x1.26aedcp+0f));
#undef PAIR
    const vf shifted = vf_fma(q, z, vf_set(VP_SHIFT - 1.0f));
    /* m - n, rounded once */
    const vf r = vf_fma(q, z, vf_sub(vf_set(-1.0f), vf_whole(shifted)));
    const vf r2 = vf_mul(r, r);
#define PAIR(b, a) vf_fma(vf_set(b), r, vf_set(a))
    vf e = PAIR(0x1.5c08dcp-10f, 0x1.3d0c52p-7f);
    e = vf_fma(e, r2, PAIR(0x1.c6b6e6p-5f, 0x1.ebf918p-3f));
    e = vf_fma(e, r2, PAIR(0x1.62e428p-1f, 1.0f));
#undef PAIR
    const vf tail = vf_mul(e, vf_two_to(shifted));
    return vf_if_negative(x, tail, vf_sub(vf_set(1.0f), tail));
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

/* n lanes of each row at column c of a tile, finished and stored; n == VW but in a tail. What
 * is absent is the number that changes nothing: -0 added, 1 multiplied. */
VP_INLINE void finish_column(const vp_finish *f, const float *product, size_t stride,
                             size_t rows, size_t c, size_t n, vp_act act, bool gated,
                             bool residual)
{
#define LOAD(p) (n == VW ? vf_load((p) + c) : vf_load_n((p) + c, n))
#define LOAD_OR(p, otherwise) ((p) != NULL ? LOAD(p) : vf_set(otherwise))
    const vf bias = LOAD_OR(f->bias, -0.0f);
    const vf gate_bias = gated ? LOAD_OR(f->gate_bias, -0.0f) : bias;
    const vf scale = LOAD_OR(f->scale, 1.0f);
    for (size_t r = 0; r < rows; r++) {
        vf v = vf_add(LOAD(product + r * stride), bias);
        if (gated) {
            const vf g = vf_add(LOAD(f->gate + r * f->gate_stride), gate_bias);
            v = vf_mul(vf_act(g, act), v);
        } else {
            v = vf_act(v, act);
        }
        v = vf_mul(v, scale);
        if (residual) {
            v = vf_add(LOAD(f->residual + r * f->residual_stride), v);
        }
        if (n == VW) {
            vf_store(f->out + r * f->out_stride + c, v);
        } else {
            vf_store_n(f->out + r * f->out_stride + c, v, n);
        }
    }
#undef LOAD_OR
#undef LOAD
}

VP_INLINE void finish_tile(const float *product, size_t stride, size_t rows,
                           size_t cols, const vp_finish *how, vp_act act)
{
    const vp_finish f = *how; /* a copy: no store can change it */
    size_t c = 0;
    for (; c + VW <= cols; c += VW) {
        if (f.gate != NULL) {
            finish_column(&f, product, stride, rows, c, VW, act, true,
                          f.residual != NULL);
        } else if (f.residual != NULL) {
            finish_column(&f, product, stride, rows, c, VW, act, false, true);
        } else {
            finish_column(&f, product, stride, rows, c, VW, act, false, false);
        }
    }
    if (c < cols) {
        finish_column(&f, product, stride, rows, c, cols - c, act, f.gate != NULL,
                      f.residual != NULL);
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
