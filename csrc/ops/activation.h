/* An activation by itself, gated or not, and its gradient: what vp_finish does to a tile in
 * a forward pass that keeps nothing. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_ACTIVATION_H
#define VP_OPS_ACTIVATION_H

#include "gemm/run.h"

/* h[m][n] = act(v), or act(g) * v where g is not NULL. Rows ldh, ldv (of v and g) apart; h
 * may be v. */
void vp_act_run(const vp_run *run, vp_act act, size_t m, size_t n, float *h, size_t ldh,
                const float *v, const float *g, size_t ldv);

/* dv = dh * act'(v); or, gated, dv = dh * act(g) and dg = dh * v * act'(g). Rows lddv (of dv
 * and dg), lddh, ldv apart; dv or dg may be dh. */
void vp_act_gradient_run(const vp_run *run, vp_act act, size_t m, size_t n, float *dv,
                         float *dg, size_t lddv, const float *dh, size_t lddh,
                         const float *v, const float *g, size_t ldv);

#endif
