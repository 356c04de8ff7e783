/* The process's threads: a team that a forward pass opens, uses for many loops, and closes.
 *
 *     size_t workers = vp_team_open(&team);      // wakes the others, or runs alone
 *     vp_parallel_for(&team, items, task, ctx);  // returns when every item is done
 *     vp_team_close(&team);
 *
 * Items are handed out one at a time, so a slow core costs at most one. Each worker begins
 * with its own share of neighbouring items, the same part of one loop after another, so that
 * what it reads next is in its own caches; then it helps its neighbours. Results must not
 * depend on who ran what. Inside an open team a waiting
 * thread spins; after it, it spins a moment longer and then sleeps.
 *
 * Only one caller holds the threads at a time: a second one runs alone, at once, without
 * waiting, and while it does, the team gives up a core for it. So two Python threads get
 * two cores, and nothing can deadlock. After fork() the child starts with fresh threads.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_PARALLEL_H
#define VP_BASE_PARALLEL_H

#include <stdbool.h>
#include <stddef.h>

/* Runs item `item` as worker `worker` (0 is the caller; below the count that open gave). */
typedef void (*vp_task)(void *ctx, size_t item, size_t worker);

typedef struct {
    size_t workers; /* how many may run tasks, the caller included */
    bool owner;     /* has the process's threads */
} vp_team;

#define VP_MAX_THREADS 256

/* Sets / gets how many threads a forward may use, the caller included: 1..VP_MAX_THREADS.
 * The default is the least of cores, affinity, cgroup quota and the environment. */
void vp_set_num_threads(size_t n);
size_t vp_get_num_threads(void);

/* Never fails: where no thread can be had the caller runs alone. */
size_t vp_team_open(vp_team *team);
void vp_team_close(vp_team *team);

/* task(ctx, i, worker) for i in 0..items; returns when all are done. */
void vp_parallel_for(vp_team *team, size_t items, vp_task task, void *ctx);

/* The item that a worker will most likely get after `item`; `items` if none. */
size_t vp_parallel_next(const vp_team *team, size_t items, size_t item, size_t worker);

/* One process-wide lock for a few instructions at a time (reference swaps, free lists).
 * It is held across fork(), so a child never finds it taken. */
void vp_global_lock(void);
void vp_global_unlock(void);

#endif
