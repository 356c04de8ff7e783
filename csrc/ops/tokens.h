/* Puts class and register tokens in front of the patches and adds the position embedding:
 * timm's VisionTransformer._pos_embed. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_TOKENS_H
#define VP_OPS_TOKENS_H

#include "gemm/run.h"

typedef struct {
    size_t patches, prefix, width; /* prefix: how many stand before the patches */
    /* class token [1][width]; distillation token [1][width] or register tokens; or NULL */
    const float *prefix_tokens[2];
    size_t prefix_counts[2];
    const float *pos_embed; /* [patches (+ prefix)][width], or NULL */
    int pos_on_prefix; /* the first rows of pos_embed belong to the prefix tokens */
} vp_tokens;

/* x[b][prefix + patches][width]: prefix rows written, position embedding added to the patch
 * rows, which are already there. Rows ldx apart. */
void vp_tokens_run(const vp_run *run, const vp_tokens *tokens, size_t batch, float *x,
                   size_t ldx);

/* Where the gradients of the tokens' parameters are added; NULL: not wanted. */
typedef struct {
    float *prefix_tokens[2]; /* as in vp_tokens */
    float *pos_embed;
} vp_tokens_gradient;

/* += the sum over images of dx[b][prefix + patches][width], rows ldx apart. (The patches'
 * own gradient is dx's rows from prefix on.) */
void vp_tokens_gradient_run(const vp_run *run, const vp_tokens *tokens,
                            const vp_tokens_gradient *gradient, size_t batch,
                            const float *dx, size_t ldx);

#endif
