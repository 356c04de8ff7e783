/* Fresh weights: the distributions of timm's init_weights, by mode.
 *
 * Each parameter has a generator of its own, seeded by the model's seed and the parameter's
 * name, so one parameter's numbers do not depend on what else is drawn.
 * Source: timm.models.vision_transformer.get_init_weights_vit.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "model/modules.h"

static bool ends(const char *name, const char *end)
{
    const size_t n = strlen(name), e = strlen(end);
    return n >= e && strcmp(name + n - e, end) == 0;
}

static bool starts(const char *name, const char *start)
{
    return strncmp(name, start, strlen(start)) == 0;
}

static void fill(float *x, size_t n, double value)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)value;
    }
}

/* torch's nn.Linear and nn.Conv2d: uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)). */
static void torch_default(vp_rng *rng, float *x, size_t n, size_t fan_in)
{
    const double bound = 1.0 / sqrt((double)fan_in);
    vp_rng_fill_uniform(rng, x, n, -bound, bound);
}

static void xavier_uniform(vp_rng *rng, float *x, size_t n, size_t out, size_t in)
{
    const double bound = sqrt(6.0 / (double)(out + in));
    vp_rng_fill_uniform(rng, x, n, -bound, bound);
}

/* A Linear's weight. GLU's gate half starts near zero in every mode but "reset". */
static void linear_weight(vp_rng *rng, const vp_param *p, const char *mode, float *x)
{
    const size_t out = p->shape[0], in = p->shape[1], n = out * in;
    if (strcmp(mode, "reset") == 0) {
        torch_default(rng, x, n, in);
    } else if (starts(mode, "jax") && starts(p->name, "head")) {
        fill(x, n, 0.0);
    } else if (starts(mode, "jax")) {
        xavier_uniform(rng, x, n, out, in);
    } else if (strcmp(mode, "moco") == 0 && strstr(p->name, "qkv") != NULL) {
        /* q, k and v count as three matrices */
        xavier_uniform(rng, x, n, out / 3, in);
    } else if (strcmp(mode, "moco") == 0) {
        xavier_uniform(rng, x, n, out, in);
    } else {
        vp_rng_trunc_normal(rng, x, n, 0.02, -2.0, 2.0);
    }
}

/* The second half of a GLU's fc1, and SwiGLU's fc1_g: timm's module init_weights. */
static size_t gate_start(const vp_vit *vit, const vp_param *p)
{
    const vp_mlp_kind kind = vit->config.mlp;
    const bool packed = (kind == VP_MLP_GLU || kind == VP_MLP_SWIGLU_PACKED) &&
                        starts(p->name, "blocks.");
    if (packed && strstr(p->name, ".mlp.fc1.") != NULL) {
        return p->shape[0] / 2;
    }
    return strstr(p->name, ".mlp.fc1_g.") != NULL ? 0 : p->shape[0];
}

static void bias(vp_rng *rng, const vp_param *p, const vp_config *c, const char *mode,
                 float *x)
{
    const size_t n = p->shape[0];
    if (strcmp(mode, "reset") == 0) {
        /* fan_in of the layer that the bias belongs to */
        size_t fan_in = c->embed_dim;
        if (strstr(p->name, "fc2.") != NULL) {
            fan_in = starts(p->name, "attn_pool") ? c->mlp_hidden : vp_config_hidden(c);
        } else if (strstr(p->name, "mlp_out_proj") != NULL) {
            fan_in = c->mlp_hidden;
        } else if (strstr(p->name, ".out_proj") != NULL) {
            fan_in = c->embed_dim + c->mlp_hidden;
        }
        torch_default(rng, x, n, fan_in);
    } else if (starts(mode, "jax") && starts(p->name, "head")) {
        fill(x, n, strcmp(mode, "jax_nlhb") == 0 ? -log((double)n) : 0.0);
    } else if (starts(mode, "jax") && strstr(p->name, "mlp") != NULL) {
        vp_rng_normal(rng, x, n, 1e-6);
    } else {
        fill(x, n, 0.0);
    }
}

static void conv(vp_rng *rng, const vp_param *p, const vp_config *c, const char *mode,
                 float *x, size_t n)
{
    const size_t fan_in = c->in_chans * c->patch_size[0] * c->patch_size[1];
    const bool is_bias = p->ndim == 1;
    if (!starts(mode, "jax")) {
        torch_default(rng, x, n, fan_in); /* torch's own, which timm leaves alone */
    } else if (is_bias) {
        fill(x, n, 0.0);
    } else {
        /* lecun_normal_: a normal cut at two deviations, widened to unit variance */
        const double std = sqrt(1.0 / (double)fan_in) / 0.87962566103423978;
        vp_rng_trunc_normal(rng, x, n, std, -2.0 * std, 2.0 * std);
    }
}

static void numbers_of(const vp_vit *vit, const vp_param *p, const vp_init *init,
                       vp_rng *rng, float *x)
{
    const vp_config *c = &vit->config;
    const size_t n = vp_param_count(p);
    const bool post_norm =
        c->block == VP_BLOCK_RES_POST && c->has_init_values &&
        (ends(p->name, "norm1.weight") || ends(p->name, "norm2.weight"));
    if (strcmp(p->name, "pos_embed") == 0) {
        vp_rng_trunc_normal(rng, x, n, 0.02, -2.0, 2.0);
    } else if (strcmp(p->name, "cls_token") == 0 || strcmp(p->name, "reg_token") == 0) {
        vp_rng_normal(rng, x, n, 1e-6);
    } else if (ends(p->name, ".latent")) {
        /* trunc_normal_tf_: a standard normal cut at 2, then scaled */
        const double std = 1.0 / sqrt((double)c->embed_dim);
        vp_rng_trunc_normal(rng, x, n, std, -2.0 * std, 2.0 * std);
    } else if (starts(p->name, "patch_embed.proj.")) {
        conv(rng, p, c, init->mode, x, n);
    } else if (strstr(p->name, "lambda_") != NULL) {
        vp_rng_normal(rng, x, n, 0.1);
    } else if (ends(p->name, ".gamma") || post_norm) {
        fill(x, n, c->init_values);
    } else if (strstr(p->name, "norm") != NULL) {
        fill(x, n, ends(p->name, ".weight") ? 1.0 : 0.0);
    } else if (ends(p->name, ".mlp_bias")) {
        fill(x, n, 0.0);
    } else {
        const size_t gate =
            strcmp(init->mode, "reset") == 0 ? p->shape[0] : gate_start(vit, p);
        if (p->ndim == 2) {
            const size_t in = p->shape[1];
            linear_weight(rng, p, init->mode, x);
            vp_rng_normal(rng, x + gate * in, (p->shape[0] - gate) * in, 1e-6);
            if (init->fix_init &&
                (ends(p->name, "attn.proj.weight") ||
                 ends(p->name, "mlp.fc2.weight")) &&
                starts(p->name, "blocks.")) {
                const double layer = atof(p->name + strlen("blocks."));
                const float scale = (float)sqrt(2.0 * (floor(layer) + 1.0));
                for (size_t i = 0; i < n; i++) {
                    x[i] /= scale;
                }
            }
        } else {
            bias(rng, p, c, init->mode, x);
            fill(x + gate, n - gate, 1.0);
        }
    }
}

vp_status vp_vit_init_param(vp_vit *vit, size_t i, const vp_init *init, vp_error *err)
{
    static const char *const modes[] = {"", "jax", "jax_nlhb", "moco", "reset"};
    const vp_param *p = &vit->params[i];
    const size_t n = vp_param_count(p);
    bool known = false;
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        known = known || strcmp(init->mode, modes[m]) == 0;
    }
    if (!known) {
        return vp_fail(err, VP_ERR_VALUE,
                       "weight_init must be '', 'jax', 'jax_nlhb', 'moco' or 'reset', "
                       "not '%s'",
                       init->mode);
    }
    vp_rng rng = {init->seed};
    for (const char *s = p->name; *s != '\0'; s++) { /* FNV-1a */
        rng.state = (rng.state ^ (unsigned char)*s) * 0x100000001b3u;
    }
    float *x = vp_alloc(vp_size_mul(n, sizeof(float)));
    if (x == NULL) {
        return vp_fail_memory(err, p->name, n * sizeof(float));
    }
    numbers_of(vit, p, init, &rng, x);
    const vp_status status = vp_vit_set_param(vit, i, x, err);
    vp_free(x);
    if (status == VP_OK) {
        vp_vit_mark_random(vit, i);
    }
    return status;
}
