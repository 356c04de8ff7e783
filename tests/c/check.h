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
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

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

/* -- numbers -- */

/* VITPOOL_TEST_SEED, else 1: every number of check_random follows from it. */
static uint64_t check_first_seed = 1, check_state = 1;

__attribute__((constructor)) static void check_start(void)
{
    const char *seed = getenv("VITPOOL_TEST_SEED");
    if (seed != NULL) {
        check_first_seed = check_state = strtoull(seed, NULL, 10);
    }
}

/* VITPOOL_TEST_SMALL: under an emulator a program takes fewer shapes. */
static inline bool check_small(void)
{
    const char *small = getenv("VITPOOL_TEST_SMALL");
    return small != NULL && *small != '\0';
}

/* From here on the numbers follow from `seed` (and the first one). */
static inline void check_reseed(uint64_t seed)
{
    check_state = check_first_seed * 0x9e3779b97f4a7c15u + seed;
}

/* The program's exit status; what the core has allocated must be freed. Where it failed,
 * it prints the line that runs it again. */
static inline int check_done(void)
{
    CHECK(vp_memory_live() == 0, "%ld allocations are lost", vp_memory_live());
    if (check_failures > 0) {
        (void)fprintf(stderr, "%d checks failed; again: VITPOOL_TEST_SEED=%llu",
                      check_failures, (unsigned long long)check_first_seed);
        static const char *const names[] = {"VITPOOL_TARGET", "VITPOOL_UKR",
                                            "VITPOOL_TEST_SMALL"};
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            if (getenv(names[i]) != NULL) {
                (void)fprintf(stderr, " %s=%s", names[i], getenv(names[i]));
            }
        }
#if defined(__GLIBC__)
        extern char *program_invocation_name;
        (void)fprintf(stderr, " %s\n", program_invocation_name);
#else
        (void)fprintf(stderr, " and the program\n");
#endif
    }
    return check_failures > 0;
}

/* Uniform in [-1, 1). */
static inline float check_random(void)
{
    check_state = check_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(check_state >> 40) * 0x1p-23 - 1.0);
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

/* The distance between float32 numbers of x's size. */
static inline double check_ulp_of(double x)
{
    const int exponent = x == 0.0 ? -126 : ilogb(x);
    return ldexp(1.0, (exponent < -126 ? -126 : exponent) - 23);
}

/* How far `got` is from `want`, in ulp of the larger of |want| and `size`, the size of the
 * terms that it is a sum of. NaN equals NaN, infinity itself. */
static inline double check_ulps(double got, double want, double size)
{
    if (got == want || (isnan(got) && isnan(want))) {
        return 0.0;
    }
    if (!isfinite(got) || !isfinite(want)) {
        return INFINITY;
    }
    return fabs(got - want) / check_ulp_of(fmax(fabs(want), size));
}

/* -- memory that no one may touch outside -- */

#define CHECK_BYTE 0xa5

typedef struct {
    unsigned char *map; /* forbidden page, room, forbidden page */
    size_t page, room, bytes;
    void *data; /* bytes, at the room's start or end */
} check_memory;

/* Forbidden pages, and `room` bytes of others from `start` on; what a failure ends. */
#if defined(_WIN32)
static inline size_t check_page(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

static inline unsigned char *check_map(size_t bytes, size_t start, size_t room)
{
    unsigned char *map = VirtualAlloc(NULL, bytes, MEM_RESERVE, PAGE_NOACCESS);
    if (map == NULL ||
        VirtualAlloc(map + start, room, MEM_COMMIT, PAGE_READWRITE) == NULL) {
        (void)fprintf(stderr, "VirtualAlloc: %lu\n", GetLastError());
        exit(1);
    }
    return map;
}

static inline void check_unmap(unsigned char *map, size_t bytes)
{
    (void)bytes;
    (void)VirtualFree(map, 0, MEM_RELEASE);
}
#else
static inline size_t check_page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static inline unsigned char *check_map(size_t bytes, size_t start, size_t room)
{
    unsigned char *map =
        mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + start, room, PROT_READ | PROT_WRITE) != 0) {
        perror("mmap");
        exit(1);
    }
    return map;
}

static inline void check_unmap(unsigned char *map, size_t bytes)
{
    munmap(map, bytes);
}
#endif

/* Reading or writing past one end of data is a fault; past the other it is seen by
 * check_memory_free. at_end chooses which. */
static inline check_memory check_memory_new(size_t bytes, bool at_end)
{
    check_memory m = {.page = check_page(), .bytes = bytes};
    m.room = (bytes / m.page + 1) * m.page;
    m.map = check_map(m.room + 2 * m.page, m.page, m.room);
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
    check_unmap(m->map, m->room + 2 * m->page);
}

#endif
