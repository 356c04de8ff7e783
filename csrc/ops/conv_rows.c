/* From a convolution's output to the rows of the next. SPDX-License-Identifier: Apache-2.0 */
#include "ops/conv_rows.h"

typedef struct {
    const vp_run *run;
    const vp_conv_rows *how;
    float *rows;
    size_t ldr;
    float *x;
    size_t ldx;
} job;

/* One row of patches. A pixel belongs to one patch alone, so x is finished in place. */
static void rows_task(void *ctx, size_t gy, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_conv_rows *how = j->how;
    const vp_kernels *kernels = j->run->kernels;
    const size_t k = how->kernel, across = k * how->grid_w;
    for (size_t ky = 0; ky < k; ky++) {
        float *line = j->x + (gy * k + ky) * across * j->ldx;
        const vp_finish finish = {
            .bias = how->shift, .act = how->act, .out = line, .out_stride = j->ldx};
        kernels->finish(line, j->ldx, across, how->width, &finish);
        for (size_t gx = 0; gx < how->grid_w; gx++) {
            float *row = j->rows + (gy * how->grid_w + gx) * j->ldr;
            kernels->transpose(row + ky * k, k * k, line + gx * k * j->ldx, j->ldx, k,
                               how->width);
        }
    }
}

void vp_conv_rows_run(const vp_run *run, const vp_conv_rows *how, float *rows,
                      size_t ldr, float *x, size_t ldx)
{
    job j = {run, how, rows, ldr, x, ldx};
    vp_parallel_for(run->team, how->grid_h, rows_task, &j);
}
