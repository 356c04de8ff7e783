/* What a forward pass can be asked for: a part of the blocks, their inside, its pieces.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/limits.h"
#include "base/parallel.h"
#include "check.h"
#include "tiny.h"

#define BATCH 3
#define PIXELS (3 * 8 * 8)
#define MOST ((size_t)BATCH * 8 * 16) /* numbers of any output of a tiny model */

static float images[BATCH * PIXELS];

static size_t tokens_of(const vp_config *c)
{
    return vp_config_patches(c) + vp_config_prefix(c);
}

static vp_forward whole(const vp_vit *vit, float *out)
{
    return (vp_forward){.images = images,
                        .batch = BATCH,
                        .height = 8,
                        .width = 8,
                        .depth = vp_vit_config(vit)->depth,
                        .output = VP_OUT_LOGITS,
                        .out = out};
}

/* Bytes of logits. */
static size_t out_bytes(const vp_config *c)
{
    return BATCH * c->num_classes * sizeof(float) *
           (c->global_pool == VP_POOL_NONE ? tokens_of(c) : 1);
}

static void run(const vp_vit *vit, const vp_forward *f)
{
    vp_workspaces *workspaces = vp_workspaces_create();
    vp_error err = {VP_OK, ""};
    CHECK(vp_vit_forward(vit, workspaces, f, &err) == VP_OK, "%s", err.message);
    vp_workspaces_unref(workspaces);
}

/* Numbers that no output is, so that what was not written is seen. */
static void spoil(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = -12345.0f;
    }
}

static void the_rest_of_a_pass_gives_the_bits_of_the_whole(void)
{
    for (size_t i = 0; i < TINY_VARIANTS; i++) {
        vp_config c;
        vp_error err;
        if (!tiny_variant(i, &c)) {
            continue;
        }
        vp_vit *vit = tiny_create(&c, &err);
        static float want[MOST], got[MOST], taps[3][MOST];
        vp_forward f = whole(vit, want);
        run(vit, &f);
        /* before both blocks, and after the first, which is before the second */
        const vp_tap where[3] = {{0, VP_PLACE_IN, false, taps[0]},
                                 {1, VP_PLACE_IN, false, taps[1]},
                                 {0, VP_PLACE_OUT, false, taps[2]}};
        f.taps = where;
        f.num_taps = 3;
        f.out = got;
        run(vit, &f);
        CHECK(memcmp(want, got, out_bytes(&c)) == 0, "variant %zu: taps change bits",
              i);
        const size_t numbers = BATCH * tokens_of(&c) * c.embed_dim;
        CHECK(memcmp(taps[1], taps[2], numbers * sizeof(float)) == 0,
              "variant %zu: block 0's output is not block 1's input", i);
        CHECK(memcmp(taps[0], taps[1], numbers * sizeof(float)) != 0,
              "variant %zu: block 0 did nothing", i);
        for (size_t first = 0; first < 2; first++) {
            vp_forward rest = whole(vit, got);
            rest.images = NULL;
            rest.tokens = taps[first];
            rest.num_tokens = tokens_of(&c);
            rest.first = first;
            spoil(got, MOST);
            run(vit, &rest);
            CHECK(memcmp(want, got, out_bytes(&c)) == 0,
                  "variant %zu: other bits from block %zu on", i, first);
        }
        vp_vit_unref(vit);
    }
}

static void no_block_at_all_is_the_head_of_the_tokens(void)
{
    vp_config c = tiny_config();
    vp_error err;
    vp_vit *vit = tiny_create(&c, &err);
    static float features[MOST], want[MOST], got[MOST], last[MOST];
    vp_forward f = whole(vit, features);
    const vp_tap tap = {1, VP_PLACE_OUT, false, last};
    f.output = VP_OUT_FEATURES;
    f.taps = &tap;
    f.num_taps = 1;
    run(vit, &f);
    vp_workspaces *workspaces = vp_workspaces_create();
    CHECK(vp_vit_forward_head(vit, workspaces, features, BATCH, tokens_of(&c),
                              VP_OUT_LOGITS, want, &err) == VP_OK,
          "%s", err.message);
    vp_workspaces_unref(workspaces);
    vp_forward none = whole(vit, got);
    none.images = NULL;
    none.tokens = last;
    none.num_tokens = tokens_of(&c);
    none.first = none.depth;
    run(vit, &none);
    CHECK(memcmp(want, got, out_bytes(&c)) == 0, "other bits without a block");
    vp_vit_unref(vit);
}

/* Taps, maps and a mask for each image, in chunks of one image: the bits of one chunk. */
static void chunks_change_no_bit(void)
{
    static float mask_numbers[BATCH * 8 * 8];
    check_fill(mask_numbers, BATCH * 8 * 8, 1.0f);
    for (size_t i = 0; i < TINY_VARIANTS; i += 7) {
        vp_config c;
        vp_error err;
        if (!tiny_variant(i, &c)) {
            continue;
        }
        vp_vit *vit = tiny_create(&c, &err);
        const size_t n = tokens_of(&c);
        static float out[2][MOST], tap[2][MOST], map[2][BATCH * 4 * 8 * 8];
        const vp_mask mask = {.bias = mask_numbers, .batch = n * n, .row = n};
        for (size_t small = 0; small < 2; small++) {
            vp_profile profile = {0};
            vp_forward f = whole(vit, out[small]);
            const vp_tap taps = {1, VP_PLACE_OUT, true, tap[small]};
            const vp_map maps = {c.attn_pool == VP_POOL_NONE ? 0 : VP_MAP_POOL, 0,
                                 map[small]};
            f.mask = &mask;
            f.taps = &taps;
            f.maps = &maps;
            f.num_taps = f.num_maps = 1;
            f.profile = &profile;
            spoil(out[small], MOST);
            spoil(tap[small], MOST);
            spoil(map[small], BATCH * 4 * 8 * 8);
            vp_limits_set((vp_limits){.chunk_bytes = small});
            run(vit, &f);
            vp_limits_set((vp_limits){0});
            CHECK(profile.chunks == (small ? BATCH : 1), "%zu chunks", profile.chunks);
        }
        CHECK(memcmp(out[0], out[1], sizeof out[0]) == 0, "variant %zu: out", i);
        CHECK(memcmp(tap[0], tap[1], sizeof tap[0]) == 0, "variant %zu: taps", i);
        CHECK(memcmp(map[0], map[1], sizeof map[0]) == 0, "variant %zu: maps", i);
        vp_vit_unref(vit);
    }
}

static void blocks_of_queries_change_no_bit_and_blocks_of_keys_little(void)
{
    vp_config c = tiny_config();
    vp_error err;
    c.reg_tokens = 2;
    c.global_pool = VP_POOL_AVG; /* every token's attention counts */
    vp_vit *vit = tiny_create(&c, &err);
    static float want[MOST], got[MOST];
    vp_profile profile = {0}, small = {0}, keys = {0};
    vp_forward f = whole(vit, want);
    f.profile = &profile;
    vp_set_num_threads(1);
    run(vit, &f);
    f.out = got;
    f.profile = &small;
    vp_limits_set((vp_limits){.block_queries = 2});
    run(vit, &f);
    CHECK(memcmp(want, got, out_bytes(&c)) == 0, "other bits with blocks of 2 queries");
    CHECK(profile.query_blocks == 2 * 2 * BATCH, "%zu blocks", profile.query_blocks);
    CHECK(profile.key_blocks == profile.query_blocks, "%zu", profile.key_blocks);
    CHECK(small.query_blocks == 4 * profile.query_blocks, "%zu", small.query_blocks);
    f.profile = &keys;
    vp_limits_set((vp_limits){.block_keys = 3});
    run(vit, &f);
    vp_limits_set((vp_limits){0});
    CHECK(keys.key_blocks == 3 * keys.query_blocks, "%zu", keys.key_blocks);
    for (size_t i = 0; i < BATCH * c.num_classes; i++) {
        CHECK(check_close((double)got[i], (double)want[i], 1e-5), "logit %zu", i);
    }
    vp_vit_unref(vit);
}

static void a_map_may_be_asked_for_twice(void)
{
    vp_config c = tiny_config();
    vp_error err;
    tiny_pool(&c, VP_POOL_MAP);
    vp_vit *vit = tiny_create(&c, &err);
    static float out[MOST], maps[4][BATCH * 2 * 5 * 5];
    spoil(maps[0], 4 * BATCH * 2 * 5 * 5);
    const vp_map wanted[4] = {{1, 0, maps[0]},
                              {VP_MAP_POOL, 0, maps[1]},
                              {1, 0, maps[2]},
                              {VP_MAP_POOL, 0, maps[3]}};
    vp_forward f = whole(vit, out);
    f.maps = wanted;
    f.num_maps = 4;
    vp_limits_set((vp_limits){.chunk_bytes = 1});
    run(vit, &f);
    vp_limits_set((vp_limits){0});
    CHECK(memcmp(maps[0], maps[2], sizeof maps[0]) == 0, "block 1's weights differ");
    CHECK(memcmp(maps[1], maps[3], sizeof maps[0]) == 0, "the pool's weights differ");
    CHECK(maps[0][0] >= 0.0f && maps[1][0] >= 0.0f, "weights were not written");
    vp_vit_unref(vit);
}

static void what_cannot_run_is_refused(void)
{
    vp_config c = tiny_config();
    vp_error err;
    size_t tokens;
    static float out[MOST];
    c.block = VP_BLOCK_PARALLEL_SCALING;
    vp_vit *vit = tiny_create(&c, &err);
    vp_tap tap = {0, VP_PLACE_ATTN, false, out};
    vp_map map = {VP_MAP_POOL, 0, out};
    const vp_forward good = whole(vit, out);
    vp_forward bad[10];
    for (size_t i = 0; i < 10; i++) {
        bad[i] = good;
    }
    bad[0].depth = 3;
    bad[1].first = 1; /* images */
    bad[2].images = NULL;
    bad[2].num_tokens = 0;
    bad[3].images = NULL;
    bad[3].num_tokens = 5;
    bad[3].first = 3;
    bad[4].taps = &tap;
    bad[4].num_taps = 1;
    vp_tap beyond = {2, VP_PLACE_OUT, false, out},
           before = {0, VP_PLACE_OUT, false, out};
    bad[5].taps = &beyond;
    bad[5].num_taps = 1;
    bad[6].images = NULL;
    bad[6].num_tokens = 5;
    bad[6].first = 1;
    bad[6].taps = &before;
    bad[6].num_taps = 1;
    bad[7].maps = &map;
    bad[7].num_maps = 1;
    vp_map second = {0, 1, out};
    bad[8].maps = &second;
    bad[8].num_maps = 1;
    bad[9].height = 9;
    CHECK(vp_vit_check_forward(vit, &good, &tokens, &err) == VP_OK, "%s", err.message);
    CHECK(tokens == 5, "%zu tokens", tokens);
    for (size_t i = 0; i < 10; i++) {
        CHECK(vp_vit_check_forward(vit, &bad[i], &tokens, &err) == VP_ERR_VALUE,
              "request %zu is allowed", i);
        CHECK(vp_vit_forward(vit, NULL, &bad[i], &err) == VP_ERR_VALUE,
              "request %zu runs", i);
    }
    vp_vit_unref(vit);
    /* the pool's weights, but the pool does not run */
    c = tiny_config();
    tiny_pool(&c, VP_POOL_MAP);
    vit = tiny_create(&c, &err);
    vp_forward f = whole(vit, out);
    f.maps = &map;
    f.num_maps = 1;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_OK, "%s", err.message);
    f.output = VP_OUT_FEATURES;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE, "features");
    f.output = VP_OUT_NONE;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE, "nothing");
    vp_vit_unref(vit);
}

int main(void)
{
    check_fill(images, BATCH * PIXELS, 2.0f);
    the_rest_of_a_pass_gives_the_bits_of_the_whole();
    no_block_at_all_is_the_head_of_the_tokens();
    chunks_change_no_bit();
    blocks_of_queries_change_no_bit_and_blocks_of_keys_little();
    a_map_may_be_asked_for_twice();
    what_cannot_run_is_refused();
    return check_done();
}
