/* Losses and their gradients. Source: torch.nn.functional.cross_entropy,
 * binary_cross_entropy_with_logits, mse_loss. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_LOSS_H
#define VP_OPS_LOSS_H

#include "gemm/run.h"

#define VP_LOSSES(X)                                \
    X(CROSS_ENTROPY, "cross_entropy")               \
    X(BINARY_CROSS_ENTROPY, "binary_cross_entropy") \
    X(MSE, "mse")

typedef enum {
#define VP_LOSS_ENUM(loss, name) VP_LOSS_##loss,
    VP_LOSSES(VP_LOSS_ENUM)
#undef VP_LOSS_ENUM
        VP_LOSS_COUNT,
} vp_loss_kind;

extern const char *const vp_loss_names[VP_LOSS_COUNT];

/* Every row has `groups` groups of `classes` logits: many probes side by side, each with a
 * loss of its own and the same targets. Of a row and a group, times scale:
 *   cross entropy  sum over c of -targets[c] log softmax(logits)[c]  (targets hold class
 *                  weights and label smoothing already; they need not sum to 1)
 *   binary         sum over c of -weights[c] (t log sigmoid(l) + (1 - t) log(1 - sigmoid(l)))
 *   mse            sum over c of weights[c] (l - t)^2 */
typedef struct {
    vp_loss_kind kind;
    size_t rows, classes, groups;
    const float *targets; /* [rows][classes] */
    const float *weights; /* [classes], or NULL: 1; not of cross entropy */
    float scale;          /* 1 / rows for torch's mean, for instance */
} vp_loss;

/* losses[groups] += the losses, in double, summed row by row in order; dlogits[rows][groups *
 * classes], rows ldd apart, = the gradient; it may be logits. row_losses: room for rows *
 * groups doubles. */
void vp_loss_run(const vp_run *run, const vp_loss *loss, const float *logits,
                 size_t ldl, float *dlogits, size_t ldd, double *losses,
                 double *row_losses);

#endif
