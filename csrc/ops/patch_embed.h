/* Cuts images into patches: the im2col of timm's PatchEmbed, whose convolution has the
 * patch as kernel and stride. The product with the weights is a vp_gemm.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_PATCH_EMBED_H
#define VP_OPS_PATCH_EMBED_H

#include "gemm/run.h"

typedef struct {
    size_t channels, height, width; /* of an image, as it came */
    size_t patch_h, patch_w, grid_h, grid_w;
    bool channels_last; /* in a row: [patch_h][patch_w][channels], timm's NaFlexVit */
} vp_patch_grid;

/* rows[b * grid_h * grid_w + p][channels * patch_h * patch_w] = patch p of image b of
 * images[b][channels][height][width]. Where the grid reaches past the image, zeros
 * (dynamic_img_pad); what the grid leaves over is not read. */
void vp_patch_rows(const vp_run *run, const vp_patch_grid *grid, size_t batch,
                   float *rows, size_t ldr, const float *images);

/* rows[count][width], rows ldr apart = patches[count][width] that the caller has cut. */
void vp_patch_rows_copy(const vp_run *run, size_t count, size_t width, float *rows,
                        size_t ldr, const float *patches);

#endif
