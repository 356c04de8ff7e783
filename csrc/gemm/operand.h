/* Activations on their way into a product: float32 rows become rows of the type that the weight's
 * micro-kernel takes, once, for all workers.
 *
 *     bf16      the nearest bfloat16
 *     u8, s16   integers 0 to vp_levels, with a scale and a zero point for each row: dynamic, so
 *               that nothing is calibrated and an outlier costs its own row alone
 *     s8        u8's integers and zero point less 128: the same differences, and so the same bits
 *
 * Rows are filled up with zeros to a multiple of kr. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_OPERAND_H
#define VP_GEMM_OPERAND_H

#include "gemm/packed.h"
#include "gemm/run.h"

typedef struct {
    const void *
        rows; /* [m][k, filled up], rows `stride` times 4 bytes apart; float32: a itself */
    size_t stride;
    const float *scale;  /* [m]; integers alone */
    const int32_t *zero; /* [m] */
} vp_operand;

/* Bytes of run->operand that m rows for w take; 0: w takes float32 rows as they are. */
size_t vp_operand_bytes(const vp_packed *w, size_t m);

/* Converts one row of x[k]: to[k, filled up]; scale and zero of integers alone. */
void vp_operand_row(const vp_kernels *kernels, const vp_ukr *ukr, void *to,
                    const float *x, size_t k, float *scale, int32_t *zero);

/* Converts a[m][k], rows lda apart, by all workers, into run->operand. */
vp_operand vp_operand_make(const vp_run *run, const vp_packed *w, size_t m,
                           const float *a, size_t lda);

#endif
