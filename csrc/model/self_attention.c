/* Self-attention, reading like timm's forward of Attention, EvaAttention and AttentionRope.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/modules.h"

typedef struct {
    const vp_pass *pass;
    const vp_attn *attn;
    const float *pairs; /* rows of [H][2][dv] */
    size_t ldp;
    float *out; /* rows of [H][dv] */
    size_t ldo;
} combine_job;

/* out = norm(first - lambda * second) * (1 - lambda_init), head by head */
static void combine_task(void *ctx, size_t i, size_t worker)
{
    (void)worker;
    const combine_job *j = ctx;
    const vp_config *c = j->pass->config;
    const vp_kernels *kernels = j->pass->run.kernels;
    const size_t dv = c->embed_dim / c->num_heads;
    for (size_t h = 0; h < c->num_heads; h++) {
        const float *pair = j->pairs + i * j->ldp + h * 2 * dv;
        float *out = j->out + i * j->ldo + h * dv;
        memcpy(out, pair, dv * sizeof(float));
        kernels->axpby(out, -j->attn->lambda, pair + dv, 1.0f, dv);
        kernels->rms_norm(out, out, j->attn->sub_norm.weight->plain, dv,
                          j->attn->sub_norm.eps);
        kernels->axpby(out, 1.0f - j->attn->lambda_init, out, 0.0f, dv);
    }
}

const vp_weight *vp_attn_queries(const vp_attn *attn)
{
    return attn->qkv.weight != NULL ? attn->qkv.weight : attn->q_proj.weight;
}

vp_run vp_module_attention_run(const vp_pass *pass, const vp_weight *queries)
{
    vp_run run = pass->run;
    const vp_ukr *half = vp_ukr_for(VP_DTYPE_bf16);
    if (half->rows == VP_ROWS_bf16 &&
        (queries->dtype == VP_DTYPE_bf16 || vp_dtype_is_int(queries->dtype))) {
        run.ukr = half;
    }
    return run;
}

/* Columns of the keys, and of the values, in a row of pass->qkv. */
static size_t kv_width(const vp_pass *pass, const vp_attn *attn)
{
    const vp_weight *keys = attn->k_proj.weight;
    return keys != NULL ? keys->packed[0].n : pass->config->embed_dim;
}

/* Turns the queries and keys in pass->qkv by their tokens' places. The first token alone, a
 * query with token_only, stands in the prefix, which is not turned. */
static void rotate(vp_pass *pass, size_t kv_heads, bool token_only)
{
    const vp_config *c = pass->config;
    vp_rope rope = {.batch = pass->batch,
                    .tokens = pass->tokens,
                    .prefix = vp_config_prefix(c),
                    .width = vp_config_head_dim(c),
                    .half = c->rope_rotate_half};
    float *keys = pass->qkv + c->embed_dim;
    rope.table = vp_module_rope(pass, &rope.table_head);
    if (rope.table == NULL) {
        return;
    }
    VP_PROFILED(pass->profile, rope, 0, {
        const bool together = !token_only && rope.table_head == 0;
        if (!token_only) { /* queries; keys lie right behind them */
            rope.heads = c->num_heads + (together ? kv_heads : 0);
            vp_rope_run(&pass->run, &rope, false, pass->qkv, pass->ldqkv);
        }
        if (!together) {
            rope.heads = kv_heads;
            vp_rope_run(&pass->run, &rope, false, keys, pass->ldqkv);
        }
    });
}

void vp_module_self_attention(vp_pass *pass, const vp_attn *attn,
                              const vp_weight *queries, bool token_only, float *out,
                              size_t ldo, float *weights)
{
    const vp_config *c = pass->config;
    const bool diff = attn->sub_norm.kind != VP_NORM_NONE;
    const vp_run run = vp_module_attention_run(pass, queries);
    const size_t width = c->embed_dim, d = vp_config_head_dim(c);
    const size_t kv = kv_width(pass, attn);
    const size_t n = pass->tokens, m = pass->batch * n;
    const size_t nq = token_only ? 1 : n;
    const size_t heads = c->num_heads * (diff ? 2 : 1);
    const size_t q_rows = pass->batch * nq, q_stride = pass->ldqkv * (n / nq);
    vp_module_norm_heads(pass, &attn->q_norm, q_rows, heads, d, pass->qkv, q_stride,
                         pass->qkv, q_stride);
    vp_module_norm_heads(pass, &attn->k_norm, m, kv / d, d, pass->qkv + width,
                         pass->ldqkv, pass->qkv + width, pass->ldqkv);
    rotate(pass, kv / d, token_only);
    vp_attention at = {.batch = pass->batch,
                       .heads = heads,
                       .group = diff ? 2 : 1,
                       .kv_group = heads * d / kv,
                       .nq = nq,
                       .nk = n,
                       .dk = d,
                       .dv = width / c->num_heads,
                       .q = pass->qkv,
                       .k = pass->qkv + width,
                       .v = pass->qkv + width + kv,
                       .q_row = pass->ldqkv,
                       .q_image = n * pass->ldqkv,
                       .kv_row = pass->ldqkv,
                       .kv_image = n * pass->ldqkv,
                       .scale = 1.0f / sqrtf((float)d),
                       .mask = pass->mask,
                       .relative = attn->relative.bias != NULL ? &attn->relative : NULL,
                       .out = diff ? pass->diff : out,
                       .out_row = diff ? pass->lddiff : ldo,
                       .out_image = nq * (diff ? pass->lddiff : ldo)};
    const double flops = 4.0 * (double)(pass->batch * heads * nq) * (double)(n * d);
    if (weights != NULL) {
        vp_attention_weights(&run, &at, weights);
    }
    VP_PROFILED(pass->profile, attention, flops, {
        vp_attention_run(&run, &at);
        if (diff) {
            combine_job j = {pass, attn, pass->diff, pass->lddiff, out, ldo};
            vp_parallel_for(pass->run.team, pass->batch * nq, combine_task, &j);
        }
    });
}

/* pass->qkv = qkv(a); with token_only, q for the first token of each image alone, where q
 * ends at a panel's end. */
static void project_qkv(vp_pass *pass, const vp_attn *attn, bool token_only)
{
    const size_t n = pass->tokens, width = pass->config->embed_dim;
    const vp_packed *w = &attn->qkv.weight->packed[0];
    const bool apart = token_only && width % w->ukr->nr == 0;
    vp_gemm gemm = {.m = pass->batch * n,
                    .a = pass->a,
                    .lda = pass->ldx,
                    .w = w,
                    .first_panel = apart ? width / w->ukr->nr : 0,
                    .finish = vp_module_finish(&attn->qkv, pass->qkv, pass->ldqkv)};
    const double flops =
        vp_module_flops(&attn->qkv, gemm.m) -
        (apart ? vp_module_flops(&attn->qkv, gemm.m - pass->batch) / 3.0 : 0.0);
    if (attn->qkv_bias != NULL) {
        gemm.finish.bias = attn->qkv_bias;
    }
    VP_PROFILED(pass->profile, qkv, flops, {
        vp_gemm_run(&pass->run, &gemm);
        if (apart) {
            gemm.last_panel = gemm.first_panel;
            gemm.first_panel = 0;
            gemm.m = pass->batch;
            gemm.lda *= n;
            gemm.finish.out_stride *= n;
            vp_gemm_run(&pass->run, &gemm);
        }
    });
}

/* The same of three matrices, side by side. */
static void project_split(vp_pass *pass, const vp_attn *attn, bool token_only)
{
    const size_t width = pass->config->embed_dim, m = pass->batch * pass->tokens;
    const size_t step =
        token_only ? pass->tokens : 1; /* rows from one query to the next */
    float *keys = pass->qkv + width, *values = keys + kv_width(pass, attn);
    const vp_finish q = vp_module_finish(&attn->q_proj, pass->qkv, step * pass->ldqkv);
    const vp_finish k = vp_module_finish(&attn->k_proj, keys, pass->ldqkv);
    const vp_finish v = vp_module_finish(&attn->v_proj, values, pass->ldqkv);
    const double flops = vp_module_flops(&attn->q_proj, m / step) +
                         vp_module_flops(&attn->k_proj, m) +
                         vp_module_flops(&attn->v_proj, m);
    VP_PROFILED(pass->profile, qkv, flops, {
        vp_module_linear(pass, &attn->q_proj, 0, m / step, pass->a, step * pass->ldx,
                         &q);
        vp_module_linear(pass, &attn->k_proj, 0, m, pass->a, pass->ldx, &k);
        vp_module_linear(pass, &attn->v_proj, 0, m, pass->a, pass->ldx, &v);
    });
}

/* finish = proj(attention(qkv(a))) */
void vp_module_attn(vp_pass *pass, const vp_attn *attn, bool token_only,
                    vp_finish finish, float *weights)
{
    const vp_config *c = pass->config;
    const size_t n = pass->tokens, m = pass->batch * n;
    const size_t rows = token_only ? pass->batch : m;
    (attn->qkv.weight != NULL ? project_qkv : project_split)(pass, attn, token_only);
    vp_module_self_attention(pass, attn, vp_attn_queries(attn), token_only, pass->a,
                             pass->ldx, weights);
    vp_module_norm_heads(pass, &attn->norm, rows, 1, c->embed_dim, pass->a, pass->ldx,
                         pass->a, pass->ldx);
    finish.bias = attn->proj.bias != NULL ? attn->proj.bias->plain : NULL;
    VP_PROFILED(
        pass->profile, proj, vp_module_flops(&attn->proj, rows),
        vp_module_linear(pass, &attn->proj, 0, rows, pass->a, pass->ldx, &finish));
}

/* q_bias, nothing, v_bias, as the bias of one product. */
static vp_status derive_bias(vp_attn *attn, size_t width, vp_error *err)
{
    const size_t bytes = vp_size_mul(3 * width, sizeof(float));
    vp_free(attn->qkv_bias);
    attn->qkv_bias = vp_alloc_zero(bytes);
    if (attn->qkv_bias == NULL) {
        return vp_fail_memory(err, "the bias of qkv", bytes);
    }
    memcpy(attn->qkv_bias, attn->q_bias->plain, width * sizeof(float));
    memcpy(attn->qkv_bias + 2 * width, attn->v_bias->plain, width * sizeof(float));
    return VP_OK;
}

vp_status vp_attn_finish(vp_vit *vit, vp_error *err)
{
    for (size_t i = 0; i < vit->config.depth; i++) {
        vp_attn *attn = &vit->blocks[i].attn[0];
        if (attn->q_bias != NULL &&
            derive_bias(attn, vit->config.embed_dim, err) != VP_OK) {
            return err->code;
        }
    }
    return VP_OK;
}
