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

#endif
