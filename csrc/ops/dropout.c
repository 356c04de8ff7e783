/* Dropout and stochastic depth. SPDX-License-Identifier: Apache-2.0 */
#include "ops/dropout.h"

#include <string.h>

#include "gemm/sum.h"

/* Rows a work item has, and a partial sum of dgamma. */
#define ROWS ((size_t)32)
/* Columns of a row at a time: what lies between two kernels stays in L1. */
#define COLUMNS ((size_t)256)

/* y[n] = dropout(x), numbers `column`... of a token's row of `width`. */
static void drop_piece(const vp_kernels *kernels, const vp_drop *drop, size_t row,
                       size_t tokens, size_t width, size_t column, size_t n, float *y,
                       const float *x)
{
    if (drop->rate > 0.0f) {
        const size_t first = row % tokens * width + column;
        kernels->drop(y, x, n, vp_drop_key(drop, row / tokens), (uint32_t)first,
                      drop->rate);
    } else if (y != x) {
        memcpy(y, x, n * sizeof(float));
    }
}

/* What stochastic depth multiplies the branch of a row's image by: 0 where it is dropped. */
static float path_scale(const vp_drop *path, size_t row, size_t tokens)
{
    float scale = 1.0f;
    if (path->rate > 0.0f) {
        const uint32_t bits = vp_drop_bits(vp_drop_key(path, row / tokens), 0);
        scale = bits < vp_drop_limit(path->rate)
                    ? 0.0f
                    : (float)(1.0 / (1.0 - (double)path->rate));
    }
    return scale;
}

typedef struct {
    const vp_run *run;
    const vp_drop *drop;
    size_t rows, tokens, n;
    float *y;
    size_t ldy;
    const float *x;
    size_t ldx;
} job;

static void dropout_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const size_t end = vp_min((item + 1) * ROWS, j->rows);
    for (size_t i = item * ROWS; i < end; i++) {
        drop_piece(j->run->kernels, j->drop, i, j->tokens, j->n, 0, j->n,
                   j->y + i * j->ldy, j->x + i * j->ldx);
    }
}

void vp_dropout_run(const vp_run *run, const vp_drop *drop, size_t batch, size_t tokens,
                    size_t n, float *y, size_t ldy, const float *x, size_t ldx)
{
    job j = {run, drop, batch * tokens, tokens, n, y, ldy, x, ldx};
    vp_parallel_for(run->team, vp_ceil_div(j.rows, ROWS), dropout_task, &j);
}

typedef struct {
    const vp_run *run;
    const vp_branch *branch;
    size_t rows, tokens, n;
    float *out;
    size_t ldo;
    const float *x;
    size_t ldx;
    const float *z;
    size_t ldz;
} branch_job;

static void branch_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const branch_job *j = ctx;
    const vp_branch *branch = j->branch;
    const vp_kernels *kernels = j->run->kernels;
    const size_t end = vp_min((item + 1) * ROWS, j->rows);
    for (size_t i = item * ROWS; i < end; i++) {
        const float scale = path_scale(&branch->path, i, j->tokens);
        for (size_t c = 0; c < j->n; c += COLUMNS) {
            const size_t n = vp_min(j->n - c, COLUMNS);
            const float *x = j->x + i * j->ldx + c;
            float *out = j->out + i * j->ldo + c, piece[COLUMNS];
            if (scale == 0.0f) {
                memmove(out, x, n * sizeof(float));
                continue;
            }
            drop_piece(kernels, &branch->drop, i, j->tokens, j->n, c, n, piece,
                       j->z + i * j->ldz + c);
            if (scale != 1.0f) {
                kernels->axpby(piece, scale, piece, 0.0f, n);
            }
            const float *gamma = branch->gamma != NULL ? branch->gamma + c : NULL;
            const vp_finish how = {
                .scale = gamma, .residual = x, .residual_stride = n, .out = out};
            kernels->finish(piece, n, 1, n, &how);
        }
    }
}

void vp_branch_run(const vp_run *run, const vp_branch *branch, size_t batch,
                   size_t tokens, size_t n, float *out, size_t ldo, const float *x,
                   size_t ldx, const float *z, size_t ldz)
{
    branch_job j = {run, branch, batch * tokens, tokens, n, out, ldo, x, ldx, z, ldz};
    vp_parallel_for(run->team, vp_ceil_div(j.rows, ROWS), branch_task, &j);
}

typedef struct {
    const vp_run *run;
    const vp_branch *branch;
    size_t rows, tokens, n;
    float *dz;
    size_t lddz;
    const float *dout;
    size_t lddo;
    const float *z;
    size_t ldz;
    float *partial; /* [blocks][n]; NULL: no dgamma */
} branch_gradient_job;

/* Columns c to c + n of row i. */
static void branch_gradient_piece(const branch_gradient_job *j, size_t i, size_t c,
                                  size_t n, float scale, float *sums)
{
    const vp_branch *branch = j->branch;
    const vp_kernels *kernels = j->run->kernels;
    float *dz = j->dz + i * j->lddz + c, path[COLUMNS], piece[COLUMNS];
    kernels->axpby(path, scale, j->dout + i * j->lddo + c, 0.0f, n);
    if (sums != NULL) { /* sums += path(dout) drop(z) */
        drop_piece(kernels, &branch->drop, i, j->tokens, j->n, c, n, piece,
                   j->z + i * j->ldz + c);
        const vp_finish how = {.scale = path, .residual = sums + c, .out = sums + c};
        kernels->finish(piece, n, 1, n, &how);
    }
    if (branch->gamma != NULL) {
        const vp_finish how = {.scale = branch->gamma + c, .out = path};
        kernels->finish(path, n, 1, n, &how);
    }
    drop_piece(kernels, &branch->drop, i, j->tokens, j->n, c, n, dz, path);
}

static void branch_gradient_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const branch_gradient_job *j = ctx;
    float *sums = j->partial != NULL ? j->partial + item * j->n : NULL;
    if (sums != NULL) {
        memset(sums, 0, j->n * sizeof(float));
    }
    const size_t end = vp_min((item + 1) * ROWS, j->rows);
    for (size_t i = item * ROWS; i < end; i++) {
        const float scale = path_scale(&j->branch->path, i, j->tokens);
        if (scale == 0.0f) {
            memset(j->dz + i * j->lddz, 0, j->n * sizeof(float));
            continue;
        }
        for (size_t c = 0; c < j->n; c += COLUMNS) {
            branch_gradient_piece(j, i, c, vp_min(j->n - c, COLUMNS), scale, sums);
        }
    }
}

size_t vp_branch_gradient_floats(size_t batch, size_t tokens, size_t n)
{
    return vp_ceil_div(batch * tokens, ROWS) * n;
}

void vp_branch_gradient_run(const vp_run *run, const vp_branch *branch, size_t batch,
                            size_t tokens, size_t n, float *dz, size_t lddz,
                            const float *dout, size_t lddo, const float *z, size_t ldz,
                            float *dgamma, float *partial)
{
    const bool sums = branch->gamma != NULL && dgamma != NULL;
    branch_gradient_job j = {.run = run,
                             .branch = branch,
                             .rows = batch * tokens,
                             .tokens = tokens,
                             .n = n,
                             .dz = dz,
                             .lddz = lddz,
                             .dout = dout,
                             .lddo = lddo,
                             .z = z,
                             .ldz = ldz,
                             .partial = sums ? partial : NULL};
    const size_t blocks = vp_ceil_div(j.rows, ROWS);
    vp_parallel_for(run->team, blocks, branch_gradient_task, &j);
    if (sums) {
        vp_sum_rows_run(run, dgamma, partial, n, blocks, n);
    }
}
