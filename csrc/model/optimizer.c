/* Steps of optimizers. SPDX-License-Identifier: Apache-2.0 */
#include "model/optimizer.h"

#include <math.h>

#include "base/parallel.h"
#include "base/sizes.h"
#include "kernels/kernels.h"

/* Numbers of a work item of a step: some 10 microseconds of memory. */
#define ITEM ((size_t)16384)
/* Partial sums of a sum of squares, at most, and the fewest numbers one has. */
#define PARTS ((size_t)256)
#define PART ((size_t)4096)
/* Sums that run side by side in one. */
#define LANES ((size_t)8)

static void for_each(size_t items, vp_task task, void *ctx)
{
    vp_team team;
    (void)vp_team_open(&team);
    vp_parallel_for(&team, items, task, ctx);
    vp_team_close(&team);
}

typedef struct {
    const vp_kernels *kernels;
    float *w, *m, *v; /* m: SGD's buf */
    const float *g;
    size_t n;
    vp_adamw adamw;
    vp_sgd sgd;
} job;

static void adamw_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const size_t i = item * ITEM;
    j->kernels->adamw(j->w + i, j->m + i, j->v + i, j->g + i, vp_min(j->n - i, ITEM),
                      &j->adamw);
}

void vp_adamw_step(float *w, float *m, float *v, const float *g, size_t n,
                   const vp_adamw_options *o)
{
    const double corrected1 = 1.0 - pow(o->beta1, o->step);
    const double corrected2 = 1.0 - pow(o->beta2, o->step);
    job j = {.kernels = vp_kernels_get(), .w = w, .m = m, .v = v, .g = g, .n = n};
    j.adamw = (vp_adamw){.rest1 = (float)(1.0 - o->beta1),
                         .beta2 = (float)o->beta2,
                         .rest2 = (float)(1.0 - o->beta2),
                         .decay = (float)(o->lr * o->weight_decay),
                         .step = (float)(o->lr / corrected1),
                         .root = (float)(1.0 / sqrt(corrected2)),
                         .eps = (float)o->eps};
    for_each(vp_ceil_div(n, ITEM), adamw_task, &j);
}

static void sgd_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const size_t i = item * ITEM;
    j->kernels->sgd(j->w + i, j->m + i, j->g + i, vp_min(j->n - i, ITEM), &j->sgd);
}

static void sgd_step(float *w, float *buf, const float *g, size_t n,
                     const vp_sgd_options *o, double decay, double scale, bool nesterov)
{
    job j = {.kernels = vp_kernels_get(), .w = w, .m = buf, .g = g, .n = n};
    j.sgd = (vp_sgd){.lr = (float)o->lr,
                     .momentum = (float)o->momentum,
                     .decay = (float)decay,
                     .scale = (float)scale,
                     .nesterov = nesterov};
    for_each(vp_ceil_div(n, ITEM), sgd_task, &j);
}

void vp_sgd_step(float *w, float *buf, const float *g, size_t n,
                 const vp_sgd_options *o)
{
    sgd_step(w, buf, g, n, o, o->weight_decay, 1.0, o->nesterov);
}

/* The squares of g + decay w; w is NULL where decay is 0. */
typedef struct {
    const float *g, *w;
    double decay;
    size_t n, part;
    double sums[PARTS];
} squares;

static void squares_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    squares *s = ctx;
    const size_t first = item * s->part, n = vp_min(s->n - first, s->part);
    const float *g = s->g + first, *w = s->w != NULL ? s->w + first : NULL;
    double sums[LANES] = {0.0};
    for (size_t i = 0; i < n; i += LANES) {
        const size_t lanes = vp_min(n - i, LANES);
        for (size_t lane = 0; lane < lanes; lane++) {
            const double x =
                g[i + lane] + (w != NULL ? s->decay * (double)w[i + lane] : 0.0);
            sums[lane] += x * x;
        }
    }
    s->sums[item] = 0.0;
    for (size_t lane = 0; lane < LANES; lane++) {
        s->sums[item] += sums[lane];
    }
}

static double sum_of_squares(const float *g, const float *w, double decay, size_t n)
{
    squares s = {.g = g, .w = decay != 0.0 ? w : NULL, .decay = decay, .n = n};
    s.part = vp_max(vp_ceil_div(n, PARTS), PART);
    const size_t parts = vp_ceil_div(n, s.part);
    for_each(parts, squares_task, &s);
    double sum = 0.0;
    for (size_t i = 0; i < parts; i++) {
        sum += s.sums[i];
    }
    return sum;
}

double vp_squares(const float *g, size_t n)
{
    return sum_of_squares(g, NULL, 0.0, n);
}

void vp_lars_step(float *w, float *buf, const float *g, size_t n,
                  const vp_sgd_options *o)
{
    if (o->trust == 0.0) {
        sgd_step(w, buf, g, n, o, 0.0, 1.0, false);
        return;
    }
    const double weights = sqrt(vp_squares(w, n));
    const double updates = sqrt(sum_of_squares(g, w, o->weight_decay, n));
    const double ratio =
        weights > 0.0 && updates > 0.0 ? o->trust * weights / updates : 1.0;
    sgd_step(w, buf, g, n, o, o->weight_decay, ratio, false);
}
