/* Activations on their way into a product. SPDX-License-Identifier: Apache-2.0 */
#include "gemm/operand.h"

#include <assert.h>
#include <string.h>

#include "base/arena.h"

/* Rows that a worker converts at a time. */
#define ROWS ((size_t)8)

/* Floats from one row to the next: an odd number of cache lines, as vp_row_stride. */
static size_t stride_of(const vp_packed *w)
{
    return vp_row_stride(vp_ukr_words(w->ukr, w->k));
}

/* Cuts it from the arena: rows, and those that a micro-kernel may read past the last. */
static vp_operand lay_out(const vp_packed *w, size_t m, vp_arena *arena)
{
    vp_operand o = {.stride = stride_of(w)};
    o.rows = vp_arena_floats(arena, vp_size_mul(m + w->ukr->mr, o.stride));
    if (vp_dtype_is_int(w->ukr->weight)) {
        o.scale = vp_arena_floats(arena, m);
        o.zero = vp_arena_take(arena, vp_size_mul(m, sizeof *o.zero));
    }
    return o;
}

size_t vp_operand_bytes(const vp_packed *w, size_t m)
{
    vp_arena arena = {NULL, 0, 0};
    if (w->ukr->rows == VP_ROWS_f32) {
        return 0;
    }
    (void)lay_out(w, m, &arena);
    return arena.used;
}

/* q - 128 of numbers without a sign are numbers with one. */
static void take_128(uint8_t *q, size_t k)
{
    for (size_t i = 0; i < k; i++) {
        q[i] ^= 0x80;
    }
}

void vp_operand_row(const vp_kernels *kernels, const vp_ukr *ukr, void *to,
                    const float *x, size_t k, float *scale, int32_t *zero)
{
    switch (ukr->rows) {
    case VP_ROWS_bf16:
        if (ukr->convert != NULL) {
            ukr->convert(to, x, k);
        } else {
            kernels->to_bf16(to, x, k);
        }
        break;
    case VP_ROWS_u8:
        kernels->quantize_u8(to, x, k, scale, zero);
        break;
    case VP_ROWS_s8:
        kernels->quantize_u8(to, x, k, scale, zero);
        take_128(to, k);
        *zero -= 128;
        break;
    case VP_ROWS_s16:
        kernels->quantize_s16(to, x, k, vp_levels(ukr->weight, k), scale, zero);
        break;
    case VP_ROWS_f32:
    case VP_ROWS_COUNT:
        break;
    }
    const size_t bytes = vp_rows_bytes(ukr->rows), filled = vp_ukr_filled(ukr, k);
    memset((char *)to + k * bytes, 0, (filled - k) * bytes);
}

typedef struct {
    const vp_run *run;
    const vp_packed *w;
    size_t m;
    const float *a;
    size_t lda;
    const vp_operand *to;
} job;

static void convert_task(void *ctx, size_t item, size_t worker)
{
    (void)worker;
    const job *j = ctx;
    const vp_operand *o = j->to;
    const bool ints = o->scale != NULL;
    for (size_t r = item * ROWS; r < vp_min(j->m, (item + 1) * ROWS); r++) {
        vp_operand_row(j->run->kernels, j->w->ukr, (float *)o->rows + r * o->stride,
                       j->a + r * j->lda, j->w->k, ints ? (float *)o->scale + r : NULL,
                       ints ? (int32_t *)o->zero + r : NULL);
    }
}

vp_operand vp_operand_make(const vp_run *run, const vp_packed *w, size_t m,
                           const float *a, size_t lda)
{
    if (w->ukr->rows == VP_ROWS_f32) {
        return (vp_operand){.rows = a, .stride = lda};
    }
    vp_arena arena = {run->operand, run->operand_bytes, 0};
    const vp_operand o = lay_out(w, m, &arena);
    assert(arena.used <= run->operand_bytes);
    job j = {run, w, m, a, lda, &o};
    vp_parallel_for(run->team, vp_ceil_div(m, ROWS), convert_task, &j);
    return o;
}
