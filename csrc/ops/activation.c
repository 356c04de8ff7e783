/* An activation by itself. SPDX-License-Identifier: Apache-2.0 */
#include "ops/activation.h"

/* Rows a work item has: some microseconds of work. */
#define ROWS ((size_t)8)

typedef struct {
    const vp_run *run;
    vp_act act;
    size_t m, n;
    float *h;
    size_t ldh;
    const float *v, *g;
    size_t ldv;
} job;

static void act_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const size_t first = item * ROWS, at = first * j->ldv;
    const vp_finish how = {.act = j->act,
                           .gate = j->g != NULL ? j->g + at : NULL,
                           .gate_stride = j->ldv,
                           .out = j->h + first * j->ldh,
                           .out_stride = j->ldh};
    j->run->kernels->finish(j->v + at, j->ldv, vp_min(j->m - first, ROWS), j->n, &how);
}

void vp_act_run(const vp_run *run, vp_act act, size_t m, size_t n, float *h, size_t ldh,
                const float *v, const float *g, size_t ldv)
{
    job j = {run, act, m, n, h, ldh, v, g, ldv};
    vp_parallel_for(run->team, vp_ceil_div(m, ROWS), act_task, &j);
}

typedef struct {
    const vp_run *run;
    vp_act act;
    size_t m, n;
    float *dv, *dg;
    size_t lddv;
    const float *dh;
    size_t lddh;
    const float *v, *g;
    size_t ldv;
} gradient_job;

static void gradient_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const gradient_job *j = ctx;
    const vp_kernels *kernels = j->run->kernels;
    const size_t end = vp_min((item + 1) * ROWS, j->m);
    for (size_t i = item * ROWS; i < end; i++) {
        float *dv = j->dv + i * j->lddv;
        const float *dh = j->dh + i * j->lddh, *v = j->v + i * j->ldv;
        if (j->g != NULL) {
            kernels->gate_backward(dv, j->dg + i * j->lddv, dh, v, j->g + i * j->ldv,
                                   j->n, j->act);
        } else {
            kernels->act_backward(dv, dh, v, j->n, j->act);
        }
    }
}

void vp_act_gradient_run(const vp_run *run, vp_act act, size_t m, size_t n, float *dv,
                         float *dg, size_t lddv, const float *dh, size_t lddh,
                         const float *v, const float *g, size_t ldv)
{
    gradient_job j = {run, act, m, n, dv, dg, lddv, dh, lddh, v, g, ldv};
    vp_parallel_for(run->team, vp_ceil_div(m, ROWS), gradient_task, &j);
}
