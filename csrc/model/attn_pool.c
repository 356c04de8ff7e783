/* timm's attention pools: AttentionPoolLatent ('map') and AttentionPoolPrr ('prr').
 *
 * map, for one latent query, does less work than its definition and gives the same numbers
 * up to rounding: with q the projected query and k_n = Wk x_n + bk, the score q . k_n is
 * (Wk^T q) . x_n plus a constant that softmax ignores; and since the weights p_n sum to 1,
 * sum p_n (Wv x_n + bv) = Wv (sum p_n x_n) + bv. So no token is ever projected.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/modules.h"
#include "ops/pool.h"

size_t vp_attn_pool_scratch(const vp_pass *pass)
{
    const vp_config *c = pass->config;
    const vp_attn_pool *pool = &pass->vit->pool;
    const size_t n = pass->tokens;
    size_t need = 0;
    if (c->attn_pool == VP_POOL_MAP) {
        vp_scratch_max(&need, n * sizeof(float));
        vp_scratch_max(&need, vp_gemm_scratch(&pool->query, n, false));
        vp_scratch_max(&need,
                       vp_gemm_scratch(&pool->kv.weight->packed[1],
                                       pass->batch * vp_config_pool_heads(c), false));
    } else if (c->attn_pool == VP_POOL_PRR) {
        const size_t d = c->embed_dim / c->num_heads;
        vp_scratch_max(&need, vp_attention_scratch(&pass->run, n, d, d));
    }
    return need;
}

/* query[h] = sum over head h's rows i of (Wq latent + bq)[i] * Wk[i] */
vp_status vp_attn_pool_finish(vp_vit *vit, vp_error *err)
{
    const vp_config *c = &vit->config;
    vp_attn_pool *pool = &vit->pool;
    if (c->attn_pool != VP_POOL_MAP) {
        return VP_OK;
    }
    const size_t width = c->embed_dim, heads = vp_config_pool_heads(c);
    const size_t d = width / heads;
    const size_t bytes = vp_size_mul(vp_size_mul(width, width), 2 * sizeof(float));
    float *w = vp_alloc(bytes), *query = vp_alloc(heads * width * sizeof(float));
    double *sums = vp_alloc(width * sizeof(double));
    vp_status status = VP_OK;
    if (w == NULL || query == NULL || sums == NULL ||
        vp_packed_init(&pool->query, vp_ukr_for(VP_DTYPE_f32), heads, width) != 0) {
        status = vp_fail_memory(err, "the folded latent query", bytes);
        goto done;
    }
    const float *latent = pool->latent->plain, *bias = pool->q.bias->plain;
    vp_weight_get(pool->q.weight, w);
    for (size_t i = 0; i < width; i++) {
        double q = bias[i];
        for (size_t j = 0; j < width; j++) {
            q += (double)w[i * width + j] * latent[j];
        }
        sums[i] = q;
    }
    vp_weight_get(pool->kv.weight, w);
    for (size_t h = 0; h < heads; h++) {
        for (size_t j = 0; j < width; j++) {
            double total = 0.0;
            for (size_t i = h * d; i < (h + 1) * d; i++) {
                total += sums[i] * w[i * width + j];
            }
            query[h * width + j] = (float)total;
        }
    }
    vp_pack(&pool->query, query);
done:
    vp_free(sums);
    vp_free(query);
    vp_free(w);
    return status;
}

typedef struct {
    vp_pass *pass;
    const float *x;
    size_t ldx, x_image, n;
    float *weights;
} map_job;

/* Head h of image b: softmax of its column of scores, then the weighted sum of tokens. */
static void map_task(void *ctx, size_t item, size_t worker)
{
    const map_job *j = ctx;
    const vp_pass *pass = j->pass;
    const vp_kernels *kernels = pass->run.kernels;
    const size_t heads = vp_config_pool_heads(pass->config);
    const size_t width = pass->config->embed_dim;
    const size_t b = item / heads, h = item % heads;
    float *p = vp_run_worker(&pass->run, worker);
    const float *scores = pass->scores + b * j->n * pass->ldscores + h;
    for (size_t i = 0; i < j->n; i++) {
        p[i] = scores[i * pass->ldscores];
    }
    kernels->softmax(p, j->n, 1.0f / sqrtf((float)(width / heads)));
    float *mean = pass->head_means + item * pass->ldx;
    for (size_t i = 0; i < j->n; i++) {
        kernels->axpby(mean, p[i], j->x + b * j->x_image + i * j->ldx,
                       i > 0 ? 1.0f : 0.0f, width);
    }
    if (j->weights != NULL) {
        memcpy(j->weights + item * j->n, p, j->n * sizeof(float));
    }
}

static void map_forward(vp_pass *pass, const float *x, size_t ldx, size_t x_image,
                        size_t n, float *out, size_t ldo)
{
    const vp_config *c = pass->config;
    const vp_attn_pool *pool = &pass->vit->pool;
    const size_t heads = vp_config_pool_heads(c), d = c->embed_dim / heads;
    const size_t ld = pass->ldx;
    for (size_t b = 0; b < pass->batch; b++) {
        vp_gemm gemm = {.m = n, .a = x + b * x_image, .lda = ldx, .w = &pool->query};
        gemm.finish.out = pass->scores + b * n * pass->ldscores;
        gemm.finish.out_stride = pass->ldscores;
        vp_gemm_run(&pass->run, &gemm);
    }
    map_job j = {pass, x, ldx, x_image, n, vp_pass_map(pass, 0)};
    vp_parallel_for(pass->run.team, pass->batch * heads, map_task, &j);
    /* Each head's mean is multiplied by all of Wv. Of that product only the head's own
     * columns are its values; they are gathered below. */
    vp_finish values = {.bias = pool->kv.bias->plain + c->embed_dim,
                        .out = pass->head_values,
                        .out_stride = ld};
    vp_module_linear(pass, &pool->kv, 1, pass->batch * heads, pass->head_means, ld,
                     &values);
    for (size_t b = 0; b < pass->batch; b++) {
        for (size_t h = 0; h < heads; h++) {
            memcpy(pass->pool_a + b * ld + h * d,
                   pass->head_values + (b * heads + h) * ld + h * d, d * sizeof(float));
        }
    }
    /* x = proj(x); x = x + mlp(norm(x)) */
    const vp_finish proj = vp_module_finish(&pool->proj, out, ldo);
    vp_module_linear(pass, &pool->proj, 0, pass->batch, pass->pool_a, ld, &proj);
    vp_module_norm(pass, &pool->norm, pass->batch, pass->pool_a, ld, out, ldo);
    vp_module_mlp_hidden(pass, &pool->mlp, VP_MLP_PLAIN, pass->batch, pass->pool_a, ld,
                         pass->pool_h, pass->ldh);
    vp_finish fc2 = vp_module_finish(&pool->mlp.fc2, out, ldo);
    fc2.residual = out;
    fc2.residual_stride = ldo;
    vp_module_linear(pass, &pool->mlp.fc2, 0, pass->batch, pass->pool_h, pass->ldh,
                     &fc2);
}

/* Self-attention of the tokens without projections, then the class token or the mean. */
static void prr_forward(vp_pass *pass, const float *x, size_t ldx, size_t x_image,
                        size_t n, float *out, size_t ldo)
{
    const vp_config *c = pass->config;
    const size_t d = c->embed_dim / c->num_heads;
    vp_attention at = {.batch = pass->batch,
                       .heads = c->num_heads,
                       .group = 1,
                       .nq = n,
                       .nk = n,
                       .dk = d,
                       .dv = d,
                       .q = x,
                       .k = x,
                       .v = x,
                       .q_row = ldx,
                       .q_image = x_image,
                       .kv_row = ldx,
                       .kv_image = x_image,
                       .scale = 1.0f / sqrtf((float)d)};
    float *weights = vp_pass_map(pass, 0);
    if (weights != NULL) {
        vp_attention_weights(&pass->run, &at, weights);
    }
    if (c->class_token) {
        at.nq = 1; /* only the class token's output is used */
        at.out = out;
        at.out_row = at.out_image = ldo;
        vp_attention_run(&pass->run, &at);
    } else {
        at.out = pass->a;
        at.out_row = pass->ldx;
        at.out_image = n * pass->ldx;
        vp_attention_run(&pass->run, &at);
        vp_pool_run(&pass->run, VP_REDUCE_AVG, pass->batch, n, 0, c->embed_dim, out,
                    ldo, pass->a, pass->ldx, n * pass->ldx);
    }
}

void vp_attn_pool_forward(vp_pass *pass, const float *x, size_t ldx, size_t x_image,
                          size_t n, float *out, size_t ldo)
{
    if (pass->config->attn_pool == VP_POOL_MAP) {
        map_forward(pass, x, ldx, x_image, n, out, ldo);
    } else {
        prr_forward(pass, x, ldx, x_image, n, out, ldo);
    }
}
