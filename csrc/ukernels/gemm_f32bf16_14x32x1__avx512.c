/* c[rows][32] (+)= a[rows][k] b[k][32] on AVX-512, rows in 1..14: bfloat16 weights become float32
 * as they are loaded, by a shift (7 % of the speed on Zen 4, which has a better kernel).
 * SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 64
#define ROW f32
#define WEIGHT bf16
#define SUM float
#define LOAD(p)                                                                       \
    _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)(p))), \
                      16)
#define BROADCAST "vbroadcastss"
#define MULTIPLY "vfmadd231ps"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_f32bf16_14x32x1__avx512, avx512, 1024, 256)
