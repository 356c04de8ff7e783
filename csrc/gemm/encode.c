/* Numbers of a matrix as those of a panel. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/encode.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

enum { CHUNK = 64, MOST_COLUMNS = 64 };

void vp_weight_scale(const float *w, size_t k, float *scale, float *inverse)
{
    uint32_t most = 0; /* of the bits of |w|, which order as the numbers do, NaN last */
    for (size_t i = 0; i < k; i++) {
        uint32_t bits;
        memcpy(&bits, w + i, sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    float largest;
    memcpy(&largest, &most, sizeof largest);
    *inverse = 127.0f / largest;
    *scale = largest / 127.0f;
    if (!isfinite(largest)) {
        *scale = NAN;
        *inverse = 0.0f;
    } else if (!isfinite(*inverse)) {
        *scale = *inverse = 0.0f;
    }
}

/* q = w inverse, rounded. In two steps, so that no compiler makes one multiply-add of product and
 * addition, which would round differently from machine to machine. */
static __attribute__((noinline)) void multiply(float *to, const float *w, float by,
                                               size_t n)
{
    for (size_t i = 0; i < n; i++) {
        to[i] = w[i] * by;
    }
}

static __attribute__((noinline)) void round_all(int8_t *q, const float *x, size_t n)
{
    const float shift = 0x1.8p23f; /* the sum's low bits are x, ties to even */
    for (size_t i = 0; i < n; i++) {
        const float sum = x[i] + shift;
        int32_t bits;
        memcpy(&bits, &sum, sizeof bits);
        q[i] = (int8_t)(bits - 0x4b400000);
    }
}

static void to_int(int8_t *q, const float *w, float inverse, size_t n)
{
    float scaled[CHUNK];
    if (inverse == 0.0f) { /* w may not be finite */
        memset(q, 0, n);
        return;
    }
    multiply(scaled, w, inverse, n);
    round_all(q, scaled, n);
}

/* n numbers of row `row` from k0 on, as ukr->weight */
static void encode(const vp_ukr *ukr, void *to, const vp_numbers *from, size_t row,
                   size_t k0, size_t n)
{
    const vp_kernels *kernels = vp_kernels_get();
    const size_t at = row * from->k + k0;
    if (from->q != NULL) {
        memcpy(to, from->q + at, n);
        return;
    }
    switch (ukr->weight) {
    case VP_DTYPE_bf16:
        kernels->to_bf16(to, from->w + at, n);
        break;
    case VP_DTYPE_f16:
        kernels->to_f16(to, from->w + at, n);
        break;
    case VP_DTYPE_s8:
    case VP_DTYPE_s8a16:
        to_int(to, from->w + at, from->inverse[row], n);
        break;
    case VP_DTYPE_f32:
    case VP_DTYPE_COUNT:
        break;
    }
}

/* `unit` is a constant where it is called. */
static inline void transpose(char *restrict to, const char *restrict from,
                             size_t stride, size_t nr, size_t units, size_t unit)
{
    for (size_t u = 0; u < units; u++) {
        for (size_t r = 0; r < nr; r++) {
            memcpy(to + (u * nr + r) * unit, from + r * stride + u * unit, unit);
        }
    }
}

void vp_transpose_units(const vp_kernels *kernels, void *to, const void *from,
                        size_t stride, size_t nr, size_t units, size_t unit)
{
    switch (unit) {
    case 4:
        kernels->transpose(to, nr, from, stride / 4, nr, units);
        break;
    case 8:
        transpose(to, from, stride, nr, units, 8);
        break;
    case 2:
        transpose(to, from, stride, nr, units, 2);
        break;
    default:
        transpose(to, from, stride, nr, units, 1);
        break;
    }
}

void vp_encode_panel(const vp_ukr *ukr, void *panel, const vp_numbers *from, size_t row,
                     size_t rows, size_t k0, size_t length)
{
    const size_t bytes = vp_dtype_bytes(ukr->weight), unit = bytes * ukr->group;
    const size_t nr = ukr->nr, filled = vp_ukr_filled(ukr, length);
    uint32_t buffer[MOST_COLUMNS * CHUNK / 2];
    char *columns = (char *)buffer, *to = panel;
    assert(nr <= MOST_COLUMNS && bytes <= 2);
    for (size_t i0 = 0; i0 < filled; i0 += CHUNK) {
        const size_t n = vp_min(CHUNK, length - vp_min(i0, length));
        const size_t units = vp_min(CHUNK, filled - i0) * bytes / unit;
        if (rows < nr || n < CHUNK) {
            memset(buffer, 0, nr * CHUNK * bytes);
        }
        for (size_t r = 0; r < rows; r++) {
            encode(ukr, columns + r * CHUNK * bytes, from, row + r, k0 + i0, n);
        }
        vp_transpose_units(vp_kernels_get(), to, columns, CHUNK * bytes, nr, units,
                           unit);
        to += units * unit * nr;
    }
}

static float from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Where input i of a column is in a panel. */
static size_t place(const vp_ukr *ukr, size_t col, size_t i)
{
    const size_t g = ukr->group;
    return (i / g * ukr->nr + col) * g + i % g;
}

static void decode_f16(const vp_ukr *ukr, const uint16_t *panel, size_t col,
                       size_t length, float *out)
{
    uint16_t halves[CHUNK];
    for (size_t i0 = 0; i0 < length; i0 += CHUNK) {
        const size_t n = vp_min(CHUNK, length - i0);
        for (size_t i = 0; i < n; i++) {
            halves[i] = panel[place(ukr, col, i0 + i)];
        }
        vp_kernels_get()->from_f16(out + i0, halves, n);
    }
}

void vp_decode_column(const vp_ukr *ukr, const void *panel, size_t col, size_t length,
                      float scale, float *out)
{
    if (ukr->weight == VP_DTYPE_f16) {
        decode_f16(ukr, panel, col, length, out);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        const size_t at = place(ukr, col, i);
        switch (ukr->weight) {
        case VP_DTYPE_f32:
            out[i] = ((const float *)panel)[at];
            break;
        case VP_DTYPE_bf16:
            out[i] = from_bf16(((const uint16_t *)panel)[at]);
            break;
        case VP_DTYPE_s8:
        case VP_DTYPE_s8a16:
            out[i] = (float)((const int8_t *)panel)[at] * scale;
            break;
        case VP_DTYPE_f16:
        case VP_DTYPE_COUNT:
            break;
        }
    }
}

void vp_decode_ints(const vp_ukr *ukr, const int8_t *panel, size_t col, size_t length,
                    int8_t *q)
{
    for (size_t i = 0; i < length; i++) {
        q[i] = panel[place(ukr, col, i)];
    }
}
