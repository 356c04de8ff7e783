/* c[32][32] (+)= a[32][k] b[k][32] of unsigned and signed bytes on AMX, in int32: exact, as
 * tdpbusd saturates nowhere. All of k is one block, so that c is int32 until it is whole.
 * SPDX-License-Identifier: Apache-2.0 */
#define MULTIPLY _tile_dpbusd
#define KR 64
#define CONVERT NULL

#include "ukernels/tiles.h"

TILES_UKR(vp_gemm_u8s8_32x32x64__amx, u8, s8, VP_MOST_INT_INPUTS)
