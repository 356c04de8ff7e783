/* SPDX-License-Identifier: Apache-2.0
 * Forward passes of ViT-B/16's widths, of no, one and two blocks, for what counts instructions.
 *
 *     forward  ->  what multiplies; getppid() is called before and after each pass
 *
 * The last block of a pass computes the class token's row alone where it can. So of a model of D
 * blocks, two and more, D - 2 are what the second pass has more than the first, and the rest is
 * the second pass: a pass of twelve blocks in the time of two.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/parallel.h"
#include "kernels/kernels.h"
#include "model/vit.h"
#include "ukernels/ukr.h"

#define SIDE ((size_t)224)
#define WIDTH ((size_t)768)

static vp_config config_of(size_t depth)
{
    return (vp_config){.img_size = {SIDE, SIDE},
                       .patch_size = {16, 16},
                       .in_chans = 3,
                       .num_classes = 1000,
                       .embed_dim = WIDTH,
                       .depth = depth,
                       .num_heads = 12,
                       .mlp_hidden = 4 * WIDTH,
                       .global_pool = VP_POOL_TOKEN,
                       .act = VP_ACT_GELU,
                       .norm_layer = VP_NORM_LAYER,
                       .norm_eps = 1e-6f,
                       .embed_norm_eps = 1e-6f,
                       .qkv_bias = true,
                       .proj_bias = true,
                       .class_token = true,
                       .pos_embed = true,
                       .norm = true};
}

/* Small numbers, of both signs. */
static float *numbers(size_t n)
{
    float *x = malloc(n * sizeof *x);
    uint32_t state = 1;
    for (size_t i = 0; x != NULL && i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = ((float)(state >> 8) - 0x1p23f) * 0x1p-28f;
    }
    return x;
}

static vp_status run(size_t depth, const float *x, float *logits, vp_error *err)
{
    const vp_config config = config_of(depth);
    vp_vit *vit = NULL;
    vp_workspaces *workspaces = vp_workspaces_create();
    vp_status status = workspaces != NULL ? vp_vit_create(&config, &vit, err)
                                          : vp_fail(err, VP_ERR_MEMORY, "no memory");
    for (size_t i = 0; status == VP_OK && i < vp_vit_num_params(vit); i++) {
        status = vp_vit_set_param(vit, i, x, err);
    }
    if (status == VP_OK) {
        status = vp_vit_finish(vit, err);
    }
    if (status == VP_OK) {
        const vp_forward forward = {.images = x,
                                    .batch = 1,
                                    .height = SIDE,
                                    .width = SIDE,
                                    .depth = depth,
                                    .output = VP_OUT_LOGITS,
                                    .out = logits};
        (void)getppid();
        status = vp_vit_forward(vit, workspaces, &forward, err);
        (void)getppid();
    }
    vp_vit_unref(vit);
    vp_workspaces_unref(workspaces);
    return status;
}

int main(void)
{
    vp_set_num_threads(1);
    const vp_ukr *ukr = vp_ukr_for(VP_DTYPE_f32);
    printf("%s %zu x %zu\n", ukr->name, ukr->mr, ukr->nr);
    (void)fflush(stdout);
    float *x = numbers(4 * WIDTH * WIDTH), logits[1000];
    vp_error err = {VP_OK, ""};
    for (size_t depth = 1; depth <= 2; depth++) {
        if (x == NULL || run(depth, x, logits, &err) != VP_OK) {
            (void)fprintf(stderr, "%s\n", x == NULL ? "no memory" : err.message);
            return 1;
        }
    }
    free(x);
    return 0;
}
