/* A weight matrix, packed once for its micro-kernel, and the only copy of its numbers.
 *
 * W[n][k] (a Linear's weight: n outputs, k inputs) is cut into blocks of kc inputs and
 * panels of nr outputs:
 *
 *     block 0: panel 0 [kc][nr], panel 1 [kc][nr], ...     block 1: ...
 *
 * The last panel is filled up with zeros. Every panel starts on a cache line. kc depends on
 * k alone, so the order of a sum does too. SPDX-License-Identifier: Apache-2.0 */
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

/* Makes room for W[n][k] for that micro-kernel; the numbers are not set. Returns 0, or -1
 * where there is no memory. Free with vp_packed_free (fine on a zeroed struct). */
int vp_packed_init(vp_packed *packed, const vp_ukr *ukr, size_t n, size_t k);
void vp_packed_free(vp_packed *packed);

/* Bytes at data. */
size_t vp_packed_bytes(const vp_packed *packed);

/* Packs w[n][k], row-major; vp_unpack gives the same bits back. */
void vp_pack(vp_packed *packed, const float *w);
void vp_unpack(const vp_packed *packed, float *w);

/* Inputs [k0, k0 + length) are block `block`. */
size_t vp_packed_blocks(const vp_packed *packed);
size_t vp_packed_block_length(const vp_packed *packed, size_t block);

/* Panel [length of block][nr]; vp_packed_step bytes lead from one input to the next. */
size_t vp_packed_step(const vp_packed *packed);
const void *vp_packed_panel(const vp_packed *packed, size_t block, size_t panel);

#endif
