/* What broadcast.h and portable.h know of the types that a source defines: the steps that k is
 * taken in, 4 bytes of each row, the shape of a tile, and the vp_ukr. Their comments have the
 * names. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_STEPS_H
#define VP_UKERNELS_STEPS_H

#include "ukernels/ukr.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

enum {
#define WEIGHT_SIZE(name, bytes, title) WEIGHT_BYTES_##name = (bytes),
#define ROW_SIZE(name, bytes) ROW_BYTES_##name = (bytes),
    VP_DTYPES(WEIGHT_SIZE) VP_ROW_TYPES(ROW_SIZE)
#undef WEIGHT_SIZE
#undef ROW_SIZE
        ROW_BYTES = JOIN(ROW_BYTES_, ROW),
    WEIGHT_BYTES = JOIN(WEIGHT_BYTES_, WEIGHT),
    KR = 4 / ROW_BYTES, /* numbers of a row in a step */
    LANES = VECTOR_BYTES / 4,
    NR = 2 * LANES,
    STEP_BYTES = NR * KR * WEIGHT_BYTES /* of b */
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
                                   .kc = (KC),                        \
                                   .sum_piece = (SUM_PIECE),          \
                                   .strip_bytes = ROW_BYTES,          \
                                   .convert = CONVERT,                \
                                   .panel_bytes = NR * WEIGHT_BYTES,  \
                                   .run = run};                       \
        return &ukr;                                                  \
    }

#endif
