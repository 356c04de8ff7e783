/* test_kernels.c's tests of the kernels of low precision: float32 to 16 bits and back, rows to integers,
 * tiles of integers back. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_TEST_KERNELS_LOW_H
#define VP_TEST_KERNELS_LOW_H

#include <float.h>

#define LONGEST_ROW ((size_t)3072)

static size_t next_length(size_t n)
{
    return n < MOST ? n + 1 : n == MOST ? 768 : n == 768 ? LONGEST_ROW : n + 1;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Rows that an approximation, a sign, a rounding or a limit could spoil. */
enum {
    PLAIN,
    ODD_ONE, /* 7 rows: one odd number among random ones */
    ZEROS = ODD_ONE + 7,
    MINUS_ZEROS,
    EQUAL,
    EQUAL_NEGATIVE,
    NEGATIVE,
    POSITIVE,
    TOO_WIDE,   /* each is finite, their range is not */
    TINY,       /* 255 / range is not finite */
    JUST_TINY,  /* it is, and so is 32767 / range */
    DENORMAL,   /* all of them */
    TIES,       /* with 255 levels: x inverse is a number and a half */
    BOTH_UP,    /* with 255 levels: zero is rounded up, and so is the greatest: 256 */
    ROWS_OF_LOW /* how many there are */
};

static void fill_row(float *x, size_t n, size_t which)
{
    static const uint32_t odd_bits[7] = {
        0x7fc00000,             /* NaN */
        0xff800001,             /* a negative NaN, signalling */
        0x7f800000, 0xff800000, /* infinities */
        0x7f7fffff,             /* the greatest: all others round to one number */
        0x00000001, 0xfe000000  /* the least positive; a large negative one */
    };
    check_fill(x, n, 3.0f);
    if (which >= ODD_ONE && which < ZEROS) {
        x[n * 2 / 3] = float_of(odd_bits[which - ODD_ONE]);
    }
    for (size_t i = 0; i < n; i++) {
        switch (which) {
        case ZEROS:
        case MINUS_ZEROS:
            x[i] = which == ZEROS ? 0.0f : -0.0f;
            break;
        case EQUAL:
        case EQUAL_NEGATIVE:
            x[i] = which == EQUAL ? 0.3f : -1.7f;
            break;
        case NEGATIVE:
        case POSITIVE:
            x[i] = copysignf(x[i], which == NEGATIVE ? -1.0f : 1.0f);
            break;
        case TOO_WIDE:
            x[i] = i % 2 == 0 ? 3e38f : -3e38f;
            break;
        case TINY:
            x[i] *= 1e-38f;
            break;
        case JUST_TINY:
            x[i] *= 1e-34f;
            break;
        case DENORMAL:
            x[i] = copysignf(float_of((uint32_t)(fabsf(x[i]) * 1e6f)), x[i]);
            break;
        case TIES: /* range 255 where n > 1 */
            x[i] = i == 0 ? 155.0f : i == 1 ? -100.0f : (float)(i % 254) - 99.5f;
            break;
        case BOTH_UP:
            x[i] = i % 2 == 0 ? 127.5f : -127.5f;
            break;
        default:
            break;
        }
    }
}

/* -- to 16 bits -- */

typedef void convert(uint16_t *y, const float *x, size_t n);

static void same_halves(const uint16_t *got, const uint16_t *want, const float *x,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        CHECK(got[i] == want[i], "%s %s[%zu of %zu] of %a: %04x, not %04x", target,
              kernel, i, n, (double)x[i], got[i], want[i]);
    }
}

static void test_convert(convert *run, convert *plainly)
{
    static uint16_t want[LONGEST_ROW];
    for (size_t n = 1; n <= LONGEST_ROW; n = next_length(n)) {
        check_memory mx, my = check_memory_new(n * sizeof *want, at_end);
        float *x = room(&mx, n);
        for (size_t which = 0; which < ROWS_OF_LOW; which++) {
            fill_row(x, n, which);
            plainly(want, x, n);
            run(my.data, x, n);
            same_halves(my.data, want, x, n);
        }
        check_memory_free(&mx, "x of a conversion");
        check_memory_free(&my, "y of a conversion");
    }
    /* Every sign and exponent, with every mantissa of seven bits, and below them what lies on,
     * before and behind the ties of both types, and a little of NaN's payload. */
    static const uint32_t low[] = {0,      1,      0xfff,  0x1000, 0x1001, 0x2fff,
                                   0x3000, 0x3001, 0x4fff, 0x5000, 0x5001, 0x7fff,
                                   0x8000, 0x8001, 0xefff, 0xf000, 0xf001, 0xffff};
    enum { LOW = sizeof low / sizeof *low };
    for (uint32_t high = 0; high < 0x10000; high += LONGEST_ROW / LOW) {
        float x[LONGEST_ROW] = {0};
        uint16_t got[LONGEST_ROW];
        for (uint32_t i = 0; i < LONGEST_ROW / LOW * LOW; i++) {
            x[i] = float_of((high + i / LOW) << 16 | low[i % LOW]);
        }
        plainly(want, x, LONGEST_ROW);
        run(got, x, LONGEST_ROW);
        same_halves(got, want, x, LONGEST_ROW);
    }
}

/* What IEEE 754 says of some numbers, to hold plain C to. */
static void known(convert *run, const uint32_t (*pairs)[2], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float x = float_of(pairs[i][0]);
        uint16_t got;
        run(&got, &x, 1);
        CHECK(got == pairs[i][1], "%s %s of %a: %04x, not %04x", target, kernel,
              (double)x, got, pairs[i][1]);
    }
}

static void test_to_bf16(void)
{
    static const uint32_t pairs[][2] = {
        {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, /* ties: down, up */
        {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {0x7f7fffff, 0x7f80},
        {0x7f7f7fff, 0x7f7f}, /* beyond the greatest; the greatest */
        {0x00012345, 0x0001}, {0x80018000, 0x8002}, /* denormals are kept */
        {0x7f800000, 0x7f80}, {0xff800001, 0xffc0}, /* a NaN does not become infinity */
        {0x7fffffff, 0x7fff}, {0x80000000, 0x8000}};
    test_convert(fast->to_bf16, plain->to_bf16);
    known(fast->to_bf16, pairs, sizeof pairs / sizeof *pairs);
}

static void test_to_f16(void)
{
    static const uint32_t pairs[][2] = {
        {0x3f800000, 0x3c00}, {0x3f801000, 0x3c00}, /* ties: down, up */
        {0x3f803000, 0x3c02}, {0x3f801001, 0x3c01},
        {0x477fe000, 0x7bff}, {0x477fefff, 0x7bff}, /* 65504, below 65520 */
        {0x477ff000, 0x7c00}, {0xff800000, 0xfc00}, /* 65520, -infinity */
        {0x38800000, 0x0400}, {0x387fc000, 0x03ff}, /* 2^-14; the greatest denormal */
        {0x33000000, 0x0000}, {0x33000001, 0x0001}, /* 2^-25 is a tie with 0 */
        {0xb3c00000, 0x8002}, {0x7f800001, 0x7e00}, /* 1.5 steps; NaN */
        {0xffffffff, 0xffff}, {0x80000001, 0x8000}};
    test_convert(fast->to_f16, plain->to_f16);
    known(fast->to_f16, pairs, sizeof pairs / sizeof *pairs);
}

/* -- from 16 bits -- */

static void same_floats(const float *got, const float *want, const uint16_t *x,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits[2];
        memcpy(&bits[0], &got[i], sizeof *bits);
        memcpy(&bits[1], &want[i], sizeof *bits);
        CHECK(bits[0] == bits[1], "%s %s[%zu of %zu] of %04x: %08x, not %08x", target,
              kernel, i, n, x[i], bits[0], bits[1]);
    }
}

static void test_from_f16(void)
{
    enum { ALL = 0x10000 };
    static uint16_t halves[ALL], back[ALL];
    static float want[ALL], got[ALL];
    for (size_t i = 0; i < ALL; i++) {
        halves[i] = (uint16_t)i;
    }
    plain->from_f16(want, halves, ALL);
    fast->from_f16(got, halves, ALL);
    same_floats(got, want, halves, ALL);
    fast->to_f16(back, got, ALL);
    for (size_t i = 0; i < ALL; i++) {
        const unsigned nan = (i & 0x7fff) > 0x7c00 ? 0x200 : 0; /* becomes quiet */
        CHECK(back[i] == (i | nan), "%s %s of %04zx: %a, which is %04x", target, kernel,
              i, (double)got[i], back[i]);
    }
    for (size_t n = 1; n <= LONGEST_ROW; n = next_length(n)) {
        check_memory mx = check_memory_new(n * sizeof *halves, at_end), my;
        uint16_t *x = mx.data;
        float *y = room(&my, n);
        for (size_t i = 0; i < n; i++) {
            x[i] = (uint16_t)(i * 40503 + n);
        }
        plain->from_f16(want, x, n);
        fast->from_f16(y, x, n);
        same_floats(y, want, x, n);
        check_memory_free(&mx, "x of a conversion");
        check_memory_free(&my, "y of a conversion");
    }
    /* What IEEE 754 says of some, to hold plain C to. */
    static const uint32_t pairs[][2] = {
        {0x3c00, 0x3f800000}, {0xc000, 0xc0000000}, {0x3c01, 0x3f802000},
        {0x7bff, 0x477fe000}, {0x0400, 0x38800000}, /* 65504, 2^-14 */
        {0x03ff, 0x387fc000}, {0x8001, 0xb3800000}, /* denormals */
        {0x0000, 0x00000000}, {0x8000, 0x80000000}, {0x7c00, 0x7f800000},
        {0xfc00, 0xff800000}, {0x7c01, 0x7fc02000}, {0xffff, 0xffffe000}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const uint16_t x = (uint16_t)pairs[i][0];
        const float y = float_of(pairs[i][1]);
        fast->from_f16(got, &x, 1);
        same_floats(got, &y, &x, 1);
    }
}

/* -- to integers -- */

/* What the list promises of a row, from x, q, scale and zero alone. */
static void is_quantized(const float *x, const int32_t *q, size_t n, int32_t levels,
                         float scale, int32_t zero)
{
    float lo = 0.0f, hi = 0.0f;
    bool nan = false;
    for (size_t i = 0; i < n; i++) {
        nan = nan || isnan(x[i]);
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    const double range = (double)hi - lo, step = (double)scale;
    CHECK(isnan(scale) == (nan || range > (double)FLT_MAX), "%s %s: scale %g of %g",
          target, kernel, step, range);
    if (isnan(scale) || scale == 0.0f) {
        CHECK(isnan(scale) || range < 1.0001 * levels / (double)FLT_MAX,
              "%s %s: no scale for %g", target, kernel, range);
        for (size_t i = 0; i < n; i++) {
            CHECK(q[i] == 0, "%s %s: %d where nothing is left", target, kernel, q[i]);
        }
        CHECK(zero == 0, "%s %s: a zero of %d", target, kernel, zero);
        return;
    }
    CHECK(zero >= 0 && zero <= levels, "%s %s: a zero of %d", target, kernel, zero);
    CHECK(fabs(range / step - levels) < 1e-3 * levels, "%s %s: %g levels", target,
          kernel, range / step);
    /* roundings on the way, of which a denormal scale's is the largest */
    const double eps = levels * (0x1p-22 + 0x1p-150 / step);
    for (size_t i = 0; i < n; i++) {
        const double error = fabs((double)x[i] - step * (q[i] - zero));
        CHECK(q[i] >= 0 && q[i] <= levels, "%s %s: %d", target, kernel, q[i]);
        CHECK(error <= step * (0.5 + eps),
              "%s %s[%zu of %zu]: %d of %a: off by %g steps", target, kernel, i, n,
              q[i], (double)x[i], error / step);
        CHECK(x[i] != 0.0f || q[i] == zero, "%s %s: 0 becomes %d, not %d", target,
              kernel, q[i], zero);
    }
}

static void same_scale(const float *scale, const int32_t *zero)
{
    compare(&scale[1], &scale[0], 1, 0, 0);
    CHECK(zero[0] == zero[1], "%s %s: zero %d, not %d", target, kernel, zero[1],
          zero[0]);
}

/* Every row, with as many levels as the core has. */
static void test_rows(bool bytes)
{
    static const int32_t levels[] = {255, 5504, 22017, 32767};
    static int32_t q[LONGEST_ROW];
    static uint8_t want_u8[LONGEST_ROW];
    static int16_t want_s16[LONGEST_ROW];
    const size_t most = bytes ? 1 : sizeof levels / sizeof *levels;
    for (size_t n = 1; n <= LONGEST_ROW; n = next_length(n)) {
        check_memory mx, mq = check_memory_new(n * (bytes ? 1 : 2), at_end);
        float *x = room(&mx, n), scale[2];
        int32_t zero[2];
        for (size_t c = 0; c < most * ROWS_OF_LOW; c++) {
            const int32_t top = levels[c % most];
            fill_row(x, n, c / most);
            memset(mq.data, CHECK_BYTE, mq.bytes);
            plain->quantize_u8(want_u8, x, n, &scale[0], &zero[0]);
            if (bytes) {
                fast->quantize_u8(mq.data, x, n, &scale[1], &zero[1]);
            } else {
                plain->quantize_s16(want_s16, x, n, top, &scale[0], &zero[0]);
                fast->quantize_s16(mq.data, x, n, top, &scale[1], &zero[1]);
            }
            same_scale(scale, zero);
            for (size_t i = 0; i < n; i++) {
                const int32_t want = bytes ? want_u8[i] : want_s16[i];
                q[i] = bytes ? ((uint8_t *)mq.data)[i] : ((int16_t *)mq.data)[i];
                CHECK(q[i] == want, "%s %s[%zu of %zu], row %zu, %a: %d, not %d",
                      target, kernel, i, n, c / most, (double)x[i], q[i], want);
                CHECK(top != 255 || q[i] == want_u8[i],
                      "%s %s: other integers than u8's", target, kernel);
            }
            is_quantized(x, q, n, top, scale[1], zero[1]);
        }
        check_memory_free(&mx, "x of a row");
        check_memory_free(&mq, "q of a row");
    }
}

static void test_quantize_u8(void)
{
    test_rows(true);
}

static void test_quantize_s16(void)
{
    test_rows(false);
}

static int32_t random_int(void)
{
    return (int32_t)(check_random() * 0x1p31f);
}

static void test_dequantize(void)
{
    enum { ROWS = 32, COLS = 40, GAP = 3 };
    static const size_t heights[] = {1, 2, 5, 14, ROWS};
    for (size_t c = 0; c < 2 * sizeof heights / sizeof *heights * COLS; c++) {
        const size_t cols = c % COLS + 1, rows = heights[c / COLS % 5];
        const size_t ldc = cols + (c / COLS / 5) * GAP;
        const size_t size = (rows - 1) * ldc + cols;
        check_memory mt, mr, mz, ms, mu;
        float *tile = room(&mt, size), want[ROWS * (COLS + GAP)];
        float *row_scale = room(&mr, rows), *scale = room(&ms, cols);
        mz = check_memory_new(rows * sizeof(int32_t), at_end);
        mu = check_memory_new(cols * sizeof(int32_t), at_end);
        int32_t *zero = mz.data, *sum = mu.data;
        check_fill(row_scale, rows, 1e-2f);
        check_fill(scale, cols, 1e-3f);
        row_scale[rows / 2] = c % 3 == 0 ? NAN : 1.0f;
        for (size_t i = 0; i < size; i++) {
            const int32_t v = i % 5 == 0 ? (int32_t)i - 7 : random_int();
            memcpy(&tile[i], &v, sizeof v);
        }
        for (size_t i = 0; i < rows; i++) {
            zero[i] = (int32_t)((check_random() + 1.0f) * 16383.0f);
        }
        for (size_t i = 0; i < cols; i++) {
            sum[i] = random_int() / 1024; /* times zero: beyond 2^31, and back */
        }
        memcpy(want, tile, size * sizeof *tile);
        plain->dequantize(want, ldc, rows, cols, row_scale, zero, scale, sum);
        fast->dequantize(tile, ldc, rows, cols, row_scale, zero, scale, sum);
        compare(tile, want, size, 0, 0);
        check_memory_free(&mt, "tile");
        check_memory_free(&mr, "row_scale");
        check_memory_free(&mz, "zero");
        check_memory_free(&ms, "scale");
        check_memory_free(&mu, "sum");
    }
    /* 2 1 - 3 5 = -13 and 2^31 - 1 + 1 = -2^31, by scales of 1/2 */
    float tile[2];
    memcpy(tile, (int32_t[2]){2, INT32_MAX}, sizeof tile);
    fast->dequantize(tile, 2, 1, 2, (float[]){0.5f}, (int32_t[]){3},
                     (float[]){1.0f, 0.25f}, (int32_t[]){5, 0x55555555});
    CHECK(tile[0] == -6.5f && tile[1] == -0x1p28f, "%s: %g and %g", target,
          (double)tile[0], (double)tile[1]);
}

#endif
