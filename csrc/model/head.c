/* What follows the blocks: pool, fc_norm, head; and each alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/modules.h"
#include "ops/pool.h"

vp_reduce vp_pool_reduce(vp_pool pool)
{
    switch (pool) {
    case VP_POOL_AVG:
        return VP_REDUCE_AVG;
    case VP_POOL_MAX:
        return VP_REDUCE_MAX;
    case VP_POOL_AVGMAX:
        return VP_REDUCE_AVGMAX;
    default:
        return VP_REDUCE_TOKEN;
    }
}

static void reduce(vp_pass *pass, vp_pool pool, const float *x, size_t ldx, float *out,
                   size_t ldo)
{
    const vp_config *c = pass->config;
    const size_t n = pass->tokens;
    const size_t first = vp_config_include_prefix(c, pool) ? 0 : vp_config_prefix(c);
    vp_pool_run(&pass->run, vp_pool_reduce(pool), pass->batch, n, first, c->embed_dim,
                out, ldo, x, ldx, n * ldx);
}

/* out[B][C] = this pool of x[B][N][C]; not for VP_POOL_NONE */
static void pool_tokens(vp_pass *pass, vp_pool pool, const float *x, size_t ldx,
                        float *out, size_t ldo)
{
    const vp_config *c = pass->config;
    if (pool != VP_POOL_MAP && pool != VP_POOL_PRR) {
        reduce(pass, pool, x, ldx, out, ldo);
        return;
    }
    const size_t prefix = vp_config_prefix(c);
    const size_t first = vp_config_include_prefix(c, pool) ? 0 : prefix;
    vp_attn_pool_forward(pass, x + first * ldx, ldx, pass->tokens * ldx,
                         pass->tokens - first, out, ldo);
}

void vp_head_classify(vp_pass *pass, const float *pooled, size_t ldp, size_t rows,
                      vp_output output, float *out)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    if (output == VP_OUT_PRE_LOGITS || c->num_classes == 0) {
        vp_module_norm(pass, &vit->fc_norm, rows, out, c->embed_dim, pooled, ldp);
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

/* The distilled model's: the mean of the class token and the distillation token, or of what
 * each one's head makes of it. timm.models.deit.VisionTransformerDistilled.forward_head. */
static void distilled_head(vp_pass *pass, const float *x, size_t ldx, vp_output output,
                           float *out)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    const vp_kernels *kernels = pass->run.kernels;
    const bool logits = output == VP_OUT_LOGITS && c->num_classes > 0;
    const size_t n = logits ? c->num_classes : c->embed_dim, image = pass->tokens * ldx;
    const vp_linear *heads[] = {&vit->head, &vit->head_dist};
    for (size_t i = 0; logits && i < 2; i++) {
        vp_gemm gemm = {.m = pass->batch,
                        .a = x + i * ldx,
                        .lda = image,
                        .w = &heads[i]->weight->packed[0],
                        .sum_piece = VP_SUM_PIECE_FINAL,
                        .finish = vp_module_finish(heads[i], out, n)};
        gemm.finish.residual = i > 0 ? out : NULL;
        gemm.finish.residual_stride = n;
        VP_PROFILED(pass->profile, head, 2.0 * (double)(pass->batch * c->embed_dim * n),
                    vp_gemm_run(&pass->run, &gemm));
    }
    for (size_t b = 0; b < pass->batch; b++) {
        float *row = out + b * n;
        if (!logits) {
            memcpy(row, x + b * image, n * sizeof(float));
            kernels->add(row, x + b * image + ldx, n);
        }
        kernels->axpby(row, 0.5f, row, 0.0f, n);
    }
}

void vp_head_forward(vp_pass *pass, const float *x, size_t ldx, vp_output output,
                     float *out)
{
    const vp_pool pool = pass->config->global_pool;
    const size_t m = pass->batch * pass->tokens;
    if (pass->config->dist_token) {
        distilled_head(pass, x, ldx, output, out);
        return;
    }
    if (pool == VP_POOL_NONE) {
        vp_head_classify(pass, x, ldx, m, output, out);
        return;
    }
    VP_PROFILED(pass->profile, pool, 0,
                pool_tokens(pass, pool, x, ldx, pass->pooled, pass->ldx));
    vp_head_classify(pass, pass->pooled, pass->ldx, pass->batch, output, out);
}

/* What to do with tokens (B, N, C): forward_head, or a pool alone. */
typedef struct {
    bool head;
    vp_output output; /* of the head */
    vp_pool pool;     /* of the pool alone */
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
    const bool pooled = (step->head ? c->global_pool : step->pool) != VP_POOL_NONE;
    const bool logits =
        step->head && step->output == VP_OUT_LOGITS && c->num_classes > 0;
    const size_t out_image = (pooled ? 1 : n) * (logits ? c->num_classes : width);
    vp_pass pass;
    if (vp_pass_open(&pass, vit, workspaces, batch, n, VP_PASS_HEAD, err) != VP_OK) {
        return err->code;
    }
    const size_t chunk = pass.batch;
    for (size_t first = 0; first < batch; first += chunk) {
        pass.batch = batch - first < chunk ? batch - first : chunk;
        const float *x = tokens + first * n * width;
        float *out = step->out + first * out_image;
        if (step->head) {
            vp_head_forward(&pass, x, width, step->output, out);
        } else if (pooled) {
            pool_tokens(&pass, step->pool, x, width, out, width);
        } else {
            memcpy(out, x, pass.batch * n * width * sizeof(float));
        }
    }
    vp_pass_close(&pass);
    return VP_OK;
}

vp_status vp_vit_forward_head(const vp_vit *vit, vp_workspaces *workspaces,
                              const float *tokens, size_t batch, size_t n,
                              vp_output output, float *out, vp_error *err)
{
    const head_step step = {.head = true, .output = output, .out = out};
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
