/* c[rows][32] (+)= a[rows][k] b[k][32] in integers on AVX512_VNNI, rows in 1..14. VPDPBUSD takes
 * bytes without a sign times bytes with one, and sums four products in 32 bits, none of which
 * saturates. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 64
#define ROW u8
#define WEIGHT s8
#define SUM int32_t
#define LOAD WHOLE
#define BROADCAST "vpbroadcastd"
#define MULTIPLY "vpdpbusd"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_u8s8_14x32x4__avx512vnni, avx512vnni, VP_MOST_INT_INPUTS,
          VP_MOST_INT_INPUTS)
