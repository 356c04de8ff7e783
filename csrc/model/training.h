/* One training pass: what it keeps of its forward pass, and the modules' backward passes.
 * Internal to model/. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_TRAINING_H
#define VP_MODEL_TRAINING_H

#include "base/arena.h"
#include "base/drop.h"
#include "model/modules.h"
#include "model/train.h"

/* What a block's backward pass reads of its forward pass. M rows is B N of a chunk. */
typedef struct {
    float *qkv;  /* [M][3 C] before q_norm and k_norm; without these, turned by rope */
    float *attn; /* [M][C] attention's output */
    float *z1;   /* [M][C] proj's output; NULL without LayerScale or a norm after it */
    float *mid;  /* [M][C] the residual stream after attention */
    float *hidden; /* [M][mlp] fc1's output, fc1_g and fc1_x side by side */
    float *z2;     /* [M][C] fc2's output; NULL without either */
} vp_kept;

/* The pass: pass.run, the model, the running chunk, and these matrices of its own. Of
 * pass's own only a and h are used. Rows are pass.ldx floats apart where nothing is said. */
typedef struct {
    vp_pass pass;
    vp_forward forward; /* the images, for what reads pass.request */
    const vp_gradients *request;
    size_t full;    /* tokens of an image before patch_drop; pass.tokens after it */
    size_t side[2]; /* IMAGES: rows and columns of patches */
    size_t first, lowest; /* blocks [first, depth) run, [lowest, depth) backwards too */
    size_t
        out_tokens; /* of the last block: N, or 1 where the class token alone is read */
    bool embedding; /* a parameter before the blocks is asked for */
    bool features;  /* the gradient of the features is needed, */
    bool pooled;    /* of the pooled rows, at least */
    size_t rows;    /* M of the largest chunk */
    size_t most_rows; /* rows of any product of it */
    size_t ldmlp;     /* of kept.hidden, h and normed */
    /* kept */
    float *x;        /* [depth - lowest + 1][rows] input of each block, and the last's
                            output */
    float *blocks;   /* kept of each block, or of one with checkpointing */
    float *embedded; /* [M] norm_pre's input */
    float *patches;  /* [B P] patch_norm's input */
    float *f;        /* [M] the features */
    float *pool, *pre, *head; /* [B heads] the pool's output; fc_norm's; head_drop's */
    /* map: attention [B][H][n]; each head's mean token and value [B H]; the values [B]; proj's
     * output [B]; fc1's and the activation's [B], rows ldmlp apart; the folded query [H][C] */
    float *map_p, *map_means, *map_values, *map_rows, *map_proj, *map_hidden, *map_h;
    float *map_query;
    /* temporaries */
    float *g;      /* [M] gradient of the residual stream */
    float *b;      /* [M] */
    float *qk;     /* [M][3 C] q and k normed, and v; qk_norm alone */
    float *qkv_db; /* [3 C] the gradient of qkv's bias; q_v_bias alone */
    float *tables; /* [B][H] of vp_relative_size: a block's relative bias, by image */
    double *table_sums;
    double *freqs_sums; /* [C] mixed rope's */
    float *wide;        /* [M][max(3 C, mlp)] gradient of qkv, or of the MLP's */
    float *normed;      /* [M][mlp] mlp.norm's output; scale_mlp_norm alone */
    float *z;           /* [M] a branch's output, where it is not kept */
    float *pool_g;      /* [B heads] gradient of the pooled rows */
    float *map_scores;  /* [B n][H], rows ldscores apart */
    float *map_dp, *map_dmeans,
        *map_drows;      /* gradients of map_p, map_means, map_values;
                                               prr: of queries, keys, values [M] */
    float *map_dqueries; /* [B H] of the folded query, by image, */
    float *map_dquery;   /* [H][C] and of all chunks */
    float *map_matrix;   /* [2 C][C] a weight unpacked */
    double *map_sums;    /* [C] */
    float *dlogits;      /* [B][K] rows ldlogits apart */
    size_t ldlogits;
    /* patch_drop: [B full] all tokens; which stay, [B][N]; bits [B][full] */
    float *all;
    size_t *dropped;
    uint32_t *dropped_bits;
    double *row_losses; /* [B][groups] */
    float *partial;     /* of sums over rows */
    void *memory;       /* of vp_linear_gradient_run */
} vp_training;

/* What is asked for (train_check.c): the first block that runs; tokens of an image that stay
 * after patch_drop; that the last block has to give; and the fields of t that say how far
 * back the gradients go, first to pooled. */
size_t vp_train_first(const vp_config *config, const vp_gradients *request);
size_t vp_train_kept_tokens(const vp_config *config, const vp_gradients *request,
                            size_t tokens);
size_t vp_train_out_tokens(const vp_vit *vit, const vp_gradients *request,
                           size_t tokens);
void vp_train_ask(vp_training *t);

/* The gradient array of the parameter in that place of the model; NULL: not asked for. */
float *vp_gradient_of(const vp_training *t, vp_weight *const *slot);

vp_drop vp_drop_at(const vp_training *t, size_t site, double rate);

/* out = linear(a), all parts of it side by side. */
void vp_train_linear(vp_training *t, const vp_linear *linear, size_t m, const float *a,
                     size_t lda, float *out, size_t ldo);

/* Backward: the parameters' gradients, and dx = dy W (dx NULL: not wanted). */
void vp_train_linear_back(vp_training *t, const vp_linear *linear, size_t m,
                          const float *dy, size_t lddy, const float *x, size_t ldx,
                          float *dx, size_t lddx, bool add);

/* y = norm(x) of `heads` vectors of n in each of m rows. */
void vp_train_norm(vp_training *t, const vp_norm *norm, size_t m, size_t heads,
                   size_t n, float *y, size_t ldy, const float *x, size_t ldx);

/* Backward; dx may be dy, unless add. Without a norm dx (+)= dy. */
void vp_train_norm_back(vp_training *t, const vp_norm *norm, size_t m, size_t heads,
                        size_t n, float *dx, size_t lddx, bool add, const float *dy,
                        size_t lddy, const float *x, size_t ldx);

/* Columns of kept.hidden. */
size_t vp_train_mlp_width(const vp_config *config);

/* Floats of a vp_kept, cut from an arena (which may only measure). (train_block.c) */
vp_kept vp_kept_take(const vp_training *t, vp_arena *arena);

/* out = block i of x, kept; out may be x. Of the last block, out_tokens rows an image. With
 * `again` out is not written. */
void vp_train_block(vp_training *t, size_t i, const vp_kept *kept, const float *x,
                    float *out, bool again);

/* t->g: from the gradient of block i's output to that of its input, x[M]. */
void vp_train_block_back(vp_training *t, size_t i, const vp_kept *kept, const float *x);

/* kept.attn = attention of pass.a's first nq tokens of an image, without proj; then t->wide[M] =
 * the gradient of q, k and v, from d, that of kept.attn; then dx = that of pass.a, which has to
 * be there again. (train_attn.c) */
void vp_train_attn(vp_training *t, size_t i, const vp_attn *attn, size_t nq,
                   const vp_kept *kept);
void vp_train_attn_back(vp_training *t, size_t i, const vp_attn *attn, size_t nq,
                        const vp_kept *kept, const float *d);
void vp_train_qkv_back(vp_training *t, const vp_attn *attn, float *dx);

/* The gradient of mixed rope's frequencies by block i, from its turned queries and keys and
 * t->wide, the gradient by them; memory for it. (train_rope.c) */
void vp_train_rope_plan(vp_training *t, vp_arena *arena);
void vp_train_rope_back(vp_training *t, size_t i, size_t kv_heads, const float *qkv);

/* Memory of its own; scratch of a worker. */
void vp_train_attn_plan(vp_training *t, vp_arena *arena);
size_t vp_train_attn_scratch(const vp_training *t);

/* x[B N] = the tokens before block 0. Backward, from t->g. (train_embed.c) */
void vp_train_embed(vp_training *t, float *x);
void vp_train_embed_back(vp_training *t);

/* Heads, and rows of each image that they read: 2 in the distilled model, else 1. */
size_t vp_train_heads(const vp_config *config);

/* Everything after the blocks: the chunk's logits and losses; then backward, to t->g where
 * t->features. x: the last block's output. (train_head.c) */
void vp_train_head(vp_training *t, const float *x);
void vp_train_head_back(vp_training *t, const float *x);

/* out[B] = attention pool of f[B][N], rows ldf apart; its backward pass from dout, df[M] =
 * (NULL: not wanted). finish: what is the same for all chunks, once after the last; memory
 * for it was asked for by plan. (train_pool.c) */
void vp_train_pool_plan(vp_training *t, vp_arena *arena);
size_t vp_train_pool_scratch(const vp_training *t);
void vp_train_pool(vp_training *t, const float *f, size_t ldf, float *out);
void vp_train_pool_back(vp_training *t, const float *f, size_t ldf, float *dout,
                        float *df);
void vp_train_pool_begin(vp_training *t);
void vp_train_pool_end(vp_training *t);

#endif
