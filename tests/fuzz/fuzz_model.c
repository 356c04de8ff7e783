/* libFuzzer: a config, image sizes, masks, taps and maps from any bytes. What the checks
 * let through must run, inside its arrays, and give the bits that each picture gives alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "model/vit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *data;
    size_t size;
} bytes;

static unsigned next(bytes *b)
{
    if (b->size == 0) {
        return 0;
    }
    b->size--;
    return *b->data++;
}

/* 0 to limit; now and then any 64 bits. */
static size_t number(bytes *b, size_t limit)
{
    const unsigned byte = next(b);
    if (byte < 250) {
        return byte % (limit + 1);
    }
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value = value << 8 | next(b);
    }
    return (size_t)(value >> next(b) % 64);
}

/* What timm's other classes have beside that. */
static void draw_class(bytes *b, vp_config *c)
{
    static const vp_block_kind blocks[] = {
        VP_BLOCK_PLAIN, VP_BLOCK_EVA,     VP_BLOCK_EVA_POST_NORM,
        VP_BLOCK_BEIT,  VP_BLOCK_REL_POS, VP_BLOCK_RES_POST_REL_POS};
    c->family = (vp_family)(next(b) % VP_FAMILY_COUNT);
    if (c->family == VP_FAMILY_VIT) {
        return;
    }
    c->dist_token = c->family == VP_FAMILY_DISTILLED;
    if (next(b) % 8 != 0) {
        c->block = blocks[next(b) % (sizeof blocks / sizeof *blocks)];
    }
    bool *const flags[] = {
        &c->qkv_split,        &c->q_v_bias, &c->attn_only_layer_scale,
        &c->rope_rotate_half, &c->rope_xy,  &c->rel_pos_block,
        &c->rel_pos_shared};
    const unsigned bits = next(b);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        *flags[i] = bits >> i & 1;
    }
    c->num_kv_heads = number(b, 2);
    c->num_full_attn_blocks = number(b, 2);
    c->num_full_attn_last = number(b, 2);
    c->rope = (vp_rope_kind)(next(b) % 4);
    c->rope_temperature = (float)next(b) - 2.0f;
    c->rope_grid_offset = (float)next(b) / 16.0f;
    c->rope_ref[0] = number(b, 20);
    c->rope_ref[1] = c->rope_ref[0] > 0 ? number(b, 20) : 0;
    if (c->rel_pos_block || c->rel_pos_shared) {
        c->rel_pos = (vp_rel_pos_kind)(next(b) % 4);
    }
    c->rel_pos_dim = number(b, 20);
    c->attn_pool_heads = number(b, 4);
    c->attn_pool_hidden = number(b, 40);
    c->attn_pool_act = (vp_act)(next(b) % 6);
    c->head_init_scale = 1.0f;
}

static vp_config config_from(bytes *b)
{
    vp_config c = {.img_size = {number(b, 20), number(b, 20)},
                   .patch_size = {number(b, 6), number(b, 6)},
                   .in_chans = number(b, 4),
                   .num_classes = number(b, 40),
                   .depth = number(b, 3),
                   .num_heads = number(b, 4),
                   .mlp_hidden = number(b, 40),
                   .reg_tokens = number(b, 4),
                   .global_pool = (vp_pool)(next(b) % VP_POOL_COUNT),
                   .block = (vp_block_kind)(next(b) % 5),
                   .mlp = (vp_mlp_kind)(next(b) % 4),
                   .attn = (vp_attn_kind)(next(b) % 2),
                   .act = (vp_act)(next(b) % 6),
                   .norm_layer = (vp_norm_kind)(1 + next(b) % 2),
                   .embed_norm_layer = (vp_norm_kind)(next(b) % 3),
                   .norm_eps = 1e-6f,
                   .embed_norm_eps = 1e-6f,
                   .init_values = 0.1f};
    const size_t width = number(b, 12);
    c.embed_dim = width <= 12 ? width * c.num_heads : width;
    c.attn_pool = c.global_pool >= VP_POOL_MAP ? c.global_pool : VP_POOL_NONE;
    bool *const flags[] = {
        &c.qkv_bias,
        &c.qk_norm,
        &c.scale_attn_norm,
        &c.scale_mlp_norm,
        &c.proj_bias,
        &c.class_token,
        &c.has_init_values,
        &c.pos_embed,
        &c.no_embed_class,
        &c.pre_norm,
        &c.norm,
        &c.fc_norm,
        &c.dynamic_img_size,
        &c.dynamic_img_pad,
        &c.pool_include_prefix,
    };
    unsigned bits = next(b) | next(b) << 8;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        *flags[i] = bits >> i & 1;
    }
    draw_class(b, &c);
    return c;
}

/* Small enough to compute a thousand times a second? */
static bool affordable(const vp_config *c)
{
    return c->embed_dim <= 64 && c->depth <= 4 && c->mlp_hidden <= 128 &&
           c->reg_tokens <= 8 && c->in_chans <= 8 && c->num_classes <= 256 &&
           c->patch_size[0] <= 16 && c->patch_size[1] <= 16 && c->img_size[0] <= 64 &&
           c->img_size[1] <= 64 && vp_config_patches(c) <= 256 &&
           c->rel_pos_dim <= 128 && c->attn_pool_hidden <= 128;
}

/* Exactly n floats (at least one), some of them odd. */
static float *floats(size_t n, bytes *b)
{
    float *x = malloc((n > 0 ? n : 1) * sizeof *x);
    const unsigned seed = next(b);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((i * 37 + seed * 11) % 101) / 50.0f - 1.0f;
    }
    return x;
}

static void forward(const vp_vit *vit, bytes *b)
{
    const vp_config *c = vp_vit_config(vit);
    vp_error err;
    size_t grid[2];
    vp_forward f = {.batch = next(b) % 4, .output = (vp_output)(next(b) % 4)};
    f.height = number(b, 30);
    f.width = number(b, 30);
    if (next(b) % 4 != 0) {
        f.height = c->img_size[0];
        f.width = c->img_size[1];
    }
    if (vp_vit_check_size(vit, f.height, f.width, grid, &err) != VP_OK ||
        f.height > 100 || f.width > 100) {
        return;
    }
    const size_t n = grid[0] * grid[1] + vp_config_prefix(c), width = c->embed_dim;
    const size_t patches = c->pos_embed && c->no_embed_class ? grid[0] * grid[1] : n;
    f.depth = next(b) % 2 ? c->depth : next(b) % (c->depth + 1);
    float *images = floats(f.batch * c->in_chans * f.height * f.width, b);
    float *pos_embed = floats(patches * width, b);
    f.images = images;
    f.pos_embed = pos_embed;
    float *rope = floats(vp_vit_rope_size(vit, grid), b);
    if (c->rope != VP_ROPE_NONE && next(b) % 4 != 0) {
        vp_vit_rope(vit, grid, rope);
        f.rope = rope;
    }

    /* a mask of any broadcast shape */
    vp_mask mask = {.causal = next(b) % 3 == 0};
    const unsigned shape = next(b);
    const size_t rows = shape & 1 ? n : 1, heads = shape & 2 ? c->num_heads : 1;
    const size_t images_of_mask = shape & 4 ? f.batch : 1;
    mask.row = rows > 1 ? n : 0;
    mask.head = heads > 1 ? rows * n : 0;
    mask.batch = images_of_mask > 1 ? heads * rows * n : 0;
    const size_t elements = images_of_mask * heads * rows * n;
    float *bias = floats(elements, b);
    unsigned char *allowed = malloc(elements > 0 ? elements : 1);
    for (size_t i = 0; i < elements; i++) {
        allowed[i] = (shape >> 5 ^ i) % 3 != 0;
        bias[i] = i % 7 == shape % 8 ? -INFINITY : bias[i];
    }
    mask.bias = shape & 8 ? bias : NULL;
    mask.allowed = !(shape & 8) && shape & 16 ? allowed : NULL;
    f.mask = next(b) % 2 ? &mask : NULL;

    const size_t outputs =
        f.output == VP_OUT_LOGITS && c->num_classes > 0 ? c->num_classes : width;
    const bool tokens = f.output == VP_OUT_FEATURES || c->global_pool == VP_POOL_NONE;
    const size_t out_size = f.batch * (tokens ? n : 1) * outputs;
    float *out = floats(out_size, b), *tap_out = floats(f.batch * n * width, b);
    const size_t of_pool = vp_config_pool_heads(c);
    const size_t of_block = c->num_heads * (vp_config_is_diff(c) ? 2 : 1);
    const size_t map_heads = of_block > of_pool ? of_block : of_pool;
    float *map_out = floats(f.batch * map_heads * n * n, b);
    f.out = out;
    const unsigned kind = next(b);
    vp_tap tap = {.norm = kind % 2, .place = kind / 2 % VP_PLACE_COUNT, .out = tap_out};
    vp_map map = {0, 0, map_out};
    if (f.depth > 0 && next(b) % 2) {
        tap.block = next(b) % f.depth;
        f.taps = &tap;
        f.num_taps = 1;
    }
    if (next(b) % 2 && (f.depth > 0 || c->attn_pool != VP_POOL_NONE)) {
        const bool pool = f.depth == 0 || (c->attn_pool != VP_POOL_NONE && next(b) % 2);
        map.block = pool ? VP_MAP_POOL : next(b) % f.depth;
        map.which = !pool && c->block == VP_BLOCK_PARALLEL_THINGS ? next(b) % 2 : 0;
        f.maps = &map;
        f.num_maps = 1;
    }

    vp_workspaces *workspaces = vp_workspaces_create();
    vp_set_num_threads(1 + next(b) % 3);
    size_t count;
    const vp_status allowed_to = vp_vit_check_forward(vit, &f, &count, &err);
    if (vp_vit_forward(vit, workspaces, &f, &err) != allowed_to) {
        abort();
    }
    if (allowed_to != VP_OK) {
        goto done;
    }
    /* the rest alone, from what went into a block */
    if (f.num_taps == 1 && tap.place == VP_PLACE_IN && !tap.norm && f.num_maps == 0 &&
        f.output != VP_OUT_NONE) {
        float *rest = floats(out_size, b);
        vp_forward g = f;
        g.images = NULL;
        g.tokens = tap_out;
        g.num_tokens = n;
        g.first = tap.block;
        g.num_taps = 0;
        g.out = rest;
        if (vp_vit_forward(vit, workspaces, &g, &err) != VP_OK ||
            memcmp(rest, out, out_size * sizeof *rest) != 0) {
            abort();
        }
        free(rest);
    }
    /* the last picture alone, into an array of its own */
    if (f.batch > 1 && f.output != VP_OUT_NONE) {
        const size_t last = f.batch - 1, one = out_size / f.batch;
        float *alone = floats(one, b);
        vp_forward g = f;
        vp_mask shifted = mask;
        shifted.bias = mask.bias != NULL ? mask.bias + last * mask.batch : NULL;
        shifted.allowed =
            mask.allowed != NULL ? mask.allowed + last * mask.batch : NULL;
        g.batch = 1;
        g.images += last * c->in_chans * f.height * f.width;
        g.mask = f.mask != NULL ? &shifted : NULL;
        g.out = alone;
        if (vp_vit_forward(vit, workspaces, &g, &err) != VP_OK ||
            memcmp(alone, out + last * one, one * sizeof *alone) != 0) {
            abort();
        }
        free(alone);
    }
done:
    vp_workspaces_unref(workspaces);
    free(images);
    free(pos_embed);
    free(rope);
    free(bias);
    free(allowed);
    free(out);
    free(tap_out);
    free(map_out);
}

/* Pool and head of any number of tokens. */
static void head(const vp_vit *vit, bytes *b)
{
    const vp_config *c = vp_vit_config(vit);
    const size_t least = vp_config_prefix(c) + 1;
    const size_t batch = next(b) % 3, n = least + next(b) % 40, width = c->embed_dim;
    const vp_pool pool = (vp_pool)(next(b) % VP_POOL_COUNT);
    const size_t outputs = c->num_classes > width ? c->num_classes : width;
    float *x = floats(batch * n * width, b), *out = floats(batch * n * outputs, b);
    vp_workspaces *workspaces = vp_workspaces_create();
    vp_error err;
    if (vp_vit_forward_head(vit, workspaces, x, batch, n, VP_OUT_LOGITS, out, &err) !=
            VP_OK ||
        (vp_vit_check_pool(vit, pool, &err) == VP_OK &&
         vp_vit_pool(vit, workspaces, x, batch, n, pool, out, &err) != VP_OK)) {
        abort();
    }
    vp_workspaces_unref(workspaces);
    free(x);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bytes b = {data, size};
    vp_error err;
    const vp_config c = config_from(&b);
    const vp_status check = vp_config_check(&c, &err);
    vp_vit *vit = NULL, *next_vit = NULL;
    const long fail_after = next(&b) < 16 ? (long)next(&b) : -1;
    vp_memory_fail_after(fail_after);
    vp_status status = vp_vit_create(&c, &vit, &err);
    if ((status == VP_OK) != (vit != NULL) ||
        (check != VP_OK ? status != check
                        : status != VP_OK && status != VP_ERR_MEMORY)) {
        abort();
    }
    if (status != VP_OK || !affordable(&c)) {
        goto done;
    }
    const vp_init init = {.mode = "", .seed = next(&b)};
    for (size_t i = 0; i < vp_vit_num_params(vit) && status == VP_OK; i++) {
        status = vp_vit_init_param(vit, i, &init, &err);
    }
    if (status != VP_OK || vp_vit_finish(vit, &err) != VP_OK) {
        goto done;
    }
    const vp_pool pool = (vp_pool)(next(&b) % VP_POOL_COUNT);
    const size_t classes = number(&b, 20);
    const vp_pool *given = next(&b) % 2 ? &pool : NULL;
    const bool add = next(&b) % 2;
    if (classes <= 1000) {
        status = vp_vit_reset_classifier(vit, classes, given, add, 1, &next_vit, &err);
        if ((status == VP_OK) != (next_vit != NULL)) {
            abort();
        }
    }
    vp_memory_fail_after(-1);
    forward(vit, &b);
    if (next_vit != NULL) {
        forward(next_vit, &b);
        head(next_vit, &b);
    }
done:
    vp_memory_fail_after(-1);
    vp_vit_unref(next_vit);
    vp_vit_unref(vit);
    return 0;
}
