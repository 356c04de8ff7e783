/* What the core wants of an operating system, by POSIX. SPDX-License-Identifier: Apache-2.0 */
#if !defined(_WIN32)
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"

void vp_mutex_lock(vp_mutex *mutex)
{
    pthread_mutex_lock(mutex);
}

void vp_mutex_unlock(vp_mutex *mutex)
{
    pthread_mutex_unlock(mutex);
}

void vp_condition_wait(vp_condition *condition, vp_mutex *mutex)
{
    pthread_cond_wait(condition, mutex);
}

void vp_condition_wake_all(vp_condition *condition)
{
    pthread_cond_broadcast(condition);
}

void vp_run_once(vp_once *once, void (*init)(void))
{
    pthread_once(once, init);
}

/* The signals that our threads block. What is sent to the process is for the interpreter's
 * threads: its handlers run there, and a sleeping one has to be woken; a profiler's SIGPROF
 * is no exception. What a thread brings upon itself must reach it: where that is blocked
 * the kernel ends the process at once, past the handler that would print a traceback. */
static sigset_t blocked_in_threads(void)
{
    static const int own[] = {SIGSEGV, SIGBUS,  SIGFPE, SIGILL,
                              SIGABRT, SIGTRAP, SIGSYS};
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        sigdelset(&set, own[i]);
    }
    return set;
}

/* Of a thread of ours. musl's default is 128 KiB, macOS' 512 KiB, glibc's what `ulimit -s`
 * says; ours is the same everywhere, and what is tested in one place holds in all. */
enum { STACK_BYTES = 2 << 20 };

bool vp_thread_start(void *(*run)(void *), void *argument)
{
    const sigset_t blocked = blocked_in_threads();
    sigset_t old;
    pthread_sigmask(SIG_SETMASK, &blocked, &old); /* a new thread inherits it */
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_t thread;
    const bool started = pthread_create(&thread, &attr, run, argument) == 0;
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return started;
}

void vp_thread_yield(void)
{
    sched_yield();
}

void vp_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void))
{
    (void)pthread_atfork(before, parent, child);
}

void vp_mutex_renew(vp_mutex *mutex)
{
    pthread_mutex_init(mutex, NULL);
}

void vp_condition_renew(vp_condition *condition)
{
    pthread_cond_init(condition, NULL);
}

uint64_t vp_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

size_t vp_cores_allowed(void)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = online > 0 ? (size_t)online : 1;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        const size_t allowed = (size_t)CPU_COUNT(&set);
        n = allowed < n ? allowed : n;
    }
#endif
    return n;
}

void *vp_aligned_alloc(size_t align, size_t bytes)
{
    void *p = NULL;
    return posix_memalign(&p, align, bytes) == 0 ? p : NULL;
}

void vp_aligned_free(void *p)
{
    free(p);
}
#endif
