/* Dropout and stochastic depth: seeded masks that depend on where a number stands, not on
 * who draws it, so that a backward pass draws them again. Source: torch.nn.Dropout,
 * timm.layers.DropPath. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_DROPOUT_H
#define VP_OPS_DROPOUT_H

#include "base/drop.h"
#include "gemm/run.h"

/* y[batch * tokens][n] = dropout(x), number row * n + column of an image; y may be x. Its own
 * backward pass: dx = dropout(dy). */
void vp_dropout_run(const vp_run *run, const vp_drop *drop, size_t batch, size_t tokens,
                    size_t n, float *y, size_t ldy, const float *x, size_t ldx);

/* What a residual branch goes through after its last linear layer, z:
 *   out = x + path(gamma * drop(z))
 * gamma: LayerScale, or NULL; path: one number of its site an image (its number 0). */
typedef struct {
    const float *gamma; /* [n] or NULL */
    vp_drop drop, path;
} vp_branch;

/* out[batch * tokens][n]; out may be x or z. */
void vp_branch_run(const vp_run *run, const vp_branch *branch, size_t batch,
                   size_t tokens, size_t n, float *out, size_t ldo, const float *x,
                   size_t ldx, const float *z, size_t ldz);

/* dz = drop(gamma * path(dout)), and dgamma[n] += sum over rows of path(dout) * drop(z).
 * dgamma and z: NULL where there is no gamma, or its gradient is not wanted. dz may be dout.
 * partial: vp_branch_gradient_floats floats. (The gradient of x is dout itself.) */
size_t vp_branch_gradient_floats(size_t batch, size_t tokens, size_t n);
void vp_branch_gradient_run(const vp_run *run, const vp_branch *branch, size_t batch,
                            size_t tokens, size_t n, float *dz, size_t lddz,
                            const float *dout, size_t lddo, const float *z, size_t ldz,
                            float *dgamma, float *partial);

#endif
