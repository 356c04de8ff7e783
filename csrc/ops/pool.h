/* timm's global_pool_nlc: one vector from an image's tokens.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_POOL_H
#define VP_OPS_POOL_H

#include "gemm/run.h"

typedef enum {
    VP_REDUCE_AVG,
    VP_REDUCE_MAX,
    VP_REDUCE_AVGMAX, /* (max + mean) / 2 */
    VP_REDUCE_TOKEN,  /* the first token */
} vp_reduce;

/* out[b][n] = reduction over tokens [first, tokens) of x[b][tokens][n], rows ldx apart,
 * images x_image apart; out rows are ldo apart. `first` is not used by TOKEN. With no
 * tokens left, avg is NaN and max is -infinity. */
void vp_pool_run(const vp_run *run, vp_reduce reduce, size_t batch, size_t tokens,
                 size_t first, size_t n, float *out, size_t ldo, const float *x,
                 size_t ldx, size_t x_image);

/* dx[b][tokens][n] = the gradient of vp_pool_run's x, from dout: 0 for tokens that it does
 * not read. The gradient of a maximum is shared evenly by the tokens that reach it, as
 * torch.amax does. dx strides: rows lddx, images dx_image; x as it was (MAX, AVGMAX read it). */
void vp_pool_gradient_run(const vp_run *run, vp_reduce reduce, size_t batch,
                          size_t tokens, size_t first, size_t n, float *dx, size_t lddx,
                          size_t dx_image, const float *dout, size_t lddo,
                          const float *x, size_t ldx, size_t x_image);

#endif
