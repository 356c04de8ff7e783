/* How many threads the process takes by default. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#if !defined(_WIN32)
#include <sched.h>
#include <unistd.h>
#endif

#include "base/os.h"
#include "base/threads_default.h"
#include "check.h"

/* NULL: not set. */
static void set(const char *name, const char *value)
{
#if defined(_WIN32) /* where an empty one is none */
    (void)_putenv_s(name, value != NULL ? value : "");
#else
    (void)(value != NULL ? setenv(name, value, 1) : unsetenv(name));
#endif
}

/* The default with these two variables; NULL: not set. */
static size_t with(const char *vitpool, const char *omp)
{
    set("VITPOOL_NUM_THREADS", vitpool);
    set("OMP_NUM_THREADS", omp);
    return vp_default_num_threads();
}

int main(void)
{
    const size_t machine = with(NULL, NULL);
#if defined(_WIN32)
    const size_t cores = vp_cores_allowed();
#else
    const size_t cores = (size_t)sysconf(_SC_NPROCESSORS_ONLN);
#endif
    CHECK(machine >= 1 && machine <= cores, "%zu threads on %zu cores", machine, cores);
    CHECK(with("3", NULL) == 3, "VITPOOL_NUM_THREADS");
    CHECK(with(NULL, "5") == 5, "OMP_NUM_THREADS");
    CHECK(with(NULL, "6,2") == 6, "a list");
    CHECK(with("3", "5") == 3, "ours goes before OMP's");
    CHECK(with("256", NULL) == 256 && vp_num_threads_wish_met(), "the most");
    CHECK(with("", NULL) == machine && vp_num_threads_wish_met(), "empty: not set");
    CHECK(with(NULL, "many") == machine && vp_num_threads_wish_met(), "OMP's own");
    static const char *const nonsense[] = {
        "0", "-1", "four", "4x", "1e3", "99999999999999999999999", "0x10", "3.5", " ",
    };
    static const char *const refused[] = {"257", "4,2", "2 ", " 2", "+2"};
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        CHECK(with(nonsense[i], NULL) == machine, "'%s' was taken", nonsense[i]);
        CHECK(!vp_num_threads_wish_met(), "'%s' is not refused", nonsense[i]);
        CHECK(with(nonsense[i], "2") == 2, "'%s' hid OMP_NUM_THREADS", nonsense[i]);
        CHECK(with(NULL, nonsense[i]) == machine, "OMP's '%s' was taken", nonsense[i]);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        CHECK(with(refused[i], NULL) == machine, "'%s' was taken", refused[i]);
        CHECK(!vp_num_threads_wish_met(), "'%s' is not refused", refused[i]);
    }
#if defined(__linux__)
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) == 0) {
        size_t cpu = 0;
        while (!CPU_ISSET(cpu, &all)) {
            cpu++;
        }
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0, "sched_setaffinity");
        CHECK(with(NULL, NULL) == 1, "affinity is not honoured");
    }
#endif
    return check_done();
}
