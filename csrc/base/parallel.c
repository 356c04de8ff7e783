/* The process's threads. SPDX-License-Identifier: Apache-2.0 */
#include "base/parallel.h"

#include <stdatomic.h>
#include <stdint.h>

#include "base/os.h"
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

/* Each worker has a share of a loop's items, from which it takes the first and others, when
 * they have none left, the last. A share is (loop number << 32 | end << 16 | begin); one that
 * shows an earlier loop has not been touched in this one, and is whole. So nobody has to set
 * all shares before a loop begins. */
#define COUNT_BITS 16
#define LOOP_BITS (2 * COUNT_BITS)
#define COUNT_MASK (((uint64_t)1 << COUNT_BITS) - 1)
#define MOST_ITEMS ((size_t)COUNT_MASK)
/* The ticket of a loop is (loop number << 32), or with CLOSED while its fields are written:
 * who reads the same ticket before and after them has read that loop's. */
#define CLOSED (((uint64_t)1 << LOOP_BITS) - 1)

#define LINE 64 /* what several write lies in lines of its own */

static struct {
    vp_mutex lock; /* sleeping and thread creation */
    vp_condition wake;
    size_t threads;  /* workers alive, besides the callers (under lock) */
    size_t sleeping; /* of those (under lock) */

    atomic_bool held;        /* a caller owns the threads */
    atomic_bool open;        /* ... and is inside a forward pass */
    atomic_size_t callers;   /* forward passes under way, owner or alone */
    atomic_size_t limit;     /* num_threads; 0: not yet decided */
    atomic_size_t team_size; /* workers of this team, the owner included */

    /* the loop, written by the owner */
    _Alignas(LINE) atomic_uint_fast64_t ticket;
    _Atomic(vp_task) task;
    _Atomic(void *) ctx;
    atomic_size_t items, workers;

    _Alignas(LINE) atomic_size_t done;

    struct {
        _Alignas(LINE) atomic_uint_fast64_t items;
    } share[VP_MAX_THREADS];
} pool = {.lock = VP_MUTEX_INIT, .wake = VP_CONDITION_INIT};

static vp_mutex global = VP_MUTEX_INIT;
static vp_once fork_handlers = VP_ONCE_INIT;

static void before_fork(void)
{
    vp_mutex_lock(&global);
    vp_mutex_lock(&pool.lock);
}

static void after_fork_parent(void)
{
    vp_mutex_unlock(&pool.lock);
    vp_mutex_unlock(&global);
}

/* The child has only the thread that forked: no workers, no forward pass under way. */
static void after_fork_child(void)
{
    vp_mutex_renew(&pool.lock);
    vp_condition_renew(&pool.wake);
    pool.threads = pool.sleeping = 0;
    atomic_store(&pool.held, false);
    atomic_store(&pool.open, false);
    atomic_store(&pool.callers, 0);
    atomic_fetch_or(&pool.ticket, CLOSED); /* the shares go on counting loops */
    vp_mutex_unlock(&global);
}

static void install_fork_handlers(void)
{
    atomic_store(&pool.ticket, CLOSED);
    vp_at_fork(before_fork, after_fork_parent, after_fork_child);
}

void vp_global_lock(void)
{
    vp_run_once(&fork_handlers, install_fork_handlers);
    vp_mutex_lock(&global);
}

void vp_global_unlock(void)
{
    vp_mutex_unlock(&global);
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

/* A loop as a worker sees it. */
typedef struct {
    uint64_t ticket;
    vp_task task;
    void *ctx;
    size_t items, workers;
} loop;

/* The fields of the loop with this ticket; false: it has ended. */
static bool read_loop(uint64_t ticket, loop *l)
{
    l->ticket = ticket;
    l->task = atomic_load_explicit(&pool.task, memory_order_acquire);
    l->ctx = atomic_load_explicit(&pool.ctx, memory_order_acquire);
    l->items = atomic_load_explicit(&pool.items, memory_order_acquire);
    l->workers = atomic_load_explicit(&pool.workers, memory_order_acquire);
    return atomic_load_explicit(&pool.ticket, memory_order_relaxed) == ticket;
}

/* The first item of a worker's share. */
static size_t share_start(size_t items, size_t workers, size_t worker)
{
    return worker * items / workers;
}

/* Takes an item from a worker's share, the first or the last of what is left. It cannot be
 * one of a loop that has ended: by then that share, having had an item, shows this loop. */
static bool take_item(const loop *l, size_t worker, bool first, size_t *item)
{
    atomic_uint_fast64_t *share = &pool.share[worker].items;
    uint64_t was = atomic_load_explicit(share, memory_order_acquire);
    for (;;) {
        uint64_t left = was;
        const uint32_t age = (uint32_t)((l->ticket >> LOOP_BITS) - (was >> LOOP_BITS));
        if (age > INT32_MAX) { /* the share of a later loop */
            return false;
        }
        if (age > 0) {
            left = l->ticket |
                   share_start(l->items, l->workers, worker + 1) << COUNT_BITS |
                   share_start(l->items, l->workers, worker);
        }
        const size_t begin = left & COUNT_MASK, end = left >> COUNT_BITS & COUNT_MASK;
        if (begin == end) {
            return false;
        }
        *item = first ? begin : end - 1;
        left = first ? left + 1 : left - ((uint64_t)1 << COUNT_BITS);
        if (atomic_compare_exchange_weak_explicit(
                share, &was, left, memory_order_acq_rel, memory_order_acquire)) {
            return true;
        }
    }
}

/* Works for a loop until no item of it is left: the worker's own first, then the others',
 * beginning with its neighbour's. */
static void take_items(const loop *l, size_t worker)
{
    for (size_t i = 0; i < l->workers; i++) {
        const size_t from = (worker + i) % l->workers;
        size_t item, count = 0;
        while (take_item(l, from, i == 0, &item)) {
            l->task(l->ctx, item, worker);
            count++;
        }
        if (count > 0) {
            atomic_fetch_add_explicit(&pool.done, count, memory_order_release);
        }
        if (atomic_load_explicit(&pool.ticket, memory_order_relaxed) != l->ticket) {
            return; /* the next loop has begun */
        }
    }
}

static void *worker_main(void *argument)
{
    const size_t index = (size_t)(uintptr_t)argument;
    uint64_t seen = CLOSED;
    for (;;) {
        /* pass 1: spin for the next loop, for a while */
        const uint64_t start = vp_now_ns();
        uint64_t ticket = seen;
        for (unsigned turn = 1;; turn++) {
            ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
            if (ticket >> LOOP_BITS != seen >> LOOP_BITS && !is_closed(ticket) &&
                wanted(index)) {
                break;
            }
            cpu_relax();
            if (turn % SPIN_TURNS == 0 && !wanted(index) &&
                vp_now_ns() - start > SPIN_NS) {
                /* pass 2: sleep until a team opens that has a place for this worker */
                vp_mutex_lock(&pool.lock);
                pool.sleeping++;
                while (!wanted(index)) {
                    vp_condition_wait(&pool.wake, &pool.lock);
                }
                pool.sleeping--;
                vp_mutex_unlock(&pool.lock);
            }
        }
        seen = ticket;
        loop l;
        if (read_loop(ticket, &l) && index < l.workers) {
            take_items(&l, index);
        }
    }
    return NULL;
}

/* Starts workers up to `count`; fewer where the system has no more threads. */
static size_t start_workers(size_t count)
{
    vp_mutex_lock(&pool.lock);
    while (pool.threads < count &&
           vp_thread_start(worker_main, (void *)(uintptr_t)(pool.threads + 1))) {
        pool.threads++;
    }
    const size_t have = pool.threads < count ? pool.threads : count;
    vp_mutex_unlock(&pool.lock);
    return have;
}

static void wake_workers(void)
{
    vp_mutex_lock(&pool.lock);
    if (pool.sleeping > 0) {
        vp_condition_wake_all(&pool.wake);
    }
    vp_mutex_unlock(&pool.lock);
}

/* Shares that a smaller team has not used for long get a recent loop number: an age counts
 * to 2^31. */
static void renew_shares(size_t from, size_t to)
{
    const uint64_t ticket = atomic_load(&pool.ticket) & ~CLOSED;
    for (size_t worker = from; worker < to; worker++) {
        atomic_store(&pool.share[worker].items, ticket);
    }
}

size_t vp_team_open(vp_team *team)
{
    vp_run_once(&fork_handlers, install_fork_handlers);
    const size_t limit = vp_get_num_threads();
    atomic_fetch_add(&pool.callers, 1);
    team->owner = limit > 1 && !atomic_exchange(&pool.held, true);
    team->workers = 1;
    if (team->owner) {
        team->workers += start_workers(limit - 1);
        renew_shares(atomic_load(&pool.team_size), team->workers);
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
    const size_t end = share_start(items, team->workers, worker + 1);
    return item + 1 < end ? item + 1 : items;
}

void vp_parallel_for(vp_team *team, size_t items, vp_task task, void *ctx)
{
    if (!team->owner || team->workers == 1 || items <= 1 || items > MOST_ITEMS) {
        for (size_t i = 0; i < items; i++) {
            task(ctx, i, 0);
        }
        return;
    }
    const loop l = {.ticket = ((atomic_load(&pool.ticket) >> LOOP_BITS) + 1)
                              << LOOP_BITS,
                    .task = task,
                    .ctx = ctx,
                    .items = items,
                    .workers = team->workers};
    atomic_store_explicit(&pool.ticket, l.ticket | CLOSED, memory_order_seq_cst);
    atomic_store_explicit(&pool.task, task, memory_order_release);
    atomic_store_explicit(&pool.ctx, ctx, memory_order_release);
    atomic_store_explicit(&pool.items, items, memory_order_release);
    atomic_store_explicit(&pool.workers, l.workers, memory_order_release);
    atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.ticket, l.ticket, memory_order_release);
    take_items(&l, 0);
    for (unsigned turn = 1;
         atomic_load_explicit(&pool.done, memory_order_acquire) < items; turn++) {
        cpu_relax();
        if (turn % (SPIN_TURNS * 16) == 0) {
            vp_thread_yield(); /* the worker may be waiting for this very core */
        }
    }
}
