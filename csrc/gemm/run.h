/* What every op of a forward pass gets: threads, kernels and scratch memory.
 *
 * Scratch is planned before the pass (see base/arena.h): each op's *_scratch function says
 * how much it needs, the plan keeps the largest. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_RUN_H
#define VP_GEMM_RUN_H

#include <stddef.h>

#include "base/parallel.h"
#include "gemm/ukr.h"
#include "kernels/kernels.h"

/* Floats that an op needs: once for all workers, and once for each worker. */
typedef struct {
    size_t shared, worker;
} vp_scratch;

typedef struct {
    vp_team *team;
    const vp_kernels *kernels;
    const vp_ukr *ukr;
    vp_scratch have;
    float *shared; /* have.shared floats, 64-byte aligned */
    float *worker; /* team->workers times have.worker floats */
} vp_run;

static inline float *vp_run_worker(const vp_run *run, size_t worker)
{
    return run->worker + worker * run->have.worker;
}

/* The larger of each part, rounded up to whole cache lines. */
static inline void vp_scratch_max(vp_scratch *into, vp_scratch need)
{
    need.shared = (need.shared + 15) / 16 * 16;
    need.worker = (need.worker + 15) / 16 * 16;
    into->shared = need.shared > into->shared ? need.shared : into->shared;
    into->worker = need.worker > into->worker ? need.worker : into->worker;
}

/* The distance between rows of a scratch matrix of `cols` columns: whole cache lines, an
 * odd number of them, so that the rows of a strip do not fall into one cache set. */
static inline size_t vp_row_stride(size_t cols)
{
    return ((cols + 15) / 16 | 1) * 16;
}

#endif
