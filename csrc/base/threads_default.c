/* How many threads this process may sensibly use. SPDX-License-Identifier: Apache-2.0 */
#include "base/threads_default.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cgroup.h"
#include "base/os.h"
#include "base/parallel.h"

/* The positive integer at the start of what OMP_NUM_THREADS is, which may be a list; 0 where
 * there is none. It is written for others too, so nonsense in it is not ours to refuse. */
static size_t omp_wish(void)
{
    const char *text = getenv("OMP_NUM_THREADS");
    if (text == NULL) {
        return 0;
    }
    char *end = NULL;
    errno = 0;
    const long n = strtol(text, &end, 10);
    const int whole = end != text && (*end == '\0' || *end == ',');
    return whole && errno == 0 && n > 0 ? (size_t)n : 0;
}

/* VITPOOL_NUM_THREADS, digits alone; 0 where it is not from 1 to VP_MAX_THREADS. */
static size_t own_wish(void)
{
    const char *text = getenv("VITPOOL_NUM_THREADS");
    if (text == NULL || text[strspn(text, "0123456789")] != '\0') {
        return 0;
    }
    const unsigned long n = strtoul(text, NULL, 10); /* ULONG_MAX where it is larger */
    return n <= VP_MAX_THREADS ? n : 0;
}

bool vp_num_threads_wish_met(void)
{
    const char *text = getenv("VITPOOL_NUM_THREADS");
    return text == NULL || *text == '\0' || own_wish() > 0;
}

size_t vp_usable_cpus(void)
{
    size_t n = vp_cores_allowed();
#if defined(__linux__)
    const size_t quota = vp_cgroup_cores("");
    n = quota < n ? quota : n;
#endif
    return n;
}

size_t vp_default_num_threads(void)
{
    size_t n = own_wish();
    if (n == 0) {
        n = omp_wish();
    }
    return n > 0 ? n : vp_usable_cpus();
}
