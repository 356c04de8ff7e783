/* c[rows][8] (+)= a[rows][k] b[k][8] in plain C, rows in 1..6: float16 weights become float32 as
 * they are loaded. SPDX-License-Identifier: Apache-2.0 */
#define ROW f32
#define WEIGHT f16
#define SUM float
#define LOAD from_f16
#define MULTIPLY TIMES_FLOAT

#include "ukernels/portable.h"

STEPS_UKR(vp_gemm_f32f16_6x8x1__baseline, baseline, 1024, 256)
