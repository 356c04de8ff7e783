/* What a Vision Transformer is built from: timm's constructor options, resolved.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_CONFIG_H
#define VP_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "kernels/kernels.h"
#include "ops/norm.h"

/* The classes, with timm's names: what the root's parameters are called and how they are
 * ordered, which pools there are, how fresh weights are drawn. */
#define VP_FAMILIES(X)                                                \
    X(VIT, "VisionTransformer")                                       \
    X(DISTILLED, "VisionTransformerDistilled") /* timm.models.deit */ \
    X(EVA, "Eva")                                                     \
    X(BEIT, "Beit")                                                   \
    X(RELPOS, "VisionTransformerRelPos")                              \
    X(NAFLEX, "NaFlexVit")

typedef enum {
#define VP_FAMILY_ENUM(family, name) VP_FAMILY_##family,
    VP_FAMILIES(VP_FAMILY_ENUM)
#undef VP_FAMILY_ENUM
        VP_FAMILY_COUNT,
} vp_family;

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
    VP_BLOCK_EVA,           /* timm.models.eva.EvaBlock: PLAIN with other names */
    VP_BLOCK_EVA_POST_NORM, /* EvaBlockPostNorm: RES_POST with other names */
    VP_BLOCK_BEIT,          /* timm.models.beit.Block */
    VP_BLOCK_REL_POS,       /* timm.models.vision_transformer_relpos.RelPosBlock */
    VP_BLOCK_RES_POST_REL_POS,
} vp_block_kind;

typedef enum {
    VP_MLP_PLAIN,
    VP_MLP_GLU,           /* x1 * act(x2), fc1 whole */
    VP_MLP_SWIGLU_PACKED, /* act(x1) * x2, fc1 whole */
    VP_MLP_SWIGLU,        /* act(fc1_g(x)) * fc1_x(x) */
} vp_mlp_kind;

/* How patches become tokens. */
typedef enum {
    VP_EMBED_PATCH,     /* timm.layers.PatchEmbed */
    VP_EMBED_CONV_STEM, /* HybridEmbed of ConvStem: vit_base_mci_224's */
} vp_embed_kind;

typedef enum {
    VP_ATTN_PLAIN,
    VP_ATTN_DIFF,
} vp_attn_kind;

/* NaFlexVit: how its positions are kept, `embeds.pos_embed` of a grid or one row each of a grid's
 * rows and columns, which are added. The caller resamples both. */
typedef enum {
    VP_POS_LEARNED,
    VP_POS_FACTORIZED,
} vp_pos_kind;

/* How they are resampled: torch.nn.functional.interpolate's modes. */
typedef enum {
    VP_POS_BICUBIC,
    VP_POS_BILINEAR,
} vp_pos_interp;

/* Rotary position embedding, timm.layers.pos_embed_sincos. */
typedef enum {
    VP_ROPE_NONE,
    VP_ROPE_CAT,    /* RotaryEmbeddingCat: axial */
    VP_ROPE_MIXED,  /* RotaryEmbeddingMixed: learned, of each block and head */
    VP_ROPE_DINOV3, /* RotaryEmbeddingDinoV3 */
} vp_rope_kind;

/* Relative position bias, timm.layers.pos_embed_rel and timm.models.beit. */
typedef enum {
    VP_REL_POS_NONE,
    VP_REL_POS_BIAS,     /* a table */
    VP_REL_POS_MLP,      /* RelPosMlp, mode 'cr': a table, made of its weights */
    VP_REL_POS_MLP_SWIN, /* RelPosMlp, mode 'swin' */
} vp_rel_pos_kind;

typedef struct {
    vp_family family;
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
    bool dist_token; /* behind the class token, with a head of its own: head_dist */
    bool qkv_split;  /* q_proj, k_proj and v_proj, not one matrix qkv */
    bool
        q_v_bias; /* with qkv_bias: of q and v alone (q_bias and v_bias, or q_proj.bias and
                     * v_proj.bias), not of k */
    size_t
        num_kv_heads; /* grouped-query attention: a divisor of num_heads, with qkv_split;
                          * 0: num_heads. In all but the first num_full_attn_blocks
                          * and the last num_full_attn_last. */
    size_t num_full_attn_blocks, num_full_attn_last;
    bool attn_only_layer_scale; /* EvaBlock has gamma_1 and no gamma_2 */
    vp_rope_kind rope;
    bool rope_rotate_half,
        rope_xy; /* half or interleaved layout; 'xy' or 'ij' indexing */
    float rope_temperature, rope_grid_offset;
    size_t rope_ref[2]; /* ref_feat_shape, height and width; 0: none */
    vp_rel_pos_kind rel_pos;
    bool rel_pos_block, rel_pos_shared; /* in each block, at the root; or both */
    size_t rel_pos_dim;                 /* hidden width of RelPosMlp */
    /* of the attention pool `map`; 0, VP_ACT_NONE: num_heads, mlp_hidden, act */
    size_t attn_pool_heads, attn_pool_hidden;
    vp_act attn_pool_act;
    float head_init_scale; /* of a fresh head's numbers; 0: 1 */
    vp_embed_kind embed;   /* patch_size is the whole stem's: 16 x 16 */
    /* NaFlexVit, whose grid of positions is img_size's. The embedding is a linear layer of
     * rows of pixels, with the channels last or first in a row, or a convolution. The core
     * keeps how positions are resampled for who does it. */
    bool embed_linear, patchify_channels_last, patch_interpolator;
    vp_pos_kind pos_kind;
    vp_pos_interp pos_interp;
    bool pos_ar_preserving, pos_antialias, pos_align_corners, pos_grid_sample;
} vp_config;

extern const char *const vp_pool_names[VP_POOL_COUNT];

extern const char *const vp_family_names[VP_FAMILY_COUNT];

/* Those that a class has, quoted and with commas between, for messages. */
const char *vp_pool_list(vp_family family);

/* The pool of that name (length bytes), of whatever class. Else VP_ERR_VALUE: the argument
 * (`what`), what came, what this class allows and, for a near miss, what was probably meant. */
vp_status vp_pool_parse(vp_family family, const char *what, const char *name,
                        size_t length, vp_pool *pool, vp_error *err);

/* Is this a pool of the config's class, and are its tokens there? VP_ERR_VALUE, which names
 * the argument. */
vp_status vp_config_check_pool(const vp_config *config, const char *what, vp_pool pool,
                               vp_error *err);

/* Are sizes positive, within limits, divisible; do pool and tokens fit together? */
vp_status vp_config_check(const vp_config *config, vp_error *err);

static inline size_t vp_config_prefix(const vp_config *c)
{
    return (size_t)c->class_token + (size_t)c->dist_token + c->reg_tokens;
}

static inline size_t vp_config_patches(const vp_config *c)
{
    return (c->img_size[0] / c->patch_size[0]) * (c->img_size[1] / c->patch_size[1]);
}

/* Rows and columns of the model's own patches. */
static inline void vp_config_grid(const vp_config *c, size_t grid[2])
{
    grid[0] = c->img_size[0] / c->patch_size[0];
    grid[1] = c->img_size[1] / c->patch_size[1];
}

/* Does that pool take the prefix tokens in? */
static inline bool vp_config_include_prefix(const vp_config *c, vp_pool pool)
{
    return c->pool_include_prefix || pool == VP_POOL_PRR ||
           (pool == VP_POOL_MAP && c->family == VP_FAMILY_EVA);
}

static inline bool vp_config_layer_scale(const vp_config *c)
{
    /* timm: `if init_values` in Block, ParallelThingsBlock, Beit's Block and RelPosBlock,
     * `is not None` in the others */
    switch (c->block) {
    case VP_BLOCK_PLAIN:
    case VP_BLOCK_PARALLEL_THINGS:
    case VP_BLOCK_BEIT:
    case VP_BLOCK_REL_POS:
        return c->has_init_values && c->init_values != 0.0f;
    case VP_BLOCK_RES_POST:
    case VP_BLOCK_EVA_POST_NORM:
    case VP_BLOCK_RES_POST_REL_POS:
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

/* x = x + ...(norm(x)), twice: one forward for all of these, whatever their names. */
static inline bool vp_config_is_plain(const vp_config *c)
{
    return c->block == VP_BLOCK_PLAIN || c->block == VP_BLOCK_EVA ||
           c->block == VP_BLOCK_BEIT || c->block == VP_BLOCK_REL_POS;
}

/* x = x + norm(...(x)), twice. */
static inline bool vp_config_is_res_post(const vp_config *c)
{
    return c->block == VP_BLOCK_RES_POST || c->block == VP_BLOCK_EVA_POST_NORM ||
           c->block == VP_BLOCK_RES_POST_REL_POS;
}

/* Key and value heads of block i. */
static inline size_t vp_config_kv_heads(const vp_config *c, size_t i)
{
    const bool full = i < c->num_full_attn_blocks ||
                      i + c->num_full_attn_last >= c->depth || c->num_kv_heads == 0;
    return full ? c->num_heads : c->num_kv_heads;
}

static inline size_t vp_config_pool_heads(const vp_config *c)
{
    const bool own = c->attn_pool == VP_POOL_MAP && c->attn_pool_heads > 0;
    return own ? c->attn_pool_heads : c->num_heads;
}

static inline size_t vp_config_pool_hidden(const vp_config *c)
{
    const bool own = c->attn_pool == VP_POOL_MAP && c->attn_pool_hidden > 0;
    return own ? c->attn_pool_hidden : c->mlp_hidden;
}

static inline vp_act vp_config_pool_act(const vp_config *c)
{
    return c->attn_pool_act != VP_ACT_NONE ? c->attn_pool_act : c->act;
}

/* Rows of a table of relative positions, with those of the prefix where there is one:
 * token to patch, patch to token, token to token. */
static inline size_t vp_config_rel_pos_rows(const vp_config *c)
{
    const size_t h = c->img_size[0] / c->patch_size[0];
    const size_t w = c->img_size[1] / c->patch_size[1];
    return (2 * h - 1) * (2 * w - 1) + (vp_config_prefix(c) > 0 ? 3 : 0);
}

/* Width of what fc2 reads. */
static inline size_t vp_config_hidden(const vp_config *c)
{
    const bool packed = c->mlp == VP_MLP_GLU || c->mlp == VP_MLP_SWIGLU_PACKED;
    return packed ? c->mlp_hidden / 2 : c->mlp_hidden;
}

#endif
