/* VisionTransformer: building and the forward pass. SPDX-License-Identifier: Apache-2.0 */
#include "model/vit.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "model/modules.h"
#include "model/workspace.h"
#include "ops/patch_embed.h"
#include "ops/pool.h"
#include "ops/tokens.h"

/* A larger batch goes through in chunks of about this many bytes of activations: scratch
 * stays bounded, and they stay in a last-level cache instead of streaming from memory. */
#define CHUNK_BYTES ((size_t)12 << 20)

const char *const vp_profile_names[VP_PROFILE_COUNT] = {
#define VP_PROFILE_NAME(name) #name,
    VP_PROFILE_OPS(VP_PROFILE_NAME)
#undef VP_PROFILE_NAME
};

/* -- building -- */

static unsigned long long new_serial(void)
{
    static atomic_ullong last;
    return atomic_fetch_add(&last, 1) + 1;
}

vp_status vp_vit_create(const vp_config *config, vp_vit **out, vp_error *err)
{
    if (vp_config_check(config, err) != VP_OK) {
        return err->code;
    }
    vp_vit *vit = vp_alloc_zero(sizeof *vit);
    if (vit == NULL) {
        return vp_fail_memory(err, "a model", sizeof *vit);
    }
    vit->refs = 1;
    vit->serial = new_serial();
    vit->config = *config;
    vit->blocks = vp_alloc_zero(config->depth * sizeof *vit->blocks);
    if (vit->blocks == NULL) {
        vp_vit_unref(vit);
        return vp_fail_memory(err, "the blocks", config->depth * sizeof(vp_block));
    }
    if (vp_vit_declare_params(vit, err) != VP_OK) {
        vp_vit_unref(vit);
        return err->code;
    }
    vit->pool.serial = config->attn_pool != VP_POOL_NONE ? new_serial() : 0;
    *out = vit;
    return VP_OK;
}

vp_vit *vp_vit_ref(vp_vit *vit)
{
    atomic_fetch_add(&vit->refs, 1);
    return vit;
}

void vp_vit_unref(vp_vit *vit)
{
    if (vit == NULL || atomic_fetch_sub(&vit->refs, 1) != 1) {
        return;
    }
    for (size_t i = 0; i < vit->num_params; i++) {
        vp_weight_unref(*vit->params[i].slot);
    }
    vp_packed_free(&vit->pool.query);
    vp_free(vit->params);
    vp_free(vit->blocks);
    vp_free(vit);
}

const vp_config *vp_vit_config(const vp_vit *vit)
{
    return &vit->config;
}

size_t vp_vit_num_params(const vp_vit *vit)
{
    return vit->num_params;
}

const vp_param *vp_vit_param(const vp_vit *vit, size_t i)
{
    return &vit->params[i];
}

size_t vp_param_count(const vp_param *param)
{
    size_t count = 1;
    for (size_t i = 0; i < param->ndim; i++) {
        count = vp_size_mul(count, param->shape[i]);
    }
    return count;
}

size_t vp_vit_weight_bytes(const vp_vit *vit)
{
    size_t bytes = 0;
    for (size_t i = 0; i < vit->num_params; i++) {
        bytes += vp_weight_bytes(*vit->params[i].slot);
    }
    return bytes;
}

unsigned long long vp_vit_serial(const vp_vit *vit)
{
    return vit->serial;
}

unsigned long long vp_vit_pool_serial(const vp_vit *vit)
{
    return vit->pool.serial;
}

vp_status vp_vit_set_param(vp_vit *vit, size_t i, const float *numbers, vp_error *err)
{
    vp_param *param = &vit->params[i];
    const size_t count = vp_param_count(param);
    vp_weight *weight =
        param->matrix ? vp_weight_create_matrix(param->shape[0],
                                                count / param->shape[0], param->first)
                      : vp_weight_create_plain(count);
    if (weight == NULL) {
        return vp_fail_memory(err, param->name, count * sizeof(float));
    }
    vp_weight_set(weight, numbers);
    vp_weight_unref(*param->slot);
    *param->slot = weight;
    return VP_OK;
}

static bool same_shape(const vp_param *a, const vp_param *b)
{
    return a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0;
}

bool vp_vit_share_param(vp_vit *vit, size_t i, const vp_vit *from)
{
    vp_param *param = &vit->params[i];
    for (size_t j = 0; j < from->num_params; j++) {
        const vp_param *other = &from->params[j];
        if (strcmp(param->name, other->name) == 0 && same_shape(param, other)) {
            vp_weight_unref(*param->slot);
            *param->slot = vp_weight_ref(*other->slot);
            return true;
        }
    }
    return false;
}

vp_status vp_vit_share_rest(vp_vit *vit, const vp_vit *from, vp_error *err)
{
    for (size_t i = 0; i < vit->num_params; i++) {
        if (*vit->params[i].slot == NULL && !vp_vit_share_param(vit, i, from)) {
            return vp_fail(err, VP_ERR_KEY, "%s", vit->params[i].name);
        }
    }
    if (vit->config.attn_pool == from->config.attn_pool) {
        vit->pool.serial = from->pool.serial;
    }
    return VP_OK;
}

/* exp(q1 . k1) - exp(q2 . k2) + lambda_init, timm.layers.DiffAttention */
static void derive_lambda(vp_attn *attn, size_t depth, size_t d)
{
    double first = 0.0, second = 0.0;
    for (size_t i = 0; i < d; i++) {
        first += (double)attn->lambda_q1->plain[i] * attn->lambda_k1->plain[i];
        second += (double)attn->lambda_q2->plain[i] * attn->lambda_k2->plain[i];
    }
    const double init = 0.8 - 0.6 * exp(-0.3 * (double)depth);
    attn->lambda_init = (float)init;
    attn->lambda = (float)(exp(first) - exp(second) + init);
}

vp_status vp_vit_finish(vp_vit *vit, vp_error *err)
{
    if (vp_config_is_diff(&vit->config)) {
        for (size_t i = 0; i < vit->config.depth; i++) {
            for (int j = 0; j < 2; j++) {
                if (vit->blocks[i].attn[j].lambda_q1 != NULL) {
                    derive_lambda(&vit->blocks[i].attn[j], i,
                                  vp_config_head_dim(&vit->config));
                }
            }
        }
    }
    return vp_attn_pool_finish(vit, err);
}

/* -- checks -- */

vp_status vp_vit_check_size(const vp_vit *vit, size_t height, size_t width,
                            size_t grid[2], vp_error *err)
{
    const vp_config *c = &vit->config;
    const size_t size[2] = {height, width};
    if (!c->dynamic_img_size) {
        if (height != c->img_size[0] || width != c->img_size[1]) {
            return vp_fail(err, VP_ERR_VALUE,
                           "x has images of %zu x %zu, but this model takes %zu x %zu "
                           "(set_input_size changes that)",
                           height, width, c->img_size[0], c->img_size[1]);
        }
    } else if (!c->dynamic_img_pad &&
               (height % c->patch_size[0] != 0 || width % c->patch_size[1] != 0)) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "x has images of %zu x %zu, but height and width must be multiples "
            "of the patch size %zu x %zu",
            height, width, c->patch_size[0], c->patch_size[1]);
    }
    for (int i = 0; i < 2; i++) {
        grid[i] = c->dynamic_img_pad
                      ? size[i] / c->patch_size[i] + (size[i] % c->patch_size[i] != 0)
                      : size[i] / c->patch_size[i];
        if (grid[i] == 0 || grid[i] > (size_t)1 << 16) {
            return vp_fail(
                err, VP_ERR_VALUE,
                "x has images of %zu x %zu; with patches of %zu x %zu a side "
                "must give from 1 to 65536 of them",
                height, width, c->patch_size[0], c->patch_size[1]);
        }
    }
    return VP_OK;
}

vp_status vp_vit_check_pool(const vp_vit *vit, vp_pool pool, vp_error *err)
{
    const vp_config *c = &vit->config;
    if (pool == VP_POOL_TOKEN && !c->class_token) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "pool_type 'token' needs the class token, but this model was built "
            "with class_token=False");
    }
    if ((pool == VP_POOL_MAP || pool == VP_POOL_PRR) && c->attn_pool != pool) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "pool_type '%s' needs that attention pool, but this model has %s%s%s",
            vp_pool_names[pool], c->attn_pool == VP_POOL_NONE ? "none" : "'",
            vp_pool_names[c->attn_pool], c->attn_pool == VP_POOL_NONE ? "" : "'");
    }
    return VP_OK;
}

/* -- the forward pass -- */

/* Images in a chunk: of `batch`, each of `tokens` tokens. */
static size_t chunk_of(const vp_config *c, size_t batch, size_t tokens)
{
    const size_t widest =
        vp_config_hidden(c) > 3 * c->embed_dim ? vp_config_hidden(c) : 3 * c->embed_dim;
    const size_t floats = tokens * (5 * c->embed_dim + widest);
    const size_t images = CHUNK_BYTES / sizeof(float) / (floats > 0 ? floats : 1);
    return images < 1 ? 1 : images < batch ? images : batch;
}

/* Cuts the pass's scratch from the arena; `head_only` leaves out what only blocks use. */
static void plan(vp_pass *pass, vp_arena *arena, bool head_only)
{
    const vp_config *c = pass->config;
    const size_t m = pass->batch * pass->tokens, workers = pass->team.workers;
    const size_t width = c->embed_dim, hidden = vp_config_hidden(c);
    const size_t patch = c->in_chans * c->patch_size[0] * c->patch_size[1];
    const bool scaling = c->block == VP_BLOCK_PARALLEL_SCALING ||
                         c->block == VP_BLOCK_DIFF_PARALLEL_SCALING;
    const size_t widest = scaling ? width + c->mlp_hidden : hidden;
    const bool diff = vp_config_is_diff(c), map = c->attn_pool == VP_POOL_MAP;
    const size_t d = vp_config_head_dim(c), dv = width / c->num_heads;
    pass->ldx = vp_row_stride(width);
    pass->ldqkv = vp_row_stride(3 * width);
    pass->ldh = vp_row_stride(widest > c->mlp_hidden ? widest : c->mlp_hidden);
    pass->lddiff = vp_row_stride(2 * width);
    pass->ldscores = vp_row_stride(c->num_heads);

    size_t need = vp_attn_pool_scratch(c, workers, pass->batch, pass->tokens);
    const size_t rows = pass->batch > m ? pass->batch : m;
    vp_scratch_max(&need, vp_gemm_scratch(workers, rows, width, 0));
    if (!head_only) {
        vp_scratch_max(&need, vp_gemm_scratch(workers, rows, widest, 0));
        vp_scratch_max(&need,
                       vp_gemm_scratch(workers, rows, width, c->mlp != VP_MLP_PLAIN));
        vp_scratch_max(&need, vp_gemm_scratch(workers, m, patch, 0));
        vp_scratch_max(&need, vp_attention_scratch(pass->tokens, d, dv));
    }
    pass->run.per_worker = need;
    pass->run.scratch = vp_arena_floats(arena, vp_size_mul(workers, need));

#define TAKE(field, rows, ld) \
    pass->field = vp_arena_floats(arena, vp_size_mul(rows, ld))
    if (!head_only) {
        TAKE(x, m, pass->ldx);
        TAKE(qkv, m, pass->ldqkv);
        /* the patches' pixels are gone before the hidden layer comes */
        const size_t ldpatch = vp_row_stride(patch);
        TAKE(h, m, pass->ldh > ldpatch ? pass->ldh : ldpatch);
    }
    TAKE(a, m, pass->ldx);
    if (!head_only && c->block != VP_BLOCK_PLAIN) {
        TAKE(t, m, pass->ldx);
    }
    if (!head_only && diff) {
        TAKE(diff, m, pass->lddiff);
    }
    const size_t pooled = c->global_pool == VP_POOL_NONE ? m : pass->batch;
    TAKE(pooled, pooled, pass->ldx);
    TAKE(pool_a, pooled, pass->ldx);
    TAKE(pool_h, pass->batch, pass->ldh);
    if (map) {
        TAKE(scores, m, pass->ldscores);
        TAKE(head_means, pass->batch * c->num_heads, pass->ldx);
        TAKE(head_values, pass->batch * c->num_heads, pass->ldx);
    }
#undef TAKE
}

/* Opens a team and a workspace for the pass. */
static vp_workspace *open_pass(vp_pass *pass, const vp_vit *vit,
                               vp_workspaces *workspaces, size_t batch, size_t tokens,
                               bool head_only, vp_error *err)
{
    memset(pass, 0, sizeof *pass);
    pass->vit = vit;
    pass->config = &vit->config;
    pass->batch = batch;
    pass->tokens = tokens;
    (void)vp_team_open(&pass->team);
    pass->run.team = &pass->team;
    pass->run.kernels = vp_kernels_get();
    pass->run.ukr = vp_ukr_get();
    vp_arena arena = {NULL, 0, 0};
    plan(pass, &arena, head_only);
    vp_workspace *workspace = vp_workspace_take(workspaces, arena.used);
    if (workspace == NULL) {
        vp_team_close(&pass->team);
        (void)vp_fail_memory(err, "a forward pass", arena.used);
        return NULL;
    }
    arena = (vp_arena){workspace->memory, workspace->bytes, 0};
    plan(pass, &arena, head_only);
    return workspace;
}

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

static void reduce(vp_pass *pass, vp_pool pool, const float *x, size_t ldx, float *out,
                   size_t ldo)
{
    const vp_config *c = pass->config;
    const size_t n = pass->tokens;
    const size_t first = vp_config_include_prefix(c) ? 0 : vp_config_prefix(c);
    const vp_reduce how = pool == VP_POOL_AVG      ? VP_REDUCE_AVG
                          : pool == VP_POOL_MAX    ? VP_REDUCE_MAX
                          : pool == VP_POOL_AVGMAX ? VP_REDUCE_AVGMAX
                                                   : VP_REDUCE_TOKEN;
    vp_pool_run(&pass->run, how, pass->batch, n, first, c->embed_dim, out, ldo, x, ldx,
                n * ldx);
}

/* out[B][C] = this pool of x[B][N][C]; not for VP_POOL_NONE */
static void pool_tokens(vp_pass *pass, vp_pool pool, const float *x, size_t ldx,
                        float *out, size_t ldo, float *weights)
{
    const vp_config *c = pass->config;
    if (pool != VP_POOL_MAP && pool != VP_POOL_PRR) {
        reduce(pass, pool, x, ldx, out, ldo);
        return;
    }
    const size_t prefix = vp_config_prefix(c);
    const size_t first = vp_config_include_prefix(c) ? 0 : prefix;
    vp_attn_pool_forward(pass, x + first * ldx, ldx, pass->tokens * ldx,
                         pass->tokens - first, out, ldo, weights);
}

/* fc_norm, then the head if wanted, from `rows` pooled rows into out. */
static void classify(vp_pass *pass, const float *pooled, size_t ldp, size_t rows,
                     vp_output output, float *out)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    if (output == VP_OUT_PRE_LOGITS || c->num_classes == 0) {
        vp_module_norm(pass, &vit->fc_norm, rows, pass->pool_a, pass->ldx, pooled, ldp);
        copy_rows(out, pass->pool_a, rows, c->embed_dim, pass->ldx);
        return;
    }
    if (vit->fc_norm.kind != VP_NORM_NONE) {
        vp_module_norm(pass, &vit->fc_norm, rows, pass->pool_a, pass->ldx, pooled, ldp);
        pooled = pass->pool_a;
        ldp = pass->ldx;
    }
    const vp_gemm gemm = {.m = rows,
                          .a = pooled,
                          .lda = ldp,
                          .w = &vit->head.weight->packed[0],
                          .sum_piece = VP_SUM_PIECE_FINAL,
                          .finish = vp_module_finish(&vit->head, out, c->num_classes)};
    VP_PROFILED(pass->profile, head,
                2.0 * (double)(rows * c->embed_dim * c->num_classes),
                vp_gemm_run(&pass->run, &gemm));
}

/* forward_head of x[B][N][C]. */
static void head_forward(vp_pass *pass, const float *x, size_t ldx, vp_output output,
                         float *out, float *weights)
{
    const vp_pool pool = pass->config->global_pool;
    const size_t m = pass->batch * pass->tokens;
    if (pool == VP_POOL_NONE) {
        classify(pass, x, ldx, m, output, out);
        return;
    }
    VP_PROFILED(pass->profile, pool, 0,
                pool_tokens(pass, pool, x, ldx, pass->pooled, pass->ldx, weights));
    classify(pass, pass->pooled, pass->ldx, pass->batch, output, out);
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
        classify(pass, pass->pooled, pass->ldx, pass->batch, f->output, out);
    } else if (last == VP_LAST_TOKEN) {
        vp_module_norm(pass, &vit->norm, pass->batch, pass->pooled, pass->ldx, pass->x,
                       n * pass->ldx);
        classify(pass, pass->pooled, pass->ldx, pass->batch, f->output, out);
    } else {
        vp_module_norm(pass, &vit->norm, m, pass->x, pass->ldx, pass->x, pass->ldx);
        head_forward(pass, pass->x, pass->ldx, f->output, out, pool_map);
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
    const size_t chunk = chunk_of(c, f->batch, tokens);
    const vp_patch_grid grid = {c->in_chans,      f->height, f->width, c->patch_size[0],
                                c->patch_size[1], side[0],   side[1]};
    vp_pass pass;
    vp_workspace *workspace =
        open_pass(&pass, vit, workspaces, chunk, tokens, false, err);
    if (workspace == NULL) {
        return err->code;
    }
    pass.profile = f->profile;
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
    }
    vp_team_close(&pass.team);
    vp_workspace_give(workspaces, workspace);
    return VP_OK;
}

/* Runs `step` over chunks of images of tokens (B, N, C). */
typedef struct {
    vp_output output;
    vp_pool pool;
    bool head;
    float *out;
} head_step;

static vp_status over_tokens(const vp_vit *vit, vp_workspaces *workspaces,
                             const float *tokens, size_t batch, size_t n,
                             const head_step *step, vp_error *err)
{
    const vp_config *c = &vit->config;
    const size_t width = c->embed_dim;
    if (batch == 0) {
        return VP_OK;
    }
    const size_t chunk = chunk_of(c, batch, n);
    const bool pooled =
        step->head ? c->global_pool != VP_POOL_NONE : step->pool != VP_POOL_NONE;
    const size_t outputs =
        step->head && step->output == VP_OUT_LOGITS && c->num_classes > 0
            ? c->num_classes
            : width;
    vp_pass pass;
    vp_workspace *workspace = open_pass(&pass, vit, workspaces, chunk, n, true, err);
    if (workspace == NULL) {
        return err->code;
    }
    for (size_t first = 0; first < batch; first += chunk) {
        pass.batch = batch - first < chunk ? batch - first : chunk;
        const float *x = tokens + first * n * width;
        float *out = step->out + first * (pooled ? 1 : n) * outputs;
        if (step->head) {
            head_forward(&pass, x, width, step->output, out, NULL);
        } else if (pooled) {
            pool_tokens(&pass, step->pool, x, width, out, width, NULL);
        } else {
            memcpy(out, x, pass.batch * n * width * sizeof(float));
        }
    }
    vp_team_close(&pass.team);
    vp_workspace_give(workspaces, workspace);
    return VP_OK;
}

vp_status vp_vit_forward_head(const vp_vit *vit, vp_workspaces *workspaces,
                              const float *tokens, size_t batch, size_t n,
                              vp_output output, float *out, vp_error *err)
{
    const head_step step = {.output = output, .head = true, .out = out};
    return over_tokens(vit, workspaces, tokens, batch, n, &step, err);
}

vp_status vp_vit_pool(const vp_vit *vit, vp_workspaces *workspaces, const float *tokens,
                      size_t batch, size_t n, vp_pool pool, float *out, vp_error *err)
{
    if (vp_vit_check_pool(vit, pool, err) != VP_OK) {
        return err->code;
    }
    const head_step step = {.pool = pool, .out = out};
    return over_tokens(vit, workspaces, tokens, batch, n, &step, err);
}
