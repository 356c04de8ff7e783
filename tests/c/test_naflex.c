/* NaFlexVit in the core: patches that the caller has cut, and whose order of pixels is the
 * embedding's. SPDX-License-Identifier: Apache-2.0 */
#include "base/limits.h"
#include "check.h"
#include "tiny.h"

#define BATCH 3
#define SIDE_Y 8
#define SIDE_X 12 /* two rows and three columns of patches */
#define PATCH 4
#define PIXELS (PATCH * PATCH * 3)
#define PATCHES 6
#define WIDTH 8

static float images[BATCH * 3 * SIDE_Y * SIDE_X];
static float patches[BATCH * PATCHES * PIXELS];
static float positions[PATCHES * WIDTH];

static vp_config naflex_config(void)
{
    vp_config c = tiny_config();
    c.family = VP_FAMILY_NAFLEX;
    c.img_size[0] = c.img_size[1] = 12;
    c.embed_linear = c.patchify_channels_last = true;
    c.no_embed_class = c.dynamic_img_size = true;
    c.reg_tokens = 2;
    return c;
}

/* images as patches, pixel by pixel */
static void cut(bool channels_last)
{
    for (size_t b = 0; b < BATCH; b++) {
        for (size_t c = 0; c < 3; c++) {
            for (size_t y = 0; y < SIDE_Y; y++) {
                for (size_t x = 0; x < SIDE_X; x++) {
                    const size_t patch = y / PATCH * (SIDE_X / PATCH) + x / PATCH;
                    const size_t py = y % PATCH, px = x % PATCH;
                    const size_t at = channels_last ? (py * PATCH + px) * 3 + c
                                                    : (c * PATCH + py) * PATCH + px;
                    patches[(b * PATCHES + patch) * PIXELS + at] =
                        images[((b * 3 + c) * SIDE_Y + y) * SIDE_X + x];
                }
            }
        }
    }
}

static vp_forward of_images(float *out)
{
    return (vp_forward){.images = images,
                        .batch = BATCH,
                        .height = SIDE_Y,
                        .width = SIDE_X,
                        .pos_embed = positions,
                        .depth = 2,
                        .output = VP_OUT_FEATURES,
                        .out = out};
}

static vp_forward of_patches(float *out)
{
    return (vp_forward){.patches = patches,
                        .num_patches = PATCHES,
                        .batch = BATCH,
                        .pos_embed = positions,
                        .depth = 2,
                        .output = VP_OUT_FEATURES,
                        .out = out};
}

static vp_status run(const vp_vit *vit, const vp_forward *f, vp_error *err)
{
    vp_workspaces *workspaces = vp_workspaces_create();
    const vp_status status = vp_vit_forward(vit, workspaces, f, err);
    vp_workspaces_unref(workspaces);
    return status;
}

static void patches_give_the_bits_of_their_images(void)
{
    static float want[BATCH * (PATCHES + 3) * WIDTH],
        got[BATCH * (PATCHES + 3) * WIDTH];
    for (int last = 0; last < 2; last++) {
        vp_config c = naflex_config();
        vp_error err = {VP_OK, ""};
        c.patchify_channels_last = last == 1;
        vp_vit *vit = tiny_create(&c, &err);
        CHECK(vit != NULL, "%s", err.message);
        cut(last == 1);
        const vp_forward whole = of_images(want), rows = of_patches(got);
        CHECK(run(vit, &whole, &err) == VP_OK, "%s", err.message);
        for (size_t chunk = 0; chunk < 2; chunk++) {
            vp_limits_set((vp_limits){.chunk_bytes = chunk});
            memset(got, 0, sizeof got);
            CHECK(run(vit, &rows, &err) == VP_OK, "%s", err.message);
            vp_limits_set((vp_limits){0});
            CHECK(memcmp(want, got, sizeof want) == 0, "channels last %d, chunks %zu",
                  last, chunk);
        }
        vp_vit_unref(vit);
    }
}

static void the_order_of_pixels_is_another_models(void)
{
    static float want[BATCH * (PATCHES + 3) * WIDTH],
        got[BATCH * (PATCHES + 3) * WIDTH];
    vp_config c = naflex_config();
    vp_error err = {VP_OK, ""};
    vp_vit *last = tiny_create(&c, &err);
    c.patchify_channels_last = false;
    vp_vit *first = tiny_create(&c, &err); /* of the same numbers */
    vp_forward f = of_images(want), other = of_images(got);
    CHECK(run(last, &f, &err) == VP_OK && run(first, &other, &err) == VP_OK, "%s",
          err.message);
    CHECK(memcmp(want, got, sizeof want) != 0, "both orders are one");
    vp_vit_unref(last);
    vp_vit_unref(first);
}

/* A patch's output depends on its own position. */
static void each_patch_has_its_position(void)
{
    static float want[BATCH * (PATCHES + 3) * WIDTH],
        got[BATCH * (PATCHES + 3) * WIDTH];
    static float moved[PATCHES * WIDTH], swapped[BATCH * PATCHES * PIXELS];
    vp_config c = naflex_config();
    vp_error err = {VP_OK, ""};
    vp_vit *vit = tiny_create(&c, &err);
    cut(true);
    vp_forward f = of_patches(want);
    f.depth = 0;
    CHECK(run(vit, &f, &err) == VP_OK, "%s", err.message);
    for (size_t p = 0; p < PATCHES; p++) { /* in the reverse order, positions as well */
        const size_t from = PATCHES - 1 - p;
        memcpy(moved + p * WIDTH, positions + from * WIDTH, WIDTH * sizeof(float));
        for (size_t b = 0; b < BATCH; b++) {
            memcpy(swapped + (b * PATCHES + p) * PIXELS,
                   patches + (b * PATCHES + from) * PIXELS, PIXELS * sizeof(float));
        }
    }
    f = of_patches(got);
    f.depth = 0;
    f.patches = swapped;
    f.pos_embed = moved;
    CHECK(run(vit, &f, &err) == VP_OK, "%s", err.message);
    for (size_t b = 0; b < BATCH; b++) {
        for (size_t p = 0; p < PATCHES; p++) {
            const float *a = want + (b * (PATCHES + 3) + 3 + p) * WIDTH;
            const float *z = got + (b * (PATCHES + 3) + 3 + PATCHES - 1 - p) * WIDTH;
            CHECK(memcmp(a, z, WIDTH * sizeof(float)) == 0, "image %zu, patch %zu", b,
                  p);
        }
    }
    vp_vit_unref(vit);
}

static void what_cannot_run_is_refused(void)
{
    static float out[BATCH * (PATCHES + 3) * WIDTH];
    vp_config c = naflex_config();
    vp_error err = {VP_OK, ""};
    size_t tokens = 0;
    vp_vit *vit = tiny_create(&c, &err);
    vp_forward f = of_patches(out);
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_OK, "%s", err.message);
    CHECK(tokens == PATCHES + 3, "%zu tokens", tokens);
    f.pos_embed = NULL;
    CHECK(run(vit, &f, &err) == VP_ERR_VALUE, "no positions");
    f = of_patches(out);
    f.first = 1;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE, "block 1");
    f = of_patches(out);
    f.num_patches = 0;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE, "no patch");
    vp_vit_unref(vit);

    c.pos_kind = VP_POS_FACTORIZED;
    vit = tiny_create(&c, &err);
    f = of_images(out);
    CHECK(run(vit, &f, &err) == VP_OK, "%s", err.message);
    f.pos_embed = NULL;
    CHECK(run(vit, &f, &err) == VP_ERR_VALUE, "no factorized positions");
    vp_vit_unref(vit);

    c = naflex_config();
    c.embed_linear = false;
    vit = tiny_create(&c, &err);
    f = of_patches(out);
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE, "convolution");
    vp_vit_unref(vit);

    c = naflex_config();
    c.pos_embed = false;
    vit = tiny_create(&c, &err);
    f = of_patches(out);
    f.pos_embed = NULL;
    CHECK(run(vit, &f, &err) == VP_OK, "%s", err.message);
    vp_vit_unref(vit);
}

int main(void)
{
    check_fill(images, BATCH * 3 * SIDE_Y * SIDE_X, 2.0f);
    check_fill(positions, PATCHES * WIDTH, 1.0f);
    patches_give_the_bits_of_their_images();
    the_order_of_pixels_is_another_models();
    each_patch_has_its_position();
    what_cannot_run_is_refused();
    return check_done();
}
