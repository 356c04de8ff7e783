/* The attention pools in training. The latent query is folded into the key projection, as in
 * attn_pool.c, and so are the gradients: with q the projected query, query[h] = Wk_h^T q_h and
 * the scores s[n] = query[h] . x[n] / sqrt(D), so
 *   dquery[h] = sum over n of ds[n] x[n] / sqrt(D)
 *   dWk_h = q_h dquery[h]^T    dq_h = Wk_h dquery[h]    dbk = 0
 * and no token is projected here either. dquery is summed over all chunks; what follows from
 * it is done once. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "gemm/gradient.h"
#include "model/training.h"
#include "ops/activation.h"
#include "ops/attention_gradient.h"
#include "ops/pool.h"

/* Tokens of an image that the pool reads. */
static size_t tokens_read(const vp_training *t)
{
    const vp_config *c = t->pass.config;
    return t->pass.tokens -
           (vp_config_include_prefix(c, c->attn_pool) ? 0 : vp_config_prefix(c));
}

/* of the pool that there is; prr has the model's heads */
static size_t pool_heads(const vp_config *c)
{
    return c->global_pool == VP_POOL_MAP ? vp_config_pool_heads(c) : c->num_heads;
}

static float head_scale(const vp_config *c)
{
    return 1.0f / sqrtf((float)(c->embed_dim / pool_heads(c)));
}

void vp_train_pool_plan(vp_training *t, vp_arena *arena)
{
    const vp_config *c = t->pass.config;
    const size_t ld = t->pass.ldx, batch = t->pass.batch, heads = pool_heads(c);
    const size_t width = c->embed_dim, n = tokens_read(t);
#define TAKE(field, rows, cols) \
    t->field = vp_arena_floats(arena, vp_size_mul(rows, cols))
    if (c->global_pool == VP_POOL_PRR && t->features) {
        TAKE(map_dp, t->rows, ld); /* the gradients of the tokens as queries, */
        TAKE(map_dmeans, t->rows, ld);
        TAKE(map_drows, t->rows, ld); /* keys and values */
        return;
    }
    if (c->global_pool != VP_POOL_MAP) {
        return;
    }
    TAKE(map_p, batch * heads, n);
    TAKE(map_means, batch * heads, ld);
    TAKE(map_values, batch * heads, ld);
    TAKE(map_rows, batch, ld);
    TAKE(map_proj, batch, ld);
    TAKE(map_hidden, batch, t->ldmlp);
    TAKE(map_h, batch, t->ldmlp);
    TAKE(map_query, heads, width);
    TAKE(map_dquery, heads, width);
    TAKE(map_scores, t->rows, t->pass.ldscores);
    if (t->pooled) {
        TAKE(map_dp, batch * heads, n);
        TAKE(map_dmeans, batch * heads, ld);
        TAKE(map_drows, batch * heads, ld);
        TAKE(map_dqueries, batch * heads, ld);
        TAKE(map_matrix, 2 * width, width);
        t->map_sums = vp_arena_take(arena, vp_size_mul(width, sizeof(double)));
    }
#undef TAKE
}

size_t vp_train_pool_scratch(const vp_training *t)
{
    const vp_config *c = t->pass.config;
    const vp_attn_pool *pool = &t->pass.vit->pool;
    const size_t d = c->embed_dim / pool_heads(c), n = tokens_read(t);
    size_t need = 0;
    if (c->global_pool == VP_POOL_MAP) {
        vp_scratch_max(&need, vp_gemm_scratch(&pool->query, n, false));
    } else if (c->global_pool == VP_POOL_PRR) {
        vp_scratch_max(&need, vp_attention_scratch(&t->pass.run, n, d, d));
        vp_scratch_max(&need, vp_attention_gradient_scratch(&t->pass.run, n, d, d));
    }
    return need;
}

/* -- map -- */

typedef struct {
    vp_training *t;
    const float *f;
    size_t ldf, n;
    float *df; /* [M], first token read; NULL: not wanted */
} map_job;

/* Token i of image b that the pool reads; rows of features stand pass.tokens apart. */
static const float *token_at(const map_job *j, size_t b, size_t i)
{
    return j->f + (b * j->t->pass.tokens + i) * j->ldf;
}

/* Head h of image b: softmax of its column of scores, and the weighted mean of tokens. */
static void map_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const map_job *j = ctx;
    const vp_training *t = j->t;
    const vp_kernels *kernels = t->pass.run.kernels;
    const vp_config *c = t->pass.config;
    const size_t heads = pool_heads(c), b = item / heads, h = item % heads;
    float *p = t->map_p + item * j->n, *mean = t->map_means + item * t->pass.ldx;
    for (size_t i = 0; i < j->n; i++) {
        p[i] = t->map_scores[(b * j->n + i) * t->pass.ldscores + h];
    }
    kernels->softmax(p, j->n, head_scale(c));
    for (size_t i = 0; i < j->n; i++) {
        kernels->axpby(mean, p[i], token_at(j, b, i), i > 0 ? 1.0f : 0.0f,
                       c->embed_dim);
    }
}

static void map_forward(vp_training *t, const float *f, size_t ldf, float *out)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const vp_attn_pool *pool = &pass->vit->pool;
    const size_t heads = pool_heads(c), d = c->embed_dim / heads, ld = pass->ldx;
    const size_t n = tokens_read(t), batch = pass->batch;
    for (size_t b = 0; b < batch; b++) {
        vp_gemm gemm = {
            .m = n, .a = f + b * pass->tokens * ldf, .lda = ldf, .w = &pool->query};
        gemm.finish.out = t->map_scores + b * n * pass->ldscores;
        gemm.finish.out_stride = pass->ldscores;
        vp_gemm_run(&pass->run, &gemm);
    }
    map_job j = {t, f, ldf, n, NULL};
    vp_parallel_for(pass->run.team, batch * heads, map_task, &j);
    /* Each head's mean times all of Wv; of that the head's own columns are its values. */
    vp_finish values = {.bias = pool->kv.bias->plain + c->embed_dim,
                        .out = t->map_values,
                        .out_stride = ld};
    vp_module_linear(pass, &pool->kv, 1, batch * heads, t->map_means, ld, &values);
    for (size_t b = 0; b < batch; b++) {
        for (size_t h = 0; h < heads; h++) {
            memcpy(t->map_rows + b * ld + h * d,
                   t->map_values + (b * heads + h) * ld + h * d, d * sizeof(float));
        }
    }
    /* x = proj(x); x = x + mlp(norm(x)) */
    vp_train_linear(t, &pool->proj, batch, t->map_rows, ld, t->map_proj, ld);
    vp_module_norm(pass, &pool->norm, batch, pass->a, ld, t->map_proj, ld);
    vp_train_linear(t, &pool->mlp.fc1, batch, pass->a, ld, t->map_hidden, t->ldmlp);
    vp_act_run(&pass->run, vp_config_pool_act(c), batch, vp_config_pool_hidden(c),
               t->map_h, t->ldmlp, t->map_hidden, NULL, t->ldmlp);
    vp_finish fc2 = vp_module_finish(&pool->mlp.fc2, out, ld);
    fc2.residual = t->map_proj;
    fc2.residual_stride = ld;
    vp_module_linear(pass, &pool->mlp.fc2, 0, batch, t->map_h, t->ldmlp, &fc2);
}

/* Head h of image b: the gradient of its scores, and what it adds to dquery[h]. */
static void map_back_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const map_job *j = ctx;
    const vp_training *t = j->t;
    const vp_kernels *kernels = t->pass.run.kernels;
    const vp_config *c = t->pass.config;
    const size_t b = item / pool_heads(c), width = c->embed_dim, ld = t->pass.ldx;
    float *dp = t->map_dp + item * j->n, *dquery = t->map_dqueries + item * ld;
    for (size_t i = 0; i < j->n; i++) {
        kernels->dot(&dp[i], t->map_dmeans + item * ld, token_at(j, b, i), width);
    }
    kernels->softmax_backward(dp, t->map_p + item * j->n, dp, j->n, head_scale(c));
    for (size_t i = 0; i < j->n; i++) {
        kernels->axpby(dquery, dp[i], token_at(j, b, i), i > 0 ? 1.0f : 0.0f, width);
    }
}

/* df[token] = sum over heads of p dmean + ds query, for one image's token */
static void map_tokens_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const map_job *j = ctx;
    const vp_training *t = j->t;
    const vp_kernels *kernels = t->pass.run.kernels;
    const size_t heads = pool_heads(t->pass.config);
    const size_t width = t->pass.config->embed_dim;
    const size_t b = item / j->n, i = item % j->n;
    float *df = j->df + (b * t->pass.tokens + i) * t->pass.ldx;
    for (size_t h = 0; h < heads; h++) {
        const size_t at = b * heads + h;
        kernels->axpby(df, t->map_p[at * j->n + i], t->map_dmeans + at * t->pass.ldx,
                       h > 0 ? 1.0f : 0.0f, width);
        kernels->axpby(df, t->map_dp[at * j->n + i], t->map_query + h * width, 1.0f,
                       width);
    }
}

static void map_back(vp_training *t, const float *f, size_t ldf, float *dout, float *df)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const vp_attn_pool *pool = &pass->vit->pool;
    const size_t heads = pool_heads(c), width = c->embed_dim, d = width / heads;
    const size_t ld = pass->ldx, batch = pass->batch;
    /* x = x + mlp(norm(x)) */
    vp_train_linear_back(t, &pool->mlp.fc2, batch, dout, ld, t->map_h, t->ldmlp,
                         pass->h, t->ldmlp, false);
    vp_act_gradient_run(&pass->run, vp_config_pool_act(c), batch,
                        vp_config_pool_hidden(c), pass->h, NULL, t->ldmlp, pass->h,
                        t->ldmlp, t->map_hidden, NULL, t->ldmlp);
    vp_module_norm(pass, &pool->norm, batch, pass->a, ld, t->map_proj, ld);
    vp_train_linear_back(t, &pool->mlp.fc1, batch, pass->h, t->ldmlp, pass->a, ld, t->b,
                         ld, false);
    vp_train_norm_back(t, &pool->norm, batch, 1, width, dout, ld, true, t->b, ld,
                       t->map_proj, ld);
    /* x = proj(x) */
    vp_train_linear_back(t, &pool->proj, batch, dout, ld, t->map_rows, ld, t->b, ld,
                         false);
    /* each head's columns of the values: zeros beside them */
    memset(t->map_drows, 0, batch * heads * ld * sizeof(float));
    for (size_t b = 0; b < batch; b++) {
        for (size_t h = 0; h < heads; h++) {
            memcpy(t->map_drows + (b * heads + h) * ld + h * d, t->b + b * ld + h * d,
                   d * sizeof(float));
        }
    }
    float *dw = vp_gradient_of(t, &pool->kv.weight);
    float *db = vp_gradient_of(t, &pool->kv.bias);
    const vp_linear_gradient values = {.m = batch * heads,
                                       .w = &pool->kv.weight->packed[1],
                                       .dy = t->map_drows,
                                       .lddy = ld,
                                       .x = t->map_means,
                                       .ldx = ld,
                                       .dw = dw != NULL ? dw + width * width : NULL,
                                       .db = db != NULL ? db + width : NULL,
                                       .dx = t->map_dmeans,
                                       .lddx = ld};
    vp_linear_gradient_run(&pass->run, &values, t->memory);
    map_job j = {t, f, ldf, tokens_read(t), NULL};
    vp_parallel_for(pass->run.team, batch * heads, map_back_task, &j);
    for (size_t item = 0; item < batch * heads; item++) {
        pass->run.kernels->add(t->map_dquery + item % heads * width,
                               t->map_dqueries + item * ld, width);
    }
    if (df != NULL) {
        const size_t prefix = pass->tokens - j.n;
        for (size_t b = 0; b < batch; b++) { /* tokens that the pool does not read */
            memset(df + b * pass->tokens * ld, 0, prefix * ld * sizeof(float));
        }
        j.df = df + prefix * ld;
        vp_parallel_for(pass->run.team, batch * j.n, map_tokens_task, &j);
    }
}

void vp_train_pool_begin(vp_training *t)
{
    const vp_config *c = t->pass.config;
    if (c->global_pool == VP_POOL_MAP && t->request->entry != VP_ENTRY_PRE_LOGITS) {
        vp_unpack(&t->pass.vit->pool.query, t->map_query);
        memset(t->map_dquery, 0, pool_heads(c) * c->embed_dim * sizeof(float));
    }
}

/* From dquery to q, its input and the keys' weights; in double, since it is little. */
void vp_train_pool_end(vp_training *t)
{
    const vp_config *c = t->pass.config;
    if (c->global_pool != VP_POOL_MAP || !t->pooled ||
        t->request->entry == VP_ENTRY_PRE_LOGITS) {
        return;
    }
    const vp_attn_pool *pool = &t->pass.vit->pool;
    const size_t width = c->embed_dim, d = width / pool_heads(c);
    const float *latent = pool->latent->plain, *bias = pool->q.bias->plain;
    float *dkv = vp_gradient_of(t, &pool->kv.weight);
    float *dlatent = vp_gradient_of(t, &pool->latent);
    float *dwq = vp_gradient_of(t, &pool->q.weight);
    float *dbq = vp_gradient_of(t, &pool->q.bias);
    float *w = t->map_matrix;
    float *q = t->map_means, *dq = t->map_rows; /* free by now */
    vp_weight_get(pool->kv.weight, w);
    for (size_t i = 0; i < width; i++) { /* dq_h = Wk_h dquery[h] */
        double sum = 0.0;
        for (size_t j = 0; j < width; j++) {
            sum += (double)w[i * width + j] * t->map_dquery[i / d * width + j];
        }
        dq[i] = (float)sum;
        t->map_sums[i] = 0.0;
    }
    vp_weight_get(pool->q.weight, w);
    for (size_t i = 0; i < width; i++) {
        double sum = bias[i];
        for (size_t j = 0; j < width; j++) {
            sum += (double)w[i * width + j] * latent[j];
            t->map_sums[j] += (double)w[i * width + j] * dq[i];
        }
        q[i] = (float)sum;
    }
    for (size_t i = 0; i < width; i++) {
        const float *dquery = t->map_dquery + i / d * width;
        for (size_t j = 0; j < width && dkv != NULL; j++) {
            dkv[i * width + j] += q[i] * dquery[j]; /* the keys' rows; dbk is 0 */
        }
        for (size_t j = 0; j < width && dwq != NULL; j++) {
            dwq[i * width + j] += dq[i] * latent[j];
        }
        if (dbq != NULL) {
            dbq[i] += dq[i];
        }
        if (dlatent != NULL) {
            dlatent[i] += (float)t->map_sums[i];
        }
    }
}

/* -- prr -- */

/* Self-attention of the tokens without projections; for the class token alone where there is
 * one, else out's rows are all tokens'. */
static vp_attention prr_attention(const vp_training *t, const float *f, size_t ldf)
{
    const vp_config *c = t->pass.config;
    const size_t n = t->pass.tokens, d = c->embed_dim / c->num_heads;
    return (vp_attention){.batch = t->pass.batch,
                          .heads = c->num_heads,
                          .group = 1,
                          .nq = c->class_token ? 1 : n,
                          .nk = n,
                          .dk = d,
                          .dv = d,
                          .q = f,
                          .k = f,
                          .v = f,
                          .q_row = ldf,
                          .q_image = n * ldf,
                          .kv_row = ldf,
                          .kv_image = n * ldf,
                          .scale = head_scale(c),
                          .out_row = t->pass.ldx,
                          .out_image = (c->class_token ? 1 : n) * t->pass.ldx};
}

static void prr_forward(vp_training *t, const float *f, size_t ldf, float *out)
{
    vp_pass *pass = &t->pass;
    vp_attention at = prr_attention(t, f, ldf);
    at.out = at.nq == 1 ? out : t->b;
    vp_attention_run(&pass->run, &at);
    if (at.out != out) {
        vp_pool_run(&pass->run, VP_REDUCE_AVG, pass->batch, at.nk, 0,
                    pass->config->embed_dim, out, pass->ldx, t->b, pass->ldx,
                    at.out_image);
    }
}

static void prr_back(vp_training *t, const float *f, size_t ldf, const float *dout,
                     float *df)
{
    vp_pass *pass = &t->pass;
    const size_t ld = pass->ldx, width = pass->config->embed_dim;
    vp_attention_gradient gradient = {.at = prr_attention(t, f, ldf),
                                      .dout = dout,
                                      .dq = t->map_dp,
                                      .dk = t->map_dmeans,
                                      .dv = t->map_drows,
                                      .dq_row = ld,
                                      .dkv_row = ld};
    const size_t nq = gradient.at.nq, n = gradient.at.nk;
    gradient.dq_image = nq * ld;
    gradient.dkv_image = n * ld;
    if (nq > 1) {
        vp_pool_gradient_run(&pass->run, VP_REDUCE_AVG, pass->batch, n, 0, width, t->b,
                             ld, n * ld, dout, ld, NULL, 0, 0);
        gradient.dout = t->b;
    }
    vp_attention_gradient_run(&pass->run, &gradient);
    for (size_t b = 0; b < pass->batch; b++) {
        for (size_t i = 0; i < n; i++) {
            const size_t row = (b * n + i) * ld;
            memcpy(df + row, gradient.dk + row, width * sizeof(float));
            pass->run.kernels->add(df + row, gradient.dv + row, width);
            if (i < nq) {
                pass->run.kernels->add(df + row, gradient.dq + (b * nq + i) * ld,
                                       width);
            }
        }
    }
}

void vp_train_pool(vp_training *t, const float *f, size_t ldf, float *out)
{
    if (t->pass.config->global_pool == VP_POOL_MAP) {
        map_forward(t, f, ldf, out);
    } else {
        prr_forward(t, f, ldf, out);
    }
}

void vp_train_pool_back(vp_training *t, const float *f, size_t ldf, float *dout,
                        float *df)
{
    if (t->pass.config->global_pool == VP_POOL_MAP) {
        map_back(t, f, ldf, dout, df);
    } else if (df != NULL) {
        prr_back(t, f, ldf, dout, df);
    }
}
