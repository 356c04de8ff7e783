/* Every parameter a config asks for: timm's names, shapes and order.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/modules.h"

/* A growing list; `prefix` is the module path in front of each name. */
typedef struct {
    vp_param *items;
    size_t count, capacity;
    bool failed;
} list;

static vp_param *append(list *l, vp_weight **slot, const char *prefix, const char *name)
{
    if (l->count == l->capacity) {
        const size_t capacity = l->capacity > 0 ? 2 * l->capacity : 64;
        vp_param *items = vp_alloc_zero(vp_size_mul(capacity, sizeof *items));
        if (items == NULL) {
            l->failed = true;
            return NULL;
        }
        if (l->count > 0) {
            memcpy(items, l->items, l->count * sizeof *items);
        }
        vp_free(l->items);
        l->items = items;
        l->capacity = capacity;
    }
    vp_param *param = &l->items[l->count++];
    (void)snprintf(param->name, sizeof param->name, "%s%s", prefix, name);
    param->slot = slot;
    return param;
}

static void plain(list *l, vp_weight **slot, const char *prefix, const char *name,
                  size_t ndim, ...)
{
    vp_param *param = append(l, slot, prefix, name);
    va_list shape;
    va_start(shape, ndim);
    for (size_t i = 0; param != NULL && i < ndim; i++) {
        param->shape[i] = va_arg(shape, size_t);
    }
    va_end(shape);
    if (param != NULL) {
        param->ndim = ndim;
    }
}

static void linear(list *l, vp_linear *module, const char *prefix, const char *name,
                   size_t out, size_t in, bool bias, size_t first)
{
    char path[64];
    (void)snprintf(path, sizeof path, "%s.weight", name);
    vp_param *param = append(l, &module->weight, prefix, path);
    if (param != NULL) {
        param->ndim = 2;
        param->shape[0] = out;
        param->shape[1] = in;
        param->matrix = true;
        param->first = first;
    }
    if (bias) {
        (void)snprintf(path, sizeof path, "%s.bias", name);
        plain(l, &module->bias, prefix, path, 1, out);
    }
}

static void norm(list *l, vp_norm *module, const char *prefix, const char *name,
                 size_t n, vp_norm_kind kind, float eps)
{
    char path[64];
    module->kind = kind;
    module->eps = eps;
    if (kind != VP_NORM_NONE) {
        (void)snprintf(path, sizeof path, "%s.weight", name);
        plain(l, &module->weight, prefix, path, 1, n);
    }
    if (kind == VP_NORM_LAYER) {
        (void)snprintf(path, sizeof path, "%s.bias", name);
        plain(l, &module->bias, prefix, path, 1, n);
    }
}

/* A norm of the model's norm_layer, if wanted. */
static void model_norm(list *l, const vp_config *c, vp_norm *module, const char *prefix,
                       const char *name, size_t n, bool wanted)
{
    norm(l, module, prefix, name, n, wanted ? c->norm_layer : VP_NORM_NONE,
         c->norm_eps);
}

static void lambdas(list *l, const vp_config *c, vp_attn *attn, const char *prefix)
{
    const size_t d = vp_config_head_dim(c);
    plain(l, &attn->lambda_q1, prefix, "lambda_q1", 1, d);
    plain(l, &attn->lambda_k1, prefix, "lambda_k1", 1, d);
    plain(l, &attn->lambda_q2, prefix, "lambda_q2", 1, d);
    plain(l, &attn->lambda_k2, prefix, "lambda_k2", 1, d);
}

/* What says where key and query lie to each other: a table, or timm.layers.RelPosMlp. */
static void rel_pos(list *l, const vp_config *c, vp_rel_pos *module, const char *prefix)
{
    if (c->rel_pos == VP_REL_POS_BIAS) {
        plain(l, &module->table, prefix, "relative_position_bias_table", 2,
              vp_config_rel_pos_rows(c), c->num_heads);
    } else if (c->rel_pos != VP_REL_POS_NONE) {
        /* read once, when the table is made of them: they stay float32, unpacked */
        const size_t hidden = c->rel_pos_dim;
        plain(l, &module->fc1.weight, prefix, "mlp.fc1.weight", 2, hidden, (size_t)2);
        plain(l, &module->fc1.bias, prefix, "mlp.fc1.bias", 1, hidden);
        plain(l, &module->fc2.weight, prefix, "mlp.fc2.weight", 2, c->num_heads,
              hidden);
        if (c->rel_pos == VP_REL_POS_MLP) {
            plain(l, &module->fc2.bias, prefix, "mlp.fc2.bias", 1, c->num_heads);
        }
    }
}

/* q, k and v; a module's own parameters stand before those of the modules in it. */
static void qkv(list *l, const vp_config *c, vp_attn *attn, const char *prefix,
                size_t kv_heads)
{
    const size_t width = c->embed_dim;
    const bool all = c->qkv_bias && !c->q_v_bias;
    if (c->qkv_split) {
        const size_t kv = kv_heads * vp_config_head_dim(c);
        linear(l, &attn->q_proj, prefix, "q_proj", width, width, c->qkv_bias, 0);
        linear(l, &attn->k_proj, prefix, "k_proj", kv, width, all, 0);
        linear(l, &attn->v_proj, prefix, "v_proj", kv, width, c->qkv_bias, 0);
        return;
    }
    if (c->qkv_bias && c->q_v_bias) {
        plain(l, &attn->q_bias, prefix, "q_bias", 1, width);
        plain(l, &attn->v_bias, prefix, "v_bias", 1, width);
    }
    if (c->rel_pos_block && c->block == VP_BLOCK_BEIT) {
        rel_pos(l, c, &attn->rel_pos, prefix);
    }
    linear(l, &attn->qkv, prefix, "qkv", 3 * width, width, all, 0);
}

static void attention(list *l, const vp_config *c, vp_attn *attn, const char *prefix,
                      size_t kv_heads)
{
    const size_t width = c->embed_dim, d = vp_config_head_dim(c);
    const bool diff = c->attn == VP_ATTN_DIFF;
    if (diff) {
        lambdas(l, c, attn, prefix);
    }
    qkv(l, c, attn, prefix, kv_heads);
    model_norm(l, c, &attn->q_norm, prefix, "q_norm", d, c->qk_norm);
    model_norm(l, c, &attn->k_norm, prefix, "k_norm", d, c->qk_norm);
    if (c->rel_pos_block && c->block != VP_BLOCK_BEIT) {
        char path[80];
        (void)snprintf(path, sizeof path, "%srel_pos.", prefix);
        rel_pos(l, c, &attn->rel_pos, path);
    }
    model_norm(l, c, &attn->norm, prefix, "norm", width, c->scale_attn_norm);
    linear(l, &attn->proj, prefix, "proj", width, width, c->proj_bias, 0);
    if (diff) {
        norm(l, &attn->sub_norm, prefix, "sub_norm", 2 * d, VP_NORM_RMS, 1e-5f);
    }
}

static void mlp(list *l, const vp_config *c, vp_mlp *module, const char *prefix)
{
    const size_t width = c->embed_dim, hidden = vp_config_hidden(c);
    if (c->mlp == VP_MLP_SWIGLU) {
        linear(l, &module->fc1_g, prefix, "fc1_g", hidden, width, c->proj_bias, 0);
        linear(l, &module->fc1_x, prefix, "fc1_x", hidden, width, c->proj_bias, 0);
    } else {
        /* the GLU kinds hold both halves in one matrix, packed apart */
        const size_t first = hidden < c->mlp_hidden ? hidden : 0;
        linear(l, &module->fc1, prefix, "fc1", c->mlp_hidden, width, c->proj_bias,
               first);
    }
    model_norm(l, c, &module->norm, prefix, "norm", hidden, c->scale_mlp_norm);
    linear(l, &module->fc2, prefix, "fc2", width, hidden, c->proj_bias, 0);
}

static void layer_scale(list *l, const vp_config *c, vp_weight **slot,
                        const char *prefix, const char *name)
{
    if (vp_config_layer_scale(c)) {
        plain(l, slot, prefix, name, 1, c->embed_dim);
    }
}

/* EvaBlock and Beit's Block: LayerScale's numbers are the block's own, so they come first. */
static void gammas(list *l, const vp_config *c, vp_block *b, const char *prefix)
{
    layer_scale(l, c, &b->ls1[0], prefix, "gamma_1");
    if (!c->attn_only_layer_scale) {
        layer_scale(l, c, &b->ls2[0], prefix, "gamma_2");
    }
}

static void plain_block(list *l, const vp_config *c, vp_block *b, const char *prefix,
                        size_t kv_heads)
{
    char path[48];
    const bool post = vp_config_is_res_post(c);
    const bool own = c->block == VP_BLOCK_EVA || c->block == VP_BLOCK_BEIT;
    const size_t width = c->embed_dim;
    if (own) {
        gammas(l, c, b, prefix);
    }
    if (!post) {
        model_norm(l, c, &b->norm1[0], prefix, "norm1", width, true);
    }
    (void)snprintf(path, sizeof path, "%sattn.", prefix);
    attention(l, c, &b->attn[0], path, kv_heads);
    if (post) {
        model_norm(l, c, &b->norm1[0], prefix, "norm1", width, true);
    }
    if (!own) {
        layer_scale(l, c, &b->ls1[0], prefix, "ls1.gamma");
    }
    if (!post) {
        model_norm(l, c, &b->norm2[0], prefix, "norm2", width, true);
    }
    (void)snprintf(path, sizeof path, "%smlp.", prefix);
    mlp(l, c, &b->mlp[0], path);
    if (post) {
        model_norm(l, c, &b->norm2[0], prefix, "norm2", width, true);
    }
    if (!own) {
        layer_scale(l, c, &b->ls2[0], prefix, "ls2.gamma");
    }
}

static void things_block(list *l, const vp_config *c, vp_block *b, const char *prefix)
{
    char path[64], inner[80];
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%sattns.%d.", prefix, i);
        model_norm(l, c, &b->norm1[i], path, "norm", c->embed_dim, true);
        (void)snprintf(inner, sizeof inner, "%sattn.", path);
        attention(l, c, &b->attn[i], inner, c->num_heads);
        layer_scale(l, c, &b->ls1[i], path, "ls.gamma");
    }
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%sffns.%d.", prefix, i);
        model_norm(l, c, &b->norm2[i], path, "norm", c->embed_dim, true);
        (void)snprintf(inner, sizeof inner, "%smlp.", path);
        mlp(l, c, &b->mlp[i], inner);
        layer_scale(l, c, &b->ls2[i], path, "ls.gamma");
    }
}

static void scaling_block(list *l, const vp_config *c, vp_block *b, const char *prefix)
{
    const bool diff = c->block == VP_BLOCK_DIFF_PARALLEL_SCALING;
    const size_t width = c->embed_dim, hidden = c->mlp_hidden,
                 d = vp_config_head_dim(c);
    vp_attn *attn = &b->attn[0];
    if (!c->qkv_bias) {
        plain(l, &b->mlp_bias, prefix, "mlp_bias", 1, hidden);
    }
    if (diff) {
        lambdas(l, c, attn, prefix);
    }
    model_norm(l, c, &b->norm1[0], prefix, "in_norm", width, true);
    linear(l, &b->in_proj, prefix, "in_proj", hidden + 3 * width, width, c->qkv_bias,
           hidden);
    model_norm(l, c, &attn->q_norm, prefix, "q_norm", d, c->qk_norm);
    model_norm(l, c, &attn->k_norm, prefix, "k_norm", d, c->qk_norm);
    if (diff) {
        norm(l, &attn->sub_norm, prefix, "sub_norm", 2 * d, VP_NORM_RMS, 1e-5f);
        linear(l, &b->out_proj, prefix, "out_proj", width, width + hidden, c->proj_bias,
               0);
    } else {
        linear(l, &b->attn_out_proj, prefix, "attn_out_proj", width, width,
               c->proj_bias, 0);
        linear(l, &b->mlp_out_proj, prefix, "mlp_out_proj", width, hidden, c->proj_bias,
               0);
    }
    layer_scale(l, c, &b->ls1[0], prefix, "ls.gamma");
}

static void convolution(list *l, vp_weight **slot, const char *prefix, const char *name,
                        size_t out, size_t in, const size_t kernel[2])
{
    vp_param *param = append(l, slot, prefix, name);
    if (param != NULL) {
        param->ndim = 4;
        param->shape[0] = out;
        param->shape[1] = in;
        param->shape[2] = kernel[0];
        param->shape[3] = kernel[1];
        param->matrix = true;
    }
}

/* ConvStem: convolutions and BatchNorms. (num_batches_tracked, which no number depends on, is
 * left out.) */
static void conv_stem(list *l, const vp_config *c, vp_conv_stem *stem)
{
    for (size_t i = 0; i < VP_STEM_CONVS; i++) {
        char path[48];
        const bool last = i + 1 == VP_STEM_CONVS;
        const size_t out = vp_conv_stem_width(c, i);
        const size_t kernel[2] = {vp_conv_stem_kernel(i), vp_conv_stem_kernel(i)};
        (void)snprintf(path, sizeof path, "patch_embed.backbone.%zu.", i);
        convolution(l, &stem->conv[i].weight, path, "conv.weight", out,
                    i == 0 ? c->in_chans : vp_conv_stem_width(c, i - 1), kernel);
        if (last) {
            plain(l, &stem->conv[i].bias, path, "conv.bias", 1, out);
        } else {
            plain(l, &stem->bn[i].weight, path, "bn.weight", 1, out);
            plain(l, &stem->bn[i].bias, path, "bn.bias", 1, out);
            plain(l, &stem->bn[i].mean, path, "bn.running_mean", 1, out);
            plain(l, &stem->bn[i].var, path, "bn.running_var", 1, out);
        }
    }
}

/* The tokens that stand before the patches, and the positions; NaFlexVit's lie in `embeds.`,
 * on a grid. */
static void tokens(list *l, vp_vit *vit, const char *prefix)
{
    const vp_config *c = &vit->config;
    const size_t width = c->embed_dim, one = 1;
    if (c->class_token) {
        plain(l, &vit->cls_token, prefix, "cls_token", 3, one, one, width);
    }
    if (c->reg_tokens > 0) {
        plain(l, &vit->reg_token, prefix, "reg_token", 3, one, c->reg_tokens, width);
    }
    if (c->pos_embed && c->family == VP_FAMILY_NAFLEX) {
        const size_t rows = c->img_size[0] / c->patch_size[0];
        const size_t columns = c->img_size[1] / c->patch_size[1];
        if (c->pos_kind == VP_POS_FACTORIZED) {
            plain(l, &vit->pos_embed_y, prefix, "pos_embed_y", 3, one, rows, width);
            plain(l, &vit->pos_embed_x, prefix, "pos_embed_x", 3, one, columns, width);
        } else {
            plain(l, &vit->pos_embed, prefix, "pos_embed", 4, one, rows, columns,
                  width);
        }
    } else if (c->pos_embed) {
        const size_t count = c->no_embed_class ? 0 : vp_config_prefix(c);
        plain(l, &vit->pos_embed, prefix, "pos_embed", 3, one,
              vp_config_patches(c) + count, width);
    }
    if (c->dist_token) {
        plain(l, &vit->dist_token, prefix, "dist_token", 3, one, one, width);
    }
}

/* What makes patches of images: a convolution, or NaFlexVit's linear layer. */
static void patches(list *l, vp_vit *vit, const char *prefix)
{
    const vp_config *c = &vit->config;
    const size_t width = c->embed_dim;
    if (c->embed == VP_EMBED_CONV_STEM) {
        conv_stem(l, c, &vit->stem);
        return;
    }
    if (c->embed_linear) {
        linear(l, &vit->patch_proj, prefix, "proj", width,
               c->patch_size[0] * c->patch_size[1] * c->in_chans, !c->pre_norm, 0);
    } else {
        convolution(l, &vit->patch_proj.weight, prefix, "proj.weight", width,
                    c->in_chans, c->patch_size);
        if (!c->pre_norm) { /* timm: no bias where norm_pre follows (CLIP) */
            plain(l, &vit->patch_proj.bias, prefix, "proj.bias", 1, width);
        }
    }
    norm(l, &vit->patch_norm, prefix, "norm", width, c->embed_norm_layer,
         c->embed_norm_eps);
}

vp_status vp_vit_declare_params(vp_vit *vit, vp_error *err)
{
    const vp_config *c = &vit->config;
    const size_t width = c->embed_dim;
    const bool naflex = c->family == VP_FAMILY_NAFLEX;
    list l = {NULL, 0, 0, false};
    tokens(&l, vit, naflex ? "embeds." : "");
    patches(&l, vit, naflex ? "embeds." : "patch_embed.");
    const bool rope_first = !naflex; /* of Eva's modules; of NaFlexVit's norm_pre */
    if (!rope_first) {
        model_norm(&l, c, &vit->norm_pre, "", "norm_pre", width, c->pre_norm);
    }
    if (c->rope == VP_ROPE_MIXED) {
        plain(&l, &vit->rope_freqs, "", "rope.freqs", 4, (size_t)2, c->depth,
              c->num_heads, vp_config_head_dim(c) / 2);
    }
    if (rope_first) {
        model_norm(&l, c, &vit->norm_pre, "", "norm_pre", width, c->pre_norm);
    }
    if (c->rel_pos_shared) {
        const bool beit = c->block == VP_BLOCK_BEIT;
        rel_pos(&l, c, &vit->shared_rel_pos,
                beit ? "rel_pos_bias." : "shared_rel_pos.");
    }
    for (size_t i = 0; i < c->depth; i++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "blocks.%zu.", i);
        switch (c->block) {
        case VP_BLOCK_PLAIN:
        case VP_BLOCK_RES_POST:
        case VP_BLOCK_EVA:
        case VP_BLOCK_EVA_POST_NORM:
        case VP_BLOCK_BEIT:
        case VP_BLOCK_REL_POS:
        case VP_BLOCK_RES_POST_REL_POS:
            plain_block(&l, c, &vit->blocks[i], prefix, vp_config_kv_heads(c, i));
            break;
        case VP_BLOCK_PARALLEL_THINGS:
            things_block(&l, c, &vit->blocks[i], prefix);
            break;
        case VP_BLOCK_PARALLEL_SCALING:
        case VP_BLOCK_DIFF_PARALLEL_SCALING:
            scaling_block(&l, c, &vit->blocks[i], prefix);
            break;
        }
    }
    model_norm(&l, c, &vit->norm, "", "norm", width, c->norm);
    if (c->attn_pool == VP_POOL_MAP) {
        vp_attn_pool *pool = &vit->pool;
        const size_t hidden = vp_config_pool_hidden(c);
        plain(&l, &pool->latent, "attn_pool.", "latent", 3, (size_t)1, (size_t)1,
              width);
        linear(&l, &pool->q, "attn_pool.", "q", width, width, true, 0);
        linear(&l, &pool->kv, "attn_pool.", "kv", 2 * width, width, true, width);
        linear(&l, &pool->proj, "attn_pool.", "proj", width, width, true, 0);
        model_norm(&l, c, &pool->norm, "attn_pool.", "norm", width, true);
        linear(&l, &pool->mlp.fc1, "attn_pool.mlp.", "fc1", hidden, width, true, 0);
        linear(&l, &pool->mlp.fc2, "attn_pool.mlp.", "fc2", width, hidden, true, 0);
    }
    model_norm(&l, c, &vit->fc_norm, "", "fc_norm", width, c->fc_norm);
    if (c->num_classes > 0) {
        linear(&l, &vit->head, "", "head", c->num_classes, width, true, 0);
        if (c->dist_token) {
            linear(&l, &vit->head_dist, "", "head_dist", c->num_classes, width, true,
                   0);
        }
    }
    vit->params = l.items;
    vit->num_params = l.count;
    return l.failed ? vp_fail_memory(err, "the list of parameters", 0) : VP_OK;
}
