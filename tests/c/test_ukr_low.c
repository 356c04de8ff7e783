/* Every micro-kernel of low precision that may run, on panels and rows made here, against sums in
 * double: integers are equal, floats within float32's rounding of what the rounded numbers give.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "check.h"
#include "emulated.h"
#include "kernels/kernels.h"
#include "ukernels/ukr.h"

enum { ROOM = 16 /* columns of c behind a tile */ };

typedef enum {
    RANDOM,
    DENORMAL, /* floats */
    LARGEST,  /* integers: each product is the largest that there is */
    LEAST     /* or the least */
} kind;

typedef struct {
    const vp_ukr *ukr;
    size_t rows, k, filled, lda, ldc;
    check_memory a; /* [rows][lda], 4 bytes each; no more than run may read */
    char *b;
    float *c;
    int32_t before; /* what c holds of integers */
} product;

static bool whole_numbers(const vp_ukr *ukr)
{
    return vp_dtype_is_int(ukr->weight);
}

/* -- numbers of each type, as double -- */

static double bf16_value(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

static double f16_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                        : exponent == 0 ? ldexp(fraction, -24)
                                        : ldexp(fraction + 1024, exponent - 25);
    return bits >> 15 ? -size : size;
}

static double row_value(const product *p, size_t row, size_t i)
{
    const char *at =
        (const char *)p->a.data + row * p->lda * 4 + i * vp_rows_bytes(p->ukr->rows);
    float f32;
    uint16_t bits;
    int16_t s16;
    switch (p->ukr->rows) {
    case VP_ROWS_f32:
        memcpy(&f32, at, sizeof f32);
        return (double)f32;
    case VP_ROWS_bf16:
        memcpy(&bits, at, sizeof bits);
        return bf16_value(bits);
    case VP_ROWS_s16:
        memcpy(&s16, at, sizeof s16);
        return s16;
    case VP_ROWS_s8:
        return (double)*(const int8_t *)at;
    default:
        return (double)*(const uint8_t *)at;
    }
}

/* Where number (i, column) of a panel is: a group of inputs lies side by side. */
static char *weight_at(const product *p, size_t i, size_t column)
{
    const size_t group = p->ukr->group;
    return p->b + ((i / group * p->ukr->nr + column) * group + i % group) *
                      vp_dtype_bytes(p->ukr->weight);
}

static double weight_value(const product *p, size_t i, size_t column)
{
    const char *at = weight_at(p, i, column);
    uint16_t bits;
    if (whole_numbers(p->ukr)) {
        return (double)*(const int8_t *)at;
    }
    memcpy(&bits, at, sizeof bits);
    return p->ukr->weight == VP_DTYPE_f16 ? f16_value(bits) : bf16_value(bits);
}

/* -- making them -- */

static int random_int(int from, int to)
{
    return from + (int)((double)(to - from + 1) * (0.5 * (double)check_random() + 0.5));
}

static uint16_t random_bits(bool f16, kind what)
{
    const int sign = random_int(0, 1) << 15;
    const int fraction = random_int(1, f16 ? 1023 : 127);
    const int exponent = what == DENORMAL ? 0
                         : f16            ? random_int(8, 16)
                                          : random_int(120, 128);
    return (uint16_t)(sign | exponent << (f16 ? 10 : 7) | fraction);
}

static void set_row(const product *p, size_t row, size_t i, kind what)
{
    char *at = (char *)p->a.data + row * p->lda * 4 + i * vp_rows_bytes(p->ukr->rows);
    const float f32 = 2.0f * check_random();
    const uint16_t bf16 = random_bits(false, what);
    const int levels = vp_levels(p->ukr->weight, p->k);
    const int16_t s16 = (int16_t)(what == RANDOM ? random_int(0, levels) : levels);
    switch (p->ukr->rows) {
    case VP_ROWS_f32:
        memcpy(at, &f32, sizeof f32);
        break;
    case VP_ROWS_bf16:
        memcpy(at, &bf16, sizeof bf16);
        break;
    case VP_ROWS_s16:
        memcpy(at, &s16, sizeof s16);
        break;
    case VP_ROWS_s8: /* so the largest times 127 is the least */
        *(int8_t *)at = (int8_t)(what == RANDOM ? s16 - 128 : -128);
        break;
    default:
        *(uint8_t *)at = (uint8_t)s16;
    }
}

static void set_weight(const product *p, size_t i, size_t column, kind what)
{
    char *at = weight_at(p, i, column);
    if (whole_numbers(p->ukr)) {
        *(int8_t *)at = (int8_t)(what == LARGEST ? 127
                                 : what == LEAST ? -127
                                                 : random_int(-127, 127));
    } else {
        const uint16_t bits = random_bits(p->ukr->weight == VP_DTYPE_f16, what);
        memcpy(at, &bits, sizeof bits);
    }
}

static size_t c_bytes(const product *p)
{
    return p->ukr->mr * p->ldc * sizeof(float);
}

/* Rows of an odd stride, which end where memory does; zeros fill them, and the panel, up. */
static product make(const vp_ukr *ukr, size_t rows, size_t k, kind what)
{
    product p = {.ukr = ukr, .rows = rows, .k = k, .filled = vp_ukr_filled(ukr, k)};
    const size_t row_bytes = p.filled * vp_rows_bytes(ukr->rows);
    /* Of other rows than float32 all mr may be read. */
    const size_t there = ukr->rows == VP_ROWS_f32 ? rows : ukr->mr;
    p.lda = vp_ceil_div(row_bytes, 4) + 3;
    p.ldc = ukr->nr + ROOM;
    p.a = check_memory_new((there - 1) * p.lda * 4 + row_bytes, true);
    p.b = vp_alloc(p.filled * ukr->panel_bytes + VP_UKR_SLACK);
    p.c = vp_alloc(c_bytes(&p));
    memset(p.a.data, 0, p.a.bytes);
    memset(p.b, 0, p.filled * ukr->panel_bytes);
    for (size_t i = 0; i < k; i++) {
        for (size_t row = 0; row < rows; row++) {
            set_row(&p, row, i, what);
        }
        for (size_t column = 0; column < ukr->nr; column++) {
            set_weight(&p, i, column, what);
        }
    }
    return p;
}

static void done(product *p)
{
    check_memory_free(&p->a, p->ukr->name);
    vp_free(p->b);
    vp_free(p->c);
}

/* Runs it in pieces of k, on a c of numbers that shine through where nothing is written. */
static void run(product *p, size_t piece, bool accumulate)
{
    const vp_ukr *ukr = p->ukr;
    const float before = 3.0f;
    p->before = 12345;
    for (size_t i = 0; i < c_bytes(p) / sizeof(float); i++) {
        memcpy(p->c + i, whole_numbers(ukr) ? (void *)&p->before : (void *)&before, 4);
    }
    vp_ahead ahead = {.panel = p->b, .k = p->k, .step = ukr->panel_bytes};
    void *split = NULL;
    if (ukr->split_panel != NULL) {
        split = vp_alloc(p->filled * ukr->panel_bytes);
        ukr->split_panel(&(vp_ahead){.panel = p->b, .k = p->k, .ready = split});
    }
    vp_ukr_enter(ukr);
    vp_ukr_run(ukr, piece, p->rows, p->k, p->a.data, p->lda,
               split != NULL ? split : p->b, p->c, p->ldc, accumulate, &ahead);
    vp_ukr_leave(ukr);
    vp_free(split);
}

/* -- what is checked -- */

static void check_sums(const product *p, bool accumulate, const char *what)
{
    const vp_ukr *ukr = p->ukr;
    for (size_t row = 0; row < p->rows; row++) {
        for (size_t column = 0; column < ukr->nr; column++) {
            double want = 0.0, size = 0.0;
            for (size_t i = 0; i < p->k; i++) {
                const double term = row_value(p, row, i) * weight_value(p, i, column);
                want += term;
                size += fabs(term);
            }
            const float *at = p->c + row * p->ldc + column;
            int32_t integer;
            memcpy(&integer, at, sizeof integer);
            if (whole_numbers(ukr)) {
                want += accumulate ? p->before : 0;
                CHECK((double)integer == want,
                      "%s, %zu rows, k %zu, %s: (%zu, %zu) is %d, not %.0f", ukr->name,
                      p->rows, p->k, what, row, column, integer, want);
                continue;
            }
            want += accumulate ? 3.0 : 0.0;
            size += accumulate ? 3.0 : 0.0;
            /* AVX512_BF16 and AMX take denormal numbers as 0. */
            const double error = 0x1p-22 * sqrt((double)p->k) * size +
                                 (ukr->rows == VP_ROWS_bf16 ? 0x1p-120 : 0x1p-149);
            CHECK((isnan(want) && isnan(*at)) || (double)*at == want ||
                      fabs((double)*at - want) <= error,
                  "%s, %zu rows, k %zu, %s: (%zu, %zu) is %.9g, not %.9g", ukr->name,
                  p->rows, p->k, what, row, column, (double)*at, want);
        }
    }
}

/* Columns behind the tile are nobody's; rows behind the last are the kernel's where rows are
 * not float32. */
static void check_outside(const product *p)
{
    const float before = 3.0f;
    const bool ours = p->ukr->rows != VP_ROWS_f32;
    for (size_t row = 0; row < p->ukr->mr; row++) {
        const size_t first = row < p->rows || ours ? p->ukr->nr : 0;
        for (size_t column = first; column < p->ldc; column++) {
            const float *at = p->c + row * p->ldc + column;
            CHECK(memcmp(at,
                         whole_numbers(p->ukr) ? (void *)&p->before : (void *)&before,
                         4) == 0,
                  "%s, %zu rows: it wrote to (%zu, %zu)", p->ukr->name, p->rows, row,
                  column);
        }
    }
}

/* All heights, lengths with every tail, alone and added to what is there, in one piece and
 * in several. */
static void check_shapes(const vp_ukr *ukr)
{
    static const size_t lengths[] = {1,  2,  3,  4,  5,  6,  7,   8,   15,
                                     16, 17, 31, 33, 64, 65, 127, 192, 250};
    for (size_t rows = 1; rows <= ukr->mr; rows++) {
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            const size_t k = lengths[l];
            product p = make(ukr, rows, k, RANDOM);
            for (size_t mode = 0; mode < 4; mode++) {
                const size_t piece = mode / 2 == 0 ? ukr->sum_piece : 2 * ukr->kr;
                run(&p, piece, mode % 2 != 0);
                check_sums(&p, mode % 2 != 0, "random numbers");
                check_outside(&p);
            }
            done(&p);
        }
    }
}

/* Sums of integers reach the last of 32 bits. */
static void check_extremes(const vp_ukr *ukr)
{
    static const size_t lengths[] = {768, 3072, 4093, VP_MOST_INT_INPUTS};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        for (kind what = LARGEST; what <= LEAST; what++) {
            const size_t rows = lengths[l] > 4096 ? 3 : ukr->mr;
            product p = make(ukr, rows, lengths[l], what);
            run(&p, ukr->sum_piece, false);
            check_sums(&p, false, what == LARGEST ? "the largest" : "the least");
            done(&p);
        }
    }
}

/* A row's sums are the same bits whatever the height of the tile. */
static void check_heights(const vp_ukr *ukr)
{
    static const size_t lengths[] = {5, 64, 250};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        product p = make(ukr, ukr->mr, lengths[l], RANDOM);
        float *all = vp_alloc(c_bytes(&p));
        run(&p, ukr->sum_piece, true);
        memcpy(all, p.c, c_bytes(&p));
        for (p.rows = 1; p.rows < ukr->mr; p.rows++) {
            run(&p, ukr->sum_piece, true);
            for (size_t row = 0; row < p.rows; row++) {
                CHECK(memcmp(p.c + row * p.ldc, all + row * p.ldc, ukr->nr * 4) == 0,
                      "%s, k %zu: row %zu has other sums in a tile of %zu rows",
                      ukr->name, p.k, row, p.rows);
            }
        }
        vp_free(all);
        done(&p);
    }
}

/* A conversion of its own makes what to_bf16 makes of every upper half of a number, below, on and
 * above the middle between two; x86's take denormal numbers as 0. */
static void check_convert(const vp_ukr *ukr)
{
    static const uint32_t lower[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1234};
    enum { COUNT = sizeof lower / sizeof *lower };
    for (uint32_t upper = 0; upper < 0x10000; upper++) {
        uint32_t bits[COUNT];
        float x[COUNT];
        uint16_t got[COUNT], want[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            bits[i] = upper << 16 | lower[i];
        }
        memcpy(x, bits, sizeof x);
        const size_t n = 1 + upper % COUNT;
        ukr->convert(got, x, n);
        vp_kernels_reference.to_bf16(want, x, n);
        for (size_t i = 0; i < n; i++) {
            bool right = got[i] == want[i];
#if defined(VP_X86)
            right |= fpclassify(x[i]) == FP_SUBNORMAL && got[i] == (want[i] & 0x8000);
#endif
            CHECK(right, "%s: %08x becomes %04x, not %04x", ukr->name, bits[i], got[i],
                  want[i]);
        }
    }
}

static void check_denormals(const vp_ukr *ukr)
{
    product p = make(ukr, ukr->mr, 96, DENORMAL);
    run(&p, ukr->sum_piece, false);
    check_sums(&p, false, "denormal numbers");
    done(&p);
}

/* Writes a float's upper half, or all of it, into a row. */
static void put(const product *p, size_t row, size_t i, float value)
{
    const size_t bytes = vp_rows_bytes(p->ukr->rows);
    memcpy((char *)p->a.data + row * p->lda * 4 + i * bytes,
           (const char *)&value + sizeof value - bytes, bytes);
}

/* NaN and infinity in a row, or in a column of weights, are that row's or column's alone. */
static void check_not_finite(const vp_ukr *ukr)
{
    enum { K = 66 };
    const size_t nan_row = ukr->mr - 1, inf_row = ukr->mr / 2, nan_column = 3;
    const uint16_t nan = ukr->weight == VP_DTYPE_f16 ? 0x7e01 : 0x7fc1;
    product p = make(ukr, ukr->mr, K, RANDOM);
    float *finite = vp_alloc(c_bytes(&p));
    run(&p, ukr->sum_piece, false);
    memcpy(finite, p.c, c_bytes(&p));
    put(&p, nan_row, K - 1, NAN);
    put(&p, inf_row, 5, -INFINITY);
    memcpy(weight_at(&p, 20, nan_column), &nan, sizeof nan);
    run(&p, ukr->sum_piece, false);
    check_sums(&p, false, "NaN and infinity");
    for (size_t row = 0; row < ukr->mr; row++) {
        for (size_t column = 0; column < ukr->nr; column++) {
            const float *at = p.c + row * p.ldc + column;
            const bool touched =
                row == nan_row || row == inf_row || column == nan_column;
            CHECK(touched ? !isfinite(*at)
                          : memcmp(at, finite + row * p.ldc + column, 4) == 0,
                  "%s: NaN or infinity elsewhere: (%zu, %zu) is %g", ukr->name, row,
                  column, (double)*at);
        }
    }
    vp_free(finite);
    done(&p);
}

int main(void)
{
    bool found[VP_DTYPE_COUNT] = {false};
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = testable_ukr(vp_ukr_at(i));
        if (ukr == NULL || ukr->weight == VP_DTYPE_f32) {
            continue;
        }
        found[ukr->weight] = true;
        check_reseed(i);
        check_shapes(ukr);
        check_heights(ukr);
        if (ukr->convert != NULL) {
            check_convert(ukr);
        }
        if (whole_numbers(ukr)) {
            check_extremes(ukr);
        } else {
            check_denormals(ukr);
            check_not_finite(ukr);
        }
    }
    for (int t = 1; t < VP_DTYPE_COUNT; t++) {
        CHECK(found[t], "no micro-kernel for %s", vp_dtype_title((vp_dtype)t));
    }
    return check_done();
}
