/* c[rows][16] (+)= a[rows][k] b[k][16] on AVX2, rows in 1..6: bfloat16 weights become float32 as
 * they are loaded, by a shift (3 % of the speed). SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 32
#define ROW f32
#define WEIGHT bf16
#define SUM float
#define LOAD(p) \
    _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_load_si128((const __m128i *)(p))), 16)
#define BROADCAST "vbroadcastss"
#define MULTIPLY "vfmadd231ps"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_f32bf16_6x16x1__avx2, avx2, 1024, 256)
