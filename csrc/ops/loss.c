/* Losses and their gradients.
 *
 * A loss is worked out in double, from exponentials in float32: what cancels (one minus the
 * probability of a class that is nearly sure, a logarithm of nearly one) cancels there.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/loss.h"

#include <math.h>
#include <string.h>

const char *const vp_loss_names[VP_LOSS_COUNT] = {
#define VP_LOSS_NAME(loss, name) name,
    VP_LOSSES(VP_LOSS_NAME)
#undef VP_LOSS_NAME
};

/* Logits that a work item has: some microseconds of work. */
#define ITEM ((size_t)4096)
/* Sums that run side by side. */
#define LANES 4

typedef struct {
    const vp_run *run;
    const vp_loss *loss;
    size_t pairs; /* (row, group)s an item has */
    const float *logits;
    size_t ldl;
    float *dlogits;
    size_t ldd;
    double *row_losses; /* [rows][groups] */
} job;

/* The sum of e[n] but e[not]. */
static double sum_of_others(const float *e, size_t n, size_t not)
{
    double sums[LANES] = {0.0};
    for (size_t i = 0; i < n; i++) {
        sums[i % LANES] += i == not ? 0.0 : (double)e[i];
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Each of these three: the loss of one row and group, and d, its gradient times scale; d may
 * be l. */

static double cross_entropy(const vp_kernels *kernels, const float *l, const float *t,
                            float *d, size_t n, double scale)
{
    size_t most = 0;
    for (size_t i = 1; i < n; i++) {
        most = l[i] > l[most] ? i : most;
    }
    double total = 0.0, behind = 0.0; /* sums of t, and of t (max - l) */
    for (size_t i = 0; i < n; i++) {
        if (t[i] != 0.0f) { /* a class that is no target may have -inf */
            total += t[i];
            behind += t[i] * ((double)l[most] - l[i]);
        }
    }
    if (d != l) {
        memcpy(d, l, n * sizeof(float));
    }
    float max = -INFINITY, sum = 0.0f, shrink;
    kernels->softmax_block(d, n, 1.0f, &max, &sum, &shrink); /* d = e^(l - max) */
    const double others = sum_of_others(d, n, most);
    const double share = total / (1.0 + others);
    for (size_t i = 0; i < n; i++) {
        d[i] = (float)(scale * (share * d[i] - t[i]));
    }
    return behind + total * log1p(others);
}

static double binary_cross_entropy(const float *l, const float *t, const float *w,
                                   float *d, size_t n, double scale)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double x = l[i], weight = w != NULL ? w[i] : 1.0, e = exp(-fabs(x));
        const double sigmoid = (x < 0.0 ? e : 1.0) / (1.0 + e);
        /* -log sigmoid(x) = max(-x, 0) + log(1 + e^-|x|), of (1 - t) one with -x */
        const double away = x < 0.0 ? -x * t[i] : x * (1.0 - t[i]);
        sum += weight * (away + log1p(e));
        d[i] = (float)(scale * weight * (sigmoid - t[i]));
    }
    return sum;
}

static double mse(const float *l, const float *t, const float *w, float *d, size_t n,
                  double scale)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double weight = w != NULL ? w[i] : 1.0, rest = (double)l[i] - t[i];
        sum += weight * rest * rest;
        d[i] = (float)(2.0 * scale * weight * rest);
    }
    return sum;
}

static void loss_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_loss *loss = j->loss;
    const size_t n = loss->classes, pairs = loss->rows * loss->groups;
    const size_t end = vp_min((item + 1) * j->pairs, pairs);
    for (size_t i = item * j->pairs; i < end; i++) {
        const size_t row = i / loss->groups, group = i % loss->groups;
        const float *l = j->logits + row * j->ldl + group * n;
        const float *t = loss->targets + row * n;
        float *d = j->dlogits + row * j->ldd + group * n;
        double value = 0.0;
        switch (loss->kind) {
        case VP_LOSS_CROSS_ENTROPY:
            value = cross_entropy(j->run->kernels, l, t, d, n, loss->scale);
            break;
        case VP_LOSS_BINARY_CROSS_ENTROPY:
            value = binary_cross_entropy(l, t, loss->weights, d, n, loss->scale);
            break;
        case VP_LOSS_MSE:
            value = mse(l, t, loss->weights, d, n, loss->scale);
            break;
        case VP_LOSS_COUNT:
            break;
        }
        j->row_losses[i] = loss->scale * value;
    }
}

void vp_loss_run(const vp_run *run, const vp_loss *loss, const float *logits,
                 size_t ldl, float *dlogits, size_t ldd, double *losses,
                 double *row_losses)
{
    job j = {run,    loss,      vp_max(ITEM / vp_max(loss->classes, 1), 1),
             logits, ldl,       dlogits,
             ldd,    row_losses};
    const size_t pairs = loss->rows * loss->groups;
    vp_parallel_for(run->team, vp_ceil_div(pairs, j.pairs), loss_task, &j);
    for (size_t i = 0; i < pairs; i++) {
        losses[i % loss->groups] += row_losses[i];
    }
}
