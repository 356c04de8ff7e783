/* One forward pass: its threads and its scratch memory. Internal to model/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_PASS_H
#define VP_MODEL_PASS_H

#include "base/arena.h"
#include "gemm/run.h"
#include "model/workspace.h"

/* A pass over one chunk of a batch after another: scratch matrices with rows of odd cache
 * lines. M rows is B N of a chunk. */
typedef struct {
    vp_run run;
    vp_team team;
    const vp_vit *vit;
    const vp_config *config;
    const vp_forward *request; /* NULL: the head alone, of tokens */
    size_t start;              /* the chunk's first image */
    size_t batch, tokens;      /* images of the chunk, tokens of an image */
    size_t block;              /* the running one; VP_MAP_POOL after the last */
    const vp_mask *mask;       /* for the whole chunk */
    vp_profile *profile;
    vp_counts counts; /* of all chunks, where there is a profile */
    vp_workspaces *workspaces;
    vp_workspace *workspace; /* taken from them; holds all matrices below */
    size_t ldx, ldqkv, ldh, lddiff;
    float *x;    /* [M][C] residual stream */
    float *a;    /* [M][C] normed input, then attention's output */
    float *t;    /* [M][C] sums of parallel branches; or NULL */
    float *qkv;  /* [M][3 C] */
    float *h;    /* [M][hidden (+ C)]; before the blocks the patches' pixels */
    float *diff; /* [M][2 C]; or NULL */
    float *stem_in, *stem_out; /* ConvStem's, of one image */
    /* the head's: R rows is B, or M without a pool */
    float *pooled, *pool_a;          /* [R][C] */
    float *pool_h;                   /* [B][hidden] */
    float *scores;                   /* [M][H], map; rows ldscores apart */
    float *head_means, *head_values; /* [B H][C], map */
    size_t ldscores;
} vp_pass;

/* What of the model a pass runs, and needs scratch for. */
typedef enum {
    VP_PASS_HEAD, /* pools and the classifier alone */
    VP_PASS_WHOLE,
} vp_pass_part;

/* Opens a team and takes a workspace for a batch of images of `tokens` tokens, in chunks of
 * pass->batch. VP_ERR_MEMORY; then there is nothing to close. */
vp_status vp_pass_open(vp_pass *pass, const vp_vit *vit, vp_workspaces *workspaces,
                       size_t batch, size_t tokens, vp_pass_part part, vp_error *err);
void vp_pass_close(vp_pass *pass);

/* Copies x to each tap that asks for this place of the running block. (model/run.c) */
void vp_pass_tap(vp_pass *pass, vp_place place);

/* Where the weights of attention `which` of the running block go, or NULL. */
float *vp_pass_map(const vp_pass *pass, size_t which);

#endif
