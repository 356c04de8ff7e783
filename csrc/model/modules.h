/* The parts of a model, named as in timm, and what runs each of them in a pass.
 * Internal to model/. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_MODULES_H
#define VP_MODEL_MODULES_H

#include "gemm/gemm.h"
#include "model/pass.h"

typedef struct {
    vp_weight *weight, *bias; /* W[out][in], b[out] or NULL */
} vp_linear;

typedef struct {
    vp_norm_kind kind;
    float eps;
    vp_weight *weight, *bias;
} vp_norm;

typedef struct {
    vp_linear qkv, proj;
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

struct vp_vit {
    atomic_size_t refs;
    unsigned long long serial;
    vp_config config;
    vp_weight *cls_token, *reg_token, *pos_embed;
    vp_linear patch_proj;
    vp_norm patch_norm, norm_pre;
    vp_block *blocks; /* [depth] */
    vp_norm norm, fc_norm;
    vp_attn_pool pool;
    vp_linear head;
    vp_param *params;
    size_t num_params;
};

/* Fills vit->params with every parameter the config asks for, in timm's order, and the
 * kinds of the norms. (model/params.c) */
vp_status vp_vit_declare_params(vp_vit *vit, vp_error *err);

/* -- in a pass -- */

/* y = norm(x), m rows of embed_dim; y may be x. */
void vp_module_norm(vp_pass *pass, const vp_norm *norm, size_t m, float *y, size_t ldy,
                    const float *x, size_t ldx);

/* y = x, m rows. */
void vp_module_copy(vp_pass *pass, size_t m, float *y, size_t ldy, const float *x,
                    size_t ldx);

/* The finish of a plain linear layer: bias, then into out. */
vp_finish vp_module_finish(const vp_linear *linear, float *out, size_t ldo);

/* Part `part` of the linear's matrix times a[m]. */
void vp_module_linear(vp_pass *pass, const vp_linear *linear, size_t part, size_t m,
                      const float *a, size_t lda, const vp_finish *finish);

/* h = fc2's input: act(fc1(a)), gated and normed as the MLP says. */
void vp_module_mlp_hidden(vp_pass *pass, const vp_mlp *mlp, vp_mlp_kind kind, size_t m,
                          const float *a, size_t lda, float *h, size_t ldh);

/* finish = mlp(a), m rows; pass->h is overwritten. */
void vp_module_mlp(vp_pass *pass, const vp_mlp *mlp, vp_mlp_kind kind, size_t m,
                   const float *a, size_t lda, vp_finish finish);

/* finish = attn(pass->a), which is overwritten, as pass->qkv is. With token_only, for the
 * first token of each image alone: B rows. weights: see vp_pass_map. */
void vp_module_attn(vp_pass *pass, const vp_attn *attn, bool token_only,
                    vp_finish finish, float *weights);

/* x[B][skip + patches] = norm(proj(images)), rows ldx apart; the first `skip` rows of each
 * image are left alone. norm: NULL, or the embedding's. side: rows and columns of patches.
 * (model/run.c) */
void vp_module_patches(vp_pass *pass, const size_t side[2], size_t skip,
                       const vp_norm *norm, float *x, size_t ldx);

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

/* forward_head of x[B][N] rows ldx apart, as `output` asks. (model/head.c) */
void vp_head_forward(vp_pass *pass, const float *x, size_t ldx, vp_output output,
                     float *out);

/* Its end alone: fc_norm, then the head if wanted, of `rows` pooled rows. */
void vp_head_classify(vp_pass *pass, const float *pooled, size_t ldp, size_t rows,
                      vp_output output, float *out);

/* Derives pool->query. */
vp_status vp_attn_pool_finish(vp_vit *vit, vp_error *err);

#endif
