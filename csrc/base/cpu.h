/* Which targets this machine can run. Targets are compiled side by side and chosen at run
 * time from what the CPU and the operating system allow.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_CPU_H
#define VP_BASE_CPU_H

#include <stdbool.h>

#include "base/targets.h"

typedef enum {
#define VP_TARGET_ENUM(name, arch, vectors, features) VP_TARGET_##name,
    VP_TARGETS(VP_TARGET_ENUM)
#undef VP_TARGET_ENUM
        VP_TARGET_COUNT,
} vp_target;

/* "baseline", "avx2", ... */
const char *vp_target_name(vp_target target);

/* Have the CPU and the operating system what it needs? Asks both and changes nothing. */
bool vp_target_supported(vp_target target);

/* The same, and the process may use it. For AMX this asks the operating system for the use
 * of tiles, which it may refuse, and which then holds for the whole process. */
bool vp_target_enable(vp_target target);

/* The target of that name; VP_TARGET_COUNT if there is none. */
vp_target vp_target_from_name(const char *name);

/* The best target that can be enabled. */
vp_target vp_target_best(void);

#endif
