/* How many threads this process may sensibly use. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/threads_default.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cgroup.h"

/* The positive integer that environment variable `name` starts with (OMP_NUM_THREADS may
 * be a list); 0 where there is none. */
static size_t from_environment(const char *name)
{
    const char *text = getenv(name);
    if (text == NULL) {
        return 0;
    }
    char *end = NULL;
    errno = 0;
    const long n = strtol(text, &end, 10);
    const int whole = end != text && (*end == '\0' || *end == ',');
    return whole && errno == 0 && n > 0 ? (size_t)n : 0;
}

size_t vp_usable_cpus(void)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = online > 0 ? (size_t)online : 1;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        const size_t allowed = (size_t)CPU_COUNT(&set);
        n = allowed < n ? allowed : n;
    }
    const size_t quota = vp_cgroup_cores("");
    n = quota < n ? quota : n;
#endif
    return n;
}

size_t vp_default_num_threads(void)
{
    size_t n = from_environment("VITPOOL_NUM_THREADS");
    if (n == 0) {
        n = from_environment("OMP_NUM_THREADS");
    }
    return n > 0 ? n : vp_usable_cpus();
}
