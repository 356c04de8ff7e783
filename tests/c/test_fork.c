/* fork() while other threads compute: parent and child go on.
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/parallel.h"
#include "check.h"

static atomic_bool stop;
static atomic_int running;

static void count(void *ctx, size_t item, size_t worker)
{
    (void)item, (void)worker;
    atomic_fetch_add((atomic_size_t *)ctx, 1);
}

/* One pass of `items` items; is the sum right? */
static bool works(size_t items)
{
    vp_team team;
    atomic_size_t done = 0;
    (void)vp_team_open(&team);
    vp_parallel_for(&team, items, count, &done);
    vp_global_lock(); /* a child must not find it taken */
    vp_global_unlock();
    vp_team_close(&team);
    return done == items;
}

static void note_other(void *ctx, size_t item, size_t worker)
{
    (void)item;
    if (worker > 0) {
        atomic_store((atomic_bool *)ctx, true);
    }
    (void)usleep(100);
}

/* Does another thread ever help? */
static bool has_help(void)
{
    atomic_bool helped = false;
    for (int i = 0; i < 200 && !helped; i++) {
        vp_team team;
        (void)vp_team_open(&team);
        vp_parallel_for(&team, 20, note_other, &helped);
        vp_team_close(&team);
    }
    return helped;
}

/* Keeps the lock most of the time. */
static void *hold(void *argument)
{
    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&stop)) {
        vp_global_lock();
        (void)usleep(300);
        vp_global_unlock();
        (void)usleep(20);
    }
    return NULL;
}

static void *compute(void *argument)
{
    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&stop)) {
        CHECK(works(50), "an item was lost");
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[3];
    vp_set_num_threads(3);
    CHECK(works(100), "before the first fork");
    CHECK(has_help(), "before the first fork");
    for (int i = 0; i < 3; i++) {
        (void)pthread_create(&threads[i], NULL, i < 2 ? compute : hold, NULL);
    }
    /* AddressSanitizer holds a lock of its own while a thread starts: a child forked at that
     * moment could never start one. */
    while (atomic_load(&running) < 3) {
        (void)usleep(100);
    }
    for (int i = 0; i < 60 && check_failures == 0; i++) {
        const pid_t child = fork();
        if (child == 0) {
            (void)alarm(20); /* a deadlock is a failure */
            bool ok = works(200) && works(3) && has_help();
            if (i % 10 == 0) { /* and its own child, from a process with threads */
                const pid_t grandchild = fork();
                if (grandchild == 0) {
                    _exit(works(100) ? 0 : 1);
                }
                int status = 1;
                (void)waitpid(grandchild, &status, 0);
                ok = ok && status == 0;
            }
            _exit(ok ? 0 : 1);
        }
        int status = 1;
        (void)waitpid(child, &status, 0);
        CHECK(status == 0, "child %d: status %d", i, status);
        CHECK(works(100), "the parent after fork %d", i);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    return check_done();
}
