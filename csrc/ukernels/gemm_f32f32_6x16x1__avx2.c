/* c[rows][16] (+)= a[rows][k] b[k][16] in float32 on AVX2, rows in 1..6: 15 of the 16
 * registers. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR __m256
#define PS(op) _mm256_##op##_ps
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)

#include "ukernels/broadcast.h"

BROADCAST_UKR(vp_gemm_f32f32_6x16x1__avx2, avx2, 6)
