/* How large the caches are that a core has. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_CACHES_H
#define VP_BASE_CACHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpuid.h"

/* The caches of one core, in bytes; 0 where not known, or where there is none. Of one that
 * the core shares with others, the whole. */
typedef struct {
    size_t l1d, l2, l3;
} vp_caches;

/* Found once, on the core that the first caller runs on: where cores differ, others may
 * have other caches. Speed may depend on them, the order of a sum must not. */
vp_caches vp_caches_get(void);

/* The same from CPUID alone, as `ask` answers it: vp_cpuid, but in tests. */
typedef bool vp_cpuid_ask(uint32_t leaf, uint32_t subleaf, vp_cpuid_answer *answer);
vp_caches vp_caches_from_cpuid(vp_cpuid_ask *ask);

#endif
