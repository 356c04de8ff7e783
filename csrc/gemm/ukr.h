/* The float32 micro-kernel in use: BLIS's, or one of ours on AVX-512 and AMX.
 *
 * A micro-kernel multiplies a strip of activations a[rows][k] by one panel of packed
 * weights b[k][nr]. BLIS's kernels want the strip packed as [k][mr], zero rows added; ours
 * for AVX-512 takes it where it lies; ours for AMX wants strip and panel cut into parts
 * (kernels/sgemm_ukr_amx.c). SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_UKR_H
#define VP_GEMM_UKR_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/kernels.h"

typedef struct vp_ukr vp_ukr;
struct vp_ukr {
    const char *name;
    size_t mr, nr; /* largest tile: rows of activations, columns of weights */
    size_t kc; /* inputs in a block, at most: strips and a panel so deep fit into L2 */
    size_t depth;     /* k is cut at multiples of it, and filled up with zeros to one */
    size_t sum_piece; /* see vp_ukr_run */
    /* Makes what run takes as a of a[rows][k], rows lda apart: strip_step floats for each
     * k. NULL: run takes the rows where they lie. */
    void (*pack_strip)(const struct vp_ukr *ukr, float *strip, const float *a,
                       size_t lda, size_t rows, size_t k);
    size_t strip_step;
    /* In a team of up to so many workers each packs what it multiplies for itself, into its
     * own L2; a larger one packs every strip once. */
    size_t packs_apart;
    /* Makes what run takes as b of a packed panel[k][nr], or what run has left to do of
     * it: panel_step floats for each k. NULL: run takes the panel itself, panel_step is
     * nr. */
    void (*cut_panel)(vp_ahead *panel);
    size_t panel_step;
    /* c[rows][nr], rows ldc apart, (+)= a b. c is 64-byte aligned and all mr rows of it are
     * writable where there is a pack_strip. Each element's sum runs over k in order.
     * On the side it deals with the panel ahead. */
    void (*run)(const vp_ukr *ukr, size_t rows, size_t k, const float *a, size_t lda,
                const float *b, float *c, size_t ldc, int accumulate, vp_ahead *ahead);
    /* A worker calls these before its first and after its last run; may be NULL. */
    void (*enter)(void);
    void (*leave)(void);
    void *context; /* BLIS's cntx_t and kernel, for run */
    void *kernel;
    bool row_preferring;
};

static inline void vp_ukr_enter(const vp_ukr *ukr)
{
    if (ukr->enter != NULL) {
        ukr->enter();
    }
}

static inline void vp_ukr_leave(const vp_ukr *ukr)
{
    if (ukr->leave != NULL) {
        ukr->leave();
    }
}

/* k, filled up. */
static inline size_t vp_ukr_depth(const vp_ukr *ukr, size_t k)
{
    return (k + ukr->depth - 1) / ukr->depth * ukr->depth;
}

/* run over all of k in pieces of at most `piece`, each summed on its own and then added:
 * rounding errors grow with the length of a chain, not with k. ukr->sum_piece costs next to
 * nothing; where a product is small and its result final (the head), shorter is better. */
#define VP_SUM_PIECE_FINAL ((size_t)64)
static inline void vp_ukr_run(const vp_ukr *ukr, size_t piece, size_t rows, size_t k,
                              const float *a, size_t lda, const float *b, float *c,
                              size_t ldc, int accumulate, vp_ahead *ahead)
{
    const size_t pieces = (k + piece - 1) / piece;
    const size_t steps = (k + ukr->depth - 1) / ukr->depth;
    for (size_t i = 0, k0 = 0; i < pieces; i++) {
        size_t length = (steps / pieces + (i < steps % pieces)) * ukr->depth;
        length = k - k0 < length ? k - k0 : length;
        ukr->run(ukr, rows, length, a + k0 * (ukr->pack_strip ? ukr->strip_step : 1),
                 lda, b + k0 * ukr->panel_step, c, ldc, accumulate || i > 0, ahead);
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
