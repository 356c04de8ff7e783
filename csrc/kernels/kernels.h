/* The element-wise and reduction kernels: one list, one table of functions per target.
 *
 * A kernel exists when it has a line in VP_KERNELS; the tables, the dispatch and the tests
 * read that list. Kernels are void, know no models, allocate nothing and check nothing: the
 * ops above have done that. All data is float32; pointers need no alignment; nothing past
 * the given counts is read or written. Outputs may be the same memory as inputs (exactly,
 * not shifted) where "in place" is said. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_KERNELS_H
#define VP_KERNELS_KERNELS_H

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

/* X(name, parameters) */
#define VP_KERNELS(X)                                                                      \
    /* y[n] = (x - mean(x)) / sqrt(var(x) + eps) * w + b; w, b may be NULL; in place */    \
    X(layer_norm,                                                                          \
      (float *y, const float *x, const float *w, const float *b, size_t n, float eps))     \
    /* y[n] = x / sqrt(mean(x^2) + eps) * w; w may be NULL; in place */                    \
    X(rms_norm, (float *y, const float *x, const float *w, size_t n, float eps))           \
    /* y[n] = act(x); in place */                                                          \
    X(activate, (float *y, const float *x, size_t n, vp_act act))                          \
    /* x[n] = e^(scale x - max) / sum, in place; all 0 where every x is -inf */            \
    X(softmax, (float *x, size_t n, float scale))                                          \
    /* One block of an online softmax, x[n] in place: x = e^(scale x - m') where m' is   \
     * the greater of *max and the block's maximum; *sum = *sum * e^(*max - m') + sum of \
     * x; *shrink = e^(*max - m'); *max = m'. Start with *max = -INFINITY, *sum = 0. */ \
    X(softmax_block,                                                                       \
      (float *x, size_t n, float scale, float *max, float *sum, float *shrink))            \
    /* y[n] += x */                                                                        \
    X(add, (float *y, const float *x, size_t n))                                           \
    /* y[n] = max(y, x), NaN wins */                                                       \
    X(maximum, (float *y, const float *x, size_t n))                                       \
    /* y[n] = a x + b y; y is not read where b is 0 */                                     \
    X(axpby, (float *y, float a, const float *x, float b, size_t n))                       \
    /* *out = sum of x[n] y[n] */                                                          \
    X(dot, (float *out, const float *x, const float *y, size_t n))                         \
    /* y[cols][rows], rows of y ldy apart = x[rows][cols] transposed */                    \
    X(transpose,                                                                           \
      (float *y, size_t ldy, const float *x, size_t ldx, size_t rows, size_t cols))        \
    /* a tile of a product, product[rows][stride], finished and stored */                  \
    X(finish, (const float *product, size_t stride, size_t rows, size_t cols,              \
               const vp_finish *how))                                                      \
    /* out[c][i] = (pixels[i][c] / 255 - mean[c]) / std[c] for n pixels of c channels */   \
    X(normalize_u8, (float *out, const uint8_t *pixels, size_t n, size_t channels,         \
                     const float *mean, const float *std))

typedef struct {
#define VP_KERNEL_FIELD(name, parameters) void(*name) parameters;
    VP_KERNELS(VP_KERNEL_FIELD)
#undef VP_KERNEL_FIELD
} vp_kernels;

/* The panel[k][nr] that a micro-kernel will most likely need next, and what it does about
 * it between its multiply-adds: fetching it from memory and, for AMX, cutting it into
 * parts. */
typedef struct {
    const float *panel;
    size_t k;
    size_t step; /* bytes of it to deal with for each k; 0: nothing */
    void *ready; /* AMX: where its parts go */
    size_t done; /* how far it is; counted by the micro-kernel */
} vp_ahead;

/* Rows and columns of our AVX-512 micro-kernel's largest tile. */
#define VP_SGEMM_MR 14
#define VP_SGEMM_NR 32

/* c[rows][VP_SGEMM_NR] (+)= a[rows][k] b[k][VP_SGEMM_NR], rows in 1..VP_SGEMM_MR.
 * b is packed; rows of a and c are lda and ldc floats apart; c is 64-byte aligned, ldc a
 * multiple of 16. accumulate: add to c instead of overwriting it. Each element is one chain
 * of fused multiply-adds in the order of k, whatever rows is. k * ahead->step bytes of the
 * panel ahead are prefetched into L2 on the way (any address will do). AVX-512 only. */
typedef void vp_sgemm_ukr(size_t rows, size_t k, const float *a, size_t lda,
                          const float *b, float *c, size_t ldc, int accumulate,
                          vp_ahead *ahead);

/* The same on AMX's tiles, with strips and panels cut into parts (sgemm_ukr_amx.c says
 * how): rows in 1..VP_AMX_MR, all of c's tile rows are written, k is filled up with zeros
 * to a multiple of VP_AMX_DEPTH. A strip or a panel takes VP_AMX_STEP floats for each k;
 * both are 64-byte aligned. AMX only. */
#define VP_AMX_MR 32
#define VP_AMX_NR 32
#define VP_AMX_DEPTH 32
#define VP_AMX_STEP 48
typedef void vp_sgemm_ukr_parts(size_t rows, size_t k, const void *strip,
                                const void *panel, float *c, size_t ldc, int accumulate,
                                vp_ahead *ahead);
/* A thread sets the tiles up before it uses them, and puts their 8 KiB away after. */
void vp_amx_enter__amx(void);
void vp_amx_leave__amx(void);
/* Cuts a[rows][k], rows lda apart; or what is left to cut of a panel. */
typedef void vp_cut_strip(void *strip, const float *a, size_t lda, size_t rows,
                          size_t k);
typedef void vp_cut_panel(vp_ahead *panel);

extern const vp_kernels vp_kernels_reference; /* plain C, kept slow and clear */
extern const vp_kernels vp_kernels_baseline;
#if defined(VP_X86)
extern const vp_kernels vp_kernels_avx2;
extern const vp_kernels vp_kernels_avx512;
extern const vp_kernels vp_kernels_amx;
vp_sgemm_ukr vp_sgemm_ukr_14x32__avx512;
vp_sgemm_ukr_parts vp_sgemm_ukr_32x32__amx;
vp_cut_strip vp_amx_cut_strip__amx;
vp_cut_panel vp_amx_cut_panel__amx;
#endif

/* The table of a target that this machine supports. */
const vp_kernels *vp_kernels_for(vp_target target);

/* The target in use and its table. Chosen at the first call: VITPOOL_TARGET's, else the
 * best. vp_target_current tells an unusable VITPOOL_TARGET by VP_TARGET_COUNT, and the
 * best target is used. */
const vp_kernels *vp_kernels_get(void);
vp_target vp_target_current(void);

#endif
