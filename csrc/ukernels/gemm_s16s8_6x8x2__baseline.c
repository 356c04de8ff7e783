/* c[rows][8] (+)= a[rows][k] b[k][8] in integers of 16 and 8 bits, in plain C, rows in 1..6.
 * SPDX-License-Identifier: Apache-2.0 */
#define ROW s16
#define WEIGHT s8
#define SUM int32_t
#define LOAD from_s8
#define MULTIPLY times_pair

#include "ukernels/portable.h"

STEPS_UKR(vp_gemm_s16s8_6x8x2__baseline, baseline, VP_MOST_INT_INPUTS,
          VP_MOST_INT_INPUTS)
