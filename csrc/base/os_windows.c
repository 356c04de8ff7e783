/* What the core wants of an operating system, by Windows' own calls, 7 and later.
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <malloc.h>
#include <stdlib.h>
#include <windows.h>

#include "base/os.h"

_Static_assert(sizeof(vp_mutex) == sizeof(SRWLOCK), "a lock");
_Static_assert(sizeof(vp_condition) == sizeof(CONDITION_VARIABLE), "a condition");
_Static_assert(sizeof(vp_once) == sizeof(INIT_ONCE), "a first time");

void vp_mutex_lock(vp_mutex *mutex)
{
    AcquireSRWLockExclusive((SRWLOCK *)mutex);
}

void vp_mutex_unlock(vp_mutex *mutex)
{
    ReleaseSRWLockExclusive((SRWLOCK *)mutex);
}

void vp_condition_wait(vp_condition *condition, vp_mutex *mutex)
{
    (void)SleepConditionVariableSRW((CONDITION_VARIABLE *)condition, (SRWLOCK *)mutex,
                                    INFINITE, 0);
}

void vp_condition_wake_all(vp_condition *condition)
{
    WakeAllConditionVariable((CONDITION_VARIABLE *)condition);
}

typedef struct {
    void (*init)(void);
} first_time;

static BOOL CALLBACK run_first_time(INIT_ONCE *once, void *argument, void **context)
{
    (void)once, (void)context;
    ((const first_time *)argument)->init();
    return TRUE;
}

void vp_run_once(vp_once *once, void (*init)(void))
{
    first_time first = {init};
    (void)InitOnceExecuteOnce((INIT_ONCE *)once, run_first_time, &first, NULL);
}

typedef struct {
    void *(*run)(void *);
    void *argument;
} thread_start;

static DWORD WINAPI run_thread(void *argument)
{
    const thread_start start = *(const thread_start *)argument;
    free(argument);
    (void)start.run(start.argument);
    return 0;
}

bool vp_thread_start(void *(*run)(void *), void *argument)
{
    thread_start *start = malloc(sizeof *start);
    if (start == NULL) {
        return false;
    }
    *start = (thread_start){run, argument};
    const HANDLE thread = CreateThread(NULL, 0, run_thread, start, 0, NULL);
    if (thread == NULL) {
        free(start);
        return false;
    }
    (void)CloseHandle(thread); /* nobody joins it */
    return true;
}

void vp_thread_yield(void)
{
    (void)SwitchToThread();
}

/* Windows has no fork(). */
void vp_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void))
{
    (void)before, (void)parent, (void)child;
}

void vp_mutex_renew(vp_mutex *mutex)
{
    *mutex = (vp_mutex)VP_MUTEX_INIT;
}

void vp_condition_renew(vp_condition *condition)
{
    *condition = (vp_condition)VP_CONDITION_INIT;
}

uint64_t vp_now_ns(void)
{
    LARGE_INTEGER ticks, of_a_second;
    (void)QueryPerformanceCounter(&ticks);
    (void)QueryPerformanceFrequency(&of_a_second);
    const uint64_t now = (uint64_t)ticks.QuadPart,
                   second = (uint64_t)of_a_second.QuadPart;
    return now / second * 1000000000u + now % second * 1000000000u / second;
}

/* A mask has the cores of one group of at most 64; it says something only where somebody has
 * narrowed it. */
size_t vp_cores_allowed(void)
{
    const DWORD active = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    size_t n = active > 0 ? active : 1;
    DWORD_PTR own, all;
    if (GetProcessAffinityMask(GetCurrentProcess(), &own, &all) && own != 0 &&
        own != all) {
        const size_t allowed = (size_t)__builtin_popcountll(own);
        n = allowed < n ? allowed : n;
    }
    return n;
}

void *vp_aligned_alloc(size_t align, size_t bytes)
{
    return _aligned_malloc(bytes, align);
}

void vp_aligned_free(void *p)
{
    _aligned_free(p);
}
#endif
