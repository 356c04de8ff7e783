/* The backward pass of attention, and its forward pass with dropout.
 *
 * With P = softmax(S), S = scale q k^T + mask, and dropout's factors F (all 1 without):
 *   out = (F P) v         dv = (F P)^T dout     dP = F (dout v^T)
 *   dS = P (dP - sum of P dP over keys)         dq = scale dS k     dk = scale dS^T q
 * dk and dv are computed transposed, q^T dS and dout^T (F P): so it is the small q and dout
 * that are transposed, while weights are packed as they lie, by rows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/attention_gradient.h"

#include <assert.h>
#include <string.h>

#include "gemm/panels.h"

/* Numbers of a block of queries' weights: they and their gradients stay in L2. And the fewest
 * queries in a block: sums over them are the products' inputs. */
#define BLOCK_WEIGHTS ((size_t)1 << 15)
#define BLOCK_QUERIES ((size_t)64)
/* Of what is summed over, how much is packed at a time, for L1; see attention.c. */
#define PACKED ((size_t)128)

/* Queries in a block, at most. */
static size_t block_queries(const vp_run *run, size_t nk)
{
    return vp_min(run->limits.block_queries,
                  vp_max(BLOCK_QUERIES, BLOCK_WEIGHTS / vp_max(nk, 1)));
}

/* What a worker keeps in its scratch. */
typedef struct {
    void *keys;   /* panels of k^T [dk][nk] */
    void *values; /* panels of v^T [dv][nk] for the gradient, of v [nk][dv] forward */
    void *by_key; /* panels of k [nk][dk] */
    void *block;  /* panels [queries][nk] of a block's dS, then of its F P */
    vp_panels_room room;
    float *p, *ds;      /* [queries + mr][score_stride]: P, then F P; dP, then dS */
    float *sums;        /* [mr][sum_stride]: a strip's dq, or out */
    float *q_t;         /* [max(dk, dv)][query_stride]: a block's q^T, then dout^T */
    float *dk_t, *dv_t; /* [dk + mr], [dv + mr][score_stride] */
    size_t score_stride, sum_stride, query_stride;
} workspace;

/* Lays a workspace out at base; at NULL it only measures. Returns bytes. */
static size_t lay_out(const vp_run *run, size_t nk, size_t dk, size_t dv, void *base,
                      workspace *at)
{
    const vp_ukr *ukr = run->ukr;
    const size_t queries = block_queries(run, nk), d = vp_max(dk, dv);
    vp_arena arena = {.base = base, .capacity = SIZE_MAX};
    *at = (workspace){.score_stride = vp_row_stride(vp_round_up(nk, ukr->nr)),
                      .sum_stride = vp_row_stride(vp_round_up(d, ukr->nr)),
                      .query_stride = vp_row_stride(queries)};
    at->keys = vp_panels_take(&arena, ukr, dk, nk);
    at->values = vp_arena_take(
        &arena, vp_max(vp_panels_bytes(ukr, dv, nk), vp_panels_bytes(ukr, nk, dv)));
    at->by_key = vp_panels_take(&arena, ukr, nk, dk);
    at->block = vp_panels_take(&arena, ukr, queries, nk);
    at->room = vp_panels_take_room(&arena, ukr, vp_max(d, PACKED),
                                   vp_max(vp_max(nk, queries), d));
    at->p = vp_arena_floats(&arena, (queries + ukr->mr) * at->score_stride);
    at->ds = vp_arena_floats(&arena, (queries + ukr->mr) * at->score_stride);
    at->sums = vp_arena_floats(&arena, ukr->mr * at->sum_stride);
    at->q_t = vp_arena_floats(&arena, d * at->query_stride);
    at->dk_t = vp_arena_floats(&arena, (dk + ukr->mr) * at->score_stride);
    at->dv_t = vp_arena_floats(&arena, (dv + ukr->mr) * at->score_stride);
    return arena.used;
}

size_t vp_attention_gradient_scratch(const vp_run *run, size_t nk, size_t dk, size_t dv)
{
    workspace at;
    return lay_out(run, nk, dk, dv, NULL, &at);
}

typedef struct {
    const vp_run *run;
    const vp_attention *at;
    const vp_attention_gradient *gradient;
    const vp_drop *drop;
    size_t query_blocks, queries; /* per block */
} job;

/* A head of an image. */
typedef struct {
    const vp_run *run;
    const vp_attention *at;
    const vp_drop *drop;
    size_t b, h;
    const float *q, *k, *v;
    uint64_t key; /* of dropout's stream */
    workspace w;
} head;

static head head_of(const job *j, size_t b, size_t h, size_t worker)
{
    const vp_attention *at = j->at;
    head it = {.run = j->run, .at = at, .drop = j->drop, .b = b, .h = h};
    it.q = at->q + it.b * at->q_image + it.h * at->dk;
    it.k = at->k + it.b * at->kv_image + vp_attention_key_head(at, it.h) * at->dk;
    it.v = at->v + it.b * at->kv_image + vp_attention_value_head(at, it.h) * at->dv;
    it.key = vp_drop_key(j->drop, it.b);
    const size_t used =
        lay_out(j->run, at->nk, at->dk, at->dv, vp_run_worker(j->run, worker), &it.w);
    assert(used <= j->run->per_worker);
    (void)used;
    return it;
}

/* p[rows][nk] = the weights of queries [i0, i0 + rows), before dropout */
static void weights_of(const head *it, size_t i0, size_t rows, float *p)
{
    const vp_attention *at = it->at;
    const workspace *w = &it->w;
    vp_panels_multiply(it->run, &w->room, it->q + i0 * at->q_row, at->q_row, rows,
                       w->keys, at->dk, at->dk, at->nk, p, w->score_stride, false);
    for (size_t i = 0; i < rows; i++) {
        float *row = p + i * w->score_stride;
        const float scale =
            vp_attention_mask_row(it->run, at, it->b, it->h, i0 + i, 0, at->nk, row);
        it->run->kernels->softmax(row, at->nk, scale);
    }
}

/* row[nk] of query i, through dropout */
static void drop_row(const head *it, size_t i, float *row)
{
    const size_t first = (it->h * it->at->nq + i) * it->at->nk;
    if (it->drop->rate > 0.0f) {
        it->run->kernels->drop(row, row, it->at->nk, it->key, (uint32_t)first,
                               it->drop->rate);
    }
}

/* to[n][rows] (+)= x^T B, x[k][n] with rows ldx apart, B[k][rows] packed */
static void multiply_transposed(const head *it, const float *x, size_t ldx, size_t k,
                                size_t n, float *to, bool accumulate)
{
    const workspace *w = &it->w;
    it->run->kernels->transpose(w->q_t, w->query_stride, x, ldx, k, n);
    vp_panels_multiply(it->run, &w->room, w->q_t, w->query_stride, n, w->block, k,
                       PACKED, it->at->nk, to, w->score_stride, accumulate);
}

/* to += the slopes of query i and all keys, where attention.c has their biases from: the keys of
 * a grid row at a time. */
static void add_slopes(const vp_run *run, const vp_relative *r, size_t i, size_t n,
                       const float *slopes, float *to)
{
    const size_t gh = r->grid[0], gw = r->grid[1], columns = 2 * gw - 1;
    float *edges = to + (2 * gh - 1) * columns;
    const bool token = i < r->prefix;
    const size_t most = token ? n : vp_min(n, r->prefix);
    size_t j = 0;
    for (; j < most; j++) {
        edges[j >= r->prefix ? 0 : token ? 2 : 1] += slopes[j];
    }
    if (j == n) {
        return;
    }
    const size_t query = i - r->prefix;
    size_t row = (query / gw + gh - 1) * columns + gw - 1 - query % gw;
    for (; j < n; j += gw, row -= columns) {
        run->kernels->add(to + row, slopes + j, gw);
    }
}

/* Where a head's gradient of the relative bias goes; NULL: not wanted. */
static float *relative_at(const job *j, const head *it)
{
    const vp_attention *at = j->at;
    return j->gradient->drelative == NULL
               ? NULL
               : j->gradient->drelative +
                     (it->b * at->heads + it->h) * vp_relative_size(at->relative);
}

/* All queries of a head: dq, and what they add to its keys' and values' gradients, w.dk_t and
 * w.dv_t, which the group's first head begins. */
static void query_head(const job *j, const head *it, bool begins)
{
    const vp_run *run = j->run;
    const vp_attention *at = j->at;
    const vp_attention_gradient *g = j->gradient;
    const workspace *w = &it->w;
    const size_t nk = at->nk, dk = at->dk, dv = at->dv, stride = w->score_stride;
    const float *dout = g->dout + it->b * at->out_image + it->h * dv;
    float *to_q = g->dq + it->b * g->dq_image + it->h * dk;
    float *to_relative = relative_at(j, it);
    if (to_relative != NULL) {
        memset(to_relative, 0, vp_relative_size(at->relative) * sizeof(float));
    }
    for (size_t block = 0, q0 = 0; block < j->query_blocks; block++) {
        const size_t q1 = vp_min(at->nq, q0 + j->queries), queries = q1 - q0;
        const size_t strips = vp_ceil_div(queries, run->ukr->mr);
        const bool add = !begins || block > 0;
        for (size_t s = 0, i0 = q0; s < strips; s++) {
            const size_t rows = queries / strips + (s < queries % strips);
            float *p = w->p + (i0 - q0) * stride, *ds = w->ds + (i0 - q0) * stride;
            /* pass 1: the weights, and the gradient of each */
            weights_of(it, i0, rows, p);
            vp_panels_multiply(run, &w->room, dout + i0 * at->out_row, at->out_row,
                               rows, w->values, dv, dv, nk, ds, stride, false);
            /* pass 2: through dropout and softmax, row by row */
            for (size_t i = 0; i < rows; i++) {
                float *weights = p + i * stride, *slopes = ds + i * stride;
                drop_row(it, i0 + i, slopes);
                run->kernels->softmax_backward(slopes, weights, slopes, nk, at->scale);
                drop_row(it, i0 + i, weights);
                if (to_relative != NULL) {
                    add_slopes(run, at->relative, i0 + i, nk, slopes, to_relative);
                }
            }
            /* pass 3: the gradient of the queries */
            vp_panels_multiply(run, &w->room, ds, stride, rows, w->by_key, nk, PACKED,
                               dk, w->sums, w->sum_stride, false);
            for (size_t i = 0; i < rows; i++) {
                memcpy(to_q + (i0 + i) * g->dq_row, w->sums + i * w->sum_stride,
                       dk * sizeof(float));
            }
            i0 += rows;
        }
        /* the block's part of the keys' and the values' */
        vp_panels_pack(run, &w->room, w->block, w->ds, stride, queries, nk);
        multiply_transposed(it, it->q + q0 * at->q_row, at->q_row, queries, dk, w->dk_t,
                            add);
        vp_panels_pack(run, &w->room, w->block, w->p, stride, queries, nk);
        multiply_transposed(it, dout + q0 * at->out_row, at->out_row, queries, dv,
                            w->dv_t, add);
        q0 = q1;
    }
    if (to_relative != NULL) { /* a bias is added to what is scaled already */
        run->kernels->axpby(to_relative, 1.0f / at->scale, to_relative, 0.0f,
                            vp_relative_size(at->relative));
    }
}

static size_t group_of(const vp_attention *at)
{
    return vp_max(at->kv_group, 1);
}

/* A key head of an image, with the heads that share it one after the other. */
static void gradient_task(void *ctx, size_t item, size_t worker)
{
    const job *j = ctx;
    const vp_run *run = j->run;
    const vp_attention *at = j->at;
    const vp_attention_gradient *g = j->gradient;
    const size_t group = group_of(at), key_heads = at->heads / group;
    const size_t b = item / key_heads, key_head = item % key_heads;
    const size_t nk = at->nk, dk = at->dk, dv = at->dv;
    head it = head_of(j, b, key_head * group, worker);
    const workspace *w = &it.w;
    float *to_k = g->dk + b * g->dkv_image + key_head * dk;
    float *to_v = g->dv + b * g->dkv_image + key_head * dv;

    vp_ukr_enter(run->ukr);
    vp_panels_pack_transposed(run, &w->room, w->keys, it.k, at->kv_row, dk, nk);
    vp_panels_pack_transposed(run, &w->room, w->values, it.v, at->kv_row, dv, nk);
    vp_panels_pack(run, &w->room, w->by_key, it.k, at->kv_row, nk, dk);
    for (size_t i = 0; i < group; i++) {
        it = head_of(j, b, key_head * group + i, worker);
        query_head(j, &it, i == 0);
    }
    vp_ukr_leave(run->ukr);
    run->kernels->transpose(to_k, g->dkv_row, w->dk_t, w->score_stride, dk, nk);
    run->kernels->transpose(to_v, g->dkv_row, w->dv_t, w->score_stride, dv, nk);
}

static void run_heads(job *j, size_t heads, vp_task task)
{
    const vp_attention *at = j->at;
    const size_t most = block_queries(j->run, at->nk);
    j->query_blocks = vp_ceil_div(at->nq, most);
    j->queries = vp_ceil_div(at->nq, j->query_blocks);
    vp_parallel_for(j->run->team, at->batch * heads, task, j);
}

void vp_attention_gradient_run(const vp_run *run, const vp_attention_gradient *gradient)
{
    const vp_attention *at = &gradient->at;
    assert(at->group == 1 && at->nq > 0 && at->nk > 0);
    job j = {.run = run, .at = at, .gradient = gradient, .drop = &gradient->drop};
    run_heads(&j, at->heads / group_of(at), gradient_task);
}

static void dropped_task(void *ctx, size_t item, size_t worker)
{
    const job *j = ctx;
    const vp_run *run = j->run;
    const vp_attention *at = j->at;
    const vp_ukr *ukr = run->ukr;
    const head it = head_of(j, item / at->heads, item % at->heads, worker);
    const workspace w = it.w;
    float *out = at->out + it.b * at->out_image + it.h * at->dv;

    vp_ukr_enter(ukr);
    vp_panels_pack_transposed(run, &w.room, w.keys, it.k, at->kv_row, at->dk, at->nk);
    vp_panels_pack(run, &w.room, w.values, it.v, at->kv_row, at->nk, at->dv);
    const size_t strips = vp_ceil_div(at->nq, ukr->mr);
    for (size_t s = 0, i0 = 0; s < strips; s++) {
        const size_t rows = at->nq / strips + (s < at->nq % strips);
        weights_of(&it, i0, rows, w.p);
        for (size_t i = 0; i < rows; i++) {
            drop_row(&it, i0 + i, w.p + i * w.score_stride);
        }
        vp_panels_multiply(run, &w.room, w.p, w.score_stride, rows, w.values, at->nk,
                           PACKED, at->dv, w.sums, w.sum_stride, false);
        for (size_t i = 0; i < rows; i++) {
            memcpy(out + (i0 + i) * at->out_row, w.sums + i * w.sum_stride,
                   at->dv * sizeof(float));
        }
        i0 += rows;
    }
    vp_ukr_leave(ukr);
}

void vp_attention_dropped_run(const vp_run *run, const vp_attention *attention,
                              const vp_drop *drop)
{
    assert(attention->nq > 0 && attention->nk > 0);
    job j = {.run = run, .at = attention, .drop = drop};
    run_heads(&j, attention->heads, dropped_task);
}
