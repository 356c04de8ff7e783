/* What broadcast.h, lane.h, mmla.h and portable.h know of the types that a source defines: the
 * steps that k is taken in, 4 or 8 bytes of each row, the shape of a tile, and the vp_ukr. Their
 * comments have the names. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_STEPS_H
#define VP_UKERNELS_STEPS_H

#include "ukernels/ukr.h"

/* How many vectors a row of the tile is. */
#if !defined(VECTORS)
#define VECTORS 2
#endif

/* What run takes of b, where a source's SPLIT (vp_ukr's split_panel) makes other numbers of a panel. */
#if !defined(PANEL)
#define PANEL WEIGHT
#define SPLIT NULL
#endif

/* Bytes of each row in a step. */
#if !defined(STEP_OF_ROW)
#define STEP_OF_ROW 4
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

enum {
#define WEIGHT_SIZE(name, bytes, title) WEIGHT_BYTES_##name = (bytes),
#define ROW_SIZE(name, bytes) ROW_BYTES_##name = (bytes),
    VP_DTYPES(WEIGHT_SIZE) VP_ROW_TYPES(ROW_SIZE)
#undef WEIGHT_SIZE
#undef ROW_SIZE
        ROW_BYTES = JOIN(ROW_BYTES_, ROW),
    PANEL_BYTES = JOIN(WEIGHT_BYTES_, PANEL),
    KR = STEP_OF_ROW / ROW_BYTES, /* numbers of a row in a step */
    LANES = VECTOR_BYTES / 4,
    NR = VECTORS * LANES,
    STEP_BYTES = NR * KR * PANEL_BYTES /* of b */
};

typedef SUM vector __attribute__((vector_size(VECTOR_BYTES), may_alias));

#define WHOLE(p) (*(const vector *)(p))

/* vp_ukr's convert, where a source has one. */
#if !defined(CONVERT)
#define CONVERT NULL
#endif

/* The function of that name, with that target's micro-kernel; see vp_ukr for the rest. */
#define STEPS_UKR(function, TARGET, KC, SUM_PIECE)                    \
    const vp_ukr *function(void)                                      \
    {                                                                 \
        static const vp_ukr ukr = {.name = #function,                 \
                                   .target = VP_TARGET_##TARGET,      \
                                   .rows = JOIN(VP_ROWS_, ROW),       \
                                   .weight = JOIN(VP_DTYPE_, WEIGHT), \
                                   .mr = MR,                          \
                                   .nr = NR,                          \
                                   .kr = KR,                          \
                                   .group = KR,                       \
                                   .kc = (KC),                        \
                                   .sum_piece = (SUM_PIECE),          \
                                   .strip_bytes = ROW_BYTES,          \
                                   .convert = CONVERT,                \
                                   .split_panel = SPLIT,              \
                                   .panel_bytes = NR * PANEL_BYTES,   \
                                   .run = run};                       \
        return &ukr;                                                  \
    }

#endif
