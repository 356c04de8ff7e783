/* c[rows][32] (+)= a[rows][k] b[k][32] in float32 on AVX-512, rows in 1..14: 31 of the 32
 * registers. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 64
#define ROW f32
#define WEIGHT f32
#define SUM float
#define LOAD WHOLE
#define BROADCAST "vbroadcastss"
#define MULTIPLY "vfmadd231ps"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_f32f32_14x32x1__avx512, avx512, 1024, 256)
