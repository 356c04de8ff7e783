/* One vector from an image's tokens. SPDX-License-Identifier: Apache-2.0 */
#include "ops/pool.h"

#include <math.h>
#include <string.h>

/* Tokens that are summed one after another. Sums of more are added in pairs: rounding
 * errors grow with the length of a chain, and a picture may have thousands of tokens. */
#define RUN ((size_t)16)
/* Columns in a work item: its sums stay in L1 while the tokens pass by. */
#define COLUMNS ((size_t)256)

typedef struct {
    const vp_run *run;
    vp_reduce reduce;
    size_t tokens, first, n, pieces;
    float *out;
    size_t ldo;
    const float *x;
    size_t ldx, x_image;
} job;

/* sum[n] = x[0] + ... + x[rows - 1], rows ldx apart */
static void sum_rows(const vp_kernels *kernels, float *sum, const float *x, size_t ldx,
                     size_t rows, size_t n)
{
    if (rows <= RUN) {
        memset(sum, 0, n * sizeof(float));
        for (size_t i = 0; i < rows; i++) {
            kernels->add(sum, x + i * ldx, n);
        }
        return;
    }
    float rest[COLUMNS];
    const size_t half = (rows / RUN + 1) / 2 * RUN;
    sum_rows(kernels, sum, x, ldx, half, n);
    sum_rows(kernels, rest, x + half * ldx, ldx, rows - half, n);
    kernels->add(sum, rest, n);
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
        sum_rows(kernels, out, first, j->ldx, rows, n);
        for (size_t i = 0; i < n; i++) {
            out[i] /= (float)rows;
        }
    }
    if (j->reduce != VP_REDUCE_AVG) {
        float max[COLUMNS];
        for (size_t i = 0; i < n; i++) {
            max[i] = -INFINITY;
        }
        for (size_t t = 0; t < rows; t++) {
            kernels->maximum(max, first + t * j->ldx, n);
        }
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
