/* One module of the model alone, by its path. SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "model/modules.h"

typedef enum {
    KIND_PATCH_EMBED,
    KIND_CONV,
    KIND_LINEAR,
    KIND_PLAIN_LINEAR, /* RelPosMlp's, whose numbers are not packed */
    KIND_NORM,
    KIND_SCALE,
    KIND_ACT,
    KIND_ATTN,
    KIND_MLP,
    KIND_POOL,
} part_kind;

typedef struct {
    part_kind kind;
    vp_part_info info;
    const void
        *module; /* vp_linear, vp_norm, vp_attn or vp_mlp; a vp_weight to scale by */
    vp_act act;  /* of an activation, and in an MLP */
} part;

/* The parameter `name` of the module at `path`, or NULL. */
static const vp_param *param_of(const vp_vit *vit, const char *path, const char *name)
{
    char full[sizeof((vp_param *)NULL)->name];
    const int length = snprintf(full, sizeof full, "%s.%s", path, name);
    const bool fits = length >= 0 && (size_t)length < sizeof full;
    const size_t i = fits ? vp_vit_find_param(vit, full, 0) : vp_vit_num_params(vit);
    return i < vp_vit_num_params(vit) ? vp_vit_param(vit, i) : NULL;
}

/* A parameter's slot lies in the structure of its module. */
#define MODULE_OF(param, type, member) \
    ((const void *)((const char *)(param)->slot - offsetof(type, member)))

static bool is_below(const char *path, const char *start)
{
    return strncmp(path, start, strlen(start)) == 0;
}

/* The activation at this path, or in the MLP there. */
static vp_act act_of(const vp_config *c, const char *path)
{
    if (strstr(path, "rel_pos.mlp") != NULL) {
        return VP_ACT_RELU;
    }
    if (is_below(path, "patch_embed.backbone.")) {
        return VP_ACT_GELU;
    }
    return is_below(path, "attn_pool.") ? vp_config_pool_act(c) : c->act;
}

/* Attention, whose queries come of its own matrix or of one for all three. */
static const vp_attn *find_attn(const vp_vit *vit, const char *path)
{
    const vp_param *param = param_of(vit, path, "qkv.weight");
    if (param != NULL) {
        return MODULE_OF(param, vp_attn, qkv.weight);
    }
    param = param_of(vit, path, "q_proj.weight");
    return param != NULL ? MODULE_OF(param, vp_attn, q_proj.weight) : NULL;
}

/* What a path means follows from the parameters below it. */
static bool find(const vp_vit *vit, const char *path, part *found)
{
    const vp_config *c = &vit->config;
    const size_t width = c->embed_dim;
    const char *dot = strrchr(path, '.'), *name = dot != NULL ? dot + 1 : path;
    const vp_param *param;
    const vp_attn *attn;
    const vp_act act = act_of(c, path);
    if (strcmp(path, c->family == VP_FAMILY_NAFLEX ? "embeds" : "patch_embed") == 0) {
        *found = (part){KIND_PATCH_EMBED, {VP_PART_IMAGES, 0, width}, NULL, act};
    } else if (strcmp(path, "attn_pool") == 0 && c->attn_pool != VP_POOL_NONE) {
        *found = (part){KIND_POOL, {VP_PART_POOL, width, width}, NULL, act};
    } else if (strcmp(name, "act") == 0 || strcmp(name, "mlp_act") == 0) {
        *found = (part){KIND_ACT, {VP_PART_EACH, 1, 1}, NULL, act};
    } else if (is_below(path, "patch_embed.backbone")) {
        return false; /* ConvStem is run whole */
    } else if ((attn = find_attn(vit, path)) != NULL) {
        *found = (part){KIND_ATTN, {VP_PART_TOKENS, width, width}, attn, act};
    } else if ((param = param_of(vit, path, "fc2.weight")) != NULL && param->matrix) {
        *found = (part){KIND_MLP,
                        {VP_PART_ROWS, width, width},
                        MODULE_OF(param, vp_mlp, fc2.weight),
                        act};
    } else if ((param = param_of(vit, path, "gamma")) != NULL) {
        *found = (part){KIND_SCALE, {VP_PART_ROWS, width, width}, *param->slot, act};
    } else if ((param = param_of(vit, path, "weight")) == NULL) {
        return false;
    } else if (param->ndim == 4) {
        *found = (part){KIND_CONV, {VP_PART_IMAGES, 0, width}, NULL, act};
    } else if (param->ndim == 2) {
        *found = (part){param->matrix ? KIND_LINEAR : KIND_PLAIN_LINEAR,
                        {VP_PART_ROWS, param->shape[1], param->shape[0]},
                        MODULE_OF(param, vp_linear, weight),
                        act};
    } else {
        *found = (part){KIND_NORM,
                        {VP_PART_ROWS, param->shape[0], param->shape[0]},
                        MODULE_OF(param, vp_norm, weight),
                        act};
    }
    return true;
}

static vp_status find_or_fail(const vp_vit *vit, const char *path, part *found,
                              vp_error *err)
{
    return find(vit, path, found)
               ? VP_OK
               : vp_fail(err, VP_ERR_KEY, "no module '%s' that computes alone", path);
}

vp_status vp_vit_part(const vp_vit *vit, const char *path, vp_part_info *info,
                      vp_error *err)
{
    part found = {0};
    if (find_or_fail(vit, path, &found, err) != VP_OK) {
        return err->code;
    }
    *info = found.info;
    return VP_OK;
}

/* Rows and columns of patches. A convolution leaves out what does not fill one, as torch's
 * does; the embedding knows its sizes. */
static vp_status grid_of(const vp_vit *vit, const part *found, const vp_forward *f,
                         size_t side[2], vp_error *err)
{
    const vp_config *c = &vit->config;
    if (found->kind == KIND_PATCH_EMBED) {
        return vp_vit_check_size(vit, f->height, f->width, side, err);
    }
    side[0] = f->height / c->patch_size[0];
    side[1] = f->width / c->patch_size[1];
    return side[0] > 0 && side[1] > 0 && side[0] <= 65536 && side[1] <= 65536
               ? VP_OK
               : vp_fail(err, VP_ERR_VALUE,
                         "x has images of %zu x %zu; with patches of %zu x %zu a side "
                         "must give from 1 to 65536 of them",
                         f->height, f->width, c->patch_size[0], c->patch_size[1]);
}

vp_status vp_part_check(const vp_vit *vit, const vp_forward *f, size_t *tokens,
                        vp_error *err)
{
    part found = {0};
    size_t side[2];
    if (find_or_fail(vit, f->part, &found, err) != VP_OK) {
        return err->code;
    }
    if ((f->images != NULL) != (found.info.shape == VP_PART_IMAGES)) {
        return vp_fail(err, VP_ERR_VALUE, "%s takes %s", f->part,
                       f->images != NULL ? "tokens, not images" : "images, not tokens");
    }
    if (f->images == NULL) {
        *tokens = f->num_tokens;
        if (vp_vit_check_tokens(vit, VP_POOL_NONE, f->num_tokens, err) != VP_OK) {
            return err->code;
        }
        if (found.kind != KIND_ATTN) {
            return VP_OK;
        }
        return vp_rel_pos_check(vit, *tokens, err) != VP_OK
                   ? err->code
                   : vp_rope_check(vit, f, NULL, *tokens, err);
    }
    if (grid_of(vit, &found, f, side, err) != VP_OK) {
        return err->code;
    }
    *tokens = side[0] * side[1];
    return VP_OK;
}

static void linear(vp_pass *pass, const vp_linear *module, const vp_part_info *info,
                   size_t m, const float *x, float *out)
{
    const vp_weight *weight = module->weight;
    size_t column = 0;
    for (size_t p = 0; p < weight->parts; p++) {
        vp_gemm gemm = {.m = m, .a = x, .lda = info->in, .w = &weight->packed[p]};
        gemm.sum_piece = module == &pass->vit->head ? VP_SUM_PIECE_FINAL : 0;
        gemm.finish = vp_module_finish(module, out + column, info->out);
        if (gemm.finish.bias != NULL) {
            gemm.finish.bias += column;
        }
        vp_gemm_run(&pass->run, &gemm);
        column += gemm.w->n;
    }
}

/* A few numbers a row, read where they lie. */
static void plain_linear(const vp_linear *module, const vp_part_info *info, size_t m,
                         const float *x, float *out)
{
    const float *weight = module->weight->plain;
    for (size_t i = 0; i < m; i++) {
        for (size_t o = 0; o < info->out; o++) {
            double sum = module->bias != NULL ? (double)module->bias->plain[o] : 0.0;
            for (size_t k = 0; k < info->in; k++) {
                sum += (double)x[i * info->in + k] * (double)weight[o * info->in + k];
            }
            out[i * info->out + o] = (float)sum;
        }
    }
}

static void norm(vp_pass *pass, const vp_norm *module, size_t m, size_t n,
                 const float *x, float *out)
{
    const vp_norm_op op = {module->kind, module->eps, module->weight->plain,
                           module->bias != NULL ? module->bias->plain : NULL};
    vp_norm_run(&pass->run, &op, m, 1, n, out, n, x, n);
}

/* The block that the attention stands in: each may have a rotary table of its own. */
static size_t block_of(const vp_vit *vit, const vp_attn *attn)
{
    const size_t bytes = (size_t)((const char *)attn - (const char *)vit->blocks);
    return bytes / sizeof *vit->blocks;
}

void vp_part_forward(vp_pass *pass)
{
    const vp_vit *vit = pass->vit;
    const vp_config *c = pass->config;
    const vp_forward *f = pass->request;
    const size_t n = pass->tokens, m = pass->batch * n;
    size_t side[2];
    vp_error err; /* vp_part_check has asked before */
    part found = {0};
    (void)find(vit, f->part, &found);
    const size_t in = found.info.in, width = found.info.out;
    const bool pool = found.info.shape == VP_PART_POOL;
    float *out = f->out + pass->start * (pool ? 1 : n) * width;
    const float *x = f->tokens != NULL ? f->tokens + pass->start * n * in : NULL;
    vp_finish finish = {.out = out, .out_stride = width};
    switch (found.kind) {
    case KIND_PATCH_EMBED:
    case KIND_CONV:
        (void)grid_of(vit, &found, f, side, &err);
        vp_module_patches(pass, side, 0,
                          found.kind == KIND_CONV ? NULL : &vit->patch_norm, out,
                          width);
        break;
    case KIND_LINEAR:
        linear(pass, found.module, &found.info, m, x, out);
        break;
    case KIND_PLAIN_LINEAR:
        plain_linear(found.module, &found.info, m, x, out);
        break;
    case KIND_NORM:
        norm(pass, found.module, m, width, x, out);
        break;
    case KIND_SCALE:
        finish.scale = ((const vp_weight *)found.module)->plain;
        pass->run.kernels->finish(x, width, m, width, &finish);
        break;
    case KIND_ACT:
        finish.act = found.act;
        pass->run.kernels->finish(x, m, 1, m, &finish);
        break;
    case KIND_ATTN:
        vp_module_copy(pass, m, pass->a, pass->ldx, x, width);
        pass->block = block_of(vit, found.module);
        vp_module_attn(pass, found.module, false, finish, NULL);
        break;
    case KIND_MLP:
        vp_module_mlp(pass, found.module,
                      found.module == &vit->pool.mlp ? VP_MLP_PLAIN : c->mlp, m, x, in,
                      finish);
        break;
    case KIND_POOL:
        vp_attn_pool_forward(pass, x, width, n * width, n, out, width);
        break;
    }
}
