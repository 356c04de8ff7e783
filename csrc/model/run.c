/* The forward pass of images. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/modules.h"
#include "ops/patch_embed.h"
#include "ops/tokens.h"

/* x = norm_pre(pos_embed(patch_embed(images))) */
static void embed(vp_pass *pass, const vp_patch_grid *grid, const float *images,
                  const float *pos_embed)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    const size_t prefix = vp_config_prefix(c), patches = grid->grid_h * grid->grid_w;
    const size_t k = c->in_chans * c->patch_size[0] * c->patch_size[1];
    const size_t ldpatch = vp_row_stride(k);
    VP_PROFILED(
        pass->profile, patch_embed,
        2.0 * (double)(pass->batch * patches) * (double)(k * c->embed_dim), {
            vp_patch_rows(&pass->run, grid, pass->batch, pass->h, ldpatch, images);
            for (size_t b = 0; b < pass->batch; b++) {
                float *x = pass->x + (b * pass->tokens + prefix) * pass->ldx;
                vp_finish finish = vp_module_finish(&vit->patch_proj, x, pass->ldx);
                vp_module_linear(pass, &vit->patch_proj, 0, patches,
                                 pass->h + b * patches * ldpatch, ldpatch, &finish);
                vp_module_norm(pass, &vit->patch_norm, patches, x, pass->ldx, x,
                               pass->ldx);
            }
        });
    const vp_tokens tokens = {
        .patches = patches,
        .prefix = prefix,
        .width = c->embed_dim,
        .prefix_tokens = {vit->cls_token != NULL ? vit->cls_token->plain : NULL,
                          vit->reg_token != NULL ? vit->reg_token->plain : NULL},
        .prefix_counts = {c->class_token ? 1 : 0, c->reg_tokens},
        .pos_embed = !c->pos_embed       ? NULL
                     : pos_embed != NULL ? pos_embed
                                         : vit->pos_embed->plain,
        .pos_on_prefix = !c->no_embed_class};
    VP_PROFILED(pass->profile, pos_embed, 0,
                vp_tokens_run(&pass->run, &tokens, pass->batch, pass->x, pass->ldx));
    vp_module_norm(pass, &vit->norm_pre, pass->batch * pass->tokens, pass->x, pass->ldx,
                   pass->x, pass->ldx);
}

/* out[i] = rows of `cols`, ld apart */
static void copy_rows(float *out, const float *x, size_t m, size_t cols, size_t ld)
{
    for (size_t i = 0; i < m; i++) {
        memcpy(out + i * cols, x + i * ld, cols * sizeof(float));
    }
}

/* What the last block may leave out, given what is asked for. */
static vp_last last_of(const vp_config *c, const vp_forward *f)
{
    bool whole = f->depth == 0 || f->output == VP_OUT_NONE ||
                 f->output == VP_OUT_FEATURES || f->depth != c->depth;
    for (size_t i = 0; i < f->num_taps; i++) {
        whole = whole || f->taps[i].block + 1 == f->depth;
    }
    for (size_t i = 0; i < f->num_maps; i++) {
        whole = whole || f->maps[i].block + 1 == f->depth;
    }
    if (!whole && vp_block_can(c, VP_LAST_TOKEN)) {
        return VP_LAST_TOKEN;
    }
    return !whole && vp_block_can(c, VP_LAST_POOLED) ? VP_LAST_POOLED : VP_LAST_ALL;
}

/* Floats of one image's weights of a map. */
static size_t map_size(const vp_config *c, size_t tokens, bool pool)
{
    const size_t first = vp_config_include_prefix(c) ? 0 : vp_config_prefix(c);
    if (pool) {
        const size_t n = tokens - first;
        return c->num_heads * (c->attn_pool == VP_POOL_MAP ? 1 : n) * n;
    }
    return c->num_heads * (vp_config_is_diff(c) ? 2 : 1) * tokens * tokens;
}

/* Images [first, first + pass->batch) of the request. */
static void run_chunk(vp_pass *pass, const vp_forward *f, const vp_patch_grid *grid,
                      size_t first)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    const size_t n = pass->tokens, width = c->embed_dim, m = pass->batch * n;
    const vp_last last = last_of(c, f);
    float *pool_map = NULL;
    embed(pass, grid, f->images + first * c->in_chans * f->height * f->width,
          f->pos_embed);
    for (size_t i = 0; i < f->depth; i++) {
        float *maps[2] = {NULL, NULL};
        for (size_t j = 0; j < f->num_maps; j++) {
            if (f->maps[j].block == i) {
                maps[f->maps[j].which] = f->maps[j].out + first * map_size(c, n, false);
            }
        }
        vp_block_forward(pass, &vit->blocks[i], i + 1 == f->depth ? last : VP_LAST_ALL,
                         maps);
        for (size_t j = 0; j < f->num_taps; j++) {
            const vp_tap *tap = &f->taps[j];
            if (tap->block == i) {
                float *to = tap->out + first * n * width;
                if (tap->norm) {
                    vp_module_norm(pass, &vit->norm, m, to, width, pass->x, pass->ldx);
                } else {
                    copy_rows(to, pass->x, m, width, pass->ldx);
                }
            }
        }
    }
    for (size_t j = 0; j < f->num_maps; j++) {
        if (f->maps[j].block == VP_MAP_POOL) {
            pool_map = f->maps[j].out + first * map_size(c, n, true);
        }
    }
    const size_t outputs =
        f->output == VP_OUT_LOGITS && c->num_classes > 0 ? c->num_classes : width;
    const size_t out_rows =
        f->output == VP_OUT_FEATURES || c->global_pool == VP_POOL_NONE ? n : 1;
    float *out = f->out != NULL ? f->out + first * out_rows * outputs : NULL;
    if (f->output == VP_OUT_NONE) {
        return;
    }
    if (f->output == VP_OUT_FEATURES) {
        vp_module_norm(pass, &vit->norm, m, out, width, pass->x, pass->ldx);
    } else if (last == VP_LAST_POOLED) {
        vp_head_classify(pass, pass->pooled, pass->ldx, pass->batch, f->output, out);
    } else if (last == VP_LAST_TOKEN) {
        vp_module_norm(pass, &vit->norm, pass->batch, pass->pooled, pass->ldx, pass->x,
                       n * pass->ldx);
        vp_head_classify(pass, pass->pooled, pass->ldx, pass->batch, f->output, out);
    } else {
        vp_module_norm(pass, &vit->norm, m, pass->x, pass->ldx, pass->x, pass->ldx);
        vp_head_forward(pass, pass->x, pass->ldx, f->output, out, pool_map);
    }
}

vp_status vp_vit_forward(const vp_vit *vit, vp_workspaces *workspaces,
                         const vp_forward *f, vp_error *err)
{
    const vp_config *c = &vit->config;
    size_t side[2];
    if (vp_vit_check_size(vit, f->height, f->width, side, err) != VP_OK) {
        return err->code;
    }
    if (f->batch == 0) {
        return VP_OK;
    }
    const size_t tokens = side[0] * side[1] + vp_config_prefix(c);
    const vp_patch_grid grid = {c->in_chans,      f->height, f->width, c->patch_size[0],
                                c->patch_size[1], side[0],   side[1]};
    vp_pass pass;
    if (vp_pass_open(&pass, vit, workspaces, f->batch, tokens, VP_PASS_WHOLE, err) !=
        VP_OK) {
        return err->code;
    }
    const size_t chunk = pass.batch;
    pass.profile = f->profile;
    pass.run.counts = f->profile != NULL ? &pass.counts : NULL;
    const double start = f->profile != NULL ? vp_profile_now() : 0.0;
    for (size_t first = 0; first < f->batch; first += chunk) {
        vp_mask mask;
        pass.batch = f->batch - first < chunk ? f->batch - first : chunk;
        if (f->mask != NULL) {
            mask = *f->mask;
            mask.bias = mask.bias != NULL ? mask.bias + first * mask.batch : NULL;
            mask.allowed =
                mask.allowed != NULL ? mask.allowed + first * mask.batch : NULL;
            pass.mask = &mask;
        }
        run_chunk(&pass, f, &grid, first);
    }
    if (f->profile != NULL) {
        f->profile->total += vp_profile_now() - start;
        f->profile->chunks += (f->batch + chunk - 1) / chunk;
        f->profile->query_blocks += pass.counts.query_blocks;
        f->profile->key_blocks += pass.counts.key_blocks;
    }
    vp_pass_close(&pass);
    return VP_OK;
}
