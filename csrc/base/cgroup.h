/* The CPU quota of this process's cgroup. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_CGROUP_H
#define VP_BASE_CGROUP_H

#include <stddef.h>

/* Time on the CPU in each period, as cores, rounded up: the least quota of the process's
 * folder and of those above it, as far as they are mounted (version 1 or 2). SIZE_MAX: there
 * is none. `root` goes before the paths in /proc and /sys; it is "" but in tests. */
size_t vp_cgroup_cores(const char *root);

#endif
