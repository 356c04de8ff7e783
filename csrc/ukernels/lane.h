/* The micro-kernel that takes rows where they lie, as broadcast.h's does, where multiply-adds
 * take one operand from a lane of a vector: 16 bytes of each row are loaded at once, and are the
 * lanes of four steps of k. So a number of a row costs a quarter of a load and no register of
 * its own, and four vectors of b feed 4 * rows accumulators: for 6 rows 24 of the 32 registers,
 * 6 hold rows, 2 hold b. A turn is 4 steps, 16 vectors of b and 6 of rows for 96 multiply-adds.
 *
 * A source defines ROW, WEIGHT and SUM as for broadcast.h, and
 *
 *     LOAD                   the instructions that make b0 and b1 of the half of a step of b that lies
 *                            at [p, from], as LINEs: 8 columns
 *     MULTIPLY               the instructions that multiply a step of a row with such a half, as
 *                            LINEs: c0 and c1, the sums of columns 0 to 3 and 4 to 7, += b0 and
 *                            b1 times lane `at` of a; `first` and `second` are the lanes 2 at
 *                            and 2 at + 1, of a's numbers of 16 bits
 *
 *     LANES_IN               "x" where lanes are of 16 bits, which an instruction takes of the first
 *                            16 registers only; else nothing
 *
 * It includes this once, and ends with STEPS_UKR. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_LANE_H
#define VP_UKERNELS_LANE_H

#include <arm_neon.h>

#define VECTOR_BYTES 16
#define VECTORS 4
#include "ukernels/steps.h"

#define MR 6
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define LINE(instruction, operands) instruction " " operands "\n\t"

#if !defined(LANES_IN)
#define LANES_IN "w"
#endif

/* 16 bytes of a row, which lies at any float. */
typedef SUM row_vector __attribute__((vector_size(16), may_alias, aligned(4)));
typedef int32_t row_step __attribute__((may_alias));

#define EACH_ROW(rows) _Pragma("GCC unroll 16") for (size_t r = 0; r < (rows); r++)
#define EACH_VECTOR _Pragma("GCC unroll 16") for (size_t v = 0; v < VECTORS; v++)

/* Half h of step I of b, which is multiplied with lane AT of the rows. It is assembly that stays in
 * its order, and b in two registers that have names, since gcc 12 loads all of b that it sees
 * before it multiplies, or takes other registers for each half, and then spills sums. */
#define HALF_STEP(ROWS, I, AT, H)                                                    \
    {                                                                                \
        register vector b0 __asm__("v30"), b1 __asm__("v31");                        \
        __asm__ volatile(LOAD                                                        \
                         : [b0] "=&w"(b0), [b1] "=&w"(b1)                            \
                         : [p] "r"(b), [from] "i"((2 * (I) + (H)) * STEP_BYTES / 2), \
                           "m"(*(const char (*)[LANES * STEP_BYTES]) b));            \
        EACH_ROW(ROWS)                                                               \
        {                                                                            \
            __asm__ volatile(                                                        \
                MULTIPLY                                                             \
                : [c0] "+w"(acc[r][2 * (H)]), [c1] "+w"(acc[r][2 * (H) + 1])         \
                : [b0] "w"(b0), [b1] "w"(b1), [a] LANES_IN(x[r]), [at] "i"(AT),      \
                  [first] "i"(2 * (AT)), [second] "i"(2 * (AT) + 1));                \
        }                                                                            \
    }
/* x = the next 16 bytes of a row; compilers would move each pointer by an instruction of its own. */
#define NEXT(x, p)                                \
    __asm__ volatile(LINE("ldr", "%q0, [%1], 16") \
                     : "=w"(x), "+r"(p)           \
                     : "m"(*(const row_vector *)(p)))
#define STEP(ROWS, I, AT)     \
    HALF_STEP(ROWS, I, AT, 0) \
    HALF_STEP(ROWS, I, AT, 1)

#define KERNEL(ROWS)                                                                  \
    static void kernel_##ROWS(size_t steps, const char *a, size_t lda, const char *b, \
                              SUM *c, size_t ldc, bool accumulate, const char *next,  \
                              size_t next_step)                                       \
    {                                                                                 \
        vector acc[ROWS][VECTORS];                                                    \
        const char *p[ROWS];                                                          \
        EACH_ROW(ROWS)                                                                \
        {                                                                             \
            EACH_VECTOR acc[r][v] = (vector){0};                                      \
            p[r] = a + r * lda * 4;                                                   \
        }                                                                             \
        for (size_t i = 0; i < steps / LANES; i++) {                                  \
            vector x[ROWS];                                                           \
            EACH_ROW(ROWS)                                                            \
            {                                                                         \
                NEXT(x[r], p[r]);                                                     \
            }                                                                         \
            __builtin_prefetch(next, 0, 2);                                           \
            next += LANES * next_step;                                                \
            STEP(ROWS, 0, 0)                                                          \
            STEP(ROWS, 1, 1)                                                          \
            STEP(ROWS, 2, 2)                                                          \
            STEP(ROWS, 3, 3)                                                          \
            b += LANES * STEP_BYTES;                                                  \
        }                                                                             \
        _Pragma("GCC unroll 1") for (size_t i = 0; i < steps % LANES; i++)            \
        {                                                                             \
            vector x[ROWS];                                                           \
            EACH_ROW(ROWS)                                                            \
            {                                                                         \
                x[r] = (vector)(int32x4_t){*(const row_step *)p[r]};                  \
                p[r] += 4;                                                            \
            }                                                                         \
            STEP(ROWS, 0, 0)                                                          \
            b += STEP_BYTES;                                                          \
        }                                                                             \
        if (accumulate) {                                                             \
            EACH_ROW(ROWS)                                                            \
            {                                                                         \
                EACH_VECTOR acc[r][v] += WHOLE(c + ldc * r + v * LANES);              \
            }                                                                         \
        }                                                                             \
        EACH_ROW(ROWS)                                                                \
        {                                                                             \
            EACH_VECTOR *(vector *)(c + ldc * r + v * LANES) = acc[r][v];             \
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
#undef CASE
    default:
        break;
    }
}

#endif
