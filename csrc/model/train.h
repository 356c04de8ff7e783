/* A training pass: the loss of a batch, and the gradient of every parameter that is asked for.
 *
 * The model is not changed (see vit.h): whoever trains keeps the numbers, changes them by the
 * gradients and makes the next vp_vit of them. Blocks of one attention and one MLP train (timm's
 * Block, EvaBlock, Beit's Block and RelPosBlock, and those of them that norm after a branch), with
 * all norms, MLPs, LayerScale, qk_norm, rotary embedding, relative positions and kinds of q, k
 * and v; so does what stands before and after them. What does not is named by train_check.c.
 *
 * Gradients do not depend on the number of threads, to the bit: no sum's order does, and the
 * images of a chunk are as many as `memory` says. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_TRAIN_H
#define VP_MODEL_TRAIN_H

#include <stdint.h>

#include "model/vit.h"
#include "ops/loss.h"

/* Where the batch comes in; what stands before it is not trained. */
#define VP_ENTRIES(X)       \
    X(IMAGES, "images")     \
    X(BLOCK, "block")       \
    X(FEATURES, "features") \
    X(PRE_LOGITS, "pre_logits")

typedef enum {
#define VP_ENTRY_ENUM(entry, name) VP_ENTRY_##entry,
    VP_ENTRIES(VP_ENTRY_ENUM)
#undef VP_ENTRY_ENUM
        VP_ENTRY_COUNT,
} vp_entry;

extern const char *const vp_entry_names[VP_ENTRY_COUNT];

/* timm's constructor options of those names, from 0 to below 1. */
#define VP_RATES(X) \
    X(drop)         \
    X(pos_drop)     \
    X(patch_drop)   \
    X(proj_drop)    \
    X(attn_drop)    \
    X(drop_path)

typedef struct {
#define VP_RATE_FIELD(name) double name;
    VP_RATES(VP_RATE_FIELD)
#undef VP_RATE_FIELD
} vp_rates;

/* Sites of dropout (base/drop.h): those of block i are 8 i + these; depth 8 + these. */
enum {
    VP_SITE_ATTN,
    VP_SITE_PROJ,
    VP_SITE_PATH1,
    VP_SITE_MLP,
    VP_SITE_FC2,
    VP_SITE_PATH2
};
enum { VP_SITE_HEAD, VP_SITE_POS, VP_SITE_PATCH };

typedef struct {
    vp_entry entry;
    size_t batch;
    const float *images; /* IMAGES: (B, in_chans, height, width) */
    size_t height, width;
    /* resampled to this grid, as in vp_forward; its gradient is then of that grid as well.
     * NULL: the model's own */
    const float *pos_embed;
    const float *rope; /* the rotary table of this grid, as in vp_forward; or NULL */
    /* BLOCK: tokens (B, num_tokens, C) before block `first`, depth: before the final norm;
     * FEATURES: after that norm; PRE_LOGITS: (B, C), what the head reads (num_tokens 1) */
    const float *tokens;
    size_t num_tokens, first;
    const vp_mask *mask; /* of attention, as in vp_forward; or NULL */
    vp_loss_kind loss;   /* see vp_loss; of the logits (B, groups, K / groups) */
    size_t groups;
    const float *targets; /* (B, K / groups) */
    const float *weights; /* (K / groups), or NULL */
    float scale;
    vp_rates rates;
    uint64_t seed;      /* of the masks of dropout */
    size_t image;       /* the first image's place in the batch, for those masks */
    bool checkpointing; /* keep a block's input alone, and compute the rest again */
    size_t memory;      /* bytes that the activations of a chunk of images may take; one
                           image goes through at least */
    float *const *grads; /* [num_params]: where gradients are added; NULL: not wanted */
    double *losses;      /* [groups]: set */
    float *logits;       /* (B, K): set */
} vp_gradients;

/* Can it run? VP_ERR_VALUE says what cannot. Tokens of an image go to *tokens. Reads no
 * array. */
vp_status vp_vit_check_gradients(const vp_vit *vit, const vp_gradients *gradients,
                                 size_t *tokens, vp_error *err);

/* Runs it; on failure nothing was written. VP_ERR_VALUE, VP_ERR_MEMORY. Thread-safe. */
vp_status vp_vit_gradients(const vp_vit *vit, vp_workspaces *workspaces,
                           const vp_gradients *gradients, vp_error *err);

#endif
