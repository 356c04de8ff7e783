/* SPDX-License-Identifier: Apache-2.0
 * What a loop of base/parallel.h costs beside its items: its start, handing them out, its end.
 *
 *     loops [THREADS]  ->  a table in Markdown, for 2, 4, ... THREADS (default: all cores)
 *
 * An item works for some 4 us, as a small one of a forward pass does. Loops with one item for
 * each worker and with five take times that lie on a line, whose slope is an item at the clock
 * of that many busy cores, and which begins at what the loop itself costs. From the best of
 * many series of 50 loops, and from the median.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/parallel.h"

#define SERIES 99
#define LOOPS 50

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static void item(void *ctx, size_t i, size_t worker)
{
    (void)ctx, (void)worker;
    for (int k = 0; k < 4000; k++) { /* a chain of multiplications: nothing shared */
        i = i * (size_t)6364136223846793005u + 1;
        __asm__ volatile("" : "+r"(i));
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Microseconds of a loop with so many items: the best and the median. */
static void measure(vp_team *team, size_t items, double time[2])
{
    double times[SERIES];
    for (size_t s = 0; s < SERIES; s++) {
        const double start = now();
        for (size_t i = 0; i < LOOPS; i++) {
            vp_parallel_for(team, items, item, NULL);
        }
        times[s] = (now() - start) / LOOPS;
    }
    qsort(times, SERIES, sizeof *times, by_size);
    time[0] = times[0];
    time[1] = times[SERIES / 2];
}

int main(int argc, char **argv)
{
    const size_t most =
        argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : vp_get_num_threads();
    (void)printf("| threads | a loop, us, best | median |\n| --: | --: | --: |\n");
    for (size_t threads = 2; threads <= most; threads *= 2) {
        vp_team team;
        double one[2], five[2];
        vp_set_num_threads(threads);
        (void)vp_team_open(&team);
        measure(&team, threads, one);
        measure(&team, 5 * threads, five);
        vp_team_close(&team);
        (void)printf("| %zu | %.2f | %.2f |\n", team.workers,
                     one[0] - (five[0] - one[0]) / 4, one[1] - (five[1] - one[1]) / 4);
    }
    return 0;
}
