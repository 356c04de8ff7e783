/* The float32 micro-kernel in use: BLIS's, or ours on AVX-512.
 *
 * A micro-kernel multiplies a strip of activations a[rows][k] by one panel of packed
 * weights b[k][nr]. BLIS's kernels want the strip packed as [k][mr], zero rows added; ours
 * takes it where it lies. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_UKR_H
#define VP_GEMM_UKR_H

#include <stdbool.h>
#include <stddef.h>

typedef struct vp_ukr vp_ukr;
struct vp_ukr {
    const char *name;
    size_t mr, nr; /* largest tile: rows of activations, columns of weights */
    bool packs_a;  /* a is [k][mr] (lda ignored), else a[rows] with rows lda apart */
    /* c[rows][nr], rows ldc apart, (+)= a b. c is 64-byte aligned and all mr rows of it are
     * writable where packs_a. Each element's sum runs over k in order. k * ahead_step bytes
     * from `ahead` on may be prefetched: what will be read next. */
    void (*run)(const vp_ukr *ukr, size_t rows, size_t k, const float *a, size_t lda,
                const float *b, float *c, size_t ldc, int accumulate, const void *ahead,
                size_t ahead_step);
    void *context; /* BLIS's cntx_t and kernel, for run */
    void *kernel;
    bool row_preferring;
};

/* run over all of k in pieces of at most `piece`, each summed on its own and then added:
 * rounding errors grow with the length of a chain, not with k. VP_SUM_PIECE costs next to
 * nothing; where a product is small and its result final (the head), shorter is better. */
#define VP_SUM_PIECE ((size_t)256)
#define VP_SUM_PIECE_FINAL ((size_t)64)
static inline void vp_ukr_run(const vp_ukr *ukr, size_t piece, size_t rows, size_t k,
                              const float *a, size_t lda, const float *b, float *c,
                              size_t ldc, int accumulate, const void *ahead,
                              size_t ahead_step)
{
    const size_t pieces = (k + piece - 1) / piece;
    for (size_t i = 0, k0 = 0; i < pieces; i++) {
        const size_t length = k / pieces + (i < k % pieces);
        ukr->run(ukr, rows, length, a + k0 * (ukr->packs_a ? ukr->mr : 1), lda,
                 b + k0 * ukr->nr, c, ldc, accumulate || i > 0,
                 (const char *)ahead + k0 * ahead_step, ahead_step);
        k0 += length;
    }
}

/* The micro-kernel of the current target; never NULL. VITPOOL_UKR=blis asks for BLIS's on
 * a target that has one of ours (to compare the two). */
const vp_ukr *vp_ukr_get(void);

/* BLIS's float32 micro-kernel for the current target (gemm/blis.c). */
vp_ukr vp_blis_ukr(void);

/* "0.9.0" */
const char *vp_blis_version(void);

#endif
