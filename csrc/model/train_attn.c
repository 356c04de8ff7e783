/* A block's self-attention in training: from its normed input to what proj reads, and the
 * gradient of that; see self_attention.c for the forward pass alone.
 *
 * kept.qkv has rows of q, k and v. With qk_norm it stays as it was, and what is normed and
 * turned lies in t->qk; else rotary embedding turns it in place, since the backward pass needs
 * it turned alone: the gradient of a rotation is the rotation back.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "gemm/gradient.h"
#include "model/training.h"
#include "ops/attention_gradient.h"

size_t vp_train_attn_scratch(const vp_training *t)
{
    const vp_config *c = t->pass.config;
    const size_t d = vp_config_head_dim(c), n = t->pass.tokens;
    size_t need = 0;
    vp_scratch_max(&need, vp_attention_scratch(&t->pass.run, n, d, d));
    vp_scratch_max(&need, vp_attention_gradient_scratch(&t->pass.run, n, d, d));
    return need;
}

/* Columns of the keys, and of the values, in a row of q, k and v. */
static size_t kv_width(const vp_training *t, const vp_attn *attn)
{
    const vp_weight *keys = attn->k_proj.weight;
    return keys != NULL ? keys->packed[0].n : t->pass.config->embed_dim;
}

static vp_drop attn_drop(const vp_training *t, size_t i)
{
    return vp_drop_at(t, 8 * i + VP_SITE_ATTN, t->request->rates.attn_drop);
}

/* Turns queries and keys in rows of q, k and v by their tokens' places, or back. */
static void rotate(vp_training *t, size_t i, const vp_attn *attn, bool back, float *qkv)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    vp_rope rope = {.batch = pass->batch,
                    .tokens = pass->tokens,
                    .prefix = vp_config_prefix(c),
                    .width = vp_config_head_dim(c),
                    .half = c->rope_rotate_half};
    pass->block = i;
    rope.table = vp_module_rope(pass, &rope.table_head);
    if (rope.table == NULL) {
        return;
    }
    rope.heads = c->num_heads;
    vp_rope_run(&pass->run, &rope, back, qkv, pass->ldqkv);
    rope.heads = kv_width(t, attn) / rope.width;
    vp_rope_run(&pass->run, &rope, back, qkv + c->embed_dim, pass->ldqkv);
}

/* Attention of the first nq queries of an image, and of the keys and values, in these rows. */
static vp_attention attention_of(const vp_training *t, const vp_attn *attn, size_t nq,
                                 const vp_kept *k, const float *qkv)
{
    const vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const size_t width = c->embed_dim, n = pass->tokens, kv = kv_width(t, attn);
    const size_t d = vp_config_head_dim(c), ld = pass->ldqkv;
    return (vp_attention){.batch = pass->batch,
                          .heads = c->num_heads,
                          .group = 1,
                          .kv_group = width / kv,
                          .nq = nq,
                          .nk = n,
                          .dk = d,
                          .dv = d,
                          .q = qkv,
                          .k = qkv + width,
                          .v = qkv + width + kv,
                          .q_row = ld,
                          .kv_row = ld,
                          .q_image = n * ld,
                          .kv_image = n * ld,
                          .scale = 1.0f / sqrtf((float)d),
                          .mask = pass->mask,
                          .relative =
                              attn->relative.bias != NULL ? &attn->relative : NULL,
                          .out = k->attn,
                          .out_row = pass->ldx,
                          .out_image = nq * pass->ldx};
}

/* Where attention reads: kept.qkv, or with qk_norm t->qk, made of it. */
static const float *normed_qkv(vp_training *t, size_t i, const vp_attn *attn,
                               const vp_kept *k)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const size_t width = c->embed_dim, d = vp_config_head_dim(c), ld = pass->ldqkv;
    const size_t m = pass->batch * pass->tokens, kv = kv_width(t, attn);
    if (attn->q_norm.kind == VP_NORM_NONE) {
        return k->qkv;
    }
    /* Keys and values have one stride: v is copied beside the normed q and k. */
    const vp_norm_op copy = {.kind = VP_NORM_NONE};
    const size_t values = width + kv;
    vp_train_norm(t, &attn->q_norm, m, c->num_heads, d, t->qk, ld, k->qkv, ld);
    vp_train_norm(t, &attn->k_norm, m, kv / d, d, t->qk + width, ld, k->qkv + width,
                  ld);
    vp_norm_run(&pass->run, &copy, m, 1, kv, t->qk + values, ld, k->qkv + values, ld);
    rotate(t, i, attn, false, t->qk);
    return t->qk;
}

/* qkv = qkv(a), in rows of q, k and v */
static void project(vp_training *t, const vp_attn *attn, float *qkv)
{
    vp_pass *pass = &t->pass;
    const size_t m = pass->batch * pass->tokens, width = pass->config->embed_dim;
    const size_t ld = pass->ldqkv;
    if (attn->qkv.weight == NULL) {
        const size_t kv = kv_width(t, attn);
        vp_train_linear(t, &attn->q_proj, m, pass->a, pass->ldx, qkv, ld);
        vp_train_linear(t, &attn->k_proj, m, pass->a, pass->ldx, qkv + width, ld);
        vp_train_linear(t, &attn->v_proj, m, pass->a, pass->ldx, qkv + width + kv, ld);
        return;
    }
    vp_finish finish = vp_module_finish(&attn->qkv, qkv, ld);
    finish.bias = attn->qkv_bias != NULL ? attn->qkv_bias : finish.bias;
    vp_module_linear(pass, &attn->qkv, 0, m, pass->a, pass->ldx, &finish);
}

void vp_train_attn(vp_training *t, size_t i, const vp_attn *attn, size_t nq,
                   const vp_kept *k)
{
    project(t, attn, k->qkv);
    if (attn->q_norm.kind == VP_NORM_NONE) {
        rotate(t, i, attn, false, k->qkv);
    }
    const vp_attention at = attention_of(t, attn, nq, k, normed_qkv(t, i, attn, k));
    const vp_drop drop = attn_drop(t, i);
    if (drop.rate > 0.0f) {
        vp_attention_dropped_run(&t->pass.run, &at, &drop);
    } else {
        vp_attention_run(&t->pass.run, &at);
    }
}

/* Are gradients of this table, or of what makes it, wanted? */
static bool wants_table(const vp_training *t, const vp_rel_pos *module,
                        vp_rel_pos_gradients *to)
{
    *to = (vp_rel_pos_gradients){.table = vp_gradient_of(t, &module->table),
                                 .fc1_weight = vp_gradient_of(t, &module->fc1.weight),
                                 .fc1_bias = vp_gradient_of(t, &module->fc1.bias),
                                 .fc2_weight = vp_gradient_of(t, &module->fc2.weight),
                                 .fc2_bias = vp_gradient_of(t, &module->fc2.bias)};
    return to->table != NULL || to->fc1_weight != NULL || to->fc1_bias != NULL ||
           to->fc2_weight != NULL || to->fc2_bias != NULL;
}

/* A block's bias is its own and the shared one, added up: both have its gradient. */
static void tables_back(vp_training *t, const vp_attn *attn)
{
    const vp_config *c = t->pass.config;
    const vp_rel_pos *modules[] = {&attn->rel_pos, &t->pass.vit->shared_rel_pos};
    const size_t count = c->num_heads * vp_relative_size(&attn->relative);
    for (size_t b = 1; b < t->pass.batch; b++) {
        t->pass.run.kernels->add(t->tables, t->tables + b * count, count);
    }
    for (size_t i = 0; i < 2; i++) {
        vp_rel_pos_gradients to;
        if (wants_table(t, modules[i], &to)) {
            vp_rel_pos_gradient(c, modules[i], t->tables, &to, t->table_sums);
        }
    }
}

static bool wants_tables(const vp_training *t, const vp_attn *attn)
{
    vp_rel_pos_gradients to;
    return attn->relative.bias != NULL &&
           (wants_table(t, &attn->rel_pos, &to) ||
            wants_table(t, &t->pass.vit->shared_rel_pos, &to));
}

void vp_train_attn_plan(vp_training *t, vp_arena *arena)
{
    const vp_vit *vit = t->pass.vit;
    const vp_config *c = t->pass.config;
    if (c->q_v_bias && c->qkv_bias) {
        t->qkv_db = vp_arena_floats(arena, 3 * c->embed_dim);
    }
    vp_train_rope_plan(t, arena);
    if (c->rel_pos != VP_REL_POS_NONE && t->lowest < c->depth) {
        const size_t size = vp_relative_size(&vit->blocks[t->lowest].attn[0].relative);
        t->tables =
            vp_arena_floats(arena, vp_size_mul(t->pass.batch * c->num_heads, size));
        t->table_sums = vp_arena_take(
            arena, vp_size_mul(vp_rel_pos_gradient_doubles(c), sizeof(double)));
    }
}

void vp_train_attn_back(vp_training *t, size_t i, const vp_attn *attn, size_t nq,
                        const vp_kept *k, const float *d)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const size_t width = c->embed_dim, m = pass->batch * pass->tokens, ld = pass->ldqkv;
    const size_t head = vp_config_head_dim(c), kv = kv_width(t, attn);
    const vp_attention_gradient gradient = {
        .at = attention_of(t, attn, nq, k, normed_qkv(t, i, attn, k)),
        .drop = attn_drop(t, i),
        .dout = d,
        .dq = t->wide,
        .dk = t->wide + width,
        .dv = t->wide + width + kv,
        .dq_row = ld,
        .dq_image = pass->tokens * ld,
        .dkv_row = ld,
        .dkv_image = pass->tokens * ld,
        .drelative = wants_tables(t, attn) ? t->tables : NULL};
    for (size_t row = 0; nq < pass->tokens && row < m; row++) {
        memset(t->wide + row * ld, 0, width * sizeof(float)); /* nobody's queries */
    }
    vp_attention_gradient_run(&pass->run, &gradient);
    if (gradient.drelative != NULL) {
        tables_back(t, attn);
    }
    vp_train_rope_back(t, i, kv / head, gradient.at.q);
    rotate(t, i, attn, true, t->wide);
    if (attn->q_norm.kind != VP_NORM_NONE) {
        vp_train_norm_back(t, &attn->q_norm, m, c->num_heads, head, gradient.dq, ld,
                           false, gradient.dq, ld, k->qkv, ld);
        vp_train_norm_back(t, &attn->k_norm, m, kv / head, head, gradient.dk, ld, false,
                           gradient.dk, ld, k->qkv + width, ld);
    }
}

/* q_bias and v_bias from the gradient of all three's bias. */
static void split_bias(const vp_training *t, const vp_attn *attn, const float *db)
{
    const size_t width = t->pass.config->embed_dim;
    float *dq = vp_gradient_of(t, &attn->q_bias),
          *dv = vp_gradient_of(t, &attn->v_bias);
    if (dq != NULL) {
        t->pass.run.kernels->add(dq, db, width);
    }
    if (dv != NULL) {
        t->pass.run.kernels->add(dv, db + 2 * width, width);
    }
}

void vp_train_qkv_back(vp_training *t, const vp_attn *attn, float *dx)
{
    vp_pass *pass = &t->pass;
    const size_t m = pass->batch * pass->tokens, width = pass->config->embed_dim;
    const size_t ld = pass->ldx, ldqkv = pass->ldqkv;
    if (attn->qkv.weight == NULL) {
        const float *keys = t->wide + width, *values = keys + kv_width(t, attn);
        vp_train_linear_back(t, &attn->q_proj, m, t->wide, ldqkv, pass->a, ld, dx, ld,
                             false);
        vp_train_linear_back(t, &attn->k_proj, m, keys, ldqkv, pass->a, ld, dx, ld,
                             true);
        vp_train_linear_back(t, &attn->v_proj, m, values, ldqkv, pass->a, ld, dx, ld,
                             true);
        return;
    }
    vp_linear_gradient gradient = {.m = m,
                                   .w = &attn->qkv.weight->packed[0],
                                   .dy = t->wide,
                                   .lddy = ldqkv,
                                   .x = pass->a,
                                   .ldx = ld,
                                   .dw = vp_gradient_of(t, &attn->qkv.weight),
                                   .db = vp_gradient_of(t, &attn->qkv.bias),
                                   .dx = dx,
                                   .lddx = ld};
    if (attn->qkv_bias != NULL) {
        gradient.db = t->qkv_db;
        memset(t->qkv_db, 0, 3 * width * sizeof(float));
    }
    vp_linear_gradient_run(&pass->run, &gradient, t->memory);
    if (attn->qkv_bias != NULL) {
        split_bias(t, attn, t->qkv_db);
    }
}
