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

void vp_normalize_pixels(float *out, const uint8_t *pixels, size_t n, size_t channels,
                         const float *mean, const float *std)
{
    vp_kernels_get()->normalize_u8(out, pixels, n, channels, mean, std);
}
