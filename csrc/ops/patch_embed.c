/* Cuts images into patches. SPDX-License-Identifier: Apache-2.0 */
#include "ops/patch_embed.h"

#include <string.h>

typedef struct {
    const vp_patch_grid *grid;
    float *rows;
    size_t ldr;
    const float *images;
} job;

/* One line of a patch, of which `have` pixels lie in the image: side by side, or `step` floats
 * apart where channels are last. */
static void put_line(float *to, size_t step, const float *line, size_t have,
                     size_t count)
{
    if (step > 1) {
        for (size_t i = 0; i < count; i++) {
            to[i * step] = i < have ? line[i] : 0.0f;
        }
        return;
    }
    if (have > 0) {
        memcpy(to, line, have * sizeof(float));
    }
    if (have < count) {
        memset(to + have, 0, (count - have) * sizeof(float));
    }
}

/* One row of patches of one image. */
static void patch_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_patch_grid *g = j->grid;
    const size_t b = item / g->grid_h, gy = item % g->grid_h;
    const size_t step = g->channels_last ? g->channels : 1;
    for (size_t c = 0; c < g->channels; c++) {
        for (size_t py = 0; py < g->patch_h; py++) {
            const size_t y = gy * g->patch_h + py;
            const float *line =
                j->images + ((b * g->channels + c) * g->height + y) * g->width;
            for (size_t gx = 0; gx < g->grid_w; gx++) {
                const size_t at = g->channels_last ? py * g->patch_w * g->channels + c
                                                   : (c * g->patch_h + py) * g->patch_w;
                const size_t x = gx * g->patch_w;
                size_t have = y < g->height && x < g->width ? g->width - x : 0;
                have = have < g->patch_w ? have : g->patch_w;
                put_line(j->rows + (item * g->grid_w + gx) * j->ldr + at, step,
                         have > 0 ? line + x : NULL, have, g->patch_w);
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

typedef struct {
    size_t width, ldr;
    float *rows;
    const float *patches;
} copy_job;

static void copy_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const copy_job *j = ctx;
    memcpy(j->rows + item * j->ldr, j->patches + item * j->width,
           j->width * sizeof(float));
}

void vp_patch_rows_copy(const vp_run *run, size_t count, size_t width, float *rows,
                        size_t ldr, const float *patches)
{
    copy_job j = {width, ldr, rows, patches};
    vp_parallel_for(run->team, count, copy_task, &j);
}
