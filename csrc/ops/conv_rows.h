/* What stands between two convolutions of timm's ConvStem: BatchNorm's shift, the
 * activation, and the patches of the next, whose kernel is its stride. BatchNorm's scale
 * is the finish of the product before. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_OPS_CONV_ROWS_H
#define VP_OPS_CONV_ROWS_H

#include "gemm/run.h"

typedef struct {
    size_t width;          /* channels that come in */
    size_t kernel;         /* pixels of a patch's side */
    size_t grid_h, grid_w; /* patches of an image */
    const float *shift;    /* [width] */
    vp_act act;
} vp_conv_rows;

/* rows[grid_h * grid_w][width * kernel^2] = patch p of act(x + shift), in a convolution's
 * order, channels outside; x[kernel * grid_h][kernel * grid_w][width] is one image, its
 * pixels ldx apart, and is overwritten. */
void vp_conv_rows_run(const vp_run *run, const vp_conv_rows *how, float *rows,
                      size_t ldr, float *x, size_t ldx);

#endif
