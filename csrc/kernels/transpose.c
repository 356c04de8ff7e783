/* y[cols][rows] = x[rows][cols] transposed: packing of weights and of attention's keys.
 *
 * Compiled once per target; blocks of 16 x 16 so that both sides stay in cache, in
 * registers on AVX-512, 4 x 4 of them on NEON. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/target.h"

#define BLOCK 16

#if defined(__AVX512F__)
/* 16 rows of 16 become 16 columns: four rounds of interleaving, 1, 2, 4, 8 apart. */
static void transpose_16x16(float *y, size_t ldy, const float *x, size_t ldx)
{
    __m512 a[16], b[16];
    _Pragma("GCC unroll 16") for (size_t i = 0; i < 16; i++)
    {
        a[i] = _mm512_loadu_ps(x + i * ldx);
    }
    /* pass 1: pairs of rows, 32-bit lanes */
    _Pragma("GCC unroll 8") for (size_t i = 0; i < 16; i += 2)
    {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    /* pass 2: pairs of pairs, 64-bit lanes; a[4 g + j] has columns j, j + 4, j + 8, j + 12
     * of rows 4 g .. 4 g + 3 */
    _Pragma("GCC unroll 4") for (size_t i = 0; i < 16; i += 4)
    {
#define UNPACK(half, p, q) \
    _mm512_castpd_ps(_mm512_unpack##half##_pd(_mm512_castps_pd(p), _mm512_castps_pd(q)))
        a[i] = UNPACK(lo, b[i], b[i + 2]);
        a[i + 1] = UNPACK(hi, b[i], b[i + 2]);
        a[i + 2] = UNPACK(lo, b[i + 1], b[i + 3]);
        a[i + 3] = UNPACK(hi, b[i + 1], b[i + 3]);
#undef UNPACK
    }
    /* passes 3 and 4: 128-bit lanes of the four groups of rows */
    _Pragma("GCC unroll 4") for (size_t j = 0; j < 4; j++)
    {
        const __m512 p = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
        const __m512 q = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
        const __m512 r = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
        const __m512 s = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
        _mm512_storeu_ps(y + j * ldy, _mm512_shuffle_f32x4(p, q, 0x88));
        _mm512_storeu_ps(y + (j + 4) * ldy, _mm512_shuffle_f32x4(r, s, 0x88));
        _mm512_storeu_ps(y + (j + 8) * ldy, _mm512_shuffle_f32x4(p, q, 0xdd));
        _mm512_storeu_ps(y + (j + 12) * ldy, _mm512_shuffle_f32x4(r, s, 0xdd));
    }
}
#elif defined(VP_NEON_VECTORS)
/* 4 rows of 4 become 4 columns: two rounds of interleaving, 1 and 2 apart. */
VP_INLINE void transpose_4x4(float *y, size_t ldy, const float *x, size_t ldx)
{
    const float32x4_t a = vld1q_f32(x), b = vld1q_f32(x + ldx);
    const float32x4_t c = vld1q_f32(x + 2 * ldx), d = vld1q_f32(x + 3 * ldx);
    /* columns 0 and 2, 1 and 3 of two rows */
    const float64x2_t even_ab = vreinterpretq_f64_f32(vtrn1q_f32(a, b));
    const float64x2_t odd_ab = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    const float64x2_t even_cd = vreinterpretq_f64_f32(vtrn1q_f32(c, d));
    const float64x2_t odd_cd = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
    vst1q_f32(y, vreinterpretq_f32_f64(vtrn1q_f64(even_ab, even_cd)));
    vst1q_f32(y + ldy, vreinterpretq_f32_f64(vtrn1q_f64(odd_ab, odd_cd)));
    vst1q_f32(y + 2 * ldy, vreinterpretq_f32_f64(vtrn2q_f64(even_ab, even_cd)));
    vst1q_f32(y + 3 * ldy, vreinterpretq_f32_f64(vtrn2q_f64(odd_ab, odd_cd)));
}

/* Of a block of rows x cols all that makes whole squares of 4; the rest one by one. */
static void transpose_block(float *y, size_t ldy, const float *x, size_t ldx,
                            size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i += 4) {
        const size_t r = rows - i < 4 ? rows - i : 4;
        for (size_t j = 0; j < cols; j += 4) {
            const float *from = x + i * ldx + j;
            float *to = y + j * ldy + i;
            const size_t c = cols - j < 4 ? cols - j : 4;
            if (r == 4 && c == 4) {
                transpose_4x4(to, ldy, from, ldx);
                continue;
            }
            for (size_t k = 0; k < r; k++) {
                for (size_t l = 0; l < c; l++) {
                    to[l * ldy + k] = from[k * ldx + l];
                }
            }
        }
    }
}
#endif

void VP_NAME(transpose)(float *y, size_t ldy, const float *x, size_t ldx, size_t rows,
                        size_t cols)
{
    for (size_t c = 0; c < cols; c += BLOCK) {
        const size_t nc = cols - c < BLOCK ? cols - c : BLOCK;
        for (size_t r = 0; r < rows; r += BLOCK) {
            const size_t nr = rows - r < BLOCK ? rows - r : BLOCK;
#if defined(__AVX512F__)
            if (nc == BLOCK && nr == BLOCK) {
                transpose_16x16(y + c * ldy + r, ldy, x + r * ldx + c, ldx);
                continue;
            }
#endif
#if defined(VP_NEON_VECTORS)
            transpose_block(y + c * ldy + r, ldy, x + r * ldx + c, ldx, nr, nc);
#else
            for (size_t j = 0; j < nc; j++) {
                for (size_t i = 0; i < nr; i++) {
                    y[(c + j) * ldy + r + i] = x[(r + i) * ldx + c + j];
                }
            }
#endif
        }
    }
}
