/* LayerNorm and RMSNorm over rows. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_NORM_H
#define VP_OPS_NORM_H

#include "gemm/run.h"

typedef enum {
    VP_NORM_NONE,  /* Identity */
    VP_NORM_LAYER, /* timm.layers.LayerNorm */
    VP_NORM_RMS,   /* timm.layers.RmsNorm */
} vp_norm_kind;

typedef struct {
    vp_norm_kind kind;
    float eps;
    const float *weight, *bias; /* [n]; bias is NULL with RMS */
} vp_norm_op;

/* y = norm(x) of `heads` neighbouring vectors of n in each of m rows (1: of whole rows; more:
 * qk_norm), rows ldy, ldx apart; y may be x. With NONE it copies. */
void vp_norm_run(const vp_run *run, const vp_norm_op *norm, size_t m, size_t heads,
                 size_t n, float *y, size_t ldy, const float *x, size_t ldx);

/* The gradient: dx (+)= that of norm's x, as `add` says, from dy; dw[n], db[n] +=, NULL
 * where not wanted (or the norm has none). dx may be dy, unless add. x is the norm's input. Strides and heads as
 * above. partial: vp_norm_gradient_floats floats, for sums over blocks of rows, whose order
 * does not depend on threads. With NONE dx (+)= dy. */
size_t vp_norm_gradient_floats(size_t m, size_t heads, size_t n);
void vp_norm_gradient_run(const vp_run *run, const vp_norm_op *norm, size_t m,
                          size_t heads, size_t n, float *dx, size_t lddx, bool add,
                          const float *dy, size_t lddy, const float *x, size_t ldx,
                          float *dw, float *db, float *partial);

#endif
