/* What a training pass is asked for: whether it can be done, and how far back it goes.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/training.h"

const char *const vp_entry_names[VP_ENTRY_COUNT] = {
#define VP_ENTRY_NAME(entry, name) name,
    VP_ENTRIES(VP_ENTRY_NAME)
#undef VP_ENTRY_NAME
};

/* Is that parameter one that stands after the blocks, and where? 0: no; 1: the final norm;
 * 2: attention pool or fc_norm; 3: head */
static int place_after(const char *name)
{
    if (strncmp(name, "norm.", 5) == 0) {
        return 1;
    }
    if (strncmp(name, "attn_pool.", 10) == 0 || strncmp(name, "fc_norm.", 8) == 0) {
        return 2;
    }
    return strncmp(name, "head.", 5) == 0 || strncmp(name, "head_dist.", 10) == 0 ? 3
                                                                                  : 0;
}

/* The block of a parameter's name; false: it is of none. */
static bool block_of(const char *name, size_t *block)
{
    if (strncmp(name, "blocks.", 7) != 0) {
        return false;
    }
    *block = 0;
    for (const char *c = name + 7; *c >= '0' && *c <= '9'; c++) {
        *block = *block * 10 + (size_t)(*c - '0');
    }
    return true;
}

/* Does every block read that parameter? */
static bool in_all_blocks(const char *name)
{
    return strncmp(name, "rope.", 5) == 0 || strncmp(name, "rel_pos_bias.", 13) == 0 ||
           strncmp(name, "shared_rel_pos.", 15) == 0;
}

/* The first block that is run, and so the first that may be trained. */
size_t vp_train_first(const vp_config *c, const vp_gradients *r)
{
    return r->entry == VP_ENTRY_IMAGES  ? 0
           : r->entry == VP_ENTRY_BLOCK ? r->first
                                        : c->depth;
}

static vp_status check_param(const vp_vit *vit, const vp_gradients *r, const char *name,
                             vp_error *err)
{
    const vp_config *c = &vit->config;
    const int place = place_after(name);
    size_t block;
    bool reached;
    if (block_of(name, &block)) {
        reached = block >= vp_train_first(c, r);
    } else if (in_all_blocks(name)) {
        reached = vp_train_first(c, r) == 0;
    } else if (place == 0) {
        reached = r->entry == VP_ENTRY_IMAGES;
    } else {
        reached = place == 3 || (place == 2 && r->entry != VP_ENTRY_PRE_LOGITS) ||
                  r->entry == VP_ENTRY_IMAGES || r->entry == VP_ENTRY_BLOCK;
    }
    if (!reached) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "grads must not name '%s': it stands before where the batch comes "
            "in, entry '%s'",
            name, vp_entry_names[r->entry]);
    }
    if (strcmp(name, "rope.freqs") == 0 && r->rope != NULL &&
        r->entry != VP_ENTRY_IMAGES) {
        return vp_fail(err, VP_ERR_VALUE,
                       "grads must not name 'rope.freqs' with rope: tokens of another "
                       "grid do not say which");
    }
    if (strncmp(name, "embeds.pos_embed_", 17) == 0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "grads must not name '%s': factorized positions have no "
                       "gradient yet, what stands beside and behind them does",
                       name);
    }
    if (r->pos_embed != NULL && strcmp(name, "embeds.pos_embed") == 0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "grads must not name '%s': it is resampled for these images; it "
                       "trains on images of its own grid",
                       name);
    }
    if (c->embed == VP_EMBED_CONV_STEM && strncmp(name, "patch_embed.", 12) == 0) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "grads must not name '%s': ConvStem does not train, its "
            "BatchNorm keeps the statistics that it has; what follows it does",
            name);
    }
    if (strncmp(name, "attn_pool.", 10) == 0 && c->global_pool != c->attn_pool) {
        return vp_fail(err, VP_ERR_VALUE,
                       "grads must not name '%s': the model pools by '%s'", name,
                       vp_pool_names[c->global_pool]);
    }
    return VP_OK;
}

static vp_status check_model(const vp_vit *vit, const vp_gradients *r, vp_error *err)
{
    static const char *const kinds[] = {"Block",
                                        "ResPostBlock",
                                        "ParallelScalingBlock",
                                        "ParallelThingsBlock",
                                        "DiffParallelScalingBlock",
                                        "EvaBlock",
                                        "EvaBlockPostNorm",
                                        "BeitBlock",
                                        "RelPosBlock",
                                        "ResPostRelPosBlock"};
    const vp_config *c = &vit->config;
    if (c->num_classes == 0) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "num_classes is 0: there is no head to train; reset_classifier(n) "
            "makes one");
    }
    if (c->global_pool == VP_POOL_NONE && r->entry != VP_ENTRY_PRE_LOGITS) {
        return vp_fail(err, VP_ERR_VALUE,
                       "global_pool is '': a loss needs one row of logits a picture; "
                       "reset_classifier(n, pool) sets a pool");
    }
    if (c->dist_token && r->entry == VP_ENTRY_PRE_LOGITS) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "entry must not be 'pre_logits': the two heads of "
            "VisionTransformerDistilled read two tokens, 'features' has both");
    }
    if (!vp_config_is_plain(c) && !vp_config_is_res_post(c) &&
        vp_train_first(c, r) < c->depth) {
        return vp_fail(err, VP_ERR_VALUE,
                       "block_fn '%s' does not train yet, the kinds with a norm before "
                       "each branch do; what follows the "
                       "blocks trains with every kind",
                       kinds[c->block]);
    }
    if (c->attn == VP_ATTN_DIFF && vp_train_first(c, r) < c->depth) {
        return vp_fail(err, VP_ERR_VALUE,
                       "attn_layer 'diff' does not train yet; what follows the blocks "
                       "trains with every kind");
    }
    return VP_OK;
}

/* A rate that acts on nothing of this class, or whose kind of dropout is not built. */
static vp_status check_patch_drop(const vp_config *c, vp_error *err)
{
    if (c->rope != VP_ROPE_NONE || c->rel_pos != VP_REL_POS_NONE) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "patch_drop must be 0 with %s, which goes by the patches' places",
            c->rope != VP_ROPE_NONE ? "rope" : "relative positions");
    }
    if (c->dist_token) { /* timm counts one prefix token, and may drop the second */
        return vp_fail(err, VP_ERR_VALUE,
                       "patch_drop must be 0 for VisionTransformerDistilled");
    }
    return VP_OK;
}

static vp_status check_rates(const vp_config *c, const vp_gradients *r, vp_error *err)
{
#define CHECK(name)                                                                   \
    if (!(r->rates.name >= 0.0 && r->rates.name < 1.0)) {                             \
        return vp_fail(err, VP_ERR_VALUE, #name " must be from 0 to below 1, not %g", \
                       r->rates.name);                                                \
    }
    VP_RATES(CHECK)
#undef CHECK
    if (c->family == VP_FAMILY_RELPOS && r->rates.pos_drop > 0.0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "pos_drop must be 0 for VisionTransformerRelPos: it adds no "
                       "positions to its tokens");
    }
    if (r->rates.patch_drop > 0.0 && check_patch_drop(c, err) != VP_OK) {
        return err->code;
    }
    if (r->rates.patch_drop > 0.0 && r->mask != NULL) {
        return vp_fail(err, VP_ERR_VALUE,
                       "mask must be None with patch_drop: it names tokens that are "
                       "dropped");
    }
    return VP_OK;
}

/* Tokens that stay of an image. */
size_t vp_train_kept_tokens(const vp_config *c, const vp_gradients *r, size_t tokens)
{
    if (r->entry != VP_ENTRY_IMAGES || r->rates.patch_drop == 0.0) {
        return tokens;
    }
    const size_t prefix = vp_config_prefix(c), patches = tokens - prefix;
    const size_t keep = (size_t)((double)patches * (1.0 - r->rates.patch_drop));
    return prefix + vp_max(keep, 1);
}

/* Tokens that the last block has to give: with a token pool nothing reads the others. (Dropout
 * of weights draws for all queries, though.) */
size_t vp_train_out_tokens(const vp_vit *vit, const vp_gradients *r, size_t tokens)
{
    const vp_config *c = &vit->config;
    const bool one = c->global_pool == VP_POOL_TOKEN && !c->dist_token &&
                     vp_train_first(c, r) < c->depth && r->rates.attn_drop == 0.0;
    return one ? 1 : tokens;
}

/* What the gradients that are asked for go through: see vp_training. */
typedef struct {
    size_t lowest;
    bool embedding, features, pooled;
} reach;

static reach reach_of(const vp_vit *vit, const vp_gradients *r)
{
    reach back = {.lowest = vit->config.depth};
    for (size_t i = 0; i < vit->num_params; i++) {
        size_t block;
        const char *name = vit->params[i].name;
        if (r->grads[i] == NULL) {
            continue;
        }
        if (block_of(name, &block)) {
            back.lowest = vp_min(back.lowest, block);
            back.features = true;
        } else if (in_all_blocks(name)) {
            back.features = true;
            back.lowest = 0;
        } else if (place_after(name) == 0) {
            back.embedding = back.features = true;
            back.lowest = 0;
        } else {
            back.features = back.features || place_after(name) == 1;
            back.pooled = back.pooled || place_after(name) == 2;
        }
    }
    back.pooled = back.pooled || back.features;
    return back;
}

/* A gradient is of the numbers that a product was made of: of float32, not of what they were
 * rounded to. So what trains, and what lies between it and the loss, has to be that; a
 * frozen part before it may be anything. */
static vp_status check_dtypes(const vp_vit *vit, const vp_gradients *r, vp_error *err)
{
    const reach back = reach_of(vit, r);
    for (size_t i = 0; i < vit->num_params; i++) {
        const vp_param *param = &vit->params[i];
        size_t block;
        const int place = place_after(param->name);
        const bool passed = block_of(param->name, &block) ? block >= back.lowest
                            : place == 2                  ? back.pooled
                                                          : place == 3;
        if (param->dtype != VP_DTYPE_f32 && (passed || r->grads[i] != NULL)) {
            return vp_fail(err, VP_ERR_VALUE,
                           "%s is %s, and %s: train in float32, which "
                           "model.to('float32') makes of all",
                           param->name, vp_dtype_title(param->dtype),
                           r->grads[i] != NULL ? "is to be trained"
                                               : "gradients go through it");
        }
    }
    return VP_OK;
}

vp_status vp_vit_check_gradients(const vp_vit *vit, const vp_gradients *r,
                                 size_t *tokens, vp_error *err)
{
    const vp_config *c = &vit->config;
    size_t grid[2];
    if (check_model(vit, r, err) != VP_OK || check_rates(c, r, err) != VP_OK) {
        return err->code;
    }
    if (r->groups == 0 || c->num_classes % r->groups != 0) {
        return vp_fail(err, VP_ERR_VALUE,
                       "groups must divide num_classes, %zu, evenly, not %zu",
                       c->num_classes, r->groups);
    }
    if (r->entry == VP_ENTRY_IMAGES) {
        if (vp_vit_check_size(vit, r->height, r->width, grid, err) != VP_OK) {
            return err->code;
        }
        *tokens = grid[0] * grid[1] + vp_config_prefix(c);
        if (c->pos_embed && r->pos_embed == NULL &&
            (c->pos_kind == VP_POS_FACTORIZED ||
             grid[0] != c->img_size[0] / c->patch_size[0] ||
             grid[1] != c->img_size[1] / c->patch_size[1])) {
            return vp_fail(err, VP_ERR_VALUE,
                           "pos_embed must be given for images of %zu x %zu", r->height,
                           r->width);
        }
    } else {
        const bool one = r->entry == VP_ENTRY_PRE_LOGITS;
        *tokens = one ? 1 : r->num_tokens;
        if (!one && vp_vit_check_tokens(vit, c->global_pool, *tokens, err) != VP_OK) {
            return err->code;
        }
    }
    const vp_forward places = {.rope = r->rope};
    if (r->rope != NULL && vp_train_first(c, r) == c->depth) {
        return vp_fail(err, VP_ERR_VALUE, "rope must be None: no block runs");
    }
    if (vp_train_first(c, r) < c->depth &&
        (vp_rel_pos_check(vit, *tokens, err) != VP_OK ||
         vp_rope_check(vit, &places, r->entry == VP_ENTRY_IMAGES ? grid : NULL, *tokens,
                       err) != VP_OK)) {
        return err->code;
    }
    if (r->entry == VP_ENTRY_BLOCK && r->first > c->depth) {
        return vp_fail(err, VP_ERR_VALUE, "block must be from 0 to depth %zu, not %zu",
                       c->depth, r->first);
    }
    for (size_t i = 0; i < vit->num_params; i++) {
        if (r->grads[i] != NULL &&
            check_param(vit, r, vit->params[i].name, err) != VP_OK) {
            return err->code;
        }
    }
    return check_dtypes(vit, r, err);
}

/* How far back the gradients go. */
void vp_train_ask(vp_training *t)
{
    const reach back = reach_of(t->pass.vit, t->request);
    t->first = vp_train_first(t->pass.config, t->request);
    t->lowest = back.lowest;
    t->embedding = back.embedding;
    t->features = back.features;
    t->pooled = back.pooled;
}
