/* Facts and functions that need no model. SPDX-License-Identifier: Apache-2.0 */
#include "model/info.h"

#include "kernels/kernels.h"
#include "ukernels/ukr.h"

vp_info vp_info_get(void)
{
    const vp_ukr *ukr = vp_ukr_for(VP_DTYPE_f32);
    return (vp_info){.target = vp_target_current(),
                     .micro_kernel = ukr->name,
                     .mr = ukr->mr,
                     .nr = ukr->nr,
                     .wish_met = vp_ukr_wish_met(),
                     .blis_version = vp_blis_version()};
}

vp_info_products vp_info_products_of(vp_dtype weight)
{
    const vp_ukr *ukr = vp_ukr_for(weight);
    const char *arithmetic = NULL;
    switch (ukr->rows) {
    case VP_ROWS_f32:
        arithmetic = weight == VP_DTYPE_f32 ? "float32" : "float32, weights widened";
        break;
    case VP_ROWS_bf16:
        arithmetic = "bfloat16 products, float32 sums";
        break;
    case VP_ROWS_u8:
    case VP_ROWS_s8:
    case VP_ROWS_s16:
        arithmetic = weight == VP_DTYPE_s8a16 ? "integers of 8 and 16 bits, int32 sums"
                                              : "integers of 8 bits, int32 sums";
        break;
    case VP_ROWS_COUNT:
        break;
    }
    return (vp_info_products){ukr->name, arithmetic};
}

const char *vp_info_micro_kernel(size_t i)
{
    for (size_t all = 0; all < VP_UKR_COUNT; all++) {
        const vp_ukr *ukr = vp_ukr_at(all);
        if (vp_ukr_may_run(ukr) && i-- == 0) {
            return ukr->name;
        }
    }
    return NULL;
}

void vp_normalize_pixels(float *out, const uint8_t *pixels, size_t n, size_t channels,
                         const float *mean, const float *std)
{
    vp_kernels_get()->normalize_u8(out, pixels, n, channels, mean, std);
}

void vp_widen_f16(float *out, const uint16_t *halves, size_t n)
{
    vp_kernels_get()->from_f16(out, halves, n);
}
