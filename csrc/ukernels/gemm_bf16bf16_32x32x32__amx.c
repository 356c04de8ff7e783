/* c[32][32] (+)= a[32][k] b[k][32] of bfloat16 on AMX. A tdpbf16ps sums 32 products in float32, even
 * and odd k apart, before it adds them to c: chains of 16 terms, then one of k / 32. Denormal
 * numbers count as 0, of either side, and so do denormal sums.
 * SPDX-License-Identifier: Apache-2.0 */
#define MULTIPLY _tile_dpbf16ps
#define KR 32
/* Every CPU with AMX has it; one where AMX is emulated may not. */
#if defined(__AVX512BF16__)
#include "ukernels/to_bf16.h"
#define CONVERT convert
#else
#define CONVERT NULL
#endif

#include "ukernels/tiles.h"

TILES_UKR(vp_gemm_bf16bf16_32x32x32__amx, bf16, bf16, 1024)
