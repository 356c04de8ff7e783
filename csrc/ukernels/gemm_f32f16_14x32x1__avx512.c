/* c[rows][32] (+)= a[rows][k] b[k][32] on AVX-512, rows in 1..14: float16 weights become float32 as
 * they are loaded (7 % of the speed on Zen 4). SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 64
#define ROW f32
#define WEIGHT f16
#define SUM float
#define LOAD(p) _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(p)))
#define BROADCAST "vbroadcastss"
#define MULTIPLY "vfmadd231ps"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_f32f16_14x32x1__avx512, avx512, 1024, 256)
