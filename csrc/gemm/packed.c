/* A packed weight matrix. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/packed.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"

static size_t panel_stride(const vp_packed *packed, size_t length)
{
    return (length * packed->ukr->nr + 15) / 16 * 16;
}

size_t vp_packed_blocks(const vp_packed *packed)
{
    return (packed->k + packed->kc - 1) / packed->kc;
}

size_t vp_packed_block_length(const vp_packed *packed, size_t block)
{
    const size_t start = block * packed->kc;
    return packed->k - start < packed->kc ? packed->k - start : packed->kc;
}

static size_t floats(const vp_packed *packed)
{
    const size_t blocks = vp_packed_blocks(packed);
    size_t total = 0;
    for (size_t b = 0; b < blocks; b++) {
        total +=
            packed->panels * panel_stride(packed, vp_packed_block_length(packed, b));
    }
    return total;
}

size_t vp_packed_bytes(const vp_packed *packed)
{
    return floats(packed) * sizeof(float);
}

int vp_packed_init(vp_packed *packed, size_t n, size_t k)
{
    const vp_ukr *ukr = vp_ukr_get();
    const size_t blocks = k > 0 ? (k + ukr->kc - 1) / ukr->kc : 1;
    packed->ukr = ukr;
    packed->n = n;
    packed->k = k;
    packed->kc = vp_ukr_depth(ukr, k > 0 ? (k + blocks - 1) / blocks : 1);
    packed->panels = (n + ukr->nr - 1) / ukr->nr;
    /* BLIS's kernels may load (not use) a few vectors past a panel. */
    packed->data = vp_alloc(vp_size_add(vp_packed_bytes(packed), 8 * VP_ALIGN));
    return packed->data != NULL ? 0 : -1;
}

void vp_packed_free(vp_packed *packed)
{
    vp_free(packed->data);
    packed->data = NULL;
}

const float *vp_packed_panel(const vp_packed *packed, size_t block, size_t panel)
{
    const size_t full = packed->panels * panel_stride(packed, packed->kc);
    const size_t length = vp_packed_block_length(packed, block);
    return packed->data + block * full + panel * panel_stride(packed, length);
}

void vp_pack(vp_packed *packed, const float *w)
{
    const vp_kernels *kernels = vp_kernels_get();
    const size_t nr = packed->ukr->nr;
    for (size_t b = 0; b < vp_packed_blocks(packed); b++) {
        const size_t length = vp_packed_block_length(packed, b);
        for (size_t p = 0; p < packed->panels; p++) {
            float *panel = (float *)vp_packed_panel(packed, b, p);
            const size_t cols = packed->n - p * nr < nr ? packed->n - p * nr : nr;
            if (cols < nr) {
                memset(panel, 0, length * nr * sizeof(float));
            }
            kernels->transpose(panel, nr, w + p * nr * packed->k + b * packed->kc,
                               packed->k, cols, length);
        }
    }
}

void vp_unpack(const vp_packed *packed, float *w)
{
    const vp_kernels *kernels = vp_kernels_get();
    const size_t nr = packed->ukr->nr;
    for (size_t b = 0; b < vp_packed_blocks(packed); b++) {
        const size_t length = vp_packed_block_length(packed, b);
        for (size_t p = 0; p < packed->panels; p++) {
            const size_t cols = packed->n - p * nr < nr ? packed->n - p * nr : nr;
            kernels->transpose(w + p * nr * packed->k + b * packed->kc, packed->k,
                               vp_packed_panel(packed, b, p), nr, length, cols);
        }
    }
}
