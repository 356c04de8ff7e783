/* Class tokens, register tokens, position embedding. SPDX-License-Identifier: Apache-2.0 */
#include "ops/tokens.h"

#include <string.h>

#define ROWS ((size_t)32)

typedef struct {
    const vp_run *run;
    const vp_tokens *tokens;
    size_t pieces;
    float *x;
    size_t ldx;
} job;

static void tokens_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_tokens *t = j->tokens;
    const size_t count = t->prefix + t->patches;
    const size_t b = item / j->pieces, first = item % j->pieces * ROWS;
    const size_t last = first + ROWS < count ? first + ROWS : count;
    for (size_t i = first; i < last; i++) {
        float *row = j->x + (b * count + i) * j->ldx;
        if (i < t->prefix) {
            const int reg = i >= t->prefix_counts[0];
            const size_t at = reg ? i - t->prefix_counts[0] : i;
            memcpy(row, t->prefix_tokens[reg] + at * t->width,
                   t->width * sizeof(float));
        }
        if (t->pos_embed != NULL && (i >= t->prefix || t->pos_on_prefix)) {
            const size_t at = t->pos_on_prefix ? i : i - t->prefix;
            j->run->kernels->add(row, t->pos_embed + at * t->width, t->width);
        }
    }
}

void vp_tokens_run(const vp_run *run, const vp_tokens *tokens, size_t batch, float *x,
                   size_t ldx)
{
    const size_t count = tokens->prefix + tokens->patches;
    job j = {run, tokens, (count + ROWS - 1) / ROWS, x, ldx};
    vp_parallel_for(run->team, batch * j.pieces, tokens_task, &j);
}

typedef struct {
    const vp_run *run;
    const vp_tokens *tokens;
    const vp_tokens_gradient *gradient;
    size_t batch;
    const float *dx;
    size_t ldx;
} gradient_job;

/* One token of all images, in their order. */
static void gradient_task(void *ctx, size_t i, size_t worker)
{
    (void)worker;
    const gradient_job *j = ctx;
    const vp_tokens *t = j->tokens;
    const size_t count = t->prefix + t->patches, width = t->width;
    float *token = NULL, *pos = j->gradient->pos_embed;
    if (i < t->prefix) {
        const int reg = i >= t->prefix_counts[0];
        token = j->gradient->prefix_tokens[reg];
        token =
            token != NULL ? token + (reg ? i - t->prefix_counts[0] : i) * width : NULL;
    }
    if (pos != NULL) {
        pos = t->pos_on_prefix ? pos + i * width
              : i >= t->prefix ? pos + (i - t->prefix) * width
                               : NULL;
    }
    for (size_t b = 0; b < j->batch; b++) {
        const float *dx = j->dx + (b * count + i) * j->ldx;
        if (token != NULL) {
            j->run->kernels->add(token, dx, width);
        }
        if (pos != NULL) {
            j->run->kernels->add(pos, dx, width);
        }
    }
}

void vp_tokens_gradient_run(const vp_run *run, const vp_tokens *tokens,
                            const vp_tokens_gradient *gradient, size_t batch,
                            const float *dx, size_t ldx)
{
    gradient_job j = {run, tokens, gradient, batch, dx, ldx};
    vp_parallel_for(run->team, tokens->prefix + tokens->patches, gradient_task, &j);
}
