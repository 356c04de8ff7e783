/* vp_gemm_run and packing, for every micro-kernel of VP_UKRS that this machine has: right,
 * the same bits for every batch, thread count and part of the output. Of low precision, right
 * is what exact arithmetic makes of the numbers that weights and activations are rounded to.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "check.h"
#include "emulated.h"
#include "gemm/gemm.h"
#include "gemm/operand.h"

static const vp_ukr *ukr; /* under test */

static double act_of(double x, vp_act act)
{
    float in = (float)x, out;
    vp_kernels_reference.finish(&in, 1, 1, 1, &(vp_finish){.act = act, .out = &out});
    return out;
}

/* One product with everything that a finish may hold, chosen by `parts`. */
typedef struct {
    size_t m, n, k, lda;
    /* 1 bias, 2 gate, 4 scale, 8 residual (is out; 32: elsewhere), 16 GELU */
    unsigned parts;
} shape;

static size_t first_panel, last_panel; /* of vp_gemm; nought: all of them */

typedef struct {
    float *a, *w, *gate, *bias, *scale, *out, *elsewhere;
    vp_packed packed, packed_gate;
} operands;

static void make(operands *o, const shape *s)
{
    check_reseed(s->n * 1000 + s->k); /* the same rows whatever m is */
    o->w = vp_alloc(s->n * s->k * sizeof(float));
    o->gate = vp_alloc(s->n * s->k * sizeof(float));
    o->bias = vp_alloc(s->n * sizeof(float));
    o->scale = vp_alloc(s->n * sizeof(float));
    o->a = vp_alloc(s->m * s->lda * sizeof(float));
    o->out = vp_alloc(s->m * s->n * sizeof(float));
    o->elsewhere = vp_alloc(s->m * s->n * sizeof(float));
    check_fill(o->w, s->n * s->k, 1.0f);
    check_fill(o->gate, s->n * s->k, 1.0f);
    check_fill(o->bias, s->n, 1.0f);
    check_fill(o->scale, s->n, 1.0f);
    check_fill(o->a, s->m * s->lda, 1.0f);
    for (size_t i = 0; i < s->m * s->n; i++) {
        o->elsewhere[i] = (float)(i % 17);
        o->out[i] = s->parts & 32 ? NAN : o->elsewhere[i];
    }
    CHECK(vp_packed_init(&o->packed, ukr, s->n, s->k) == 0, "no memory");
    CHECK(vp_packed_init(&o->packed_gate, ukr, s->n, s->k) == 0, "no memory");
    vp_pack(&o->packed, o->w);
    vp_pack(&o->packed_gate, o->gate);
}

static void drop(operands *o)
{
    vp_free(o->a);
    vp_free(o->w);
    vp_free(o->gate);
    vp_free(o->bias);
    vp_free(o->scale);
    vp_free(o->out);
    vp_free(o->elsewhere);
    vp_packed_free(&o->packed);
    vp_packed_free(&o->packed_gate);
}

static void run(const operands *o, const shape *s)
{
    vp_team team;
    const size_t workers = vp_team_open(&team);
    vp_run with = {.team = &team, .kernels = vp_kernels_for(ukr->target)};
    const bool gated = (s->parts & 2) != 0;
    vp_scratch_max(&with.per_worker, vp_gemm_scratch(&o->packed, s->m, gated));
    with.scratch = vp_alloc(workers * with.per_worker);
    with.operand_bytes = vp_operand_bytes(&o->packed, s->m);
    with.operand = vp_alloc(with.operand_bytes);
    vp_gemm gemm = {.m = s->m,
                    .a = o->a,
                    .lda = s->lda,
                    .w = &o->packed,
                    .first_panel = first_panel,
                    .last_panel = last_panel};
    gemm.gate = gated ? &o->packed_gate : NULL;
    gemm.finish = (vp_finish){.out = o->out, .out_stride = s->n};
    gemm.finish.bias = s->parts & 1 ? o->bias : NULL;
    gemm.finish.gate_bias = s->parts & 1 ? o->bias : NULL;
    gemm.finish.scale = s->parts & 4 ? o->scale : NULL;
    float *residual = s->parts & 32 ? o->elsewhere : o->out;
    gemm.finish.residual = s->parts & 8 ? residual : NULL;
    gemm.finish.residual_stride = s->n;
    gemm.finish.act = s->parts & 16 ? VP_ACT_GELU : VP_ACT_NONE;
    vp_gemm_run(&with, &gemm);
    vp_free(with.scratch);
    vp_free(with.operand);
    vp_team_close(&team);
}

/* x[k] as the micro-kernel gets it. */
static void round_row(float *x, size_t k)
{
    uint16_t *rounded = vp_alloc((k + 64) * sizeof *rounded);
    float scale;
    int32_t zero;
    vp_operand_row(&vp_kernels_reference, ukr, rounded, x, k, &scale, &zero);
    for (size_t i = 0; i < k; i++) {
        const uint32_t half = (uint32_t)rounded[i] << 16;
        switch (ukr->rows) {
        case VP_ROWS_bf16:
            memcpy(x + i, &half, sizeof half);
            break;
        case VP_ROWS_u8:
            x[i] = scale * (float)((int32_t)((const uint8_t *)rounded)[i] - zero);
            break;
        case VP_ROWS_s8:
            x[i] = scale * (float)((int32_t)((const int8_t *)rounded)[i] - zero);
            break;
        case VP_ROWS_s16:
            x[i] = scale * (float)((int32_t)((const int16_t *)rounded)[i] - zero);
            break;
        case VP_ROWS_f32:
        case VP_ROWS_COUNT:
            break;
        }
    }
    vp_free(rounded);
}

/* What goes into the product, rounded as it is there. */
static void round_operands(operands *o, const shape *s)
{
    vp_unpack(&o->packed, o->w);
    vp_unpack(&o->packed_gate, o->gate);
    for (size_t i = 0; i < s->m; i++) {
        round_row(o->a + i * s->lda, s->k);
    }
}

static double product(const float *a, const float *w, size_t k)
{
    double sum = 0.0;
    for (size_t i = 0; i < k; i++) {
        sum += (double)a[i] * w[i];
    }
    return sum;
}

static void check_right(const shape *s)
{
    operands o;
    make(&o, s);
    run(&o, s);
    round_operands(&o, s);
    const vp_act act = s->parts & 16 ? VP_ACT_GELU : VP_ACT_NONE;
    for (size_t i = 0; i < s->m; i++) {
        for (size_t j = 0; j < s->n; j++) {
            const float *a = o.a + i * s->lda;
            const double bias = s->parts & 1 ? o.bias[j] : 0.0;
            double v = product(a, o.w + j * s->k, s->k) + bias;
            if (s->parts & 2) {
                v *= act_of(product(a, o.gate + j * s->k, s->k) + bias, act);
            } else {
                v = act_of(v, act);
            }
            v *= s->parts & 4 ? o.scale[j] : 1.0;
            v += s->parts & 8 ? (double)((i * s->n + j) % 17) : 0.0;
            const double size = sqrt((double)s->k);
            CHECK(fabs(o.out[i * s->n + j] - v) <= 2e-6 * (size * size + 20.0),
                  "%s m %zu n %zu k %zu parts %u at (%zu, %zu): %.9g, not %.9g",
                  ukr->name, s->m, s->n, s->k, s->parts, i, j,
                  (double)o.out[i * s->n + j], v);
        }
    }
    drop(&o);
}

/* Times the identity, a number is what it was, to the bit: no micro-kernel loses a digit of
 * what it is given. */
static void check_identity(size_t n)
{
    operands o;
    const shape s = {40, n, n, n, 0};
    make(&o, &s);
    for (size_t i = 0; i < n * n; i++) {
        o.w[i] = i % (n + 1) == 0 ? 1.0f : 0.0f;
    }
    for (size_t i = 0; i < s.m * n; i++) {
        o.a[i] = ldexpf(o.a[i], (int)(i % 181) - 90);
    }
    vp_pack(&o.packed, o.w);
    run(&o, &s);
    CHECK(memcmp(o.out, o.a, s.m * n * sizeof(float)) == 0,
          "%s: the identity of %zu changes numbers", ukr->name, n);
    drop(&o);
}

/* The error of long sums is that of float32: 2e-7 to 3e-7 of their size. */
static void check_precision(size_t k)
{
    operands o;
    const shape s = {33, 64, k, k, 0};
    make(&o, &s);
    run(&o, &s);
    round_operands(&o, &s);
    double error = 0.0, size = 0.0;
    for (size_t i = 0; i < s.m * s.n; i++) {
        const double v = product(o.a + i / s.n * k, o.w + i % s.n * k, k);
        error += (o.out[i] - v) * (o.out[i] - v);
        size += v * v;
    }
    CHECK(sqrt(error / size) < 5e-7, "%s k %zu: the error is %.2g of the size",
          ukr->name, k, sqrt(error / size));
    drop(&o);
}

/* Row i has the same bits for every m and every number of threads. */
static void check_bits(size_t n, size_t k, unsigned parts)
{
    static const size_t heights[] = {1, 2, 13, 14, 15, 27, 29, 33, 64, 197, 211, 430};
    const size_t most = 430;
    operands all;
    const shape whole = {most, n, k, k + 3, parts};
    vp_set_num_threads(1);
    make(&all, &whole);
    run(&all, &whole);
    for (size_t h = 0; h < sizeof heights / sizeof *heights; h++) {
        for (size_t threads = 1; threads <= 6; threads += 1 + h % 2) {
            operands some;
            const shape s = {heights[h], n, k, k + 3, parts};
            vp_set_num_threads(threads);
            make(&some, &s);
            run(&some, &s);
            CHECK(memcmp(some.out, all.out, s.m * n * sizeof(float)) == 0,
                  "%s: other bits: m %zu n %zu k %zu parts %u, %zu threads", ukr->name,
                  s.m, n, k, parts, threads);
            drop(&some);
        }
    }
    drop(&all);
}

/* A part of the rows and columns, multiplied alone, has the bits that it has in the whole. */
static void check_portions(size_t m, size_t n, size_t k)
{
    operands whole;
    const shape all = {m, n, k, k + 5, 0};
    make(&whole, &all);
    run(&whole, &all);
    for (int i = 0; i < 40; i++) {
        const size_t row = (size_t)((check_random() + 1.0f) / 2 * (float)m);
        const size_t col = (size_t)((check_random() + 1.0f) / 2 * (float)n);
        const size_t rows =
            1 + (size_t)((check_random() + 1.0f) / 2 * (float)(m - row - 1));
        const size_t cols =
            1 + (size_t)((check_random() + 1.0f) / 2 * (float)(n - col - 1));
        const shape s = {rows, cols, k, k + 5, 0};
        operands part = {.a = whole.a + row * all.lda, .w = whole.w + col * k};
        part.out = vp_alloc(rows * cols * sizeof(float));
        CHECK(vp_packed_init(&part.packed, ukr, cols, k) == 0, "no memory");
        vp_pack(&part.packed, part.w);
        run(&part, &s);
        for (size_t r = 0; r < rows; r++) {
            CHECK(memcmp(part.out + r * cols, whole.out + (row + r) * n + col,
                         cols * sizeof(float)) == 0,
                  "%s: row %zu of (%zu + %zu) x (%zu + %zu) has other bits than in %zu "
                  "x %zu",
                  ukr->name, r, row, rows, col, cols, m, n);
        }
        vp_packed_free(&part.packed);
        vp_free(part.out);
    }
    drop(&whole);
}

/* Some panels alone have the bits that they have among all; the columns of the others are
 * not written. */
static void check_panels(size_t m, size_t n, size_t k, unsigned parts)
{
    operands whole, some;
    const shape s = {m, n, k, k, parts};
    const size_t panels = vp_ceil_div(n, ukr->nr);
    make(&whole, &s);
    run(&whole, &s);
    for (first_panel = 0; first_panel < panels; first_panel++) {
        for (last_panel = first_panel + 1; last_panel <= panels; last_panel++) {
            make(&some, &s);
            run(&some, &s);
            for (size_t i = 0; i < m * n; i++) {
                const size_t panel = i % n / ukr->nr;
                const bool in = panel >= first_panel && panel < last_panel;
                const float want = in ? whole.out[i] : (float)(i % 17);
                CHECK(some.out[i] == want, "%s: (%zu, %zu) of panels %zu to %zu",
                      ukr->name, i / n, i % n, first_panel, last_panel);
            }
            drop(&some);
        }
    }
    first_panel = last_panel = 0;
    drop(&whole);
}

static void check_unpack(size_t n, size_t k)
{
    vp_packed packed;
    check_memory source = check_memory_new(n * k * sizeof(float), true);
    check_memory target = check_memory_new(n * k * sizeof(float), true);
    unsigned char *bytes = source.data;
    for (size_t i = 0; i < n * k * sizeof(float); i++) {
        bytes[i] = (unsigned char)(i * 2654435761u >> 13); /* NaNs and all */
    }
    CHECK(vp_packed_init(&packed, ukr, n, k) == 0, "no memory");
    if (vp_dtype_is_int(ukr->weight)) {
        float scale[65], got[65];
        for (size_t i = 0; i < n; i++) {
            scale[i] = 1.0f / (float)(i + 3);
        }
        for (size_t i = 0; i < n * k; i++) {
            bytes[i] = (unsigned char)(bytes[i] == 128 ? 0 : bytes[i]);
        }
        vp_pack_int(&packed, source.data, scale);
        vp_unpack_int(&packed, target.data, got);
        CHECK(memcmp(scale, got, n * sizeof *scale) == 0, "%s: scales", ukr->name);
        CHECK(memcmp(source.data, target.data, n * k) == 0,
              "%s: integers of %zu x %zu change", ukr->name, n, k);
    } else {
        vp_pack(&packed, source.data);
        vp_unpack(&packed, target.data);
        if (ukr->weight != VP_DTYPE_f32) { /* rounded: what comes out stays */
            vp_unpack(&packed, source.data);
            vp_pack(&packed, source.data);
            vp_unpack(&packed, target.data);
        }
        CHECK(memcmp(source.data, target.data, n * k * sizeof(float)) == 0,
              "%s: pack and unpack of %zu x %zu change bits", ukr->name, n, k);
    }
    vp_packed_free(&packed);
    check_memory_free(&source, "vp_pack");
    check_memory_free(&target, "vp_unpack");
}

static void check_ukr(void)
{
    static const size_t ns[] = {1, 7, 16, 31, 32, 33, 65};
    static const size_t ks[] = {1, 2, 5, 17, 64, 100, 1024, 1025, 2100};
    /* The loops are the same for all types, and test_ukr_low.c has every height: fewer shapes
     * of low precision, and of what is emulated. */
    const bool low = ukr->weight != VP_DTYPE_f32 || !vp_target_supported(ukr->target) ||
                     check_small();
    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++) {
        for (size_t j = 0; j < sizeof ks / sizeof *ks; j++) {
            check_unpack(ns[i], ks[j]);
            const size_t step = ks[j] > (check_small() ? 100 : 1025) && low ? 17
                                : ks[j] > 100                               ? 9
                                : low                                       ? 5
                                                                            : 1;
            for (size_t m = 0; m <= 40; m += m < 15 ? step : vp_max(step, 5)) {
                vp_set_num_threads(1 + m % 6);
                check_right(&(shape){m, ns[i], ks[j], ks[j] + m % 2,
                                     (unsigned)(m * 7 + i * 5 + j) % 32});
            }
        }
    }
    for (unsigned parts = 0; parts < 64; parts++) {
        check_right(&(shape){15, 45, 70, 70, parts});
    }
    check_right(&(shape){460, 70, 33, 40, 31});
    for (size_t n = 1; ukr->weight == VP_DTYPE_f32 && n <= 65; n += 16) {
        check_identity(n);
    }
    check_precision(64);
    check_precision(768);
    check_precision(3072);
    if (!low) {
        check_bits(100, 64, 0);
    }
    check_bits(70, 33, 31);
    check_bits(33, 1100, 13);
    check_portions(70, 110, 64);
    if (!low) {
        check_portions(33, 70, 1100);
    }
    for (size_t threads = 1; threads <= (low ? 2 : 4); threads++) {
        vp_set_num_threads(threads);
        check_panels(40, 100, 70, 1);
        check_panels(17, 70, 1100, 31);
    }
}

int main(void)
{
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        ukr = testable_ukr(vp_ukr_at(i));
        if (ukr != NULL) {
            (void)printf("%s\n", ukr->name);
            check_ukr();
        }
    }
    return check_done();
}
