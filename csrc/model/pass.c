/* Planning a forward pass. SPDX-License-Identifier: Apache-2.0 */
#include "model/pass.h"

#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "model/modules.h"

const char *const vp_profile_names[VP_PROFILE_COUNT] = {
#define VP_PROFILE_NAME(name) #name,
    VP_PROFILE_OPS(VP_PROFILE_NAME)
#undef VP_PROFILE_NAME
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Images in a chunk: of `batch`, each of `tokens` tokens. */
static size_t chunk_of(const vp_pass *pass, size_t batch, size_t tokens)
{
    const vp_config *c = pass->config;
    const size_t widest = max_size(vp_config_hidden(c), 3 * c->embed_dim);
    const size_t floats = tokens * (5 * c->embed_dim + widest);
    const size_t images =
        pass->run.limits.chunk_bytes / sizeof(float) / max_size(floats, 1);
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

/* Floats of scratch that each worker needs: the most that any op of the part does. */
static size_t worker_scratch(const vp_pass *pass, vp_pass_part part)
{
    const vp_config *c = pass->config;
    const size_t m = pass->batch * pass->tokens, workers = pass->team.workers;
    const size_t rows = max_size(pass->batch, m), width = c->embed_dim;
    size_t need = vp_attn_pool_scratch(pass);
    vp_scratch_max(&need, vp_gemm_scratch(workers, rows, width, 0));
    if (part == VP_PASS_WHOLE) {
        const bool gated = c->mlp != VP_MLP_PLAIN;
        vp_scratch_max(&need, vp_gemm_scratch(workers, m, patch_size(c), 0));
        vp_scratch_max(&need, vp_gemm_scratch(workers, rows, width, gated));
        vp_scratch_max(&need, vp_gemm_scratch(workers, rows, widest_hidden(c), 0));
        vp_scratch_max(&need, vp_attention_scratch(&pass->run, pass->tokens,
                                                   vp_config_head_dim(c),
                                                   width / c->num_heads));
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
    TAKE(h, m, max_size(pass->ldh, vp_row_stride(patch_size(c))));
    if (c->block != VP_BLOCK_PLAIN) {
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
        TAKE(head_means, pass->batch * c->num_heads, pass->ldx);
        TAKE(head_values, pass->batch * c->num_heads, pass->ldx);
    }
}

/* Cuts the pass's scratch from the arena. */
static void plan(vp_pass *pass, vp_arena *arena, vp_pass_part part)
{
    const vp_config *c = pass->config;
    const size_t m = pass->batch * pass->tokens;
    pass->ldx = vp_row_stride(c->embed_dim);
    pass->ldqkv = vp_row_stride(3 * c->embed_dim);
    pass->ldh = vp_row_stride(max_size(widest_hidden(c), c->mlp_hidden));
    pass->lddiff = vp_row_stride(2 * c->embed_dim);
    pass->ldscores = vp_row_stride(c->num_heads);
    pass->run.per_worker = worker_scratch(pass, part);
    pass->run.scratch =
        vp_arena_floats(arena, vp_size_mul(pass->team.workers, pass->run.per_worker));
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
    pass->run.ukr = vp_ukr_get();
    pass->run.limits = vp_limits_get();
    pass->run.team = &pass->team;
    pass->batch = chunk_of(pass, batch, tokens);
    pass->tokens = tokens;
    (void)vp_team_open(&pass->team);
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
