/* Sums over rows, in an order that depends on their number alone: chains of 16, then pairs.
 * Rounding errors grow with the length of a chain, and there may be thousands of rows.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_SUM_H
#define VP_GEMM_SUM_H

#include "gemm/run.h"

/* Columns in a work item: their sums stay in L1 while the rows pass by. */
#define VP_SUM_COLUMNS ((size_t)256)

/* sum[n] = x[0] + ... + x[rows - 1], rows ldx apart; n is at most VP_SUM_COLUMNS. */
void vp_sum_rows(const vp_kernels *kernels, float *sum, const float *x, size_t ldx,
                 size_t rows, size_t n);

/* sum[n] += x[0] + ... + x[rows - 1], of any n, over the team. */
void vp_sum_rows_run(const vp_run *run, float *sum, const float *x, size_t ldx,
                     size_t rows, size_t n);

#endif
