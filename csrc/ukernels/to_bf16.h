/* Rows of bfloat16 by AVX512_BF16's own instruction, one for 32 numbers: a micro-kernel's convert. It
 * takes denormals for 0, as those that multiply do. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_UKERNELS_TO_BF16_H
#define VP_UKERNELS_TO_BF16_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

static void convert(void *row, const float *x, size_t k)
{
    uint16_t *to = row;
    size_t i = 0;
    for (; i + 32 <= k; i += 32) {
        const __m512bh both =
            _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i));
        _mm512_storeu_si512(to + i, (__m512i)both);
    }
    if (i < k) {
        const __mmask32 rest = (__mmask32)((1u << (k - i)) - 1);
        const __m512 x0 = _mm512_maskz_loadu_ps((__mmask16)rest, x + i);
        const __m512 x1 = _mm512_maskz_loadu_ps((__mmask16)(rest >> 16), x + i + 16);
        _mm512_mask_storeu_epi16(to + i, rest, (__m512i)_mm512_cvtne2ps_pbh(x1, x0));
    }
}

#endif
