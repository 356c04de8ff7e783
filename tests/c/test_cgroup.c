/* A cgroup's CPU quota, from a made-up /proc and /sys.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <ftw.h>
#include <sys/stat.h>

#include "base/cgroup.h"
#include "check.h"

static char root[] = "/tmp/vitpool-XXXXXX";

/* Writes a file below root, and the folders above it. */
static void put(const char *path, const char *text)
{
    char name[4096];
    (void)snprintf(name, sizeof name, "%s%s", root, path);
    for (char *slash = name + sizeof root; (slash = strchr(slash, '/')) != NULL;) {
        *slash = '\0';
        (void)mkdir(name, 0700);
        *slash++ = '/';
    }
    FILE *file = fopen(name, "w");
    CHECK(file != NULL && fputs(text, file) >= 0, "cannot write %s", name);
    if (file != NULL) {
        (void)fclose(file);
    }
}

static int remove_one(const char *path, const struct stat *info, int flag,
                      struct FTW *walk)
{
    (void)info, (void)flag, (void)walk;
    return remove(path);
}

static void clear(void)
{
    (void)nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    (void)mkdir(root, 0700);
}

#define NONE SIZE_MAX
#define V2 \
    "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1(controllers)                        \
    "30 29 0:27 / /sys/fs/cgroup/" controllers \
    " rw shared:9 - cgroup cgroup rw," controllers "\n"

static void a_quota_is_rounded_up(void)
{
    static const struct {
        const char *max;
        size_t cores;
    } table[] = {
        {"150000 100000\n", 2}, {"100000 100000\n", 1},
        {"99999 100000\n", 1},  {"1000 100000\n", 1},
        {"200001 100000\n", 3}, {"3200000 100000\n", 32},
        {"75000 50000\n", 2},   {"max 100000\n", NONE},
        {"max\n", NONE},        {"", NONE},
        {"0 100000\n", NONE},   {"100000 0\n", NONE},
        {"100000\n", NONE},     {"-1 100000\n", NONE},
        {"words\n", NONE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        clear();
        put("/proc/self/cgroup", "0::/\n");
        put("/proc/self/mountinfo", V2);
        put("/sys/fs/cgroup/cpu.max", table[i].max);
        const size_t got = vp_cgroup_cores(root);
        CHECK(got == table[i].cores, "'%s' gives %zu", table[i].max, got);
    }
    clear();
    put("/proc/self/cgroup", "3:cpu,cpuacct:/\n");
    put("/proc/self/mountinfo", V1("cpu,cpuacct"));
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
    CHECK(vp_cgroup_cores(root) == NONE, "a quota without a period");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    CHECK(vp_cgroup_cores(root) == 2, "version 1, rounded");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    CHECK(vp_cgroup_cores(root) == NONE, "version 1, none");
}

static void the_least_of_the_folders_above_counts(void)
{
    clear();
    CHECK(vp_cgroup_cores(root) == NONE, "neither /proc nor /sys");
    put("/proc/self/cgroup", "0::/a/b/c\n");
    CHECK(vp_cgroup_cores(root) == NONE, "no mounts");
    put("/proc/self/mountinfo", V2);
    CHECK(vp_cgroup_cores(root) == NONE, "no folders");
    put("/sys/fs/cgroup/a/b/c/cpu.max", "500000 100000\n");
    CHECK(vp_cgroup_cores(root) == 5, "its own");
    put("/sys/fs/cgroup/a/cpu.max", "300000 100000\n");
    CHECK(vp_cgroup_cores(root) == 3, "one above, over one that has none");
    put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(vp_cgroup_cores(root) == 3, "one above, over one without a limit");
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    CHECK(vp_cgroup_cores(root) == 2, "the topmost");
    put("/sys/fs/cgroup/a/b/c/cpu.max", "100000 100000\n");
    CHECK(vp_cgroup_cores(root) == 1, "its own again");
    put("/sys/fs/cgroup/a/b/c/d/cpu.max", "1 100000\n");
    put("/sys/fs/cgroup/x/cpu.max", "1 100000\n");
    put("/sys/fs/cpu.max", "1 100000\n");
    put("/sys/fs/cgroup/a/b/c/cpu.max", "400000 100000\n");
    CHECK(vp_cgroup_cores(root) == 2, "folders that are not above it");
}

static void only_the_cpu_controller_counts(void)
{
    clear();
    put("/proc/self/cgroup", "9:cpuset:/set\n8:cpuacct:/acct\n7:name=cpu:/name\n"
                             "6:memory,cpu,hugetlb:/mine\n5:cpu2:/two\n0::/unified\n");
    put("/proc/self/mountinfo", V1("cpuset") V1("cpuacct") V1("memory,cpu,hugetlb"));
    static const char *const folders[] = {
        "cpuset/set",
        "cpuacct/acct",
        "cpuset/mine",
        "cpuacct/mine",
        "memory,cpu,hugetlb/set",
        "memory,cpu,hugetlb/acct",
        "memory,cpu,hugetlb/name",
        "memory,cpu,hugetlb/two",
    };
    char path[256];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        (void)snprintf(path, sizeof path, "/sys/fs/cgroup/%s/cpu.cfs_quota_us",
                       folders[i]);
        put(path, "100000\n");
        (void)snprintf(path, sizeof path, "/sys/fs/cgroup/%s/cpu.cfs_period_us",
                       folders[i]);
        put(path, "100000\n");
    }
    CHECK(vp_cgroup_cores(root) == NONE, "another controller's quota was taken");
    put("/sys/fs/cgroup/memory,cpu,hugetlb/mine/cpu.cfs_quota_us", "700000\n");
    put("/sys/fs/cgroup/memory,cpu,hugetlb/mine/cpu.cfs_period_us", "100000\n");
    CHECK(vp_cgroup_cores(root) == 7, "the cpu controller's");
    /* Both versions at once, as systemd's hybrid layout has them. */
    put("/proc/self/mountinfo",
        V1("memory,cpu,hugetlb") "31 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 "
                                 "cgroup2 rw\n");
    CHECK(vp_cgroup_cores(root) == 7, "version 2 without the controller");
    put("/sys/fs/cgroup/unified/unified/cpu.max", "600000 100000\n");
    CHECK(vp_cgroup_cores(root) == 6, "version 2 beside version 1");
}

/* How /proc/self/cgroup and a mount's root look to a container. */
static void containers_find_their_own_folder(void)
{
    static const struct {
        const char *what, *cgroup, *mount_root;
        size_t cores; /* cpu.max: of the mount 4, /sub 3, /docker 2, /docker/1/sub 1 */
    } table[] = {
        {"a namespace of its own", "/", "/", 4},
        {"a folder in it", "/sub", "/", 3},
        {"no namespace", "/docker/1", "/docker/1", 4},
        {"a folder there", "/docker/1/sub", "/docker/1", 3},
        {"the host", "/docker/1/sub", "/", 1},
        {"a mount of another part", "/docker/1", "/docker/2", NONE},
        {"a name that starts like it", "/docker/12", "/docker/1", NONE},
        {"a mount below", "/docker", "/docker/1", NONE},
        {"a mount from outside", "/", "/../..", NONE},
        {"a folder outside", "/../sub", "/", NONE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[256];
        clear();
        put("/mnt/cg/cpu.max", "400000 100000\n");
        put("/mnt/cg/sub/cpu.max", "300000 100000\n");
        put("/mnt/sub/cpu.max", "100000 100000\n");
        put("/mnt/cg/docker/cpu.max", "200000 100000\n");
        put("/mnt/cg/docker/1/sub/cpu.max", "100000 100000\n");
        (void)snprintf(text, sizeof text, "0::%s\n", table[i].cgroup);
        put("/proc/self/cgroup", text);
        (void)snprintf(text, sizeof text,
                       "29 23 0:26 %s /mnt/cg rw - cgroup2 cgroup2 rw\n",
                       table[i].mount_root);
        put("/proc/self/mountinfo", text);
        const size_t got = vp_cgroup_cores(root);
        CHECK(got == table[i].cores, "%s: %zu", table[i].what, got);
    }
}

static void odd_lines_are_passed_over(void)
{
    static char text[20000];
    clear();
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    put("/proc/self/cgroup", "\n:\n::\nwords\n1:cpu\n0::/\n");
    /* an overlay's line is longer than any path */
    const int start = snprintf(text, sizeof text,
                               "\n-\n1 2 - - - - -\n25 1 0:9 / / rw - "
                               "overlay overlay rw,lowerdir=");
    memset(text + start, 'x', 15000);
    (void)snprintf(text + start + 15000, 4000, "\n%s29 23 0:26 / - cgroup2", V2);
    put("/proc/self/mountinfo", text);
    CHECK(vp_cgroup_cores(root) == 2, "%zu", vp_cgroup_cores(root));
}

int main(void)
{
    CHECK(mkdtemp(root) != NULL, "no temporary folder");
    a_quota_is_rounded_up();
    the_least_of_the_folders_above_counts();
    only_the_cpu_controller_counts();
    containers_find_their_own_folder();
    odd_lines_are_passed_over();
    clear();
    (void)rmdir(root);
    return check_done();
}
