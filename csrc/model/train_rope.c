/* The gradient of mixed rope's learned frequencies. With the turned pair (p, q) of a query or key,
 * and (dp, dq) the gradient by it, that by the angle is dq p - dp q; an angle is
 * a f[0] + b f[1], of the patch's two coordinates.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/training.h"

typedef struct {
    vp_training *t;
    size_t grid[2], kv_heads;
    const float *qkv; /* turned, rows of [q: C][k][v] */
    float *to;        /* [H][D / 2] of the first axis, */
    size_t to_axis;   /* so many before the second's */
} job;

/* sums[D] += a and b times the gradient by the angles, of one head of queries or keys. */
static void add_angles(const job *j, size_t column, double *sums)
{
    const vp_pass *pass = &j->t->pass;
    const vp_config *c = pass->config;
    const size_t d = vp_config_head_dim(c), n = pass->tokens;
    const size_t prefix = vp_config_prefix(c), ld = pass->ldqkv;
    for (size_t row = 0; row < pass->batch * n; row++) {
        if (row % n < prefix) {
            continue;
        }
        const size_t patch = row % n - prefix;
        const double y = (double)(patch / j->grid[1]), x = (double)(patch % j->grid[1]);
        const float *turned = j->qkv + row * ld + column;
        const float *slope = j->t->wide + row * ld + column;
        for (size_t i = 0; i < d / 2; i++) {
            const size_t p = c->rope_rotate_half ? i : 2 * i;
            const size_t q = c->rope_rotate_half ? i + d / 2 : 2 * i + 1;
            const double angle = (double)slope[q] * (double)turned[p] -
                                 (double)slope[p] * (double)turned[q];
            sums[i] += (c->rope_xy ? x : y) * angle;
            sums[d / 2 + i] += (c->rope_xy ? y : x) * angle;
        }
    }
}

static void freqs_task(void *ctx, size_t h, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_config *c = j->t->pass.config;
    const size_t d = vp_config_head_dim(c);
    double *sums = j->t->freqs_sums + h * d;
    memset(sums, 0, d * sizeof(double));
    add_angles(j, h * d, sums);
    if (h < j->kv_heads) {
        add_angles(j, c->embed_dim + h * d, sums);
    }
    for (size_t i = 0; i < d; i++) {
        j->to[i / (d / 2) * j->to_axis + h * (d / 2) + i % (d / 2)] += (float)sums[i];
    }
}

void vp_train_rope_plan(vp_training *t, vp_arena *arena)
{
    const vp_config *c = t->pass.config;
    if (c->rope == VP_ROPE_MIXED) {
        t->freqs_sums = vp_arena_take(arena, vp_size_mul(c->embed_dim, sizeof(double)));
    }
}

void vp_train_rope_back(vp_training *t, size_t i, size_t kv_heads, const float *qkv)
{
    const vp_vit *vit = t->pass.vit;
    const vp_config *c = t->pass.config;
    const size_t half = vp_config_head_dim(c) / 2;
    float *to = vp_gradient_of(t, &vit->rope_freqs);
    if (to == NULL) {
        return;
    }
    job j = {.t = t,
             .kv_heads = kv_heads,
             .qkv = qkv,
             .to = to + i * c->num_heads * half,
             .to_axis = c->depth * c->num_heads * half};
    vp_config_grid(c, j.grid);
    if (t->request->entry == VP_ENTRY_IMAGES) {
        memcpy(j.grid, t->side, sizeof j.grid);
    }
    vp_parallel_for(t->pass.run.team, c->num_heads, freqs_task, &j);
}
