/* The process's threads. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "base/threads_default.h"

#if defined(__x86_64__) || defined(__i386__)
#define cpu_relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define cpu_relax() __asm__ __volatile__("yield")
#else
#define cpu_relax() ((void)0)
#endif

/* How long an idle worker spins after a team closed: longer than the gap between two
 * calls in a loop, shorter than anybody notices on a battery. */
#define SPIN_NS 200000
/* A spinning thread looks at the clock, and offers its core, every so many turns. */
#define SPIN_TURNS 256

/* A ticket is (loop number << 36 | items taken from the back << 18 | from the front).
 * CLOSED as the counts means that the loop's fields are being written, so a late worker can
 * never take an item of a loop whose task it has not read. */
#define COUNT_BITS 18
#define LOOP_BITS (2 * COUNT_BITS)
#define CLOSED (((uint64_t)1 << LOOP_BITS) - 1)
#define MOST_ITEMS (((size_t)1 << COUNT_BITS) - 2)

static struct {
    pthread_mutex_t lock; /* sleeping and thread creation */
    pthread_cond_t wake;
    size_t threads;  /* workers alive, besides the callers (under lock) */
    size_t sleeping; /* of those (under lock) */

    atomic_bool held;      /* a caller owns the threads */
    atomic_bool open;      /* ... and is inside a forward pass */
    atomic_size_t callers; /* forward passes under way, owner or alone */
    atomic_size_t limit;   /* num_threads; 0: not yet decided */

    atomic_uint_fast64_t ticket;
    _Atomic(vp_task) task;
    _Atomic(void *) ctx;
    atomic_size_t items;
    atomic_size_t team_size; /* workers of this team, the owner included */
    atomic_size_t done;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static pthread_mutex_t global = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_handlers = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    pthread_mutex_lock(&global);
    pthread_mutex_lock(&pool.lock);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&global);
}

/* The child has only the thread that forked: no workers, no forward pass under way. */
static void after_fork_child(void)
{
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.threads = pool.sleeping = 0;
    atomic_store(&pool.held, false);
    atomic_store(&pool.open, false);
    atomic_store(&pool.callers, 0);
    atomic_store(&pool.ticket, CLOSED);
    pthread_mutex_unlock(&global);
}

static void install_fork_handlers(void)
{
    atomic_store(&pool.ticket, CLOSED);
    (void)pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void vp_global_lock(void)
{
    pthread_once(&fork_handlers, install_fork_handlers);
    pthread_mutex_lock(&global);
}

void vp_global_unlock(void)
{
    pthread_mutex_unlock(&global);
}

void vp_set_num_threads(size_t n)
{
    atomic_store(&pool.limit, n < 1 ? 1 : n > VP_MAX_THREADS ? VP_MAX_THREADS : n);
}

size_t vp_get_num_threads(void)
{
    if (atomic_load(&pool.limit) == 0) {
        vp_set_num_threads(vp_default_num_threads());
    }
    return atomic_load(&pool.limit);
}

/* May worker `index` (1, 2, ...) run now? Each caller beyond the owner takes its place. */
static bool wanted(size_t index)
{
    return atomic_load_explicit(&pool.open, memory_order_acquire) &&
           index + atomic_load_explicit(&pool.callers, memory_order_relaxed) <=
               atomic_load_explicit(&pool.team_size, memory_order_relaxed);
}

static bool is_closed(uint64_t ticket)
{
    return (ticket & CLOSED) == CLOSED;
}

/* Takes items of the loop `ticket` belongs to until none is left. */
static void take_items(uint64_t ticket, size_t worker)
{
    const uint64_t loop = ticket >> LOOP_BITS;
    const bool from_back = worker % 2 != 0;
    /* Acquire: who sees a field of the next loop sees that loop's ticket too. */
    const vp_task task = atomic_load_explicit(&pool.task, memory_order_acquire);
    void *ctx = atomic_load_explicit(&pool.ctx, memory_order_acquire);
    const size_t items = atomic_load_explicit(&pool.items, memory_order_acquire);
    for (;;) {
        const size_t front = ticket & (CLOSED >> COUNT_BITS);
        const size_t back = (ticket & CLOSED) >> COUNT_BITS;
        if (ticket >> LOOP_BITS != loop || front + back >= items) {
            return;
        }
        const uint64_t taken = ticket + ((uint64_t)1 << (from_back ? COUNT_BITS : 0));
        /* Succeeds only while this loop is still the current one, so the fields read
         * above are this loop's. */
        if (atomic_compare_exchange_weak_explicit(&pool.ticket, &ticket, taken,
                                                  memory_order_acq_rel,
                                                  memory_order_acquire)) {
            task(ctx, from_back ? items - 1 - back : front, worker);
            atomic_fetch_add_explicit(&pool.done, 1, memory_order_release);
            ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
        }
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *worker_main(void *argument)
{
    const size_t index = (size_t)(uintptr_t)argument;
    uint64_t seen = CLOSED;
    for (;;) {
        /* pass 1: spin for the next loop, for a while */
        const uint64_t start = now_ns();
        uint64_t ticket = seen;
        for (unsigned turn = 1;; turn++) {
            ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
            if (ticket >> LOOP_BITS != seen >> LOOP_BITS && !is_closed(ticket) &&
                wanted(index)) {
                break;
            }
            cpu_relax();
            if (turn % SPIN_TURNS == 0 && !wanted(index) &&
                now_ns() - start > SPIN_NS) {
                /* pass 2: sleep until a team opens that has a place for this worker */
                pthread_mutex_lock(&pool.lock);
                pool.sleeping++;
                while (!wanted(index)) {
                    pthread_cond_wait(&pool.wake, &pool.lock);
                }
                pool.sleeping--;
                pthread_mutex_unlock(&pool.lock);
            }
        }
        seen = ticket;
        take_items(ticket, index);
    }
    return NULL;
}

/* The signals that workers block. What is sent to the process is for the interpreter's
 * threads: its handlers run there, and a sleeping one has to be woken; a profiler's SIGPROF
 * is no exception. What a thread brings upon itself must reach it: where that is blocked
 * the kernel ends the process at once, past the handler that would print a traceback. */
static sigset_t blocked_in_workers(void)
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

/* Starts workers up to `count`; fewer where the system has no more threads. */
static size_t start_workers(size_t count)
{
    pthread_mutex_lock(&pool.lock);
    if (pool.threads < count) {
        const sigset_t blocked = blocked_in_workers();
        sigset_t old;
        pthread_sigmask(SIG_SETMASK, &blocked, &old); /* a new thread inherits it */
        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        while (pool.threads < count) {
            pthread_t thread;
            void *index = (void *)(uintptr_t)(pool.threads + 1);
            if (pthread_create(&thread, &attr, worker_main, index) != 0) {
                break;
            }
            pool.threads++;
        }
        pthread_attr_destroy(&attr);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    const size_t have = pool.threads < count ? pool.threads : count;
    pthread_mutex_unlock(&pool.lock);
    return have;
}

static void wake_workers(void)
{
    pthread_mutex_lock(&pool.lock);
    if (pool.sleeping > 0) {
        pthread_cond_broadcast(&pool.wake);
    }
    pthread_mutex_unlock(&pool.lock);
}

size_t vp_team_open(vp_team *team)
{
    pthread_once(&fork_handlers, install_fork_handlers);
    const size_t limit = vp_get_num_threads();
    atomic_fetch_add(&pool.callers, 1);
    team->owner = limit > 1 && !atomic_exchange(&pool.held, true);
    team->workers = 1;
    if (team->owner) {
        team->workers += start_workers(limit - 1);
        atomic_store(&pool.team_size, team->workers);
        atomic_store(&pool.open, true);
        wake_workers();
    }
    return team->workers;
}

void vp_team_close(vp_team *team)
{
    atomic_fetch_sub(&pool.callers, 1);
    if (team->owner) {
        atomic_store(&pool.open, false);
        atomic_store(&pool.held, false);
    } else if (atomic_load(&pool.open)) {
        wake_workers(); /* this caller's core is free again */
    }
    team->owner = false;
}

size_t vp_parallel_next(const vp_team *team, size_t items, size_t item, size_t worker)
{
    const size_t from_front = (team->workers + 1) / 2, from_back = team->workers / 2;
    if (worker % 2 != 0) {
        return item >= from_back ? item - from_back : items;
    }
    return items - item > from_front ? item + from_front : items;
}

void vp_parallel_for(vp_team *team, size_t items, vp_task task, void *ctx)
{
    if (!team->owner || team->workers == 1 || items <= 1 || items > MOST_ITEMS) {
        for (size_t i = 0; i < items; i++) {
            task(ctx, i, 0);
        }
        return;
    }
    const uint64_t loop = (atomic_load(&pool.ticket) >> LOOP_BITS) + 1;
    const uint64_t ticket = loop << LOOP_BITS;
    atomic_store_explicit(&pool.ticket, ticket | CLOSED, memory_order_seq_cst);
    atomic_store_explicit(&pool.task, task, memory_order_release);
    atomic_store_explicit(&pool.ctx, ctx, memory_order_release);
    atomic_store_explicit(&pool.items, items, memory_order_release);
    atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.ticket, ticket, memory_order_release);
    take_items(ticket, 0);
    for (unsigned turn = 1;
         atomic_load_explicit(&pool.done, memory_order_acquire) < items; turn++) {
        cpu_relax();
        if (turn % (SPIN_TURNS * 16) == 0) {
            sched_yield(); /* the worker may be waiting for this very core */
        }
    }
}
