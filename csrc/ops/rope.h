/* Rotary position embedding of queries and keys: timm.layers.apply_rot_embed_cat.
 *
 * A token's table is [2 D]: D cosines, then D sines whose sign is that of its channel in
 * rot(x), so that out[i] = x[i] cos[i] + x[other(i)] sin[i]. Interleaved: other(i) is i ^ 1,
 * and (-x[1], x[0], -x[3], x[2], ...) is rot(x); half: i + D/2 modulo D, (-x2, x1).
 * Source: timm.layers.pos_embed_sincos. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_ROPE_H
#define VP_OPS_ROPE_H

#include <stdbool.h>

#include "gemm/run.h"

typedef struct {
    size_t batch, tokens,
        prefix;          /* of `tokens` the first `prefix` are left as they are */
    size_t heads, width; /* width: D, a multiple of 4 */
    bool half;           /* layout, else interleaved */
    const float *table;  /* [tokens - prefix][2 D], or [heads] of these */
    size_t table_head;   /* floats from one head's to the next; 0: one for all */
} vp_rope;

/* x[batch][tokens] rows of heads * D, ldx apart, in place. inverse: turned back, which is
 * what its gradient takes. */
void vp_rope_run(const vp_run *run, const vp_rope *rope, bool inverse, float *x,
                 size_t ldx);

/* What a table is made of; the words are timm's. */
typedef enum {
    VP_ROPE_TABLE_CAT,
    VP_ROPE_TABLE_DINOV3,
    VP_ROPE_TABLE_MIXED
} vp_rope_table_kind;

typedef struct {
    vp_rope_table_kind kind;
    bool half, xy;
    float temperature, grid_offset;
    size_t ref[2]; /* ref_feat_shape, (height, width); 0: none */
    size_t width;  /* D */
    const float
        *freqs; /* mixed: [2][width / 2] of one head, x and y; freqs_axis apart */
    size_t freqs_axis;
} vp_rope_of;

/* table[grid[0] grid[1]][2 D]: in timm's order of float32 operations up to the angles. */
void vp_rope_table(const vp_rope_of *of, const size_t grid[2], float *table);

#endif
