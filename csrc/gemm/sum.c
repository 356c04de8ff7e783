/* Sums over rows. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/sum.h"

#include <string.h>

/* Rows that are summed one after another. */
#define CHAIN ((size_t)16)

void vp_sum_rows(const vp_kernels *kernels, float *sum, const float *x, size_t ldx,
                 size_t rows, size_t n)
{
    if (rows <= CHAIN) {
        memset(sum, 0, n * sizeof(float));
        for (size_t i = 0; i < rows; i++) {
            kernels->add(sum, x + i * ldx, n);
        }
        return;
    }
    float rest[VP_SUM_COLUMNS];
    const size_t half = (rows / CHAIN + 1) / 2 * CHAIN;
    vp_sum_rows(kernels, sum, x, ldx, half, n);
    vp_sum_rows(kernels, rest, x + half * ldx, ldx, rows - half, n);
    kernels->add(sum, rest, n);
}

typedef struct {
    const vp_kernels *kernels;
    float *sum;
    const float *x;
    size_t ldx, rows, n;
} job;

static void sum_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const size_t c = item * VP_SUM_COLUMNS, n = vp_min(j->n - c, VP_SUM_COLUMNS);
    float sum[VP_SUM_COLUMNS];
    vp_sum_rows(j->kernels, sum, j->x + c, j->ldx, j->rows, n);
    j->kernels->add(j->sum + c, sum, n);
}

void vp_sum_rows_run(const vp_run *run, float *sum, const float *x, size_t ldx,
                     size_t rows, size_t n)
{
    job j = {run->kernels, sum, x, ldx, rows, n};
    vp_parallel_for(run->team, vp_ceil_div(n, VP_SUM_COLUMNS), sum_task, &j);
}
