/* Sums of rows, the end of a matrix product (with its activation), pixel normalisation.
 *
 * Compiled once per target. Each kernel walks whole vectors, then one tail of n < VW lanes
 * through vf_load_n / vf_store_n. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/act.h"
#include "kernels/target.h"

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
    VP_WITH_CONSTANT_ACT(how->act, BODY)
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
