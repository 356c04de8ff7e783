/* Scaled dot-product attention. SPDX-License-Identifier: Apache-2.0 */
#include "ops/attention.h"

#include <math.h>
#include <string.h>

#include "gemm/gemm.h"

/* Of a block of keys, those whose weights are packed at a time, for L1. */
#define PACKED_KEYS ((size_t)128)
#define ITEMS_PER_WORKER ((size_t)3)

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static size_t round_up(size_t n, size_t to)
{
    return ceil_div(n, to) * to;
}

/* Per-worker scratch. */
typedef struct {
    float *keys;      /* panels [dk][panel_step] of a block's keys */
    float *values;    /* panels [keys][panel_step] of a block's values */
    float *panel;     /* one panel before it is cut, for cut_panel */
    float *scores;    /* [mr][score_stride] */
    float *sums;      /* [block_queries + mr][sum_stride]: out before the division */
    float *strip;     /* a packed strip of queries or weights, for pack_strip */
    float *max, *sum; /* [block_queries] */
    size_t score_stride, sum_stride;
} room;

/* Lays a room out at base; at NULL it only measures. Returns floats. */
static size_t lay_out(const vp_run *run, size_t nk, size_t dk, size_t dv, float *base,
                      room *r)
{
    const vp_ukr *ukr = run->ukr;
    const size_t queries = run->limits.block_queries;
    const size_t keys = min_size(nk, run->limits.block_keys);
    const size_t deep_dk = vp_ukr_depth(ukr, dk), deep_keys = vp_ukr_depth(ukr, keys);
    const size_t deepest = deep_keys > deep_dk ? deep_keys : deep_dk;
    const size_t deep_strip = deep_dk > PACKED_KEYS ? deep_dk : PACKED_KEYS;
    const size_t key_columns = round_up(keys, ukr->nr);
    const size_t value_columns = round_up(dv, ukr->nr);
    size_t used = 0;
#define TAKE(field, count)                        \
    r->field = base != NULL ? base + used : NULL; \
    used += round_up(count, 16)
    r->score_stride = vp_row_stride(key_columns);
    r->sum_stride = vp_row_stride(value_columns);
    TAKE(keys, key_columns / ukr->nr * ukr->panel_step * deep_dk + 128);
    TAKE(values, value_columns / ukr->nr * ukr->panel_step * deep_keys + 128);
    TAKE(panel, ukr->cut_panel != NULL ? ukr->nr * deepest : 0);
    TAKE(scores, ukr->mr * r->score_stride);
    TAKE(sums, (queries + ukr->mr) * r->sum_stride);
    TAKE(strip, ukr->pack_strip != NULL ? ukr->strip_step * deep_strip + 128 : 0);
    TAKE(max, queries);
    TAKE(sum, queries);
#undef TAKE
    return used;
}

size_t vp_attention_scratch(const vp_run *run, size_t nk, size_t dk, size_t dv)
{
    room r;
    return lay_out(run, nk, dk, dv, NULL, &r);
}

/* Panel i of a matrix with k rows. */
static float *panel_at(const vp_ukr *ukr, float *panels, size_t i, size_t k)
{
    return panels + i * ukr->panel_step * vp_ukr_depth(ukr, k);
}

/* Where panel[k][nr] is put together that ends up at `ready`; what makes it ready then. */
static float *panel_room(const vp_ukr *ukr, const room *r, float *ready)
{
    return ukr->cut_panel != NULL ? r->panel : ready;
}

static void make_ready(const vp_ukr *ukr, const float *panel, size_t k, float *ready)
{
    if (ukr->cut_panel != NULL) {
        ukr->cut_panel(&(vp_ahead){.panel = panel, .k = k, .ready = ready});
    }
}

/* Packs a block of keys [n][dk] as panels [dk][nr], absent keys as zeros. */
static void pack_keys(const vp_run *run, const room *r, const float *k, size_t row,
                      size_t n, size_t dk)
{
    const vp_ukr *ukr = run->ukr;
    const size_t nr = ukr->nr;
    if (run->counts != NULL) {
        atomic_fetch_add(&run->counts->key_blocks, 1);
    }
    for (size_t j = 0; j < n; j += nr) {
        const size_t cols = min_size(n - j, nr);
        float *ready = panel_at(ukr, r->keys, j / nr, dk);
        float *panel = panel_room(ukr, r, ready);
        if (cols < nr) {
            memset(panel, 0, dk * nr * sizeof(float));
        }
        run->kernels->transpose(panel, nr, k + j * row, row, cols, dk);
        make_ready(ukr, panel, dk, ready);
    }
}

/* Packs values [n][dv] as panels [n][nr], absent columns as zeros. */
static void pack_values(const vp_run *run, const room *r, const float *v, size_t row,
                        size_t n, size_t dv)
{
    const vp_ukr *ukr = run->ukr;
    const size_t nr = ukr->nr;
    for (size_t d = 0; d < dv; d += nr) {
        const size_t cols = min_size(dv - d, nr);
        float *ready = panel_at(ukr, r->values, d / nr, n);
        float *panel = panel_room(ukr, r, ready);
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
static void score_strip(const vp_run *run, const room *r, const float *q, size_t q_row,
                        size_t rows, size_t keys, size_t dk)
{
    const vp_ukr *ukr = run->ukr;
    vp_ahead nothing = {.panel = r->keys};
    if (ukr->pack_strip != NULL) {
        ukr->pack_strip(ukr, r->strip, q, q_row, rows, dk);
        q = r->strip;
    }
    for (size_t j = 0; j < keys; j += ukr->nr) {
        vp_ukr_run(ukr, ukr->sum_piece, rows, dk, q, q_row,
                   panel_at(ukr, r->keys, j / ukr->nr, dk), r->scores + j,
                   r->score_stride, 0, &nothing);
    }
}

/* sums[rows][dv] of the strip at i0 (+)= scores[rows][keys] times the packed values */
static void value_strip(const vp_run *run, const room *r, size_t i0, size_t rows,
                        size_t keys, size_t dv, bool accumulate)
{
    const vp_ukr *ukr = run->ukr;
    const size_t part = ukr->pack_strip != NULL ? PACKED_KEYS : keys;
    vp_ahead nothing = {.panel = r->values};
    for (size_t j = 0; j < keys; j += part) {
        const size_t n = min_size(keys - j, part);
        const float *weights = r->scores + j;
        if (ukr->pack_strip != NULL) {
            ukr->pack_strip(ukr, r->strip, weights, r->score_stride, rows, n);
            weights = r->strip;
        }
        for (size_t d = 0; d < dv; d += ukr->nr) {
            vp_ukr_run(ukr, ukr->sum_piece, rows, n, weights, r->score_stride,
                       panel_at(ukr, r->values, d / ukr->nr, keys) +
                           j * ukr->panel_step,
                       r->sums + i0 * r->sum_stride + d, r->sum_stride,
                       accumulate || j > 0, &nothing);
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
    room r;
} block;

static block block_of(const job *j, size_t item, size_t worker)
{
    const vp_attention *at = j->at;
    block it = {.b = item / j->query_blocks / at->heads,
                .h = item / j->query_blocks % at->heads,
                .q0 = item % j->query_blocks * j->queries};
    it.nq = min_size(at->nq - it.q0, j->queries);
    it.q = at->q + it.b * at->q_image + it.q0 * at->q_row + it.h * at->dk;
    it.k = at->k + it.b * at->kv_image + it.h * at->dk;
    (void)lay_out(j->run, at->nk, at->dk, at->dv, vp_run_worker(j->run, worker), &it.r);
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
    const room r = it.r;
    for (size_t i = 0; i < nq; i++) {
        r.max[i] = -INFINITY;
        r.sum[i] = 0.0f;
    }

    vp_ukr_enter(ukr);
    for (size_t j0 = 0; j0 < at->nk; j0 += run->limits.block_keys) {
        const size_t keys = min_size(at->nk - j0, run->limits.block_keys);
        pack_keys(run, &r, it.k + j0 * at->kv_row, at->kv_row, keys, at->dk);
        pack_values(run, &r, v + j0 * at->kv_row, at->kv_row, keys, at->dv);
        const size_t strips = ceil_div(nq, ukr->mr);
        size_t i0 = 0;
        for (size_t strip = 0; strip < strips; strip++) {
            /* strips of nearly equal height, as in gemm.c */
            const size_t rows = nq / strips + (strip < nq % strips);
            /* pass 1: scores of the strip */
            score_strip(run, &r, it.q + i0 * at->q_row, at->q_row, rows, keys, at->dk);
            /* pass 2: online softmax, row by row */
            for (size_t i = 0; i < rows; i++) {
                float *scores = r.scores + i * r.score_stride;
                const float scale = mask_row(at, b, h, q0 + i0 + i, j0, keys, scores);
                float shrink;
                run->kernels->softmax_block(scores, keys, scale, &r.max[i0 + i],
                                            &r.sum[i0 + i], &shrink);
                if (j0 > 0 && shrink != 1.0f) {
                    float *sums = r.sums + (i0 + i) * r.sum_stride;
                    run->kernels->axpby(sums, shrink, sums, 0.0f, at->dv);
                }
            }
            /* pass 3: their weighted sum of the values */
            value_strip(run, &r, i0, rows, keys, at->dv, j0 > 0);
            i0 += rows;
        }
    }
    vp_ukr_leave(ukr);
    for (size_t i = 0; i < nq; i++) {
        /* a query that may see nothing gives zeros, as torch's does */
        const float inverse = r.sum[i] == 0.0f ? 0.0f : 1.0f / r.sum[i];
        run->kernels->axpby(out + i * at->out_row, inverse, r.sums + i * r.sum_stride,
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
    size_t blocks = ceil_div(at->nq, j->run->limits.block_queries);
    const size_t wanted = ceil_div(ITEMS_PER_WORKER * workers, pairs);
    if (workers > 1 && blocks < wanted && pairs % workers != 0) {
        blocks = min_size(wanted, at->nq);
    }
    j->queries = ceil_div(at->nq, blocks);
    j->query_blocks = ceil_div(at->nq, j->queries);
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
    const room r = it.r;
    float *weights = j->weights + ((b * at->heads + h) * at->nq + q0) * at->nk;
    vp_ukr_enter(ukr);
    for (size_t j0 = 0; j0 < at->nk; j0 += run->limits.block_keys) {
        const size_t keys = min_size(at->nk - j0, run->limits.block_keys);
        pack_keys(run, &r, it.k + j0 * at->kv_row, at->kv_row, keys, at->dk);
        for (size_t i0 = 0; i0 < nq; i0 += ukr->mr) {
            const size_t rows = min_size(nq - i0, ukr->mr);
            score_strip(run, &r, it.q + i0 * at->q_row, at->q_row, rows, keys, at->dk);
            for (size_t i = 0; i < rows; i++) {
                memcpy(weights + (i0 + i) * at->nk + j0, r.scores + i * r.score_stride,
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
