/* ConvStem against convolutions written out in double, and what it is made of.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backward.h"
#include "model/vit.h"
#include "ops/conv_rows.h"

/* -- rows of the next convolution -- */

static double gelu(double x)
{
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}

static void rows_of(const vp_run *run, const char *target, size_t kernel)
{
    const size_t h = 1 + below(4), w = 1 + below(4), width = 1 + below(50);
    const size_t across = kernel * w, area = kernel * kernel;
    matrix x = matrix_new(kernel * h * across, width, 3.0f), x0 = matrix_copy(&x);
    matrix shift = matrix_new(1, width, 1.0f);
    matrix rows = matrix_new(h * w, width * area, 1.0f);
    const vp_conv_rows how = {width, kernel, h, w, shift.x, VP_ACT_GELU};
    vp_conv_rows_run(run, &how, rows.x, rows.ld, x.x, x.ld);
    matrix_keep(&rows);
    for (size_t p = 0; p < h * w; p++) {
        for (size_t c = 0; c < width; c++) {
            for (size_t k = 0; k < area; k++) {
                const size_t y = p / w * kernel + k / kernel;
                const size_t at = y * across + p % w * kernel + k % kernel;
                const double want =
                    gelu((double)row(&x0, at)[c] + (double)row(&shift, 0)[c]);
                const double got = row(&rows, p)[c * area + k];
                CHECK(fabs(got - want) <= 2e-6 * (1.0 + fabs(want)),
                      "%s: %.9g, not %.9g", target, got, want);
            }
        }
    }
    matrix *all[] = {&x, &x0, &shift, &rows};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        matrix_free(all[i]);
    }
}

static void rows_are_patches_of_the_normed_output(const vp_run *run, const char *target)
{
    for (int i = 0; i < 20; i++) {
        rows_of(run, target, 1 + below(3));
    }
}

/* -- the whole stem -- */

#define WIDTH 8
#define SIDE 53 /* three patches of 16, and a rest that fills none */
#define BATCH 3

static float images[BATCH * 2 * SIDE * SIDE];

static vp_config stem_config(void)
{
    return (vp_config){.img_size = {SIDE, SIDE},
                       .patch_size = {16, 16},
                       .in_chans = 2,
                       .num_classes = 3,
                       .embed_dim = WIDTH,
                       .depth = 1,
                       .num_heads = 2,
                       .mlp_hidden = 8,
                       .global_pool = VP_POOL_TOKEN,
                       .act = VP_ACT_RELU, /* of the blocks: the stem's is GELU */
                       .norm_layer = VP_NORM_LAYER,
                       .norm_eps = 1e-6f,
                       .qkv_bias = true,
                       .proj_bias = true,
                       .class_token = true,
                       .pos_embed = true,
                       .no_embed_class = true,
                       .norm = true,
                       .embed = VP_EMBED_CONV_STEM};
}

/* A model of drawn numbers; variances are not small. NULL without memory. */
static vp_vit *drawn(const vp_config *config, vp_error *err)
{
    vp_vit *vit = NULL;
    if (vp_vit_create(config, &vit, err) != VP_OK) {
        return NULL;
    }
    check_reseed(7);
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        const vp_param *param = vp_vit_param(vit, i);
        const size_t n = vp_param_count(param);
        float *numbers = malloc(n * sizeof *numbers);
        check_fill(numbers, n, 0.5f);
        for (size_t j = 0; strstr(param->name, "running_var") != NULL && j < n; j++) {
            numbers[j] = 0.3f + fabsf(numbers[j]);
        }
        const vp_status status = vp_vit_set_param(vit, i, numbers, err);
        free(numbers);
        if (status != VP_OK) {
            vp_vit_unref(vit);
            return NULL;
        }
    }
    if (vp_vit_finish(vit, err) != VP_OK) {
        vp_vit_unref(vit);
        return NULL;
    }
    return vit;
}

static const float *numbers_of(const vp_vit *vit, const char *name, float *room)
{
    const size_t i = vp_vit_find_param(vit, name, 0);
    CHECK(i < vp_vit_num_params(vit), "no %s", name);
    vp_weight_get(*vp_vit_param(vit, i)->slot, room);
    return room;
}

/* out[o][h][w] of in[channels][k h][k w], the plain way */
static void convolve(const vp_vit *vit, int stage, size_t channels, size_t height,
                     size_t width, const double *in, size_t in_width, double *out,
                     size_t outs)
{
    static float weight[WIDTH * 64 * 16], vectors[5][WIDTH];
    const size_t k = stage == 0 ? 4 : 2;
    char name[64];
#define NUMBERS(what, room)                                                     \
    ((void)snprintf(name, sizeof name, "patch_embed.backbone.%d." what, stage), \
     numbers_of(vit, name, room))
    (void)NUMBERS("conv.weight", weight);
    const bool last = stage == 2;
    if (last) {
        (void)NUMBERS("conv.bias", vectors[4]);
    } else {
        (void)NUMBERS("bn.weight", vectors[0]);
        (void)NUMBERS("bn.bias", vectors[1]);
        (void)NUMBERS("bn.running_mean", vectors[2]);
        (void)NUMBERS("bn.running_var", vectors[3]);
    }
#undef NUMBERS
    const size_t in_height = in_width; /* squares */
    for (size_t o = 0; o < outs; o++) {
        for (size_t y = 0; y < height; y++) {
            for (size_t x = 0; x < width; x++) {
                double sum = last ? vectors[4][o] : 0.0;
                for (size_t c = 0; c < channels; c++) {
                    for (size_t j = 0; j < k * k; j++) {
                        const size_t at =
                            (c * in_height + y * k + j / k) * in_width + x * k + j % k;
                        sum += (double)weight[(o * channels + c) * k * k + j] * in[at];
                    }
                }
                if (!last) {
                    sum = (sum - vectors[2][o]) / sqrt((double)vectors[3][o] + 1e-5);
                    sum = gelu(sum * vectors[0][o] + vectors[1][o]);
                }
                out[(o * height + y) * width + x] = sum;
            }
        }
    }
}

static void stem_gives_three_convolutions(void)
{
    static double pixels[2 * SIDE * SIDE], a[WIDTH / 4 * 13 * 13], b[WIDTH / 4 * 6 * 6];
    static double want[WIDTH * 9];
    static float out[BATCH * 9 * WIDTH];
    const vp_config c = stem_config();
    vp_error err = {VP_OK, ""};
    vp_vit *vit = drawn(&c, &err);
    vp_workspaces *workspaces = vp_workspaces_create();
    const vp_forward f = {.part = "patch_embed",
                          .images = images,
                          .batch = BATCH,
                          .height = SIDE,
                          .width = SIDE,
                          .out = out};
    CHECK(vp_vit_forward(vit, workspaces, &f, &err) == VP_OK, "%s", err.message);
    for (size_t image = 0; image < BATCH; image++) {
        for (size_t i = 0; i < 2 * SIDE * SIDE; i++) {
            pixels[i] = images[image * 2 * SIDE * SIDE + i];
        }
        convolve(vit, 0, 2, 13, 13, pixels, SIDE, a, WIDTH / 4);
        convolve(vit, 1, WIDTH / 4, 6, 6, a, 13, b, WIDTH / 4);
        convolve(vit, 2, WIDTH / 4, 3, 3, b, 6, want, WIDTH);
        for (size_t p = 0; p < 9; p++) {
            for (size_t o = 0; o < WIDTH; o++) {
                const double got = out[(image * 9 + p) * WIDTH + o];
                CHECK(fabs(got - want[o * 9 + p]) <=
                          2e-6 * (1.0 + fabs(want[o * 9 + p])),
                      "image %zu, patch %zu: %.9g, not %.9g", image, p, got,
                      want[o * 9 + p]);
            }
        }
    }
    vp_workspaces_unref(workspaces);
    vp_vit_unref(vit);
}

/* Builds a model and runs it whole. */
static vp_status whole(float *out, size_t batch, vp_error *err)
{
    const vp_config c = stem_config();
    vp_vit *vit = drawn(&c, err);
    if (vit == NULL) {
        return err->code;
    }
    vp_workspaces *workspaces = vp_workspaces_create();
    const vp_forward f = {.images = images,
                          .batch = batch,
                          .height = SIDE,
                          .width = SIDE,
                          .depth = 1,
                          .output = VP_OUT_LOGITS,
                          .out = out};
    const vp_status status = workspaces == NULL
                                 ? vp_fail(err, VP_ERR_MEMORY, "no workspaces")
                                 : vp_vit_forward(vit, workspaces, &f, err);
    vp_workspaces_unref(workspaces);
    vp_vit_unref(vit);
    return status;
}

static void a_row_does_not_depend_on_batch_or_threads(void)
{
    float one[3], all[BATCH * 3], again[BATCH * 3];
    vp_error err;
    vp_set_num_threads(1);
    CHECK(whole(one, 1, &err) == VP_OK, "%s", err.message);
    CHECK(whole(all, BATCH, &err) == VP_OK, "%s", err.message);
    vp_set_num_threads(3);
    CHECK(whole(again, BATCH, &err) == VP_OK, "%s", err.message);
    CHECK(memcmp(one, all, sizeof one) == 0, "of another batch");
    CHECK(memcmp(all, again, sizeof all) == 0, "of more threads");
}

static void every_allocation_fails_once(void)
{
    float out[BATCH * 3];
    vp_error err;
    vp_status status = VP_ERR_MEMORY;
    long n = 0;
    for (; status != VP_OK && n < 500; n++) {
        err.code = VP_OK;
        vp_memory_fail_after(n);
        status = whole(out, BATCH, &err);
        vp_memory_fail_after(-1);
        CHECK(status == VP_OK || status == VP_ERR_MEMORY, "allocation %ld: %s", n,
              err.message);
    }
    CHECK(status == VP_OK && n > 50, "%ld allocations", n);
}

static void what_a_stem_cannot_be_is_refused(void)
{
    vp_error err;
#define REFUSED(word, change)                              \
    {                                                      \
        vp_config c = stem_config();                       \
        change;                                            \
        CHECK(vp_config_check(&c, &err) == VP_ERR_VALUE && \
                  strstr(err.message, word) != NULL,       \
              #change);                                    \
    }
    REFUSED("patch_size", c.patch_size[1] = 8)
    REFUSED("embed_dim", c.embed_dim = 6)
    REFUSED("embed_norm_layer", c.embed_norm_layer = VP_NORM_LAYER)
    REFUSED("class", c.family = VP_FAMILY_EVA)
#undef REFUSED
    const vp_config c = stem_config();
    CHECK(vp_config_check(&c, &err) == VP_OK, "%s", err.message);
}

int main(void)
{
    check_fill(images, sizeof images / sizeof *images, 1.0f);
    on_every_target(rows_are_patches_of_the_normed_output);
    stem_gives_three_convolutions();
    a_row_does_not_depend_on_batch_or_threads();
    every_allocation_fails_once();
    what_a_stem_cannot_be_is_refused();
    return check_done();
}
