/* The kernels in plain C: slow, in double where it helps, kept as what the fast ones are
 * tested against. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/drop.h"
#include "kernels/ref.h"

void vp_ref_layer_norm(float *y, const float *x, const float *w, const float *b,
                       size_t n, float eps)
{
    double mean = 0.0, var = 0.0;
    for (size_t i = 0; i < n; i++) {
        mean += x[i];
    }
    mean /= (double)n;
    for (size_t i = 0; i < n; i++) {
        var += (x[i] - mean) * (x[i] - mean);
    }
    var /= (double)n;
    for (size_t i = 0; i < n; i++) {
        const double v = (x[i] - mean) / sqrt(var + eps);
        y[i] = (float)(v * (w != NULL ? w[i] : 1.0) + (b != NULL ? b[i] : 0.0));
    }
}

void vp_ref_rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)x[i] * x[i];
    }
    for (size_t i = 0; i < n; i++) {
        const double v = x[i] / sqrt(squares / (double)n + eps);
        y[i] = (float)(v * (w != NULL ? w[i] : 1.0));
    }
}

static double ref_act(double x, vp_act act)
{
    switch (act) {
    case VP_ACT_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case VP_ACT_GELU_TANH: /* (1 + tanh u) / 2 is 1 / (1 + e^(-2 u)), without cancellation */
        return x / (1.0 + exp(-1.59576912160573071176 * (x + 0.044715 * x * x * x)));
    case VP_ACT_QUICK_GELU:
        return x / (1.0 + exp(-1.702 * x));
    case VP_ACT_SILU:
        return x / (1.0 + exp(-x));
    case VP_ACT_RELU:
        return x > 0.0 || isnan(x) ? x : 0.0;
    case VP_ACT_NONE:
        break;
    }
    return x;
}

void vp_ref_softmax_block(float *x, size_t n, float scale, float *max, float *sum,
                          float *shrink)
{
    float next = *max;
    for (size_t i = 0; i < n; i++) {
        next = x[i] > next ? x[i] : next;
    }
    const double shift = next == -INFINITY ? 0.0 : next;
    *shrink = *max == next ? 1.0f : (float)exp(scale * ((double)*max - next));
    double total = *sum * *shrink;
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)exp(scale * (x[i] - shift));
        total += x[i];
    }
    *sum = (float)total;
    *max = next;
}

void vp_ref_softmax(float *x, size_t n, float scale)
{
    double max = -INFINITY, sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        max = (double)scale * x[i] > max ? (double)scale * x[i] : max;
    }
    max = max == -INFINITY ? 0.0 : max;
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)scale * x[i] - max);
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = sum == 0.0 ? 0.0f : (float)(exp((double)scale * x[i] - max) / sum);
    }
}

void vp_ref_add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

void vp_ref_maximum(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = x[i] > y[i] || isnan(x[i]) ? x[i] : y[i];
    }
}

void vp_ref_axpby(float *y, float a, const float *x, float b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = b == 0.0f ? a * x[i] : (float)((double)a * x[i] + (double)b * y[i]);
    }
}

void vp_ref_transpose(float *y, size_t ldy, const float *x, size_t ldx, size_t rows,
                      size_t cols)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            y[c * ldy + r] = x[r * ldx + c];
        }
    }
}

void vp_ref_finish(const float *product, size_t stride, size_t rows, size_t cols,
                   const vp_finish *how)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            double v = product[r * stride + c];
            v += how->bias != NULL ? how->bias[c] : 0.0;
            if (how->gate != NULL) {
                double g = how->gate[r * how->gate_stride + c];
                g += how->gate_bias != NULL ? how->gate_bias[c] : 0.0;
                v *= ref_act(g, how->act);
            } else {
                v = ref_act(v, how->act);
            }
            v *= how->scale != NULL ? how->scale[c] : 1.0;
            if (how->residual != NULL) {
                v += how->residual[r * how->residual_stride + c];
            }
            how->out[r * how->out_stride + c] = (float)v;
        }
    }
}

void vp_ref_normalize_u8(float *out, const uint8_t *pixels, size_t n, size_t channels,
                         const float *mean, const float *std)
{
    for (size_t c = 0; c < channels; c++) {
        for (size_t i = 0; i < n; i++) {
            const float v = (float)pixels[i * channels + c] / 255.0f;
            out[c * n + i] = (v - mean[c]) / std[c];
        }
    }
}

/* dx (+)= scale (g - mean(g) - h mean(g h)), g = dy w, h = (x - mean) scale */
static void ref_norm_backward(float *dx, const float *dy, const float *x,
                              const float *w, float *dw, float *db, size_t n,
                              double mean, double scale, bool centred, bool add)
{
    double sum = 0.0, dot = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double g = dy[i] * (w != NULL ? (double)w[i] : 1.0);
        sum += g / (double)n;
        dot += g * (x[i] - mean) * scale / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        const double g = dy[i] * (w != NULL ? (double)w[i] : 1.0);
        const double h = (x[i] - mean) * scale;
        if (dw != NULL) {
            dw[i] = (float)(dw[i] + dy[i] * h);
        }
        if (db != NULL) {
            db[i] += dy[i];
        }
        const double v = scale * (g - (centred ? sum : 0.0) - h * dot);
        dx[i] = (float)(v + (add ? dx[i] : 0.0));
    }
}

void vp_ref_layer_norm_backward(float *dx, const float *dy, const float *x,
                                const float *w, float *dw, float *db, size_t n,
                                float eps, bool add)
{
    double mean = 0.0, var = 0.0;
    for (size_t i = 0; i < n; i++) {
        mean += x[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        var += (x[i] - mean) * (x[i] - mean) / (double)n;
    }
    ref_norm_backward(dx, dy, x, w, dw, db, n, mean, 1.0 / sqrt(var + eps), true, add);
}

void vp_ref_rms_norm_backward(float *dx, const float *dy, const float *x,
                              const float *w, float *dw, size_t n, float eps, bool add)
{
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)x[i] * x[i] / (double)n;
    }
    ref_norm_backward(dx, dy, x, w, dw, NULL, n, 0.0, 1.0 / sqrt(squares + eps), false,
                      add);
}

void vp_ref_dot(float *sum, const float *x, const float *y, size_t n)
{
    double total = 0.0;
    for (size_t i = 0; i < n; i++) {
        total += (double)x[i] * y[i];
    }
    *sum = (float)total;
}

void vp_ref_softmax_backward(float *ds, const float *p, const float *dp, size_t n,
                             float scale)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)p[i] * dp[i];
    }
    for (size_t i = 0; i < n; i++) {
        ds[i] = (float)((double)scale * p[i] * (dp[i] - sum));
    }
}

/* The slope of x / (1 + e^-v), where dv is v's. */
static double ref_swish_slope(double x, double v, double dv)
{
    const double s = 1.0 / (1.0 + exp(-v));
    return s + x * dv * s / (1.0 + exp(v));
}

static double ref_act_slope(double x, vp_act act)
{
    /* at 100 every slope is its limit, and nothing overflows */
    const double z = x > 100.0 ? 100.0 : x < -100.0 ? -100.0 : x;
    const double a = 1.59576912160573071176;
    switch (act) {
    case VP_ACT_GELU:
        return 0.5 * erfc(-z * 0.70710678118654752440) +
               z * exp(-0.5 * z * z) * 0.39894228040143267794;
    case VP_ACT_GELU_TANH:
        return ref_swish_slope(z, a * z * (1.0 + 0.044715 * z * z),
                               a * (1.0 + 3 * 0.044715 * z * z));
    case VP_ACT_QUICK_GELU:
        return ref_swish_slope(z, 1.702 * z, 1.702);
    case VP_ACT_SILU:
        return ref_swish_slope(z, z, 1.0);
    case VP_ACT_RELU:
        return isnan(x) ? x : x > 0.0 ? 1.0 : 0.0;
    case VP_ACT_NONE:
        break;
    }
    return 1.0;
}

void vp_ref_act_backward(float *dx, const float *dy, const float *x, size_t n,
                         vp_act act)
{
    for (size_t i = 0; i < n; i++) {
        dx[i] = (float)(dy[i] * ref_act_slope(x[i], act));
    }
}

void vp_ref_gate_backward(float *dv, float *dg, const float *dh, const float *v,
                          const float *g, size_t n, vp_act act)
{
    for (size_t i = 0; i < n; i++) {
        const double h = dh[i], gate = g[i], value = v[i];
        dv[i] = (float)(h * ref_act(gate, act));
        dg[i] = (float)(h * value * ref_act_slope(gate, act));
    }
}

void vp_ref_drop(float *y, const float *x, size_t n, uint64_t key, uint32_t first,
                 float rate)
{
    const float scale = (float)(1.0 / (1.0 - (double)rate));
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = vp_drop_bits(key, first + (uint32_t)i);
        y[i] = bits < vp_drop_limit(rate) ? 0.0f : x[i] * scale;
    }
}

void vp_ref_adamw(float *w, float *m, float *v, const float *g, size_t n,
                  const vp_adamw *how)
{
    for (size_t i = 0; i < n; i++) {
        const double d = g[i];
        const double vm = m[i] + how->rest1 * (d - m[i]);
        const double vv = (double)how->beta2 * v[i] + how->rest2 * d * d;
        m[i] = (float)vm;
        v[i] = (float)vv;
        w[i] = (float)(w[i] - ((double)how->decay * w[i] +
                               how->step * vm / (how->root * sqrt(vv) + how->eps)));
    }
}

void vp_ref_sgd(float *w, float *buf, const float *g, size_t n, const vp_sgd *how)
{
    for (size_t i = 0; i < n; i++) {
        const double d = how->scale * (g[i] + (double)how->decay * w[i]);
        const double b = (double)how->momentum * buf[i] + d;
        buf[i] = (float)b;
        w[i] = (float)(w[i] - how->lr * (how->nesterov ? d + how->momentum * b : b));
    }
}

void vp_ref_rotate(float *x, size_t heads, size_t d, const float *table, size_t apart,
                   bool half, bool inverse)
{
    const double turn = inverse ? -1.0 : 1.0;
    for (size_t h = 0; h < heads; h++, x += d, table += apart) {
        /* pairs of channels (a, b), neither of which is read after it is written */
        for (size_t i = 0; i < d / 2; i++) {
            const size_t a = half ? i : 2 * i, b = half ? i + d / 2 : a + 1;
            const double xa = x[a], xb = x[b];
            x[a] = (float)(xa * table[a] + turn * xb * table[d + a]);
            x[b] = (float)(xb * table[b] + turn * xa * table[d + b]);
        }
    }
}

const vp_kernels vp_kernels_reference = {
#define VP_KERNEL_ENTRY(name, exact, parameters) .name = vp_ref_##name,
    VP_KERNELS(VP_KERNEL_ENTRY)
#undef VP_KERNEL_ENTRY
};
