/* The CPU quota of this process's cgroup. SPDX-License-Identifier: Apache-2.0 */
#if !defined(_WIN32) /* which has neither cgroups nor getline */
#define _GNU_SOURCE
#include "base/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t quota_to_cores(long long quota, long long period)
{
    return quota > 0 && period > 0 ? (size_t)((quota - 1) / period) + 1 : SIZE_MAX;
}

/* Up to two numbers from the start of a file; returns how many there are. */
static int read_numbers(const char *folder, const char *name, long long numbers[2])
{
    char path[PATH_MAX];
    const int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = length < (int)sizeof path ? fopen(path, "r") : NULL;
    if (file == NULL) {
        return 0;
    }
    const int count = fscanf(file, "%lld %lld", &numbers[0], &numbers[1]);
    fclose(file);
    return count;
}

/* One folder's quota in cores; SIZE_MAX where it has none. */
static size_t folder_cores(const char *folder)
{
    long long max[2], quota[2], period[2];
    if (read_numbers(folder, "cpu.max", max) == 2) { /* version 2; or "max 100000" */
        return quota_to_cores(max[0], max[1]);
    }
    if (read_numbers(folder, "cpu.cfs_quota_us", quota) > 0 && /* version 1; or -1 */
        read_numbers(folder, "cpu.cfs_period_us", period) > 0) {
        return quota_to_cores(quota[0], period[0]);
    }
    return SIZE_MAX;
}

/* Is `word` one of the words of `list`, which have commas between them? */
static bool lists(const char *list, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || !at[length])) {
            return true;
        }
    }
    return false;
}

static FILE *open_proc(const char *root, const char *name)
{
    char path[PATH_MAX];
    const int length = snprintf(path, sizeof path, "%s/proc/self/%s", root, name);
    return length < (int)sizeof path ? fopen(path, "r") : NULL;
}

/* This process's folder in version 2's hierarchy, or in the one of version 1 that has the
 * cpu controller, from lines like "0::/path" and "4:cpu,cpuacct:/path". */
static bool find_cgroup(const char *root, bool v2, char path[PATH_MAX])
{
    FILE *file = open_proc(root, "cgroup");
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    while (file != NULL && !found && getline(&line, &room, file) > 0) {
        char *controllers = strchr(line, ':');
        char *folder = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (folder != NULL) {
            *folder++ = '\0';
            controllers++;
            folder[strcspn(folder, "\n")] = '\0';
            found = (v2 ? *controllers == '\0' : lists(controllers, "cpu")) &&
                    snprintf(path, PATH_MAX, "%s", folder) < PATH_MAX;
        }
    }
    free(line);
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* A line of mountinfo: "36 35 98:0 ROOT POINT options ... - TYPE source SUPER". */
typedef struct {
    const char *root, *point, *type, *super;
} mount;

static bool read_mount(char *line, mount *m)
{
    const char *fields[6];
    char *rest = NULL, *field = strtok_r(line, " \n", &rest);
    int count = 0;
    while (field != NULL && (count < 6 || strcmp(field, "-") != 0)) {
        if (count < 6) {
            fields[count] = field;
        }
        count++;
        field = strtok_r(NULL, " \n", &rest);
    }
    m->type = strtok_r(NULL, " \n", &rest);
    m->super =
        strtok_r(NULL, " \n", &rest) != NULL ? strtok_r(NULL, " \n", &rest) : NULL;
    if (field == NULL || m->super == NULL) {
        return false;
    }
    m->root = fields[3];
    m->point = fields[4];
    return true;
}

/* The least quota from this process's folder up to where the hierarchy is mounted. A mount
 * of another part of the hierarchy (its root is not above the folder), and a folder outside
 * of this process's namespace ("/../other"), say nothing. */
static size_t mount_cores(const char *root, const mount *m, const char *cgroup)
{
    const size_t above = strcmp(m->root, "/") == 0 ? 0 : strlen(m->root);
    const char *inside = strcmp(cgroup, "/") == 0 ? "" : cgroup;
    char folder[PATH_MAX];
    if (strncmp(inside, m->root, above) != 0 ||
        (inside[above] != '/' && inside[above] != '\0') || strstr(inside, "/..") ||
        snprintf(folder, sizeof folder, "%s%s%s", root, m->point, inside + above) >=
            (int)sizeof folder) {
        return SIZE_MAX;
    }
    const size_t top = strlen(root) + strlen(m->point);
    size_t least = folder_cores(folder);
    while (strlen(folder) > top) {
        *strrchr(folder, '/') = '\0';
        const size_t cores = folder_cores(folder);
        least = cores < least ? cores : least;
    }
    return least;
}

size_t vp_cgroup_cores(const char *root)
{
    size_t least = SIZE_MAX, room = 0;
    FILE *file = open_proc(root, "mountinfo");
    char *line = NULL, cgroup[PATH_MAX];
    while (file != NULL && getline(&line, &room, file) > 0) {
        mount m;
        if (!read_mount(line, &m)) {
            continue;
        }
        const bool v2 = strcmp(m.type, "cgroup2") == 0;
        const bool v1 = strcmp(m.type, "cgroup") == 0 && lists(m.super, "cpu");
        if ((v2 || v1) && find_cgroup(root, v2, cgroup)) {
            const size_t cores = mount_cores(root, &m, cgroup);
            least = cores < least ? cores : least;
        }
    }
    free(line);
    if (file != NULL) {
        fclose(file);
    }
    return least;
}
#endif
