/* lane.h's LOAD and MULTIPLY for panels of float32. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_FMLA_H
#define VP_UKERNELS_FMLA_H

#define ROW f32
#define SUM float
#define LOAD LINE("ldp", "%q[b0], %q[b1], [%[p], %c[from]]")
#define MULTIPLY                                       \
    LINE("fmla", "%[c0].4s, %[b0].4s, %[a].s[%c[at]]") \
    LINE("fmla", "%[c1].4s, %[b1].4s, %[a].s[%c[at]]")

#include "ukernels/lane.h"

#endif
