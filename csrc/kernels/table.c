/* One target's table of kernels. SPDX-License-Identifier: Apache-2.0 */
#include "kernels/target.h"

const vp_kernels VP_TABLE = {
#define VP_KERNEL_ENTRY(name, exact, parameters) .name = VP_NAME(name),
    VP_KERNELS(VP_KERNEL_ENTRY)
#undef VP_KERNEL_ENTRY
};
