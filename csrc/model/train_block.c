/* timm's Block, EvaBlock, Beit's Block and RelPosBlock in training, and those of them that norm
 * after a branch: a forward pass that keeps what the backward pass reads, and that
 * one. What is cheap to compute again (norms, activations, attention's weights) is not kept.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/training.h"
#include "ops/activation.h"
#include "ops/dropout.h"

size_t vp_train_mlp_width(const vp_config *c)
{
    return c->mlp == VP_MLP_SWIGLU ? 2 * c->mlp_hidden : c->mlp_hidden;
}

vp_kept vp_kept_take(const vp_training *t, vp_arena *arena)
{
    const vp_config *c = t->pass.config;
    const size_t m = t->rows;
    const bool scaled = vp_config_layer_scale(c) || vp_config_is_res_post(c);
    return (vp_kept){
        .qkv = vp_arena_floats(arena, vp_size_mul(m, t->pass.ldqkv)),
        .attn = vp_arena_floats(arena, vp_size_mul(m, t->pass.ldx)),
        .z1 = scaled ? vp_arena_floats(arena, vp_size_mul(m, t->pass.ldx)) : NULL,
        .mid = vp_arena_floats(arena, vp_size_mul(m, t->pass.ldx)),
        .hidden = vp_arena_floats(arena, vp_size_mul(m, t->ldmlp)),
        .z2 = scaled ? vp_arena_floats(arena, vp_size_mul(m, t->pass.ldx)) : NULL,
    };
}

/* Rows of block i after attention: M, or of the last block, where the class token alone is
 * read, B. In the block's input x the same rows are `from` floats apart. */
typedef struct {
    size_t tokens, m, from;
} span;

static span span_of(const vp_training *t, size_t i)
{
    const size_t n = t->pass.tokens, last = i + 1 == t->pass.config->depth;
    const size_t tokens = last ? t->out_tokens : n;
    return (span){tokens, t->pass.batch * tokens, n / tokens * t->pass.ldx};
}

/* -- residual branches -- */

/* What stands between a branch's last linear layer, `which` (0: proj, 1: fc2), and the
 * residual stream; drop path's rate grows with the block, as timm's does. */
static vp_branch branch_of(const vp_training *t, size_t i, size_t which)
{
    const vp_rates *rates = &t->request->rates;
    const vp_block *b = &t->pass.vit->blocks[i];
    const size_t depth = t->pass.config->depth;
    const vp_weight *ls = which == 0 ? b->ls1[0] : b->ls2[0];
    const double path =
        depth > 1 ? rates->drop_path * ((double)i / (double)(depth - 1)) : 0.0;
    return (vp_branch){
        .gamma = ls != NULL ? ls->plain : NULL,
        .drop = vp_drop_at(t, 8 * i + (which == 0 ? VP_SITE_PROJ : VP_SITE_FC2),
                           rates->proj_drop),
        .path =
            vp_drop_at(t, 8 * i + (which == 0 ? VP_SITE_PATH1 : VP_SITE_PATH2), path)};
}

static bool plain_branch(const vp_branch *branch)
{
    return branch->gamma == NULL && branch->drop.rate == 0.0f &&
           branch->path.rate == 0.0f;
}

/* out = x + branch(linear(a)); z keeps linear's output, NULL: nobody needs it */
static void residual(vp_training *t, span s, const vp_branch *branch,
                     const vp_linear *linear, const float *a, size_t lda, float *z,
                     float *out, const float *x, size_t ldx)
{
    vp_pass *pass = &t->pass;
    const size_t ld = pass->ldx, m = s.m;
    if (plain_branch(branch)) {
        vp_finish finish = vp_module_finish(linear, out, ld);
        finish.residual = x;
        finish.residual_stride = ldx;
        vp_module_linear(pass, linear, 0, m, a, lda, &finish);
        return;
    }
    z = z != NULL ? z : t->z;
    vp_train_linear(t, linear, m, a, lda, z, ld);
    vp_branch_run(&pass->run, branch, pass->batch, s.tokens, pass->config->embed_dim,
                  out, ld, x, ldx, z, ld);
}

/* The gradient of linear's output, from t->g: t->g itself, or t->z. */
static const float *residual_back(vp_training *t, span s, const vp_branch *branch,
                                  vp_weight *const *gamma, const float *z)
{
    vp_pass *pass = &t->pass;
    const size_t ld = pass->ldx;
    if (plain_branch(branch)) {
        return t->g;
    }
    float *dgamma = vp_gradient_of(t, gamma);
    vp_branch_gradient_run(&pass->run, branch, pass->batch, s.tokens,
                           pass->config->embed_dim, t->z, ld, t->g, ld,
                           dgamma != NULL ? z : NULL, ld, dgamma, t->partial);
    return t->z;
}

/* -- the MLP -- */

/* Columns of kept.hidden: value and, in the gated kinds, gate. */
typedef struct {
    size_t value, gate;
    bool gated;
} mlp_columns;

static mlp_columns columns_of(const vp_config *c)
{
    const size_t hidden = vp_config_hidden(c);
    switch (c->mlp) {
    case VP_MLP_GLU: /* x1 * act(x2) */
        return (mlp_columns){0, hidden, true};
    case VP_MLP_SWIGLU_PACKED: /* act(x1) * x2 */
    case VP_MLP_SWIGLU:        /* act(fc1_g) * fc1_x */
        return (mlp_columns){hidden, 0, true};
    default:
        return (mlp_columns){0, 0, false};
    }
}

static vp_drop mlp_drop(const vp_training *t, size_t i)
{
    return vp_drop_at(t, 8 * i + VP_SITE_MLP, t->request->rates.proj_drop);
}

/* kept.hidden = fc1(a) */
static void fc1(vp_training *t, span s, const vp_mlp *mlp, const vp_kept *k)
{
    const size_t m = s.m, ld = t->ldmlp;
    if (t->pass.config->mlp == VP_MLP_SWIGLU) {
        vp_train_linear(t, &mlp->fc1_g, m, t->pass.a, t->pass.ldx, k->hidden, ld);
        vp_train_linear(t, &mlp->fc1_x, m, t->pass.a, t->pass.ldx,
                        k->hidden + t->pass.config->mlp_hidden, ld);
    } else {
        vp_train_linear(t, &mlp->fc1, m, t->pass.a, t->pass.ldx, k->hidden, ld);
    }
}

/* pass.h = drop(act(kept.hidden)), and fc2's input: that, or its norm, t->normed */
static const float *fc2_input(vp_training *t, size_t i, span s, const vp_mlp *mlp,
                              const vp_kept *k)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const size_t m = s.m, hidden = vp_config_hidden(c);
    const mlp_columns at = columns_of(c);
    vp_act_run(&pass->run, c->act, m, hidden, pass->h, t->ldmlp, k->hidden + at.value,
               at.gated ? k->hidden + at.gate : NULL, t->ldmlp);
    const vp_drop drop = mlp_drop(t, i);
    if (drop.rate > 0.0f) {
        vp_dropout_run(&pass->run, &drop, pass->batch, s.tokens, hidden, pass->h,
                       t->ldmlp, pass->h, t->ldmlp);
    }
    if (mlp->norm.kind == VP_NORM_NONE) {
        return pass->h;
    }
    vp_train_norm(t, &mlp->norm, m, 1, hidden, t->normed, t->ldmlp, pass->h, t->ldmlp);
    return t->normed;
}

/* pass.h = the gradient of fc1's output, from dz, that of fc2's */
static void fc2_back(vp_training *t, size_t i, span s, const vp_mlp *mlp,
                     const vp_kept *k, const float *dz)
{
    vp_pass *pass = &t->pass;
    const vp_config *c = pass->config;
    const size_t m = s.m, hidden = vp_config_hidden(c);
    const size_t ld = t->ldmlp;
    const mlp_columns at = columns_of(c);
    const float *input = fc2_input(t, i, s, mlp, k);
    vp_train_linear_back(t, &mlp->fc2, m, dz, pass->ldx, input, ld, t->wide, ld, false);
    if (mlp->norm.kind != VP_NORM_NONE) {
        vp_train_norm_back(t, &mlp->norm, m, 1, hidden, t->wide, ld, false, t->wide, ld,
                           pass->h, ld);
    }
    const vp_drop drop = mlp_drop(t, i);
    if (drop.rate > 0.0f) {
        vp_dropout_run(&pass->run, &drop, pass->batch, s.tokens, hidden, t->wide, ld,
                       t->wide, ld);
    }
    vp_act_gradient_run(&pass->run, c->act, m, hidden, pass->h + at.value,
                        at.gated ? pass->h + at.gate : NULL, ld, t->wide, ld,
                        k->hidden + at.value, at.gated ? k->hidden + at.gate : NULL,
                        ld);
}

/* t->b = the gradient of fc1's input, pass.a, from pass.h */
static void fc1_back(vp_training *t, span s, const vp_mlp *mlp)
{
    vp_pass *pass = &t->pass;
    const size_t m = s.m, ld = pass->ldx;
    if (pass->config->mlp == VP_MLP_SWIGLU) {
        vp_train_linear_back(t, &mlp->fc1_g, m, pass->h, t->ldmlp, pass->a, ld, t->b,
                             ld, false);
        vp_train_linear_back(t, &mlp->fc1_x, m, pass->h + pass->config->mlp_hidden,
                             t->ldmlp, pass->a, ld, t->b, ld, true);
    } else {
        vp_train_linear_back(t, &mlp->fc1, m, pass->h, t->ldmlp, pass->a, ld, t->b, ld,
                             false);
    }
}

/* -- the block -- */

/* proj's input: attention's output, or its norm in pass.a */
static const float *proj_input(vp_training *t, span s, const vp_attn *attn,
                               const vp_kept *k)
{
    vp_pass *pass = &t->pass;
    if (attn->norm.kind == VP_NORM_NONE) {
        return k->attn;
    }
    vp_train_norm(t, &attn->norm, s.m, 1, pass->config->embed_dim, pass->a, pass->ldx,
                  k->attn, pass->ldx);
    return pass->a;
}

/* t->b = the gradient of attention's output, from dz, that of proj's */
static void proj_back(vp_training *t, span s, const vp_attn *attn, const vp_kept *k,
                      const float *dz)
{
    const size_t ld = t->pass.ldx;
    vp_train_linear_back(t, &attn->proj, s.m, dz, ld, proj_input(t, s, attn, k), ld,
                         t->b, ld, false);
    if (attn->norm.kind != VP_NORM_NONE) {
        vp_train_norm_back(t, &attn->norm, s.m, 1, t->pass.config->embed_dim, t->b, ld,
                           false, t->b, ld, k->attn, ld);
    }
}

/* x = x + path(ls1(attn(norm1(x)))); x = x + path(ls2(mlp(norm2(x)))) */
static void plain_block(vp_training *t, size_t i, const vp_kept *k, const float *x,
                        float *out, bool again)
{
    vp_pass *pass = &t->pass;
    const vp_block *b = &pass->vit->blocks[i];
    const vp_attn *attn = &b->attn[0];
    const span s = span_of(t, i);
    const size_t ld = pass->ldx;
    const vp_branch first = branch_of(t, i, 0), second = branch_of(t, i, 1);
    vp_module_norm(pass, &b->norm1[0], pass->batch * pass->tokens, pass->a, ld, x, ld);
    vp_train_attn(t, i, attn, s.tokens, k);
    residual(t, s, &first, &attn->proj, proj_input(t, s, attn, k), ld, k->z1, k->mid, x,
             s.from);
    vp_module_norm(pass, &b->norm2[0], s.m, pass->a, ld, k->mid, ld);
    fc1(t, s, &b->mlp[0], k);
    if (again && k->z2 == NULL) {
        return;
    }
    /* With `again` there is no output to write, so it goes where a temporary is. */
    residual(t, s, &second, &b->mlp[0].fc2, fc2_input(t, i, s, &b->mlp[0], k), t->ldmlp,
             k->z2, again ? t->b : out, k->mid, ld);
}

/* t->g[M] from its rows [B] of first tokens: zeros between them */
static void spread(vp_training *t)
{
    const size_t n = t->pass.tokens, ld = t->pass.ldx;
    for (size_t b = t->pass.batch; b-- > 0;) {
        memmove(t->g + b * n * ld, t->g + b * ld, ld * sizeof(float));
        memset(t->g + (b * n + 1) * ld, 0, (n - 1) * ld * sizeof(float));
    }
}

static void plain_block_back(vp_training *t, size_t i, const vp_kept *k, const float *x)
{
    vp_pass *pass = &t->pass;
    const vp_block *b = &pass->vit->blocks[i];
    const vp_attn *attn = &b->attn[0];
    const span s = span_of(t, i);
    const size_t m = pass->batch * pass->tokens, ld = pass->ldx;
    const size_t width = pass->config->embed_dim;
    const vp_branch first = branch_of(t, i, 0), second = branch_of(t, i, 1);
    /* x = x + path(ls2(mlp(norm2(x)))) */
    fc2_back(t, i, s, &b->mlp[0], k, residual_back(t, s, &second, &b->ls2[0], k->z2));
    vp_module_norm(pass, &b->norm2[0], s.m, pass->a, ld, k->mid, ld);
    fc1_back(t, s, &b->mlp[0]);
    vp_train_norm_back(t, &b->norm2[0], s.m, 1, width, t->g, ld, true, t->b, ld, k->mid,
                       ld);
    /* x = x + path(ls1(attn(norm1(x)))) */
    const float *dz = residual_back(t, s, &first, &b->ls1[0], k->z1);
    proj_back(t, s, attn, k, dz);
    vp_train_attn_back(t, i, attn, s.tokens, k, t->b);
    vp_module_norm(pass, &b->norm1[0], m, pass->a, ld, x, ld);
    vp_train_qkv_back(t, attn, t->b);
    if (s.tokens < pass->tokens) {
        spread(t);
    }
    vp_train_norm_back(t, &b->norm1[0], m, 1, width, t->g, ld, true, t->b, ld, x, ld);
}

/* -- blocks that norm after a branch -- */

/* z = drop(linear(a)); out = x + path(norm(z)) */
static void post_residual(vp_training *t, span s, const vp_branch *branch,
                          const vp_linear *linear, const float *a, size_t lda,
                          const vp_norm *norm, float *z, float *out, const float *x,
                          size_t ldx)
{
    vp_pass *pass = &t->pass;
    const size_t ld = pass->ldx, m = s.m, width = pass->config->embed_dim;
    const vp_branch path = {.path = branch->path};
    vp_train_linear(t, linear, m, a, lda, z, ld);
    if (branch->drop.rate > 0.0f) {
        vp_dropout_run(&pass->run, &branch->drop, pass->batch, s.tokens, width, z, ld,
                       z, ld);
    }
    if (out != NULL) {
        vp_module_norm(pass, norm, m, t->z, ld, z, ld);
        vp_branch_run(&pass->run, &path, pass->batch, s.tokens, width, out, ld, x, ldx,
                      t->z, ld);
    }
}

/* t->z = the gradient of linear's output, from t->g */
static void post_residual_back(vp_training *t, span s, const vp_branch *branch,
                               const vp_norm *norm, const float *z)
{
    vp_pass *pass = &t->pass;
    const size_t ld = pass->ldx, width = pass->config->embed_dim;
    const vp_branch path = {.path = branch->path};
    vp_branch_gradient_run(&pass->run, &path, pass->batch, s.tokens, width, t->z, ld,
                           t->g, ld, NULL, ld, NULL, t->partial);
    vp_train_norm_back(t, norm, s.m, 1, width, t->z, ld, false, t->z, ld, z, ld);
    if (branch->drop.rate > 0.0f) {
        vp_dropout_run(&pass->run, &branch->drop, pass->batch, s.tokens, width, t->z,
                       ld, t->z, ld);
    }
}

/* x = x + path(norm1(attn(x))); x = x + path(norm2(mlp(x))) */
static void post_block(vp_training *t, size_t i, const vp_kept *k, const float *x,
                       float *out, bool again)
{
    vp_pass *pass = &t->pass;
    const vp_block *b = &pass->vit->blocks[i];
    const vp_attn *attn = &b->attn[0];
    const span s = span_of(t, i);
    const size_t ld = pass->ldx;
    const vp_branch first = branch_of(t, i, 0), second = branch_of(t, i, 1);
    vp_module_copy(pass, pass->batch * pass->tokens, pass->a, ld, x, ld);
    vp_train_attn(t, i, attn, s.tokens, k);
    post_residual(t, s, &first, &attn->proj, proj_input(t, s, attn, k), ld,
                  &b->norm1[0], k->z1, k->mid, x, s.from);
    vp_module_copy(pass, s.m, pass->a, ld, k->mid, ld);
    fc1(t, s, &b->mlp[0], k);
    post_residual(t, s, &second, &b->mlp[0].fc2, fc2_input(t, i, s, &b->mlp[0], k),
                  t->ldmlp, &b->norm2[0], k->z2, again ? NULL : out, k->mid, ld);
}

/* t->g += t->b, m rows */
static void add_back(vp_training *t, size_t m)
{
    const vp_norm nothing = {.kind = VP_NORM_NONE};
    const size_t ld = t->pass.ldx;
    vp_train_norm_back(t, &nothing, m, 1, t->pass.config->embed_dim, t->g, ld, true,
                       t->b, ld, NULL, ld);
}

static void post_block_back(vp_training *t, size_t i, const vp_kept *k, const float *x)
{
    vp_pass *pass = &t->pass;
    const vp_block *b = &pass->vit->blocks[i];
    const vp_attn *attn = &b->attn[0];
    const span s = span_of(t, i);
    const size_t m = pass->batch * pass->tokens, ld = pass->ldx;
    const vp_branch first = branch_of(t, i, 0), second = branch_of(t, i, 1);
    post_residual_back(t, s, &second, &b->norm2[0], k->z2);
    fc2_back(t, i, s, &b->mlp[0], k, t->z);
    vp_module_copy(pass, s.m, pass->a, ld, k->mid, ld);
    fc1_back(t, s, &b->mlp[0]);
    add_back(t, s.m);
    post_residual_back(t, s, &first, &b->norm1[0], k->z1);
    proj_back(t, s, attn, k, t->z);
    vp_train_attn_back(t, i, attn, s.tokens, k, t->b);
    vp_module_copy(pass, m, pass->a, ld, x, ld);
    vp_train_qkv_back(t, attn, t->b);
    if (s.tokens < pass->tokens) {
        spread(t);
    }
    add_back(t, m);
}

void vp_train_block(vp_training *t, size_t i, const vp_kept *k, const float *x,
                    float *out, bool again)
{
    const bool post = vp_config_is_res_post(t->pass.config);
    (post ? post_block : plain_block)(t, i, k, x, out, again);
}

void vp_train_block_back(vp_training *t, size_t i, const vp_kept *k, const float *x)
{
    const bool post = vp_config_is_res_post(t->pass.config);
    (post ? post_block_back : plain_block_back)(t, i, k, x);
}
