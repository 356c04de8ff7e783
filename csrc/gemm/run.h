/* What every op of a forward pass gets: threads, kernels and scratch memory.
 *
 * Scratch is planned before the pass (see base/arena.h): each op's *_scratch function says
 * how many bytes it needs for each worker, the plan keeps the largest.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_RUN_H
#define VP_GEMM_RUN_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/parallel.h"
#include "kernels/kernels.h"
#include "ukernels/ukr.h"

/* How often attention's outer loops ran: work items, and blocks of keys in all of them. */
typedef struct {
    atomic_size_t query_blocks, key_blocks;
} vp_counts;

typedef struct {
    vp_team *team;
    const vp_kernels *kernels;
    const vp_ukr *ukr; /* of products without a packed weight: attention's */
    vp_limits limits;
    vp_counts *counts; /* NULL: nobody counts */
    void *scratch;     /* 64-byte aligned, per_worker bytes for each of the team */
    size_t per_worker; /* a multiple of 64 */
    void *
        operand; /* 64-byte aligned: see gemm/operand.h; NULL where no weight needs it */
    size_t operand_bytes;
} vp_run;

static inline void *vp_run_worker(const vp_run *run, size_t worker)
{
    return (char *)run->scratch + worker * run->per_worker;
}

/* The larger of the two, rounded up to whole cache lines. */
static inline void vp_scratch_max(size_t *into, size_t need)
{
    *into = vp_max(*into, vp_round_up(need, VP_ALIGN));
}

/* The distance between rows of a scratch matrix of `cols` columns: whole cache lines, an
 * odd number of them, so that the rows of a strip do not fall into one cache set. */
static inline size_t vp_row_stride(size_t cols)
{
    const size_t line = VP_ALIGN / sizeof(float);
    return (vp_ceil_div(cols, line) | 1) * line;
}

#endif
