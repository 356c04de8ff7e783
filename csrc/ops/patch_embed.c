/* Cuts images into patches. SPDX-License-Identifier: Apache-2.0 */
#include "ops/patch_embed.h"

#include <string.h>

typedef struct {
    const vp_patch_grid *grid;
    float *rows;
    size_t ldr;
    const float *images;
} job;

/* One row of patches of one image. */
static void patch_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_patch_grid *g = j->grid;
    const size_t b = item / g->grid_h, gy = item % g->grid_h;
    for (size_t c = 0; c < g->channels; c++) {
        for (size_t py = 0; py < g->patch_h; py++) {
            const size_t y = gy * g->patch_h + py;
            const float *line =
                j->images + ((b * g->channels + c) * g->height + y) * g->width;
            for (size_t gx = 0; gx < g->grid_w; gx++) {
                float *to = j->rows + (item * g->grid_w + gx) * j->ldr +
                            (c * g->patch_h + py) * g->patch_w;
                const size_t x = gx * g->patch_w;
                size_t have = y < g->height && x < g->width ? g->width - x : 0;
                have = have < g->patch_w ? have : g->patch_w;
                if (have > 0) {
                    memcpy(to, line + x, have * sizeof(float));
                }
                if (have < g->patch_w) {
                    memset(to + have, 0, (g->patch_w - have) * sizeof(float));
                }
            }
        }
    }
}

void vp_patch_rows(const vp_run *run, const vp_patch_grid *grid, size_t batch,
                   float *rows, size_t ldr, const float *images)
{
    job j = {grid, rows, ldr, images};
    vp_parallel_for(run->team, batch * grid->grid_h, patch_task, &j);
}
