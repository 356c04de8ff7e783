/* c[rows][16] (+)= a[rows][k] b[k][16] in integers of 16 and 8 bits on NEON, rows in 1..6: weights
 * are widened as they are loaded (pairs.h), and SMLAL sums their products in 32 bits.
 * SPDX-License-Identifier: Apache-2.0 */
#define ROW s16
#define WEIGHT s8a16
#define SUM int32_t

#include "ukernels/pairs.h"

STEPS_UKR(vp_gemm_s16s8a16_6x16x2__neon, neon, VP_MOST_INT_INPUTS, VP_MOST_INT_INPUTS)
