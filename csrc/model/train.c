/* The training pass: its checks, its plan of memory, its chunks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/train.h"

#include <string.h>

#include "gemm/gradient.h"
#include "gemm/operand.h"
#include "model/training.h"
#include "ops/dropout.h"

/* -- the modules' steps -- */

float *vp_gradient_of(const vp_training *t, vp_weight *const *slot)
{
    const vp_vit *vit = t->pass.vit;
    for (size_t i = 0; i < vit->num_params; i++) {
        if (vit->params[i].slot == slot) {
            return t->request->grads[i];
        }
    }
    return NULL;
}

vp_drop vp_drop_at(const vp_training *t, size_t site, double rate)
{
    return (vp_drop){.rate = (float)rate,
                     .seed = t->request->seed,
                     .site = site,
                     .image = t->request->image + t->pass.start};
}

void vp_train_linear(vp_training *t, const vp_linear *linear, size_t m, const float *a,
                     size_t lda, float *out, size_t ldo)
{
    for (size_t part = 0, col = 0; part < linear->weight->parts; part++) {
        vp_finish finish = vp_module_finish(linear, out + col, ldo);
        finish.bias = finish.bias != NULL ? finish.bias + col : NULL;
        vp_module_linear(&t->pass, linear, part, m, a, lda, &finish);
        col += linear->weight->packed[part].n;
    }
}

void vp_train_linear_back(vp_training *t, const vp_linear *linear, size_t m,
                          const float *dy, size_t lddy, const float *x, size_t ldx,
                          float *dx, size_t lddx, bool add)
{
    float *dw = vp_gradient_of(t, &linear->weight);
    float *db = vp_gradient_of(t, &linear->bias);
    for (size_t part = 0, col = 0; part < linear->weight->parts; part++) {
        const vp_packed *w = &linear->weight->packed[part];
        const vp_linear_gradient gradient = {.m = m,
                                             .w = w,
                                             .dy = dy + col,
                                             .lddy = lddy,
                                             .x = x,
                                             .ldx = ldx,
                                             .dw = dw != NULL ? dw + col * w->k : NULL,
                                             .db = db != NULL ? db + col : NULL,
                                             .dx = dx,
                                             .lddx = lddx,
                                             .add = add || part > 0};
        vp_linear_gradient_run(&t->pass.run, &gradient, t->memory);
        col += w->n;
    }
}

void vp_train_norm(vp_training *t, const vp_norm *norm, size_t m, size_t heads,
                   size_t n, float *y, size_t ldy, const float *x, size_t ldx)
{
    const vp_norm_op op = vp_module_norm_op(norm);
    vp_norm_run(&t->pass.run, &op, m, heads, n, y, ldy, x, ldx);
}

void vp_train_norm_back(vp_training *t, const vp_norm *norm, size_t m, size_t heads,
                        size_t n, float *dx, size_t lddx, bool add, const float *dy,
                        size_t lddy, const float *x, size_t ldx)
{
    const vp_norm_op op = vp_module_norm_op(norm);
    vp_norm_gradient_run(&t->pass.run, &op, m, heads, n, dx, lddx, add, dy, lddy, x,
                         ldx, vp_gradient_of(t, &norm->weight),
                         vp_gradient_of(t, &norm->bias), t->partial);
}

/* -- the plan -- */

#define TAKE(field, rows, ld) t->field = vp_arena_floats(arena, vp_size_mul(rows, ld))

static size_t patch_stride(const vp_config *c)
{
    return vp_row_stride(c->in_chans * c->patch_size[0] * c->patch_size[1]);
}

static void plan_blocks(vp_training *t, vp_arena *arena)
{
    const vp_config *c = t->pass.config;
    const vp_gradients *r = t->request;
    const size_t ld = t->pass.ldx, m = t->rows, back = c->depth - t->lowest;
    const bool branches = vp_config_layer_scale(c) || vp_config_is_res_post(c) ||
                          r->rates.proj_drop > 0.0 || r->rates.drop_path > 0.0;
    TAKE(x, (back + 1) * m, ld);
    if (t->first == c->depth) {
        return;
    }
    const size_t kept = r->checkpointing || back == 0 ? 1 : back;
    vp_arena one = {NULL, 0, 0};
    (void)vp_kept_take(t, &one);
    TAKE(blocks, kept, one.used / sizeof(float));
    TAKE(wide, m, vp_max(t->pass.ldqkv, t->ldmlp));
    if (branches) {
        TAKE(z, m, ld);
    }
    if (c->qk_norm) {
        TAKE(qk, m, t->pass.ldqkv);
    }
    vp_train_attn_plan(t, arena);
    if (c->scale_mlp_norm) {
        TAKE(normed, m, t->ldmlp);
    }
}

static void plan_embedding(vp_training *t, vp_arena *arena)
{
    const vp_vit *vit = t->pass.vit;
    const size_t ld = t->pass.ldx, batch = t->pass.batch, full = batch * t->full;
    vp_conv_stem_plan(&t->pass, arena, t->full);
    if (vit->norm_pre.kind != VP_NORM_NONE) {
        TAKE(embedded, t->rows, ld);
    }
    if (vit->patch_norm.kind != VP_NORM_NONE) {
        TAKE(patches, full, ld);
    }
    if (t->full > t->pass.tokens) {
        TAKE(all, full, ld);
        t->dropped = vp_arena_take(arena, vp_size_mul(t->rows, sizeof *t->dropped));
        t->dropped_bits = vp_arena_take(arena, vp_size_mul(full, sizeof(uint32_t)));
    }
}

static void plan_head(vp_training *t, vp_arena *arena)
{
    const vp_config *c = t->pass.config;
    const vp_gradients *r = t->request;
    const size_t ld = t->pass.ldx, batch = t->pass.batch;
    const size_t pooled = vp_size_mul(batch, vp_train_heads(c));
    TAKE(head, pooled, ld);
    TAKE(dlogits, batch, t->ldlogits);
    t->row_losses =
        vp_arena_take(arena, vp_size_mul(batch * r->groups, sizeof(double)));
    if (r->entry == VP_ENTRY_PRE_LOGITS) {
        return;
    }
    if (t->pass.vit->norm.kind != VP_NORM_NONE && r->entry != VP_ENTRY_FEATURES) {
        TAKE(f, t->rows, ld);
    }
    TAKE(pool, pooled, ld);
    TAKE(pre, batch, ld);
    TAKE(pool_g, pooled, ld);
    if (t->features) {
        TAKE(g, t->rows, ld);
    }
    const bool tokens = t->first < c->depth || c->global_pool == VP_POOL_PRR;
    const size_t m = tokens ? t->rows : batch;
    TAKE(pass.a, m, ld);
    TAKE(b, vp_max(m, t->embedding ? batch * t->full : 0), ld);
    const size_t pixels = r->entry == VP_ENTRY_IMAGES ? batch * t->full : 0;
    const size_t wide =
        vp_max(vp_size_mul(m, t->ldmlp), vp_size_mul(pixels, patch_stride(c)));
    t->pass.h = vp_arena_floats(arena, wide);
    vp_train_pool_plan(t, arena);
}

/* Sums over rows of norms and branches, and products' operands. */
static void plan_sums(vp_training *t, vp_arena *arena)
{
    const vp_vit *vit = t->pass.vit;
    const vp_config *c = t->pass.config;
    const size_t width = c->embed_dim, m = vp_max(t->rows, t->pass.batch);
    size_t floats = vp_norm_gradient_floats(m, 1, vp_max(width, vp_config_hidden(c)));
    floats =
        vp_max(floats, vp_norm_gradient_floats(m, c->num_heads, vp_config_head_dim(c)));
    floats =
        vp_max(floats, vp_branch_gradient_floats(t->pass.batch, t->pass.tokens, width));
    TAKE(partial, floats, 1);
    size_t memory = 0;
    for (size_t i = 0; i < vit->num_params; i++) {
        const vp_param *param = &vit->params[i];
        const bool trains = param->matrix && param->dtype == VP_DTYPE_f32;
        for (size_t p = 0; trains && p < (*param->slot)->parts; p++) {
            vp_scratch_max(&memory, vp_linear_gradient_memory(
                                        &(*param->slot)->packed[p], t->most_rows));
        }
    }
    t->memory = vp_arena_take(arena, memory);
}

/* All of a chunk's matrices, from an arena that may only measure. */
static void plan(vp_training *t, vp_arena *arena)
{
    const vp_config *c = t->pass.config;
    const bool tokens = t->request->entry != VP_ENTRY_PRE_LOGITS;
    t->rows = t->pass.batch * (tokens ? t->pass.tokens : 1);
    /* rows of any product: of embedding too, before patches are dropped; of heads */
    t->most_rows =
        t->pass.batch * vp_max(tokens ? t->full : 1, vp_config_pool_heads(c));
    t->pass.ldx = vp_row_stride(c->embed_dim);
    t->pass.ldqkv = vp_row_stride(3 * c->embed_dim);
    t->pass.ldscores = vp_row_stride(vp_config_pool_heads(c));
    const bool map = c->attn_pool == VP_POOL_MAP;
    t->ldmlp = vp_row_stride(
        vp_max(vp_train_mlp_width(c), map ? vp_config_pool_hidden(c) : 0));
    t->ldlogits = vp_row_stride(c->num_classes);
    plan_head(t, arena);
    plan_sums(t, arena);
    if (t->first < c->depth || t->request->entry == VP_ENTRY_BLOCK ||
        t->request->entry == VP_ENTRY_IMAGES) {
        plan_blocks(t, arena);
    }
    if (t->request->entry == VP_ENTRY_IMAGES) {
        plan_embedding(t, arena);
    }
}

#undef TAKE

/* Bytes of a chunk of so many images, without the workers' scratch. */
static size_t planned(vp_training *t, size_t images)
{
    vp_arena arena = {NULL, 0, 0};
    t->pass.batch = images;
    plan(t, &arena);
    return arena.used;
}

/* Images in a chunk: as many as fit into the request's memory, in chunks of nearly one size. */
static size_t chunk_of(vp_training *t)
{
    const size_t batch = t->request->batch;
    if (batch < 2) {
        return 1;
    }
    const size_t one = planned(t, 1), two = planned(t, 2);
    const size_t each = vp_max(two - one, 1), fixed = one > each ? one - each : 0;
    const size_t memory = t->request->memory;
    const size_t images = memory > fixed ? (memory - fixed) / each : 1;
    const size_t chunks = vp_ceil_div(batch, vp_min(vp_max(images, 1), batch));
    return vp_ceil_div(batch, chunks);
}

/* Bytes of scratch that each worker needs; *operand: of what they share. */
static size_t worker_scratch(const vp_training *t, size_t *operand)
{
    const vp_vit *vit = t->pass.vit;
    const size_t rows =
        vp_max(t->most_rows, vp_conv_stem_rows(t->pass.config, t->full));
    size_t need = 0;
    if (t->first < t->pass.config->depth) {
        vp_scratch_max(&need, vp_train_attn_scratch(t));
    }
    vp_scratch_max(&need, vp_train_pool_scratch(t));
    for (size_t i = 0; i < vit->num_params; i++) {
        const vp_param *param = &vit->params[i];
        for (size_t p = 0; param->matrix && p < (*param->slot)->parts; p++) {
            const vp_packed *w = &(*param->slot)->packed[p];
            vp_scratch_max(&need, vp_gemm_scratch(w, rows, false));
            if (param->dtype == VP_DTYPE_f32) {
                vp_scratch_max(&need, vp_linear_gradient_scratch(w, t->most_rows));
            }
            vp_scratch_max(operand, vp_operand_bytes(w, rows));
        }
    }
    return need;
}

static vp_status open(vp_training *t, const vp_vit *vit, vp_workspaces *workspaces,
                      const vp_gradients *r, size_t tokens, vp_error *err)
{
    vp_pass *pass = &t->pass;
    memset(t, 0, sizeof *t);
    pass->vit = vit;
    pass->config = &vit->config;
    t->request = r;
    t->forward = (vp_forward){.batch = r->batch,
                              .images = r->images,
                              .height = r->height,
                              .width = r->width,
                              .rope = r->rope};
    pass->request = &t->forward;
    pass->run.kernels = vp_kernels_get();
    pass->run.ukr = vp_ukr_for(VP_DTYPE_f32);
    pass->run.limits = vp_limits_get(vp_team_open(&pass->team));
    pass->run.team = &pass->team;
    t->full = tokens;
    pass->tokens = vp_train_kept_tokens(pass->config, r, tokens);
    if (r->entry == VP_ENTRY_IMAGES) {
        (void)vp_vit_check_size(vit, r->height, r->width, t->side, err);
    }
    t->out_tokens = vp_train_out_tokens(vit, r, pass->tokens);
    vp_train_ask(t);
    pass->batch = chunk_of(t);
    size_t bytes = planned(t, pass->batch);
    pass->run.per_worker = worker_scratch(t, &pass->run.operand_bytes);
    const size_t scratch =
        vp_size_mul(pass->team.workers, pass->run.per_worker) + pass->run.operand_bytes;
    bytes = bytes > SIZE_MAX - scratch ? SIZE_MAX : bytes + scratch;
    pass->workspaces = workspaces;
    pass->workspace = vp_workspace_take(workspaces, bytes);
    if (pass->workspace == NULL) {
        vp_team_close(&pass->team);
        return vp_fail_memory(err, "a training pass", bytes);
    }
    vp_arena arena = {pass->workspace->memory, pass->workspace->bytes, 0};
    pass->run.operand = vp_arena_take(&arena, pass->run.operand_bytes);
    pass->run.scratch = vp_arena_take(&arena, scratch - pass->run.operand_bytes);
    plan(t, &arena);
    return VP_OK;
}

/* -- the pass -- */

/* The input of block i, or with i = depth the last block's output. Blocks without a backward
 * pass share a place. */
static float *x_at(const vp_training *t, size_t i)
{
    return t->x + (i < t->lowest ? 0 : i - t->lowest) * t->rows * t->pass.ldx;
}

static vp_kept kept_at(const vp_training *t, size_t i)
{
    vp_arena one = {NULL, 0, 0};
    (void)vp_kept_take(t, &one);
    const size_t at = t->request->checkpointing || i < t->lowest ? 0 : i - t->lowest;
    vp_arena arena = {(char *)t->blocks + at * one.used, one.used, 0};
    return vp_kept_take(t, &arena);
}

/* The tokens before the first block that runs. */
static void enter(vp_training *t)
{
    vp_pass *pass = &t->pass;
    float *x = x_at(t, t->first);
    if (t->request->entry == VP_ENTRY_IMAGES) {
        vp_train_embed(t, x);
    } else if (t->request->entry == VP_ENTRY_BLOCK) {
        const size_t width = pass->config->embed_dim;
        vp_module_copy(pass, pass->batch * pass->tokens, x, pass->ldx,
                       t->request->tokens + pass->start * pass->tokens * width, width);
    }
}

static void run_chunk(vp_training *t)
{
    const size_t depth = t->pass.config->depth;
    enter(t);
    for (size_t i = t->first; i < depth; i++) {
        const vp_kept kept = kept_at(t, i);
        vp_train_block(t, i, &kept, x_at(t, i), x_at(t, i + 1), false);
    }
    const float *last = t->x != NULL ? x_at(t, depth) : NULL;
    vp_train_head(t, last);
    vp_train_head_back(t, last);
    for (size_t i = depth; i-- > t->lowest;) {
        const vp_kept kept = kept_at(t, i);
        if (t->request->checkpointing && i + 1 < depth) { /* the last one's are there */
            vp_train_block(t, i, &kept, x_at(t, i), NULL, true);
        }
        vp_train_block_back(t, i, &kept, x_at(t, i));
    }
    if (t->embedding) {
        vp_train_embed_back(t);
    }
}

vp_status vp_vit_gradients(const vp_vit *vit, vp_workspaces *workspaces,
                           const vp_gradients *r, vp_error *err)
{
    size_t tokens;
    vp_training t;
    if (vp_vit_check_gradients(vit, r, &tokens, err) != VP_OK) {
        return err->code;
    }
    if (r->batch > 0 && open(&t, vit, workspaces, r, tokens, err) != VP_OK) {
        return err->code;
    }
    memset(r->losses, 0, r->groups * sizeof *r->losses);
    if (r->batch == 0) {
        return VP_OK;
    }
    vp_pass *pass = &t.pass;
    const size_t chunk = pass->batch;
    vp_train_pool_begin(&t);
    for (; pass->start < r->batch; pass->start += chunk) {
        vp_mask mask;
        pass->batch = vp_min(r->batch - pass->start, chunk);
        if (r->mask != NULL) {
            mask = vp_mask_from_image(r->mask, pass->start);
            pass->mask = &mask;
        }
        run_chunk(&t);
    }
    vp_train_pool_end(&t);
    vp_pass_close(pass);
    return VP_OK;
}
