/* A packed weight matrix. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/packed.h"

#include <string.h>

#include "gemm/encode.h"
#include "kernels/kernels.h"

size_t vp_packed_step(const vp_packed *packed)
{
    return packed->ukr->nr * vp_dtype_bytes(packed->ukr->weight);
}

/* Bytes from one panel to the next. */
static size_t panel_stride(const vp_packed *packed, size_t length)
{
    return vp_round_up(vp_ukr_filled(packed->ukr, length) * vp_packed_step(packed),
                       VP_ALIGN);
}

size_t vp_packed_blocks(const vp_packed *packed)
{
    return vp_ceil_div(packed->k, packed->kc);
}

size_t vp_packed_block_length(const vp_packed *packed, size_t block)
{
    return vp_min(packed->k - block * packed->kc, packed->kc);
}

/* Bytes of the panels. */
static size_t panels_bytes(const vp_packed *packed)
{
    const size_t blocks = vp_packed_blocks(packed);
    size_t total = 0;
    for (size_t b = 0; b < blocks; b++) {
        total +=
            packed->panels * panel_stride(packed, vp_packed_block_length(packed, b));
    }
    return total;
}

/* Outputs, those of the last panel that are not there among them. */
static size_t outputs(const vp_packed *packed)
{
    return packed->panels * packed->ukr->nr;
}

const float *vp_packed_scale(const vp_packed *packed)
{
    return (const float *)((const char *)packed->data + panels_bytes(packed));
}

const int32_t *vp_packed_sum(const vp_packed *packed)
{
    return (const int32_t *)(vp_packed_scale(packed) + outputs(packed));
}

size_t vp_packed_bytes(const vp_packed *packed)
{
    const size_t each = sizeof(float) + sizeof(int32_t);
    return panels_bytes(packed) +
           (vp_dtype_is_int(packed->ukr->weight) ? outputs(packed) * each : 0);
}

size_t vp_packed_shape(vp_packed *packed, const vp_ukr *ukr, size_t n, size_t k)
{
    const size_t blocks = vp_max(vp_ceil_div(k, ukr->kc), 1);
    packed->ukr = ukr;
    packed->n = n;
    packed->k = k;
    packed->kc = vp_round_up(vp_max(vp_ceil_div(k, blocks), 1), ukr->kr);
    packed->panels = vp_ceil_div(n, ukr->nr);
    return vp_size_add(vp_packed_bytes(packed), VP_UKR_SLACK);
}

int vp_packed_init(vp_packed *packed, const vp_ukr *ukr, size_t n, size_t k)
{
    packed->data = vp_alloc(vp_packed_shape(packed, ukr, n, k));
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

static void pack_floats(vp_packed *packed, const float *w)
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

static void encode(vp_packed *packed, const vp_numbers *from)
{
    const size_t nr = packed->ukr->nr;
    for (size_t b = 0; b < vp_packed_blocks(packed); b++) {
        for (size_t p = 0; p < packed->panels; p++) {
            vp_encode_panel(packed->ukr, (void *)vp_packed_panel(packed, b, p), from,
                            p * nr, vp_min(packed->n - p * nr, nr), b * packed->kc,
                            vp_packed_block_length(packed, b));
        }
    }
}

/* sum[c] += the g integers of column c, of each step. g is a constant where it is called:
 * a cold start waits for this loop. */
static inline void add_sums(int32_t *restrict sum, const int8_t *restrict q,
                            size_t steps, size_t nr, size_t g)
{
    for (size_t i = 0; i < steps; i++) {
        for (size_t c = 0; c < nr; c++) {
            int32_t all = 0;
            for (size_t j = 0; j < g; j++) {
                all += q[(i * nr + c) * g + j];
            }
            sum[c] += all;
        }
    }
}

/* The sums of integers as they were packed. */
static void set_sums(vp_packed *packed)
{
    const vp_ukr *ukr = packed->ukr;
    const size_t g = ukr->group, nr = ukr->nr;
    int32_t *sum = (int32_t *)vp_packed_sum(packed);
    memset(sum, 0, outputs(packed) * sizeof *sum);
    for (size_t b = 0; b < vp_packed_blocks(packed); b++) {
        const size_t steps = vp_ukr_filled(ukr, vp_packed_block_length(packed, b)) / g;
        for (size_t p = 0; p < packed->panels; p++) {
            const int8_t *q = vp_packed_panel(packed, b, p);
            if (g == 4) {
                add_sums(sum + p * nr, q, steps, nr, 4);
            } else if (g == 8) {
                add_sums(sum + p * nr, q, steps, nr, 8);
            } else {
                add_sums(sum + p * nr, q, steps, nr, g);
            }
        }
    }
}

void vp_pack(vp_packed *packed, const float *w)
{
    const size_t n = packed->n, k = packed->k;
    if (packed->ukr->weight == VP_DTYPE_f32) {
        pack_floats(packed, w);
        return;
    }
    vp_numbers from = {.w = w, .k = k};
    if (vp_dtype_is_int(packed->ukr->weight)) {
        float *scale = (float *)vp_packed_scale(packed);
        float *inverse = (float *)vp_packed_sum(packed); /* until the sums are there */
        memset(scale, 0, outputs(packed) * sizeof *scale);
        for (size_t i = 0; i < n; i++) {
            vp_weight_scale(w + i * k, k, &scale[i], &inverse[i]);
        }
        from.inverse = inverse;
    }
    encode(packed, &from);
    if (vp_dtype_is_int(packed->ukr->weight)) {
        set_sums(packed);
    }
}

static void unpack_floats(const vp_packed *packed, float *w)
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

void vp_unpack(const vp_packed *packed, float *w)
{
    const vp_ukr *ukr = packed->ukr;
    if (ukr->weight == VP_DTYPE_f32) {
        unpack_floats(packed, w);
        return;
    }
    for (size_t b = 0; b < vp_packed_blocks(packed); b++) {
        for (size_t n = 0; n < packed->n; n++) {
            vp_decode_column(ukr, vp_packed_panel(packed, b, n / ukr->nr), n % ukr->nr,
                             vp_packed_block_length(packed, b),
                             vp_dtype_is_int(ukr->weight) ? vp_packed_scale(packed)[n]
                                                          : 1.0f,
                             w + n * packed->k + b * packed->kc);
        }
    }
}

void vp_pack_int(vp_packed *packed, const int8_t *q, const float *scale)
{
    float *to = (float *)vp_packed_scale(packed);
    memset(to, 0, outputs(packed) * sizeof *to);
    memcpy(to, scale, packed->n * sizeof *to);
    encode(packed, &(vp_numbers){.q = q, .k = packed->k});
    set_sums(packed);
}

void vp_unpack_int(const vp_packed *packed, int8_t *q, float *scale)
{
    const vp_ukr *ukr = packed->ukr;
    memcpy(scale, vp_packed_scale(packed), packed->n * sizeof *scale);
    for (size_t b = 0; b < vp_packed_blocks(packed); b++) {
        for (size_t n = 0; n < packed->n; n++) {
            vp_decode_ints(ukr, vp_packed_panel(packed, b, n / ukr->nr), n % ukr->nr,
                           vp_packed_block_length(packed, b),
                           q + n * packed->k + b * packed->kc);
        }
    }
}

void vp_pack_rows(const vp_packed *packed, const float *x, size_t ldx, size_t first,
                  size_t last)
{
    const size_t nr = packed->ukr->nr;
    for (size_t row = first; row < last;) {
        const size_t b = row / packed->kc, k0 = b * packed->kc;
        const size_t end = vp_min(last, k0 + packed->kc);
        for (size_t p = 0; p < packed->panels; p++) {
            float *panel = (float *)vp_packed_panel(packed, b, p);
            const float *from = x + p * nr;
            const size_t cols = vp_min(packed->n - p * nr, nr);
            for (size_t i = row; i < end; i++) {
                float *to = panel + (i - k0) * nr;
                memcpy(to, from + i * ldx, cols * sizeof(float));
                memset(to + cols, 0, (nr - cols) * sizeof(float));
            }
        }
        row = end;
    }
}

void vp_pack_flipped(const vp_packed *packed, const vp_packed *w, size_t block,
                     size_t panel)
{
    const vp_kernels *kernels = vp_kernels_get();
    const size_t nr = packed->ukr->nr;
    const size_t length = vp_packed_block_length(packed, block);
    /* what is an input here is an output of w, and the other way round */
    const size_t in0 = block * packed->kc, in1 = in0 + length;
    const size_t out0 = panel * nr, out1 = vp_min(packed->n, out0 + nr);
    float *to = (float *)vp_packed_panel(packed, block, panel);
    if (out1 - out0 < nr) {
        memset(to, 0, length * vp_packed_step(packed));
    }
    for (size_t out = out0; out < out1;) { /* a panel may lie in two blocks of w */
        const size_t b = out / w->kc, k = out - b * w->kc;
        const size_t outs = vp_min(out1 - out, w->kc - k);
        for (size_t in = in0; in < in1;) {
            const size_t p = in / nr, column = in - p * nr;
            const size_t ins = vp_min(in1 - in, nr - column);
            const float *from = vp_packed_panel(w, b, p);
            kernels->transpose(to + (in - in0) * nr + (out - out0), nr,
                               from + k * nr + column, nr, outs, ins);
            in += ins;
        }
        out += outs;
    }
}
