/* What stands before the blocks, in training: patch_embed, tokens, pos_embed, pos_drop,
 * patch_drop, norm_pre. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/training.h"
#include "ops/dropout.h"
#include "ops/tokens.h"

static size_t patches_of(const vp_training *t)
{
    return t->side[0] * t->side[1];
}

/* VisionTransformer's _pos_embed returns before it where there are no positions. */
static vp_drop pos_drop(const vp_training *t)
{
    const vp_config *c = t->pass.config;
    const bool acts = c->pos_embed || c->family != VP_FAMILY_VIT;
    return vp_drop_at(t, 8 * c->depth + VP_SITE_POS,
                      acts ? t->request->rates.pos_drop : 0.0);
}

static vp_tokens tokens_of(const vp_training *t)
{
    const vp_vit *vit = t->pass.vit;
    const vp_config *c = t->pass.config;
    const vp_weight *second = c->dist_token ? vit->dist_token : vit->reg_token;
    return (vp_tokens){
        .patches = patches_of(t),
        .prefix = vp_config_prefix(c),
        .width = c->embed_dim,
        .prefix_tokens = {vit->cls_token != NULL ? vit->cls_token->plain : NULL,
                          second != NULL ? second->plain : NULL},
        .prefix_counts = {c->class_token ? 1 : 0, c->dist_token ? 1 : c->reg_tokens},
        .pos_embed = !c->pos_embed                   ? NULL
                     : t->request->pos_embed != NULL ? t->request->pos_embed
                                                     : vit->pos_embed->plain,
        .pos_on_prefix = !c->no_embed_class};
}

/* -- patch_drop -- */

/* tokens[N] = which of an image's tokens stay: the prefix, and the N - prefix patches whose
 * bits are the smallest, in their order. bits: room for all patches. */
static void draw_tokens(const vp_training *t, size_t image, size_t *tokens,
                        uint32_t *bits)
{
    const vp_drop drop = vp_drop_at(t, 8 * t->pass.config->depth + VP_SITE_PATCH,
                                    t->request->rates.patch_drop);
    const uint64_t key = vp_drop_key(&drop, image);
    const size_t prefix = vp_config_prefix(t->pass.config), patches = patches_of(t);
    const size_t keep = t->pass.tokens - prefix;
    size_t count = 0;
    for (; count < prefix; count++) {
        tokens[count] = count;
    }
    for (size_t p = 0; p < patches; p++) {
        bits[p] = vp_drop_bits(key, (uint32_t)p);
    }
    for (size_t p = 0; p < patches; p++) {
        size_t rank = 0;
        for (size_t q = 0; q < patches; q++) {
            rank += bits[q] < bits[p] || (bits[q] == bits[p] && q < p);
        }
        if (rank < keep) {
            tokens[count++] = prefix + p;
        }
    }
}

typedef struct {
    vp_training *t;
    float *few, *all; /* rows of [B N] and of [B full] */
    bool back;        /* all = few, zeros elsewhere; else few = all */
} patch_drop_job;

static void patch_drop_task(void *ctx, size_t image, size_t worker)
{
    (void)worker;
    const patch_drop_job *j = ctx;
    vp_training *t = j->t;
    const size_t n = t->pass.tokens, full = t->full, ld = t->pass.ldx;
    const size_t bytes = t->pass.config->embed_dim * sizeof(float);
    size_t *tokens = t->dropped + image * n;
    if (!j->back) {
        draw_tokens(t, image, tokens, t->dropped_bits + image * full);
    } else {
        memset(j->all + image * full * ld, 0, full * ld * sizeof(float));
    }
    for (size_t i = 0; i < n; i++) {
        float *few = j->few + (image * n + i) * ld;
        float *all = j->all + (image * full + tokens[i]) * ld;
        memcpy(j->back ? all : few, j->back ? few : all, bytes);
    }
}

static void patch_drop(vp_training *t, float *few, float *all, bool back)
{
    patch_drop_job j = {t, few, all, back};
    vp_parallel_for(t->pass.run.team, t->pass.batch, patch_drop_task, &j);
}

/* -- the embedding -- */

void vp_train_embed(vp_training *t, float *x)
{
    vp_pass *pass = &t->pass;
    const vp_vit *vit = pass->vit;
    const size_t ld = pass->ldx, patches = patches_of(t), full = t->full;
    const size_t prefix = vp_config_prefix(pass->config);
    const bool normed = vit->norm_pre.kind != VP_NORM_NONE, drops = full > pass->tokens;
    float *out = normed ? t->embedded : x, *all = drops ? t->all : out;
    if (vit->patch_norm.kind == VP_NORM_NONE) {
        vp_module_patches(pass, t->side, prefix, NULL, all, ld);
    } else {
        vp_module_patches(pass, t->side, 0, NULL, t->patches, ld);
        for (size_t b = 0; b < pass->batch; b++) {
            vp_module_norm(pass, &vit->patch_norm, patches,
                           all + (b * full + prefix) * ld, ld,
                           t->patches + b * patches * ld, ld);
        }
    }
    const vp_tokens tokens = tokens_of(t);
    vp_tokens_run(&pass->run, &tokens, pass->batch, all, ld);
    const vp_drop drop = pos_drop(t);
    if (drop.rate > 0.0f) {
        vp_dropout_run(&pass->run, &drop, pass->batch, full, pass->config->embed_dim,
                       all, ld, all, ld);
    }
    if (drops) {
        patch_drop(t, out, all, false);
    }
    if (normed) {
        vp_module_norm(pass, &vit->norm_pre, pass->batch * pass->tokens, x, ld, out,
                       ld);
    }
}

void vp_train_embed_back(vp_training *t)
{
    vp_pass *pass = &t->pass;
    const vp_vit *vit = pass->vit;
    const size_t ld = pass->ldx, patches = patches_of(t), full = t->full;
    const size_t width = pass->config->embed_dim;
    const size_t prefix = vp_config_prefix(pass->config);
    if (vit->norm_pre.kind != VP_NORM_NONE) {
        vp_train_norm_back(t, &vit->norm_pre, pass->batch * pass->tokens, 1, width,
                           t->g, ld, false, t->g, ld, t->embedded, ld);
    }
    float *all = t->g;
    if (full > pass->tokens) {
        all = t->all;
        patch_drop(t, t->g, all, true);
    }
    const vp_drop drop = pos_drop(t);
    if (drop.rate > 0.0f) {
        vp_dropout_run(&pass->run, &drop, pass->batch, full, width, all, ld, all, ld);
    }
    const vp_tokens tokens = tokens_of(t);
    const vp_tokens_gradient gradient = {
        .prefix_tokens = {vp_gradient_of(t, &vit->cls_token),
                          vp_gradient_of(t, pass->config->dist_token
                                                ? &vit->dist_token
                                                : &vit->reg_token)},
        .pos_embed = vp_gradient_of(t, &vit->pos_embed)};
    vp_tokens_gradient_run(&pass->run, &tokens, &gradient, pass->batch, all, ld);
    if (pass->config->embed != VP_EMBED_PATCH) {
        return; /* nothing before trains: train_check.c */
    }
    /* norm of the patches, or a copy of them without the prefix */
    for (size_t b = 0; b < pass->batch; b++) {
        vp_train_norm_back(
            t, &vit->patch_norm, patches, 1, width, t->b + b * patches * ld, ld, false,
            all + (b * full + prefix) * ld, ld,
            vit->patch_norm.kind != VP_NORM_NONE ? t->patches + b * patches * ld : NULL,
            ld);
    }
    const size_t ldpatch = vp_module_patch_rows(pass, t->side, pass->h);
    vp_train_linear_back(t, &vit->patch_proj, pass->batch * patches, t->b, ld, pass->h,
                         ldpatch, NULL, 0, false);
}
