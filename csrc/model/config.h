/* What a VisionTransformer is built from: timm's constructor options, resolved.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_CONFIG_H
#define VP_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "kernels/kernels.h"
#include "ops/norm.h"

/* The pools, with timm's names. */
#define VP_POOLS(X)                         \
    X(NONE, "")                             \
    X(AVG, "avg")                           \
    X(AVGMAX, "avgmax")                     \
    X(MAX, "max")                           \
    X(TOKEN, "token")                       \
    X(MAP, "map") /* AttentionPoolLatent */ \
    X(PRR, "prr") /* AttentionPoolPrr */

typedef enum {
#define VP_POOL_ENUM(pool, name) VP_POOL_##pool,
    VP_POOLS(VP_POOL_ENUM)
#undef VP_POOL_ENUM
        VP_POOL_COUNT,
} vp_pool;

typedef enum {
    VP_BLOCK_PLAIN,
    VP_BLOCK_RES_POST,
    VP_BLOCK_PARALLEL_SCALING,
    VP_BLOCK_PARALLEL_THINGS,
    VP_BLOCK_DIFF_PARALLEL_SCALING,
} vp_block_kind;

typedef enum {
    VP_MLP_PLAIN,
    VP_MLP_GLU,           /* x1 * act(x2), fc1 whole */
    VP_MLP_SWIGLU_PACKED, /* act(x1) * x2, fc1 whole */
    VP_MLP_SWIGLU,        /* act(fc1_g(x)) * fc1_x(x) */
} vp_mlp_kind;

typedef enum {
    VP_ATTN_PLAIN,
    VP_ATTN_DIFF,
} vp_attn_kind;

typedef struct {
    size_t img_size[2], patch_size[2]; /* height, width */
    size_t in_chans, num_classes, embed_dim, depth, num_heads;
    size_t mlp_hidden; /* int(embed_dim * mlp_ratio) */
    vp_pool global_pool;
    vp_pool attn_pool; /* the pool module there is: NONE, MAP or PRR */
    vp_block_kind block;
    vp_mlp_kind mlp;
    vp_attn_kind attn;
    vp_act act;
    vp_norm_kind norm_layer, embed_norm_layer; /* the latter may be NONE */
    float norm_eps, embed_norm_eps;
    bool qkv_bias, qk_norm, scale_attn_norm, scale_mlp_norm, proj_bias;
    bool has_init_values; /* not None */
    float init_values;
    bool class_token, pos_embed, no_embed_class, pre_norm;
    bool norm, fc_norm; /* is there a norm before / after the pool */
    bool
        pool_include_prefix; /* the constructor's; prr includes them whatever it says */
    bool dynamic_img_size, dynamic_img_pad;
    size_t reg_tokens;
} vp_config;

extern const char *const vp_pool_names[VP_POOL_COUNT];

/* All of them, quoted and with commas between, for messages. */
extern const char *const vp_pool_list;

/* The pool of that name (length bytes). Else VP_ERR_VALUE: the argument (`what`), what came,
 * what is allowed and, for a near miss, what was probably meant. */
vp_status vp_pool_parse(const char *what, const char *name, size_t length,
                        vp_pool *pool, vp_error *err);

/* Are sizes positive, within limits, divisible; do pool and tokens fit together? */
vp_status vp_config_check(const vp_config *config, vp_error *err);

static inline size_t vp_config_prefix(const vp_config *c)
{
    return (c->class_token ? 1 : 0) + c->reg_tokens;
}

static inline size_t vp_config_patches(const vp_config *c)
{
    return (c->img_size[0] / c->patch_size[0]) * (c->img_size[1] / c->patch_size[1]);
}

/* Does that pool take the prefix tokens in? */
static inline bool vp_config_include_prefix(const vp_config *c, vp_pool pool)
{
    return c->pool_include_prefix || pool == VP_POOL_PRR;
}

static inline bool vp_config_layer_scale(const vp_config *c)
{
    /* timm: `if init_values` in Block and ParallelThingsBlock, `is not None` in the others */
    switch (c->block) {
    case VP_BLOCK_PLAIN:
    case VP_BLOCK_PARALLEL_THINGS:
        return c->has_init_values && c->init_values != 0.0f;
    case VP_BLOCK_RES_POST:
        return false;
    default:
        return c->has_init_values;
    }
}

static inline bool vp_config_is_diff(const vp_config *c)
{
    return c->block == VP_BLOCK_DIFF_PARALLEL_SCALING ||
           (c->attn == VP_ATTN_DIFF && c->block != VP_BLOCK_PARALLEL_SCALING);
}

/* Width of a query head: half of embed_dim / num_heads in differential attention. */
static inline size_t vp_config_head_dim(const vp_config *c)
{
    return c->embed_dim / c->num_heads / (vp_config_is_diff(c) ? 2 : 1);
}

/* Width of what fc2 reads. */
static inline size_t vp_config_hidden(const vp_config *c)
{
    const bool packed = c->mlp == VP_MLP_GLU || c->mlp == VP_MLP_SWIGLU_PACKED;
    return packed ? c->mlp_hidden / 2 : c->mlp_hidden;
}

#endif
