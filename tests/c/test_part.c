/* A module that runs alone gives what it gives within a pass.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/limits.h"
#include "check.h"
#include "tiny.h"

#define BATCH 3
#define PIXELS (3 * 8 * 8)
#define MOST ((size_t)BATCH * 8 * 64)

static float images[BATCH * PIXELS], tokens[MOST];

static void run(const vp_vit *vit, const vp_forward *f)
{
    vp_workspaces *workspaces = vp_workspaces_create();
    vp_error err = {VP_OK, ""};
    CHECK(vp_vit_forward(vit, workspaces, f, &err) == VP_OK, "%s", err.message);
    vp_workspaces_unref(workspaces);
}

/* out = the module at `path` of x[BATCH][n][in], or of the images */
static vp_part_info part(const vp_vit *vit, const char *path, size_t n, const float *x,
                         float *out)
{
    vp_part_info info = {VP_PART_EACH, 0, 0};
    vp_error err = {VP_OK, ""};
    CHECK(vp_vit_part(vit, path, &info, &err) == VP_OK, "%s", err.message);
    vp_forward f = {.part = path, .batch = BATCH, .out = out};
    if (info.shape == VP_PART_IMAGES) {
        f.images = images;
        f.height = f.width = 8;
    } else {
        f.tokens = x;
        f.num_tokens = n * (info.shape == VP_PART_EACH ? 8 : 1);
    }
    run(vit, &f);
    return info;
}

static size_t tokens_of(const vp_config *c)
{
    return vp_config_patches(c) + vp_config_prefix(c);
}

/* x = x + attn(norm1(x)); x = x + mlp(norm2(x)), piece by piece */
static void the_pieces_of_a_block_give_the_block(void)
{
    for (size_t i = 0; i < TINY_VARIANTS; i++) {
        vp_config c;
        vp_error err;
        if (!tiny_variant(i, &c) || !vp_config_is_plain(&c)) {
            continue;
        }
        vp_vit *vit = tiny_create(&c, &err);
        const size_t n = tokens_of(&c), count = BATCH * n * 8;
        static float want[MOST], x[MOST], a[MOST], b[MOST];
        const vp_tap tap = {1, VP_PLACE_OUT, false, want};
        const vp_forward f = {.batch = BATCH,
                              .tokens = tokens,
                              .num_tokens = n,
                              .first = 1,
                              .depth = 2,
                              .taps = &tap,
                              .num_taps = 1};
        run(vit, &f);
        memcpy(x, tokens, count * sizeof(float));
        static const char *const names[2][3] = {
            {"blocks.1.norm1", "blocks.1.attn", "blocks.1.ls1"},
            {"blocks.1.norm2", "blocks.1.mlp", "blocks.1.ls2"}};
        static const char *const gammas[2] = {"blocks.1.gamma_1", "blocks.1.gamma_2"};
        for (size_t half = 0; half < 2; half++) {
            (void)part(vit, names[half][0], n, x, a);
            (void)part(vit, names[half][1], n, a, b);
            const size_t own = vp_vit_find_param(vit, gammas[half], 0);
            const bool module =
                vp_config_layer_scale(&c) &&
                (c.block == VP_BLOCK_PLAIN || c.block == VP_BLOCK_REL_POS);
            if (module) {
                (void)part(vit, names[half][2], n, b, a);
            }
            for (size_t k = 0; k < count; k++) {
                const float scale = own < vp_vit_num_params(vit)
                                        ? (*vp_vit_param(vit, own)->slot)->plain[k % 8]
                                        : 1.0f;
                x[k] += module ? a[k] : scale * b[k];
            }
        }
        for (size_t k = 0; k < count; k++) {
            CHECK(fabsf(x[k] - want[k]) <= 1e-5f * (1.0f + fabsf(want[k])),
                  "variant %zu, %zu: %g, not %g", i, k, (double)x[k], (double)want[k]);
        }
        vp_vit_unref(vit);
    }
}

/* Of each parameter the module that has it, and the modules above it that can. */
static void every_module_writes_all_of_its_answer_in_chunks_of_any_size(void)
{
    for (size_t i = 0; i < TINY_VARIANTS; i += 3) {
        vp_config c;
        vp_error err;
        if (!tiny_variant(i, &c)) {
            continue;
        }
        vp_vit *vit = tiny_create(&c, &err);
        const bool placed = c.rope != VP_ROPE_NONE || c.rel_pos != VP_REL_POS_NONE;
        const size_t many = placed ? tokens_of(&c) : 4;
        for (size_t p = 0; p < vp_vit_num_params(vit); p++) {
            char path[96];
            strcpy(path, vp_vit_param(vit, p)->name);
            for (char *dot; (dot = strrchr(path, '.')) != NULL;) {
                *dot = '\0';
                vp_part_info info;
                if (vp_vit_part(vit, path, &info, &err) != VP_OK) {
                    CHECK(err.code == VP_ERR_KEY, "%s: %s", path, err.message);
                    continue;
                }
                static float out[2][MOST];
                for (size_t small = 0; small < 2; small++) {
                    for (size_t k = 0; k < MOST; k++) {
                        out[small][k] = NAN;
                    }
                    vp_limits_set((vp_limits){.chunk_bytes = small});
                    (void)part(vit, path, many, tokens, out[small]);
                    vp_limits_set((vp_limits){0});
                }
                const size_t n = info.shape == VP_PART_POOL     ? 1
                                 : info.shape == VP_PART_IMAGES ? 4
                                                                : many;
                for (size_t k = 0; k < MOST; k++) {
                    CHECK(isnan(out[0][k]) == (k >= BATCH * n * info.out),
                          "variant %zu, %s: number %zu", i, path, k);
                }
                CHECK(memcmp(out[0], out[1], sizeof out[0]) == 0,
                      "variant %zu, %s: chunks change bits", i, path);
            }
        }
        vp_vit_unref(vit);
    }
}

static void the_embedding_has_no_positions_and_no_prefix(void)
{
    vp_config c = tiny_config();
    c.pos_embed = c.class_token = false;
    tiny_pool(&c, VP_POOL_AVG);
    vp_error err;
    vp_vit *vit = tiny_create(&c, &err);
    static float want[MOST], got[MOST];
    const vp_tap tap = {0, VP_PLACE_IN, false, want};
    const vp_forward f = {.batch = BATCH,
                          .images = images,
                          .height = 8,
                          .width = 8,
                          .depth = 1,
                          .taps = &tap,
                          .num_taps = 1};
    run(vit, &f);
    (void)part(vit, "patch_embed", 0, NULL, got);
    CHECK(memcmp(want, got, BATCH * 4 * 8 * sizeof(float)) == 0, "other numbers");
    vp_vit_unref(vit);
}

static void what_is_no_module_is_refused(void)
{
    vp_config c = tiny_config();
    vp_error err;
    vp_part_info info;
    vp_vit *vit = tiny_create(&c, &err);
    char endless[300];
    memset(endless, 'a', sizeof endless);
    endless[sizeof endless - 1] = '\0';
    const char *const paths[] = {"",
                                 "blocks",
                                 "blocks.0",
                                 "blocks.2.attn",
                                 "attn_pool",
                                 "blocks.0.attn.",
                                 "blocks.0.attn.qkv.weight",
                                 endless};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        CHECK(vp_vit_part(vit, paths[i], &info, &err) == VP_ERR_KEY, "%s", paths[i]);
    }
    float out[MOST];
    vp_forward f = {.part = "norm", .batch = 1, .images = images, .out = out};
    CHECK(vp_vit_forward(vit, NULL, &f, &err) == VP_ERR_VALUE, "images to a norm");
    f.part = "patch_embed";
    f.images = NULL;
    CHECK(vp_vit_forward(vit, NULL, &f, &err) == VP_ERR_VALUE, "tokens to images");
    f.part = "patch_embed.proj";
    f.images = images;
    f.height = f.width = 3;
    CHECK(vp_vit_forward(vit, NULL, &f, &err) == VP_ERR_VALUE, "less than a patch");
    f.part = "nothing";
    CHECK(vp_vit_forward(vit, NULL, &f, &err) == VP_ERR_KEY, "nothing");
    vp_vit_unref(vit);
}

int main(void)
{
    check_fill(images, BATCH * PIXELS, 2.0f);
    check_fill(tokens, MOST, 2.0f);
    the_pieces_of_a_block_give_the_block();
    every_module_writes_all_of_its_answer_in_chunks_of_any_size();
    the_embedding_has_no_positions_and_no_prefix();
    what_is_no_module_is_refused();
    return check_done();
}
