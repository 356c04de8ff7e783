/* Scaled dot-product attention. SPDX-License-Identifier: Apache-2.0 */
#include "ops/attention.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "gemm/panels.h"

/* Of a block of keys, those whose weights are packed at a time, for L1. */
#define PACKED_KEYS ((size_t)128)
#define ITEMS_PER_WORKER ((size_t)3)

/* What a worker keeps in its scratch. */
typedef struct {
    void *keys;    /* panels [dk] of a block's keys */
    void *values;  /* panels [keys] of a block's values */
    float *scores; /* [mr][score_stride] */
    float *sums;   /* [block_queries + mr][sum_stride]: out before the division */
    vp_panels_room room;
    float *max, *sum; /* [block_queries] */
    size_t score_stride, sum_stride;
} workspace;

/* Lays a workspace out at base; at NULL it only measures. Returns bytes. */
static size_t lay_out(const vp_run *run, size_t nk, size_t dk, size_t dv, void *base,
                      workspace *at)
{
    const vp_ukr *ukr = run->ukr;
    const size_t queries = run->limits.block_queries;
    const size_t keys = vp_min(nk, run->limits.block_keys);
    const size_t key_panels = vp_ceil_div(keys, ukr->nr);
    const size_t value_panels = vp_ceil_div(dv, ukr->nr);
    vp_arena arena = {.base = base, .capacity = SIZE_MAX};
    *at = (workspace){0};
    at->score_stride = vp_row_stride(key_panels * ukr->nr);
    at->sum_stride = vp_row_stride(value_panels * ukr->nr);
    at->keys = vp_panels_take(&arena, ukr, dk, keys);
    at->values = vp_panels_take(&arena, ukr, keys, dv);
    at->room =
        vp_panels_take_room(&arena, ukr, vp_max(dk, PACKED_KEYS), vp_max(dk, keys));
    at->scores = vp_arena_floats(&arena, ukr->mr * at->score_stride);
    at->sums = vp_arena_floats(&arena, (queries + ukr->mr) * at->sum_stride);
    at->max = vp_arena_floats(&arena, queries);
    at->sum = vp_arena_floats(&arena, queries);
    return arena.used;
}

size_t vp_attention_scratch(const vp_run *run, size_t nk, size_t dk, size_t dv)
{
    workspace at;
    return lay_out(run, nk, dk, dv, NULL, &at);
}

/* scores = scale scores + relative bias, of query i and keys [j0, j0 + n): the keys of a grid
 * row at a time, whose biases are neighbours. */
static void add_relative(const vp_run *run, const vp_attention *at, size_t h, size_t i,
                         size_t j0, size_t n, float *scores)
{
    const vp_relative *r = at->relative;
    const size_t gh = r->grid[0], gw = r->grid[1], columns = 2 * gw - 1;
    size_t j = 0;
    if (r->prefix > 0) {
        const float *edges = r->edges + 3 * h;
        const bool token = i < r->prefix;
        const size_t most = token ? n : vp_min(n, r->prefix - vp_min(r->prefix, j0));
        for (; j < most; j++) {
            const float edge = j0 + j >= r->prefix ? edges[0] : edges[token ? 2 : 1];
            scores[j] = at->scale * scores[j] + edge;
        }
    }
    if (j == n) {
        return;
    }
    const size_t query = i - r->prefix, first = j0 + j - r->prefix;
    size_t kx = first % gw;
    size_t row = (h * (2 * gh - 1) + query / gw + gh - 1 - first / gw) * columns;
    row += gw - 1 - query % gw;
    for (; j < n; row -= columns, kx = 0) {
        const size_t keys = vp_min(gw - kx, n - j);
        run->kernels->axpby(scores + j, 1.0f, r->bias + row + kx, at->scale, keys);
        j += keys;
    }
}

float vp_attention_mask_row(const vp_run *run, const vp_attention *at, size_t b,
                            size_t h, size_t i, size_t j0, size_t n, float *scores)
{
    const vp_mask *mask = at->mask;
    float scale = at->scale;
    if (at->relative != NULL) {
        add_relative(run, at, h, i, j0, n, scores);
        scale = 1.0f;
    }
    if (mask == NULL) {
        return scale;
    }
    const size_t offset =
        b * mask->batch + h / at->group * mask->head + i * mask->row + j0;
    for (size_t j = 0; j < n; j++) {
        float s = scores[j] * scale;
        if (mask->bias != NULL) {
            s += mask->bias[offset + j];
        } else if (mask->allowed != NULL && !mask->allowed[offset + j]) {
            s = -INFINITY;
        }
        scores[j] = mask->causal && j0 + j > i ? -INFINITY : s;
    }
    return 1.0f;
}

/* Packs a block of keys [keys][dk], absent ones as zeros. */
static void pack_keys(const vp_run *run, const workspace *w, const float *k, size_t row,
                      size_t keys, size_t dk)
{
    if (run->counts != NULL) {
        atomic_fetch_add(&run->counts->key_blocks, 1);
    }
    vp_panels_pack_transposed(run, &w->room, w->keys, k, row, dk, keys);
}

typedef struct {
    const vp_run *run;
    const vp_attention *at;
    size_t query_blocks, queries; /* per block */
    float *weights;
} job;

/* A work item: a block of queries of one head of one image. */
typedef struct {
    size_t b, h, q0, nq; /* queries [q0, q0 + nq) */
    const float *q, *k;
    workspace w;
} block;

static block block_of(const job *j, size_t item, size_t worker)
{
    const vp_attention *at = j->at;
    block it = {.b = item / j->query_blocks / at->heads,
                .h = item / j->query_blocks % at->heads,
                .q0 = item % j->query_blocks * j->queries};
    it.nq = vp_min(at->nq - it.q0, j->queries);
    it.q = at->q + it.b * at->q_image + it.q0 * at->q_row + it.h * at->dk;
    it.k = at->k + it.b * at->kv_image + vp_attention_key_head(at, it.h) * at->dk;
    const size_t used =
        lay_out(j->run, at->nk, at->dk, at->dv, vp_run_worker(j->run, worker), &it.w);
    assert(used <= j->run->per_worker);
    (void)used;
    if (j->run->counts != NULL) {
        atomic_fetch_add(&j->run->counts->query_blocks, 1);
    }
    return it;
}

static void attention_task(void *ctx, size_t item, size_t worker)
{
    const job *j = ctx;
    const vp_run *run = j->run;
    const vp_attention *at = j->at;
    const vp_ukr *ukr = run->ukr;
    const block it = block_of(j, item, worker);
    const size_t b = it.b, h = it.h, q0 = it.q0, nq = it.nq;
    const float *v = at->v + b * at->kv_image + vp_attention_value_head(at, h) * at->dv;
    float *out = at->out + b * at->out_image + q0 * at->out_row + h * at->dv;
    const workspace w = it.w;
    for (size_t i = 0; i < nq; i++) {
        w.max[i] = -INFINITY;
        w.sum[i] = 0.0f;
    }

    vp_ukr_enter(ukr);
    for (size_t j0 = 0; j0 < at->nk; j0 += run->limits.block_keys) {
        const size_t keys = vp_min(at->nk - j0, run->limits.block_keys);
        pack_keys(run, &w, it.k + j0 * at->kv_row, at->kv_row, keys, at->dk);
        vp_panels_pack(run, &w.room, w.values, v + j0 * at->kv_row, at->kv_row, keys,
                       at->dv);
        const size_t strips = vp_ceil_div(nq, ukr->mr);
        size_t i0 = 0;
        for (size_t strip = 0; strip < strips; strip++) {
            /* strips of nearly equal height, as in gemm.c */
            const size_t rows = nq / strips + (strip < nq % strips);
            /* pass 1: scores of the strip */
            vp_panels_multiply(run, &w.room, it.q + i0 * at->q_row, at->q_row, rows,
                               w.keys, at->dk, at->dk, keys, w.scores, w.score_stride,
                               false);
            /* pass 2: online softmax, row by row */
            for (size_t i = 0; i < rows; i++) {
                float *scores = w.scores + i * w.score_stride;
                const float scale =
                    vp_attention_mask_row(run, at, b, h, q0 + i0 + i, j0, keys, scores);
                float shrink;
                run->kernels->softmax_block(scores, keys, scale, &w.max[i0 + i],
                                            &w.sum[i0 + i], &shrink);
                if (j0 > 0 && shrink != 1.0f) {
                    float *sums = w.sums + (i0 + i) * w.sum_stride;
                    run->kernels->axpby(sums, shrink, sums, 0.0f, at->dv);
                }
            }
            /* pass 3: their weighted sum of the values */
            vp_panels_multiply(run, &w.room, w.scores, w.score_stride, rows, w.values,
                               keys, PACKED_KEYS, at->dv, w.sums + i0 * w.sum_stride,
                               w.sum_stride, j0 > 0);
            i0 += rows;
        }
    }
    vp_ukr_leave(ukr);
    for (size_t i = 0; i < nq; i++) {
        /* a query that may see nothing gives zeros, as torch's does */
        const float inverse = w.sum[i] == 0.0f ? 0.0f : 1.0f / w.sum[i];
        run->kernels->axpby(out + i * at->out_row, inverse, w.sums + i * w.sum_stride,
                            0.0f, at->dv);
    }
}

static void run_items(job *j, vp_task task)
{
    const vp_attention *at = j->at;
    const size_t workers = j->run->team->workers;
    const size_t pairs = at->batch * at->heads;
    if (pairs == 0 || at->nq == 0 || at->nk == 0) {
        return;
    }
    /* Blocks no larger than the limit, and enough of them for every worker. */
    size_t blocks = vp_ceil_div(at->nq, j->run->limits.block_queries);
    const size_t wanted = vp_ceil_div(ITEMS_PER_WORKER * workers, pairs);
    if (workers > 1 && blocks < wanted && pairs % workers != 0) {
        blocks = vp_min(wanted, at->nq);
    }
    j->queries = vp_ceil_div(at->nq, blocks);
    j->query_blocks = vp_ceil_div(at->nq, j->queries);
    vp_parallel_for(j->run->team, pairs * j->query_blocks, task, j);
}

void vp_attention_run(const vp_run *run, const vp_attention *attention)
{
    job j = {.run = run, .at = attention};
    run_items(&j, attention_task);
}

/* The weights of one block of queries: raw scores block by block into the output, then a
 * softmax over each whole row. */
static void weights_task(void *ctx, size_t item, size_t worker)
{
    const job *j = ctx;
    const vp_run *run = j->run;
    const vp_attention *at = j->at;
    const vp_ukr *ukr = run->ukr;
    const block it = block_of(j, item, worker);
    const size_t b = it.b, h = it.h, q0 = it.q0, nq = it.nq;
    const workspace w = it.w;
    float *weights = j->weights + ((b * at->heads + h) * at->nq + q0) * at->nk;
    vp_ukr_enter(ukr);
    for (size_t j0 = 0; j0 < at->nk; j0 += run->limits.block_keys) {
        const size_t keys = vp_min(at->nk - j0, run->limits.block_keys);
        pack_keys(run, &w, it.k + j0 * at->kv_row, at->kv_row, keys, at->dk);
        for (size_t i0 = 0; i0 < nq; i0 += ukr->mr) {
            const size_t rows = vp_min(nq - i0, ukr->mr);
            vp_panels_multiply(run, &w.room, it.q + i0 * at->q_row, at->q_row, rows,
                               w.keys, at->dk, at->dk, keys, w.scores, w.score_stride,
                               false);
            for (size_t i = 0; i < rows; i++) {
                memcpy(weights + (i0 + i) * at->nk + j0, w.scores + i * w.score_stride,
                       keys * sizeof(float));
            }
        }
    }
    vp_ukr_leave(ukr);
    for (size_t i = 0; i < nq; i++) {
        float *row = weights + i * at->nk;
        const float scale =
            vp_attention_mask_row(run, at, b, h, q0 + i, 0, at->nk, row);
        run->kernels->softmax(row, at->nk, scale);
    }
}

void vp_attention_weights(const vp_run *run, const vp_attention *attention,
                          float *weights)
{
    job j = {.run = run, .at = attention, .weights = weights};
    run_items(&j, weights_task);
}
