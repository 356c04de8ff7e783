/* Scaled dot-product attention. SPDX-License-Identifier: Apache-2.0 */
#include "ops/attention.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/arena.h"

/* Of a block of keys, those whose weights are packed at a time, for L1. */
#define PACKED_KEYS ((size_t)128)
#define ITEMS_PER_WORKER ((size_t)3)

/* What a worker keeps in its scratch. */
typedef struct {
    void *keys;    /* panels [dk, filled up] of a block's keys, panel_bytes for each */
    void *values;  /* panels [keys, filled up] of a block's values, the same */
    float *panel;  /* one panel before it is split, for split_panel */
    float *scores; /* [mr][score_stride] */
    float *sums;   /* [block_queries + mr][sum_stride]: out before the division */
    void *strip;   /* a packed strip of queries or weights, for pack_strip */
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
    const size_t deep_dk = vp_round_up(dk, ukr->kr);
    const size_t deep_keys = vp_round_up(keys, ukr->kr);
    const size_t key_panels = vp_ceil_div(keys, ukr->nr);
    const size_t value_panels = vp_ceil_div(dv, ukr->nr);
    vp_arena arena = {.base = base, .capacity = SIZE_MAX};
    *at = (workspace){0};
    at->score_stride = vp_row_stride(key_panels * ukr->nr);
    at->sum_stride = vp_row_stride(value_panels * ukr->nr);
    at->keys =
        vp_arena_take(&arena, key_panels * deep_dk * ukr->panel_bytes + VP_UKR_SLACK);
    at->values = vp_arena_take(&arena, value_panels * deep_keys * ukr->panel_bytes +
                                           VP_UKR_SLACK);
    if (ukr->split_panel != NULL) {
        at->panel = vp_arena_floats(&arena, ukr->nr * vp_max(deep_keys, deep_dk));
    }
    at->scores = vp_arena_floats(&arena, ukr->mr * at->score_stride);
    at->sums = vp_arena_floats(&arena, (queries + ukr->mr) * at->sum_stride);
    if (ukr->pack_strip != NULL) {
        at->strip = vp_arena_take(
            &arena, vp_max(deep_dk, PACKED_KEYS) * ukr->strip_bytes + VP_UKR_SLACK);
    }
    at->max = vp_arena_floats(&arena, queries);
    at->sum = vp_arena_floats(&arena, queries);
    return arena.used;
}

size_t vp_attention_scratch(const vp_run *run, size_t nk, size_t dk, size_t dv)
{
    workspace at;
    return lay_out(run, nk, dk, dv, NULL, &at);
}

/* Panel i of a matrix with k rows. */
static void *panel_at(const vp_ukr *ukr, void *panels, size_t i, size_t k)
{
    return (char *)panels + i * vp_round_up(k, ukr->kr) * ukr->panel_bytes;
}

/* Where panel[k][nr] is put together that ends up at `ready`; what makes it ready then. */
static float *panel_room(const vp_ukr *ukr, const workspace *w, void *ready)
{
    return ukr->split_panel != NULL ? w->panel : ready;
}

static void make_ready(const vp_ukr *ukr, const float *panel, size_t k, void *ready)
{
    if (ukr->split_panel != NULL) {
        ukr->split_panel(&(vp_ahead){.panel = panel, .k = k, .ready = ready});
    }
}

/* Packs a block of keys [n][dk] as panels [dk][nr], absent keys as zeros. */
static void pack_keys(const vp_run *run, const workspace *w, const float *k, size_t row,
                      size_t n, size_t dk)
{
    const vp_ukr *ukr = run->ukr;
    const size_t nr = ukr->nr;
    if (run->counts != NULL) {
        atomic_fetch_add(&run->counts->key_blocks, 1);
    }
    for (size_t j = 0; j < n; j += nr) {
        const size_t cols = vp_min(n - j, nr);
        void *ready = panel_at(ukr, w->keys, j / nr, dk);
        float *panel = panel_room(ukr, w, ready);
        if (cols < nr) {
            memset(panel, 0, dk * nr * sizeof(float));
        }
        run->kernels->transpose(panel, nr, k + j * row, row, cols, dk);
        make_ready(ukr, panel, dk, ready);
    }
}

/* Packs values [n][dv] as panels [n][nr], absent columns as zeros. */
static void pack_values(const vp_run *run, const workspace *w, const float *v,
                        size_t row, size_t n, size_t dv)
{
    const vp_ukr *ukr = run->ukr;
    const size_t nr = ukr->nr;
    for (size_t d = 0; d < dv; d += nr) {
        const size_t cols = vp_min(dv - d, nr);
        void *ready = panel_at(ukr, w->values, d / nr, n);
        float *panel = panel_room(ukr, w, ready);
        for (size_t i = 0; i < n; i++) {
            memcpy(panel + i * nr, v + i * row + d, cols * sizeof(float));
            memset(panel + i * nr + cols, 0, (nr - cols) * sizeof(float));
        }
        make_ready(ukr, panel, n, ready);
    }
}

/* Turns raw scores of one query and keys [j0, j0 + n) into what softmax takes: with a mask
 * they are scaled here, and the function's result is the factor still to apply. */
static float mask_row(const vp_attention *at, size_t b, size_t h, size_t i, size_t j0,
                      size_t n, float *scores)
{
    const vp_mask *mask = at->mask;
    if (mask == NULL) {
        return at->scale;
    }
    const size_t offset =
        b * mask->batch + h / at->group * mask->head + i * mask->row + j0;
    for (size_t j = 0; j < n; j++) {
        float s = scores[j] * at->scale;
        if (mask->bias != NULL) {
            s += mask->bias[offset + j];
        } else if (mask->allowed != NULL && !mask->allowed[offset + j]) {
            s = -INFINITY;
        }
        scores[j] = mask->causal && j0 + j > i ? -INFINITY : s;
    }
    return 1.0f;
}

/* scores[rows][keys] = q[rows][dk] times the packed keys */
static void score_strip(const vp_run *run, const workspace *w, const float *q,
                        size_t q_row, size_t rows, size_t keys, size_t dk)
{
    const vp_ukr *ukr = run->ukr;
    const void *strip = q;
    vp_ahead nothing = {.panel = w->keys};
    if (ukr->pack_strip != NULL) {
        ukr->pack_strip(ukr, w->strip, q, q_row, rows, dk);
        strip = w->strip;
    }
    for (size_t j = 0; j < keys; j += ukr->nr) {
        vp_ukr_run(ukr, ukr->sum_piece, rows, dk, strip, q_row,
                   panel_at(ukr, w->keys, j / ukr->nr, dk), w->scores + j,
                   w->score_stride, 0, &nothing);
    }
}

/* sums[rows][dv] of the strip at i0 (+)= scores[rows][keys] times the packed values */
static void value_strip(const vp_run *run, const workspace *w, size_t i0, size_t rows,
                        size_t keys, size_t dv, bool accumulate)
{
    const vp_ukr *ukr = run->ukr;
    const size_t part = ukr->pack_strip != NULL ? PACKED_KEYS : keys;
    vp_ahead nothing = {.panel = w->values};
    for (size_t j = 0; j < keys; j += part) {
        const size_t n = vp_min(keys - j, part);
        const void *strip = w->scores + j;
        if (ukr->pack_strip != NULL) {
            ukr->pack_strip(ukr, w->strip, strip, w->score_stride, rows, n);
            strip = w->strip;
        }
        for (size_t d = 0; d < dv; d += ukr->nr) {
            const char *panel = panel_at(ukr, w->values, d / ukr->nr, keys);
            vp_ukr_run(ukr, ukr->sum_piece, rows, n, strip, w->score_stride,
                       panel + j * ukr->panel_bytes, w->sums + i0 * w->sum_stride + d,
                       w->sum_stride, accumulate || j > 0, &nothing);
        }
    }
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
    it.k = at->k + it.b * at->kv_image + it.h * at->dk;
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
    const float *v = at->v + b * at->kv_image + h / at->group * at->dv;
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
        pack_values(run, &w, v + j0 * at->kv_row, at->kv_row, keys, at->dv);
        const size_t strips = vp_ceil_div(nq, ukr->mr);
        size_t i0 = 0;
        for (size_t strip = 0; strip < strips; strip++) {
            /* strips of nearly equal height, as in gemm.c */
            const size_t rows = nq / strips + (strip < nq % strips);
            /* pass 1: scores of the strip */
            score_strip(run, &w, it.q + i0 * at->q_row, at->q_row, rows, keys, at->dk);
            /* pass 2: online softmax, row by row */
            for (size_t i = 0; i < rows; i++) {
                float *scores = w.scores + i * w.score_stride;
                const float scale = mask_row(at, b, h, q0 + i0 + i, j0, keys, scores);
                float shrink;
                run->kernels->softmax_block(scores, keys, scale, &w.max[i0 + i],
                                            &w.sum[i0 + i], &shrink);
                if (j0 > 0 && shrink != 1.0f) {
                    float *sums = w.sums + (i0 + i) * w.sum_stride;
                    run->kernels->axpby(sums, shrink, sums, 0.0f, at->dv);
                }
            }
            /* pass 3: their weighted sum of the values */
            value_strip(run, &w, i0, rows, keys, at->dv, j0 > 0);
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
            score_strip(run, &w, it.q + i0 * at->q_row, at->q_row, rows, keys, at->dk);
            for (size_t i = 0; i < rows; i++) {
                memcpy(weights + (i0 + i) * at->nk + j0, w.scores + i * w.score_stride,
                       keys * sizeof(float));
            }
        }
    }
    vp_ukr_leave(ukr);
    for (size_t i = 0; i < nq; i++) {
        float *row = weights + i * at->nk;
        const float scale = mask_row(at, b, h, q0 + i, 0, at->nk, row);
        run->kernels->softmax(row, at->nk, scale);
    }
}

void vp_attention_weights(const vp_run *run, const vp_attention *attention,
                          float *weights)
{
    job j = {.run = run, .at = attention, .weights = weights};
    run_items(&j, weights_task);
}
