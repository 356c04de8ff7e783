/* c[rows][16] (+)= a[rows][k] b[k][16] in float32 on AVX2, rows in 1..6: 15 of the 16
 * registers. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 32
#define ROW f32
#define WEIGHT f32
#define SUM float
#define LOAD WHOLE
#define BROADCAST "vbroadcastss"
#define MULTIPLY "vfmadd231ps"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_f32f32_6x16x1__avx2, avx2, 1024, 256)
