/* Weights of 16 bits, on NEON: a panel becomes float32 in a worker's scratch (split_panel), once for
 * all strips of a block of rows, and is then multiplied as float32's are. To widen is the work of the
 * pipes that multiply, and widened as it is loaded, once a strip, a number costs up to 0.4 of what
 * it is multiplied for.
 *
 * A source defines WEIGHT, and LOW(x) and HIGH(x), the first and the last four of eight weights
 * x, a uint16x8_t, as float32. It includes this once, and ends with STEPS_UKR.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_WIDEN_H
#define VP_UKERNELS_WIDEN_H

#define PANEL f32
#define SPLIT widen

#include "ukernels/fmla.h"

static void widen(vp_ahead *panel)
{
    const uint16_t *from = panel->panel;
    float *to = panel->ready;
    for (size_t i = 0; i < panel->k * NR; i += 8) {
        const uint16x8_t x = vld1q_u16(from + i);
        vst1q_f32(to + i, LOW(x));
        vst1q_f32(to + i + 4, HIGH(x));
    }
    panel->done = panel->k;
}

#endif
