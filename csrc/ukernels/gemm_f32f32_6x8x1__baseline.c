/* c[rows][8] (+)= a[rows][k] b[k][8] in plain C, rows in 1..6: float32 where there is neither BLIS
 * nor a kernel of the CPU's own. SPDX-License-Identifier: Apache-2.0 */
#define ROW f32
#define WEIGHT f32
#define SUM float
#define LOAD WHOLE
#define MULTIPLY TIMES_FLOAT

#include "ukernels/portable.h"

STEPS_UKR(vp_gemm_f32f32_6x8x1__baseline, baseline, 1024, 256)
