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

#define VP_POOL_QUOTED(pool, name) ", '" name "'"
const char *const vp_pool_list =
    &VP_POOLS(VP_POOL_QUOTED)[2]; /* without the first ", " */
#undef VP_POOL_QUOTED

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

vp_status vp_pool_parse(const char *what, const char *name, size_t length,
                        vp_pool *pool, vp_error *err)
{
    const char *meant = NULL;
    for (int p = 0; p < VP_POOL_COUNT; p++) {
        if (strlen(vp_pool_names[p]) == length &&
            memcmp(name, vp_pool_names[p], length) == 0) {
            *pool = (vp_pool)p;
            return VP_OK;
        }
        if (nearly(name, length, vp_pool_names[p])) {
            meant = vp_pool_names[p];
        }
    }
    char quoted[300];
    quote(name, length, quoted, sizeof quoted);
    return vp_fail(err, VP_ERR_VALUE, "%s must be one of %s, not '%s'%s%s%s", what,
                   vp_pool_list, quoted, meant != NULL ? "; did you mean '" : "",
                   meant != NULL ? meant : "", meant != NULL ? "'?" : "");
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
    if (c->global_pool == VP_POOL_TOKEN && !c->class_token) {
        return vp_fail(err, VP_ERR_VALUE,
                       "global_pool 'token' needs the class token, but class_token is "
                       "False; use another of %s",
                       vp_pool_list);
    }
    return VP_OK;
}
