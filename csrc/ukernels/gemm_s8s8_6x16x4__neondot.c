/* c[rows][16] (+)= a[rows][k] b[k][16] in integers on ARM's dot products, rows in 1..6. SDOT takes
 * bytes with a sign times bytes with one, and sums four products in 32 bits, none of which
 * saturates. SPDX-License-Identifier: Apache-2.0 */
#define ROW s8
#define WEIGHT s8
#define SUM int32_t
#define LOAD LINE("ldp", "%q[b0], %q[b1], [%[p], %c[from]]")
#define MULTIPLY                                         \
    LINE("sdot", "%[c0].4s, %[b0].16b, %[a].4b[%c[at]]") \
    LINE("sdot", "%[c1].4s, %[b1].16b, %[a].4b[%c[at]]")

#include "ukernels/lane.h"

STEPS_UKR(vp_gemm_s8s8_6x16x4__neondot, neondot, VP_MOST_INT_INPUTS, VP_MOST_INT_INPUTS)
