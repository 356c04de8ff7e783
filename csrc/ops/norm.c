/* LayerNorm and RMSNorm over rows. SPDX-License-Identifier: Apache-2.0 */
#include "ops/norm.h"

#include <string.h>

#include "gemm/sum.h"

/* Rows a work item has: some microseconds of work. */
#define ROWS ((size_t)16)

typedef struct {
    const vp_run *run;
    const vp_norm_op *norm;
    size_t m, heads, n;
    float *y;
    size_t ldy;
    const float *x;
    size_t ldx;
} job;

static void norm_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_norm_op *norm = j->norm;
    const vp_kernels *kernels = j->run->kernels;
    const size_t end = (item + 1) * ROWS < j->m ? (item + 1) * ROWS : j->m;
    for (size_t i = item * ROWS; i < end; i++) {
        for (size_t h = 0; h < j->heads; h++) {
            float *y = j->y + i * j->ldy + h * j->n;
            const float *x = j->x + i * j->ldx + h * j->n;
            switch (norm->kind) {
            case VP_NORM_LAYER:
                kernels->layer_norm(y, x, norm->weight, norm->bias, j->n, norm->eps);
                break;
            case VP_NORM_RMS:
                kernels->rms_norm(y, x, norm->weight, j->n, norm->eps);
                break;
            case VP_NORM_NONE:
                if (y != x) {
                    memcpy(y, x, j->n * sizeof(float));
                }
                break;
            }
        }
    }
}

void vp_norm_run(const vp_run *run, const vp_norm_op *norm, size_t m, size_t heads,
                 size_t n, float *y, size_t ldy, const float *x, size_t ldx)
{
    job j = {run, norm, m, heads, n, y, ldy, x, ldx};
    vp_parallel_for(run->team, (m + ROWS - 1) / ROWS, norm_task, &j);
}

/* Vectors whose dw and db are summed one after another, in a partial sum of their own: the
 * order of a sum depends on their number alone. */
#define CHAIN ((size_t)32)

/* The rows of one partial sum, and of one work item. */
static size_t gradient_rows(size_t heads)
{
    return vp_max(CHAIN / vp_max(heads, 1), 1);
}

typedef struct {
    const vp_run *run;
    const vp_norm_op *norm;
    size_t m, heads, n, rows;
    float *dx;
    size_t lddx;
    bool add;
    const float *dy;
    size_t lddy;
    const float *x;
    size_t ldx;
    bool dw, db;    /* wanted? */
    float *partial; /* [blocks][2][n]: dw, db */
} gradient_job;

static void vector_gradient(const gradient_job *j, float *dx, const float *dy,
                            const float *x, float *dw, float *db)
{
    const vp_kernels *kernels = j->run->kernels;
    const vp_norm_op *norm = j->norm;
    switch (norm->kind) {
    case VP_NORM_LAYER:
        kernels->layer_norm_backward(dx, dy, x, norm->weight, dw, db, j->n, norm->eps,
                                     j->add);
        break;
    case VP_NORM_RMS:
        kernels->rms_norm_backward(dx, dy, x, norm->weight, dw, j->n, norm->eps,
                                   j->add);
        break;
    case VP_NORM_NONE:
        if (j->add) {
            kernels->add(dx, dy, j->n);
        } else if (dx != dy) {
            memcpy(dx, dy, j->n * sizeof(float));
        }
        break;
    }
}

static void gradient_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const gradient_job *j = ctx;
    float *sums = j->partial + item * 2 * j->n;
    float *dw = j->dw ? sums : NULL, *db = j->db ? sums + j->n : NULL;
    if (dw != NULL || db != NULL) {
        memset(sums, 0, 2 * j->n * sizeof(float));
    }
    const size_t end = vp_min((item + 1) * j->rows, j->m);
    for (size_t i = item * j->rows; i < end; i++) {
        for (size_t h = 0; h < j->heads; h++) {
            const size_t at = h * j->n;
            vector_gradient(j, j->dx + i * j->lddx + at, j->dy + i * j->lddy + at,
                            j->x + i * j->ldx + at, dw, db);
        }
    }
}

size_t vp_norm_gradient_floats(size_t m, size_t heads, size_t n)
{
    return vp_ceil_div(m, gradient_rows(heads)) * 2 * n;
}

void vp_norm_gradient_run(const vp_run *run, const vp_norm_op *norm, size_t m,
                          size_t heads, size_t n, float *dx, size_t lddx, bool add,
                          const float *dy, size_t lddy, const float *x, size_t ldx,
                          float *dw, float *db, float *partial)
{
    gradient_job j = {.run = run,
                      .norm = norm,
                      .m = m,
                      .heads = heads,
                      .n = n,
                      .rows = gradient_rows(heads),
                      .dx = dx,
                      .lddx = lddx,
                      .add = add,
                      .dy = dy,
                      .lddy = lddy,
                      .x = x,
                      .ldx = ldx,
                      .dw = dw != NULL && norm->kind != VP_NORM_NONE,
                      .db = db != NULL && norm->kind == VP_NORM_LAYER,
                      .partial = partial};
    const size_t blocks = vp_ceil_div(m, j.rows);
    vp_parallel_for(run->team, blocks, gradient_task, &j);
    if (j.dw) {
        vp_sum_rows_run(run, dw, partial, 2 * n, blocks, n);
    }
    if (j.db) {
        vp_sum_rows_run(run, db, partial + n, 2 * n, blocks, n);
    }
}
