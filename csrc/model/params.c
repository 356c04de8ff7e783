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

static void attention(list *l, const vp_config *c, vp_attn *attn, const char *prefix)
{
    const size_t width = c->embed_dim, d = vp_config_head_dim(c);
    const bool diff = c->attn == VP_ATTN_DIFF;
    if (diff) {
        lambdas(l, c, attn, prefix);
    }
    linear(l, &attn->qkv, prefix, "qkv", 3 * width, width, c->qkv_bias, 0);
    model_norm(l, c, &attn->q_norm, prefix, "q_norm", d, c->qk_norm);
    model_norm(l, c, &attn->k_norm, prefix, "k_norm", d, c->qk_norm);
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

static void plain_block(list *l, const vp_config *c, vp_block *b, const char *prefix)
{
    char path[48];
    const bool post = c->block == VP_BLOCK_RES_POST;
    const size_t width = c->embed_dim;
    if (!post) {
        model_norm(l, c, &b->norm1[0], prefix, "norm1", width, true);
    }
    (void)snprintf(path, sizeof path, "%sattn.", prefix);
    attention(l, c, &b->attn[0], path);
    if (post) {
        model_norm(l, c, &b->norm1[0], prefix, "norm1", width, true);
    }
    layer_scale(l, c, &b->ls1[0], prefix, "ls1.gamma");
    if (!post) {
        model_norm(l, c, &b->norm2[0], prefix, "norm2", width, true);
    }
    (void)snprintf(path, sizeof path, "%smlp.", prefix);
    mlp(l, c, &b->mlp[0], path);
    if (post) {
        model_norm(l, c, &b->norm2[0], prefix, "norm2", width, true);
    }
    layer_scale(l, c, &b->ls2[0], prefix, "ls2.gamma");
}

static void things_block(list *l, const vp_config *c, vp_block *b, const char *prefix)
{
    char path[64], inner[80];
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%sattns.%d.", prefix, i);
        model_norm(l, c, &b->norm1[i], path, "norm", c->embed_dim, true);
        (void)snprintf(inner, sizeof inner, "%sattn.", path);
        attention(l, c, &b->attn[i], inner);
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

vp_status vp_vit_declare_params(vp_vit *vit, vp_error *err)
{
    const vp_config *c = &vit->config;
    const size_t width = c->embed_dim;
    list l = {NULL, 0, 0, false};
    if (c->class_token) {
        plain(&l, &vit->cls_token, "", "cls_token", 3, (size_t)1, (size_t)1, width);
    }
    if (c->reg_tokens > 0) {
        plain(&l, &vit->reg_token, "", "reg_token", 3, (size_t)1, c->reg_tokens, width);
    }
    if (c->pos_embed) {
        const size_t prefix = c->no_embed_class ? 0 : vp_config_prefix(c);
        plain(&l, &vit->pos_embed, "", "pos_embed", 3, (size_t)1,
              vp_config_patches(c) + prefix, width);
    }
    vp_param *conv = append(&l, &vit->patch_proj.weight, "patch_embed.", "proj.weight");
    if (conv != NULL) {
        conv->ndim = 4;
        conv->shape[0] = width;
        conv->shape[1] = c->in_chans;
        conv->shape[2] = c->patch_size[0];
        conv->shape[3] = c->patch_size[1];
        conv->matrix = true;
    }
    if (!c->pre_norm) { /* timm: no bias where norm_pre follows (CLIP) */
        plain(&l, &vit->patch_proj.bias, "patch_embed.", "proj.bias", 1, width);
    }
    norm(&l, &vit->patch_norm, "patch_embed.", "norm", width, c->embed_norm_layer,
         c->embed_norm_eps);
    model_norm(&l, c, &vit->norm_pre, "", "norm_pre", width, c->pre_norm);
    for (size_t i = 0; i < c->depth; i++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "blocks.%zu.", i);
        switch (c->block) {
        case VP_BLOCK_PLAIN:
        case VP_BLOCK_RES_POST:
            plain_block(&l, c, &vit->blocks[i], prefix);
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
        plain(&l, &pool->latent, "attn_pool.", "latent", 3, (size_t)1, (size_t)1,
              width);
        linear(&l, &pool->q, "attn_pool.", "q", width, width, true, 0);
        linear(&l, &pool->kv, "attn_pool.", "kv", 2 * width, width, true, width);
        linear(&l, &pool->proj, "attn_pool.", "proj", width, width, true, 0);
        model_norm(&l, c, &pool->norm, "attn_pool.", "norm", width, true);
        linear(&l, &pool->mlp.fc1, "attn_pool.mlp.", "fc1", c->mlp_hidden, width, true,
               0);
        linear(&l, &pool->mlp.fc2, "attn_pool.mlp.", "fc2", width, c->mlp_hidden, true,
               0);
    }
    model_norm(&l, c, &vit->fc_norm, "", "fc_norm", width, c->fc_norm);
    if (c->num_classes > 0) {
        linear(&l, &vit->head, "", "head", c->num_classes, width, true, 0);
    }
    vit->params = l.items;
    vit->num_params = l.count;
    return l.failed ? vp_fail_memory(err, "the list of parameters", 0) : VP_OK;
}
