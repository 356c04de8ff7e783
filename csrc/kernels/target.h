/* Names and includes of a source that is compiled once per target (-DVP_TARGET=avx2).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_TARGET_H
#define VP_KERNELS_TARGET_H

#include "kernels/kernels.h"
#include "kernels/simd.h"

#define VP_PASTE2(a, b) a##b
#define VP_PASTE(a, b) VP_PASTE2(a, b)
/* VP_NAME(add) is vp_add__avx2; VP_TABLE is vp_kernels_avx2. */
#define VP_NAME(name) VP_PASTE(vp_##name##__, VP_TARGET)
#define VP_TABLE VP_PASTE(vp_kernels_, VP_TARGET)

#define VP_KERNEL_DECLARE(name, exact, parameters) void VP_NAME(name) parameters;
VP_KERNELS(VP_KERNEL_DECLARE)
#undef VP_KERNEL_DECLARE

#endif
