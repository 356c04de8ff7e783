/* A model of any class: building, and what a built one takes. SPDX-License-Identifier: Apache-2.0 */
#include "model/vit.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "model/modules.h"

/* -- building -- */

static unsigned long long new_serial(void)
{
    static atomic_ullong last;
    return atomic_fetch_add(&last, 1) + 1;
}

vp_status vp_vit_create(const vp_config *config, vp_vit **out, vp_error *err)
{
    if (vp_config_check(config, err) != VP_OK) {
        return err->code;
    }
    vp_vit *vit = vp_alloc_zero(sizeof *vit);
    if (vit == NULL) {
        return vp_fail_memory(err, "a model", sizeof *vit);
    }
    vit->refs = 1;
    vit->serial = new_serial();
    vit->config = *config;
    vit->blocks = vp_alloc_zero(config->depth * sizeof *vit->blocks);
    if (vit->blocks == NULL) {
        vp_vit_unref(vit);
        return vp_fail_memory(err, "the blocks", config->depth * sizeof(vp_block));
    }
    if (vp_vit_declare_params(vit, err) != VP_OK) {
        vp_vit_unref(vit);
        return err->code;
    }
    vit->pool.serial = config->attn_pool != VP_POOL_NONE ? new_serial() : 0;
    *out = vit;
    return VP_OK;
}

vp_vit *vp_vit_ref(vp_vit *vit)
{
    atomic_fetch_add(&vit->refs, 1);
    return vit;
}

void vp_vit_unref(vp_vit *vit)
{
    if (vit == NULL || atomic_fetch_sub(&vit->refs, 1) != 1) {
        return;
    }
    for (size_t i = 0; i < vit->num_params; i++) {
        vp_weight_unref(*vit->params[i].slot);
    }
    vp_packed_free(&vit->pool.query);
    for (size_t i = 0; vit->blocks != NULL && i < vit->config.depth; i++) {
        vp_free(vit->blocks[i].attn[0].qkv_bias);
    }
    vp_free(vit->rope);
    vp_rel_pos_free(vit);
    vp_conv_stem_free(&vit->stem);
    vp_free(vit->params);
    vp_free(vit->blocks);
    vp_free(vit);
}

vp_vit *vp_vit_acquire(vp_vit *const *place)
{
    /* Together, since the place may drop its reference at any moment. */
    vp_global_lock();
    vp_vit *vit = *place != NULL ? vp_vit_ref(*place) : NULL;
    vp_global_unlock();
    return vit;
}

bool vp_vit_commit(vp_vit **place, vp_vit *expected, vp_vit *next)
{
    vp_global_lock();
    const bool current = *place == expected;
    if (current) {
        *place = next;
    }
    vp_global_unlock();
    vp_vit_unref(current ? expected : next);
    return current;
}

const vp_config *vp_vit_config(const vp_vit *vit)
{
    return &vit->config;
}

size_t vp_vit_num_params(const vp_vit *vit)
{
    return vit->num_params;
}

const vp_param *vp_vit_param(const vp_vit *vit, size_t i)
{
    return &vit->params[i];
}

size_t vp_param_count(const vp_param *param)
{
    size_t count = 1;
    for (size_t i = 0; i < param->ndim; i++) {
        count = vp_size_mul(count, param->shape[i]);
    }
    return count;
}

size_t vp_vit_weight_bytes(const vp_vit *vit)
{
    size_t bytes = 0;
    for (size_t i = 0; i < vit->num_params; i++) {
        bytes += vp_weight_bytes(*vit->params[i].slot);
    }
    if (vit->rope != NULL) {
        size_t grid[2];
        vp_config_grid(&vit->config, grid);
        bytes += vp_vit_rope_size(vit, grid) * sizeof(float);
    }
    return bytes;
}

unsigned long long vp_vit_serial(const vp_vit *vit)
{
    return vit->serial;
}

unsigned long long vp_vit_pool_serial(const vp_vit *vit)
{
    return vit->pool.serial;
}

/* An empty weight for parameter i. */
static vp_status new_weight(const vp_param *param, vp_weight **weight, vp_error *err)
{
    const size_t count = vp_param_count(param);
    *weight = param->matrix
                  ? vp_weight_create_matrix(param->shape[0], count / param->shape[0],
                                            param->first, param->dtype)
                  : vp_weight_create_plain(count);
    return *weight != NULL ? VP_OK
                           : vp_fail_memory(err, param->name, count * sizeof(float));
}

/* Takes the reference. */
static void set_weight(vp_param *param, vp_weight *weight, bool random)
{
    vp_weight_unref(*param->slot);
    *param->slot = weight;
    param->random = random;
}

/* A finite number that rounds to infinity is an error: no layer would be left. */
static vp_status check_f16(const vp_param *param, const float *numbers, vp_error *err)
{
    const uint32_t beyond = 0x477ff000u, infinity = 0x7f800000u; /* 65520 */
    const size_t count = vp_param_count(param);
    bool fits = true;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, numbers + i, sizeof bits);
        fits = fits & ((bits & 0x7fffffffu) - beyond >= infinity - beyond);
    }
    return fits ? VP_OK
                : vp_fail(err, VP_ERR_VALUE,
                          "%s has numbers beyond 65504, float16's largest: keep it "
                          "float32, or take bfloat16",
                          param->name);
}

vp_status vp_vit_set_param(vp_vit *vit, size_t i, const float *numbers, vp_error *err)
{
    vp_param *param = &vit->params[i];
    vp_weight *weight;
    if (param->dtype == VP_DTYPE_f16 && check_f16(param, numbers, err) != VP_OK) {
        return err->code;
    }
    if (new_weight(param, &weight, err) != VP_OK) {
        return err->code;
    }
    vp_weight_set(weight, numbers);
    set_weight(param, weight, false);
    return VP_OK;
}

vp_status vp_vit_set_param_int(vp_vit *vit, size_t i, const int8_t *q,
                               const float *scale, vp_error *err)
{
    vp_param *param = &vit->params[i];
    vp_weight *weight;
    if (new_weight(param, &weight, err) != VP_OK) {
        return err->code;
    }
    vp_weight_set_int(weight, q, scale);
    set_weight(param, weight, false);
    return VP_OK;
}

vp_status vp_vit_set_dtype(vp_vit *vit, size_t i, vp_dtype dtype, vp_error *err)
{
    vp_param *param = &vit->params[i];
    if (dtype != VP_DTYPE_f32 && !param->matrix) {
        return vp_fail(err, VP_ERR_VALUE,
                       "%s is no matrix of a linear layer: it stays float32, not %s",
                       param->name, vp_dtype_title(dtype));
    }
    const size_t k = vp_param_count(param) / vp_max(param->shape[0], 1);
    if (vp_dtype_is_int(dtype) && k > VP_MOST_INT_INPUTS) {
        return vp_fail(err, VP_ERR_VALUE,
                       "%s has %zu inputs: sums of %s stay below 2^31 up to %zu",
                       param->name, k, vp_dtype_title(dtype), VP_MOST_INT_INPUTS);
    }
    param->dtype = dtype;
    return VP_OK;
}

static bool same_shape(const vp_param *a, const vp_param *b)
{
    return a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0;
}

size_t vp_vit_find_param(const vp_vit *vit, const char *name, size_t start)
{
    const size_t count = vit->num_params;
    for (size_t i = 0; i < count; i++) {
        const size_t at = (start + i) % count;
        if (strcmp(vit->params[at].name, name) == 0) {
            return at;
        }
    }
    return count;
}

bool vp_vit_share_param(vp_vit *vit, size_t i, const vp_vit *from, size_t *start)
{
    vp_param *param = &vit->params[i];
    const size_t at = vp_vit_find_param(from, param->name, *start);
    if (at == from->num_params || !same_shape(param, &from->params[at])) {
        return false;
    }
    set_weight(param, vp_weight_ref(*from->params[at].slot), from->params[at].random);
    param->dtype = from->params[at].dtype;
    *start = at + 1;
    return true;
}

vp_status vp_vit_convert_param(vp_vit *vit, size_t i, const vp_vit *from,
                               vp_dtype dtype, vp_error *err)
{
    vp_param *param = &vit->params[i];
    size_t start = i;
    if (vp_vit_set_dtype(vit, i, dtype, err) != VP_OK) {
        return err->code;
    }
    if (!vp_vit_share_param(vit, i, from, &start)) {
        return vp_fail(err, VP_ERR_KEY, "%s", param->name);
    }
    if (param->dtype == dtype) {
        return VP_OK;
    }
    const vp_weight *weight = *param->slot;
    const bool random = param->random;
    /* numbers, or integers with their scales behind them, which are then no other */
    const bool ints = vp_dtype_is_int(weight->dtype) && vp_dtype_is_int(dtype);
    const size_t floats = vp_size_add(weight->count, param->shape[0]);
    const size_t bytes = vp_size_mul(floats, sizeof(float));
    float *numbers = vp_alloc(bytes), *scale = numbers + weight->count;
    if (numbers == NULL) {
        return vp_fail_memory(err, param->name, bytes);
    }
    param->dtype = dtype;
    vp_status status;
    if (ints) {
        vp_weight_get_int(weight, (int8_t *)numbers, scale);
        status = vp_vit_set_param_int(vit, i, (int8_t *)numbers, scale, err);
    } else {
        vp_weight_get(weight, numbers);
        status = vp_vit_set_param(vit, i, numbers, err);
    }
    param->random = random;
    vp_free(numbers);
    return status;
}

vp_dtype vp_vit_dtype_of(const vp_vit *vit, const char *name)
{
    const size_t i = vp_vit_find_param(vit, name, 0);
    return i < vit->num_params ? vit->params[i].dtype : VP_DTYPE_f32;
}

void vp_vit_mark_random(vp_vit *vit, size_t i)
{
    vit->params[i].random = true;
}

vp_status vp_vit_share_rest(vp_vit *vit, const vp_vit *from, vp_error *err)
{
    for (size_t i = 0, start = 0; i < vit->num_params; i++) {
        if (*vit->params[i].slot == NULL && !vp_vit_share_param(vit, i, from, &start)) {
            return vp_fail(err, VP_ERR_KEY, "%s", vit->params[i].name);
        }
    }
    if (vit->config.attn_pool == from->config.attn_pool) {
        vit->pool.serial = from->pool.serial;
    }
    return VP_OK;
}

float vp_vit_lambda(const vp_vit *vit, size_t block, size_t which)
{
    return vit->blocks[block].attn[which].lambda;
}

/* exp(q1 . k1) - exp(q2 . k2) + lambda_init, timm.layers.DiffAttention */
static void derive_lambda(vp_attn *attn, size_t depth, size_t d)
{
    double first = 0.0, second = 0.0;
    for (size_t i = 0; i < d; i++) {
        first += (double)attn->lambda_q1->plain[i] * attn->lambda_k1->plain[i];
        second += (double)attn->lambda_q2->plain[i] * attn->lambda_k2->plain[i];
    }
    const double init = 0.8 - 0.6 * exp(-0.3 * (double)depth);
    attn->lambda_init = (float)init;
    attn->lambda = (float)(exp(first) - exp(second) + init);
}

/* The two matrices of a gated MLP, whose products go together. */
static vp_status check_gates(const vp_vit *vit, vp_error *err)
{
    for (size_t i = 0; i < vit->config.depth; i++) {
        for (int j = 0; j < 2; j++) {
            const vp_mlp *mlp = &vit->blocks[i].mlp[j];
            const vp_weight *gate = mlp->fc1_g.weight, *value = mlp->fc1_x.weight;
            if (gate != NULL && value != NULL && gate->dtype != value->dtype) {
                return vp_fail(
                    err, VP_ERR_VALUE,
                    "fc1_g.weight and fc1_x.weight of block %zu are multiplied "
                    "together and must have one dtype, not %s and %s",
                    i, vp_dtype_title(gate->dtype), vp_dtype_title(value->dtype));
            }
        }
    }
    return VP_OK;
}

vp_status vp_vit_finish(vp_vit *vit, vp_error *err)
{
    if (check_gates(vit, err) != VP_OK) {
        return err->code;
    }
    if (vp_config_is_diff(&vit->config)) {
        for (size_t i = 0; i < vit->config.depth; i++) {
            for (int j = 0; j < 2; j++) {
                if (vit->blocks[i].attn[j].lambda_q1 != NULL) {
                    derive_lambda(&vit->blocks[i].attn[j], i,
                                  vp_config_head_dim(&vit->config));
                }
            }
        }
    }
    if (vp_attn_finish(vit, err) != VP_OK || vp_rope_finish(vit, err) != VP_OK ||
        vp_rel_pos_finish(vit, err) != VP_OK ||
        vp_conv_stem_finish(vit, err) != VP_OK) {
        return err->code;
    }
    return vp_attn_pool_finish(vit, err);
}

/* -- checks -- */

vp_status vp_vit_check_size(const vp_vit *vit, size_t height, size_t width,
                            size_t grid[2], vp_error *err)
{
    const vp_config *c = &vit->config;
    const size_t size[2] = {height, width};
    if (!c->dynamic_img_size) {
        if (height != c->img_size[0] || width != c->img_size[1]) {
            return vp_fail(err, VP_ERR_VALUE,
                           "x has images of %zu x %zu, but this model takes %zu x %zu "
                           "(set_input_size changes that)",
                           height, width, c->img_size[0], c->img_size[1]);
        }
    } else if (c->embed == VP_EMBED_PATCH && !c->dynamic_img_pad &&
               (height % c->patch_size[0] != 0 || width % c->patch_size[1] != 0)) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "x has images of %zu x %zu, but height and width must be multiples "
            "of the patch size %zu x %zu",
            height, width, c->patch_size[0], c->patch_size[1]);
    }
    for (int i = 0; i < 2; i++) {
        /* a stem's convolutions leave out what does not fill a patch */
        grid[i] = c->dynamic_img_pad && c->embed == VP_EMBED_PATCH
                      ? size[i] / c->patch_size[i] + (size[i] % c->patch_size[i] != 0)
                      : size[i] / c->patch_size[i];
        if (grid[i] == 0 || grid[i] > (size_t)1 << 16) {
            return vp_fail(
                err, VP_ERR_VALUE,
                "x has images of %zu x %zu; with patches of %zu x %zu a side "
                "must give from 1 to 65536 of them",
                height, width, c->patch_size[0], c->patch_size[1]);
        }
    }
    return VP_OK;
}

vp_status vp_vit_check_pool(const vp_vit *vit, vp_pool pool, vp_error *err)
{
    const vp_config *c = &vit->config;
    /* timm's distilled model has VisionTransformer's pool(): of any of its tokens */
    vp_config any = *c;
    any.family = c->dist_token ? VP_FAMILY_VIT : c->family;
    if (vp_config_check_pool(&any, "pool_type", pool, err) != VP_OK) {
        return err->code;
    }
    if ((pool == VP_POOL_MAP || pool == VP_POOL_PRR) && c->attn_pool != pool) {
        return vp_fail(
            err, VP_ERR_VALUE,
            "pool_type '%s' needs that attention pool, but this model has %s%s%s",
            vp_pool_names[pool], c->attn_pool == VP_POOL_NONE ? "none" : "'",
            vp_pool_names[c->attn_pool], c->attn_pool == VP_POOL_NONE ? "" : "'");
    }
    return VP_OK;
}

vp_status vp_vit_check_tokens(const vp_vit *vit, vp_pool pool, size_t n, vp_error *err)
{
    const vp_config *c = &vit->config;
    const bool patches = pool != VP_POOL_NONE && pool != VP_POOL_TOKEN &&
                         !vp_config_include_prefix(c, pool);
    const size_t least = patches ? vp_config_prefix(c) + 1
                         : c->dist_token && pool == VP_POOL_TOKEN ? 2
                                                                  : 1;
    if (n < least || n > (size_t)1 << 24) {
        return vp_fail(err, VP_ERR_VALUE,
                       "x must have shape (B, N, %zu) with N, the tokens, from %zu to "
                       "%zu, not %zu",
                       c->embed_dim, least, (size_t)1 << 24, n);
    }
    return VP_OK;
}
