/* c[rows][32] (+)= a[rows][k] b[k][32] in integers of 16 and 8 bits on AVX-512, rows in 1..14: all
 * of the 32 registers. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 64
#define ROW s16
#define WEIGHT s8
#define SUM int32_t
#define LOAD(p) _mm512_cvtepi8_epi16(_mm256_load_si256((const __m256i *)(p)))
#define BROADCAST "vpbroadcastd"
#define MULTIPLY "vpmaddwd"
#define ADD "vpaddd"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_s16s8_14x32x2__avx512, avx512, VP_MOST_INT_INPUTS, VP_MOST_INT_INPUTS)
