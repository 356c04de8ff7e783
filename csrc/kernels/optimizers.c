/* Steps of optimizers, each one pass over memory. Source: torch.optim.AdamW, torch.optim.SGD.
 *
 * Compiled once per target. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/target.h"

/* n lanes; n == VW but in a tail. */
#define LOAD(p) (lanes == VW ? vf_load((p) + i) : vf_load_n((p) + i, lanes))

VP_INLINE void store(float *p, vf a, size_t lanes)
{
    if (lanes == VW) {
        vf_store(p, a);
    } else {
        vf_store_n(p, a, lanes);
    }
}

void VP_NAME(adamw)(float *w, float *m, float *v, const float *g, size_t n,
                    const vp_adamw *how)
{
    const vf rest1 = vf_set(how->rest1), beta2 = vf_set(how->beta2);
    const vf rest2 = vf_set(how->rest2), decay = vf_set(how->decay);
    const vf step = vf_set(how->step), root = vf_set(how->root), eps = vf_set(how->eps);
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf vg = LOAD(g), vw = LOAD(w), before = LOAD(m);
        const vf vm = vf_fma(rest1, vf_sub(vg, before), before);
        const vf vv = vf_fma(vf_mul(rest2, vg), vg, vf_mul(beta2, LOAD(v)));
        const vf ratio = vf_div(vm, vf_fma(root, vf_sqrt(vv), eps));
        /* the two parts before w: 1 - lr weight_decay would lose most of a small product */
        const vf change = vf_fma(step, ratio, vf_mul(decay, vw));
        store(m + i, vm, lanes);
        store(v + i, vv, lanes);
        store(w + i, vf_sub(vw, change), lanes);
    }
}

void VP_NAME(sgd)(float *w, float *buf, const float *g, size_t n, const vp_sgd *how)
{
    const vf lr = vf_set(how->lr), momentum = vf_set(how->momentum);
    const vf decay = vf_set(how->decay), scale = vf_set(how->scale);
    const bool nesterov = how->nesterov;
    for (size_t i = 0; i < n; i += VW) {
        const size_t lanes = n - i < VW ? n - i : VW;
        const vf vw = LOAD(w);
        const vf d = vf_mul(scale, vf_fma(decay, vw, LOAD(g)));
        const vf b = vf_fma(momentum, LOAD(buf), d);
        const vf step = nesterov ? vf_fma(momentum, b, d) : b;
        store(buf + i, b, lanes);
        store(w + i, vf_fnma(lr, step, vw), lanes);
    }
}
