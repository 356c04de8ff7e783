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

/* X(name, exact, parameters). exact: the bits are the same on every target, and plain C's. */
#define VP_KERNELS(X)                                                                        \
    /* y[n] = (x - mean(x)) / sqrt(var(x) + eps) * w + b; w, b may be NULL; in place */      \
    X(layer_norm, false,                                                                     \
      (float *y, const float *x, const float *w, const float *b, size_t n, float eps))       \
    /* y[n] = x / sqrt(mean(x^2) + eps) * w; w may be NULL; in place */                      \
    X(rms_norm, false,                                                                       \
      (float *y, const float *x, const float *w, size_t n, float eps))                       \
    /* x[n] = e^(scale x - max) / sum, in place; all 0 where every x is -inf */              \
    X(softmax, false, (float *x, size_t n, float scale))                                     \
    /* One block of an online softmax, x[n] in place, scale > 0: x = e^(scale (x - m'))    \
     * where m' is the greater of *max and the block's maximum; *shrink = e^(scale (*max - \
     * m')); *sum = *sum * *shrink + sum of x; *max = m'. Start with *max = -INFINITY,     \
     * *sum = 0. */ \
    X(softmax_block, false,                                                                  \
      (float *x, size_t n, float scale, float *max, float *sum, float *shrink))              \
    /* y[n] += x */                                                                          \
    X(add, true, (float *y, const float *x, size_t n))                                       \
    /* y[n] = max(y, x), NaN wins */                                                         \
    X(maximum, true, (float *y, const float *x, size_t n))                                   \
    /* y[n] = a x + b y; y is not read where b is 0 */                                       \
    X(axpby, false, (float *y, float a, const float *x, float b, size_t n))                  \
    /* y[cols][rows], rows of y ldy apart = x[rows][cols] transposed */                      \
    X(transpose, true,                                                                       \
      (float *y, size_t ldy, const float *x, size_t ldx, size_t rows, size_t cols))          \
    /* a tile of a product, product[rows][stride], finished and stored */                    \
    X(finish, false,                                                                         \
      (const float *product, size_t stride, size_t rows, size_t cols,                        \
       const vp_finish *how))                                                                \
    /* out[c][i] = (pixels[i][c] / 255 - mean[c]) / std[c] for n pixels of c channels */     \
    X(normalize_u8, true,                                                                    \
      (float *out, const uint8_t *pixels, size_t n, size_t channels,                         \
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
