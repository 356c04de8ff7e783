/* The micro-kernel of ARM's matrix instructions, which multiply 8 bytes of two rows with 8 bytes of
 * two columns, and add to four sums: c[rows][16] (+)= a[rows][k] b[k][16]. Rows are taken where they
 * lie: of two of them 16 bytes each are loaded and zipped into two pairs of 8, and so are two steps
 * of k. Of a panel [k / group][16][group] 16 bytes are a pair of columns as it is wanted. So for 6
 * rows 24 of the 32 registers are sums, 6 hold pairs of rows, 2 hold b; two steps are 16 vectors of
 * b, 6 of rows and 6 zips for 48 products. Sums leave as pairs of columns, zipped into rows.
 *
 * An odd row is paired with itself, and what that gives is not stored: the instruction sums in an
 * order of its own, and a row's sums are the same bits whatever the height.
 *
 * A source defines ROW, WEIGHT and SUM as for broadcast.h, and MULTIPLY(c, b), the LINE that
 * multiplies: c, four sums, += a, a pair of rows, times b, a pair of columns. It includes this once,
 * and ends with STEPS_UKR. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_MMLA_H
#define VP_UKERNELS_MMLA_H

#include <arm_neon.h>

#define VECTOR_BYTES 16
#define VECTORS 4
#define STEP_OF_ROW 8
#include "ukernels/steps.h"

#define MR 6
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define LINE(instruction, operands) instruction " " operands "\n\t"

#define EACH_PAIR(rows) \
    _Pragma("GCC unroll 8") for (size_t p = 0; p < ((rows) + 1) / 2; p++)
#define EACH_COLUMNS _Pragma("GCC unroll 8") for (size_t v = 0; v < NR / 2; v++)

/* 16 bytes of a row, which lies at any float. */
typedef uint8_t row_vector __attribute__((vector_size(16), may_alias, aligned(4)));

/* x0 and x1 = the first and the last 8 bytes of the next 16 of rows r0 and r1. In assembly, as all
 * that follows, that stays in its order, so that no compiler wants a register that is not there; b's
 * are free here. */
#define NEXT_PAIR(x0, x1, r0, r1)                                                     \
    {                                                                                 \
        register vector first __asm__("v30");                                         \
        __asm__ volatile(                                                             \
            LINE("ldr", "%q[row], [%[r_0]], 16") LINE("ldr", "%q[x_1], [%[r_1]], 16") \
                LINE("zip1", "%[x_0].2d, %[row].2d, %[x_1].2d")                       \
                    LINE("zip2", "%[x_1].2d, %[row].2d, %[x_1].2d")                   \
            : [row] "=&w"(first), [x_0] "=&w"(x0), [x_1] "=&w"(x1), [r_0] "+&r"(r0),  \
              [r_1] "+&r"(r1)                                                         \
            : "m"(*(const row_vector *)(r0)), "m"(*(const row_vector *)(r1)));        \
    }

/* Columns 4 V to 4 V + 3 of step I of b times half HALF of the rows' 16 bytes. */
#define COLUMNS(ROWS, I, HALF, V)                                                \
    {                                                                            \
        register vector b0 __asm__("v30"), b1 __asm__("v31");                    \
        __asm__ volatile(                                                        \
            LINE("ldp", "%q[b0], %q[b1], [%[p], %c[from]]")                      \
            : [b0] "=&w"(b0), [b1] "=&w"(b1)                                     \
            : [p] "r"(b), [from] "i"((I) * STEP_BYTES + (V) * 2 * VECTOR_BYTES), \
              "m"(*(const char (*)[2 * STEP_BYTES]) b));                         \
        EACH_PAIR(ROWS)                                                          \
        {                                                                        \
            __asm__ volatile(                                                    \
                MULTIPLY("c0", "b0") MULTIPLY("c1", "b1")                        \
                : [c0] "+w"(acc[p][2 * (V)]), [c1] "+w"(acc[p][2 * (V) + 1])     \
                : [b0] "w"(b0), [b1] "w"(b1), [a] "w"(x[p][HALF]));              \
        }                                                                        \
    }
#define STEP(ROWS, I, HALF)   \
    COLUMNS(ROWS, I, HALF, 0) \
    COLUMNS(ROWS, I, HALF, 1) \
    COLUMNS(ROWS, I, HALF, 2) \
    COLUMNS(ROWS, I, HALF, 3)

#define KERNEL(ROWS)                                                                  \
    static void kernel_##ROWS(size_t steps, const char *a, size_t lda, const char *b, \
                              SUM *c, size_t ldc, bool accumulate, const char *next,  \
                              size_t next_step)                                       \
    {                                                                                 \
        vector acc[(ROWS + 1) / 2][NR / 2];                                           \
        const uint8_t *row[ROWS + 1];                                                 \
        EACH_PAIR(ROWS)                                                               \
        {                                                                             \
            EACH_COLUMNS acc[p][v] = (vector){0};                                     \
            row[2 * p] = (const uint8_t *)a + 2 * p * lda * 4;                        \
            row[2 * p + 1] = row[2 * p] + (2 * p + 1 < ROWS ? lda * 4 : 0);           \
        }                                                                             \
        for (size_t i = 0; i < steps / 2; i++) {                                      \
            vector x[(ROWS + 1) / 2][2];                                              \
            EACH_PAIR(ROWS)                                                           \
            {                                                                         \
                NEXT_PAIR(x[p][0], x[p][1], row[2 * p], row[2 * p + 1]);              \
            }                                                                         \
            __builtin_prefetch(next, 0, 2);                                           \
            next += 2 * next_step;                                                    \
            STEP(ROWS, 0, 0)                                                          \
            STEP(ROWS, 1, 1)                                                          \
            b += 2 * STEP_BYTES;                                                      \
        }                                                                             \
        if (steps % 2 != 0) { /* what is behind the last step is not read */          \
            vector x[(ROWS + 1) / 2][1];                                              \
            EACH_PAIR(ROWS)                                                           \
            {                                                                         \
                x[p][0] = (vector)(vcombine_u8(vld1_u8(row[2 * p]),                   \
                                               vld1_u8(row[2 * p + 1])));             \
            }                                                                         \
            STEP(ROWS, 0, 0)                                                          \
        }                                                                             \
        _Pragma("GCC unroll 8") for (size_t r = 0; r < ROWS; r++)                     \
        {                                                                             \
            _Pragma("GCC unroll 8") for (size_t v = 0; v < VECTORS; v++)              \
            {                                                                         \
                const uint64x2_t s0 = (uint64x2_t)acc[r / 2][2 * v];                  \
                const uint64x2_t s1 = (uint64x2_t)acc[r / 2][2 * v + 1];              \
                vector sum =                                                          \
                    (vector)(r % 2 == 0 ? vzip1q_u64(s0, s1) : vzip2q_u64(s0, s1));   \
                vector *to = (vector *)(c + ldc * r) + v;                             \
                if (accumulate) {                                                     \
                    sum += *to;                                                       \
                }                                                                     \
                *to = sum;                                                            \
            }                                                                         \
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
