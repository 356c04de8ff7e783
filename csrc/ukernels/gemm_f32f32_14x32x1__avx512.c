/* c[rows][32] (+)= a[rows][k] b[k][32] in float32 on AVX-512, rows in 1..14.
 *
 * Two vectors of b and one broadcast of a per row feed 2 * rows accumulators; 14 rows use
 * 31 of the 32 registers. a stays row-major: a broadcast costs a load port only, and the
 * loads (rows + 2 per k) are far below what the two FMAs per row take. Heights are mixed by
 * the caller so that no row is padding. A prefetch per k walks through the panel that comes
 * next, whose weights are still in memory. SPDX-License-Identifier: Apache-2.0 */
#include <immintrin.h>

#include "ukernels/ukr.h"

#define MR 14
#define NR 32

/* Rows are addressed from one pointer in every three: [p], [p + lda], [p + 2 lda] need two
 * registers, and 14 separate row pointers would not fit. Two steps of k a turn: on Intel's
 * cores the additions that move the pointers take turns with the multiply-adds. Four steps
 * gain no more, and gcc 12 then spills accumulators. */
#define STEP(ROWS, I)                                                     \
    {                                                                     \
        const __m512 b0 = _mm512_loadu_ps(b + (I) * NR);                  \
        const __m512 b1 = _mm512_loadu_ps(b + (I) * NR + 16);             \
        _mm_prefetch(next, _MM_HINT_T1);                                  \
        next += next_step;                                                \
        _Pragma("GCC unroll 16") for (size_t r = 0; r < ROWS; r++)        \
        {                                                                 \
            const __m512 x = _mm512_set1_ps(p[r / 3][r % 3 * lda + (I)]); \
            acc[r][0] = _mm512_fmadd_ps(x, b0, acc[r][0]);                \
            acc[r][1] = _mm512_fmadd_ps(x, b1, acc[r][1]);                \
        }                                                                 \
    }
#define ADVANCE(ROWS, STEPS)                                             \
    b += (STEPS) * NR;                                                   \
    _Pragma("GCC unroll 16") for (size_t r = 0; r < (ROWS + 2) / 3; r++) \
    {                                                                    \
        p[r] += (STEPS);                                                 \
    }

#define KERNEL(ROWS)                                                                   \
    static void kernel_##ROWS(size_t k, const float *a, size_t lda, const float *b,    \
                              float *c, size_t ldc, bool accumulate, const char *next, \
                              size_t next_step)                                        \
    {                                                                                  \
        __m512 acc[ROWS][2];                                                           \
        _Pragma("GCC unroll 16") for (size_t r = 0; r < ROWS; r++)                     \
        {                                                                              \
            acc[r][0] = acc[r][1] = _mm512_setzero_ps();                               \
        }                                                                              \
        const float *p[(ROWS + 2) / 3];                                                \
        _Pragma("GCC unroll 16") for (size_t r = 0; r < (ROWS + 2) / 3; r++)           \
        {                                                                              \
            p[r] = a + 3 * r * lda;                                                    \
        }                                                                              \
        for (size_t i = 0; i < k / 2; i++) {                                           \
            STEP(ROWS, 0)                                                              \
            STEP(ROWS, 1)                                                              \
            ADVANCE(ROWS, 2)                                                           \
        }                                                                              \
        if (k % 2 != 0) {                                                              \
            STEP(ROWS, 0)                                                              \
        }                                                                              \
        if (accumulate) {                                                              \
            _Pragma("GCC unroll 16") for (size_t r = 0; r < ROWS; r++)                 \
            {                                                                          \
                acc[r][0] = _mm512_add_ps(_mm512_load_ps(c + ldc * r), acc[r][0]);     \
                acc[r][1] =                                                            \
                    _mm512_add_ps(_mm512_load_ps(c + ldc * r + 16), acc[r][1]);        \
            }                                                                          \
        }                                                                              \
        _Pragma("GCC unroll 16") for (size_t r = 0; r < ROWS; r++)                     \
        {                                                                              \
            _mm512_store_ps(c + ldc * r, acc[r][0]);                                   \
            _mm512_store_ps(c + ldc * r + 16, acc[r][1]);                              \
        }                                                                              \
    }

#define HEIGHTS(X) \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)

HEIGHTS(KERNEL)

static void run(const vp_ukr *ukr, size_t rows, size_t k, const void *a, size_t lda,
                const void *b, float *c, size_t ldc, bool accumulate, vp_ahead *ahead)
{
    (void)ukr;
    const char *next = (const char *)ahead->panel + ahead->done;
    ahead->done += k * ahead->step;
    switch (rows) {
#define CASE(ROWS)                                                          \
    case ROWS:                                                              \
        kernel_##ROWS(k, a, lda, b, c, ldc, accumulate, next, ahead->step); \
        break;
        HEIGHTS(CASE)
    default:
        break;
    }
}

const vp_ukr *vp_gemm_f32f32_14x32x1__avx512(void)
{
    static const vp_ukr ukr = {.name = "vp_gemm_f32f32_14x32x1__avx512",
                               .target = VP_TARGET_avx512,
                               .act = VP_DTYPE_f32,
                               .weight = VP_DTYPE_f32,
                               .mr = MR,
                               .nr = NR,
                               .kr = 1,
                               .kc = 1024,
                               .sum_piece = 256,
                               .strip_bytes = sizeof(float),
                               .panel_bytes = NR * sizeof(float),
                               .run = run};
    return &ukr;
}
