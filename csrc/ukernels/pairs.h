/* lane.h's LOAD and MULTIPLY for rows of 16 bits and weights of 8, two inputs of a column side
 * by side. Each pair is a number of 16 bits: shifted down, its sign with it, it is the second
 * weight, shifted up before that, the first. SMLAL takes a lane of 16 bits.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_PAIRS_H
#define VP_UKERNELS_PAIRS_H

#define LANES_IN "x"
#define LOAD                                \
    LINE("ldr", "%q[b1], [%[p], %c[from]]") \
    LINE("shl", "%[b0].8h, %[b1].8h, 8")    \
    LINE("sshr", "%[b1].8h, %[b1].8h, 8")   \
    LINE("sshr", "%[b0].8h, %[b0].8h, 8")
#define MULTIPLY                                            \
    LINE("smlal", "%[c0].4s, %[b0].4h, %[a].h[%c[first]]")  \
    LINE("smlal2", "%[c1].4s, %[b0].8h, %[a].h[%c[first]]") \
    LINE("smlal", "%[c0].4s, %[b1].4h, %[a].h[%c[second]]") \
    LINE("smlal2", "%[c1].4s, %[b1].8h, %[a].h[%c[second]]")

#include "ukernels/lane.h"

#endif
