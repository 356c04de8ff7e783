/* Sums over a row, for sources that are compiled once per target: VW lanes times VP_CHAINS, to
 * hide the latency of an add, then across the lanes. The order depends on n alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_ROW_SUMS_H
#define VP_KERNELS_ROW_SUMS_H

#include "kernels/simd.h"

#define VP_CHAINS 4
/* Terms of a row that one chain of vectors sums before the pieces are added: rounding
 * errors grow with the length of a chain. */
#define VP_PIECE ((size_t)512)

/* The sums of d = x[i] - shift and of its square over a row. */
VP_INLINE void row_sums(const float *x, size_t n, float shift, float *sum,
                        float *squares)
{
    const vf zero = vf_set(0.0f), vshift = vf_set(shift);
    vf all_sums = zero, all_squares = zero;
    for (size_t start = 0; start < n; start += VP_PIECE) {
        const size_t end = n - start < VP_PIECE ? n : start + VP_PIECE;
        vf s[VP_CHAINS], q[VP_CHAINS];
        for (size_t c = 0; c < VP_CHAINS; c++) {
            s[c] = q[c] = zero;
        }
        size_t i = start;
        for (; i + VP_CHAINS * VW <= end; i += VP_CHAINS * VW) {
            for (size_t c = 0; c < VP_CHAINS; c++) {
                const vf d = vf_sub(vf_load(x + i + c * VW), vshift);
                s[c] = vf_add(s[c], d);
                q[c] = vf_fma(d, d, q[c]);
            }
        }
        for (; i + VW <= end; i += VW) {
            const vf d = vf_sub(vf_load(x + i), vshift);
            s[0] = vf_add(s[0], d);
            q[0] = vf_fma(d, d, q[0]);
        }
        if (i < end) {
            const vf v = vf_sub(vf_load_n(x + i, end - i), vshift);
            const vf d = vf_keep(v, end - i, zero);
            s[1] = vf_add(s[1], d);
            q[1] = vf_fma(d, d, q[1]);
        }
        all_sums = vf_add(all_sums, vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
        all_squares =
            vf_add(all_squares, vf_add(vf_add(q[0], q[1]), vf_add(q[2], q[3])));
    }
    *sum = vf_sum(all_sums);
    *squares = vf_sum(all_squares);
}

#endif
