/* c[rows][16] (+)= a[rows][k] b[k][16] in float32 on NEON, rows in 1..6: all 32 registers.
 * SPDX-License-Identifier: Apache-2.0 */
#define WEIGHT f32

#include "ukernels/fmla.h"

STEPS_UKR(vp_gemm_f32f32_6x16x1__neon, neon, 1024, 256)
