/* The transformer blocks, each reading like timm's forward of the same name.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/modules.h"
#include "ops/pool.h"

vp_norm_op vp_module_norm_op(const vp_norm *norm)
{
    return (vp_norm_op){norm->kind, norm->eps,
                        norm->weight != NULL ? norm->weight->plain : NULL,
                        norm->bias != NULL ? norm->bias->plain : NULL};
}

void vp_module_norm_heads(vp_pass *pass, const vp_norm *norm, size_t m, size_t heads,
                          size_t n, float *y, size_t ldy, const float *x, size_t ldx)
{
    const vp_norm_op op = vp_module_norm_op(norm);
    if (norm->kind == VP_NORM_NONE && y == x) {
        return;
    }
    VP_PROFILED(pass->profile, norm, 0,
                vp_norm_run(&pass->run, &op, m, heads, n, y, ldy, x, ldx));
}

void vp_module_norm(vp_pass *pass, const vp_norm *norm, size_t m, float *y, size_t ldy,
                    const float *x, size_t ldx)
{
    vp_module_norm_heads(pass, norm, m, 1, pass->config->embed_dim, y, ldy, x, ldx);
}

void vp_module_copy(vp_pass *pass, size_t m, float *y, size_t ldy, const float *x,
                    size_t ldx)
{
    const vp_norm_op copy = {.kind = VP_NORM_NONE};
    vp_norm_run(&pass->run, &copy, m, 1, pass->config->embed_dim, y, ldy, x, ldx);
}

vp_finish vp_module_finish(const vp_linear *linear, float *out, size_t ldo)
{
    return (vp_finish){.bias = linear->bias != NULL ? linear->bias->plain : NULL,
                       .out = out,
                       .out_stride = ldo};
}

void vp_module_linear(vp_pass *pass, const vp_linear *linear, size_t part, size_t m,
                      const float *a, size_t lda, const vp_finish *finish)
{
    vp_gemm gemm = {.m = m,
                    .a = a,
                    .lda = lda,
                    .w = &linear->weight->packed[part],
                    .finish = *finish};
    vp_gemm_run(&pass->run, &gemm);
}

double vp_module_flops(const vp_linear *linear, size_t m)
{
    return linear->weight == NULL ? 0.0
                                  : 2.0 * (double)linear->weight->count * (double)m;
}

/* -- MLP -- */

void vp_module_mlp_hidden(vp_pass *pass, const vp_mlp *mlp, vp_mlp_kind kind, size_t m,
                          const float *a, size_t lda, float *h, size_t ldh)
{
    const vp_linear *value = &mlp->fc1, *gate = NULL;
    size_t value_part = 0, gate_part = 0, hidden = 0;
    switch (kind) {
    case VP_MLP_PLAIN:
        break;
    case VP_MLP_GLU: /* x1 * act(x2) */
        gate = &mlp->fc1;
        gate_part = 1;
        break;
    case VP_MLP_SWIGLU_PACKED: /* act(x1) * x2 */
        gate = &mlp->fc1;
        value_part = 1;
        break;
    case VP_MLP_SWIGLU:
        value = &mlp->fc1_x;
        gate = &mlp->fc1_g;
        break;
    }
    hidden = value->weight->packed[value_part].n;
    vp_gemm gemm = {
        .m = m, .a = a, .lda = lda, .w = &value->weight->packed[value_part]};
    gemm.finish = vp_module_finish(value, h, ldh);
    gemm.finish.act = mlp == &pass->vit->pool.mlp ? vp_config_pool_act(pass->config)
                                                  : pass->config->act;
    if (gemm.finish.bias != NULL) {
        gemm.finish.bias += value_part * hidden;
    }
    if (gate != NULL) {
        gemm.gate = &gate->weight->packed[gate_part];
        gemm.finish.gate_bias =
            gate->bias != NULL ? gate->bias->plain + gate_part * hidden : NULL;
    }
    const double flops =
        2.0 * (double)m * (double)(gemm.w->n * gemm.w->k) * (gate != NULL ? 2.0 : 1.0);
    VP_PROFILED(pass->profile, fc1, flops, vp_gemm_run(&pass->run, &gemm));
    vp_module_norm_heads(pass, &mlp->norm, m, 1, hidden, h, ldh, h, ldh);
}

static void fc2(vp_pass *pass, const vp_mlp *mlp, size_t m, const float *h, size_t ldh,
                vp_finish finish)
{
    finish.bias = mlp->fc2.bias != NULL ? mlp->fc2.bias->plain : NULL;
    VP_PROFILED(pass->profile, fc2, vp_module_flops(&mlp->fc2, m),
                vp_module_linear(pass, &mlp->fc2, 0, m, h, ldh, &finish));
}

void vp_module_mlp(vp_pass *pass, const vp_mlp *mlp, vp_mlp_kind kind, size_t m,
                   const float *a, size_t lda, vp_finish finish)
{
    vp_module_mlp_hidden(pass, mlp, kind, m, a, lda, pass->h, pass->ldh);
    fc2(pass, mlp, m, pass->h, pass->ldh, finish);
}

/* -- blocks -- */

/* out = residual + ls * (...) */
static vp_finish residual(const vp_weight *ls, float *out, size_t ldo,
                          const float *from, size_t ldr)
{
    return (vp_finish){.scale = ls != NULL ? ls->plain : NULL,
                       .residual = from,
                       .residual_stride = ldr,
                       .out = out,
                       .out_stride = ldo};
}

bool vp_block_can(const vp_config *c, vp_last last)
{
    if (last == VP_LAST_ALL) {
        return true;
    }
    if (!vp_config_is_plain(c)) {
        return false;
    }
    return last == VP_LAST_TOKEN ? c->global_pool == VP_POOL_TOKEN &&
                                       c->attn == VP_ATTN_PLAIN && !c->dist_token
                                 : c->global_pool == VP_POOL_AVG &&
                                       c->attn_pool == VP_POOL_NONE && !c->norm;
}

/* Means over an image's tokens of x and of the hidden layer, then one fc2 of the means:
 * fc2 is linear, so it may follow the mean. */
static void fc2_of_mean(vp_pass *pass, const vp_block *b)
{
    const vp_config *c = pass->config;
    const size_t n = pass->tokens, hidden = vp_config_hidden(c);
    const size_t first =
        vp_config_include_prefix(c, c->global_pool) ? 0 : vp_config_prefix(c);
    VP_PROFILED(pass->profile, pool, 0, {
        vp_pool_run(&pass->run, VP_REDUCE_AVG, pass->batch, n, first, c->embed_dim,
                    pass->pooled, pass->ldx, pass->x, pass->ldx, n * pass->ldx);
        vp_pool_run(&pass->run, VP_REDUCE_AVG, pass->batch, n, first, hidden,
                    pass->pool_h, pass->ldh, pass->h, pass->ldh, n * pass->ldh);
    });
    fc2(pass, &b->mlp[0], pass->batch, pass->pool_h, pass->ldh,
        residual(b->ls2[0], pass->pooled, pass->ldx, pass->pooled, pass->ldx));
}

/* x = x + ls1(attn(norm1(x))); x = x + ls2(mlp(norm2(x))) */
static void block(vp_pass *pass, const vp_block *b, vp_last last)
{
    const size_t ldx = pass->ldx, m = pass->batch * pass->tokens;
    const bool token_only = last == VP_LAST_TOKEN;
    /* With token_only the residual rows are the first of each image. */
    const size_t rows = token_only ? pass->batch : m;
    const size_t ld = token_only ? pass->tokens * ldx : ldx;
    vp_module_norm(pass, &b->norm1[0], m, pass->a, ldx, pass->x, ldx);
    vp_module_attn(pass, &b->attn[0], token_only,
                   residual(b->ls1[0], pass->x, ld, pass->x, ld), vp_pass_map(pass, 0));
    vp_pass_tap(pass, VP_PLACE_ATTN);
    vp_module_norm(pass, &b->norm2[0], rows, pass->a, ldx, pass->x, ld);
    vp_module_mlp_hidden(pass, &b->mlp[0], pass->config->mlp, rows, pass->a, ldx,
                         pass->h, pass->ldh);
    if (last == VP_LAST_POOLED) {
        fc2_of_mean(pass, b);
    } else {
        fc2(pass, &b->mlp[0], rows, pass->h, pass->ldh,
            residual(b->ls2[0], pass->x, ld, pass->x, ld));
    }
}

static void add_rows(vp_pass *pass, const float *from)
{
    /* x += from, as the residual of a norm that has no epilogue to do it in */
    const size_t m = pass->batch * pass->tokens, ld = pass->ldx;
    for (size_t i = 0; i < m; i++) {
        pass->run.kernels->add(pass->x + i * ld, from + i * ld,
                               pass->config->embed_dim);
    }
}

/* x = x + norm1(attn(x)); x = x + norm2(mlp(x)) */
static void res_post_block(vp_pass *pass, const vp_block *b)
{
    const size_t ld = pass->ldx, m = pass->batch * pass->tokens;
    vp_module_copy(pass, m, pass->a, ld, pass->x, ld);
    vp_module_attn(pass, &b->attn[0], false, residual(NULL, pass->t, ld, NULL, 0),
                   vp_pass_map(pass, 0));
    vp_module_norm(pass, &b->norm1[0], m, pass->t, ld, pass->t, ld);
    add_rows(pass, pass->t);
    vp_pass_tap(pass, VP_PLACE_ATTN);
    vp_module_mlp(pass, &b->mlp[0], pass->config->mlp, m, pass->x, ld,
                  residual(NULL, pass->t, ld, NULL, 0));
    vp_module_norm(pass, &b->norm2[0], m, pass->t, ld, pass->t, ld);
    add_rows(pass, pass->t);
}

/* x = x + sum of ls(attn(norm(x))); x = x + sum of ls(mlp(norm(x))) */
static void things_block(vp_pass *pass, const vp_block *b)
{
    const size_t ld = pass->ldx, m = pass->batch * pass->tokens;
    for (size_t i = 0; i < 2; i++) {
        vp_module_norm(pass, &b->norm1[i], m, pass->a, ld, pass->x, ld);
        vp_module_attn(pass, &b->attn[i], false,
                       residual(b->ls1[i], pass->t, ld, i > 0 ? pass->t : NULL, ld),
                       vp_pass_map(pass, i));
    }
    add_rows(pass, pass->t);
    vp_pass_tap(pass, VP_PLACE_ATTN);
    for (int i = 0; i < 2; i++) {
        vp_module_norm(pass, &b->norm2[i], m, pass->a, ld, pass->x, ld);
        vp_module_mlp(pass, &b->mlp[i], pass->config->mlp, m, pass->a, ld,
                      residual(b->ls2[i], pass->t, ld, i > 0 ? pass->t : NULL, ld));
    }
    add_rows(pass, pass->t);
}

/* x = x + ls(out_proj(attn, act(mlp))), both from one in_proj(in_norm(x)); pass->h holds
 * attention's output and the hidden layer side by side. */
static void scaling_block(vp_pass *pass, const vp_block *b)
{
    const vp_config *c = pass->config;
    const size_t ld = pass->ldx, m = pass->batch * pass->tokens, width = c->embed_dim;
    const float *bias = b->in_proj.bias != NULL ? b->in_proj.bias->plain : NULL;
    float *attn_out = pass->h, *hidden = pass->h + width;
    vp_module_norm(pass, &b->norm1[0], m, pass->a, ld, pass->x, ld);
    vp_finish into_hidden = {.bias = bias != NULL ? bias : b->mlp_bias->plain,
                             .act = c->act,
                             .out = hidden,
                             .out_stride = pass->ldh};
    vp_finish into_qkv = {.bias = bias != NULL ? bias + c->mlp_hidden : NULL,
                          .out = pass->qkv,
                          .out_stride = pass->ldqkv};
    VP_PROFILED(pass->profile, fc1, 2.0 * (double)(m * width) * (double)c->mlp_hidden,
                vp_module_linear(pass, &b->in_proj, 0, m, pass->a, ld, &into_hidden));
    VP_PROFILED(pass->profile, qkv, 6.0 * (double)(m * width) * (double)width,
                vp_module_linear(pass, &b->in_proj, 1, m, pass->a, ld, &into_qkv));
    vp_module_self_attention(pass, &b->attn[0], b->in_proj.weight, false, attn_out,
                             pass->ldh, vp_pass_map(pass, 0));
    vp_finish finish = residual(b->ls1[0], pass->x, ld, pass->x, ld);
    if (b->out_proj.weight != NULL) {
        finish.bias = b->out_proj.bias != NULL ? b->out_proj.bias->plain : NULL;
        VP_PROFILED(
            pass->profile, proj, vp_module_flops(&b->out_proj, m),
            vp_module_linear(pass, &b->out_proj, 0, m, pass->h, pass->ldh, &finish));
        return;
    }
    finish.bias = b->attn_out_proj.bias != NULL ? b->attn_out_proj.bias->plain : NULL;
    VP_PROFILED(
        pass->profile, proj, vp_module_flops(&b->attn_out_proj, m),
        vp_module_linear(pass, &b->attn_out_proj, 0, m, attn_out, pass->ldh, &finish));
    finish.bias = b->mlp_out_proj.bias != NULL ? b->mlp_out_proj.bias->plain : NULL;
    VP_PROFILED(
        pass->profile, fc2, vp_module_flops(&b->mlp_out_proj, m),
        vp_module_linear(pass, &b->mlp_out_proj, 0, m, hidden, pass->ldh, &finish));
}

bool vp_block_has(const vp_config *c, vp_place place)
{
    return place != VP_PLACE_ATTN || (c->block != VP_BLOCK_PARALLEL_SCALING &&
                                      c->block != VP_BLOCK_DIFF_PARALLEL_SCALING);
}

void vp_block_forward(vp_pass *pass, const vp_block *b, vp_last last)
{
    vp_pass_tap(pass, VP_PLACE_IN);
    switch (pass->config->block) {
    case VP_BLOCK_PLAIN:
    case VP_BLOCK_EVA:
    case VP_BLOCK_BEIT:
    case VP_BLOCK_REL_POS:
        block(pass, b, last);
        break;
    case VP_BLOCK_RES_POST:
    case VP_BLOCK_EVA_POST_NORM:
    case VP_BLOCK_RES_POST_REL_POS:
        res_post_block(pass, b);
        break;
    case VP_BLOCK_PARALLEL_THINGS:
        things_block(pass, b);
        break;
    case VP_BLOCK_PARALLEL_SCALING:
    case VP_BLOCK_DIFF_PARALLEL_SCALING:
        scaling_block(pass, b);
        break;
    }
    vp_pass_tap(pass, VP_PLACE_OUT);
}
