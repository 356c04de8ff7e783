/* One vector from an image's tokens. SPDX-License-Identifier: Apache-2.0 */
#include "ops/pool.h"

#include <math.h>
#include <string.h>

/* Tokens are summed in runs of this many, then the runs: rounding errors grow with the
 * length of a chain, and a picture may have thousands of tokens. */
#define RUN ((size_t)32)
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

static void pool_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_kernels *kernels = j->run->kernels;
    const size_t b = item / j->pieces, c = item % j->pieces * COLUMNS;
    const size_t n = j->n - c < COLUMNS ? j->n - c : COLUMNS;
    const float *x = j->x + b * j->x_image + c;
    float *out = j->out + b * j->ldo + c;
    float sum[COLUMNS], part[COLUMNS], max[COLUMNS];
    if (j->reduce == VP_REDUCE_TOKEN) {
        memcpy(out, x, n * sizeof(float));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        sum[i] = part[i] = 0.0f;
        max[i] = -INFINITY;
    }
    for (size_t t = j->first; t < j->tokens; t++) {
        if (j->reduce != VP_REDUCE_MAX) {
            kernels->add(part, x + t * j->ldx, n);
            if ((t - j->first) % RUN == RUN - 1 || t + 1 == j->tokens) {
                kernels->add(sum, part, n);
                memset(part, 0, n * sizeof *part);
            }
        }
        if (j->reduce != VP_REDUCE_AVG) {
            kernels->maximum(max, x + t * j->ldx, n);
        }
    }
    const float each = 1.0f / (float)(j->tokens - j->first);
    if (j->reduce == VP_REDUCE_AVG) {
        kernels->axpby(out, each, sum, 0.0f, n);
    } else if (j->reduce == VP_REDUCE_MAX) {
        memcpy(out, max, n * sizeof(float));
    } else {
        kernels->axpby(max, 0.5f * each, sum, 0.5f, n);
        memcpy(out, max, n * sizeof(float));
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
