/* Numbers of a matrix as those of a panel of another type than float32, and back.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_ENCODE_H
#define VP_GEMM_ENCODE_H

#include "kernels/kernels.h"
#include "ukernels/ukr.h"

/* Rows of a matrix: float32, or integers as they are to be kept. */
typedef struct {
    const float *w;  /* [rows][k], or NULL */
    const int8_t *q; /* the same */
    size_t k;
    const float *inverse; /* [rows]: w times it is what is rounded to integers */
} vp_numbers;

/* panel = columns [row, row + rows) of W^T, inputs [k0, k0 + length), filled up with zeros. */
void vp_encode_panel(const vp_ukr *ukr, void *panel, const vp_numbers *from, size_t row,
                     size_t rows, size_t k0, size_t length);

/* to[units][nr] = from[nr][units] transposed, of units of 1, 2, 4 or 8 bytes; rows of `from` are
 * `stride` bytes apart. */
void vp_transpose_units(const vp_kernels *kernels, void *to, const void *from,
                        size_t stride, size_t nr, size_t units, size_t unit);

/* out[length] = column `col` of a panel, integers times scale; q[length]: the integers. */
void vp_decode_column(const vp_ukr *ukr, const void *panel, size_t col, size_t length,
                      float scale, float *out);
void vp_decode_ints(const vp_ukr *ukr, const int8_t *panel, size_t col, size_t length,
                    int8_t *q);

/* scale = max|w| / 127 and inverse = 127 / max|w|; both 0 where the inverse is not finite; scale
 * NaN and inverse 0 where a number is not. */
void vp_weight_scale(const float *w, size_t k, float *scale, float *inverse);

#endif
