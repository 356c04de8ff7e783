/* LayerNorm and RMSNorm over rows. SPDX-License-Identifier: Apache-2.0 */
#include "ops/norm.h"

#include <string.h>

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
