/* The backward pass of scaled dot-product attention, and its forward pass with dropout on
 * the weights. Source: torch.nn.functional.scaled_dot_product_attention.
 *
 * An item of work is one head of one image, or those that share a key head: its weights are
 * computed again for one block of queries after another, so no N x N matrix exists, and its sums
 * run in one order.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_ATTENTION_GRADIENT_H
#define VP_OPS_ATTENTION_GRADIENT_H

#include "base/drop.h"
#include "ops/attention.h"

/* nq and nk are at least 1. Dropout of the weights: weight (head h, query i, key j) of an
 * image is its number (h nq + i) nk + j. */
typedef struct {
    vp_attention
        at; /* as it ran forward, group 1; at.out is the forward pass's output where it is not
                        overwritten, or NULL: it need not be there */
    vp_drop drop;
    const float *dout; /* rows and images as at.out's strides say */
    /* Written, with the strides of at.q and of at.k and at.v (dq_image also where at.q_image
     * is 0: a query that all images share). dq, dk and dv overlap with no input. */
    float *dq, *dk, *dv;
    size_t dq_row, dq_image, dkv_row, dkv_image;
    /* [batch][heads][vp_relative_size]: the gradient of at.relative by each image, its bias' and
     * then its edges'; NULL: not wanted */
    float *drelative;
} vp_attention_gradient;

/* Numbers of one head's relative bias, with its three edges. */
static inline size_t vp_relative_size(const vp_relative *r)
{
    return (2 * r->grid[0] - 1) * (2 * r->grid[1] - 1) + 3;
}

size_t vp_attention_gradient_scratch(const vp_run *run, size_t nk, size_t dk,
                                     size_t dv);
void vp_attention_gradient_run(const vp_run *run,
                               const vp_attention_gradient *gradient);

/* at.out = dropout(softmax(scale q k^T + mask)) v. The same scratch. */
void vp_attention_dropped_run(const vp_run *run, const vp_attention *attention,
                              const vp_drop *drop);

#endif
