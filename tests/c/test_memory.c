/* Arena, allocator, status. SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"
#include "base/memory.h"
#include "base/status.h"
#include "check.h"

static void arena_measures_what_it_then_hands_out(void)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 1000, 4096};
    vp_arena measure = {NULL, 0, 0};
    for (size_t i = 0; i < 7; i++) {
        CHECK(vp_arena_take(&measure, sizes[i]) == NULL, "memory in measure mode");
    }
    vp_arena arena = {vp_alloc(measure.used), measure.used, 0};
    char *last = arena.base;
    for (size_t i = 0; i < 7; i++) {
        char *piece = vp_arena_take(&arena, sizes[i]);
        CHECK((uintptr_t)piece % VP_ALIGN == 0, "piece %zu is not aligned", i);
        CHECK(piece >= last, "piece %zu overlaps", i);
        memset(piece, 1, sizes[i]);
        last = piece + sizes[i];
    }
    CHECK(arena.used == measure.used, "%zu used, %zu measured", arena.used,
          measure.used);
    vp_free(arena.base);
}

static void arena_overflow_is_a_size_that_no_allocation_gets(void)
{
    vp_arena arena = {NULL, 0, 0};
    (void)vp_arena_floats(&arena, SIZE_MAX / 2);
    (void)vp_arena_take(&arena, 64);
    CHECK(arena.used == SIZE_MAX, "used is %zu", arena.used);
    CHECK(vp_alloc(arena.used) == NULL, "SIZE_MAX bytes were given");
}

static void sizes_saturate(void)
{
    CHECK(vp_size_mul(SIZE_MAX / 2, 3) == SIZE_MAX, "mul");
    CHECK(vp_size_mul(0, SIZE_MAX) == 0, "mul by 0");
    CHECK(vp_size_mul(SIZE_MAX, 0) == 0, "mul by 0");
    CHECK(vp_size_mul(6, 7) == 42, "mul");
    CHECK(vp_size_add(SIZE_MAX, 1) == SIZE_MAX, "add");
    CHECK(vp_size_add(40, 2) == 42, "add");
}

static void allocations_are_aligned_and_refused_where_absurd(void)
{
    static const size_t sizes[] = {0, 1, 64, 1000, (size_t)5 << 20};
    for (size_t i = 0; i < 5; i++) {
        unsigned char *p = vp_alloc_zero(sizes[i]);
        CHECK(p != NULL, "no %zu bytes", sizes[i]);
        CHECK((uintptr_t)p % VP_ALIGN == 0, "%zu bytes are not aligned", sizes[i]);
        for (size_t b = 0; b < sizes[i]; b += 97) {
            CHECK(p[b] == 0, "byte %zu of %zu is not 0", b, sizes[i]);
        }
        vp_free(p);
    }
    CHECK(vp_alloc(SIZE_MAX) == NULL, "SIZE_MAX");
    CHECK(vp_alloc(SIZE_MAX / 2 + 1) == NULL, "half of SIZE_MAX");
    vp_free(NULL);
}

static void the_nth_allocation_fails_and_all_after_it(void)
{
    vp_memory_fail_after(2);
    void *a = vp_alloc(1), *b = vp_alloc_zero(1), *c = vp_alloc(1),
         *d = vp_alloc_zero(1);
    vp_memory_fail_after(-1);
    void *e = vp_alloc(1);
    CHECK(a != NULL && b != NULL && c == NULL && d == NULL && e != NULL, "wrong ones");
    vp_free(a);
    vp_free(b);
    vp_free(e);
}

static void a_message_is_cut_to_its_room(void)
{
    vp_error err;
    char large[4000];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    CHECK(vp_fail(&err, VP_ERR_VALUE, "%s", large) == VP_ERR_VALUE, "code");
    CHECK(err.code == VP_ERR_VALUE, "code");
    CHECK(strlen(err.message) == sizeof err.message - 1, "length");
    CHECK(vp_fail_memory(&err, "a thing", 123) == VP_ERR_MEMORY, "code");
    CHECK(strstr(err.message, "a thing") && strstr(err.message, "123"), "%s",
          err.message);
}

int main(void)
{
    arena_measures_what_it_then_hands_out();
    arena_overflow_is_a_size_that_no_allocation_gets();
    sizes_saturate();
    allocations_are_aligned_and_refused_where_absurd();
    the_nth_allocation_fails_and_all_after_it();
    a_message_is_cut_to_its_room();
    return check_done();
}
