/* What every op of a forward pass gets: threads, kernels and scratch memory.
 *
 * Scratch is planned before the pass (see base/arena.h): each op's *_scratch function says
 * how many floats it needs for each worker, the plan keeps the largest.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_RUN_H
#define VP_GEMM_RUN_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/parallel.h"
#include "gemm/ukr.h"
#include "kernels/kernels.h"

/* How often attention's outer loops ran: work items, and blocks of keys in all of them. */
typedef struct {
    atomic_size_t query_blocks, key_blocks;
} vp_counts;

typedef struct {
    vp_team *team;
    const vp_kernels *kernels;
    const vp_ukr *ukr;
    vp_limits limits;
    vp_counts *counts; /* NULL: nobody counts */
    float *scratch;    /* 64-byte aligned, per_worker floats for each of the team */
    size_t per_worker; /* a multiple of 16 */
} vp_run;

static inline float *vp_run_worker(const vp_run *run, size_t worker)
{
    return run->scratch + worker * run->per_worker;
}

/* The larger of the two, rounded up to whole cache lines. */
static inline void vp_scratch_max(size_t *into, size_t need)
{
    need = (need + 15) / 16 * 16;
    *into = need > *into ? need : *into;
}

/* The distance between rows of a scratch matrix of `cols` columns: whole cache lines, an
 * odd number of them, so that the rows of a strip do not fall into one cache set. */
static inline size_t vp_row_stride(size_t cols)
{
    return ((cols + 15) / 16 | 1) * 16;
}

#endif
