/* c[rows][32] (+)= a[rows][k] b[k][32] in float32 on AVX-512, rows in 1..14: 31 of the 32
 * registers. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR __m512
#define PS(op) _mm512_##op##_ps
#define HEIGHTS(X) \
    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)

#include "ukernels/broadcast.h"

const vp_ukr *vp_gemm_f32f32_14x32x1__avx512(void)
{
    static const vp_ukr ukr = {.name = "vp_gemm_f32f32_14x32x1__avx512",
                               .target = VP_TARGET_avx512,
                               .act = VP_DTYPE_f32,
                               .weight = VP_DTYPE_f32,
                               .mr = 14,
                               .nr = NR,
                               .kr = 1,
                               .kc = 1024,
                               .sum_piece = 256,
                               .strip_bytes = sizeof(float),
                               .panel_bytes = NR * sizeof(float),
                               .run = run};
    return &ukr;
}
