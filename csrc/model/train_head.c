/* What follows the blocks, in training: norm, pool, fc_norm, head_drop, head, loss.
 *
 * The distilled model's two heads read two tokens, and its logits are their mean: there each
 * image has two rows of pool, head and pool_g, the class token's and the distillation token's.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/training.h"
#include "ops/dropout.h"
#include "ops/pool.h"

static bool by_module(vp_pool pool)
{
    return pool == VP_POOL_MAP || pool == VP_POOL_PRR;
}

/* Tokens that the pool leaves out at the front. */
static size_t first_token(const vp_config *c)
{
    return vp_config_include_prefix(c, c->global_pool) ? 0 : vp_config_prefix(c);
}

/* Rows of the request's tokens or pre-logits for this chunk. */
static const float *given(const vp_training *t)
{
    return t->request->tokens +
           t->pass.start * t->request->num_tokens * t->pass.config->embed_dim;
}

/* The features, and the distance of their rows. */
typedef struct {
    const float *at;
    size_t ld;
} rows;

static rows features_of(const vp_training *t, const float *x)
{
    if (t->request->entry == VP_ENTRY_FEATURES) {
        return (rows){given(t), t->pass.config->embed_dim};
    }
    return (rows){t->pass.vit->norm.kind == VP_NORM_NONE ? x : t->f, t->pass.ldx};
}

size_t vp_train_heads(const vp_config *c)
{
    return c->dist_token ? 2 : 1;
}

static vp_drop head_drop(const vp_training *t)
{
    return vp_drop_at(t, 8 * t->pass.config->depth + VP_SITE_HEAD,
                      t->request->rates.drop);
}

/* fc_norm's output: what head_drop and head read. */
static rows pre_logits_of(const vp_training *t)
{
    if (t->request->entry == VP_ENTRY_PRE_LOGITS) {
        return (rows){given(t), t->pass.config->embed_dim};
    }
    return (rows){t->pass.vit->fc_norm.kind == VP_NORM_NONE ? t->pool : t->pre,
                  t->pass.ldx};
}

static rows head_input(const vp_training *t)
{
    return t->request->rates.drop > 0.0 ? (rows){t->head, t->pass.ldx}
                                        : pre_logits_of(t);
}

/* to = the first two tokens of each image */
static void copy_tokens(const vp_training *t, float *to, size_t ldt, size_t to_image,
                        const float *from, size_t ldf, size_t from_image)
{
    for (size_t i = 0; i < 2 * t->pass.batch; i++) {
        memcpy(to + i / 2 * to_image + i % 2 * ldt,
               from + i / 2 * from_image + i % 2 * ldf,
               t->pass.config->embed_dim * sizeof(float));
    }
}

/* t->pre = fc_norm(pool(norm(x))) */
static void pool_forward(vp_training *t, const float *x)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const vp_vit *vit = pass->vit;
    const size_t n = t->out_tokens, first = first_token(c), width = c->embed_dim;
    if (t->request->entry != VP_ENTRY_FEATURES && vit->norm.kind != VP_NORM_NONE) {
        vp_module_norm(pass, &vit->norm, pass->batch * n, t->f, pass->ldx, x,
                       pass->ldx);
    }
    const rows f = features_of(t, x);
    if (c->dist_token) {
        copy_tokens(t, t->pool, t->pass.ldx, 2 * pass->ldx, f.at, f.ld, n * f.ld);
    } else if (by_module(c->global_pool)) {
        vp_train_pool(t, f.at + first * f.ld, f.ld, t->pool);
    } else {
        vp_pool_run(&pass->run, vp_pool_reduce(c->global_pool), pass->batch, n, first,
                    width, t->pool, pass->ldx, f.at, f.ld, n * f.ld);
    }
    if (vit->fc_norm.kind != VP_NORM_NONE) {
        vp_module_norm(pass, &vit->fc_norm, pass->batch, t->pre, pass->ldx, t->pool,
                       pass->ldx);
    }
}

/* logits = the head, or the mean of both, of rows `in` */
static void classify(vp_training *t, rows in, float *logits)
{
    vp_pass *pass = &t->pass;
    const vp_linear *linears[] = {&pass->vit->head, &pass->vit->head_dist};
    const size_t classes = pass->config->num_classes,
                 heads = vp_train_heads(pass->config);
    for (size_t i = 0; i < heads; i++) {
        vp_gemm gemm = {.m = pass->batch,
                        .a = in.at + i * in.ld,
                        .lda = heads * in.ld,
                        .w = &linears[i]->weight->packed[0],
                        .sum_piece = VP_SUM_PIECE_FINAL,
                        .finish = vp_module_finish(linears[i], logits, classes)};
        gemm.finish.residual = i > 0 ? logits : NULL;
        gemm.finish.residual_stride = classes;
        vp_gemm_run(&pass->run, &gemm);
    }
    for (size_t b = 0; heads > 1 && b < pass->batch; b++) {
        float *row = logits + b * classes;
        pass->run.kernels->axpby(row, 0.5f, row, 0.0f, classes);
    }
}

void vp_train_head(vp_training *t, const float *x)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const vp_gradients *r = t->request;
    const size_t classes = c->num_classes;
    if (r->entry != VP_ENTRY_PRE_LOGITS) {
        pool_forward(t, x);
    }
    const vp_drop drop = head_drop(t);
    if (drop.rate > 0.0f) {
        const rows pre = pre_logits_of(t);
        vp_dropout_run(&pass->run, &drop, pass->batch, vp_train_heads(c), c->embed_dim,
                       t->head, pass->ldx, pre.at, pre.ld);
    }
    float *logits = r->logits + pass->start * classes;
    classify(t, head_input(t), logits);
    const vp_loss loss = {.kind = r->loss,
                          .rows = pass->batch,
                          .classes = classes / r->groups,
                          .groups = r->groups,
                          .targets = r->targets + pass->start * (classes / r->groups),
                          .weights = r->weights,
                          .scale = r->scale};
    vp_loss_run(&pass->run, &loss, logits, classes, t->dlogits, t->ldlogits, r->losses,
                t->row_losses);
}

/* t->g = the gradient of x, from t->pool_g, that of the pooled rows */
static void pool_back(vp_training *t, const float *x)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const vp_vit *vit = pass->vit;
    const size_t n = t->out_tokens, first = first_token(c), width = c->embed_dim;
    const size_t ld = pass->ldx;
    const rows f = features_of(t, x);
    if (c->dist_token && t->features) {
        memset(t->g, 0, pass->batch * n * ld * sizeof(float));
        copy_tokens(t, t->g, ld, n * ld, t->pool_g, ld, 2 * ld);
    } else if (by_module(c->global_pool)) {
        vp_train_pool_back(t, f.at + first * f.ld, f.ld, t->pool_g,
                           t->features ? t->g : NULL);
    } else if (t->features) {
        vp_pool_gradient_run(&pass->run, vp_pool_reduce(c->global_pool), pass->batch, n,
                             first, width, t->g, ld, n * ld, t->pool_g, ld, f.at, f.ld,
                             n * f.ld);
    }
    if (t->features && vit->norm.kind != VP_NORM_NONE) {
        vp_train_norm_back(t, &vit->norm, pass->batch * n, 1, width, t->g, ld, false,
                           t->g, ld, x, ld);
    }
}

void vp_train_head_back(vp_training *t, const float *x)
{
    vp_pass *pass = &t->pass;
    const vp_vit *vit = pass->vit;
    const rows in = head_input(t);
    const vp_linear *linears[] = {&vit->head, &vit->head_dist};
    const size_t heads = vp_train_heads(pass->config);
    for (size_t b = 0; heads > 1 && b < pass->batch; b++) { /* each has half of it */
        float *row = t->dlogits + b * t->ldlogits;
        pass->run.kernels->axpby(row, 0.5f, row, 0.0f, pass->config->num_classes);
    }
    for (size_t i = 0; i < heads; i++) {
        float *g = t->pooled ? t->pool_g + i * pass->ldx : NULL;
        vp_train_linear_back(t, linears[i], pass->batch, t->dlogits, t->ldlogits,
                             in.at + i * in.ld, heads * in.ld, g, heads * pass->ldx,
                             false);
    }
    if (!t->pooled) {
        return;
    }
    const vp_drop drop = head_drop(t);
    if (drop.rate > 0.0f) {
        vp_dropout_run(&pass->run, &drop, pass->batch, heads, pass->config->embed_dim,
                       t->pool_g, pass->ldx, t->pool_g, pass->ldx);
    }
    if (vit->fc_norm.kind != VP_NORM_NONE) {
        vp_train_norm_back(t, &vit->fc_norm, pass->batch, 1, pass->config->embed_dim,
                           t->pool_g, pass->ldx, false, t->pool_g, pass->ldx, t->pool,
                           pass->ldx);
    }
    pool_back(t, x);
}
