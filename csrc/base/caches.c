/* How large a core's caches are. SPDX-License-Identifier: Apache-2.0 */
#include "base/caches.h"

#include <string.h>
#include <unistd.h>

#include "base/os.h"

/* Should a hypervisor answer every subleaf alike, the list of caches has no end. */
enum { CACHES_AT_MOST = 16 };

/* What can be a core's caches: none is larger than any that is made, or smaller than one
 * nearer to the core. What cannot be is not known. */
static vp_caches plausible(uint64_t l1d, uint64_t l2, uint64_t l3)
{
    const uint64_t mib = (uint64_t)1 << 20;
    vp_caches caches = {0};
    if (l1d <= mib) {
        caches.l1d = (size_t)l1d;
    }
    if (l2 >= caches.l1d && l2 <= 128 * mib) {
        caches.l2 = (size_t)l2;
    }
    if (l3 >= caches.l1d && l3 >= caches.l2 && l3 <= 2048 * mib) {
        caches.l3 = (size_t)l3;
    }
    return caches;
}

/* The leaf that lists the caches, one a subleaf, in the same form everywhere; 0 if there is
 * none. An AMD CPU that does not say that it has its own (TOPOEXT) has none: what leaf 4
 * holds there, a hypervisor has made up. */
static uint32_t leaf_of_caches(vp_cpuid_ask *ask)
{
    enum { INTELS = 4, AMDS = 0x1D, TOPOEXT = 22 };
    const uint32_t extended = 0x80000000;
    vp_cpuid_answer is, has;
    if (!ask(0, 0, &is)) {
        return 0;
    }
    const uint32_t vendor[] = {is.ebx, is.edx, is.ecx};
    if (memcmp(vendor, "AuthenticAMD", sizeof vendor) != 0 &&
        memcmp(vendor, "HygonGenuine", sizeof vendor) != 0) {
        return INTELS;
    }
    const bool own = ask(extended + 1, 0, &has) && (has.ecx >> TOPOEXT & 1) != 0;
    return own ? extended + AMDS : 0;
}

vp_caches vp_caches_from_cpuid(vp_cpuid_ask *ask)
{
    enum { NO_MORE, DATA, INSTRUCTIONS, UNIFIED };
    const uint32_t leaf = leaf_of_caches(ask);
    uint64_t of_level[8] = {0};
    vp_cpuid_answer a;
    for (uint32_t i = 0; leaf != 0 && i < CACHES_AT_MOST && ask(leaf, i, &a); i++) {
        const uint32_t type = a.eax & 31, level = a.eax >> 5 & 7;
        if (type == NO_MORE) {
            break;
        }
        if (type == DATA || type == UNIFIED) {
            const uint64_t line = (a.ebx & 4095) + 1,
                           partitions = (a.ebx >> 12 & 1023) + 1;
            const uint64_t ways = (a.ebx >> 22) + 1, sets = (uint64_t)a.ecx + 1;
            of_level[level] = ways * partitions * line * sets; /* 2^64 at most: is 0 */
        }
    }
    return plausible(of_level[1], of_level[2], of_level[3]);
}

/* What the C library tells; musl's has no names to ask by. */
static vp_caches from_library(void)
{
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    const long l1d = sysconf(_SC_LEVEL1_DCACHE_SIZE),
               l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    long l3 = 0;
#if !defined(VP_X86) /* there, glibc 2.36 adds up the L3s of an AMD socket */
    l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return plausible(l1d > 0 ? (uint64_t)l1d : 0, l2 > 0 ? (uint64_t)l2 : 0,
                     l3 > 0 ? (uint64_t)l3 : 0);
#else
    return (vp_caches){0};
#endif
}

static vp_caches found;

static void find(void)
{
    const vp_caches cpuid = vp_caches_from_cpuid(vp_cpuid), library = from_library();
    found = plausible(cpuid.l1d != 0 ? cpuid.l1d : library.l1d,
                      cpuid.l2 != 0 ? cpuid.l2 : library.l2,
                      cpuid.l3 != 0 ? cpuid.l3 : library.l3);
}

vp_caches vp_caches_get(void)
{
    static vp_once once = VP_ONCE_INIT;
    vp_run_once(&once, find);
    return found;
}
