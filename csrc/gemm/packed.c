/* A packed weight matrix. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/packed.h"

#include <string.h>

#include "kernels/kernels.h"

size_t vp_packed_step(const vp_packed *packed)
{
    return packed->ukr->nr * vp_dtype_bytes(packed->ukr->weight);
}

/* Bytes from one panel to the next. */
static size_t panel_stride(const vp_packed *packed, size_t length)
{
    return vp_round_up(length * vp_packed_step(packed), VP_ALIGN);
}

size_t vp_packed_blocks(const vp_packed *packed)
{
    return vp_ceil_div(packed->k, packed->kc);
}

size_t vp_packed_block_length(const vp_packed *packed, size_t block)
{
    return vp_min(packed->k - block * packed->kc, packed->kc);
}

size_t vp_packed_bytes(const vp_packed *packed)
{
    const size_t blocks = vp_packed_blocks(packed);
    size_t total = 0;
    for (size_t b = 0; b < blocks; b++) {
        total +=
            packed->panels * panel_stride(packed, vp_packed_block_length(packed, b));
    }
    return total;
}

int vp_packed_init(vp_packed *packed, const vp_ukr *ukr, size_t n, size_t k)
{
    const size_t blocks = vp_max(vp_ceil_div(k, ukr->kc), 1);
    packed->ukr = ukr;
    packed->n = n;
    packed->k = k;
    packed->kc = vp_round_up(vp_max(vp_ceil_div(k, blocks), 1), ukr->kr);
    packed->panels = vp_ceil_div(n, ukr->nr);
    packed->data = vp_alloc(vp_size_add(vp_packed_bytes(packed), VP_UKR_SLACK));
    return packed->data != NULL ? 0 : -1;
}

void vp_packed_free(vp_packed *packed)
{
    vp_free(packed->data);
    packed->data = NULL;
}

const void *vp_packed_panel(const vp_packed *packed, size_t block, size_t panel)
{
    const size_t full = packed->panels * panel_stride(packed, packed->kc);
    const size_t length = vp_packed_block_length(packed, block);
    return (const char *)packed->data + block * full +
           panel * panel_stride(packed, length);
}

void vp_pack(vp_packed *packed, const float *w)
{
    const vp_kernels *kernels = vp_kernels_get();
    const size_t nr = packed->ukr->nr;
    for (size_t b = 0; b < vp_packed_blocks(packed); b++) {
        const size_t length = vp_packed_block_length(packed, b);
        for (size_t p = 0; p < packed->panels; p++) {
            float *panel = (float *)vp_packed_panel(packed, b, p);
            const size_t cols = vp_min(packed->n - p * nr, nr);
            if (cols < nr) {
                memset(panel, 0, length * vp_packed_step(packed));
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
            const size_t cols = vp_min(packed->n - p * nr, nr);
            kernels->transpose(w + p * nr * packed->k + b * packed->kc, packed->k,
                               vp_packed_panel(packed, b, p), nr, length, cols);
        }
    }
}
