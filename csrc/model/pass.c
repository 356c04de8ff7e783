/* Planning a forward pass. SPDX-License-Identifier: Apache-2.0 */
#include "model/pass.h"

#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "gemm/operand.h"
#include "model/modules.h"

const char *const vp_profile_names[VP_PROFILE_COUNT] = {
#define VP_PROFILE_NAME(name) #name,
    VP_PROFILE_OPS(VP_PROFILE_NAME)
#undef VP_PROFILE_NAME
};

/* Images in a chunk: of `batch`, each of `tokens` tokens. */
static size_t chunk_of(const vp_pass *pass, size_t batch, size_t tokens)
{
    const vp_config *c = pass->config;
    const size_t widest = vp_max(vp_config_hidden(c), 3 * c->embed_dim);
    const size_t floats = tokens * (5 * c->embed_dim + widest);
    const size_t images =
        pass->run.limits.chunk_bytes / sizeof(float) / vp_max(floats, 1);
    return images < 1 ? 1 : images < batch ? images : batch;
}

/* Pixels of a patch. */
static size_t patch_size(const vp_config *c)
{
    return c->in_chans * c->patch_size[0] * c->patch_size[1];
}

/* Columns of the widest row of pass->h. */
static size_t widest_hidden(const vp_config *c)
{
    const bool scaling = c->block == VP_BLOCK_PARALLEL_SCALING ||
                         c->block == VP_BLOCK_DIFF_PARALLEL_SCALING;
    return scaling ? c->embed_dim + c->mlp_hidden : vp_config_hidden(c);
}

/* What the products with the model's parameters need, each by its own weight: returns bytes
 * of each worker, those of run->operand go to *operand. */
static size_t products_scratch(const vp_pass *pass, vp_pass_part part, size_t *operand)
{
    const vp_vit *vit = pass->vit;
    const size_t tokens = pass->batch * vp_max(pass->tokens, 1);
    size_t need = 0;
    *operand = 0;
    for (size_t i = 0; i < vit->num_params; i++) {
        const vp_param *param = &vit->params[i];
        const bool block = strncmp(param->name, "blocks.", 7) == 0;
        if (!param->matrix || (part != VP_PASS_WHOLE && block)) {
            continue;
        }
        const vp_weight *weight = *param->slot;
        for (size_t p = 0; p < weight->parts; p++) {
            const vp_packed *w = &weight->packed[p];
            const bool gated = block && pass->config->mlp != VP_MLP_PLAIN &&
                               w->k == pass->config->embed_dim;
            /* the map pool multiplies a row for each head */
            const bool pool = strncmp(param->name, "attn_pool.", 10) == 0;
            const size_t heads = pass->batch * vp_config_pool_heads(pass->config);
            const bool stem = strncmp(param->name, "patch_embed.", 12) == 0;
            const size_t most =
                stem ? vp_conv_stem_rows(pass->config, pass->tokens) : 0;
            const size_t rows = vp_max(pool ? vp_max(tokens, heads) : tokens, most);
            vp_scratch_max(&need, vp_gemm_scratch(w, rows, gated));
            vp_scratch_max(operand, vp_operand_bytes(w, rows));
        }
    }
    return need;
}

/* Bytes of scratch that each worker needs: the most that any op of the part does. */
static size_t worker_scratch(vp_pass *pass, vp_pass_part part)
{
    const vp_config *c = pass->config;
    size_t need = vp_attn_pool_scratch(pass);
    vp_scratch_max(&need, products_scratch(pass, part, &pass->run.operand_bytes));
    if (part == VP_PASS_WHOLE) {
        const vp_ukr *last = NULL; /* blocks in a row mostly run with the same */
        for (size_t i = 0; i < 2 * c->depth; i++) {
            const vp_block *block = &pass->vit->blocks[i / 2];
            const vp_weight *queries = vp_attn_queries(&block->attn[i % 2]);
            queries = queries != NULL ? queries : block->in_proj.weight;
            if (queries == NULL) { /* a block with one attention */
                continue;
            }
            const vp_run run = vp_module_attention_run(pass, queries);
            if (run.ukr != last) {
                vp_scratch_max(&need, vp_attention_scratch(
                                          &run, pass->tokens, vp_config_head_dim(c),
                                          c->embed_dim / c->num_heads));
                last = run.ukr;
            }
        }
    }
    return need;
}

#define TAKE(field, rows, ld) \
    pass->field = vp_arena_floats(arena, vp_size_mul(rows, ld))

/* The activations of one block, which the next overwrites. (To keep those of several, as a
 * backward pass must, is to take these for each.) */
static void plan_blocks(vp_pass *pass, vp_arena *arena)
{
    const vp_config *c = pass->config;
    const size_t m = pass->batch * pass->tokens;
    TAKE(x, m, pass->ldx);
    TAKE(qkv, m, pass->ldqkv);
    TAKE(h, m, vp_max(pass->ldh, vp_row_stride(patch_size(c))));
    vp_conv_stem_plan(pass, arena, pass->tokens);
    if (!vp_config_is_plain(c)) {
        TAKE(t, m, pass->ldx);
    }
    if (vp_config_is_diff(c)) {
        TAKE(diff, m, pass->lddiff);
    }
}

static void plan_head(vp_pass *pass, vp_arena *arena)
{
    const vp_config *c = pass->config;
    const size_t m = pass->batch * pass->tokens;
    const size_t pooled = c->global_pool == VP_POOL_NONE ? m : pass->batch;
    TAKE(pooled, pooled, pass->ldx);
    TAKE(pool_a, pooled, pass->ldx);
    TAKE(pool_h, pass->batch, pass->ldh);
    if (c->attn_pool == VP_POOL_MAP) {
        TAKE(scores, m, pass->ldscores);
        TAKE(head_means, pass->batch * vp_config_pool_heads(c), pass->ldx);
        TAKE(head_values, pass->batch * vp_config_pool_heads(c), pass->ldx);
    }
}

/* Cuts the pass's scratch from the arena. */
static void plan(vp_pass *pass, vp_arena *arena, vp_pass_part part)
{
    const vp_config *c = pass->config;
    const size_t m = pass->batch * pass->tokens;
    pass->ldx = vp_row_stride(c->embed_dim);
    pass->ldqkv = vp_row_stride(3 * c->embed_dim);
    pass->ldh = vp_row_stride(vp_max(widest_hidden(c), vp_config_pool_hidden(c)));
    pass->lddiff = vp_row_stride(2 * c->embed_dim);
    pass->ldscores = vp_row_stride(vp_config_pool_heads(c));
    pass->run.per_worker = worker_scratch(pass, part);
    pass->run.scratch =
        vp_arena_take(arena, vp_size_mul(pass->team.workers, pass->run.per_worker));
    pass->run.operand = vp_arena_take(arena, pass->run.operand_bytes);
    if (part == VP_PASS_WHOLE) {
        plan_blocks(pass, arena);
    }
    TAKE(a, m, pass->ldx);
    plan_head(pass, arena);
}

#undef TAKE

vp_status vp_pass_open(vp_pass *pass, const vp_vit *vit, vp_workspaces *workspaces,
                       size_t batch, size_t tokens, vp_pass_part part, vp_error *err)
{
    memset(pass, 0, sizeof *pass);
    pass->vit = vit;
    pass->config = &vit->config;
    pass->run.kernels = vp_kernels_get();
    pass->run.ukr = vp_ukr_for(VP_DTYPE_f32);
    pass->run.limits = vp_limits_get(vp_team_open(&pass->team));
    pass->run.team = &pass->team;
    pass->batch = chunk_of(pass, batch, tokens);
    pass->tokens = tokens;
    vp_arena arena = {NULL, 0, 0};
    plan(pass, &arena, part);
    pass->workspaces = workspaces;
    pass->workspace = vp_workspace_take(workspaces, arena.used);
    if (pass->workspace == NULL) {
        vp_team_close(&pass->team);
        return vp_fail_memory(err, "a forward pass", arena.used);
    }
    arena = (vp_arena){pass->workspace->memory, pass->workspace->bytes, 0};
    plan(pass, &arena, part);
    return VP_OK;
}

void vp_pass_close(vp_pass *pass)
{
    vp_team_close(&pass->team);
    vp_workspace_give(pass->workspaces, pass->workspace);
}
