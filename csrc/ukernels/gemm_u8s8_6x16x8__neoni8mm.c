/* c[rows][16] (+)= a[rows][k] b[k][16] in integers on I8MM, rows in 1..6. USMMLA takes bytes without
 * a sign times bytes with one, 8 products a sum in 32 bits, none of which saturates.
 * SPDX-License-Identifier: Apache-2.0 */
#define ROW u8
#define WEIGHT s8
#define SUM int32_t
#define MULTIPLY(c, b) LINE("usmmla", "%[" c "].4s, %[a].16b, %[" b "].16b")

#include "ukernels/mmla.h"

STEPS_UKR(vp_gemm_u8s8_6x16x8__neoni8mm, neoni8mm, VP_MOST_INT_INPUTS,
          VP_MOST_INT_INPUTS)
