/* Puts class and register tokens in front of the patches and adds the position embedding:
 * timm's VisionTransformer._pos_embed. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_TOKENS_H
#define VP_OPS_TOKENS_H

#include "gemm/run.h"

typedef struct {
    size_t patches, prefix, width; /* prefix: class and register tokens */
    const float
        *prefix_tokens[2]; /* class token [1][width], register tokens; or NULL */
    size_t prefix_counts[2];
    const float *pos_embed; /* [patches (+ prefix)][width], or NULL */
    int pos_on_prefix; /* the first rows of pos_embed belong to the prefix tokens */
} vp_tokens;

/* x[b][prefix + patches][width]: prefix rows written, position embedding added to the patch
 * rows, which are already there. Rows ldx apart. */
void vp_tokens_run(const vp_run *run, const vp_tokens *tokens, size_t batch, float *x,
                   size_t ldx);

#endif
