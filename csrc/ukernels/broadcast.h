/* The micro-kernel that takes rows where they lie: two vectors of b and one broadcast of a per
 * row feed 2 * rows accumulators. A broadcast costs a load port only, and rows + 2 loads for
 * 2 * rows multiply-adds leave the load ports idle a third of the time and more; nobody packs.
 * Heights are mixed by the caller so that no row is padding. A prefetch every UNROLL steps of k
 * walks through the panel that comes next, whose weights are still in memory.
 *
 * A step takes 4 bytes of each row: one float32, two bfloat16 or s16, four u8. So numbers of all
 * types go through this one loop, and differ in what a source defines:
 *
 *     VECTOR_BYTES   64 or 32
 *     ROW, WEIGHT    the types of a and b, of base/dtype.h's lists
 *     SUM            the type of c, float or int32_t
 *     LOAD(p)        half a step of b, which lies at p: WHOLE(p), or widened to a vector
 *     BROADCAST      of 4 bytes, by the instruction of the unit that multiplies: the other unit's
 *                    costs integers 5 to 25 % on Zen 4
 *     MULTIPLY       the instruction that multiplies and adds; or, where ADD is defined, the
 *                    one that multiplies, and ADD adds
 *
 * It includes this once, and ends with STEPS_UKR. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_BROADCAST_H
#define VP_UKERNELS_BROADCAST_H

#include <immintrin.h>

#include "ukernels/steps.h"

/* Of 32 or 16 registers two hold b, one of a's numbers, and one what ADD adds. */
#if VECTOR_BYTES == 64
#define MR 14
#define HEIGHTS(X) \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#else
#define MR 6
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#endif

/* Steps of k a turn: on Intel's cores the additions that move the pointers take turns with
 * the multiply-adds. */
#define UNROLL 4
#define ROWS_END (1 << 26) /* of the bytes that assembly may read: any number */

/* Before an instruction of AVX-VNNI: without it an assembler may take AVX-512's encoding, which is
 * what tests want where AVX512_VNNI is and AVX-VNNI is not (setup.py). */
#if !defined(VEX)
#define VEX "%{vex%} "
#endif

#define LINE(instruction, operands) instruction " " operands "\n\t"
/* With ADD, the second product overwrites x, and both multiplications come first: an eighth
 * faster on AVX-512 than each with its addition. */
#if defined(ADD)
#define MULTIPLY_ROW                          \
    LINE(MULTIPLY, "%[b0], %[x], %[product]") \
    LINE(MULTIPLY, "%[b1], %[x], %[x]")       \
    LINE(ADD, "%[product], %[c0], %[c0]")     \
    LINE(ADD, "%[x], %[c1], %[c1]")
#define TEMPORARIES x, product
#define WRITTEN [x] "=&v"(x), [product] "=&v"(product)
#else
#define MULTIPLY_ROW                     \
    LINE(MULTIPLY, "%[b0], %[x], %[c0]") \
    LINE(MULTIPLY, "%[b1], %[x], %[c1]")
#define TEMPORARIES x
#define WRITTEN [x] "=&v"(x)
#endif

/* Row r's accumulators += its numbers at `where` times b0, b1. In assembly, since gcc 12 moves
 * intrinsics about until it copies or spills accumulators (8 % of the kernel for AVX2). Rows
 * are addressed from one pointer in every three, [p], [p + lda], [p + 2 lda]: one pointer a row
 * would be too many registers, and additions. */
#define ROW_STEP(where, step)                                                \
    __asm__(LINE(BROADCAST, where ", %[x]") MULTIPLY_ROW                     \
            : [c0] "+v"(acc[r][0]), [c1] "+v"(acc[r][1]), WRITTEN            \
            : [b0] "v"(b0), [b1] "v"(b1), [p] "r"(p[r / 3]), [lda] "r"(lda), \
              [at] "i"((step) * 4), "m"(*(const char (*)[ROWS_END])p[r / 3]))

#define EACH_ROW(rows) _Pragma("GCC unroll 16") for (size_t r = 0; r < (rows); r++)

#define STEP(ROWS, I)                                                          \
    {                                                                          \
        const vector b0 = (vector)LOAD(b + (I) * STEP_BYTES);                  \
        const vector b1 = (vector)LOAD(b + (I) * STEP_BYTES + STEP_BYTES / 2); \
        EACH_ROW(ROWS)                                                         \
        {                                                                      \
            vector TEMPORARIES;                                                \
            if (r % 3 == 0) {                                                  \
                ROW_STEP("%c[at](%[p])", I);                                   \
            } else if (r % 3 == 1) {                                           \
                ROW_STEP("%c[at](%[p],%[lda],4)", I);                          \
            } else {                                                           \
                ROW_STEP("%c[at](%[p],%[lda],8)", I);                          \
            }                                                                  \
        }                                                                      \
    }
#define ADVANCE(ROWS, STEPS)   \
    b += (STEPS) * STEP_BYTES; \
    EACH_ROW((ROWS + 2) / 3)   \
    {                          \
        p[r] += (STEPS) * 4;   \
    }

#define KERNEL(ROWS)                                                                  \
    static void kernel_##ROWS(size_t steps, const char *a, size_t lda, const char *b, \
                              SUM *c, size_t ldc, bool accumulate, const char *next,  \
                              size_t next_step)                                       \
    {                                                                                 \
        vector acc[ROWS][2];                                                          \
        EACH_ROW(ROWS)                                                                \
        {                                                                             \
            acc[r][0] = acc[r][1] = (vector){0};                                      \
        }                                                                             \
        const char *p[(ROWS + 2) / 3];                                                \
        EACH_ROW((ROWS + 2) / 3)                                                      \
        {                                                                             \
            p[r] = a + 3 * r * lda * 4;                                               \
        }                                                                             \
        for (size_t i = 0; i < steps / UNROLL; i++) {                                 \
            _mm_prefetch(next, _MM_HINT_T1);                                          \
            next += UNROLL * next_step;                                               \
            STEP(ROWS, 0)                                                             \
            STEP(ROWS, 1)                                                             \
            STEP(ROWS, 2)                                                             \
            STEP(ROWS, 3)                                                             \
            ADVANCE(ROWS, UNROLL)                                                     \
        }                                                                             \
        for (size_t i = 0; i < steps % UNROLL; i++) {                                 \
            STEP(ROWS, 0)                                                             \
            ADVANCE(ROWS, 1)                                                          \
        }                                                                             \
        if (accumulate) {                                                             \
            EACH_ROW(ROWS)                                                            \
            {                                                                         \
                acc[r][0] += WHOLE(c + ldc * r);                                      \
                acc[r][1] += WHOLE(c + ldc * r + LANES);                              \
            }                                                                         \
        }                                                                             \
        EACH_ROW(ROWS)                                                                \
        {                                                                             \
            *(vector *)(c + ldc * r) = acc[r][0];                                     \
            *(vector *)(c + ldc * r + LANES) = acc[r][1];                             \
        }                                                                             \
    }

HEIGHTS(KERNEL)

static void run(const vp_ukr *ukr, size_t rows, size_t k, const void *a, size_t lda,
                const void *b, float *c, size_t ldc, bool accumulate, vp_ahead *ahead)
{
    (void)ukr;
    const char *next = (const char *)ahead->panel + ahead->done;
    const size_t steps = vp_ceil_div(k, KR);
    ahead->done += k * ahead->step;
    switch (rows) {
#define CASE(ROWS)                                                       \
    case ROWS:                                                           \
        kernel_##ROWS(steps, a, lda, b, (SUM *)c, ldc, accumulate, next, \
                      KR * ahead->step);                                 \
        break;
        HEIGHTS(CASE)
    default:
        break;
    }
}

#endif
