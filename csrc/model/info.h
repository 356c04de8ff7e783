/* What python/ may use of the layers below model/ without a model.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_INFO_H
#define VP_MODEL_INFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu.h"
#include "base/dtype.h"

typedef struct {
    vp_target target;         /* in use; VP_TARGET_COUNT: VITPOOL_TARGET is unusable */
    const char *micro_kernel; /* for float32 weights; static */
    size_t mr, nr;            /* its tile */
    bool wish_met;            /* see vp_ukr_wish_met */
    const char *blis_version; /* static; NULL without BLIS */
} vp_info;

vp_info vp_info_get(void);

/* The micro-kernel that multiplies weights of that dtype, and what it computes in, in words;
 * static. */
typedef struct {
    const char *micro_kernel, *arithmetic;
} vp_info_products;

vp_info_products vp_info_products_of(vp_dtype weight);

/* The name of the i-th micro-kernel that may run on the target in use; NULL behind the
 * last. */
const char *vp_info_micro_kernel(size_t i);

/* out[channels][n] = (pixels[n][channels] / 255 - mean) / std */
void vp_normalize_pixels(float *out, const uint8_t *pixels, size_t n, size_t channels,
                         const float *mean, const float *std);

/* out[n] = halves, float16, as float32 */
void vp_widen_f16(float *out, const uint16_t *halves, size_t n);

#endif
