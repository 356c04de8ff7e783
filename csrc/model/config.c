/* Construction options: names and checks. SPDX-License-Identifier: Apache-2.0 */
#include "model/config.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

const char *const vp_pool_names[VP_POOL_COUNT] = {
#define VP_POOL_NAME(pool, name) name,
    VP_POOLS(VP_POOL_NAME)
#undef VP_POOL_NAME
};

const char *const vp_family_names[VP_FAMILY_COUNT] = {
#define VP_FAMILY_NAME(family, name) name,
    VP_FAMILIES(VP_FAMILY_NAME)
#undef VP_FAMILY_NAME
};

/* timm's asserts, class by class. */
static bool has_pool(vp_family family, vp_pool pool)
{
    switch (family) {
    case VP_FAMILY_DISTILLED:
        return pool == VP_POOL_TOKEN;
    case VP_FAMILY_BEIT:
    case VP_FAMILY_RELPOS:
        return pool == VP_POOL_NONE || pool == VP_POOL_AVG || pool == VP_POOL_TOKEN;
    case VP_FAMILY_EVA:
    case VP_FAMILY_NAFLEX:
        return pool != VP_POOL_PRR;
    default:
        return true;
    }
}

#define QUOTED(pool, name) ", '" name "'"
#define VIT_POOLS VP_POOLS(QUOTED)
const char *vp_pool_list(vp_family family)
{
    switch (family) {
    case VP_FAMILY_DISTILLED:
        return "'token'";
    case VP_FAMILY_BEIT:
    case VP_FAMILY_RELPOS:
        return "'', 'avg', 'token'";
    case VP_FAMILY_EVA:
    case VP_FAMILY_NAFLEX:
        return "'', 'avg', 'avgmax', 'max', 'token', 'map'";
    default:
        return &VIT_POOLS[2]; /* without the first ", " */
    }
}
#undef VIT_POOLS
#undef QUOTED

/* Is `name`, without surrounding space and case, the pool `pool`? */
static bool nearly(const char *name, size_t length, const char *pool)
{
    while (length > 0 && isspace((unsigned char)name[0])) {
        name++, length--;
    }
    while (length > 0 && isspace((unsigned char)name[length - 1])) {
        length--;
    }
    if (length == 0 || length != strlen(pool)) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        if (tolower((unsigned char)name[i]) != pool[i]) {
            return false;
        }
    }
    return true;
}

/* At most 64 bytes of a name for a message; what is not printable ASCII as in Python. */
static void quote(const char *name, size_t length, char *out, size_t room)
{
    size_t used = 0;
    for (size_t i = 0; i < length && i < 64 && used + 5 < room; i++) {
        const unsigned char c = (unsigned char)name[i];
        const char escape = c == '\n' ? 'n' : c == '\t' ? 't' : c == '\r' ? 'r' : '\0';
        if (escape != '\0' || c == '\\') {
            out[used++] = '\\';
            out[used++] = escape != '\0' ? escape : '\\';
        } else if (c >= 0x80 || isprint(c)) { /* UTF-8 stays */
            out[used++] = (char)c;
        } else {
            used += (size_t)snprintf(out + used, room - used, "\\x%02x", c);
        }
    }
    out[used] = '\0';
}

/* What came is no pool of this class. */
static vp_status refuse_pool(vp_family family, const char *what, const char *name,
                             size_t length, vp_error *err)
{
    const bool vit = family == VP_FAMILY_VIT, one = family == VP_FAMILY_DISTILLED;
    const char *meant = NULL;
    for (int p = 0; p < VP_POOL_COUNT; p++) {
        if (has_pool(family, (vp_pool)p) && nearly(name, length, vp_pool_names[p])) {
            meant = vp_pool_names[p];
        }
    }
    char quoted[300];
    quote(name, length, quoted, sizeof quoted);
    return vp_fail(err, VP_ERR_VALUE, "%s%s%s must be %s%s, not '%s'%s%s%s", what,
                   vit ? "" : " of ", vit ? "" : vp_family_names[family],
                   one ? "" : "one of ", vp_pool_list(family), quoted,
                   meant != NULL ? "; did you mean '" : "", meant != NULL ? meant : "",
                   meant != NULL ? "'?" : "");
}

vp_status vp_pool_parse(vp_family family, const char *what, const char *name,
                        size_t length, vp_pool *pool, vp_error *err)
{
    for (int p = 0; p < VP_POOL_COUNT; p++) {
        if (strlen(vp_pool_names[p]) == length &&
            memcmp(name, vp_pool_names[p], length) == 0) {
            *pool = (vp_pool)p;
            return VP_OK;
        }
    }
    return refuse_pool(family, what, name, length, err);
}

vp_status vp_config_check_pool(const vp_config *c, const char *what, vp_pool pool,
                               vp_error *err)
{
    if (!has_pool(c->family, pool)) {
        return refuse_pool(c->family, what, vp_pool_names[pool],
                           strlen(vp_pool_names[pool]), err);
    }
    if (pool == VP_POOL_TOKEN && !c->class_token) {
        return vp_fail(err, VP_ERR_VALUE,
                       "%s 'token' needs the class token, but class_token is False; "
                       "use another of %s",
                       what, vp_pool_list(c->family));
    }
    return VP_OK;
}

#define LIMIT ((size_t)1 << 24)

static vp_status check_size(const char *name, size_t value, size_t least, vp_error *err)
{
    if (value < least || value > LIMIT) {
        return vp_fail(err, VP_ERR_VALUE, "%s must be from %zu to %zu, not %zu", name,
                       least, LIMIT, value);
    }
    return VP_OK;
}

/* Are q, k and v, and the heads that share them, as some attention has them? */
static vp_status check_qkv(const vp_config *c, vp_error *err)
{
    const bool one = !vp_config_is_diff(c) && c->block != VP_BLOCK_PARALLEL_THINGS &&
                     c->block != VP_BLOCK_PARALLEL_SCALING;
    if ((c->qkv_split || c->q_v_bias || c->rope != VP_ROPE_NONE) && !one) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "%s needs blocks with one plain attention, not the parallel blocks or "
            "differential attention",
            c->qkv_split  ? "qkv_split"
            : c->q_v_bias ? "q_v_bias"
                          : "rope");
    }
    if (c->qkv_split && c->rel_pos_block && c->block == VP_BLOCK_BEIT) {
        return vp_fail(err, VP_ERR_VALUE,
                       "qkv_split must be False with BeitBlock's own rel_pos");
    }
    if (c->num_kv_heads > c->num_heads ||
        (c->num_kv_heads > 0 && c->num_heads % c->num_kv_heads != 0)) {
        return vp_fail(err, VP_ERR_VALUE,
                       "num_kv_heads must be a divisor of num_heads %zu, or 0, not %zu",
                       c->num_heads, c->num_kv_heads);
    }
    if (c->num_kv_heads > 0 && c->num_kv_heads < c->num_heads && !c->qkv_split) {
        return vp_fail(err, VP_ERR_VALUE,
                       "num_kv_heads %zu of num_heads %zu needs qkv_split: one matrix "
                       "has as many keys as queries",
                       c->num_kv_heads, c->num_heads);
    }
    if (c->num_full_attn_blocks > 4096 || c->num_full_attn_last > 4096) {
        return vp_fail(err, VP_ERR_VALUE,
                       "num_full_attn_blocks and num_full_attn_last must be from 0 to "
                       "4096, not %zu and %zu",
                       c->num_full_attn_blocks, c->num_full_attn_last);
    }
    if (c->attn_only_layer_scale && c->block != VP_BLOCK_EVA) {
        return vp_fail(err, VP_ERR_VALUE,
                       "attn_only_layer_scale needs block_fn 'EvaBlock'");
    }
    return VP_OK;
}

static vp_status check_rope(const vp_config *c, vp_error *err)
{
    const size_t width = vp_config_head_dim(c);
    if (c->rope == VP_ROPE_NONE) {
        return VP_OK;
    }
    if (width % 4 != 0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "rope needs a head width divisible by 4, not %zu (embed_dim %zu "
                       "/ num_heads %zu)",
                       width, c->embed_dim, c->num_heads);
    }
    if (!(c->rope_temperature > 0.0f)) {
        return vp_fail(err, VP_ERR_VALUE, "rope_temperature must be above 0, not %g",
                       (double)c->rope_temperature);
    }
    if (check_size("rope_ref", c->rope_ref[0], c->rope_ref[1] > 0, err) != VP_OK ||
        check_size("rope_ref", c->rope_ref[1], c->rope_ref[0] > 0, err) != VP_OK) {
        return err->code;
    }
    if (c->rope == VP_ROPE_MIXED && c->rope_rotate_half) {
        return vp_fail(err, VP_ERR_VALUE,
                       "rope 'mixed' is interleaved: rope_rotate_half must be False");
    }
    if (c->rope == VP_ROPE_MIXED && c->num_kv_heads > 0 &&
        c->num_kv_heads < c->num_heads) {
        return vp_fail(err, VP_ERR_VALUE,
                       "rope 'mixed' turns each head by its own table: num_kv_heads "
                       "must be num_heads %zu or 0, not %zu",
                       c->num_heads, c->num_kv_heads);
    }
    return VP_OK;
}

static vp_status check_rel_pos(const vp_config *c, vp_error *err)
{
    const bool somewhere = c->rel_pos_block || c->rel_pos_shared;
    const bool mlp = c->rel_pos == VP_REL_POS_MLP || c->rel_pos == VP_REL_POS_MLP_SWIN;
    if ((c->rel_pos != VP_REL_POS_NONE) != somewhere) {
        return vp_fail(err, VP_ERR_VALUE,
                       "rel_pos must be 'none' exactly when rel_pos_block and "
                       "rel_pos_shared are False");
    }
    if (c->rel_pos == VP_REL_POS_NONE) {
        return VP_OK;
    }
    if (c->dynamic_img_size) {
        return vp_fail(err, VP_ERR_VALUE,
                       "dynamic_img_size must be False with relative positions: they "
                       "are those of one grid (set_input_size changes it)");
    }
    if (c->attn != VP_ATTN_PLAIN ||
        (!vp_config_is_plain(c) && !vp_config_is_res_post(c))) {
        return vp_fail(err, VP_ERR_VALUE,
                       "rel_pos must be 'none' with parallel blocks and differential "
                       "attention");
    }
    if (mlp && c->block == VP_BLOCK_BEIT) {
        return vp_fail(err, VP_ERR_VALUE,
                       "rel_pos must be 'bias' or 'none' with BeitBlock");
    }
    if (mlp && check_size("rel_pos_dim", c->rel_pos_dim, 1, err) != VP_OK) {
        return err->code;
    }
    if (c->rel_pos == VP_REL_POS_MLP_SWIN && (c->img_size[0] / c->patch_size[0] < 2 ||
                                              c->img_size[1] / c->patch_size[1] < 2)) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "rel_pos_type 'mlpswin' divides by the grid's largest distances: it "
            "needs 2 patches a side or more, not %zu x %zu",
            c->img_size[0] / c->patch_size[0], c->img_size[1] / c->patch_size[1]);
    }
    return VP_OK;
}

/* Two tokens in front, no more, and the pool is what the heads do with them. */
static vp_status check_distilled(const vp_config *c, vp_error *err)
{
    if (c->dist_token != (c->family == VP_FAMILY_DISTILLED)) {
        return vp_fail(err, VP_ERR_VALUE,
                       "dist_token is VisionTransformerDistilled's, and that has one");
    }
    if (!c->dist_token) {
        return VP_OK;
    }
    if (!c->class_token || c->reg_tokens > 0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "VisionTransformerDistilled has a class token and a "
                       "distillation token: class_token must be True and reg_tokens "
                       "0, not %s and %zu",
                       c->class_token ? "True" : "False", c->reg_tokens);
    }
    if (c->fc_norm) {
        return vp_fail(err, VP_ERR_VALUE,
                       "VisionTransformerDistilled has no fc_norm: its heads read the "
                       "two tokens as norm leaves them");
    }
    return VP_OK;
}

static vp_status check_attn_pool(const vp_config *c, vp_error *err)
{
    const size_t heads = vp_config_pool_heads(c);
    if (heads == 0 || c->embed_dim % heads != 0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "embed_dim must be divisible by attn_pool_num_heads, but %zu is "
                       "not by %zu",
                       c->embed_dim, heads);
    }
    return check_size("the attention pool's hidden width", c->attn_pool_hidden, 0, err);
}

vp_status vp_config_check(const vp_config *c, vp_error *err)
{
    const struct {
        const char *name;
        size_t value, least;
    } sizes[] = {
        {"img_size", c->img_size[0], 1},
        {"img_size", c->img_size[1], 1},
        {"patch_size", c->patch_size[0], 1},
        {"patch_size", c->patch_size[1], 1},
        {"in_chans", c->in_chans, 1},
        {"num_classes", c->num_classes, 0},
        {"embed_dim", c->embed_dim, 1},
        {"num_heads", c->num_heads, 1},
        {"reg_tokens", c->reg_tokens, 0},
        {"the MLP's hidden width", c->mlp_hidden, 1},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (check_size(sizes[i].name, sizes[i].value, sizes[i].least, err) != VP_OK) {
            return err->code;
        }
    }
    if (c->depth > 4096) {
        return vp_fail(err, VP_ERR_VALUE, "depth must be from 0 to 4096, not %zu",
                       c->depth);
    }
    for (int i = 0; i < 2; i++) {
        if (c->img_size[i] < c->patch_size[i]) {
            return vp_fail(err, VP_ERR_VALUE,
                           "img_size (%zu, %zu) must be at least patch_size (%zu, %zu)",
                           c->img_size[0], c->img_size[1], c->patch_size[0],
                           c->patch_size[1]);
        }
    }
    const size_t patch = c->in_chans * c->patch_size[0] *
                         (c->patch_size[1] <= LIMIT ? c->patch_size[1] : 0);
    if (vp_config_patches(c) > LIMIT || c->patch_size[0] * c->patch_size[1] > LIMIT ||
        patch > LIMIT) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "img_size (%zu, %zu) with patch_size (%zu, %zu) and in_chans %zu is "
            "too large",
            c->img_size[0], c->img_size[1], c->patch_size[0], c->patch_size[1],
            c->in_chans);
    }
    if (c->embed_dim % c->num_heads != 0) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "embed_dim must be divisible by num_heads, but %zu is not by %zu",
            c->embed_dim, c->num_heads);
    }
    if (c->embed == VP_EMBED_CONV_STEM) {
        if (c->family != VP_FAMILY_VIT && c->family != VP_FAMILY_DISTILLED) {
            return vp_fail(err, VP_ERR_VALUE,
                           "embed_layer must be 'PatchEmbed' in this class, not "
                           "'ConvStem'");
        }
        if (c->patch_size[0] != 16 || c->patch_size[1] != 16) {
            return vp_fail(err, VP_ERR_VALUE,
                           "patch_size must be 16 with embed_layer 'ConvStem', its "
                           "strides, not (%zu, %zu)",
                           c->patch_size[0], c->patch_size[1]);
        }
        if (c->embed_dim % 4 != 0) {
            return vp_fail(err, VP_ERR_VALUE,
                           "embed_dim must be divisible by 4 with embed_layer "
                           "'ConvStem', not %zu",
                           c->embed_dim);
        }
        if (c->embed_norm_layer != VP_NORM_NONE) {
            return vp_fail(err, VP_ERR_VALUE,
                           "embed_norm_layer must be None with embed_layer 'ConvStem'");
        }
    }
    if (vp_config_is_diff(c) && c->embed_dim / c->num_heads % 2 != 0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "differential attention needs an even head width, not %zu "
                       "(embed_dim %zu / num_heads %zu)",
                       c->embed_dim / c->num_heads, c->embed_dim, c->num_heads);
    }
    if ((c->mlp == VP_MLP_GLU || c->mlp == VP_MLP_SWIGLU_PACKED) &&
        c->mlp_hidden % 2 != 0) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "mlp_layer GluMlp and SwiGLUPacked need an even hidden width, not "
            "%zu",
            c->mlp_hidden);
    }
    if ((c->block == VP_BLOCK_PARALLEL_SCALING ||
         c->block == VP_BLOCK_DIFF_PARALLEL_SCALING) &&
        (c->scale_attn_norm || c->scale_mlp_norm)) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "scale_attn_norm and scale_mlp_norm must be False with the parallel "
            "scaling blocks");
    }
    if (check_rel_pos(c, err) != VP_OK || check_distilled(c, err) != VP_OK ||
        check_attn_pool(c, err) != VP_OK || check_qkv(c, err) != VP_OK ||
        check_rope(c, err) != VP_OK) {
        return err->code;
    }
    return vp_config_check_pool(c, "global_pool", c->global_pool, err);
}
