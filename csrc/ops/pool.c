/* One vector from an image's tokens. SPDX-License-Identifier: Apache-2.0 */
#include "ops/pool.h"

#include <math.h>
#include <string.h>

#include "gemm/sum.h"

/* Columns in a work item. */
#define COLUMNS VP_SUM_COLUMNS

typedef struct {
    const vp_run *run;
    vp_reduce reduce;
    size_t tokens, first, n, pieces;
    float *out;
    size_t ldo;
    const float *x;
    size_t ldx, x_image;
} job;

/* max[n] = the greatest of x[0] ... x[rows - 1], rows ldx apart */
static void max_rows(const vp_kernels *kernels, float *max, const float *x, size_t ldx,
                     size_t rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        max[i] = -INFINITY;
    }
    for (size_t t = 0; t < rows; t++) {
        kernels->maximum(max, x + t * ldx, n);
    }
}

static void pool_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_kernels *kernels = j->run->kernels;
    const size_t b = item / j->pieces, c = item % j->pieces * COLUMNS;
    const size_t n = j->n - c < COLUMNS ? j->n - c : COLUMNS;
    const float *x = j->x + b * j->x_image + c;
    float *out = j->out + b * j->ldo + c;
    if (j->reduce == VP_REDUCE_TOKEN) {
        memcpy(out, x, n * sizeof(float));
        return;
    }
    const float *first = x + j->first * j->ldx;
    const size_t rows = j->tokens - j->first;
    if (j->reduce != VP_REDUCE_MAX) {
        vp_sum_rows(kernels, out, first, j->ldx, rows, n);
        for (size_t i = 0; i < n; i++) {
            out[i] /= (float)rows;
        }
    }
    if (j->reduce != VP_REDUCE_AVG) {
        float max[COLUMNS];
        max_rows(kernels, max, first, j->ldx, rows, n);
        if (j->reduce == VP_REDUCE_MAX) {
            memcpy(out, max, n * sizeof(float));
        } else {
            kernels->axpby(out, 0.5f, max, 0.5f, n);
        }
    }
}

void vp_pool_run(const vp_run *run, vp_reduce reduce, size_t batch, size_t tokens,
                 size_t first, size_t n, float *out, size_t ldo, const float *x,
                 size_t ldx, size_t x_image)
{
    job j = {.run = run,
             .reduce = reduce,
             .tokens = tokens,
             .first = first < tokens ? first : tokens,
             .n = n,
             .pieces = (n + COLUMNS - 1) / COLUMNS,
             .out = out,
             .ldo = ldo,
             .x = x,
             .ldx = ldx,
             .x_image = x_image};
    vp_parallel_for(run->team, batch * j.pieces, pool_task, &j);
}

typedef struct {
    const vp_run *run;
    vp_reduce reduce;
    size_t tokens, first, n, pieces;
    float *dx;
    size_t lddx, dx_image;
    const float *dout;
    size_t lddo;
    const float *x;
    size_t ldx, x_image;
} gradient_job;

/* dx[rows][n] = the gradient of the mean, and of the maximum, that reads these rows. */
static void reduction_gradient(const gradient_job *j, float *dx, const float *dout,
                               const float *x, size_t rows, size_t n)
{
    const float part = j->reduce == VP_REDUCE_AVGMAX ? 0.5f : 1.0f;
    float mean[COLUMNS] = {0}, max[COLUMNS], share[COLUMNS] = {0};
    if (j->reduce != VP_REDUCE_MAX) {
        for (size_t i = 0; i < n; i++) {
            mean[i] = part * dout[i] / (float)rows;
        }
        for (size_t t = 0; t < rows; t++) {
            memcpy(dx + t * j->lddx, mean, n * sizeof(float));
        }
    }
    if (j->reduce == VP_REDUCE_AVG) {
        return;
    }
    max_rows(j->run->kernels, max, x, j->ldx, rows, n);
    for (size_t t = 0; t < rows; t++) { /* how many tokens reach it */
        for (size_t i = 0; i < n; i++) {
            share[i] += x[t * j->ldx + i] == max[i] ? 1.0f : 0.0f;
        }
    }
    for (size_t i = 0; i < n; i++) {
        share[i] = part * dout[i] / share[i];
    }
    for (size_t t = 0; t < rows; t++) {
        for (size_t i = 0; i < n; i++) { /* of a maximum that is NaN: NaN, as torch's */
            const float reached = x[t * j->ldx + i] == max[i] ? 1.0f : 0.0f;
            dx[t * j->lddx + i] = mean[i] + share[i] * reached;
        }
    }
}

static void gradient_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const gradient_job *j = ctx;
    const size_t b = item / j->pieces, c = item % j->pieces * COLUMNS;
    const size_t n = vp_min(j->n - c, COLUMNS);
    float *dx = j->dx + b * j->dx_image + c;
    const float *dout = j->dout + b * j->lddo + c;
    const bool token = j->reduce == VP_REDUCE_TOKEN;
    /* the tokens that are read: from `first` to `end` */
    const size_t first = token ? 0 : j->first, end = token ? 1 : j->tokens;
    for (size_t t = 0; t < j->tokens; t++) {
        if (t < first || t >= end) {
            memset(dx + t * j->lddx, 0, n * sizeof(float));
        }
    }
    if (token) {
        memcpy(dx, dout, n * sizeof(float));
    } else if (first < end) {
        const float *x = j->x + b * j->x_image + first * j->ldx + c;
        reduction_gradient(j, dx + first * j->lddx, dout, x, end - first, n);
    }
}

void vp_pool_gradient_run(const vp_run *run, vp_reduce reduce, size_t batch,
                          size_t tokens, size_t first, size_t n, float *dx, size_t lddx,
                          size_t dx_image, const float *dout, size_t lddo,
                          const float *x, size_t ldx, size_t x_image)
{
    gradient_job j = {.run = run,
                      .reduce = reduce,
                      .tokens = tokens,
                      .first = vp_min(first, tokens),
                      .n = n,
                      .pieces = vp_ceil_div(n, COLUMNS),
                      .dx = dx,
                      .lddx = lddx,
                      .dx_image = dx_image,
                      .dout = dout,
                      .lddo = lddo,
                      .x = x,
                      .ldx = ldx,
                      .x_image = x_image};
    vp_parallel_for(run->team, batch * j.pieces, gradient_task, &j);
}
