/* c[rows][16] (+)= a[rows][k] b[k][16] on NEON, rows in 1..6: float16 weights become float32 a panel
 * at a time. SPDX-License-Identifier: Apache-2.0 */
#define WEIGHT f16
#define LOW(x) vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_u16(x)))
#define HIGH(x) vcvt_high_f32_f16(vreinterpretq_f16_u16(x))

#include "ukernels/widen.h"

STEPS_UKR(vp_gemm_f32f16_6x16x1__neon, neon, 1024, 256)
