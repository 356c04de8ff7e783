/* float32 to the types of 16 bits, and back. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/simd_int.h"
#include "kernels/target.h"

/* AVX-512's own conversion (VCVTNEPS2BF16) makes denormals 0, and so is not used. */
VP_INLINE vi to_bf16(vf x)
{
    const vi bits = vi_bits(x);
    const vi odd = vi_and(vi_shr(bits, 16), vi_set(1));
    const vi rounded = vi_add(vi_add(bits, vi_set(0x7fff)), odd);
    return vi_shr(vi_if_nan(x, vi_or(bits, vi_set(0x400000)), rounded), 16);
}

VP_INLINE void to_bf16_pair(uint16_t *y, const float *x)
{
    vi_store_16(y, to_bf16(vf_load(x)), to_bf16(vf_load(x + VW)));
}

void VP_NAME(to_bf16)(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        to_bf16_pair(y + i, x + i);
    }
    if (i < n) {
        float from[2 * VW] = {0};
        uint16_t to[2 * VW];
        memcpy(from, x + i, (n - i) * sizeof *from);
        to_bf16_pair(to, from);
        memcpy(y + i, to, (n - i) * sizeof *to);
    }
}

void VP_NAME(to_f16)(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf_store_f16(y + i, vf_load(x + i));
    }
    if (i < n) {
        uint16_t to[VW];
        vf_store_f16(to, vf_load_n(x + i, n - i));
        memcpy(y + i, to, (n - i) * sizeof *to);
    }
}

void VP_NAME(from_f16)(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf_store(y + i, vf_load_f16(x + i));
    }
    if (i < n) {
        uint16_t half[VW] = {0};
        memcpy(half, x + i, (n - i) * sizeof *half);
        vf_store_n(y + i, vf_load_f16(half), n - i);
    }
}
