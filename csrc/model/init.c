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
        if (starts(p->name, "embeds.proj.")) {
            fan_in = c->in_chans * c->patch_size[0] * c->patch_size[1];
        } else if (strstr(p->name, "rel_pos.") != NULL) {
            fan_in = ends(p->name, "fc1.bias") ? 2 : c->rel_pos_dim;
        } else if (strstr(p->name, "fc2.") != NULL) {
            fan_in = starts(p->name, "attn_pool") ? vp_config_pool_hidden(c)
                                                  : vp_config_hidden(c);
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

static void conv(vp_rng *rng, const vp_param *p, size_t fan_in, const char *mode,
                 float *x, size_t n)
{
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

static void patch_conv(vp_rng *rng, const vp_param *p, const vp_config *c,
                       const char *mode, float *x, size_t n)
{
    conv(rng, p, c->in_chans * c->patch_size[0] * c->patch_size[1], mode, x, n);
}

/* timm's fix_init_weight: the layers that end a branch are divided by sqrt(2 (i + 1)). */
static void fix_init(const vp_param *p, float *x)
{
    const bool ending =
        (ends(p->name, ".attn.proj.weight") || ends(p->name, ".mlp.fc2.weight")) &&
        strstr(p->name, "rel_pos.") == NULL;
    if (!starts(p->name, "blocks.") || !ending) {
        return;
    }
    const double layer = atof(p->name + strlen("blocks."));
    const float scale = (float)sqrt(2.0 * (floor(layer) + 1.0));
    for (size_t i = 0; i < vp_param_count(p); i++) {
        x[i] /= scale;
    }
}

/* Eva's and Beit's head_init_scale; 0: as it is. */
static void scale_head(const vp_config *c, const vp_param *p, float *x)
{
    const bool head = starts(p->name, "head.") && c->head_init_scale != 0.0f;
    for (size_t i = 0; head && i < vp_param_count(p); i++) {
        x[i] *= c->head_init_scale;
    }
}

/* Frequencies of mixed rope, each head's turned by an angle of its own:
 * timm.layers.pos_embed_sincos.init_random_2d_freqs. x: [2][tables][2 bands]. */
static void mixed_freqs(vp_rng *rng, const vp_config *c, float *x, size_t n)
{
    const double quarter = 1.5707963267948966;
    const size_t bands = vp_config_head_dim(c) / 4, axis = n / 2;
    for (size_t table = 0; table < axis / (2 * bands); table++) {
        const double angle = 4.0 * quarter * vp_rng_uniform(rng);
        float *first = x + table * 2 * bands;
        for (size_t j = 0; j < bands; j++) {
            const double exponent = (double)j / (double)bands;
            const double size = pow((double)c->rope_temperature, -exponent);
            first[j] = (float)(size * cos(angle));
            first[bands + j] = (float)(size * cos(angle + quarter));
            first[axis + j] = (float)(size * sin(angle));
            first[axis + bands + j] = (float)(size * sin(angle + quarter));
        }
    }
}

/* What no init_weights of timm's touches, in whatever class Eva's or Beit's blocks are: the
 * numbers that these are made with. */
static bool made_numbers(const vp_config *c, const vp_param *p, vp_rng *rng, float *x)
{
    const size_t n = vp_param_count(p);
    if (strcmp(p->name, "rope.freqs") == 0) {
        mixed_freqs(rng, c, x, n);
    } else if (starts(p->name, "blocks.") && strstr(p->name, ".gamma_") != NULL) {
        fill(x, n, c->init_values);
    } else if (ends(p->name, ".q_bias") || ends(p->name, ".v_bias")) {
        fill(x, n, 0.0);
    } else {
        return false;
    }
    return true;
}

/* timm.models.eva.Eva.init_weights, where it is another than VisionTransformer's: true, and x
 * is drawn. reset: its layers are drawn as torch draws them. */
static bool eva_numbers(const vp_config *c, const vp_param *p, bool reset, vp_rng *rng,
                        float *x)
{
    const size_t n = vp_param_count(p);
    if (strcmp(p->name, "cls_token") == 0 || strcmp(p->name, "reg_token") == 0) {
        vp_rng_trunc_normal(rng, x, n, 0.02, -2.0, 2.0);
    } else if (reset) {
        return false;
    } else if (p->ndim == 2) { /* a gate as any other Linear */
        vp_rng_trunc_normal(rng, x, n, 0.02, -2.0, 2.0);
        fix_init(p, x);
        scale_head(c, p, x);
    } else if (p->ndim == 1 && !starts(p->name, "patch_embed.") &&
               strstr(p->name, "norm") == NULL) {
        fill(x, n, 0.0); /* a bias */
    } else {
        return false;
    }
    return true;
}

/* timm.models.beit.Beit.init_weights, which has no modes. */
static void beit_numbers(const vp_config *c, const vp_param *p, vp_rng *rng, float *x)
{
    const size_t n = vp_param_count(p);
    if (starts(p->name, "patch_embed.proj.")) {
        patch_conv(rng, p, c, "", x, n);
    } else if (ends(p->name, "relative_position_bias_table")) {
        fill(x, n, 0.0);
    } else if (p->ndim == 1) {
        const bool norm = strstr(p->name, "norm") != NULL;
        fill(x, n, norm && ends(p->name, ".weight") ? 1.0 : 0.0);
    } else { /* cls_token, pos_embed, and every Linear's weight */
        vp_rng_trunc_normal(rng, x, n, 0.02, -2.0, 2.0);
        fix_init(p, x);
    }
    scale_head(c, p, x);
}

/* ConvStem's convolutions as `conv`; BatchNorm as torch begins it. */
static void conv_stem(vp_rng *rng, const vp_param *p, const vp_config *c,
                      const char *mode, float *x, size_t n)
{
    const size_t i = (size_t)(p->name[strlen("patch_embed.backbone.")] - '0');
    const size_t kernel = vp_conv_stem_kernel(i);
    if (strstr(p->name, ".conv.") != NULL) {
        conv(rng, p,
             (i == 0 ? c->in_chans : vp_conv_stem_width(c, i - 1)) * kernel * kernel,
             mode, x, n);
    } else {
        fill(x, n, ends(p->name, "weight") || ends(p->name, "running_var") ? 1.0 : 0.0);
    }
}

static void numbers_of(const vp_vit *vit, const vp_param *p, const vp_init *init,
                       vp_rng *rng, float *x)
{
    const vp_config *c = &vit->config;
    const size_t n = vp_param_count(p);
    const char *name = starts(p->name, "embeds.") ? p->name + 7 : p->name;
    const bool post_norm =
        (c->block == VP_BLOCK_RES_POST || c->block == VP_BLOCK_RES_POST_REL_POS) &&
        c->has_init_values &&
        (ends(p->name, "norm1.weight") || ends(p->name, "norm2.weight"));
    const bool reset = strcmp(init->mode, "reset") == 0;
    if (made_numbers(c, p, rng, x) ||
        (c->family == VP_FAMILY_EVA && eva_numbers(c, p, reset, rng, x))) {
        return;
    }
    if (c->family == VP_FAMILY_BEIT) {
        beit_numbers(c, p, rng, x);
    } else if (starts(name, "pos_embed") || strcmp(p->name, "dist_token") == 0 ||
               ends(p->name, "relative_position_bias_table")) {
        vp_rng_trunc_normal(rng, x, n, 0.02, -2.0, 2.0);
    } else if (strcmp(name, "cls_token") == 0 || strcmp(name, "reg_token") == 0) {
        vp_rng_normal(rng, x, n, 1e-6);
    } else if (ends(p->name, ".latent")) {
        /* trunc_normal_tf_: a standard normal cut at 2, then scaled */
        const double std = 1.0 / sqrt((double)c->embed_dim);
        vp_rng_trunc_normal(rng, x, n, std, -2.0 * std, 2.0 * std);
    } else if (starts(p->name, "patch_embed.proj.") ||
               (starts(p->name, "embeds.proj.") && !c->embed_linear)) {
        patch_conv(rng, p, c, init->mode, x, n);
    } else if (starts(p->name, "patch_embed.backbone.")) {
        conv_stem(rng, p, c, init->mode, x, n);
    } else if (strstr(p->name, "lambda_") != NULL) {
        vp_rng_normal(rng, x, n, 0.1);
    } else if (ends(p->name, ".gamma") || post_norm) {
        fill(x, n, c->init_values);
    } else if (strstr(p->name, "norm") != NULL) {
        fill(x, n, ends(p->name, ".weight") ? 1.0 : 0.0);
    } else if (ends(p->name, ".mlp_bias")) {
        fill(x, n, 0.0);
    } else {
        const size_t gate = reset ? p->shape[0] : gate_start(vit, p);
        if (p->ndim == 2) {
            const size_t in = p->shape[1];
            linear_weight(rng, p, init->mode, x);
            vp_rng_normal(rng, x + gate * in, (p->shape[0] - gate) * in, 1e-6);
            if (init->fix_init) {
                fix_init(p, x);
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
