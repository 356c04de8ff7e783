/* c[rows][32] (+)= a[rows][k] b[k][32] in integers of 16 and 8 bits on AVX512_VNNI, rows in 1..14.
 * SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 64
#define ROW s16
#define WEIGHT s8a16
#define SUM int32_t
#define LOAD(p) _mm512_cvtepi8_epi16(_mm256_load_si256((const __m256i *)(p)))
#define BROADCAST "vpbroadcastd"
#define MULTIPLY "vpdpwssd"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_s16s8a16_14x32x2__avx512vnni, avx512vnni, VP_MOST_INT_INPUTS,
          VP_MOST_INT_INPUTS)
