/* The activations and their slopes, on a vector. For sources that are compiled once per
 * target. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_ACT_H
#define VP_KERNELS_ACT_H

#include "kernels/kernels.h"
#include "kernels/simd.h"

/* The normal distribution's Phi(x) = (1 + erf(x / sqrt 2)) / 2. Phi(-|x|) = 2^m with m =
 * -1 + |x| q(|x|), and Phi(|x|) is one minus that. q and 2^r on [-1/2, 1/2] are our own
 * minimax fits: 3.7e-8 (1 + x^2) up to 5.65 and 7e-8 of the value, x^2 being what half an ulp
 * of x alone makes of it. From there q falls on, to m = -127 at 11.355: nothing. */
VP_INLINE vf vf_phi(vf x)
{
    const vf z = vf_min(vf_set(11.355f), vf_abs(x)); /* NaN passes, as in vf_exp */
    const vf z2 = vf_mul(z, z);
    /* both in pairs (Estrin): half the latency of a chain */
#define PAIR(b, a) vf_fma(vf_set(b), z, vf_set(a))
    vf q = PAIR(-0x1.962386p-26f, 0x1.83b184p-21f);
    q = vf_fma(q, z2, PAIR(-0x1.3db7a6p-17f, 0x1.1b767ap-14f));
    q = vf_fma(q, z2, PAIR(-0x1.04f436p-12f, -0x1.0ae9ecp-14f));
    q = vf_fma(q, z2, PAIR(0x1.cc43aep-8f, -0x1.ae0076p-5f));
    q = vf_fma(q, z2, PAIR(-0x1.d63a1cp-2f, -0x1.26aedcp+0f));
#undef PAIR
    const vf shifted = vf_fma(q, z, vf_set(VP_SHIFT - 1.0f));
    /* m - n, rounded once */
    const vf r = vf_fma(q, z, vf_sub(vf_set(-1.0f), vf_whole(shifted)));
    const vf r2 = vf_mul(r, r);
#define PAIR(b, a) vf_fma(vf_set(b), r, vf_set(a))
    vf e = PAIR(0x1.5c08dcp-10f, 0x1.3d0c52p-7f);
    e = vf_fma(e, r2, PAIR(0x1.c6b6e6p-5f, 0x1.ebf918p-3f));
    e = vf_fma(e, r2, PAIR(0x1.62e428p-1f, 1.0f));
#undef PAIR
    const vf tail = vf_mul(e, vf_two_to(shifted));
    return vf_if_negative(x, tail, vf_sub(vf_set(1.0f), tail));
}

/* x / (1 + e^(-a x)) */
VP_INLINE vf vf_swish(vf x, float a)
{
    const vf e = vf_exp(vf_mul(x, vf_set(-a)));
    return vf_div(x, vf_add(e, vf_set(1.0f)));
}

/* 2 sqrt(2 / pi), and times 0.044715: the tanh form's 2 u = x (VP_TANH_1 + VP_TANH_3 x^2) */
#define VP_TANH_1 1.5957691216f
#define VP_TANH_3 (0.044715f * 1.5957691216f)

VP_INLINE vf vf_act(vf x, vp_act act)
{
    switch (act) {
    case VP_ACT_GELU:
        return vf_mul(x, vf_phi(x));
    case VP_ACT_GELU_TANH: {
        /* (1 + tanh u) / 2 = sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3) */
        const vf x2 = vf_mul(x, x);
        const vf u = vf_mul(x, vf_fma(x2, vf_set(VP_TANH_3), vf_set(VP_TANH_1)));
        const vf e = vf_exp(vf_sub(vf_set(0.0f), u));
        return vf_div(x, vf_add(e, vf_set(1.0f)));
    }
    case VP_ACT_QUICK_GELU:
        return vf_swish(x, 1.702f);
    case VP_ACT_SILU:
        return vf_swish(x, 1.0f);
    case VP_ACT_RELU:
        return vf_nan_or(x, vf_max(vf_set(0.0f), x));
    case VP_ACT_NONE:
        break;
    }
    return x;
}

/* The slope of x sigmoid(v), where dv is v's: sigmoid(v) + x dv sigmoid(v) sigmoid(-v). From
 * e^-|v| all of it comes without cancellation or overflow. */
VP_INLINE vf vf_swish_slope(vf x, vf v, vf dv)
{
    const vf t = vf_exp(vf_sub(vf_set(0.0f), vf_abs(v)));
    const vf s = vf_div(vf_set(1.0f), vf_add(t, vf_set(1.0f)));
    const vf other = vf_mul(t, s); /* sigmoid(-|v|) */
    return vf_fma(vf_mul(x, dv), vf_mul(s, other), vf_if_negative(v, other, s));
}

/* act'(x); ReLU's at 0 is 0, as torch's. At infinity it is the limit: beyond 100 no slope
 * changes, and nothing overflows below. */
VP_INLINE vf vf_act_slope(vf x, vp_act act)
{
    const vf zero = vf_set(0.0f), one = vf_set(1.0f);
    /* second operand: NaN passes */
    const vf z = vf_max(vf_set(-100.0f), vf_min(vf_set(100.0f), x));
    switch (act) {
    case VP_ACT_GELU: {
        /* Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi) */
        const vf e = vf_exp(vf_mul(vf_mul(z, z), vf_set(-0.5f)));
        return vf_fma(vf_mul(z, vf_set(0.3989422804f)), e, vf_phi(z));
    }
    case VP_ACT_GELU_TANH: {
        const vf z2 = vf_mul(z, z), a = vf_set(VP_TANH_1);
        const vf v = vf_mul(z, vf_fma(z2, vf_set(VP_TANH_3), a));
        return vf_swish_slope(z, v, vf_fma(z2, vf_set(3.0f * VP_TANH_3), a));
    }
    case VP_ACT_QUICK_GELU:
        return vf_swish_slope(z, vf_mul(z, vf_set(1.702f)), vf_set(1.702f));
    case VP_ACT_SILU:
        return vf_swish_slope(z, z, one);
    case VP_ACT_RELU:
        return vf_nan_or(x, vf_if_negative(vf_sub(zero, vf_max(zero, x)), one, zero));
    case VP_ACT_NONE:
        break;
    }
    return one;
}

/* Calls `body` with the activation as a constant, so that the choice is made once. */
#define VP_WITH_CONSTANT_ACT(act, body) \
    switch (act) {                      \
    case VP_ACT_NONE:                   \
        body(VP_ACT_NONE);              \
        break;                          \
    case VP_ACT_GELU:                   \
        body(VP_ACT_GELU);              \
        break;                          \
    case VP_ACT_GELU_TANH:              \
        body(VP_ACT_GELU_TANH);         \
        break;                          \
    case VP_ACT_QUICK_GELU:             \
        body(VP_ACT_QUICK_GELU);        \
        break;                          \
    case VP_ACT_SILU:                   \
        body(VP_ACT_SILU);              \
        break;                          \
    case VP_ACT_RELU:                   \
        body(VP_ACT_RELU);              \
        break;                          \
    }

#endif
