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

/* Every pool, block, MLP and attention; false where the two do not go together. */
static inline bool tiny_variant(size_t i, vp_config *c)
{
    *c = tiny_config();
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
    vp_error err;
    return vp_config_check(c, &err) == VP_OK;
}
#define TINY_VARIANTS ((size_t)VP_POOL_COUNT * 5 * 4 * 2 * 2)

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
