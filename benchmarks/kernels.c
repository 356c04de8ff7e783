/* SPDX-License-Identifier: Apache-2.0
 * How fast and how exact is every line of VP_KERNELS and VP_UKRS on this CPU?
 *
 *     kernels  ->  this CPU's section of csrc/kernels/README.md, in Markdown
 *
 * One thread. Micro-kernels are measured against the multiply-adds that fma_peak, which lies
 * beside this program, does from registers; element-wise kernels, with their data in L1 and
 * in memory, against the better of memcpy and a sum of two arrays. A rate is the best of many
 * short slices, since other work on the machine can only lower one. An error is against plain C in double, in ulp of the largest
 * value of its row. A kernel without a case here does not compile.
 */
#include <time.h>

#include "base/memory.h"
#include "check.h"
#include "gemm/gemm.h"
#include "gemm/operand.h"

/* Seconds that this thread has run: what others do on its core does not count. */
static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double time_of(void (*work)(void *), void *ctx, size_t count)
{
    const double start = now();
    for (size_t i = 0; i < count; i++) {
        work(ctx);
    }
    return now() - start;
}

/* The least time of one call of `work`, of slices of some 0.5 ms in 50 ms. */
static double best_time(void (*work)(void *), void *ctx)
{
    double best = INFINITY;
    size_t count = 1;
    while (time_of(work, ctx, count) <
           5e-4) { /* brings its data to where they will be, too */
        count *= 2;
    }
    for (const double end = now() + 0.05; now() < end;) {
        best = fmin(best, time_of(work, ctx, count) / (double)count);
    }
    return best;
}

static void *memory(size_t bytes)
{
    void *p = vp_alloc(bytes);
    if (p == NULL) {
        (void)fprintf(stderr, "no memory\n");
        exit(1);
    }
    return p;
}

static float *random_numbers(size_t count)
{
    float *x = memory(count * sizeof(float));
    check_fill(x, count, 1.0f);
    return x;
}

/* The errors of many numbers, in ulp. */
typedef struct {
    double worst, sum, count;
} errors;

static void add_row(errors *e, const float *got, const float *want, size_t n)
{
    double size = 0.0;
    for (size_t i = 0; i < n; i++) {
        size = fmax(size, fabs((double)want[i]));
    }
    for (size_t i = 0; i < n; i++) {
        const double ulps = check_ulps(got[i], want[i], size);
        e->worst = fmax(e->worst, ulps);
        e->sum += ulps;
    }
    e->count += (double)n;
}

/* -- micro-kernels -- */

/* GFLOP/s of one thread from registers, with vectors of so many bits at most; 0: on tiles. */
static double peak(const char *folder, int bits)
{
    char command[512], line[128];
    double best = 0.0, vectors, tiles;
    int used;
    (void)snprintf(command, sizeof command, "'%s/fma_peak' 1 0.01 %d", folder,
                   bits > 0 ? bits : 128);
    for (int i = 0; i < 20; i++) {
        FILE *pipe = popen(command, "r");
        if (pipe == NULL || fgets(line, sizeof line, pipe) == NULL ||
            sscanf(line, "%lf %d %lf", &vectors, &used, &tiles) != 3) {
            (void)fprintf(stderr, "%s does not run\n", command);
            exit(1);
        }
        (void)pclose(pipe);
        best = fmax(best, bits > 0 ? vectors : tiles);
    }
    return best;
}

/* What the target's vectors, or tiles, can do. */
static double peak_of(const char *folder, vp_target target)
{
    static double known[VP_TARGET_COUNT];
    if (known[target] == 0.0) {
        const vp_kernels *table = vp_kernels_for(target);
        known[target] =
            strcmp(vp_target_name(target), "amx") == 0             ? peak(folder, 0)
            : table == vp_kernels_for(VP_TARGET_baseline)          ? peak(folder, 128)
            : table == vp_kernels_for(vp_target_from_name("avx2")) ? peak(folder, 256)
                                                                   : peak(folder, 512);
    }
    return known[target];
}

/* What a micro-kernel can do at best, GFLOP/s, a multiply-add counting two of whatever type: as many
 * times float32's as inputs of a column are multiplied at once; of tiles fma_peak tells a sixth of
 * bfloat16's. */
static double most_of(const char *folder, const vp_ukr *ukr)
{
    const bool tiles =
        ukr->rows != VP_ROWS_f32 && strcmp(vp_target_name(ukr->target), "amx") == 0;
    return peak_of(folder, ukr->target) * (double)ukr->group * (tiles ? 3 : 1);
}

typedef struct {
    const vp_ukr *ukr;
    const void *strip, *panel;
    size_t k, lda;
    float *c;
} tile;

static void run_tile(void *ctx)
{
    const tile *t = ctx;
    vp_ahead nothing = {.panel = t->panel};
    vp_ukr_run(t->ukr, t->ukr->sum_piece, t->ukr->mr, t->k, t->strip, t->lda, t->panel,
               t->c, t->ukr->nr, false, &nothing);
}

/* The numbers that a micro-kernel's rows are, of those which they were made of. */
static void round_rows(const vp_ukr *ukr, const void *rows, float *a, size_t count)
{
    const uint16_t *halves = rows;
    for (size_t i = 0; ukr->rows == VP_ROWS_bf16 && i < count; i++) {
        const uint32_t bits = (uint32_t)halves[i] << 16;
        memcpy(a + i, &bits, sizeof bits);
    }
}

/* The rate of full tiles of 768 inputs that lie in the caches, and, of floats, their error
 * beside sums in double of what was rounded to the types of rows and weights. */
static double measure_tile(const vp_ukr *ukr, errors *e)
{
    const size_t k = 768, mr = ukr->mr, nr = ukr->nr;
    float *a = random_numbers(mr * k), *b = random_numbers(nr * k);
    float *c = memory(mr * nr * sizeof(float)), *want = memory(nr * sizeof(float));
    void *strip = memory(mr * k * sizeof(float) + k * ukr->strip_bytes + VP_UKR_SLACK);
    void *panel = memory(k * ukr->panel_bytes + VP_UKR_SLACK);
    vp_packed w;
    if (vp_packed_init(&w, ukr, nr, k) != 0) {
        exit(1);
    }
    vp_pack(&w, b);
    vp_unpack(&w, b);
    tile t = {.ukr = ukr, .strip = a, .panel = w.data, .k = k, .lda = k, .c = c};
    if (ukr->pack_strip != NULL) {
        ukr->pack_strip(ukr, strip, a, k, mr, k);
        t.strip = strip;
    } else if (ukr->rows != VP_ROWS_f32) {
        for (size_t i = 0; i < mr; i++) {
            char *to = (char *)strip + i * k * vp_rows_bytes(ukr->rows);
            float scale;
            int32_t zero;
            vp_operand_row(&vp_kernels_reference, ukr, to, a + i * k, k, &scale, &zero);
        }
        round_rows(ukr, strip, a, mr * k);
        t.strip = strip;
        t.lda = vp_ukr_words(ukr, k);
    }
    if (ukr->split_panel != NULL) {
        ukr->split_panel(&(vp_ahead){.panel = w.data, .k = k, .ready = panel});
        t.panel = panel;
    }
    vp_ukr_enter(ukr);
    const double seconds = best_time(run_tile, &t);
    vp_ukr_leave(ukr);
    for (size_t i = 0; i < mr && !vp_dtype_is_int(ukr->weight); i++) {
        for (size_t j = 0; j < nr; j++) {
            double sum = 0.0;
            for (size_t l = 0; l < k; l++) {
                sum += (double)a[i * k + l] * b[j * k + l];
            }
            want[j] = (float)sum;
        }
        add_row(e, c + i * nr, want, nr);
    }
    vp_packed_free(&w);
    vp_free(a);
    vp_free(b);
    vp_free(c);
    vp_free(want);
    vp_free(strip);
    vp_free(panel);
    return 2e-9 * (double)(mr * nr * k) / seconds;
}

typedef struct {
    vp_run run;
    vp_gemm gemm;
} product;

static void run_product(void *ctx)
{
    const product *p = ctx;
    vp_gemm_run(&p->run, &p->gemm);
}

/* The rate of a whole product: 197 tokens times 768 x 768, as in ViT-B. */
static double measure_product(const vp_ukr *ukr)
{
    const size_t m = 197, width = 768;
    vp_team team;
    vp_set_num_threads(1);
    (void)vp_team_open(&team);
    vp_packed w;
    float *a = random_numbers(m * vp_row_stride(width));
    float *numbers = random_numbers(width * width);
    float *out = memory(m * vp_row_stride(width) * sizeof(float));
    if (vp_packed_init(&w, ukr, width, width) != 0) {
        exit(1);
    }
    vp_pack(&w, numbers);
    product p = {.run = {.team = &team, .kernels = vp_kernels_for(ukr->target)}};
    vp_scratch_max(&p.run.per_worker, vp_gemm_scratch(&w, m, false));
    p.run.scratch = memory(p.run.per_worker);
    p.run.operand_bytes = vp_operand_bytes(&w, m);
    p.run.operand = memory(p.run.operand_bytes);
    p.gemm = (vp_gemm){.m = m, .a = a, .lda = vp_row_stride(width), .w = &w};
    p.gemm.finish = (vp_finish){.out = out, .out_stride = vp_row_stride(width)};
    const double seconds = best_time(run_product, &p);
    vp_packed_free(&w);
    vp_free(a);
    vp_free(numbers);
    vp_free(out);
    vp_free(p.run.scratch);
    vp_free(p.run.operand);
    vp_team_close(&team);
    return 2e-9 * (double)(m * width * width) / seconds;
}

static void print_ukrs(const char *folder)
{
    (void)printf("| micro-kernel | tile | GFLOP/s | of the peak | 197 x 768 x 768, "
                 "GFLOP/s | of the "
                 "peak | worst, ulp | mean |\n| --- | --- | --: | --: | --: | --: | "
                 "--: | --: |\n");
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = vp_ukr_at(i);
        if (!vp_target_enable(ukr->target)) {
            continue;
        }
        errors e = {0};
        const double most = most_of(folder, ukr);
        const double alone = measure_tile(ukr, &e), whole = measure_product(ukr);
        (void)printf("| `%s` | %zu x %zu | %.1f | %.0f %% | %.1f | %.0f %% |",
                     ukr->name, ukr->mr, ukr->nr, alone, 100.0 * alone / most, whole,
                     100.0 * whole / most);
        if (vp_dtype_is_int(ukr->weight)) {
            (void)printf(" exact | |\n");
        } else {
            (void)printf(" %.1f | %.2f |\n", e.worst, e.sum / e.count);
        }
    }
}

/* -- element-wise kernels, row by row -- */

#define COLS ((size_t)768)
#define ROW (COLS * sizeof(float))
#define L1_ROWS ((size_t)2)         /* x and y: 12 KiB */
#define MEMORY_ROWS ((size_t)32768) /* x and y: 192 MiB */
#define ERROR_ROWS ((size_t)64)
#define AT_ONCE ((size_t)64) /* rows in a slice, at most */

/* One row: y from x, with weights and a bias. */
typedef struct {
    float *y;
    const float *x, *w, *b;
} row;

/* A case runs its kernel on a row in the `variant`-th way in which the core uses it. It gives
 * the bytes read and written (0: no such variant), and names the variant. */
typedef size_t kernel_case(const vp_kernels *kernels, const row *r, size_t variant,
                           const char **name);

static size_t case_layer_norm(const vp_kernels *kernels, const row *r, size_t variant,
                              const char **name)
{
    (void)name;
    kernels->layer_norm(r->y, r->x, r->w, r->b, COLS, 1e-6f);
    return variant < 1 ? 2 * ROW : 0;
}

static size_t case_rms_norm(const vp_kernels *kernels, const row *r, size_t variant,
                            const char **name)
{
    (void)name;
    kernels->rms_norm(r->y, r->x, r->w, COLS, 1e-6f);
    return variant < 1 ? 2 * ROW : 0;
}

static size_t case_softmax(const vp_kernels *kernels, const row *r, size_t variant,
                           const char **name)
{
    (void)name;
    kernels->softmax(r->y, COLS, 8.0f);
    return variant < 1 ? 2 * ROW : 0;
}

static size_t case_softmax_block(const vp_kernels *kernels, const row *r,
                                 size_t variant, const char **name)
{
    float max = -INFINITY, sum = 0.0f, shrink;
    (void)name;
    kernels->softmax_block(r->y, COLS, 8.0f, &max, &sum, &shrink);
    return variant < 1 ? 2 * ROW : 0;
}

static size_t case_add(const vp_kernels *kernels, const row *r, size_t variant,
                       const char **name)
{
    (void)name;
    kernels->add(r->y, r->x, COLS);
    return variant < 1 ? 3 * ROW : 0;
}

static size_t case_maximum(const vp_kernels *kernels, const row *r, size_t variant,
                           const char **name)
{
    (void)name;
    kernels->maximum(r->y, r->x, COLS);
    return variant < 1 ? 3 * ROW : 0;
}

static size_t case_axpby(const vp_kernels *kernels, const row *r, size_t variant,
                         const char **name)
{
    kernels->axpby(r->y, 0.7f, r->x, variant == 0 ? 0.3f : 0.0f, COLS);
    *name = variant == 0 ? "" : ", b = 0";
    return variant < 2 ? (3 - variant) * ROW : 0;
}

static size_t case_transpose(const vp_kernels *kernels, const row *r, size_t variant,
                             const char **name)
{
    /* a row as 24 rows of 32 */
    kernels->transpose(r->y, 24, r->x, 32, 24, 32);
    *name = ", 24 x 32";
    return variant < 1 ? 2 * ROW : 0;
}

static size_t case_finish(const vp_kernels *kernels, const row *r, size_t variant,
                          const char **name)
{
    /* a row as a tile of 24 rows of 32 */
    static const char *const names[] = {", bias", ", bias and GELU",
                                        ", bias, scale and residual"};
    vp_finish how = {
        .bias = r->b, .out = r->y, .out_stride = 32, .residual_stride = 32};
    how.act = variant == 1 ? VP_ACT_GELU : VP_ACT_NONE;
    how.scale = variant == 2 ? r->w : NULL;
    how.residual = variant == 2 ? r->y : NULL;
    kernels->finish(r->x, 32, 24, 32, &how);
    *name = variant < 3 ? names[variant] : "";
    return variant < 3 ? (variant < 2 ? 2 : 3) * ROW : 0;
}

#include "kernels_backward.h"
#include "kernels_low.h"

static size_t case_rotate(const vp_kernels *kernels, const row *r, size_t variant,
                          const char **name)
{
    /* a row as 12 heads of 64, of one table; or half of it as 6, of one each */
    static const char *const names[] = {", interleaved", ", half", ", 6 tables"};
    static float tables[2][6 * 128];
    const bool half = variant == 1, own = variant == 2;
    for (size_t i = 0; tables[half][6 * 128 - 1] == 0.0f && i < 6 * 128; i++) {
        const bool minus = half ? i % 128 < 96 : i % 2 == 0;
        tables[half][i] = i % 128 < 64 ? 0.6f : minus ? -0.8f : 0.8f;
    }
    kernels->rotate(r->y, own ? 6 : 12, 64, tables[half], own ? 128 : 0, half, false);
    *name = variant < 3 ? names[variant] : "";
    return variant < 3 ? 2 * ROW + (own ? 0 : 128 * sizeof(float)) : 0;
}

static size_t case_normalize_u8(const vp_kernels *kernels, const row *r, size_t variant,
                                const char **name)
{
    static const float mean[3] = {0.485f, 0.456f, 0.406f};
    static const float std[3] = {0.229f, 0.224f, 0.225f};
    (void)name;
    kernels->normalize_u8(r->y, (const uint8_t *)r->x, COLS / 3, 3, mean, std);
    return variant < 1 ? ROW + COLS : 0;
}

/* What the others are measured against. */
static size_t case_copy(const vp_kernels *kernels, const row *r, size_t variant,
                        const char **name)
{
    (void)kernels, (void)variant, (void)name;
    memcpy(r->y, r->x, ROW);
    return 2 * ROW;
}

typedef struct {
    kernel_case *run;
    const vp_kernels *kernels;
    size_t variant, rows;
    row first;   /* of `rows` */
    size_t next; /* row to go on with */
    size_t bytes;
    const char *name;
} rows;

/* The next AT_ONCE rows, or all; after the last comes the first. */
static void run_rows(void *ctx)
{
    rows *all = ctx;
    row r = all->first;
    all->next = all->next < all->rows ? all->next : 0;
    r.y += all->next * COLS;
    r.x += all->next * COLS;
    const size_t count = vp_min(all->rows, AT_ONCE);
    for (size_t i = 0; i < count; i++, r.y += COLS, r.x += COLS) {
        all->bytes = all->run(all->kernels, &r, all->variant, &all->name);
    }
    all->next += count;
}

/* GB/s with so many rows. */
static double rate(rows all, size_t count)
{
    all.rows = count;
    all.next = 0;
    const double seconds = best_time(run_rows, &all);
    return 1e-9 * (double)(vp_min(count, AT_ONCE) * all.bytes) / seconds;
}

/* The error of one pass over ERROR_ROWS, from the same y. */
static errors error_of(const rows *all, float *y, float *want)
{
    errors e = {0};
    rows fast = *all, plain = *all;
    check_reseed(all->variant);
    check_fill(y, ERROR_ROWS * COLS, 1.0f);
    memcpy(want, y, ERROR_ROWS * ROW);
    fast.rows = plain.rows = ERROR_ROWS;
    fast.next = plain.next = 0;
    fast.first.y = y;
    plain.first.y = want;
    plain.kernels = &vp_kernels_reference;
    run_rows(&fast);
    run_rows(&plain);
    for (size_t i = 0; i < ERROR_ROWS; i++) {
        add_row(&e, y + i * COLS, want + i * COLS, COLS);
    }
    return e;
}

static void print_kernels(void)
{
    static const struct {
        const char *name;
        bool exact;
        kernel_case *run;
    } cases[] = {
#define CASE(name, exact, parameters) {#name, exact, case_##name},
        VP_KERNELS(CASE)
#undef CASE
    };
    float *x = random_numbers(MEMORY_ROWS * COLS),
          *y = random_numbers(MEMORY_ROWS * COLS);
    float *w = random_numbers(COLS), *b = random_numbers(COLS);
    float *got = memory(ERROR_ROWS * ROW), *want = memory(ERROR_ROWS * ROW);
    rows all = {.first = {y, x, w, b}};
    double l1 = 0.0, far = 0.0;
    for (int t = 0; t < 2 * VP_TARGET_COUNT; t++) {
        const vp_target target = (vp_target)(t / 2);
        if (vp_target_enable(target)) {
            all.run = t % 2 == 0 ? case_copy : case_add;
            all.kernels = vp_kernels_for(target);
            l1 = fmax(l1, rate(all, L1_ROWS));
            far = fmax(far, rate(all, MEMORY_ROWS));
        }
    }
    (void)printf("\nBandwidth, read and written, GB/s: L1 %.0f, memory %.1f.\n\n", l1,
                 far);
    (void)printf(
        "| kernel | target | in L1, GB/s | of the bandwidth | in memory, GB/s | of "
        "the bandwidth | worst, ulp | mean |\n"
        "| --- | --- | --: | --: | --: | --: | --: | --: |\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (all.variant = 0;; all.variant++) {
            all.run = cases[i].run;
            all.rows = 1;
            all.name = "";
            all.kernels = &vp_kernels_reference;
            run_rows(&all);
            if (all.bytes == 0) {
                break;
            }
            for (int t = 0; t < VP_TARGET_COUNT; t++) {
                all.kernels = vp_kernels_for((vp_target)t);
                if (!vp_target_enable((vp_target)t) ||
                    (t > 0 && all.kernels == vp_kernels_for((vp_target)(t - 1)))) {
                    continue; /* not here, or another target's vectors */
                }
                const errors e = error_of(&all, got, want);
                const double near = rate(all, L1_ROWS), memory = rate(all, MEMORY_ROWS);
                (void)printf("| `%s`%s | %s | %.1f | %.0f %% | %.1f | %.0f %% |",
                             cases[i].name, all.name, vp_target_name((vp_target)t),
                             near, 100.0 * near / l1, memory, 100.0 * memory / far);
                if (cases[i].exact && e.worst == 0.0) {
                    (void)printf(" exact | |\n");
                } else {
                    (void)printf(" %.1f | %.2f |\n", e.worst, e.sum / e.count);
                }
            }
        }
    }
    vp_free(x);
    vp_free(y);
    vp_free(w);
    vp_free(b);
    vp_free(got);
    vp_free(want);
}

/* -- the section's head -- */

/* The value of a line of /proc/cpuinfo, or "". */
static void cpuinfo(const char *key, char *value, size_t size)
{
    char line[512];
    FILE *file = fopen("/proc/cpuinfo", "r");
    *value = '\0';
    while (file != NULL && *value == '\0' && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        const size_t length = strlen(key);
        if (colon != NULL && strncmp(line, key, length) == 0 && line[length] == '\t') {
            (void)snprintf(value, size, "%.*s", (int)strcspn(colon + 2, "\n"),
                           colon + 2);
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    char name[128], family[32], model[32];
    cpuinfo("model name", name, sizeof name);
    cpuinfo("cpu family", family, sizeof family);
    cpuinfo("model", model, sizeof model);
    (void)printf("## %s (family %s, model %s)\n\n",
                 *name ? name : "A CPU without a name", *family ? family : "?",
                 *model ? model : "?");
    char *slash = strrchr(argv[0], '/');
    const char *folder = slash != NULL ? argv[0] : ".";
    if (slash != NULL) {
        *slash = '\0';
    }
    (void)printf("Multiply-adds from registers, GFLOP/s:");
    const char *comma = " ";
    for (int t = 0; t < VP_TARGET_COUNT; t++) {
        if (vp_target_enable((vp_target)t)) {
            (void)printf("%s%s %.1f", comma, vp_target_name((vp_target)t),
                         peak_of(folder, (vp_target)t));
            comma = ", ";
        }
    }
    (void)printf(".\n\n");
    print_ukrs(folder);
    print_kernels();
    return 0;
}
