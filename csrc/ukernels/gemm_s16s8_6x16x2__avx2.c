/* c[rows][16] (+)= a[rows][k] b[k][16] in integers of 16 and 8 bits on AVX2, rows in 1..6: all of
 * the 16 registers. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 32
#define ROW s16
#define WEIGHT s8
#define SUM int32_t
#define LOAD(p) _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(p)))
#define BROADCAST "vpbroadcastd"
#define MULTIPLY "vpmaddwd"
#define ADD "vpaddd"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_s16s8_6x16x2__avx2, avx2, VP_MOST_INT_INPUTS, VP_MOST_INT_INPUTS)
