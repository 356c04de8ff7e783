/* How many threads this process may sensibly use. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/threads_default.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static size_t quota_to_cores(double quota, double period)
{
    if (quota <= 0 || period <= 0) {
        return SIZE_MAX;
    }
    const double cores = quota / period;
    const size_t whole = (size_t)cores;
    return cores > (double)whole ? whole + 1 : whole > 0 ? whole : 1;
}

/* One cgroup folder's quota in cores; SIZE_MAX where it has none. */
static size_t folder_quota(const char *root, const char *path)
{
    char name[PATH_MAX];
    double quota = 0, period = 0;
    if (snprintf(name, sizeof name, "%s%s/cpu.max", root, path) >= (int)sizeof name) {
        return SIZE_MAX;
    }
    FILE *file = fopen(name, "r");
    if (file != NULL) { /* version 2: "max 100000" or "150000 100000" */
        const int got = fscanf(file, "%lf %lf", &quota, &period);
        fclose(file);
        return got == 2 ? quota_to_cores(quota, period) : SIZE_MAX;
    }
    (void)snprintf(name, sizeof name, "%s%s/cpu.cfs_quota_us", root, path);
    file = fopen(name, "r");
    if (file == NULL) {
        return SIZE_MAX;
    }
    int got = fscanf(file, "%lf", &quota);
    fclose(file);
    (void)snprintf(name, sizeof name, "%s%s/cpu.cfs_period_us", root, path);
    file = fopen(name, "r");
    if (got != 1 || file == NULL) {
        if (file != NULL) {
            fclose(file);
        }
        return SIZE_MAX;
    }
    got = fscanf(file, "%lf", &period);
    fclose(file);
    return got == 1 ? quota_to_cores(quota, period) : SIZE_MAX;
}

/* The least quota from this process's cgroup up to the root. */
static size_t cgroup_quota(void)
{
    size_t least = SIZE_MAX;
    FILE *file = fopen("/proc/self/cgroup", "r");
    if (file == NULL) {
        return least;
    }
    char line[PATH_MAX];
    while (fgets(line, sizeof line, file) != NULL) {
        /* "0::/path" (version 2) or "4:cpu,cpuacct:/path" (version 1) */
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        controllers++;
        const int v2 = *controllers == '\0';
        if (!v2 && strstr(controllers, "cpu") == NULL) {
            continue;
        }
        const char *root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        for (;;) {
            const size_t quota = folder_quota(root, strcmp(path, "/") == 0 ? "" : path);
            least = quota < least ? quota : least;
            char *slash = strrchr(path, '/');
            if (slash == NULL) {
                break;
            }
            *slash = '\0';
        }
    }
    fclose(file);
    return least;
}

size_t vp_default_num_threads(void)
{
    size_t n = from_environment("VITPOOL_NUM_THREADS");
    if (n == 0) {
        n = from_environment("OMP_NUM_THREADS");
    }
    if (n > 0) {
        return n;
    }
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    n = online > 0 ? (size_t)online : 1;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        const size_t allowed = (size_t)CPU_COUNT(&set);
        n = allowed < n ? allowed : n;
    }
    const size_t quota = cgroup_quota();
    n = quota < n ? quota : n;
#endif
    return n;
}
