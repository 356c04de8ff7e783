/* Aligned heap memory. SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/os.h"

/* Large blocks (weights, workspaces) start on a huge page: fewer TLB misses while a
 * panel of weights streams through the micro-kernel. */
#define HUGE_PAGE ((size_t)2 << 20)

static atomic_long fail_after = -1;
static atomic_long live;

void vp_memory_fail_after(long n)
{
    atomic_store(&fail_after, n);
}

long vp_memory_live(void)
{
    return atomic_load(&live);
}

static bool injected_failure(void)
{
    long left = atomic_load_explicit(&fail_after, memory_order_relaxed);
    if (left < 0) {
        return false;
    }
    while (left > 0) {
        if (atomic_compare_exchange_weak(&fail_after, &left, left - 1)) {
            return false;
        }
    }
    return left == 0;
}

void *vp_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX / 2 || injected_failure()) {
        return NULL;
    }
    const size_t align = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : VP_ALIGN;
    void *p = vp_aligned_alloc(align, bytes > 0 ? bytes : 1);
    if (p == NULL) {
        return NULL;
    }
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align == HUGE_PAGE) {
        /* A hint: where the kernel has no huge pages the small ones do. */
        (void)madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    }
#endif
    return p;
}

void *vp_alloc_zero(size_t bytes)
{
    void *p = vp_alloc(bytes);
    if (p != NULL) {
        memset(p, 0, bytes);
    }
    return p;
}

void vp_free(void *p)
{
    if (p != NULL) {
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    }
    vp_aligned_free(p);
}

size_t vp_size_mul(size_t a, size_t b)
{
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

size_t vp_size_add(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}
