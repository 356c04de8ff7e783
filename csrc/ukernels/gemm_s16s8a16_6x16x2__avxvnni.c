/* c[rows][16] (+)= a[rows][k] b[k][16] in integers of 16 and 8 bits on AVX-VNNI, rows in 1..6.
 * SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 32
#define ROW s16
#define WEIGHT s8a16
#define SUM int32_t
#define LOAD(p) _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(p)))
#define BROADCAST "vpbroadcastd"
#define MULTIPLY VEX "vpdpwssd"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_s16s8a16_6x16x2__avxvnni, avxvnni, VP_MOST_INT_INPUTS,
          VP_MOST_INT_INPUTS)
