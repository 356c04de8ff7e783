/* How many threads this process may sensibly use. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_THREADS_DEFAULT_H
#define VP_BASE_THREADS_DEFAULT_H

#include <stdbool.h>
#include <stddef.h>

/* The least of online cores, CPU affinity and the cgroup (v1 or v2) CPU quota, rounded up.
 * At least 1. Needs neither /proc nor /sys to be there. */
size_t vp_usable_cpus(void);

/* VITPOOL_NUM_THREADS, else OMP_NUM_THREADS, where it is a positive integer; else
 * vp_usable_cpus(). */
size_t vp_default_num_threads(void);

/* False if VITPOOL_NUM_THREADS is set, not empty, and no integer from 1 to VP_MAX_THREADS. */
bool vp_num_threads_wish_met(void);

#endif
