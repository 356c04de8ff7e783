/* Aligned heap memory, with a switch that makes the n-th allocation fail and a
 * count of those that live (for the tests).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_BASE_MEMORY_H
#define VP_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* One cache line, one AVX-512 register. */
#define VP_ALIGN ((size_t)64)

/* `bytes` of memory aligned to VP_ALIGN, uninitialised; NULL when there is none.
 * Zero bytes give a valid pointer. The caller frees with vp_free. Thread-safe. */
void *vp_alloc(size_t bytes);

/* The same, filled with zeros. */
void *vp_alloc_zero(size_t bytes);

/* Frees what vp_alloc gave; NULL is fine. */
void vp_free(void *p);

/* a * b and a + b, or SIZE_MAX where that overflows (which vp_alloc then refuses). */
size_t vp_size_mul(size_t a, size_t b);
size_t vp_size_add(size_t a, size_t b);

/* Fault injection: after `n` more successful allocations every next one fails, until
 * called again; n < 0 switches it off. For tests alone. */
void vp_memory_fail_after(long n);

/* Allocations that have not been freed: what is lost is seen without a tool. */
long vp_memory_live(void);

#endif
