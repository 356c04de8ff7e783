/* out = residual + scale * act(a W^T + bias): a linear layer on packed weights.
 *
 * The loop nest around the micro-kernel is ours: work is split over blocks of rows and
 * groups of panels, never over k; a tile is finished (bias, activation, gate, LayerScale,
 * residual) right after its last multiply-add, while it is in L1.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_GEMM_H
#define VP_GEMM_GEMM_H

#include "gemm/packed.h"
#include "gemm/run.h"

typedef struct {
    size_t m;       /* rows */
    const float *a; /* [m][k], rows lda apart */
    size_t lda;
    const vp_packed *w; /* W[n][k] */
    /* NULL, or a second W[n][k] for the same micro-kernel: finish.gate_bias, see vp_finish */
    const vp_packed *gate;
    size_t sum_piece; /* see vp_ukr_run; 0: w->ukr->sum_piece */
    /* Panels [first_panel, last_panel) alone, the columns of the others left as they are;
     * last_panel 0: to the end */
    size_t first_panel, last_panel;
    vp_finish finish; /* pointers of row 0, column 0; `gate` is filled in here */
} vp_gemm;

/* Bytes that each worker needs for up to m rows times w, with or without a gate. Where w takes rows
 * of another type than float32, run->operand is needed too: vp_operand_bytes(w, m). */
size_t vp_gemm_scratch(const vp_packed *w, size_t m, bool gated);

/* Runs it; out may be the residual. m may be 0. */
void vp_gemm_run(const vp_run *run, const vp_gemm *gemm);

#endif
