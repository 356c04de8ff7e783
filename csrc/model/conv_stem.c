/* ConvStem: three convolutions in place of one, as MobileCLIP-B embeds patches.
 *
 * Each one's kernel is its stride (4, 2, 2), so each is the product of patch_embed on the
 * output of the one before. BatchNorm uses its running statistics, as in evaluation: a
 * scale and a shift of each channel, derived once. The product's finish scales, ops/
 * conv_rows.c adds the shift. Images go through one at a time: the first output is four
 * times as large as the tokens.
 * Source: timm.models.vision_transformer_hybrid.ConvStem, vit_base_mci_224.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/memory.h"
#include "model/modules.h"
#include "ops/conv_rows.h"
#include "ops/patch_embed.h"

#define EPS 1e-5 /* torch.nn.BatchNorm2d's */

static const size_t kernels[VP_STEM_CONVS] = {4, 2, 2};

size_t vp_conv_stem_width(const vp_config *c, size_t i)
{
    return i + 1 < VP_STEM_CONVS ? c->embed_dim / 4 : c->embed_dim;
}

size_t vp_conv_stem_kernel(size_t i)
{
    return kernels[i];
}

/* Pixels of the patches that convolution i reads, in all channels. */
static size_t inputs(const vp_config *c, size_t i)
{
    const size_t chans = i == 0 ? c->in_chans : vp_conv_stem_width(c, i - 1);
    return chans * kernels[i] * kernels[i];
}

/* Outputs of convolution i along a side of a patch of the whole: 4, 2, 1. */
static size_t across(size_t i)
{
    size_t side = 1;
    for (size_t j = i + 1; j < VP_STEM_CONVS; j++) {
        side *= kernels[j];
    }
    return side;
}

/* And in all of it. */
static size_t outputs(size_t i)
{
    return across(i) * across(i);
}

size_t vp_conv_stem_rows(const vp_config *c, size_t patches)
{
    return c->embed == VP_EMBED_CONV_STEM ? patches * outputs(0) : 0;
}

void vp_conv_stem_plan(vp_pass *pass, vp_arena *arena, size_t patches)
{
    const vp_config *c = pass->config;
    if (c->embed != VP_EMBED_CONV_STEM) {
        return;
    }
    size_t in = 0, out = 0;
    for (size_t i = 0; i < VP_STEM_CONVS; i++) {
        const size_t rows = vp_size_mul(patches, outputs(i));
        in = vp_max(in, vp_size_mul(rows, vp_row_stride(inputs(c, i))));
        out = vp_max(out, vp_size_mul(rows, vp_row_stride(vp_conv_stem_width(c, i))));
    }
    pass->stem_in = vp_arena_floats(arena, in);
    pass->stem_out = vp_arena_floats(arena, out);
}

vp_status vp_conv_stem_finish(vp_vit *vit, vp_error *err)
{
    if (vit->config.embed != VP_EMBED_CONV_STEM) {
        return VP_OK;
    }
    for (size_t i = 0; i + 1 < VP_STEM_CONVS; i++) {
        const size_t width = vp_conv_stem_width(&vit->config, i);
        vp_batch_norm *bn = &vit->stem.bn[i];
        vp_free(bn->scale);
        bn->scale = vp_alloc(vp_size_mul(2 * width, sizeof(float)));
        if (bn->scale == NULL) {
            return vp_fail_memory(err, "a BatchNorm", 2 * width * sizeof(float));
        }
        bn->shift = bn->scale + width;
        for (size_t j = 0; j < width; j++) {
            const double scale =
                (double)bn->weight->plain[j] / sqrt((double)bn->var->plain[j] + EPS);
            bn->scale[j] = (float)scale;
            bn->shift[j] = (float)((double)bn->bias->plain[j] -
                                   (double)bn->mean->plain[j] * scale);
        }
    }
    return VP_OK;
}

void vp_conv_stem_free(vp_conv_stem *stem)
{
    for (size_t i = 0; i + 1 < VP_STEM_CONVS; i++) {
        vp_free(stem->bn[i].scale);
    }
}

double vp_conv_stem_flops(const vp_vit *vit, size_t patches)
{
    double flops = 0.0;
    for (size_t i = 0; i < VP_STEM_CONVS; i++) {
        flops += 2.0 * (double)(patches * outputs(i)) *
                 (double)vit->stem.conv[i].weight->count;
    }
    return flops;
}

/* x[side[0] * side[1]] = the chunk's image b. */
static void image(vp_pass *pass, const size_t side[2], size_t b, float *x, size_t ldx)
{
    const vp_config *c = pass->config;
    const vp_conv_stem *stem = &pass->vit->stem;
    const vp_forward *f = pass->request;
    const size_t pixels = c->in_chans * f->height * f->width;
    const size_t patches = side[0] * side[1];
    const vp_patch_grid grid = {c->in_chans,         f->height,  f->width,
                                kernels[0],          kernels[0], across(0) * side[0],
                                across(0) * side[1], false};
    size_t ld = vp_row_stride(inputs(c, 0));
    vp_patch_rows(&pass->run, &grid, 1, pass->stem_in, ld,
                  f->images + (pass->start + b) * pixels);
    for (size_t i = 0; i < VP_STEM_CONVS; i++) {
        const bool last = i + 1 == VP_STEM_CONVS;
        const size_t width = vp_conv_stem_width(c, i), ldo = vp_row_stride(width);
        vp_finish finish = vp_module_finish(&stem->conv[i], last ? x : pass->stem_out,
                                            last ? ldx : ldo);
        finish.scale = last ? NULL : stem->bn[i].scale;
        vp_module_linear(pass, &stem->conv[i], 0, patches * outputs(i), pass->stem_in,
                         ld, &finish);
        if (last) {
            break;
        }
        const vp_conv_rows next = {.width = width,
                                   .kernel = kernels[i + 1],
                                   .grid_h = across(i + 1) * side[0],
                                   .grid_w = across(i + 1) * side[1],
                                   .shift = stem->bn[i].shift,
                                   .act = VP_ACT_GELU};
        ld = vp_row_stride(inputs(c, i + 1));
        vp_conv_rows_run(&pass->run, &next, pass->stem_in, ld, pass->stem_out, ldo);
    }
}

void vp_conv_stem_forward(vp_pass *pass, const size_t side[2], size_t skip, float *x,
                          size_t ldx)
{
    const size_t patches = side[0] * side[1];
    for (size_t b = 0; b < pass->batch; b++) {
        image(pass, side, b, x + (b * (skip + patches) + skip) * ldx, ldx);
    }
}
