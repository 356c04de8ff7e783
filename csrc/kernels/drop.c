/* Dropout's masks: base/drop.h's numbers, VW at a time.
 *
 * Compiled once per target. Integers are the compiler's own vectors, as wide as the target's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/drop.h"
#include "kernels/target.h"

typedef uint32_t vu __attribute__((vector_size(VW * sizeof(uint32_t))));
typedef int32_t vi __attribute__((vector_size(VW * sizeof(int32_t))));

VP_INLINE vu vu_set(uint32_t a)
{
    vu v;
    for (size_t lane = 0; lane < VW; lane++) {
        v[lane] = a;
    }
    return v;
}

/* vp_drop_bits of a vector of numbers, with the halves of its key. */
VP_INLINE vu bits_of(vu i, vu low, vu high)
{
    const vu a = vu_set(0x85ebca6bu), b = vu_set(0xc2b2ae35u);
    vu h = (i * vu_set(0x9e3779b9u)) ^ low;
    h = (h ^ (h >> 16)) * a;
    h = (h ^ (h >> 13)) * b;
    h ^= (h >> 16) ^ high;
    h = (h ^ (h >> 16)) * a;
    h = (h ^ (h >> 13)) * b;
    return (h ^ (h >> 16)) >> 8;
}

void VP_NAME(drop)(float *y, const float *x, size_t n, uint64_t key, uint32_t first,
                   float rate)
{
    const vu low = vu_set((uint32_t)key), high = vu_set((uint32_t)(key >> 32));
    const vi limit = (vi)vu_set(vp_drop_limit(rate));
    const vf scale = vf_set((float)(1.0 / (1.0 - (double)rate)));
    vu at;
    for (size_t lane = 0; lane < VW; lane++) {
        at[lane] = first + (uint32_t)lane;
    }
    for (size_t i = 0; i < n; i += VW, at += vu_set(VW)) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vi kept = (vi)bits_of(at, low, high) >= limit; /* 24 bits: no sign */
        const vf v =
            vf_mul(lanes == VW ? vf_load(x + i) : vf_load_n(x + i, lanes), scale);
        const vf masked = (vf)((vi)v & kept);
        if (lanes == VW) {
            vf_store(y + i, masked);
        } else {
            vf_store_n(y + i, masked, lanes);
        }
    }
}
