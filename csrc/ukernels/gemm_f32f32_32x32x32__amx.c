/* c[32][32] (+)= a[32][k] b[k][32] in float32 on AMX, whose tiles multiply bfloat16.
 *
 * A float32 has 24 significant bits, a bfloat16 8: x = x1 + x2 + x3, exactly, where each
 * part holds the next 8 bits (cut off, not rounded, so that x1 never overflows). Of the
 * nine products of parts the six largest are summed, in float32; the three left out are
 * some 2^-24 of the whole, as float32's own rounding is. (Henry, Tang, Heinecke: Leveraging
 * the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations, 2019.)
 * An infinity gives NaN, numbers below 2^-110 lose bits.
 *
 * Both operands are split into parts before, with k filled up with zeros to whole tiles of 32:
 * a strip is [k / 32][part][half of the rows][16][32], a panel [k / 2][part][half of the
 * columns][16][2], pairs of k side by side as tdpbf16ps wants them. The panel that comes
 * next is split between this one's products, which leave the vector units idle.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "kernels/simd.h"
#include "ukernels/amx.h"
#include "ukernels/ukr.h"

#define MR 32
#define NR 32
#define KR 32
#define PARTS 3
#define TILE 512                            /* bfloat16 in a tile */
#define STRIP_STEP (2 * PARTS * TILE)       /* in a strip, for KR of k */
#define PAIR (2 * PARTS * 32)               /* in a panel, for two of k */
#define PAIR_BYTES (2 * NR * sizeof(float)) /* what it is split from */
#define FETCH 2048                          /* bytes between fetching and splitting */

static __m512i upper(void)
{
    return _mm512_set1_epi32((int)0xffff0000u);
}

/* What is left of x once its upper half, a bfloat16, is taken away. */
static __m512 rest(__m512 x)
{
    const __m512i top = _mm512_and_si512(_mm512_castps_si512(x), upper());
    return _mm512_sub_ps(x, _mm512_castsi512_ps(top));
}

static void pack_strip(const vp_ukr *ukr, void *strip, const float *a, size_t lda,
                       size_t rows, size_t k)
{
    (void)ukr;
    /* The upper halves of two vectors, one after the other. */
    const __m512i order = _mm512_add_epi16(
        _mm512_set1_epi16(1),
        _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32,
                         30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0));
    if (rows % 16 != 0) { /* what lies there may be denormal, which is slow */
        memset(strip, 0, vp_ceil_div(k, KR) * STRIP_STEP * sizeof(uint16_t));
    }
    for (size_t k0 = 0; k0 < k; k0 += KR) {
        const size_t n = vp_min(k - k0, KR), n0 = vp_min(n, VW);
        for (size_t r = 0; r < rows; r++) {
            __m512 x0 = vf_load_n(a + r * lda + k0, n0);
            __m512 x1 = vf_load_n(a + r * lda + k0 + n0, n - n0);
            uint16_t *to = (uint16_t *)strip + k0 / KR * STRIP_STEP + r * KR;
            _Pragma("GCC unroll 3") for (size_t part = 0; part < PARTS; part++)
            {
                _mm512_store_si512(to + part * 2 * TILE,
                                   _mm512_permutex2var_epi16(_mm512_castps_si512(x0),
                                                             order,
                                                             _mm512_castps_si512(x1)));
                x0 = rest(x0);
                x1 = rest(x1);
            }
        }
    }
}

/* Splits one pair of rows of a panel, x0 and x1: to[part][half][16 columns][2]. */
VP_INLINE void split_pair(uint16_t *to, const float *row0, const float *row1)
{
    _Pragma("GCC unroll 2") for (size_t half = 0; half < 2; half++)
    {
        __m512 x0 = _mm512_loadu_ps(row0 + half * 16);
        __m512 x1 = _mm512_loadu_ps(row1 + half * 16);
        _Pragma("GCC unroll 3") for (size_t part = 0; part < PARTS; part++)
        {
            /* x0's upper half beside x1's: (x0 >> 16) | (x1 & upper) */
            const __m512i pair = _mm512_ternarylogic_epi32(
                _mm512_srli_epi32(_mm512_castps_si512(x0), 16), _mm512_castps_si512(x1),
                upper(), 0xf8);
            _mm512_store_si512(to + (part * 2 + half) * 32, pair);
            x0 = rest(x0);
            x1 = rest(x1);
        }
    }
}

static void split_panel(vp_ahead *panel)
{
    static const float zeros[NR];
    const size_t k = panel->k;
    for (size_t k0 = panel->done; k0 < vp_round_up(k, KR); k0 += 2) {
        const float *row = (const float *)panel->panel + k0 * NR;
        split_pair((uint16_t *)panel->ready + k0 * PAIR / 2, k0 < k ? row : zeros,
                   k0 + 1 < k ? row + NR : zeros);
    }
    panel->done = k;
}

/* A strip of at most 16 rows has one half. */
VP_INLINE void load_a(const uint16_t *a, size_t part, int halves)
{
    _tile_loadd(4, a + part * 2 * TILE, 64);
    if (halves == 2) {
        _tile_loadd(5, a + (part * 2 + 1) * TILE, 64);
    }
}

VP_INLINE void load_b(const uint16_t *b, size_t part)
{
    _tile_loadd(6, b + part * 64, PAIR * sizeof(uint16_t));
    _tile_loadd(7, b + part * 64 + 32, PAIR * sizeof(uint16_t));
}

VP_INLINE void multiply(int halves)
{
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (halves == 2) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* What is being split on the side, `share` pairs at each of three places in a step of k. */
typedef struct {
    const float *from;
    uint16_t *to;
    size_t share;
} side;

VP_INLINE void split_share(side *s)
{
    for (size_t i = 0; i < s->share; i++) {
        _Pragma("GCC unroll 4") for (size_t line = 0; line < PAIR_BYTES; line += 64)
        {
            _mm_prefetch((const char *)s->from + FETCH + line, _MM_HINT_T0);
        }
        split_pair(s->to, s->from, s->from + NR);
        s->from += 2 * NR;
        s->to += PAIR;
    }
}

/* The six products of KR of k. The largest is the last, so that at first sums are small
 * and so are their roundings. */
VP_INLINE void step_of_k(const uint16_t *a, const uint16_t *b, int halves, side *s)
{
    load_a(a, 0, halves);
    load_b(b, 2);
    multiply(halves);
    split_share(s);
    load_b(b, 1);
    multiply(halves);
    load_a(a, 1, halves);
    multiply(halves);
    split_share(s);
    load_b(b, 0);
    multiply(halves);
    load_a(a, 2, halves);
    multiply(halves);
    split_share(s);
    load_a(a, 0, halves);
    multiply(halves);
}

VP_INLINE void kernel(size_t k, const uint16_t *a, const uint16_t *b, float *c,
                      size_t ldc, int halves, vp_ahead *ahead)
{
    side split = {.share = vp_ceil_div(ahead->step * KR, 3 * PAIR_BYTES)};
    side nothing = {.share = 0};
    size_t steps = vp_ceil_div(k, KR), splitting = 0;
    if (split.share > 0) {
        split.from = (const float *)ahead->panel + ahead->done * NR;
        split.to = (uint16_t *)ahead->ready + ahead->done / 2 * PAIR;
        splitting = vp_min((ahead->k - ahead->done) / (6 * split.share), steps);
        ahead->done += splitting * 6 * split.share;
        steps -= splitting;
    }
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (; splitting > 0; splitting--) {
        step_of_k(a, b, halves, &split);
        a += STRIP_STEP;
        b += KR / 2 * PAIR;
    }
    for (; steps > 0; steps--) {
        step_of_k(a, b, halves, &nothing);
        a += STRIP_STEP;
        b += KR / 2 * PAIR;
    }
    _tile_stored(0, c, ldc * sizeof(float));
    _tile_stored(1, c + 16, ldc * sizeof(float));
    if (halves == 2) {
        _tile_stored(2, c + 16 * ldc, ldc * sizeof(float));
        _tile_stored(3, c + 16 * ldc + 16, ldc * sizeof(float));
    }
}

static void run(const vp_ukr *ukr, size_t rows, size_t k, const void *a, size_t lda,
                const void *b, float *c, size_t ldc, bool accumulate, vp_ahead *ahead)
{
    (void)ukr, (void)lda;
    float sum[MR * NR] __attribute__((aligned(64)));
    float *to = accumulate ? sum : c;
    const size_t stride = accumulate ? NR : ldc;
    if (rows <= 16) {
        kernel(k, a, b, to, stride, 1, ahead);
    } else {
        kernel(k, a, b, to, stride, 2, ahead);
    }
    for (size_t r = 0; accumulate && r < rows; r++) {
        for (size_t i = 0; i < NR; i += 16) {
            _mm512_store_ps(c + r * ldc + i,
                            _mm512_add_ps(_mm512_load_ps(c + r * ldc + i),
                                          _mm512_load_ps(sum + r * NR + i)));
        }
    }
}

const vp_ukr *vp_gemm_f32f32_32x32x32__amx(void)
{
    static const vp_ukr ukr = {
        .name = "vp_gemm_f32f32_32x32x32__amx",
        .target = VP_TARGET_amx,
        .rows = VP_ROWS_f32,
        .weight = VP_DTYPE_f32,
        .mr = MR,
        .nr = NR,
        .kr = KR,
        .group = 1,
        .kc = 768,
        .sum_piece =
            768, /* 32 products at a time are added in a tree: a longer chain does */
        .pack_strip = pack_strip,
        .strip_bytes = STRIP_STEP / KR * sizeof(uint16_t),
        .split_panel = split_panel,
        .panel_bytes = PAIR / 2 * sizeof(uint16_t),
        .run = run,
        .enter = vp_amx_enter,
        .leave = vp_amx_leave};
    return &ukr;
}
