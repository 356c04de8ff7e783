/* c[rows][32] (+)= a[rows][k] b[k][32] in bfloat16 on AVX512_BF16, rows in 1..14. VDPBF16PS sums
 * in float32, two products a step; it takes denormal numbers as 0, and makes none.
 * SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 64
#define ROW bf16
#define WEIGHT bf16
#define SUM float
#define LOAD WHOLE
#define BROADCAST "vbroadcastss"
#define MULTIPLY "vdpbf16ps"
#define CONVERT convert

#include "ukernels/broadcast.h"
#include "ukernels/to_bf16.h"

STEPS_UKR(vp_gemm_bf16bf16_14x32x2__avx512bf16, avx512bf16, 2048, 2048)
