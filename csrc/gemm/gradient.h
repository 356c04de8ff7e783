/* The backward pass of a linear layer y = x W^T + b, on weights packed for the forward pass:
 *
 *   dx[m][k] (+)= dy[m][n] W[n][k]     dw[n][k] += dy^T[n][m] x[m][k]     db[n] += sum of dy
 *
 * All three are vp_gemm's loops: what stands where weights do (W^T; x^T) is packed on the
 * way. Sums over rows run in one order, whatever the number of threads.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_GRADIENT_H
#define VP_GEMM_GRADIENT_H

#include "gemm/gemm.h"

typedef struct {
    size_t m;           /* rows */
    const vp_packed *w; /* W[n][k] */
    const float *dy;    /* [m][n], rows lddy apart */
    size_t lddy;
    const float *x; /* [m][k], rows ldx apart; not read where dw is NULL */
    size_t ldx;
    float *dw; /* [n][k], contiguous; NULL: not wanted */
    float *db; /* [n]; NULL: not wanted */
    float *dx; /* [m][k], rows lddx apart; NULL: not wanted. Neither dy nor x */
    size_t lddx;
    bool add; /* dx += , else dx = */
} vp_linear_gradient;

/* Bytes of memory that all workers share, for up to m rows: transposed and packed operands,
 * partial sums. And what each worker needs of run->scratch. */
size_t vp_linear_gradient_memory(const vp_packed *w, size_t m);
size_t vp_linear_gradient_scratch(const vp_packed *w, size_t m);

/* Runs it; memory is 64-byte aligned, of the size above. m may be 0. */
void vp_linear_gradient_run(const vp_run *run, const vp_linear_gradient *gradient,
                            void *memory);

#endif
