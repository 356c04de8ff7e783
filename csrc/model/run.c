/* The forward pass of images. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/modules.h"
#include "ops/patch_embed.h"
#include "ops/tokens.h"

const char *const vp_place_names[VP_PLACE_COUNT] = {
#define VP_PLACE_NAME(place, name) name,
    VP_PLACES(VP_PLACE_NAME)
#undef VP_PLACE_NAME
};

size_t vp_module_patch_rows(vp_pass *pass, const size_t side[2], float *rows)
{
    const vp_config *c = pass->config;
    const vp_forward *f = pass->request;
    const size_t width = c->in_chans * c->patch_size[0] * c->patch_size[1];
    const size_t ld = vp_row_stride(width);
    if (f->patches != NULL) {
        const size_t count = f->num_patches;
        vp_patch_rows_copy(&pass->run, pass->batch * count, width, rows, ld,
                           f->patches + pass->start * count * width);
        return ld;
    }
    const float *images = f->images + pass->start * c->in_chans * f->height * f->width;
    const vp_patch_grid grid = {
        c->in_chans,      f->height,
        f->width,         c->patch_size[0],
        c->patch_size[1], side[0],
        side[1],          c->embed_linear && c->patchify_channels_last};
    vp_patch_rows(&pass->run, &grid, pass->batch, rows, ld, images);
    return ld;
}

void vp_module_patches(vp_pass *pass, const size_t side[2], size_t skip,
                       const vp_norm *norm, float *x, size_t ldx)
{
    const vp_linear *proj = &pass->vit->patch_proj;
    const size_t patches = side[0] * side[1];
    if (pass->config->embed == VP_EMBED_CONV_STEM) {
        VP_PROFILED(pass->profile, patch_embed,
                    vp_conv_stem_flops(pass->vit, pass->batch * patches),
                    vp_conv_stem_forward(pass, side, skip, x, ldx));
        return;
    }
    VP_PROFILED(pass->profile, patch_embed,
                2.0 * (double)(pass->batch * patches) * (double)proj->weight->count, {
                    const size_t ldpatch = vp_module_patch_rows(pass, side, pass->h);
                    for (size_t b = 0; b < pass->batch; b++) {
                        float *rows = x + (b * (skip + patches) + skip) * ldx;
                        vp_finish finish = vp_module_finish(proj, rows, ldx);
                        vp_module_linear(pass, proj, 0, patches,
                                         pass->h + b * patches * ldpatch, ldpatch,
                                         &finish);
                        if (norm != NULL) {
                            vp_module_norm(pass, norm, patches, rows, ldx, rows, ldx);
                        }
                    }
                });
}

/* x = norm_pre(pos_embed(patch_embed(images))) */
static void embed(vp_pass *pass)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    const vp_forward *f = pass->request;
    const size_t prefix = vp_config_prefix(c);
    const vp_weight *second = c->dist_token ? vit->dist_token : vit->reg_token;
    size_t side[2] = {1, f->num_patches};
    vp_error err; /* vp_vit_check_forward has asked before */
    if (f->patches == NULL) {
        (void)vp_vit_check_size(vit, f->height, f->width, side, &err);
    }
    vp_module_patches(pass, side, prefix, &vit->patch_norm, pass->x, pass->ldx);
    const vp_tokens tokens = {
        .patches = side[0] * side[1],
        .prefix = prefix,
        .width = c->embed_dim,
        .prefix_tokens = {vit->cls_token != NULL ? vit->cls_token->plain : NULL,
                          second != NULL ? second->plain : NULL},
        .prefix_counts = {c->class_token ? 1 : 0, c->dist_token ? 1 : c->reg_tokens},
        .pos_embed = !c->pos_embed          ? NULL
                     : f->pos_embed != NULL ? f->pos_embed
                                            : vit->pos_embed->plain,
        .pos_on_prefix = !c->no_embed_class};
    VP_PROFILED(pass->profile, pos_embed, 0,
                vp_tokens_run(&pass->run, &tokens, pass->batch, pass->x, pass->ldx));
    vp_module_norm(pass, &vit->norm_pre, pass->batch * pass->tokens, pass->x, pass->ldx,
                   pass->x, pass->ldx);
}

/* -- what is read on the way -- */

void vp_vit_map_shape(const vp_vit *vit, size_t tokens, size_t block, size_t shape[3])
{
    const vp_config *c = &vit->config;
    shape[0] = c->num_heads;
    shape[1] = shape[2] = tokens;
    if (block == VP_MAP_POOL) {
        shape[2] -= vp_config_include_prefix(c, c->attn_pool) ? 0 : vp_config_prefix(c);
        shape[1] = shape[2];
        if (c->attn_pool == VP_POOL_MAP) {
            shape[0] = vp_config_pool_heads(c);
            shape[1] = 1;
        }
    } else if (vp_config_is_diff(c)) {
        shape[0] *= 2;
    }
}

/* Floats of one image's weights. */
static size_t map_size(const vp_pass *pass, size_t block)
{
    size_t shape[3];
    vp_vit_map_shape(pass->vit, pass->tokens, block, shape);
    return shape[0] * shape[1] * shape[2];
}

static float *map_out(const vp_pass *pass, const vp_map *map)
{
    return map->out + pass->start * map_size(pass, map->block);
}

/* The first map that asks for this; NULL: none. */
static const vp_map *find_map(const vp_pass *pass, size_t block, size_t which)
{
    const vp_forward *f = pass->request;
    for (size_t i = 0; f != NULL && i < f->num_maps; i++) {
        if (f->maps[i].block == block && f->maps[i].which == which) {
            return &f->maps[i];
        }
    }
    return NULL;
}

float *vp_pass_map(const vp_pass *pass, size_t which)
{
    const vp_map *map = find_map(pass, pass->block, which);
    return map != NULL ? map_out(pass, map) : NULL;
}

/* Weights that are asked for twice were computed once: here they are copied. */
static void repeat_maps(const vp_pass *pass)
{
    const vp_forward *f = pass->request;
    for (size_t i = 0; i < f->num_maps; i++) {
        const vp_map *map = &f->maps[i], *from = find_map(pass, map->block, map->which);
        if (from != map) {
            memcpy(map_out(pass, map), map_out(pass, from),
                   pass->batch * map_size(pass, map->block) * sizeof(float));
        }
    }
}

void vp_pass_tap(vp_pass *pass, vp_place place)
{
    const size_t width = pass->config->embed_dim, m = pass->batch * pass->tokens;
    for (size_t i = 0; i < pass->request->num_taps; i++) {
        const vp_tap *tap = &pass->request->taps[i];
        if (tap->block != pass->block || tap->place != place) {
            continue;
        }
        float *out = tap->out + pass->start * pass->tokens * width;
        if (tap->norm) {
            vp_module_norm(pass, &pass->vit->norm, m, out, width, pass->x, pass->ldx);
        } else {
            vp_module_copy(pass, m, out, width, pass->x, pass->ldx);
        }
    }
}

/* -- the pass -- */

static bool runs_head(const vp_forward *f)
{
    return f->output == VP_OUT_PRE_LOGITS || f->output == VP_OUT_LOGITS;
}

/* What the last block may leave out, given what is asked for. */
static vp_last last_of(const vp_config *c, const vp_forward *f)
{
    bool whole = !runs_head(f) || f->first == f->depth || f->depth != c->depth;
    for (size_t i = 0; i < f->num_taps; i++) {
        whole = whole ||
                (f->taps[i].block + 1 == f->depth && f->taps[i].place != VP_PLACE_IN);
    }
    for (size_t i = 0; i < f->num_maps; i++) {
        whole = whole || f->maps[i].block + 1 == f->depth;
    }
    if (!whole && vp_block_can(c, VP_LAST_TOKEN)) {
        return VP_LAST_TOKEN;
    }
    return !whole && vp_block_can(c, VP_LAST_POOLED) ? VP_LAST_POOLED : VP_LAST_ALL;
}

/* Where the chunk's part of the output goes. */
static float *output_at(const vp_pass *pass)
{
    const vp_config *c = pass->config;
    const vp_forward *f = pass->request;
    const bool tokens = !runs_head(f) || c->global_pool == VP_POOL_NONE;
    const bool logits = f->output == VP_OUT_LOGITS && c->num_classes > 0;
    return f->out + pass->start * (tokens ? pass->tokens : 1) *
                        (logits ? c->num_classes : c->embed_dim);
}

/* One chunk: tokens in, blocks, output. */
static void run_chunk(vp_pass *pass)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    const vp_forward *f = pass->request;
    const size_t n = pass->tokens, width = c->embed_dim, m = pass->batch * n;
    const vp_last last = last_of(c, f);
    if (f->images != NULL || f->patches != NULL) {
        embed(pass);
    } else {
        vp_module_copy(pass, m, pass->x, pass->ldx, f->tokens + pass->start * n * width,
                       width);
    }
    for (pass->block = f->first; pass->block < f->depth; pass->block++) {
        vp_block_forward(pass, &vit->blocks[pass->block],
                         pass->block + 1 == f->depth ? last : VP_LAST_ALL);
    }
    pass->block = VP_MAP_POOL;
    if (f->output == VP_OUT_FEATURES) {
        vp_module_norm(pass, &vit->norm, m, output_at(pass), width, pass->x, pass->ldx);
    } else if (runs_head(f) && last == VP_LAST_POOLED) {
        vp_head_classify(pass, pass->pooled, pass->ldx, pass->batch, f->output,
                         output_at(pass));
    } else if (runs_head(f) && last == VP_LAST_TOKEN) {
        vp_module_norm(pass, &vit->norm, pass->batch, pass->pooled, pass->ldx, pass->x,
                       n * pass->ldx);
        vp_head_classify(pass, pass->pooled, pass->ldx, pass->batch, f->output,
                         output_at(pass));
    } else if (runs_head(f)) {
        vp_module_norm(pass, &vit->norm, m, pass->x, pass->ldx, pass->x, pass->ldx);
        vp_head_forward(pass, pass->x, pass->ldx, f->output, output_at(pass));
    }
    repeat_maps(pass);
}

/* -- the request -- */

static vp_status check_blocks(const vp_vit *vit, const vp_forward *f, vp_error *err)
{
    const size_t depth = vit->config.depth;
    if (f->depth > depth) {
        return vp_fail(err, VP_ERR_VALUE, "depth must be from 0 to %zu, not %zu", depth,
                       f->depth);
    }
    if (f->first > f->depth) {
        return vp_fail(err, VP_ERR_VALUE, "first must be from 0 to depth %zu, not %zu",
                       f->depth, f->first);
    }
    if ((f->images != NULL || f->patches != NULL) && f->first > 0) {
        return vp_fail(err, VP_ERR_VALUE, "%s go into block 0, not block %zu",
                       f->images != NULL ? "images" : "patches", f->first);
    }
    return VP_OK;
}

/* Does `block` run? */
static vp_status check_runs(const vp_forward *f, const char *what, size_t block,
                            vp_error *err)
{
    if (f->first == f->depth) {
        return vp_fail(err, VP_ERR_VALUE, "%s must be empty, since no block runs",
                       what);
    }
    if (block < f->first || block >= f->depth) {
        return vp_fail(err, VP_ERR_VALUE,
                       "%s must name blocks that run, from %zu to %zu, not %zu", what,
                       f->first, f->depth - 1, block);
    }
    return VP_OK;
}

static vp_status check_tap(const vp_vit *vit, const vp_forward *f, const vp_tap *tap,
                           vp_error *err)
{
    if (check_runs(f, "taps", tap->block, err) != VP_OK) {
        return err->code;
    }
    if (!vp_block_has(&vit->config, tap->place)) {
        return vp_fail(err, VP_ERR_VALUE,
                       "taps must not ask for '%s': the parallel scaling blocks add "
                       "attention and MLP at once",
                       vp_place_names[tap->place]);
    }
    return VP_OK;
}

static vp_status check_map(const vp_vit *vit, const vp_forward *f, const vp_map *map,
                           vp_error *err)
{
    const vp_config *c = &vit->config;
    const bool pool = map->block == VP_MAP_POOL;
    const size_t attentions = !pool && c->block == VP_BLOCK_PARALLEL_THINGS ? 2 : 1;
    if (pool && c->attn_pool == VP_POOL_NONE) {
        return vp_fail(err, VP_ERR_VALUE,
                       "return_attn must not ask for 'attn_pool': this model has none");
    }
    if (pool && !runs_head(f)) {
        return vp_fail(err, VP_ERR_VALUE,
                       "maps must not ask for the attention pool's where the output "
                       "does not go through it");
    }
    if (!pool && check_runs(f, "maps", map->block, err) != VP_OK) {
        return err->code;
    }
    if (map->which >= attentions) {
        return vp_fail(err, VP_ERR_VALUE,
                       "maps must name an attention from 0 to %zu of a block, not %zu",
                       attentions - 1, map->which);
    }
    return VP_OK;
}

vp_status vp_vit_check_forward(const vp_vit *vit, const vp_forward *f, size_t *tokens,
                               vp_error *err)
{
    const vp_config *c = &vit->config;
    size_t grid[2];
    if (f->part != NULL) {
        return vp_part_check(vit, f, tokens, err);
    }
    if (f->images != NULL) {
        if (vp_vit_check_size(vit, f->height, f->width, grid, err) != VP_OK) {
            return err->code;
        }
        *tokens = grid[0] * grid[1] + vp_config_prefix(c);
    } else if (f->patches != NULL) {
        if (!c->embed_linear) {
            return vp_fail(err, VP_ERR_VALUE,
                           "patches go into a linear embedding, not a convolution");
        }
        if (f->num_patches == 0 || f->num_patches > (size_t)1 << 24) {
            return vp_fail(err, VP_ERR_VALUE,
                           "an image must have from 1 to %zu patches, not %zu",
                           (size_t)1 << 24, f->num_patches);
        }
        *tokens = f->num_patches + vp_config_prefix(c);
    } else {
        const vp_pool pool = runs_head(f) ? c->global_pool : VP_POOL_NONE;
        if (vp_vit_check_tokens(vit, pool, f->num_tokens, err) != VP_OK) {
            return err->code;
        }
        *tokens = f->num_tokens;
    }
    if (check_blocks(vit, f, err) != VP_OK ||
        (f->first < f->depth && vp_rel_pos_check(vit, *tokens, err) != VP_OK)) {
        return err->code;
    }
    if ((f->first < f->depth || f->rope != NULL) &&
        vp_rope_check(vit, f, f->images != NULL ? grid : NULL, *tokens, err) != VP_OK) {
        return err->code;
    }
    for (size_t i = 0; i < f->num_taps; i++) {
        if (check_tap(vit, f, &f->taps[i], err) != VP_OK) {
            return err->code;
        }
    }
    for (size_t i = 0; i < f->num_maps; i++) {
        if (check_map(vit, f, &f->maps[i], err) != VP_OK) {
            return err->code;
        }
    }
    return VP_OK;
}

bool vp_vit_wants_positions(const vp_vit *vit, const vp_forward *f)
{
    const vp_config *c = &vit->config;
    const bool embeds = f->part == NULL && (f->images != NULL || f->patches != NULL);
    return embeds && c->pos_embed &&
           (f->patches != NULL || c->pos_kind == VP_POS_FACTORIZED);
}

vp_status vp_vit_forward(const vp_vit *vit, vp_workspaces *workspaces,
                         const vp_forward *f, vp_error *err)
{
    size_t tokens;
    vp_pass pass;
    if (vp_vit_check_forward(vit, f, &tokens, err) != VP_OK) {
        return err->code;
    }
    if (vp_vit_wants_positions(vit, f) && f->pos_embed == NULL) {
        return vp_fail(err, VP_ERR_VALUE, "pos_embed must be given for %s",
                       f->patches != NULL ? "patches" : "factorized positions");
    }
    if (f->batch == 0) {
        return VP_OK;
    }
    if (vp_pass_open(&pass, vit, workspaces, f->batch, tokens, VP_PASS_WHOLE, err) !=
        VP_OK) {
        return err->code;
    }
    const size_t chunk = pass.batch;
    pass.request = f;
    pass.profile = f->profile;
    pass.run.counts = f->profile != NULL ? &pass.counts : NULL;
    const double start = f->profile != NULL ? vp_profile_now() : 0.0;
    for (; pass.start < f->batch; pass.start += chunk) {
        vp_mask mask;
        pass.batch = f->batch - pass.start < chunk ? f->batch - pass.start : chunk;
        if (f->mask != NULL) {
            mask = vp_mask_from_image(f->mask, pass.start);
            pass.mask = &mask;
        }
        (f->part != NULL ? vp_part_forward : run_chunk)(&pass);
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
