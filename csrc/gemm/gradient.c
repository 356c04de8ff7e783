/* The backward pass of a linear layer. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/gradient.h"

#include <string.h>

#include "base/arena.h"

/* Rows that are transposed and packed at a time: memory does not grow with m, and each time
 * dw is read and written once. */
#define CHUNK_ROWS ((size_t)1024)
/* Of these, rows in a work item, whole cache lines of what is transposed; db is a sum over
 * items of sums over their rows. */
#define ITEM_ROWS ((size_t)64)
/* Columns of an item's dy that are dealt with at a time: it is read twice. */
#define ITEM_COLUMNS ((size_t)512)

/* What is in memory while dw and db are made, of `rows` rows. */
typedef struct {
    vp_packed x;     /* x^T, packed */
    float *dy;       /* [n][stride]: dy^T */
    float *partials; /* [item][n] */
    size_t rows, stride;
} chunk;

/* Lays a chunk out at base; at NULL it only measures. Returns bytes. */
static size_t lay_out(const vp_packed *w, size_t rows, void *base, chunk *at)
{
    vp_arena arena = {.base = base, .capacity = SIZE_MAX};
    const size_t bytes = vp_packed_shape(&at->x, w->ukr, w->k, rows);
    at->rows = rows;
    at->stride = vp_row_stride(rows);
    at->x.data = vp_arena_take(&arena, bytes);
    at->dy = vp_arena_floats(&arena, w->n * at->stride);
    at->partials = vp_arena_floats(&arena, w->n * vp_ceil_div(rows, ITEM_ROWS));
    return arena.used;
}

/* The most that lay_out asks for up to so many rows: fewer may have more blocks of their own
 * panels' rounding. */
static size_t most(const vp_packed *w, size_t rows)
{
    chunk at;
    const size_t used = lay_out(w, rows, NULL, &at);
    return used + at.x.panels * vp_packed_blocks(&at.x) * VP_ALIGN;
}

size_t vp_linear_gradient_memory(const vp_packed *w, size_t m)
{
    vp_packed flipped;
    const size_t bytes = vp_packed_shape(&flipped, w->ukr, w->k, w->n);
    return vp_max(bytes, most(w, vp_min(m, CHUNK_ROWS)));
}

size_t vp_linear_gradient_scratch(const vp_packed *w, size_t m)
{
    vp_packed at;
    (void)vp_packed_shape(&at, w->ukr, w->k, w->n);
    const size_t dx = vp_gemm_scratch(&at, m, false);
    /* blocks as long as any that up to m rows have */
    (void)vp_packed_shape(&at, w->ukr, w->k, vp_min(m, CHUNK_ROWS));
    at.kc = vp_min(vp_round_up(at.k, w->ukr->kr), w->ukr->kc);
    return vp_max(dx, vp_gemm_scratch(&at, w->n, false));
}

typedef struct {
    const vp_run *run;
    const vp_linear_gradient *gradient;
    chunk chunk;
    const float *dy, *x; /* the chunk's rows */
    vp_packed flipped;
} job;

/* Transposes and sums rows of dy, packs rows of x. */
static void rows_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_linear_gradient *g = j->gradient;
    const vp_kernels *kernels = j->run->kernels;
    const size_t n = g->w->n, first = item * ITEM_ROWS;
    const size_t rows = vp_min(j->chunk.rows - first, ITEM_ROWS);
    for (size_t c = 0; c < n; c += ITEM_COLUMNS) {
        const size_t cols = vp_min(n - c, ITEM_COLUMNS);
        const float *dy = j->dy + first * g->lddy + c;
        if (g->dw != NULL) {
            kernels->transpose(j->chunk.dy + c * j->chunk.stride + first,
                               j->chunk.stride, dy, g->lddy, rows, cols);
        }
        if (g->db != NULL) {
            float *partial = j->chunk.partials + item * n + c;
            memcpy(partial, dy, cols * sizeof(float));
            for (size_t i = 1; i < rows; i++) {
                kernels->add(partial, dy + i * g->lddy, cols);
            }
        }
    }
    if (g->dw != NULL) {
        vp_pack_rows(&j->chunk.x, j->x, g->ldx, first, first + rows);
    }
}

/* dw and db of rows [first, first + rows) */
static void add_rows(job *j, size_t first, size_t rows, void *memory)
{
    const vp_linear_gradient *g = j->gradient;
    const size_t n = g->w->n, items = vp_ceil_div(rows, ITEM_ROWS);
    (void)lay_out(g->w, rows, memory, &j->chunk);
    j->dy = g->dy + first * g->lddy;
    j->x = g->dw != NULL ? g->x + first * g->ldx : NULL;
    vp_parallel_for(j->run->team, items, rows_task, j);
    if (g->db != NULL) {
        float *sum = j->chunk.partials;
        for (size_t item = 1; item < items; item++) {
            j->run->kernels->add(sum, j->chunk.partials + item * n, n);
        }
        j->run->kernels->add(g->db, sum, n);
    }
    if (g->dw != NULL) {
        const vp_gemm gemm = {.m = n,
                              .a = j->chunk.dy,
                              .lda = j->chunk.stride,
                              .w = &j->chunk.x,
                              .finish = {.residual = g->dw,
                                         .residual_stride = g->w->k,
                                         .out = g->dw,
                                         .out_stride = g->w->k}};
        vp_gemm_run(j->run, &gemm);
    }
}

static void flip_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const size_t panels = j->flipped.panels;
    vp_pack_flipped(&j->flipped, j->gradient->w, item / panels, item % panels);
}

static void make_dx(job *j, void *memory)
{
    const vp_linear_gradient *g = j->gradient;
    (void)vp_packed_shape(&j->flipped, g->w->ukr, g->w->k, g->w->n);
    j->flipped.data = memory;
    vp_parallel_for(j->run->team, vp_packed_blocks(&j->flipped) * j->flipped.panels,
                    flip_task, j);
    const vp_gemm gemm = {.m = g->m,
                          .a = g->dy,
                          .lda = g->lddy,
                          .w = &j->flipped,
                          .finish = {.residual = g->add ? g->dx : NULL,
                                     .residual_stride = g->lddx,
                                     .out = g->dx,
                                     .out_stride = g->lddx}};
    vp_gemm_run(j->run, &gemm);
}

void vp_linear_gradient_run(const vp_run *run, const vp_linear_gradient *gradient,
                            void *memory)
{
    job j = {.run = run, .gradient = gradient};
    if (gradient->m == 0) {
        return;
    }
    if (gradient->dw != NULL || gradient->db != NULL) {
        const size_t chunks = vp_ceil_div(gradient->m, CHUNK_ROWS);
        for (size_t i = 0, first = 0; i < chunks; i++) {
            const size_t last = (i + 1) * gradient->m / chunks;
            add_rows(&j, first, last - first, memory);
            first = last;
        }
    }
    if (gradient->dx != NULL) {
        make_dx(&j, memory);
    }
}
