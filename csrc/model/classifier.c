/* timm's reset_classifier, right where timm's was or is wrong.
 *
 * The new model is built beside the old one: everything is validated first, then the new
 * head (and, if asked for, a new attention pool) is allocated, then the caller swaps one
 * pointer. A failure at any point leaves the old model as it was, bit for bit.
 * The pool's weights are shared as long as the pool stays: they are never thrown away by a
 * misspelt name (timm issue 2272). SPDX-License-Identifier: Apache-2.0 */
#include "model/modules.h"

#include <string.h>

static bool is_attn_pool(vp_pool pool)
{
    return pool == VP_POOL_MAP || pool == VP_POOL_PRR;
}

/* The config after reset_classifier, or why it cannot be. */
static vp_status next_config(const vp_config *now, size_t num_classes,
                             const vp_pool *pool, bool add_attn_pool, vp_config *next,
                             vp_error *err)
{
    *next = *now;
    next->num_classes = num_classes;
    if (pool == NULL) {
        return VP_OK;
    }
    if (now->dist_token && *pool == VP_POOL_NONE && num_classes == 0) {
        return VP_OK; /* as timm takes it: without heads the mean of both tokens is left */
    }
    if (vp_config_check_pool(now, "global_pool", *pool, err) != VP_OK) {
        return err->code;
    }
    if (is_attn_pool(*pool) && now->attn_pool != *pool && !add_attn_pool) {
        const bool none = now->attn_pool == VP_POOL_NONE;
        return vp_fail(err, VP_ERR_VALUE,
                       "global_pool '%s' needs its trained attention pool, but this "
                       "model has %s%s%s; "
                       "pass add_attn_pool=True for a freshly initialised one",
                       vp_pool_names[*pool],
                       none ? "no attention pool" : "the attention pool '",
                       vp_pool_names[now->attn_pool], none ? "" : "'");
    }
    next->global_pool = *pool;
    next->attn_pool = is_attn_pool(*pool) ? *pool : VP_POOL_NONE;
    /* norm and fc_norm stay where they are, as in timm. */
    return vp_config_check(next, err);
}

vp_status vp_vit_reset_classifier(vp_vit *vit, size_t num_classes, const vp_pool *pool,
                                  bool add_attn_pool, unsigned long long seed,
                                  vp_vit **out, vp_error *err)
{
    vp_config config;
    vp_vit *next = NULL;
    if (next_config(&vit->config, num_classes, pool, add_attn_pool, &config, err) !=
            VP_OK ||
        vp_vit_create(&config, &next, err) != VP_OK) {
        return err->code;
    }
    if (config.attn_pool == vit->config.attn_pool) {
        next->pool.serial = vit->pool.serial; /* the same pool, not a new one */
    }
    /* As the constructor draws them. timm leaves a new head as torch's nn.Linear draws
     * itself: five to seven times as wide at the usual sizes, and a bias that is not 0. (As its
     * constructor of VisionTransformerRelPos does.) */
    const bool reset = config.family == VP_FAMILY_RELPOS;
    const vp_init fresh = {.mode = reset ? "reset" : "", .seed = seed};
    for (size_t i = 0, start = 0; i < next->num_params; i++) {
        const char *name = next->params[i].name;
        const bool head =
            strncmp(name, "head.", 5) == 0 || strncmp(name, "head_dist.", 10) == 0;
        if ((head || !vp_vit_share_param(next, i, vit, &start)) &&
            vp_vit_init_param(next, i, &fresh, err) != VP_OK) {
            vp_vit_unref(next);
            return err->code;
        }
    }
    if (vp_vit_finish(next, err) != VP_OK) {
        vp_vit_unref(next);
        return err->code;
    }
    *out = next;
    return VP_OK;
}
