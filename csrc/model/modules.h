/* The parts of a model, named as in timm, and what runs each of them in a pass.
 * Internal to model/. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_MODULES_H
#define VP_MODEL_MODULES_H

#include "gemm/gemm.h"
#include "model/pass.h"
#include "ops/attention.h"
#include "ops/pool.h"
#include "ops/rope.h"

typedef struct {
    vp_weight *weight, *bias; /* W[out][in], b[out] or NULL */
} vp_linear;

typedef struct {
    vp_norm_kind kind;
    float eps;
    vp_weight *weight, *bias;
} vp_norm;

/* A bias of the scores that depends on where key and query lie to each other. */
typedef struct {
    vp_weight *table;   /* [rows][H], vp_config_rel_pos_rows */
    vp_linear fc1, fc2; /* RelPosMlp's */
} vp_rel_pos;

typedef struct {
    vp_linear qkv, proj;
    vp_linear q_proj, k_proj, v_proj; /* in place of qkv */
    vp_weight *q_bias, *v_bias;       /* qkv's bias, of q and v alone */
    float *qkv_bias;                  /* [3 C] of them, derived; or NULL */
    vp_rel_pos rel_pos;
    vp_relative relative; /* derived of rel_pos and the shared one; bias NULL: none */
    vp_norm q_norm, k_norm, norm;
    /* differential attention */
    vp_weight *lambda_q1, *lambda_k1, *lambda_q2, *lambda_k2;
    vp_norm sub_norm;
    float lambda, lambda_init; /* lambda is derived in vp_vit_finish */
} vp_attn;

typedef struct {
    vp_linear fc1, fc1_g, fc1_x, fc2;
    vp_norm norm;
} vp_mlp;

typedef struct {
    /* Block and ResPostBlock use [0]; ParallelThingsBlock both, as attns.i and ffns.i;
     * the parallel scaling blocks norm1[0] as in_norm, ls1[0] as ls and the last line. */
    vp_norm norm1[2], norm2[2];
    vp_attn attn[2];
    vp_mlp mlp[2];
    vp_weight *ls1[2], *ls2[2];
    vp_linear in_proj, attn_out_proj, mlp_out_proj, out_proj;
    vp_weight *mlp_bias;
} vp_block;

typedef struct {
    unsigned long long serial; /* see vp_vit_pool_serial */
    vp_weight *latent;
    vp_linear q, kv, proj;
    vp_norm norm;
    vp_mlp mlp;
    vp_packed
        query; /* [H][C] derived: the latent query folded into the key projection */
} vp_attn_pool;

/* timm.models.vision_transformer_hybrid.ConvStem: its convolutions, and BatchNorm of all
 * but the last. (model/conv_stem.c) */
#define VP_STEM_CONVS 3

typedef struct {
    vp_weight *weight, *bias, *mean, *var;
    float *scale, *shift; /* derived, in one piece: of each channel */
} vp_batch_norm;

typedef struct {
    vp_linear conv[VP_STEM_CONVS];
    vp_batch_norm bn[VP_STEM_CONVS - 1];
} vp_conv_stem;

struct vp_vit {
    atomic_size_t refs;
    unsigned long long serial;
    vp_config config;
    vp_weight *cls_token, *dist_token, *reg_token, *pos_embed;
    vp_weight *pos_embed_y, *pos_embed_x; /* [rows][C], [columns][C]: NaFlexVit's */
    vp_weight *rope_freqs;                /* [2][depth][H][D / 2], mixed */
    float *rope; /* of the model's own grid, derived (ops/rope.h); or NULL */
    vp_rel_pos shared_rel_pos;
    vp_relative shared_relative; /* of it alone: that of blocks without their own */
    vp_linear patch_proj;
    vp_conv_stem stem; /* in place of patch_proj */
    vp_norm patch_norm, norm_pre;
    vp_block *blocks; /* [depth] */
    vp_norm norm, fc_norm;
    vp_attn_pool pool;
    vp_linear head, head_dist;
    vp_param *params;
    size_t num_params;
};

/* Fills vit->params with every parameter the config asks for, in timm's order, and the
 * kinds of the norms. (model/params.c) */
vp_status vp_vit_declare_params(vp_vit *vit, vp_error *err);

/* -- in a pass -- */

/* The norm as ops/norm.h takes it. */
vp_norm_op vp_module_norm_op(const vp_norm *norm);

/* y = norm(x), m rows of embed_dim; y may be x. */
void vp_module_norm(vp_pass *pass, const vp_norm *norm, size_t m, float *y, size_t ldy,
                    const float *x, size_t ldx);

/* y = norm(x) of `heads` neighbouring vectors of n in each of m rows; y may be x. */
void vp_module_norm_heads(vp_pass *pass, const vp_norm *norm, size_t m, size_t heads,
                          size_t n, float *y, size_t ldy, const float *x, size_t ldx);

/* y = x, m rows. */
void vp_module_copy(vp_pass *pass, size_t m, float *y, size_t ldy, const float *x,
                    size_t ldx);

/* The finish of a plain linear layer: bias, then into out. */
vp_finish vp_module_finish(const vp_linear *linear, float *out, size_t ldo);

/* Operations of the linear's product with m rows. */
double vp_module_flops(const vp_linear *linear, size_t m);

/* Part `part` of the linear's matrix times a[m]. */
void vp_module_linear(vp_pass *pass, const vp_linear *linear, size_t part, size_t m,
                      const float *a, size_t lda, const vp_finish *finish);

/* h = fc2's input: act(fc1(a)), gated and normed as the MLP says. */
void vp_module_mlp_hidden(vp_pass *pass, const vp_mlp *mlp, vp_mlp_kind kind, size_t m,
                          const float *a, size_t lda, float *h, size_t ldh);

/* finish = mlp(a), m rows; pass->h is overwritten. */
void vp_module_mlp(vp_pass *pass, const vp_mlp *mlp, vp_mlp_kind kind, size_t m,
                   const float *a, size_t lda, vp_finish finish);

/* The matrix that an attention's queries come of: qkv or q_proj; NULL where it has neither. */
const vp_weight *vp_attn_queries(const vp_attn *attn);

/* What an attention runs with whose queries come of that matrix: it multiplies bfloat16 where
 * the matrix is that, or integers, and the CPU has the unit; else float32. */
vp_run vp_module_attention_run(const vp_pass *pass, const vp_weight *queries);

/* out[nq of each image] = softmax(q k^T) v on pass->qkv, whose rows hold q, k, v: the product
 * with `queries`, or with that and its neighbours. With token_only, for the first token of each
 * image alone: then out has B rows. (model/self_attention.c) */
void vp_module_self_attention(vp_pass *pass, const vp_attn *attn,
                              const vp_weight *queries, bool token_only, float *out,
                              size_t ldo, float *weights);

/* finish = attn(pass->a), which is overwritten, as pass->qkv is. With token_only, for the
 * first token of each image alone: B rows. weights: see vp_pass_map. */
void vp_module_attn(vp_pass *pass, const vp_attn *attn, bool token_only,
                    vp_finish finish, float *weights);

/* x[B][skip + patches] = norm(proj(images)), rows ldx apart; the first `skip` rows of each
 * image are left alone. norm: NULL, or the embedding's. side: rows and columns of patches.
 * (model/run.c) */
void vp_module_patches(vp_pass *pass, const size_t side[2], size_t skip,
                       const vp_norm *norm, float *x, size_t ldx);

/* rows[B patches] = the pixels of the chunk's patches; the distance of two rows is returned.
 * (model/run.c) */
size_t vp_module_patch_rows(vp_pass *pass, const size_t side[2], float *rows);

/* The same of ConvStem, without a norm. (model/conv_stem.c) */
void vp_conv_stem_forward(vp_pass *pass, const size_t side[2], size_t skip, float *x,
                          size_t ldx);

/* Takes its scratch, for images of so many patches; nothing without a stem. */
void vp_conv_stem_plan(vp_pass *pass, vp_arena *arena, size_t patches);

/* Rows of its largest product; 0 without a stem. */
size_t vp_conv_stem_rows(const vp_config *config, size_t patches);

/* Side of the kernel of convolution i, and its outputs. */
size_t vp_conv_stem_kernel(size_t i);
size_t vp_conv_stem_width(const vp_config *config, size_t i);

double vp_conv_stem_flops(const vp_vit *vit, size_t patches);

/* Derives each BatchNorm's scale and shift, and frees them. */
vp_status vp_conv_stem_finish(vp_vit *vit, vp_error *err);
void vp_conv_stem_free(vp_conv_stem *stem);

/* One chunk of the request's part. (model/part.c) */
void vp_part_forward(vp_pass *pass);

/* Can the request's part run? Its tokens go to *tokens. VP_ERR_VALUE, VP_ERR_KEY. */
vp_status vp_part_check(const vp_vit *vit, const vp_forward *f, size_t *tokens,
                        vp_error *err);

/* What the last block may leave out. */
typedef enum {
    VP_LAST_ALL,    /* nothing: every token's output is wanted */
    VP_LAST_TOKEN,  /* only token 0 of x is valid afterwards */
    VP_LAST_POOLED, /* pass->pooled gets the mean over tokens; x is not valid */
} vp_last;

/* Can this config's last block do it? */
bool vp_block_can(const vp_config *config, vp_last last);

/* x = block(x), with its taps and maps. */
void vp_block_forward(vp_pass *pass, const vp_block *block, vp_last last);

/* Does a block of this config pass the place with all of x valid? */
bool vp_block_has(const vp_config *config, vp_place place);

/* out[B][C] = attn_pool(x[B][n] rows ldx apart, images x_image floats apart), with the map
 * type's projections and MLP. */
void vp_attn_pool_forward(vp_pass *pass, const float *x, size_t ldx, size_t x_image,
                          size_t n, float *out, size_t ldo);

/* Scratch of what it does beside the products with its parameters. */
size_t vp_attn_pool_scratch(const vp_pass *pass);

/* How a pool without a module reduces tokens. */
vp_reduce vp_pool_reduce(vp_pool pool);

/* forward_head of x[B][N] rows ldx apart, as `output` asks. (model/head.c) */
void vp_head_forward(vp_pass *pass, const float *x, size_t ldx, vp_output output,
                     float *out);

/* Its end alone: fc_norm, then the head if wanted, of `rows` pooled rows. */
void vp_head_classify(vp_pass *pass, const float *pooled, size_t ldp, size_t rows,
                      vp_output output, float *out);

/* Derives pool->query. */
vp_status vp_attn_pool_finish(vp_vit *vit, vp_error *err);

/* Derives each attention's qkv_bias. (model/self_attention.c) */
vp_status vp_attn_finish(vp_vit *vit, vp_error *err);

/* Derives vit->rope. (model/rotary.c) */
vp_status vp_rope_finish(vp_vit *vit, vp_error *err);

/* The running block's table for this pass, NULL without rope: the request's or the model's
 * own; *head is the distance of two heads' tables, 0 where all share one. (model/rotary.c) */
const float *vp_module_rope(const vp_pass *pass, size_t *head);

/* Has the request a rotary table for its tokens, of a grid of patches or, with NULL, of any?
 * VP_ERR_VALUE. (model/rotary.c) */
vp_status vp_rope_check(const vp_vit *vit, const vp_forward *f, const size_t *grid,
                        size_t tokens, vp_error *err);

/* Derives each attention's `relative`, and frees them all. (model/rel_pos.c) */
vp_status vp_rel_pos_finish(vp_vit *vit, vp_error *err);
void vp_rel_pos_free(vp_vit *vit);

/* Where the gradients of a vp_rel_pos are added; NULL: not wanted. */
typedef struct {
    float *table, *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
} vp_rel_pos_gradients;

/* From dbias[H][rows columns + 3], the gradient of each head's biases and edges as vp_relative
 * has them. room: vp_rel_pos_gradient_doubles. (model/rel_pos.c) */
size_t vp_rel_pos_gradient_doubles(const vp_config *config);
void vp_rel_pos_gradient(const vp_config *config, const vp_rel_pos *module,
                         const float *dbias, const vp_rel_pos_gradients *to,
                         double *room);

/* May blocks run on images of `tokens` tokens? VP_ERR_VALUE: relative positions are those of
 * the model's own grid. (model/rel_pos.c) */
vp_status vp_rel_pos_check(const vp_vit *vit, size_t tokens, vp_error *err);

#endif
