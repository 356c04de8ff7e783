/* The element-wise and reduction kernels: one list, one table of functions per target.
 *
 * A kernel exists when it has a line in VP_KERNELS; the tables, the dispatch, the tests and
 * the benchmarks read that list. Kernels are void, know no models, allocate nothing and check
 * nothing: the ops above have done that. All data is float32; pointers need no alignment;
 * nothing past the given counts is read or written. Outputs may be the same memory as inputs
 * (exactly, not shifted) where "in place" is said. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_KERNELS_H
#define VP_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu.h"

/* timm's activations. */
typedef enum {
    VP_ACT_NONE,
    VP_ACT_GELU,       /* x/2 (1 + erf(x / sqrt 2)) */
    VP_ACT_GELU_TANH,  /* its tanh approximation */
    VP_ACT_QUICK_GELU, /* x sigmoid(1.702 x) */
    VP_ACT_SILU,       /* x sigmoid(x) */
    VP_ACT_RELU,
} vp_act;

/* What happens to a tile of a matrix product before it is stored (all but out may be
 * absent):  out = residual + scale * act(product + bias)
 * or, with a gate:  out = residual + scale * (act(gate + gate_bias) * (product + bias)). */
typedef struct {
    const float *bias; /* [cols] */
    const float *gate; /* [rows][gate_stride]: a second product of the same shape */
    size_t gate_stride;
    const float *gate_bias; /* [cols] */
    vp_act act;
    const float *scale;    /* [cols] LayerScale's gamma */
    const float *residual; /* [rows][residual_stride], may be out */
    size_t residual_stride;
    float *out; /* [rows][out_stride] */
    size_t out_stride;
} vp_finish;

/* One step of torch.optim.AdamW, all that depends on the step worked out before:
 *   m += rest1 (g - m)    v = beta2 v + rest2 g^2    w -= decay w + step m / (root sqrt(v) + eps) */
typedef struct {
    float rest1;        /* 1 - beta1 */
    float beta2, rest2; /* rest2 = 1 - beta2 */
    float decay;        /* lr times weight_decay */
    float step;         /* lr / (1 - beta1^t) */
    float root;         /* 1 / sqrt(1 - beta2^t) */
    float eps;
} vp_adamw;

/* One step of torch.optim.SGD, dampening 0, on a gradient that is multiplied before:
 *   d = scale (g + decay w)    buf = momentum buf + d
 *   w -= lr buf, or, nesterov, lr (d + momentum buf) */
typedef struct {
    float lr, momentum, decay, scale;
    bool nesterov;
} vp_sgd;

/* X(name, exact, parameters). exact: the bits are the same on every target, and plain C's. */
#define VP_KERNELS(X)                                                                               \
    /* y[n] = (x - mean(x)) / sqrt(var(x) + eps) * w + b; w, b may be NULL; in place */             \
    X(layer_norm, false,                                                                            \
      (float *y, const float *x, const float *w, const float *b, size_t n, float eps))              \
    /* y[n] = x / sqrt(mean(x^2) + eps) * w; w may be NULL; in place */                             \
    X(rms_norm, false,                                                                              \
      (float *y, const float *x, const float *w, size_t n, float eps))                              \
    /* x[n] = e^(scale x - max) / sum, in place; all 0 where every x is -inf */                     \
    X(softmax, false, (float *x, size_t n, float scale))                                            \
    /* One block of an online softmax, x[n] in place, scale > 0: x = e^(scale (x - m'))    \
     * where m' is the greater of *max and the block's maximum; *shrink = e^(scale (*max - \
     * m')); *sum = *sum * *shrink + sum of x; *max = m'. Start with *max = -INFINITY,     \
     * *sum = 0. */        \
    X(softmax_block, false,                                                                         \
      (float *x, size_t n, float scale, float *max, float *sum, float *shrink))                     \
    /* y[n] += x */                                                                                 \
    X(add, true, (float *y, const float *x, size_t n))                                              \
    /* y[n] = max(y, x), NaN wins */                                                                \
    X(maximum, true, (float *y, const float *x, size_t n))                                          \
    /* y[n] = a x + b y; y is not read where b is 0 */                                              \
    X(axpby, false, (float *y, float a, const float *x, float b, size_t n))                         \
    /* y[cols][rows], rows of y ldy apart = x[rows][cols] transposed */                             \
    X(transpose, true,                                                                              \
      (float *y, size_t ldy, const float *x, size_t ldx, size_t rows, size_t cols))                 \
    /* a tile of a product, product[rows][stride], finished and stored */                           \
    X(finish, false,                                                                                \
      (const float *product, size_t stride, size_t rows, size_t cols,                               \
       const vp_finish *how))                                                                       \
    /* The gradient of layer_norm's x, dx (+)= as `add` says, and dw[n] += dy (x - mean) rstd, \
     * db[n] += dy; w, dw, db may be NULL. dx may be dy, unless add, or x. */    \
    X(layer_norm_backward, false,                                                                   \
      (float *dx, const float *dy, const float *x, const float *w, float *dw,                       \
       float *db, size_t n, float eps, bool add))                                                   \
    /* The same of rms_norm. */                                                                     \
    X(rms_norm_backward, false,                                                                     \
      (float *dx, const float *dy, const float *x, const float *w, float *dw,                       \
       size_t n, float eps, bool add))                                                              \
    /* *sum = sum of x[n] y[n] */                                                                   \
    X(dot, false, (float *sum, const float *x, const float *y, size_t n))                           \
    /* ds[n] = scale p (dp - sum of p dp), the gradient of s where p = softmax(scale s); ds  \
     * may be p or dp */      \
    X(softmax_backward, false,                                                                      \
      (float *ds, const float *p, const float *dp, size_t n, float scale))                          \
    /* dx[n] = dy act'(x), as torch: 0 for relu'(0); the limit at infinity. dx may be dy or x */    \
    X(act_backward, false,                                                                          \
      (float *dx, const float *dy, const float *x, size_t n, vp_act act))                           \
    /* Of h = act(g) v: dv[n] = dh act(g), dg[n] = dh v act'(g); dv or dg may be dh, v, g */        \
    X(gate_backward, false,                                                                         \
      (float *dv, float *dg, const float *dh, const float *v, const float *g,                       \
       size_t n, vp_act act))                                                                       \
    /* y[i] = x[i] / (1 - rate), or 0 where number first + i of the stream `key` is dropped  \
     * (base/drop.h); in place */      \
    X(drop, true,                                                                                   \
      (float *y, const float *x, size_t n, uint64_t key, uint32_t first, float rate))               \
    /* w, m, v[n]: one step, from the gradient g */                                                 \
    X(adamw, false,                                                                                 \
      (float *w, float *m, float *v, const float *g, size_t n, const vp_adamw *how))                \
    /* w, buf[n]: one step, from the gradient g */                                                  \
    X(sgd, false, (float *w, float *buf, const float *g, size_t n, const vp_sgd *how))              \
    /* y[n] = x to the nearest bfloat16, float16; ties to even; NaN stays one, quiet */             \
    X(to_bf16, true, (uint16_t *y, const float *x, size_t n))                                       \
    X(to_f16, true, (uint16_t *y, const float *x, size_t n))                                        \
    /* y[n] = x of float16, the same number; NaN quiet, with its payload */                         \
    X(from_f16, true, (float *y, const uint16_t *x, size_t n))                                      \
    /* q[n] = x in integers 0 to `levels`, x = *scale (q - *zero) up to half a *scale: with lo  \
     * the least and hi the greatest of x and 0, range = hi - lo, inverse = levels / range,      \
     * each step rounded to float32: *scale = range / levels, *zero = -lo inverse, q = x inverse \
     * rounded (ties to even), plus *zero, cut to [0, levels]. A row with a NaN, or whose range  \
     * is not finite: *scale = NaN, *zero = q = 0. One whose inverse is not: *scale = q = 0. */   \
    X(quantize_u8, true,                                                                            \
      (uint8_t *q, const float *x, size_t n, float *scale,                                          \
       int32_t *zero)) /* levels 255 */                                                             \
    X(quantize_s16, true,                                                                           \
      (int16_t *q, const float *x, size_t n, int32_t levels, float *scale,                          \
       int32_t *zero))                                                                              \
    /* A tile of int32 in place to float32: c[rows][cols] = (c - zero[row] sum[col]) modulo 2^32  \
     * as float32, times (row_scale[row] scale[col]) */ \
    X(dequantize, true,                                                                             \
      (float *c, size_t ldc, size_t rows, size_t cols, const float *row_scale,                      \
       const int32_t *zero, const float *scale, const int32_t *sum))                                \
    /* Of each head, x[h][d] = x cos + other(x) sin with cos[d], sin[d] at table + h apart       \
     * (ops/rope.h); half or interleaved layout; inverse: sines of the other sign. d is a       \
     * multiple of 4. In place */  \
    X(rotate, false,                                                                                \
      (float *x, size_t heads, size_t d, const float *table, size_t apart, bool half,               \
       bool inverse))                                                                               \
    /* out[c][i] = (pixels[i][c] / 255 - mean[c]) / std[c] for n pixels of c channels */            \
    X(normalize_u8, true,                                                                           \
      (float *out, const uint8_t *pixels, size_t n, size_t channels,                                \
       const float *mean, const float *std))

typedef struct {
#define VP_KERNEL_FIELD(name, exact, parameters) void(*name) parameters;
    VP_KERNELS(VP_KERNEL_FIELD)
#undef VP_KERNEL_FIELD
} vp_kernels;

extern const vp_kernels vp_kernels_reference; /* plain C, kept slow and clear */
#define VP_TABLE_DECLARE(name, arch, vectors, features) \
    VP_ON_##arch(extern const vp_kernels vp_kernels_##vectors;)
VP_TARGETS(VP_TABLE_DECLARE)
#undef VP_TABLE_DECLARE

/* The table of a target that this machine supports. */
const vp_kernels *vp_kernels_for(vp_target target);

/* The target in use and its table. Chosen at the first call: VITPOOL_TARGET's, else the
 * best. vp_target_current tells an unusable VITPOOL_TARGET by VP_TARGET_COUNT, and the
 * best target is used. */
const vp_kernels *vp_kernels_get(void);
vp_target vp_target_current(void);

#endif
