/* c[rows][16] (+)= a[rows][k] b[k][16] in bfloat16 on ARM's BF16, rows in 1..6. BFMMLA adds two
 * products, and that to the sum, and once more; each addition is rounded to odd, denormal numbers
 * are 0. So sums are not VDPBF16PS's in the last bits, though of the same numbers.
 *
 * Rows become bfloat16 by BFCVTN, one instruction for 4 numbers: to nearest, ties to even, denormals
 * and the tops of NaNs' payloads kept, as kernels.h's to_bf16. SPDX-License-Identifier: Apache-2.0 */
#define ROW bf16
#define WEIGHT bf16
#define SUM float
#define MULTIPLY(c, b) LINE("bfmmla", "%[" c "].4s, %[a].8h, %[" b "].8h")
#define CONVERT convert

#include <string.h>

#include "ukernels/mmla.h"

static inline void convert_8(uint16_t *to, const float *x)
{
    const bfloat16x8_t half = vcvtq_low_bf16_f32(vld1q_f32(x));
    vst1q_u16(to, vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(half, vld1q_f32(x + 4))));
}

static void convert(void *row, const float *x, size_t k)
{
    uint16_t *to = row;
    size_t i = 0;
    for (; i + 8 <= k; i += 8) {
        convert_8(to + i, x + i);
    }
    if (i < k) {
        float from[8] = {0};
        uint16_t rest[8];
        memcpy(from, x + i, (k - i) * sizeof *from);
        convert_8(rest, from);
        memcpy(to + i, rest, (k - i) * sizeof *rest);
    }
}

STEPS_UKR(vp_gemm_bf16bf16_6x16x4__neonbf16, neonbf16, 2048, 2048)
