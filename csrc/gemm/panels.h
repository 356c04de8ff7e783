/* Small products within one worker: a matrix B[k][n] as panels in its scratch, ready for
 * run->ukr, and a B. run->ukr multiplies float32 or bfloat16, which both are then rounded to.
 *
 * Panel i holds columns [i nr, (i + 1) nr) of B, those that B has not as zeros. Whoever
 * multiplies calls vp_ukr_enter before and vp_ukr_leave after.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_PANELS_H
#define VP_GEMM_PANELS_H

#include "base/arena.h"
#include "gemm/run.h"

/* Where a strip is packed or converted, and a panel put together before it is split or
 * transposed, if they are. */
typedef struct {
    void *strip;
    size_t strip_stride; /* floats from one converted row to the next */
    float *panel;
} vp_panels_room;

/* Room for strips of up to `part` inputs and panels of up to k. */
vp_panels_room vp_panels_take_room(vp_arena *arena, const vp_ukr *ukr, size_t part,
                                   size_t k);

/* The panels of B[k][n], and their bytes. */
size_t vp_panels_bytes(const vp_ukr *ukr, size_t k, size_t n);
void *vp_panels_take(vp_arena *arena, const vp_ukr *ukr, size_t k, size_t n);

/* B[k][n] = x[k][n], or x[n][k] transposed; rows of x are ldx apart. */
void vp_panels_pack(const vp_run *run, const vp_panels_room *room, void *panels,
                    const float *x, size_t ldx, size_t k, size_t n);
void vp_panels_pack_transposed(const vp_run *run, const vp_panels_room *room,
                               void *panels, const float *x, size_t ldx, size_t k,
                               size_t n);

/* c[rows][n] (+)= a[rows][k] B, in strips of nearly equal height, which are packed, if they
 * are, `part` inputs at a time (a multiple of ukr->kr, or k). c is 64-byte aligned, ldc a
 * multiple of 16; whole panels of it are written, and mr - 1 rows past its last may be. */
void vp_panels_multiply(const vp_run *run, const vp_panels_room *room, const float *a,
                        size_t lda, size_t rows, const void *panels, size_t k,
                        size_t part, size_t n, float *c, size_t ldc, bool accumulate);

#endif
