/* What the core wants of an operating system: locks, threads, a clock, memory. os_posix.c asks
 * POSIX for it, os_windows.c Windows; no other file of the core does, but for what one system
 * alone has (cgroups, AMX's permission, huge pages). SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_OS_H
#define VP_BASE_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
/* As large as what windows.h calls SRWLOCK, CONDITION_VARIABLE and INIT_ONCE, and like these
 * ready when they are nought. */
typedef struct {
    void *is;
} vp_mutex, vp_condition, vp_once;
#define VP_MUTEX_INIT {0}
#define VP_CONDITION_INIT {0}
#define VP_ONCE_INIT {0}
#else
#include <pthread.h>
typedef pthread_mutex_t vp_mutex;
typedef pthread_cond_t vp_condition;
typedef pthread_once_t vp_once;
#define VP_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define VP_CONDITION_INIT PTHREAD_COND_INITIALIZER
#define VP_ONCE_INIT PTHREAD_ONCE_INIT
#endif

void vp_mutex_lock(vp_mutex *mutex);
void vp_mutex_unlock(vp_mutex *mutex);

/* Waits, as one does, in a loop and under the lock, which it gives up meanwhile. */
void vp_condition_wait(vp_condition *condition, vp_mutex *mutex);
void vp_condition_wake_all(vp_condition *condition);

/* Runs `init` the first time; whoever comes meanwhile waits for it. */
void vp_run_once(vp_once *once, void (*init)(void));

/* Starts a thread that nobody joins, and that takes no signal sent to the process; false: there
 * is none to be had. */
bool vp_thread_start(void *(*run)(void *), void *argument);

/* Lets another thread have this core. */
void vp_thread_yield(void);

/* What runs around a fork(), where there is one; after it `child` has locks as new. */
void vp_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void));
void vp_mutex_renew(vp_mutex *mutex);
void vp_condition_renew(vp_condition *condition);

/* Nanoseconds of a clock that nobody sets. */
uint64_t vp_now_ns(void);

/* Cores that this process may run on: those there are, within its affinity. At least 1. */
size_t vp_cores_allowed(void);

/* Memory aligned to a power of two, 8 at least; NULL if there is none. NULL may be freed. */
void *vp_aligned_alloc(size_t align, size_t bytes);
void vp_aligned_free(void *p);

#endif
