/* Steps of optimizers on one parameter's numbers, in place, over the process's threads. Source:
 * torch.optim.AdamW, torch.optim.SGD, LARS of https://github.com/facebookresearch/mae
 * (util/lars.py). No two arrays overlap. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_OPTIMIZER_H
#define VP_MODEL_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    double step; /* from 1 */
} vp_adamw_options;

/* w[n] -= , with the moments m[n], v[n] (zeros before the first step), from g[n]. */
void vp_adamw_step(float *w, float *m, float *v, const float *g, size_t n,
                   const vp_adamw_options *options);

typedef struct {
    double lr, momentum, weight_decay;
    bool nesterov; /* SGD alone */
    double
        trust; /* LARS alone; 0: neither a trust ratio nor weight decay, as of biases */
} vp_sgd_options;

/* w[n] -= , with the momentum's buf[n] (zeros before the first step), from g[n]. */
void vp_sgd_step(float *w, float *buf, const float *g, size_t n,
                 const vp_sgd_options *options);
void vp_lars_step(float *w, float *buf, const float *g, size_t n,
                  const vp_sgd_options *options);

/* The sum of the squares of g[n], in double, in an order that depends on n alone. */
double vp_squares(const float *g, size_t n);

#endif
