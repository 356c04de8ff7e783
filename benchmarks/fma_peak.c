/* SPDX-License-Identifier: Apache-2.0
 * The rate at which this machine multiplies and adds float32, from registers alone.
 *
 *     fma_peak THREADS SECONDS [BITS]  ->  one line: GFLOP/s of all threads together, with
 *                                  vectors of how many bits (BITS at most), and what AMX's
 *                                  tiles can do (0 without them)
 *
 * Twelve independent accumulators of the widest vectors the CPU has hide the latency of
 * the multiply-add; nothing is loaded in the loop, so this is a limit no GEMM can pass that
 * uses multiply-adds. On tiles a product of float32 takes six of bfloat16 (see
 * csrc/ukernels/gemm_f32f32_32x32x32__amx.c): that limit is a sixth of their rate, measured on numbers
 * that are not nought, since the tiles are faster on those.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 11
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TILES 1
#endif

#define INNER 2000
#define CHAINS 12

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));

/* One link of one chain; the empty asm keeps the sum in a register and the compiler from
 * foreseeing it. Named variables, since an array would be kept in memory. */
#define STEP(x)    \
    x = x * a + b; \
    __asm__ volatile("" : REGISTER(x))
#define LOOP(NAME, VEC, TARGET)                               \
    TARGET static void NAME(void)                             \
    {                                                         \
        VEC a = (VEC){0} + 0.999f, b = (VEC){0} + 1e-3f;      \
        VEC c0 = b, c1 = b, c2 = b, c3 = b, c4 = b, c5 = b;   \
        VEC c6 = b, c7 = b, c8 = b, c9 = b, c10 = b, c11 = b; \
        for (int n = 0; n < INNER; n++) {                     \
            STEP(c0);                                         \
            STEP(c1);                                         \
            STEP(c2);                                         \
            STEP(c3);                                         \
            STEP(c4);                                         \
            STEP(c5);                                         \
            STEP(c6);                                         \
            STEP(c7);                                         \
            STEP(c8);                                         \
            STEP(c9);                                         \
            STEP(c10);                                        \
            STEP(c11);                                        \
        }                                                     \
    }

#if defined(__x86_64__)
#define REGISTER "+v"
LOOP(run512, v16, __attribute__((target("avx512f,fma"))))
LOOP(run256, v8, __attribute__((target("avx2,fma"))))
#undef REGISTER
#define REGISTER "+x"
LOOP(run128, v4, )
#elif defined(__aarch64__)
#define REGISTER "+w"
LOOP(run128, v4, )
#else
#define REGISTER "+m"
LOOP(run128, v4, )
#endif

static void (*run)(void) = run128;
static int bits = 128;
static double seconds;
static pthread_barrier_t barrier;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#ifdef TILES
static int have_tiles(void)
{
    /* CPUID's AMX-TILE and AMX-BF16; then the kernel is asked for tiles */
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && (d >> 22 & 1) &&
           syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

__attribute__((target("amx-tile,amx-bf16"))) static void run_tiles(void)
{
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {
        1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    uint16_t numbers[512];
    for (unsigned i = 0; i < 512; i++) {
        numbers[i] = (uint16_t)(0x3f00 + i * 2654435761u % 256); /* 0.5 to 2 */
    }
    _tile_loadconfig(&config);
    _tile_loadd(4, numbers, 64);
    _tile_loadd(5, numbers, 64);
    _tile_loadd(6, numbers, 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int n = 0; n < INNER; n++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 5, 4);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 5, 6);
    }
    _tile_release();
}
#else
static int have_tiles(void)
{
    return 0;
}

static void run_tiles(void)
{
}
#endif

static double flop;

/* The best of ten slices: other work on the machine can only lower a rate. */
static void *work(void *out)
{
    double best = 0;
    pthread_barrier_wait(&barrier);
    for (int slice = 0; slice < 10; slice++) {
        long count = 0;
        double start = now(), end;
        do {
            for (int i = 0; i < 20; i++) {
                run();
            }
            count += 20;
            end = now();
        } while (end - start < seconds / 10);
        double rate = 1e-9 * flop * (double)count / (end - start);
        best = rate > best ? rate : best;
    }
    *(double *)out = best;
    return NULL;
}

/* GFLOP/s of `threads` threads that all call `run`. */
static double measure(int threads)
{
    pthread_t id[1024];
    double rate[1024], sum = 0;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        if (pthread_create(&id[i], NULL, work, &rate[i])) {
            exit(1);
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(id[i], NULL);
        sum += rate[i];
    }
    pthread_barrier_destroy(&barrier);
    return sum;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    seconds = argc > 2 ? atof(argv[2]) : 0.3;
    int most = argc > 3 ? atoi(argv[3]) : 512;
    if (threads < 1 || threads > 1024 || most < 128) {
        return 1;
    }
#if defined(__x86_64__)
    if (most >= 512 && __builtin_cpu_supports("avx512f")) {
        run = run512, bits = 512;
    } else if (most >= 256 && __builtin_cpu_supports("avx2") &&
               __builtin_cpu_supports("fma")) {
        run = run256, bits = 256;
    }
#endif
    flop = 2.0 * CHAINS * INNER * (bits / 32);
    const double sum = measure(threads);
    double tiles = 0;
    if (have_tiles()) {
        run = run_tiles;
        flop = 4 * 2.0 * 16 * 16 * 32 * INNER / 6;
        tiles = measure(threads);
    }
    printf("%.2f %d %.2f\n", sum, bits, tiles);
    return 0;
}
