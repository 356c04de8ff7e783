/* vp_parallel_for: every item once, whoever calls, whatever changes meanwhile.
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/parallel.h"
#include "check.h"

#define MOST_ITEMS 300

typedef struct {
    atomic_int runs[MOST_ITEMS];
    size_t
        plain[MOST_ITEMS]; /* written by whoever runs the item, read after the loop */
    size_t items, workers, salt;
    atomic_int outside; /* items or workers that do not exist */
} loop;

static void task(void *ctx, size_t item, size_t worker)
{
    loop *l = ctx;
    if (item >= l->items || worker >= l->workers) {
        atomic_fetch_add(&l->outside, 1);
        return;
    }
    atomic_fetch_add(&l->runs[item], 1);
    l->plain[item] = item * 3 + l->salt;
}

/* Some forward passes of some loops each. */
static void *caller(void *argument)
{
    const size_t salt = (size_t)(uintptr_t)argument;
    loop *l = calloc(1, sizeof *l);
    for (size_t pass = 0; pass < 200; pass++) {
        vp_team team;
        const size_t workers = vp_team_open(&team);
        for (size_t i = 0; i < 8; i++) {
            memset(l, 0, sizeof *l);
            l->items = (pass * 7 + i * 31) % MOST_ITEMS;
            l->workers = workers;
            l->salt = salt + pass;
            vp_parallel_for(&team, l->items, task, l);
            CHECK(l->outside == 0, "%d items or workers do not exist", l->outside);
            for (size_t k = 0; k < l->items; k++) {
                CHECK(l->runs[k] == 1, "item %zu of %zu ran %d times", k, l->items,
                      l->runs[k]);
                CHECK(l->plain[k] == k * 3 + l->salt, "item %zu is not visible", k);
            }
        }
        vp_team_close(&team);
    }
    free(l);
    return NULL;
}

/* Two worker numbers at work at once must differ. */
static atomic_int busy[VP_MAX_THREADS];
static atomic_int clashes;

static void exclusive(void *ctx, size_t item, size_t worker)
{
    (void)ctx, (void)item;
    if (atomic_fetch_add(&busy[worker], 1) != 0) {
        atomic_fetch_add(&clashes, 1);
    }
    for (int spin = 0; spin < 100; spin++) {
        __asm__ __volatile__("" ::: "memory");
    }
    atomic_fetch_sub(&busy[worker], 1);
}

/* Loops of two items, one right after the other: a worker that comes late to one of them
 * must not run its task on an item of the next. */
typedef struct {
    atomic_bool open;
    atomic_int runs;
} short_loop;

static atomic_int late;

static void open_task(void *ctx, size_t item, size_t worker)
{
    (void)item, (void)worker;
    short_loop *l = ctx;
    if (!atomic_load(&l->open)) {
        atomic_fetch_add(&late, 1);
    }
    atomic_fetch_add(&l->runs, 1);
}

static void nobody_comes_late(size_t loops)
{
    short_loop all[8];
    vp_team team;
    (void)vp_team_open(&team);
    for (size_t i = 0; i < loops; i++) {
        short_loop *l = &all[i % 8];
        atomic_store(&l->runs, 0);
        atomic_store(&l->open, true);
        vp_parallel_for(&team, 2, open_task, l);
        atomic_store(&l->open, false);
        CHECK(l->runs == 2, "2 items ran %d times", l->runs);
    }
    vp_team_close(&team);
    CHECK(late == 0, "%d items of loops that had ended", late);
}

static atomic_size_t counted;

static void count(void *ctx, size_t item, size_t worker)
{
    (void)ctx, (void)item, (void)worker;
    atomic_fetch_add_explicit(&counted, 1, memory_order_relaxed);
}

static void *changer(void *argument)
{
    atomic_bool *stop = argument;
    for (size_t n = 1; !atomic_load(stop); n++) {
        vp_set_num_threads(1 + n % 5);
        const size_t now = vp_get_num_threads();
        CHECK(now >= 1 && now <= 5, "%zu threads", now);
        for (int spin = 0; spin < 2000; spin++) {
            __asm__ __volatile__("" ::: "memory");
        }
    }
    return NULL;
}

/* How many items each of three workers ran. */
static atomic_size_t ran[3];

static void note(void *ctx, size_t item, size_t worker)
{
    (void)ctx, (void)item;
    atomic_fetch_add_explicit(&ran[worker], 1, memory_order_relaxed);
    for (int spin = 0; spin < 200; spin++) {
        __asm__ __volatile__("" ::: "memory");
    }
}

/* Runs loops until `worker` has had an item of one; false: in ten seconds it had none. */
static bool gets_items(vp_team *team, size_t worker)
{
    struct timespec start, now;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (size_t i = 0; i < 3; i++) {
            atomic_store(&ran[i], 0);
        }
        vp_parallel_for(team, 10000, note, NULL);
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
    } while (ran[worker] == 0 && now.tv_sec - start.tv_sec < 10);
    return ran[worker] > 0;
}

/* While a second caller is under way the team does without its last worker. */
static void a_second_caller_gets_a_core(void)
{
    vp_team first, second;
    vp_set_num_threads(3);
    CHECK(vp_team_open(&first) == 3, "%zu workers of 3", first.workers);
    CHECK(gets_items(&first, 1) && gets_items(&first, 2), "a worker does nothing");
    for (int round = 0; round < 3; round++) {
        CHECK(vp_team_open(&second) == 1, "a second team of %zu", second.workers);
        CHECK(gets_items(&first, 1), "the other worker went, too");
        for (int i = 0; i < 20; i++) { /* long enough for the last one to fall asleep */
            vp_parallel_for(&first, 10000, note, NULL);
        }
        CHECK(ran[2] == 0, "the last worker ran %zu items beside", (size_t)ran[2]);
        atomic_store(&ran[0], 0);
        vp_parallel_for(&second, 100, note, NULL);
        CHECK(ran[0] == 100, "the second caller ran %zu of 100", (size_t)ran[0]);
        vp_team_close(&second);
        CHECK(gets_items(&first, 2), "the worker did not come back");
    }
    vp_team_close(&first);
}

/* What follows an item in its worker's share; `items` after the last of one. */
static void the_next_item_is_in_the_same_share(void)
{
    for (size_t workers = 1; workers <= 9; workers++) {
        const vp_team team = {.workers = workers};
        for (size_t items = 0; items <= 40; items++) {
            size_t item = 0;
            for (size_t worker = 0; worker < workers; worker++) {
                const size_t end = (worker + 1) * items / workers;
                for (; item < end; item++) {
                    const size_t next = vp_parallel_next(&team, items, item, worker);
                    CHECK(next == (item + 1 < end ? item + 1 : items),
                          "after %zu of %zu comes %zu for worker %zu of %zu", item,
                          items, next, worker, workers);
                }
            }
        }
    }
}

static void several_callers(size_t count, bool changing)
{
    pthread_t threads[8], other;
    atomic_bool stop = false;
    if (changing) {
        (void)pthread_create(&other, NULL, changer, &stop);
    }
    for (size_t i = 0; i < count; i++) {
        (void)pthread_create(&threads[i], NULL, caller, (void *)(uintptr_t)(i * 1000));
    }
    for (size_t i = 0; i < count; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    atomic_store(&stop, true);
    if (changing) {
        (void)pthread_join(other, NULL);
    }
}

int main(void)
{
    vp_set_num_threads(0);
    CHECK(vp_get_num_threads() == 1, "0 threads");
    vp_set_num_threads(100000);
    CHECK(vp_get_num_threads() == VP_MAX_THREADS, "too many threads");
    for (size_t n = 1; n <= 4; n++) {
        vp_set_num_threads(n);
        (void)caller(NULL);
        vp_team team;
        const size_t workers = vp_team_open(&team);
        CHECK(workers >= 1 && workers <= n, "%zu workers of %zu", workers, n);
        vp_parallel_for(&team, 5000, exclusive, NULL);
        atomic_store(&counted, 0);
        vp_parallel_for(&team, 300000, count, NULL); /* more than a ticket can count */
        CHECK(atomic_load(&counted) == 300000, "%zu items ran", (size_t)counted);
        vp_team_close(&team);
    }
    CHECK(clashes == 0, "two threads had one worker number %d times", clashes);
    the_next_item_is_in_the_same_share();
    a_second_caller_gets_a_core();
    for (size_t n = 2; n <= 4; n++) {
        vp_set_num_threads(n);
        nobody_comes_late(400000);
    }
    vp_set_num_threads(3);
    several_callers(4, false);
    several_callers(4, true);
    return check_done();
}
