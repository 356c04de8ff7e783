/* c[rows][16] (+)= a[rows][k] b[k][16] in integers on AVX-VNNI, rows in 1..6: AVX512_VNNI's
 * VPDPBUSD on CPUs without AVX-512. SPDX-License-Identifier: Apache-2.0 */
#define VECTOR_BYTES 32
#define ROW u8
#define WEIGHT s8
#define SUM int32_t
#define LOAD WHOLE
#define BROADCAST "vpbroadcastd"
#define MULTIPLY VEX "vpdpbusd"

#include "ukernels/broadcast.h"

STEPS_UKR(vp_gemm_u8s8_6x16x4__avxvnni, avxvnni, VP_MOST_INT_INPUTS, VP_MOST_INT_INPUTS)
