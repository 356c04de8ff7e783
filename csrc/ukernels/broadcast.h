/* The micro-kernel that takes activations where they lie: two vectors of b and one broadcast
 * of a per row feed 2 * rows accumulators. A broadcast costs a load port only, and rows + 2
 * loads for 2 * rows multiply-adds leave the load ports idle a third of the time and more;
 * nobody packs. Heights are mixed by the caller so that no row is padding. A prefetch every
 * UNROLL steps of k walks through the panel that comes next, whose weights are still in memory.
 *
 * A source defines VECTOR, PS(op), the intrinsic of that vector, HEIGHTS(X), X(1) to X(MR),
 * includes this once, and ends with BROADCAST_UKR. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_BROADCAST_H
#define VP_UKERNELS_BROADCAST_H

#include <immintrin.h>

#include "ukernels/ukr.h"

#define LANES (sizeof(VECTOR) / sizeof(float))
#define NR (2 * LANES)
/* Steps of k a turn: on Intel's cores the additions that move the pointers take turns with
 * the multiply-adds. */
#define UNROLL 4
#define ROWS_END (1 << 24) /* of the floats that assembly may read: any number */

/* Row r's accumulators += its number at `where` times b0, b1. In assembly, since gcc 12 moves
 * intrinsics about until it copies or spills accumulators (8 % of the kernel for AVX2). Rows
 * are addressed from one pointer in every three, [p], [p + lda], [p + 2 lda]: one pointer a row
 * would be too many registers, and additions. */
#define ROW(where, step)                                                              \
    __asm__("vbroadcastss " where ", %2\n\t"                                          \
            "vfmadd231ps %3, %2, %0\n\t"                                              \
            "vfmadd231ps %4, %2, %1"                                                  \
            : "+v"(acc[r][0]), "+v"(acc[r][1]), "=&v"(x)                              \
            : "v"(b0), "v"(b1), "r"(p[r / 3]), "r"(lda), "i"((step) * sizeof(float)), \
              "m"(*(const float (*)[ROWS_END])p[r / 3]))

#define EACH_ROW(rows) _Pragma("GCC unroll 16") for (size_t r = 0; r < (rows); r++)

#define STEP(ROWS, I)                                     \
    {                                                     \
        const VECTOR b0 = PS(load)(b + (I) * NR);         \
        const VECTOR b1 = PS(load)(b + (I) * NR + LANES); \
        EACH_ROW(ROWS)                                    \
        {                                                 \
            VECTOR x;                                     \
            if (r % 3 == 0) {                             \
                ROW("%c7(%5)", I);                        \
            } else if (r % 3 == 1) {                      \
                ROW("%c7(%5,%6,4)", I);                   \
            } else {                                      \
                ROW("%c7(%5,%6,8)", I);                   \
            }                                             \
        }                                                 \
    }
#define ADVANCE(ROWS, STEPS) \
    b += (STEPS) * NR;       \
    EACH_ROW((ROWS + 2) / 3) \
    {                        \
        p[r] += (STEPS);     \
    }

#define KERNEL(ROWS)                                                                   \
    static void kernel_##ROWS(size_t k, const float *a, size_t lda, const float *b,    \
                              float *c, size_t ldc, bool accumulate, const char *next, \
                              size_t next_step)                                        \
    {                                                                                  \
        VECTOR acc[ROWS][2];                                                           \
        EACH_ROW(ROWS)                                                                 \
        {                                                                              \
            acc[r][0] = acc[r][1] = PS(setzero)();                                     \
        }                                                                              \
        const float *p[(ROWS + 2) / 3];                                                \
        EACH_ROW((ROWS + 2) / 3)                                                       \
        {                                                                              \
            p[r] = a + 3 * r * lda;                                                    \
        }                                                                              \
        for (size_t i = 0; i < k / UNROLL; i++) {                                      \
            _mm_prefetch(next, _MM_HINT_T1);                                           \
            next += UNROLL * next_step;                                                \
            STEP(ROWS, 0)                                                              \
            STEP(ROWS, 1)                                                              \
            STEP(ROWS, 2)                                                              \
            STEP(ROWS, 3)                                                              \
            ADVANCE(ROWS, UNROLL)                                                      \
        }                                                                              \
        for (size_t i = 0; i < k % UNROLL; i++) {                                      \
            STEP(ROWS, 0)                                                              \
            ADVANCE(ROWS, 1)                                                           \
        }                                                                              \
        if (accumulate) {                                                              \
            EACH_ROW(ROWS)                                                             \
            {                                                                          \
                acc[r][0] = PS(add)(PS(load)(c + ldc * r), acc[r][0]);                 \
                acc[r][1] = PS(add)(PS(load)(c + ldc * r + LANES), acc[r][1]);         \
            }                                                                          \
        }                                                                              \
        EACH_ROW(ROWS)                                                                 \
        {                                                                              \
            PS(store)(c + ldc * r, acc[r][0]);                                         \
            PS(store)(c + ldc * r + LANES, acc[r][1]);                                 \
        }                                                                              \
    }

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

/* The function of that name, with a micro-kernel of so many rows for that target. */
#define BROADCAST_UKR(function, TARGET, ROWS)                         \
    const vp_ukr *function(void)                                      \
    {                                                                 \
        static const vp_ukr ukr = {.name = #function,                 \
                                   .target = VP_TARGET_##TARGET,      \
                                   .act = VP_DTYPE_f32,               \
                                   .weight = VP_DTYPE_f32,            \
                                   .mr = ROWS,                        \
                                   .nr = NR,                          \
                                   .kr = 1,                           \
                                   .kc = 1024,                        \
                                   .sum_piece = 256,                  \
                                   .strip_bytes = sizeof(float),      \
                                   .panel_bytes = NR * sizeof(float), \
                                   .run = run};                       \
        return &ukr;                                                  \
    }

#endif
