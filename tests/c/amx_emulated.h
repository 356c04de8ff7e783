/* AMX's instructions in plain C, as Intel's manual defines them, so that micro-kernels for AMX are
 * tested on machines without it. setup.py compiles csrc/ukernels/'s sources for AMX a second time
 * with this included first, which gives each vp_gemm_<...>__amx a vp_gemm_<...>__amx_emulated
 * beside it. (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG,
 * TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBF16PS, TDPBUSD; AMX-E1 to E6.)
 *
 * What would be a fault of the processor ends the process with a line that says which. An
 * operating system's part, interrupted loads and start_row, is left out; which NaN comes out is not
 * told by the manual. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_TEST_AMX_EMULATED_H
#define VP_TEST_AMX_EMULATED_H

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AMX_TILES = 8, AMX_ROWS = 16, AMX_ROW_BYTES = 64 }; /* palette 1 */

typedef struct {
    size_t rows, row_bytes;
    uint8_t data[AMX_ROWS][AMX_ROW_BYTES];
} amx_tile;

/* A thread's own, as registers are; each source that includes this has them apart. */
static _Thread_local struct {
    bool configured;
    amx_tile tile[AMX_TILES];
} amx;

/* The processor's #UD or #GP. */
static inline void amx_refuse_unless(bool fine, const char *what)
{
    if (!fine) {
        (void)fprintf(stderr, "emulated AMX: %s\n", what);
        abort();
    }
}

/* -- configuration -- */

static inline void amx_release(void)
{
    memset(&amx, 0, sizeof amx);
}

static inline bool amx_zeros(const uint8_t *bytes, size_t first, size_t last)
{
    while (first < last && bytes[first] == 0) {
        first++;
    }
    return first == last;
}

static inline void amx_loadconfig(const void *config)
{
    const uint8_t *bytes = config;
    amx_release();
    if (bytes[0] == 0) {
        return;
    }
    amx_refuse_unless(bytes[0] == 1, "#GP, there is no such palette");
    amx_refuse_unless(amx_zeros(bytes, 2, 16) && amx_zeros(bytes, 32, 48) &&
                          amx_zeros(bytes, 56, 64),
                      "#GP, reserved bytes of a configuration are not zero");
    amx_refuse_unless(bytes[1] == 0, "start_row is not emulated");
    for (size_t t = 0; t < AMX_TILES; t++) {
        amx_tile *tile = &amx.tile[t];
        tile->row_bytes = (size_t)(bytes[16 + 2 * t] | bytes[17 + 2 * t] << 8);
        tile->rows = bytes[48 + t];
        amx_refuse_unless(tile->rows <= AMX_ROWS && tile->row_bytes <= AMX_ROW_BYTES,
                          "#GP, a tile is larger than the palette's");
        amx_refuse_unless((tile->rows == 0) == (tile->row_bytes == 0),
                          "#GP, a tile has rows without bytes, or bytes without rows");
    }
    amx.configured = true;
}

static inline amx_tile *amx_tile_at(int t)
{
    amx_refuse_unless(amx.configured, "#UD, tiles are not configured");
    amx_refuse_unless(t >= 0 && t < AMX_TILES && amx.tile[t].rows > 0,
                      "#UD, there is no such tile");
    return &amx.tile[t];
}

/* -- moves; the stride is in bytes -- */

static inline void amx_zero(int t)
{
    amx_tile *tile = amx_tile_at(t);
    memset(tile->data, 0, sizeof tile->data);
}

static inline void amx_loadd(int t, const void *base, size_t stride)
{
    amx_tile *tile = amx_tile_at(t);
    amx_zero(t);
    for (size_t r = 0; r < tile->rows; r++) {
        memcpy(tile->data[r], (const char *)base + r * stride, tile->row_bytes);
    }
}

static inline void amx_stored(int t, void *base, size_t stride)
{
    const amx_tile *tile = amx_tile_at(t);
    for (size_t r = 0; r < tile->rows; r++) {
        memcpy((char *)base + r * stride, tile->data[r], tile->row_bytes);
    }
}

/* -- products -- */

static inline amx_tile *amx_product(int c, int a, int b)
{
    const amx_tile *in = amx_tile_at(a), *by = amx_tile_at(b);
    amx_tile *to = amx_tile_at(c);
    amx_refuse_unless(c != a && c != b && a != b, "#UD, a tile is two operands");
    amx_refuse_unless(to->row_bytes % 4 == 0 && in->row_bytes % 4 == 0,
                      "#UD, rows are not whole groups of 4 bytes");
    amx_refuse_unless(to->rows == in->rows && to->row_bytes == by->row_bytes &&
                          in->row_bytes / 4 == by->rows,
                      "#UD, the shapes of three tiles do not fit");
    return to;
}

/* Denormal numbers are nought, coming in and going out (DAZ, FTZ). */
static inline float amx_normal(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

static inline float amx_from_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return amx_normal(value);
}

/* One multiply-add, rounded once, to nearest even. */
static inline float amx_multiply_add(float x, float y, float sum)
{
    return amx_normal(fmaf(x, y, sum));
}

/* Row m of c: the even numbers of all pairs are summed, and the odd ones, each from nought; then
 * the two are added, and then that to c. */
static inline void amx_dpbf16ps(int c, int a, int b)
{
    amx_tile *to = amx_product(c, a, b);
    const amx_tile *in = &amx.tile[a], *by = &amx.tile[b];
    enum { PAIRS = AMX_ROW_BYTES / 4 };
    for (size_t m = 0; m < to->rows; m++) {
        uint16_t x[2 * PAIRS], y[2 * PAIRS];
        float even[PAIRS] = {0}, odd[PAIRS] = {0}, sum[PAIRS];
        memcpy(x, in->data[m], sizeof x);
        memcpy(sum, to->data[m], sizeof sum);
        for (size_t k = 0; k < in->row_bytes / 4; k++) {
            const float x0 = amx_from_bf16(x[2 * k]), x1 = amx_from_bf16(x[2 * k + 1]);
            memcpy(y, by->data[k], sizeof y);
            for (size_t n = 0; n < PAIRS; n++) {
                even[n] = amx_multiply_add(x0, amx_from_bf16(y[2 * n]), even[n]);
                odd[n] = amx_multiply_add(x1, amx_from_bf16(y[2 * n + 1]), odd[n]);
            }
        }
        for (size_t n = 0; n < PAIRS; n++) {
            sum[n] = amx_normal(amx_normal(sum[n]) + amx_normal(even[n] + odd[n]));
        }
        memcpy(to->data[m], sum, to->row_bytes);
    }
}

/* a's bytes are unsigned, b's signed; sums are modulo 2^32. */
static inline void amx_dpbusd(int c, int a, int b)
{
    amx_tile *to = amx_product(c, a, b);
    const amx_tile *in = &amx.tile[a], *by = &amx.tile[b];
    enum { QUADS = AMX_ROW_BYTES / 4 };
    for (size_t m = 0; m < to->rows; m++) {
        uint32_t sum[QUADS];
        memcpy(sum, to->data[m], sizeof sum);
        for (size_t k = 0; k < in->row_bytes / 4; k++) {
            const uint8_t *x = in->data[m] + 4 * k;
            int8_t y[AMX_ROW_BYTES];
            memcpy(y, by->data[k], sizeof y);
            for (size_t n = 0; n < QUADS; n++) {
                sum[n] += (uint32_t)(x[0] * y[4 * n] + x[1] * y[4 * n + 1] +
                                     x[2] * y[4 * n + 2] + x[3] * y[4 * n + 3]);
            }
        }
        memcpy(to->data[m], sum, to->row_bytes);
    }
}

/* -- the intrinsics' names -- */

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#define _tile_loadconfig(config) amx_loadconfig(config)
#define _tile_release() amx_release()
#define _tile_loadd(tile, base, stride) amx_loadd(tile, base, stride)
#define _tile_stored(tile, base, stride) amx_stored(tile, base, stride)
#define _tile_zero(tile) amx_zero(tile)
#define _tile_dpbf16ps(c, a, b) amx_dpbf16ps(c, a, b)
#define _tile_dpbusd(c, a, b) amx_dpbusd(c, a, b)

#endif
