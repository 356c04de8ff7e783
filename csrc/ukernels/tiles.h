/* The micro-kernel of AMX's two types of low precision: c[32][32] (+)= a[32][k] b[k][32], four
 * tiles of c from two of a and two of b. Both operands lie as tiles want them. A tile of a is 64
 * bytes of 16 rows, wherever the rows are; one of b is the same k of 16 columns, of a panel whose
 * inputs lie in groups of 4 bytes, a row of a's unit: [k / group][32 columns][group]. k ends at a
 * multiple of 64 bytes.
 *
 * A step is 4 products of 16 cycles each beside 4 loads of 8: so products set the pace where one
 * operand at least comes from L1, and the 64 bytes a cycle that L2 gives at best where a strip and
 * a panel together are more than that. Each accumulator waits 52 cycles for its last product; four
 * of them hide that, two (up to 16 rows) do not. Four for two steps in turns would, and would add
 * up few rows in another order than many.
 *
 * A source defines MULTIPLY, the instruction's intrinsic, KR, what 64 bytes hold of a row, and
 * CONVERT, its vp_ukr's convert or NULL; includes this once, and ends with TILES_UKR.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_TILES_H
#define VP_UKERNELS_TILES_H

#include <string.h>

#include "kernels/simd.h"
#include "ukernels/amx.h"
#include "ukernels/ukr.h"

#define MR 32
#define NR 32
#define ROW_BYTES 64                /* of a tile */
#define B_ROW_BYTES (2 * ROW_BYTES) /* of a panel: a group of all columns */
#define B_STEP_BYTES (16 * B_ROW_BYTES)

/* Fetches the cache lines that begin in the next `bytes` of the panel ahead, which is not
 * needed before the strips of this one: into L2. Returns where they end. */
VP_INLINE const char *fetch(const char *next, size_t bytes)
{
    const char *end = next + bytes;
    for (next += -(uintptr_t)next % VP_ALIGN; next < end; next += VP_ALIGN) {
        _mm_prefetch(next, _MM_HINT_T1);
    }
    return end;
}

/* Rows of a are lda bytes apart, those of c ldc bytes. */
VP_INLINE void kernel(size_t rows, size_t steps, const char *a, size_t lda,
                      const char *b, char *c, size_t ldc, int halves, bool accumulate,
                      const char *next, size_t next_bytes)
{
    char *lower = c + 16 * ldc;
    if (accumulate) {
        _tile_loadd(0, c, ldc);
        _tile_loadd(1, c + ROW_BYTES, ldc);
        if (halves == 2) {
            _tile_loadd(2, lower, ldc);
            _tile_loadd(3, lower + ROW_BYTES, ldc);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; steps > 0; steps--) {
        _tile_loadd(4, a, lda);
        _tile_loadd(6, b, B_ROW_BYTES);
        MULTIPLY(0, 4, 6);
        next = fetch(next, next_bytes / 2);
        _tile_loadd(7, b + ROW_BYTES, B_ROW_BYTES);
        MULTIPLY(1, 4, 7);
        next = fetch(next, next_bytes - next_bytes / 2);
        if (halves == 2) {
            _tile_loadd(5, a + 16 * lda, lda);
            MULTIPLY(2, 5, 6);
            MULTIPLY(3, 5, 7);
        }
        a += ROW_BYTES;
        b += B_STEP_BYTES;
    }
    /* Where sums go on, the rows behind the last are somebody else's. */
    char own[16 * B_ROW_BYTES] __attribute__((aligned(64)));
    const bool part = accumulate && rows % 16 != 0;
    char *last = halves == 2 ? lower : c, *to = part ? own : last;
    const size_t stride = part ? B_ROW_BYTES : ldc;
    if (halves == 2) {
        _tile_stored(0, c, ldc);
        _tile_stored(1, c + ROW_BYTES, ldc);
        _tile_stored(2, to, stride);
        _tile_stored(3, to + ROW_BYTES, stride);
    } else {
        _tile_stored(0, to, stride);
        _tile_stored(1, to + ROW_BYTES, stride);
    }
    for (size_t r = 0; part && r < rows % 16; r++) {
        memcpy(last + r * ldc, own + r * B_ROW_BYTES, B_ROW_BYTES);
    }
}

static void run(const vp_ukr *ukr, size_t rows, size_t k, const void *a, size_t lda,
                const void *b, float *c, size_t ldc, bool accumulate, vp_ahead *ahead)
{
    (void)ukr;
    const size_t steps = vp_ceil_div(k, KR), next_bytes = KR * ahead->step;
    const char *next = (const char *)ahead->panel + ahead->done;
    ahead->done += steps * next_bytes;
    lda *= sizeof(float);
    ldc *= sizeof(float);
    if (rows <= 16) {
        kernel(rows, steps, a, lda, b, (char *)c, ldc, 1, accumulate, next, next_bytes);
    } else {
        kernel(rows, steps, a, lda, b, (char *)c, ldc, 2, accumulate, next, next_bytes);
    }
}

/* The function of that name, with a micro-kernel for rows and weights of those types, whose blocks
 * have KC inputs. The sums of a block go on from those of the one before: k / KR of them are added
 * one after the other, which is a short chain, so pieces are as long as blocks. */
#define TILES_UKR(function, ROWS, WEIGHT, KC)                        \
    const vp_ukr *function(void)                                     \
    {                                                                \
        static const vp_ukr ukr = {.name = #function,                \
                                   .target = VP_TARGET_amx,          \
                                   .rows = VP_ROWS_##ROWS,           \
                                   .weight = VP_DTYPE_##WEIGHT,      \
                                   .mr = MR,                         \
                                   .nr = NR,                         \
                                   .kr = KR,                         \
                                   .group = KR * 4 / ROW_BYTES,      \
                                   .kc = KC,                         \
                                   .sum_piece = KC,                  \
                                   .strip_bytes = ROW_BYTES / KR,    \
                                   .panel_bytes = B_STEP_BYTES / KR, \
                                   .convert = CONVERT,               \
                                   .run = run,                       \
                                   .enter = vp_amx_enter,            \
                                   .leave = vp_amx_leave};           \
        return &ukr;                                                 \
    }

#endif
