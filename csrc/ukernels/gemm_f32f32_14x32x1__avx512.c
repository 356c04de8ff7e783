/* c[rows][32] (+)= a[rows][k] b[k][32] in float32 on AVX-512, rows in 1..14: 31 of the 32
 * registers. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR __m512
#define PS(op) _mm512_##op##_ps
#define HEIGHTS(X) \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)

#include "ukernels/broadcast.h"

BROADCAST_UKR(vp_gemm_f32f32_14x32x1__avx512, avx512, 14)
