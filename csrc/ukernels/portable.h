/* broadcast.h's loop in plain C, for any CPU: 6 rows of 8 columns, on the vectors of 4 that GCC
 * and Clang make of what there is. A source defines
 *
 *     ROW, WEIGHT, SUM    as there
 *     LOAD(p)             half a step of b, which lies at p
 *     MULTIPLY(c, a, b)   c plus the step of a that lies at a, times such a half
 *
 * out of what is below; it includes this once, and ends with STEPS_UKR.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_PORTABLE_H
#define VP_UKERNELS_PORTABLE_H

#define VECTOR_BYTES 16
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "ukernels/steps.h"

#define MR 6
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)

typedef int32_t ints __attribute__((vector_size(16)));
typedef uint32_t words __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(8), may_alias));
typedef int16_t shorts __attribute__((vector_size(16)));
typedef int8_t bytes __attribute__((vector_size(8), may_alias));

/* -- LOAD -- */

static inline words from_bf16(const char *p)
{
    return __builtin_convertvector(*(const halves *)p, words) << 16;
}

/* With its bits where a float32 has them a float16 is 2^-112 of what it was, denormal or not;
 * infinity and NaN get the largest exponent. */
static inline words from_f16(const char *p)
{
    typedef float floats __attribute__((vector_size(16)));
    const words bits = __builtin_convertvector(*(const halves *)p, words);
    const words size = (bits & 0x7fff) << 13, sign = (bits & 0x8000) << 16;
    const words not_finite = (words)(size >= 31 << 23) & 0x7f800000;
    return (words)((floats)size * 0x1p112f) | not_finite | sign;
}

/* Four pairs of s8 as s16. */
static inline shorts from_s8(const char *p)
{
    return __builtin_convertvector(*(const bytes *)p, shorts);
}

/* -- MULTIPLY -- */

#define TIMES_FLOAT(c, a, b) ((c) + *(const float *)(a) * (b))

typedef int32_t pair_of_s16 __attribute__((may_alias));

static inline ints times_pair(ints c, const char *a, ints b)
{
#if defined(__SSE2__) /* which has no product of int32 */
    const __m128i pairs = _mm_set1_epi32(*(const pair_of_s16 *)a);
    return c + (ints)_mm_madd_epi16(pairs, (__m128i)b);
#else
    const int16_t *pair = (const int16_t *)a;
    return c + pair[0] * (b << 16 >> 16) + pair[1] * (b >> 16);
#endif
}

/* -- the kernel -- */

/* rows is a constant wherever this is inlined, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void kernel(size_t rows, size_t steps,
                                                         const char *a, size_t lda,
                                                         const char *b, SUM *c,
                                                         size_t ldc, bool accumulate)
{
    vector sum[MR][2] = {0};
    for (size_t i = 0; i < steps; i++) {
        const vector b0 = (vector)LOAD(b);
        const vector b1 = (vector)LOAD(b + STEP_BYTES / 2);
        for (size_t r = 0; r < rows; r++) {
            const char *at = a + (r * lda + i) * 4;
            sum[r][0] = MULTIPLY(sum[r][0], at, b0);
            sum[r][1] = MULTIPLY(sum[r][1], at, b1);
        }
        b += STEP_BYTES;
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t half = 0; half < 2; half++) {
            vector *to = (vector *)(c + r * ldc) + half;
            *to = sum[r][half] + (accumulate ? *to : (vector){0});
        }
    }
}

static void run(const vp_ukr *ukr, size_t rows, size_t k, const void *a, size_t lda,
                const void *b, float *c, size_t ldc, bool accumulate, vp_ahead *ahead)
{
    (void)ukr, (void)ahead;
    const size_t steps = vp_ceil_div(k, KR);
    switch (rows) {
#define CASE(ROWS)                                                 \
    case ROWS:                                                     \
        kernel(ROWS, steps, a, lda, b, (SUM *)c, ldc, accumulate); \
        break;
        HEIGHTS(CASE)
#undef CASE
    default:
        break;
    }
}

#endif
