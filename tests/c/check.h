/* What every C test program uses: a check that counts, memory with guards, numbers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_TEST_CHECK_H
#define VP_TEST_CHECK_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

static int check_failures;

/* Counts and prints a failure; the first twenty of a program are enough. */
#define CHECK(condition, ...)                                                     \
    do {                                                                          \
        if (!(condition) && check_failures++ < 20) {                              \
            (void)fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            (void)fprintf(stderr, __VA_ARGS__);                                   \
            (void)fprintf(stderr, "\n");                                          \
        }                                                                         \
    } while (0)

/* The program's exit status; what the core has allocated must be freed. */
static inline int check_done(void)
{
    CHECK(vp_memory_live() == 0, "%ld allocations are lost", vp_memory_live());
    if (check_failures > 0) {
        (void)fprintf(stderr, "%d checks failed\n", check_failures);
    }
    return check_failures > 0;
}

/* -- numbers -- */

static uint64_t check_seed = 1;

/* Uniform in [-1, 1). */
static inline float check_random(void)
{
    check_seed = check_seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(check_seed >> 40) * 0x1p-23 - 1.0);
}

static inline void check_fill(float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = scale * check_random();
    }
}

/* Equal up to `tolerance` of 1 + |b|; NaN equals NaN, infinity itself. */
static inline bool check_close(double a, double b, double tolerance)
{
    if (isnan(a) || isnan(b)) {
        return isnan(a) && isnan(b);
    }
    return a == b || fabs(a - b) <= tolerance * (1.0 + fabs(b));
}

/* -- memory that no one may touch outside -- */

#define CHECK_BYTE 0xa5

typedef struct {
    unsigned char *map; /* forbidden page, room, forbidden page */
    size_t page, room, bytes;
    void *data; /* bytes, at the room's start or end */
} check_memory;

/* Reading or writing past one end of data is a fault; past the other it is seen by
 * check_memory_free. at_end chooses which. */
static inline check_memory check_memory_new(size_t bytes, bool at_end)
{
    check_memory m = {.page = (size_t)sysconf(_SC_PAGESIZE), .bytes = bytes};
    m.room = (bytes / m.page + 1) * m.page;
    m.map =
        mmap(NULL, m.room + 2 * m.page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m.map == MAP_FAILED ||
        mprotect(m.map + m.page, m.room, PROT_READ | PROT_WRITE) != 0) {
        perror("mmap");
        exit(1);
    }
    memset(m.map + m.page, CHECK_BYTE, m.room);
    m.data = m.map + m.page + (at_end ? m.room - bytes : 0);
    return m;
}

static inline void check_memory_free(check_memory *m, const char *what)
{
    const unsigned char *start = m->map + m->page, *data = m->data;
    size_t changed = 0;
    for (const unsigned char *p = start; p < start + m->room; p++) {
        changed += (p < data || p >= data + m->bytes) && *p != CHECK_BYTE;
    }
    CHECK(changed == 0, "%s wrote %zu bytes outside", what, changed);
    munmap(m->map, m->room + 2 * m->page);
}

#endif
