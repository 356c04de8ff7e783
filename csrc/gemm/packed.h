/* A weight matrix, packed once for its micro-kernel, and the only copy of its numbers.
 *
 * W[n][k] (a Linear's weight: n outputs, k inputs) is cut into blocks of kc inputs and
 * panels of nr outputs:
 *
 *     block 0: panel 0 [kc][nr], panel 1 [kc][nr], ...     block 1: ...
 *
 * or panels [kc / g][nr][g] of ukr's group, where weights are not float32. The last panel
 * is filled up with zeros, and so are the inputs of a block to a multiple of kr. Every panel
 * starts on a cache line. kc depends on k alone, so the order of a sum does too.
 *
 * Numbers are those of ukr->weight: rounded to nearest when packed; integers with a scale for
 * each output, its largest number / 127, and the sum of its integers, which follow the panels.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_GEMM_PACKED_H
#define VP_GEMM_PACKED_H

#include <stddef.h>

#include "ukernels/ukr.h"

typedef struct {
    const vp_ukr *ukr; /* multiplies it; ukr->weight is the type of its numbers */
    size_t n, k;       /* outputs, inputs */
    size_t kc;         /* inputs in a block; the last may have fewer */
    size_t panels;     /* ceil(n / nr) */
    void *data;        /* owned */
} vp_packed;

/* Sets everything but data; returns how many bytes data needs, VP_UKR_SLACK among them: for
 * what lies in scratch memory, which nobody frees. */
size_t vp_packed_shape(vp_packed *packed, const vp_ukr *ukr, size_t n, size_t k);

/* Makes room for W[n][k] for that micro-kernel; the numbers are not set. Returns 0, or -1
 * where there is no memory. Free with vp_packed_free (fine on a zeroed struct). */
int vp_packed_init(vp_packed *packed, const vp_ukr *ukr, size_t n, size_t k);
void vp_packed_free(vp_packed *packed);

/* Bytes at data. */
size_t vp_packed_bytes(const vp_packed *packed);

/* Packs w[n][k], row-major; vp_unpack gives the numbers that are kept: of float32 the same bits.
 * An output with an infinity or NaN becomes NaN altogether where weights are integers. */
void vp_pack(vp_packed *packed, const float *w);
void vp_unpack(const vp_packed *packed, float *w);

/* The same of integers q[n][k], -127 to 127, and scale[n]: to the bit, in and out. */
void vp_pack_int(vp_packed *packed, const int8_t *q, const float *scale);
void vp_unpack_int(const vp_packed *packed, int8_t *q, float *scale);

/* Of integers: scale and sum of each output, [panels nr], zeros behind the last. */
const float *vp_packed_scale(const vp_packed *packed);
const int32_t *vp_packed_sum(const vp_packed *packed);

/* Of float32 weights alone: packs inputs [first, last) of x^T, which are rows of x[k][n], ldx apart. All of them make
 * what vp_pack makes of x^T. */
void vp_pack_rows(const vp_packed *packed, const float *x, size_t ldx, size_t first,
                  size_t last);

/* Of float32 weights alone: packs one panel of W^T from w, packed for the same micro-kernel. All of them make
 * what vp_pack makes of W^T. */
void vp_pack_flipped(const vp_packed *packed, const vp_packed *w, size_t block,
                     size_t panel);

/* Inputs [k0, k0 + length) are block `block`. */
size_t vp_packed_blocks(const vp_packed *packed);
size_t vp_packed_block_length(const vp_packed *packed, size_t block);

/* Panel [length of block][nr]; vp_packed_step bytes are there for each input. */
size_t vp_packed_step(const vp_packed *packed);
const void *vp_packed_panel(const vp_packed *packed, size_t block, size_t panel);

#endif
