/* c[rows][16] (+)= a[rows][k] b[k][16] on NEON, rows in 1..6: bfloat16 weights become float32 a panel
 * at a time, by a shift. SPDX-License-Identifier: Apache-2.0 */
#define WEIGHT bf16
#define LOW(x) vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16))
#define HIGH(x) vreinterpretq_f32_u32(vshll_high_n_u16(x, 16))

#include "ukernels/widen.h"

STEPS_UKR(vp_gemm_f32bf16_6x16x1__neon, neon, 1024, 256)
