/* The names of the kernels in plain C: vp_ref_add is vp_kernels_reference.add.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_KERNELS_REF_H
#define VP_KERNELS_REF_H

#include "kernels/kernels.h"

#define VP_REF_DECLARE(name, exact, parameters) void vp_ref_##name parameters;
VP_KERNELS(VP_REF_DECLARE)
#undef VP_REF_DECLARE

#endif
