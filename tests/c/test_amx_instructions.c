/* The emulation of AMX's instructions: what Intel's manual says of each.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#if defined(VP_X86)
#include <sys/wait.h>

#include "amx_emulated.h"

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} configuration;

/* Tiles 0 (c), 1 (a), 2 (b): m rows, n columns of 4 bytes, k groups of 4 bytes. */
static configuration shapes(size_t m, size_t n, size_t k)
{
    return (configuration){
        .palette = 1,
        .row_bytes = {(uint16_t)(4 * n), (uint16_t)(4 * k), (uint16_t)(4 * n)},
        .rows = {(uint8_t)m, (uint8_t)m, (uint8_t)k}};
}

/* A child process that does this dies of it. */
static void check_refused(void (*how)(void), const char *what)
{
    int status = 0;
    (void)fflush(stderr);
    const pid_t child = fork();
    if (child == 0) {
        (void)!freopen("/dev/null", "w", stderr);
        how();
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "no process");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s is not refused",
          what);
}

static void load(const configuration *config)
{
    _tile_loadconfig(config);
}

static void refuse_palette(void)
{
    configuration config = shapes(16, 16, 16);
    config.palette = 2;
    load(&config);
}

static void refuse_reserved(void)
{
    configuration config = shapes(16, 16, 16);
    config.row_bytes[8] = 64;
    config.rows[8] = 16;
    load(&config);
}

static void refuse_large(void)
{
    const configuration config = shapes(17, 16, 16);
    load(&config);
}

static void refuse_no_bytes(void)
{
    const configuration config = shapes(16, 0, 16);
    load(&config);
}

static void refuse_released(void)
{
    const configuration config = shapes(16, 16, 16);
    load(&config);
    _tile_release();
    _tile_zero(0);
}

static void refuse_absent(void)
{
    const configuration config = shapes(16, 16, 16);
    load(&config);
    _tile_zero(3);
}

static void refuse_twice(void)
{
    const configuration config = shapes(16, 16, 16);
    load(&config);
    _tile_dpbusd(0, 1, 1);
}

static void refuse_shapes(void)
{
    configuration config = shapes(16, 16, 16);
    config.rows[2] = 15;
    load(&config);
    _tile_dpbf16ps(0, 1, 2);
}

/* A tile of 3 rows of 12 bytes: no other byte is read or written, in memory or of the tile. */
static void check_moves(void)
{
    const configuration config = shapes(3, 3, 5);
    uint8_t from[3][20], to[4][24];
    for (size_t i = 0; i < sizeof from; i++) {
        from[i / 20][i % 20] = (uint8_t)(i + 1);
    }
    memset(to, 0xee, sizeof to);
    load(&config);
    memset(amx.tile[0].data, 0xff, sizeof amx.tile[0].data);
    _tile_loadd(0, from, 20);
    _tile_stored(0, to, 24);
    for (size_t i = 0; i < sizeof to; i++) {
        const size_t r = i / 24, c = i % 24;
        const uint8_t want = r < 3 && c < 12 ? from[r][c] : 0xee;
        CHECK(to[r][c] == want, "byte %zu of row %zu: %u, not %u", c, r, to[r][c],
              want);
    }
    for (size_t r = 0; r < 16; r++) {
        for (size_t c = r < 3 ? 12 : 0; c < 64; c++) {
            CHECK(amx.tile[0].data[r][c] == 0, "a tile's rest is not nought");
        }
    }
    _tile_zero(0);
    _tile_stored(0, to, 24);
    CHECK(to[2][11] == 0, "a tile is not nought");
    _tile_release();
}

/* c + a b of one row and one column of k pairs. */
static float dot(float c, size_t pairs, const float *a, const float *b)
{
    const configuration config = shapes(1, 1, pairs);
    uint16_t x[32] = {0}, y[32] = {0};
    for (size_t i = 0; i < 2 * pairs; i++) {
        uint32_t bits;
        memcpy(&bits, a + i, sizeof bits);
        x[i] = (uint16_t)(bits >> 16);
        memcpy(&bits, b + i, sizeof bits);
        y[i] = (uint16_t)(bits >> 16);
    }
    load(&config);
    _tile_loadd(0, &c, 4);
    _tile_loadd(1, x, 64);
    _tile_loadd(2, y, 4);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, &c, 4);
    _tile_release();
    return c;
}

/* The order of sums, and what becomes of denormal numbers, infinities and NaN. */
static void check_dpbf16ps(void)
{
    const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f}, large = 0x1p24f;
    CHECK(dot(1.0f, 2, (float[]){2.0f, 3.0f, 4.0f, 5.0f}, ones) == 15.0f, "a sum");
    CHECK(dot(-large, 2, (float[]){large, 1.0f, 1.0f, 1.0f}, ones) == 2.0f,
          "even numbers, then odd ones, then c");
    CHECK(dot(0.0f, 2, (float[]){large, 1.0f, -large, 1.0f}, ones) == 2.0f,
          "odd numbers are summed apart");
    CHECK(dot(large, 1, (float[]){1.0f, 1.0f}, ones) == large + 2.0f,
          "a pair is summed before it is added");
    CHECK(dot(-1.0f, 1, (float[]){1.0f + 0x1p-7f, 0.0f},
              (float[]){1.0f + 0x1p-7f, 0.0f}) == 0x1p-6f + 0x1p-14f,
          "a product is not rounded by itself");
    CHECK(dot(0.0f, 1, (float[]){0x1p-127f, 0.0f}, (float[]){0x1p120f, 0.0f}) == 0.0f,
          "a denormal number of a");
    CHECK(dot(0.0f, 1, (float[]){0x1p120f, 0.0f}, (float[]){0x1p-127f, 0.0f}) == 0.0f,
          "a denormal number of b");
    CHECK(dot(0x1p-130f, 1, (float[]){0.0f, 0.0f}, ones) == 0.0f,
          "a denormal number of c");
    CHECK(dot(0.0f, 1, (float[]){0x1p-65f, 0.0f}, (float[]){0x1p-65f, 0.0f}) == 0.0f,
          "a denormal product");
    CHECK(dot(0.0f, 1, (float[]){0x1p-63f, 0.0f}, (float[]){0x1p-63f, 0.0f}) ==
              0x1p-126f,
          "the least normal product");
    CHECK(dot(1.0f, 1, (float[]){INFINITY, 1.0f}, ones) == INFINITY, "an infinity");
    CHECK(isnan(dot(1.0f, 1, (float[]){INFINITY, 1.0f}, (float[]){0.0f, 1.0f})),
          "an infinity times nought");
    CHECK(isnan(dot(1.0f, 1, (float[]){1.0f, NAN}, ones)), "NaN");
}

/* Unsigned times signed, 16 x 16 x 64, and modulo 2^32. */
static void check_dpbusd(void)
{
    const configuration config = shapes(16, 16, 16);
    uint8_t a[16][64];
    int8_t b[16][16][4];
    int32_t c[16][16], start[16][16];
    for (size_t i = 0; i < sizeof a; i++) {
        a[i / 64][i % 64] = (uint8_t)(255 - i * 37 % 256);
        b[i / 64][i / 4 % 16][i % 4] =
            (int8_t)(i % 5 == 0 ? -128 : (int)(i * 91 % 255) - 127);
    }
    for (size_t i = 0; i < 256; i++) {
        start[i / 16][i % 16] = i % 3 == 0 ? INT32_MAX : -(int32_t)i;
    }
    memcpy(c, start, sizeof c);
    load(&config);
    _tile_loadd(0, c, 64);
    _tile_loadd(1, a, 64);
    _tile_loadd(2, b, 64);
    _tile_dpbusd(0, 1, 2);
    _tile_stored(0, c, 64);
    _tile_release();
    for (size_t m = 0; m < 16; m++) {
        for (size_t n = 0; n < 16; n++) {
            int64_t sum = start[m][n];
            for (size_t k = 0; k < 64; k++) {
                sum += (int64_t)a[m][k] * b[k / 4][n][k % 4];
            }
            CHECK((uint32_t)c[m][n] == (uint32_t)sum, "dpbusd at (%zu, %zu)", m, n);
        }
    }
}

int main(void)
{
    check_refused(refuse_palette, "palette 2");
    check_refused(refuse_reserved, "a ninth tile");
    check_refused(refuse_large, "a tile of 17 rows");
    check_refused(refuse_no_bytes, "a tile of no bytes");
    check_refused(refuse_released, "a tile that is not configured");
    check_refused(refuse_absent, "a tile without rows");
    check_refused(refuse_twice, "a product of a tile and itself");
    check_refused(refuse_shapes, "a product of shapes that do not fit");
    check_moves();
    check_dpbf16ps();
    check_dpbusd();
    return check_done();
}
#else
int main(void)
{
    (void)printf("no x86: there is nothing of AMX to test\n");
    return 0;
}
#endif
