/* Rotary position embedding. SPDX-License-Identifier: Apache-2.0 */
#include "ops/rope.h"

#include <math.h>

/* Rows a work item has: a microsecond or more of work. */
#define ROWS ((size_t)16)

typedef struct {
    const vp_run *run;
    const vp_rope *rope;
    int inverse;
    float *x;
    size_t ldx;
} job;

static void rope_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_rope *rope = j->rope;
    const size_t patches = rope->tokens - rope->prefix;
    const size_t end = vp_min((item + 1) * ROWS, rope->batch * patches);
    for (size_t i = item * ROWS; i < end; i++) {
        const size_t token = i % patches;
        float *x = j->x + (i / patches * rope->tokens + rope->prefix + token) * j->ldx;
        j->run->kernels->rotate(x, rope->heads, rope->width,
                                rope->table + token * 2 * rope->width, rope->table_head,
                                rope->half, j->inverse);
    }
}

void vp_rope_run(const vp_run *run, const vp_rope *rope, bool inverse, float *x,
                 size_t ldx)
{
    job j = {run, rope, inverse, x, ldx};
    const size_t rows = rope->batch * (rope->tokens - rope->prefix);
    vp_parallel_for(run->team, vp_ceil_div(rows, ROWS), rope_task, &j);
}

/* -- tables -- */

/* a b, rounded once: the compiler would make one operation of a product and a sum. */
static float product(float a, float b)
{
    return (float)((double)a * (double)b);
}

/* The coordinate of place i of an axis of n: timm.layers.pos_embed_sincos._build_grid. */
static float coordinate(const vp_rope_of *of, size_t i, size_t n, size_t ref)
{
    if (of->kind == VP_ROPE_TABLE_DINOV3) {
        const float centre = (float)i + 0.5f;
        return 2.0f * ((centre + of->grid_offset) / (float)n) - 1.0f;
    }
    if (of->kind == VP_ROPE_TABLE_MIXED) {
        return (float)i;
    }
    const float at = (float)i + of->grid_offset;
    return ref > 0 ? at / (float)n * (float)ref : at;
}

/* The angle of frequency j, of width / 2, at coordinates (a, b) of the first and the second
 * axis: the bands of the one, then those of the other; or of the two mixed. */
static float angle(const vp_rope_of *of, size_t j, float a, float b)
{
    const float two_pi = (float)6.283185307179586477, t = of->temperature;
    const size_t bands = of->width / 4;
    const float at = j < bands ? a : b;
    const float band = (float)(j % bands);
    switch (of->kind) {
    case VP_ROPE_TABLE_MIXED:
        return product(a, of->freqs[j]) + product(b, of->freqs[of->freqs_axis + j]);
    case VP_ROPE_TABLE_DINOV3: {
        const float exponent = 2.0f * band / (float)(of->width / 2);
        const float period = (float)pow((double)t, (double)exponent);
        return two_pi * at / period;
    }
    case VP_ROPE_TABLE_CAT:
        break;
    }
    const float exponent = band / (float)bands;
    return at * (1.0f / (float)pow((double)t, (double)exponent));
}

/* The row of one place, at coordinates (a, b). */
static void table_row(const vp_rope_of *of, float a, float b, float *row)
{
    const size_t d = of->width;
    float *cosines = row, *sines = row + d;
    for (size_t j = 0; j < d / 2; j++) {
        const double turn = (double)angle(of, j, a, b);
        const size_t first = of->half ? j : 2 * j;
        const size_t second = of->half ? j + d / 2 : 2 * j + 1;
        cosines[first] = cosines[second] = (float)cos(turn);
        sines[second] = (float)sin(turn);
        sines[first] = -sines[second];
    }
}

void vp_rope_table(const vp_rope_of *of, const size_t grid[2], float *table)
{
    for (size_t y = 0; y < grid[0]; y++) {
        const float at_y = coordinate(of, y, grid[0], of->ref[0]);
        for (size_t x = 0; x < grid[1]; x++) {
            const float at_x = coordinate(of, x, grid[1], of->ref[1]);
            table_row(of, of->xy ? at_x : at_y, of->xy ? at_y : at_x,
                      table + (y * grid[1] + x) * 2 * of->width);
        }
    }
}
