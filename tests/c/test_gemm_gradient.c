/* vp_linear_gradient_run, for every micro-kernel of VP_UKRS that this machine has: right, as
 * exact as float32 is, the same bits for every number of threads, within its memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "emulated.h"
#include "gemm/gradient.h"

static const vp_ukr *ukr; /* under test */

typedef struct {
    size_t m, n, k;
    size_t spare; /* columns between the rows of dy, x and dx */
    bool add, dx, dw, db;
} shape;

typedef struct {
    float *w, *dy, *x, *dx, *dw, *db;
} operands;

static float *filled(size_t count, float scale)
{
    float *x = vp_alloc(count * sizeof(float));
    check_fill(x, count, scale);
    return x;
}

static void make(operands *o, const shape *s)
{
    check_reseed(s->m * 1000003 + s->n * 1009 + s->k);
    o->w = filled(s->n * s->k, 1.0f);
    o->dy = filled(s->m * (s->n + s->spare), 1.0f);
    o->x = filled(s->m * (s->k + s->spare), 1.0f);
    o->dx = filled(s->m * (s->k + s->spare), 1.0f);
    o->dw = filled(s->n * s->k, 1.0f);
    o->db = filled(s->n, 1.0f);
}

static void drop(operands *o)
{
    vp_free(o->w);
    vp_free(o->dy);
    vp_free(o->x);
    vp_free(o->dx);
    vp_free(o->dw);
    vp_free(o->db);
}

/* Runs it in memory and scratch planned for `most` rows. */
static void run(const operands *o, const shape *s, size_t most, size_t threads)
{
    vp_packed packed;
    vp_team team;
    vp_set_num_threads(threads);
    const size_t workers = vp_team_open(&team);
    CHECK(workers == threads, "%zu workers for %zu threads", workers, threads);
    CHECK(vp_packed_init(&packed, ukr, s->n, s->k) == 0, "no memory");
    vp_pack(&packed, o->w);
    vp_run with = {.team = &team, .kernels = vp_kernels_for(ukr->target)};
    vp_scratch_max(&with.per_worker, vp_linear_gradient_scratch(&packed, most));
    check_memory scratch = check_memory_new(workers * with.per_worker, true);
    with.scratch = scratch.data;
    const size_t bytes = vp_linear_gradient_memory(&packed, most);
    check_memory memory = check_memory_new(vp_round_up(bytes, VP_ALIGN), true);
    const vp_linear_gradient gradient = {.m = s->m,
                                         .w = &packed,
                                         .dy = o->dy,
                                         .lddy = s->n + s->spare,
                                         .x = s->dw ? o->x : NULL,
                                         .ldx = s->k + s->spare,
                                         .dw = s->dw ? o->dw : NULL,
                                         .db = s->db ? o->db : NULL,
                                         .dx = s->dx ? o->dx : NULL,
                                         .lddx = s->k + s->spare,
                                         .add = s->add};
    vp_linear_gradient_run(&with, &gradient, memory.data);
    check_memory_free(&memory, "vp_linear_gradient_run");
    check_memory_free(&scratch, "vp_linear_gradient_run");
    vp_packed_free(&packed);
    vp_team_close(&team);
}

/* The largest errors so far, each in parts of the sum of the terms' sizes: of dx, dw, db; ours
 * and those of a loop in float32. */
static double ours[3], plain[3];

static const char *const names[3] = {"dx", "dw", "db"};

/* start + sum of a[i * as] * b[i * bs] (b NULL: of a alone), beside what came out. */
static void check_sum(const shape *s, int which, size_t at, float got, float start,
                      const float *a, size_t as, const float *b, size_t bs,
                      size_t count)
{
    double sum = start, size = fabs((double)start);
    float loop = start;
    for (size_t i = 0; i < count; i++) {
        const float factor = b != NULL ? b[i * bs] : 1.0f;
        sum += (double)a[i * as] * factor;
        size += fabs((double)a[i * as] * factor);
        loop += a[i * as] * factor;
    }
    const double error = fabs(got - sum);
    CHECK(error <= 1e-6 * size,
          "%s %s of m %zu n %zu k %zu at %zu: %.9g, not %.9g (sizes %.3g)", ukr->name,
          names[which], s->m, s->n, s->k, at, (double)got, sum, size);
    if (size > 0.0) {
        ours[which] = fmax(ours[which], error / size);
        plain[which] = fmax(plain[which], fabs(loop - sum) / size);
    }
}

static void check_right(const shape *s, size_t most, size_t threads)
{
    operands o, before;
    make(&o, s);
    make(&before, s);
    run(&o, s, most, threads);
    const size_t n = s->n, k = s->k, lddy = n + s->spare, ldx = k + s->spare;
    /* all of a small product, some of a large one */
    const size_t row_step = 1 + s->m / 40, out_step = 1 + n / 40, in_step = 1 + k / 40;
    for (size_t i = 0; i < s->m; i += row_step) {
        for (size_t j = 0; s->dx && j < k; j += in_step) {
            check_sum(s, 0, i * ldx + j, o.dx[i * ldx + j],
                      s->add ? before.dx[i * ldx + j] : 0.0f, o.dy + i * lddy, 1,
                      o.w + j, k, n);
        }
        CHECK(memcmp(o.dx + i * ldx + k, before.dx + i * ldx + k,
                     s->spare * sizeof(float)) == 0,
              "%s: what is beside row %zu of dx", ukr->name, i);
    }
    for (size_t i = 0; i < n; i += out_step) {
        for (size_t j = 0; s->dw && j < k; j += in_step) {
            check_sum(s, 1, i * k + j, o.dw[i * k + j], before.dw[i * k + j], o.dy + i,
                      lddy, o.x + j, ldx, s->m);
        }
        if (s->db) {
            check_sum(s, 2, i, o.db[i], before.db[i], o.dy + i, lddy, NULL, 0, s->m);
        }
    }
    CHECK(s->dx || memcmp(o.dx, before.dx, s->m * ldx * sizeof(float)) == 0, "dx");
    CHECK(s->dw || memcmp(o.dw, before.dw, n * k * sizeof(float)) == 0, "dw");
    CHECK(s->db || memcmp(o.db, before.db, n * sizeof(float)) == 0, "db");
    drop(&o);
    drop(&before);
}

/* sum of sin(x W^T + b), with one number of x, W or b moved, in double */
static double loss(const operands *o, const double *b, const shape *s, char which,
                   size_t at, double by)
{
    double sum = 0.0;
    for (size_t i = 0; i < s->m; i++) {
        for (size_t j = 0; j < s->n; j++) {
            double y = b[j] + (which == 'b' && at == j ? by : 0.0);
            for (size_t c = 0; c < s->k; c++) {
                const size_t in_x = i * s->k + c, in_w = j * s->k + c;
                y += (o->x[in_x] + (which == 'x' && at == in_x ? by : 0.0)) *
                     (o->w[in_w] + (which == 'w' && at == in_w ? by : 0.0));
            }
            sum += sin(y);
        }
    }
    return sum;
}

/* Against the differences of a function of the layer. */
static void check_differences(const shape *s)
{
    operands o;
    make(&o, s);
    double *b = vp_alloc(s->n * sizeof(double));
    for (size_t j = 0; j < s->n; j++) {
        b[j] = 0.1 * (double)j;
        o.db[j] = 0.0f;
    }
    memset(o.dw, 0, s->n * s->k * sizeof(float));
    for (size_t i = 0; i < s->m; i++) {
        for (size_t j = 0; j < s->n; j++) {
            double y = b[j];
            for (size_t c = 0; c < s->k; c++) {
                y += (double)o.x[i * s->k + c] * o.w[j * s->k + c];
            }
            o.dy[i * s->n + j] = (float)cos(y);
        }
    }
    run(&o, s, s->m, 2);
    static const char which[] = "xwb";
    const size_t counts[] = {s->m * s->k, s->n * s->k, s->n};
    const float *const gradients[] = {o.dx, o.dw, o.db};
    const double h = 1e-5;
    for (size_t w = 0; w < 3; w++) {
        for (size_t at = 0; at < counts[w]; at++) {
            const double up = loss(&o, b, s, which[w], at, h);
            const double down = loss(&o, b, s, which[w], at, -h);
            CHECK(check_close(gradients[w][at], (up - down) / (2 * h), 1e-5),
                  "%s: d%c[%zu] is %.9g, its difference %.9g", ukr->name, which[w], at,
                  (double)gradients[w][at], (up - down) / (2 * h));
        }
    }
    vp_free(b);
    drop(&o);
}

static void check_bits(const shape *s)
{
    operands one, more;
    make(&one, s);
    run(&one, s, s->m, 1);
    for (size_t threads = 2; threads <= 3; threads++) {
        make(&more, s);
        run(&more, s, s->m, threads);
        const bool same =
            memcmp(one.dx, more.dx, s->m * (s->k + s->spare) * sizeof(float)) == 0 &&
            memcmp(one.dw, more.dw, s->n * s->k * sizeof(float)) == 0 &&
            memcmp(one.db, more.db, s->n * sizeof(float)) == 0;
        CHECK(same, "%s: other bits with %zu threads: m %zu n %zu k %zu", ukr->name,
              threads, s->m, s->n, s->k);
        drop(&more);
    }
    drop(&one);
}

/* What packs rows, and what turns packed weights, give what vp_pack makes of the transpose. */
static void check_packing(size_t n, size_t k)
{
    vp_packed w, turned, of_w, of_rows;
    float *numbers = filled(n * k, 1.0f), *other = vp_alloc(n * k * sizeof(float));
    vp_kernels_reference.transpose(other, n, numbers, k, n, k);
    const bool room = vp_packed_init(&w, ukr, n, k) == 0 &&
                      vp_packed_init(&turned, ukr, k, n) == 0 &&
                      vp_packed_init(&of_w, ukr, k, n) == 0 &&
                      vp_packed_init(&of_rows, ukr, k, n) == 0;
    CHECK(room, "no memory");
    const size_t bytes = vp_packed_bytes(&turned);
    memset(turned.data, 0, bytes);
    memset(of_w.data, 0xff, bytes);
    memset(of_rows.data, 0xff, bytes);
    vp_pack(&w, numbers);
    vp_pack(&turned, other);
    for (size_t b = 0; b < vp_packed_blocks(&of_w); b++) {
        for (size_t p = 0; p < of_w.panels; p++) {
            vp_pack_flipped(&of_w, &w, b, p);
        }
    }
    for (size_t first = 0; first < n; first += 1 + first) {
        vp_pack_rows(&of_rows, numbers, k, first, vp_min(n, 2 * first + 1));
    }
    for (size_t b = 0; b < vp_packed_blocks(&turned); b++) {
        const size_t each =
            vp_packed_block_length(&turned, b) * vp_packed_step(&turned);
        for (size_t p = 0; p < turned.panels; p++) {
            const void *want = vp_packed_panel(&turned, b, p);
            CHECK(memcmp(vp_packed_panel(&of_w, b, p), want, each) == 0,
                  "%s: panel %zu of block %zu from %zu x %zu packed", ukr->name, p, b,
                  n, k);
            CHECK(memcmp(vp_packed_panel(&of_rows, b, p), want, each) == 0,
                  "%s: panel %zu of block %zu from %zu x %zu rows", ukr->name, p, b, n,
                  k);
        }
    }
    vp_packed_free(&w);
    vp_packed_free(&turned);
    vp_packed_free(&of_w);
    vp_packed_free(&of_rows);
    vp_free(numbers);
    vp_free(other);
}

/* Uniform in first..last */
static size_t between(size_t first, size_t last)
{
    const double x = (check_random() + 1.0) / 2;
    return first + (size_t)(x * (double)(last - first + 1));
}

static void check_ukr(void)
{
    static const size_t sides[] = {1, 5, 31, 33, 70, 1030, 2100};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        for (size_t j = 0; j < sizeof sides / sizeof *sides; j++) {
            if (sides[i] * sides[j] < 300000) {
                check_packing(sides[i], sides[j]);
            }
        }
    }
    const shape all = {.m = 0, .n = 9, .k = 5, .dx = true, .dw = true, .db = true};
    check_right(&all, 0, 1);
    check_right(&all, 3000, 2);
    memset(ours, 0, sizeof ours);
    memset(plain, 0, sizeof plain);
    for (size_t i = 0; i < 60; i++) {
        check_reseed(i);
        shape s = all;
        s.m = between(1, 500);
        s.n = i % 6 == 0 ? 1 : between(1, 200);
        s.k = i % 5 == 0 ? between(1, 4) : between(1, 200);
        s.spare = i % 3 * 2;
        s.add = i % 2 == 1;
        s.dx = i % 8 != 1;
        s.dw = i % 8 != 2 && i % 8 != 4;
        s.db = i % 8 != 3 && i % 8 != 4;
        check_right(&s, s.m + (i % 4 == 0 ? between(0, 3000) : 0), 1 + i % 3);
    }
    /* more rows than are packed at a time, more inputs and outputs than a block has */
    shape s = {4500, 40, 35, 1, true, true, true, true};
    check_right(&s, s.m, 2);
    s = (shape){70, 1100, 1200, 0, false, true, true, true};
    check_right(&s, s.m, 1);
    s = (shape){1100, 33, 1030, 0, false, true, true, true};
    check_right(&s, s.m, 3);
    for (int i = 0; i < 3; i++) {
        (void)printf("  %s: %.1e of the terms, a float32 loop %.1e\n", names[i],
                     ours[i], plain[i]);
        CHECK(ours[i] <= 2 * plain[i], "%s: %s is less exact than float32", ukr->name,
              names[i]);
    }
    s = (shape){7, 6, 9, 0, false, true, true, true};
    check_differences(&s);
    s = (shape){3, 1, 2, 0, false, true, true, true};
    check_differences(&s);
    s = (shape){500, 130, 70, 3, true, true, true, true};
    check_bits(&s);
    s = (shape){2500, 40, 90, 0, false, true, true, true};
    check_bits(&s);
    s = (shape){64, 1, 1100, 0, false, true, true, true};
    check_bits(&s);
}

int main(void)
{
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        ukr = testable_ukr(vp_ukr_at(i));
        if (ukr != NULL && ukr->weight == VP_DTYPE_f32) {
            (void)printf("%s\n", ukr->name);
            check_ukr();
        }
    }
    return check_done();
}
