/* The kernels in plain C: slow, in double where it helps, kept as what the fast ones are
 * tested against. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "kernels/kernels.h"

static void ref_layer_norm(float *y, const float *x, const float *w, const float *b,
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

static void ref_rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
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

static void ref_softmax_block(float *x, size_t n, float scale, float *max, float *sum,
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

static void ref_softmax(float *x, size_t n, float scale)
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

static void ref_add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void ref_maximum(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = x[i] > y[i] || isnan(x[i]) ? x[i] : y[i];
    }
}

static void ref_axpby(float *y, float a, const float *x, float b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = b == 0.0f ? a * x[i] : (float)((double)a * x[i] + (double)b * y[i]);
    }
}

static void ref_transpose(float *y, size_t ldy, const float *x, size_t ldx, size_t rows,
                          size_t cols)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            y[c * ldy + r] = x[r * ldx + c];
        }
    }
}

static void ref_finish(const float *product, size_t stride, size_t rows, size_t cols,
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

static void ref_normalize_u8(float *out, const uint8_t *pixels, size_t n,
                             size_t channels, const float *mean, const float *std)
{
    for (size_t c = 0; c < channels; c++) {
        for (size_t i = 0; i < n; i++) {
            const float v = (float)pixels[i * channels + c] / 255.0f;
            out[c * n + i] = (v - mean[c]) / std[c];
        }
    }
}

const vp_kernels vp_kernels_reference = {
#define VP_KERNEL_ENTRY(name, exact, parameters) .name = ref_##name,
    VP_KERNELS(VP_KERNEL_ENTRY)
#undef VP_KERNEL_ENTRY
};
