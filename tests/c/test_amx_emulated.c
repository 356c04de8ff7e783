/* AMX's micro-kernels on emulated instructions, wherever AVX-512 is: beside plain C, at all heights
 * and tails of k. Where AMX is, the same products by the real instructions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "check.h"
#include "emulated.h"

#if defined(VP_X86)

enum { COLUMNS = 32, HEIGHT = 32, LDC = 48, MOST_K = 4096 };

/* a[32][k] and b[k][32] as numbers, and as run takes them. */
typedef struct {
    size_t k, filled, lda; /* lda in units of 4 bytes */
    double *a, *b;
    check_memory rows, panel; /* no byte more than run may read */
    void *strip, *split;      /* where it takes them packed and split */
} operands;

/* The upper half of a float32 is a bfloat16; returns its value. */
static float put_bf16(uint16_t *to, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xffff0000u;
    *to = (uint16_t)(bits >> 16);
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A number as that row or weight type holds it, at index i of its array; returns its value. */
static double put(void *array, size_t i, bool weight, vp_rows rows)
{
    const float x = check_random();
    float value = x;
    switch (rows) {
    case VP_ROWS_bf16:
        return (double)put_bf16((uint16_t *)array + i, x);
    case VP_ROWS_u8:
        if (weight) {
            value = rintf(x * 127.0f);
            ((int8_t *)array)[i] = (int8_t)value;
        } else {
            value = rintf((x + 1.0f) * 127.5f);
            ((uint8_t *)array)[i] = (uint8_t)value;
        }
        return (double)value;
    default:
        ((float *)array)[i] = x;
        return (double)x;
    }
}

static operands make(const vp_ukr *ukr, size_t k)
{
    const size_t bytes = vp_rows_bytes(ukr->rows), g = ukr->group;
    operands o = {.k = k, .filled = vp_ukr_filled(ukr, k)};
    o.lda = vp_ceil_div(o.filled, g) + 3;
    check_reseed(k);
    o.a = vp_alloc(HEIGHT * k * sizeof *o.a);
    o.b = vp_alloc(k * COLUMNS * sizeof *o.b);
    o.rows = check_memory_new(((HEIGHT - 1) * o.lda) * 4 + o.filled * bytes, true);
    o.panel = check_memory_new(o.filled * ukr->panel_bytes, true);
    if (ukr->rows == VP_ROWS_f32) { /* panel_bytes are those of its parts */
        check_memory_free(&o.panel, "nobody");
        o.panel = check_memory_new(k * COLUMNS * sizeof(float), true);
    }
    memset(o.rows.data, 0xff, o.rows.bytes); /* NaN between the rows */
    for (size_t r = 0; r < HEIGHT; r++) {
        char *row = (char *)o.rows.data + r * o.lda * 4;
        memset(row, 0, o.filled * bytes);
        for (size_t i = 0; i < k; i++) {
            o.a[r * k + i] = put(row, i, false, ukr->rows);
        }
    }
    memset(o.panel.data, 0, o.panel.bytes);
    for (size_t i = 0; i < k; i++) {
        for (size_t j = 0; j < COLUMNS; j++) {
            const size_t at = (i / g * COLUMNS + j) * g + i % g;
            o.b[i * COLUMNS + j] = put(o.panel.data, at, true, ukr->rows);
        }
    }
    return o;
}

static void prepare(const vp_ukr *ukr, operands *o, size_t rows)
{
    const size_t whole = vp_round_up(o->k, ukr->kr);
    if (ukr->pack_strip != NULL) {
        o->strip = vp_alloc(whole * ukr->strip_bytes);
        ukr->pack_strip(ukr, o->strip, o->rows.data, o->lda, rows, o->k);
    }
    if (ukr->split_panel != NULL) {
        o->split = vp_alloc(whole * ukr->panel_bytes);
        ukr->split_panel(
            &(vp_ahead){.panel = o->panel.data, .k = o->k, .ready = o->split});
    }
}

static void drop(operands *o)
{
    vp_free(o->a);
    vp_free(o->b);
    check_memory_free(&o->rows, "a micro-kernel, at its rows,");
    check_memory_free(&o->panel, "a micro-kernel, at its panel,");
}

/* The tile c after run; what it was before is 7 (float, or integer) everywhere. */
static check_memory product(const vp_ukr *ukr, operands *o, size_t rows, size_t step,
                            bool accumulate)
{
    check_memory c =
        check_memory_new(((HEIGHT - 1) * LDC + COLUMNS) * sizeof(float), true);
    for (size_t i = 0; i < c.bytes / sizeof(float); i++) {
        if (vp_dtype_is_int(ukr->weight)) {
            ((int32_t *)c.data)[i] = 7;
        } else {
            ((float *)c.data)[i] = 7.0f;
        }
    }
    prepare(ukr, o, rows);
    /* the panel ahead: this one again, whose parts go elsewhere */
    vp_ahead ahead = {.panel = o->panel.data, .k = o->k, .step = step};
    ahead.ready = vp_alloc(vp_round_up(o->k, ukr->kr) * ukr->panel_bytes);
    vp_ukr_enter(ukr);
    vp_ukr_run(ukr, ukr->sum_piece, rows, o->k,
               o->strip != NULL ? o->strip : o->rows.data, o->lda,
               o->split != NULL ? o->split : o->panel.data, c.data, LDC, accumulate,
               &ahead);
    vp_ukr_leave(ukr);
    CHECK(ukr->split_panel != NULL || ahead.done >= o->k * step,
          "%s dealt with %zu bytes of the panel ahead, not %zu", ukr->name, ahead.done,
          o->k * step);
    vp_free(ahead.ready);
    vp_free(o->strip);
    vp_free(o->split);
    o->strip = o->split = NULL;
    return c;
}

/* Integers to the bit; floats with float32's error of such a sum, as test_gemm.c asks. */
static void check_product(const vp_ukr *ukr, operands *o, size_t rows, bool accumulate)
{
    check_memory c = product(ukr, o, rows, rows % 3 * 20, accumulate);
    double error = 0.0, size = 0.0;
    for (size_t r = 0; r < rows; r++) {
        for (size_t j = 0; j < COLUMNS; j++) {
            double want = 0.0;
            for (size_t i = 0; i < o->k; i++) {
                want += o->a[r * o->k + i] * o->b[i * COLUMNS + j];
            }
            size += want * want;
            want += accumulate ? 7.0 : 0.0;
            if (vp_dtype_is_int(ukr->weight)) {
                const int32_t got = ((int32_t *)c.data)[r * LDC + j];
                CHECK(got == (int32_t)want,
                      "%s, %zu rows, k %zu, at (%zu, %zu): %d, not %.0f", ukr->name,
                      rows, o->k, r, j, got, want);
            } else {
                const double got = (double)((float *)c.data)[r * LDC + j];
                CHECK(fabs(got - want) <= 2e-6 * ((double)o->k + 20.0),
                      "%s, %zu rows, k %zu, at (%zu, %zu): %.9g, not %.9g", ukr->name,
                      rows, o->k, r, j, got, want);
                error += (got - want) * (got - want);
            }
        }
    }
    CHECK(accumulate || sqrt(error) <= 5e-7 * sqrt(size),
          "%s, %zu rows, k %zu: the error is %.2g of the size", ukr->name, rows, o->k,
          sqrt(error / size));
    for (size_t r = 0; r < HEIGHT; r++) { /* columns from 32 on are not its own */
        const size_t first = accumulate && r >= rows ? 0 : COLUMNS;
        for (size_t j = first; j < (r + 1 < HEIGHT ? LDC : COLUMNS); j++) {
            const bool same = vp_dtype_is_int(ukr->weight)
                                  ? ((int32_t *)c.data)[r * LDC + j] == 7
                                  : ((float *)c.data)[r * LDC + j] == 7.0f;
            CHECK(same, "%s, %zu rows, wrote to (%zu, %zu)", ukr->name, rows, r, j);
        }
    }
    check_memory_free(&c, ukr->name);
}

/* A row has the same bits in a tile of any height. */
static void check_heights(const vp_ukr *ukr, operands *o)
{
    check_memory all = product(ukr, o, HEIGHT, 0, true);
    for (size_t rows = 1; rows < HEIGHT; rows++) {
        check_memory some = product(ukr, o, rows, 64, true);
        for (size_t r = 0; r < rows; r++) {
            CHECK(memcmp((float *)some.data + r * LDC, (float *)all.data + r * LDC,
                         COLUMNS * sizeof(float)) == 0,
                  "%s, k %zu: row %zu of %zu has other bits than in %d", ukr->name,
                  o->k, r, rows, HEIGHT);
        }
        check_memory_free(&some, ukr->name);
    }
    check_memory_free(&all, ukr->name);
}

static void check_ukr(const vp_ukr *ukr)
{
    static const size_t ks[] = {1,  2,  3,   31,  32,   33,    63,
                                64, 65, 100, 768, 1000, MOST_K};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        operands o = make(ukr, ks[i]);
        for (size_t rows = 1; rows <= HEIGHT; rows += ks[i] > 100 ? 5 : 1) {
            check_product(ukr, &o, rows, false);
            check_product(ukr, &o, rows, true);
        }
        if (ks[i] <= 100) {
            check_heights(ukr, &o);
        }
        drop(&o);
    }
}

/* The greatest integers there are, and as many as a sum may have. */
static void check_extremes(const vp_ukr *ukr)
{
    const size_t k = VP_MOST_INT_INPUTS, lda = k / 4;
    uint8_t *a = vp_alloc(HEIGHT * k);
    int8_t *b = vp_alloc(k * COLUMNS);
    int32_t *c = vp_alloc(HEIGHT * COLUMNS * sizeof *c);
    memset(a, 255, HEIGHT * k);
    for (size_t i = 0; i < k * COLUMNS; i++) {
        b[i] = i / 4 % COLUMNS % 2 == 0 ? 127 : -127;
    }
    vp_ukr_enter(ukr);
    ukr->run(ukr, HEIGHT, k, a, lda, b, (float *)c, COLUMNS, false,
             &(vp_ahead){.panel = b});
    vp_ukr_leave(ukr);
    for (size_t i = 0; i < HEIGHT * COLUMNS; i++) {
        const int32_t want = (int32_t)k * 255 * 127 * (i % 2 == 0 ? 1 : -1);
        CHECK(c[i] == want, "%s: %d, not %d", ukr->name, c[i], want);
    }
    vp_free(a);
    vp_free(b);
    vp_free(c);
}

/* An infinity, a NaN and a denormal number stay in their row. */
static void check_own_row(const vp_ukr *ukr)
{
    operands o = make(ukr, 64);
    check_memory before = product(ukr, &o, HEIGHT, 0, false);
    const uint16_t odd[] = {0x7f80, 0x7fc0, 0x0001};
    for (size_t i = 0; i < 3; i++) {
        ((uint16_t *)o.rows.data)[(i + 4) * 2 * o.lda + 5] = odd[i];
    }
    check_memory after = product(ukr, &o, HEIGHT, 0, false);
    const float *was = before.data, *is = after.data;
    for (size_t r = 0; r < HEIGHT; r++) {
        const bool touched = memcmp(was + r * LDC, is + r * LDC, COLUMNS * 4) != 0;
        CHECK(touched == (r >= 4 && r < 7), "%s: row %zu", ukr->name, r);
    }
    CHECK(!isfinite(is[4 * LDC]) && isnan(is[5 * LDC]) && isfinite(is[6 * LDC]), "%s",
          ukr->name);
    check_memory_free(&before, ukr->name);
    check_memory_free(&after, ukr->name);
    drop(&o);
}

/* The real instructions beside their emulation: integers to the bit. */
static void check_real(const vp_ukr *real, const vp_ukr *emulated)
{
    static const size_t ks[] = {1, 33, 100, 768, MOST_K};
    size_t other = 0, all = 0;
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        operands o = make(real, ks[i]);
        for (size_t rows = 7; rows <= HEIGHT; rows += 25) {
            check_product(real, &o, rows, true);
            check_memory is = product(real, &o, rows, 0, true);
            check_memory was = product(emulated, &o, rows, 0, true);
            for (size_t n = 0; n < rows * COLUMNS; n++, all++) {
                const size_t at = n / COLUMNS * LDC + n % COLUMNS;
                other += ((uint32_t *)is.data)[at] != ((uint32_t *)was.data)[at];
            }
            check_memory_free(&is, real->name);
            check_memory_free(&was, emulated->name);
        }
        drop(&o);
    }
    (void)printf("%s: %zu of %zu numbers have other bits than the emulation's\n",
                 real->name, other, all);
    CHECK(other == 0 || !vp_dtype_is_int(real->weight), "%s", real->name);
}

int main(void)
{
    if (!vp_target_supported(VP_TARGET_avx512)) {
        (void)printf("no AVX-512 here, which the micro-kernels for AMX need as well\n");
        return check_done();
    }
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *real = vp_ukr_at(i), *ukr = emulated_ukr(real);
        const bool vnni = real->target == VP_TARGET_avxvnni &&
                          vp_target_supported(VP_TARGET_avx512vnni);
        CHECK((ukr != NULL) == (real->target == VP_TARGET_amx || vnni),
              "EMULATED_UKRS and VP_UKRS differ at %s", real->name);
        if (real->target != VP_TARGET_amx) { /* AVX-VNNI's: in test_ukr_low.c */
            continue;
        }
        (void)printf("%s, emulated\n", ukr->name);
        check_ukr(ukr);
        if (vp_dtype_is_int(ukr->weight)) {
            check_extremes(ukr);
        }
        if (ukr->rows == VP_ROWS_bf16) {
            check_own_row(ukr);
        }
        if (vp_target_enable(real->target)) {
            check_real(real, ukr);
        }
    }
    return check_done();
}
#else
int main(void)
{
    (void)printf("no x86: there is nothing of AMX to test\n");
    return 0;
}
#endif
