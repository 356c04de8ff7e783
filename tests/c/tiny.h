/* A model small enough to build thousands of times. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_TEST_TINY_H
#define VP_TEST_TINY_H

#include "model/vit.h"

/* 8 x 8 images, patches of 4, two blocks of width 8, a class token. */
static inline vp_config tiny_config(void)
{
    return (vp_config){.img_size = {8, 8},
                       .patch_size = {4, 4},
                       .in_chans = 3,
                       .num_classes = 5,
                       .embed_dim = 8,
                       .depth = 2,
                       .num_heads = 2,
                       .mlp_hidden = 16,
                       .global_pool = VP_POOL_TOKEN,
                       .act = VP_ACT_GELU,
                       .norm_layer = VP_NORM_LAYER,
                       .norm_eps = 1e-6f,
                       .embed_norm_eps = 1e-6f,
                       .qkv_bias = true,
                       .proj_bias = true,
                       .class_token = true,
                       .pos_embed = true,
                       .norm = true};
}

static inline void tiny_pool(vp_config *config, vp_pool pool)
{
    const bool module = pool == VP_POOL_MAP || pool == VP_POOL_PRR;
    config->global_pool = pool;
    config->attn_pool = module ? pool : VP_POOL_NONE;
}

/* Every pool, block, MLP and attention of VisionTransformer. */
static inline void tiny_vit(size_t i, vp_config *c)
{
    tiny_pool(c, (vp_pool)(i % VP_POOL_COUNT));
    i /= VP_POOL_COUNT;
    c->block = (vp_block_kind)(i % 5);
    i /= 5;
    c->mlp = (vp_mlp_kind)(i % 4);
    i /= 4;
    c->attn = (vp_attn_kind)(i % 2);
    i /= 2;
    c->reg_tokens = i % 2 * 2;
    c->qk_norm = c->pre_norm = c->fc_norm = i % 2 == 1;
    c->has_init_values = i % 2 == 1;
    c->init_values = 0.1f;
}
#define TINY_VITS ((size_t)VP_POOL_COUNT * 5 * 4 * 2 * 2)

/* Of Eva every pool, rotary position and way to q, k and v. */
static inline void tiny_eva(size_t i, vp_config *c)
{
    c->family = VP_FAMILY_EVA;
    tiny_pool(c, (vp_pool)(i % VP_POOL_PRR));
    i /= VP_POOL_PRR;
    c->block = i % 2 == 0 ? VP_BLOCK_EVA : VP_BLOCK_EVA_POST_NORM;
    i /= 2;
    c->rope = (vp_rope_kind)(i % 4);
    i /= 4;
    c->qkv_split = i % 4 > 1;
    c->q_v_bias = i % 2 == 0;
    c->num_kv_heads = i % 4 == 3;
    i /= 4;
    c->rope_rotate_half = i % 2 == 1 && c->rope != VP_ROPE_MIXED;
    c->rope_xy = i % 2 == 0;
    c->rope_temperature = 100.0f;
    c->rope_ref[0] = c->rope_ref[1] = i % 2 * 3;
    c->num_full_attn_last = i % 2;
    c->reg_tokens = i % 2 * 2;
    c->qk_norm = c->scale_attn_norm = c->pre_norm = i % 2 == 1;
    c->norm = i % 2 == 1;
    c->has_init_values = i % 2 == 0;
    c->attn_only_layer_scale = i % 2 == 0 && c->block == VP_BLOCK_EVA;
    c->mlp = i % 2 == 0 ? VP_MLP_PLAIN : VP_MLP_SWIGLU;
    c->scale_mlp_norm = i % 2 == 1;
    c->init_values = 0.1f;
    c->head_init_scale = 1.0f;
}
#define TINY_EVAS ((size_t)VP_POOL_PRR * 2 * 4 * 4 * 2)

/* Beit and VisionTransformerRelPos: every pool, relative position and place of it. */
static inline void tiny_rel_pos(size_t i, vp_config *c)
{
    static const vp_pool pools[] = {VP_POOL_NONE, VP_POOL_AVG, VP_POOL_TOKEN};
    static const vp_block_kind blocks[] = {VP_BLOCK_BEIT, VP_BLOCK_REL_POS,
                                           VP_BLOCK_RES_POST_REL_POS};
    tiny_pool(c, pools[i % 3]);
    i /= 3;
    c->block = blocks[i % 3];
    i /= 3;
    c->rel_pos = (vp_rel_pos_kind)(i % 4);
    c->rel_pos_dim = 6;
    i /= 4;
    c->rel_pos_block = c->rel_pos != VP_REL_POS_NONE && i % 3 != 1;
    c->rel_pos_shared = c->rel_pos != VP_REL_POS_NONE && i % 3 != 0;
    i /= 3;
    const bool beit = c->block == VP_BLOCK_BEIT;
    c->family = beit ? VP_FAMILY_BEIT : VP_FAMILY_RELPOS;
    c->q_v_bias = c->pos_embed = beit;
    c->class_token = beit || c->global_pool == VP_POOL_TOKEN || i % 2 == 0;
    c->qk_norm = !beit && i % 2 == 1;
    c->mlp = beit && i % 2 == 1 ? VP_MLP_SWIGLU : VP_MLP_PLAIN;
    c->scale_mlp_norm = beit && i % 2 == 0;
    c->fc_norm = i % 2 == 0;
    c->norm = i % 2 == 1;
    c->has_init_values = true;
    c->init_values = 0.1f;
}
#define TINY_REL_POS ((size_t)3 * 3 * 4 * 3 * 2)

/* The distilled model, and Eva's attention pool, of heads and a width of its own. */
static inline void tiny_heads(size_t i, vp_config *c)
{
    const size_t heads[] = {0, 1, 4, 8}, hidden[] = {0, 5, 40};
    if (i == 0) {
        c->family = VP_FAMILY_DISTILLED;
        c->dist_token = true;
        return;
    }
    c->family = VP_FAMILY_EVA;
    c->block = VP_BLOCK_EVA;
    tiny_pool(c, VP_POOL_MAP);
    c->attn_pool_heads = heads[i % 4];
    c->attn_pool_hidden = hidden[i % 3];
    c->attn_pool_act = i % 2 == 0 ? VP_ACT_SILU : VP_ACT_NONE;
}
#define TINY_HEADS ((size_t)13)

/* NaFlexVit: every pool, both embeddings, blocks of both kinds. */
static inline void tiny_naflex(size_t i, vp_config *c)
{
    c->family = VP_FAMILY_NAFLEX;
    tiny_pool(c, (vp_pool)(i % VP_POOL_PRR));
    i /= VP_POOL_PRR;
    c->embed_linear = i % 2 == 0;
    c->patchify_channels_last = i / 2 % 2 == 0;
    c->block = i / 2 % 2 == 0 ? VP_BLOCK_PLAIN : VP_BLOCK_EVA;
    c->dynamic_img_size = c->no_embed_class = true;
    c->reg_tokens = 2;
    c->fc_norm = i % 2 == 0;
    c->norm = i % 2 == 1;
}
#define TINY_NAFLEXES ((size_t)VP_POOL_PRR * 2 * 2)

/* All of them; false where two options do not go together. */
static inline bool tiny_variant(size_t i, vp_config *c)
{
    *c = tiny_config();
    if (i < TINY_VITS) {
        tiny_vit(i, c);
    } else if ((i -= TINY_VITS) < TINY_EVAS) {
        tiny_eva(i, c);
    } else if ((i -= TINY_EVAS) < TINY_REL_POS) {
        tiny_rel_pos(i, c);
    } else if ((i -= TINY_REL_POS) < TINY_HEADS) {
        tiny_heads(i, c);
    } else {
        tiny_naflex(i - TINY_HEADS, c);
    }
    vp_error err;
    return vp_config_check(c, &err) == VP_OK;
}
#define TINY_VARIANTS \
    (TINY_VITS + TINY_EVAS + TINY_REL_POS + TINY_HEADS + TINY_NAFLEXES)

/* A model with random weights, ready for forward; NULL: err says why. */
static inline vp_vit *tiny_create(const vp_config *config, vp_error *err)
{
    vp_vit *vit = NULL;
    const vp_init init = {.mode = "", .seed = 3};
    if (vp_vit_create(config, &vit, err) != VP_OK) {
        return NULL;
    }
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        if (vp_vit_init_param(vit, i, &init, err) != VP_OK) {
            vp_vit_unref(vit);
            return NULL;
        }
    }
    if (vp_vit_finish(vit, err) != VP_OK) {
        vp_vit_unref(vit);
        return NULL;
    }
    return vit;
}

#endif
