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
