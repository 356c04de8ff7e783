/* Facts and functions that need no model. SPDX-License-Identifier: Apache-2.0 */
#include "model/info.h"

#include "gemm/ukr.h"
#include "kernels/kernels.h"

vp_info vp_info_get(void)
{
    const vp_ukr *ukr = vp_ukr_get();
    return (vp_info){vp_target_current(), ukr->name, ukr->mr, ukr->nr,
                     vp_blis_version()};
}

void vp_normalize_pixels(float *out, const uint8_t *pixels, size_t n, size_t channels,
                         const float *mean, const float *std)
{
    vp_kernels_get()->normalize_u8(out, pixels, n, channels, mean, std);
}
