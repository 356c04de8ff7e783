/* vp_attention_gradient_run and vp_attention_dropped_run, for every micro-kernel of VP_UKRS that
 * this machine has: right beside loops in double and the differences of a function, as exact as
 * float32 is, the same bits for every number of threads, within their scratch.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "emulated.h"
#include "ops/attention_gradient.h"

static const vp_ukr *ukr; /* under test */

typedef enum { NO_MASK, BIAS, ALLOWED, CAUSAL, BIAS_CAUSAL, MASKS } mask_kind;

typedef struct {
    size_t batch, heads, nq, nk, dk, dv;
    mask_kind mask;
    bool per_head; /* the mask has a plane for each head of each image */
    bool hidden;   /* the first queries see nothing */
    float rate;
    bool shared; /* a query for all images */
    bool one;    /* q, k and v are the same memory */
    size_t block_queries;
    size_t group;                  /* heads that share keys and values; 0: 1 */
    size_t grid_h, grid_w, prefix; /* of a relative bias; 0: none */
} shape;

static size_t group_of(const shape *s)
{
    return s->group > 1 ? s->group : 1;
}

/* Inputs, dout, and outputs with columns between the rows that nobody may write. */
typedef struct {
    vp_attention at;
    vp_mask mask;
    vp_drop drop;
    float *q, *k, *v, *dout, *bias;
    unsigned char *allowed;
    vp_relative relative;
    float *numbers, *edges; /* of it */
    float *out, *dq, *dk, *dv, *drelative;
    size_t q_count, kv_count, out_count, dq_row, dq_count, dkv_row, dkv_count;
} operands;

#define UNTOUCHED 1234.5f

static float *numbers(size_t count, bool random)
{
    float *x = vp_alloc(count * sizeof(float));
    for (size_t i = 0; i < count; i++) {
        x[i] = random ? check_random() : UNTOUCHED;
    }
    return x;
}

static void make_mask(operands *o, const shape *s)
{
    const size_t planes = s->per_head ? s->batch * s->heads : 1;
    const size_t count = planes * s->nq * s->nk;
    o->bias = numbers(count, true);
    o->allowed = vp_alloc(count);
    for (size_t i = 0; i < count; i++) {
        o->allowed[i] = check_random() < 0.4f;
        if (s->hidden && i / s->nk % s->nq < 2) {
            o->allowed[i] = 0;
            o->bias[i] = -INFINITY;
        } else if (i % 11 == 3) {
            o->bias[i] = -INFINITY;
        }
    }
    o->mask = (vp_mask){.row = s->nk, .causal = s->mask >= CAUSAL};
    o->mask.bias = s->mask == BIAS || s->mask == BIAS_CAUSAL ? o->bias : NULL;
    o->mask.allowed = s->mask == ALLOWED ? o->allowed : NULL;
    if (s->per_head) {
        o->mask.head = s->nq * s->nk;
        o->mask.batch = s->heads * o->mask.head;
    }
}

static void make(operands *o, const shape *s)
{
    check_reseed(s->nq * 1000003 + s->nk * 1009 + s->dk * 31 + s->dv);
    memset(o, 0, sizeof *o);
    make_mask(o, s);
    o->drop = (vp_drop){.rate = s->rate, .seed = 11, .site = 5, .image = 3};
    o->relative = (vp_relative){.grid = {vp_max(s->grid_h, 1), vp_max(s->grid_w, 1)},
                                .prefix = s->prefix};
    const size_t count = s->heads * vp_relative_size(&o->relative);
    o->relative.bias = o->numbers = numbers(count, true);
    o->relative.edges = o->edges = numbers(3 * s->heads, true);
    o->drelative = numbers(s->batch * count, false);
    const size_t width = s->heads * vp_max(s->dk, s->dv);
    vp_attention *at = &o->at;
    *at = (vp_attention){.batch = s->batch,
                         .heads = s->heads,
                         .group = 1,
                         .kv_group = s->group,
                         .relative = s->grid_h > 0 ? &o->relative : NULL,
                         .nq = s->nq,
                         .nk = s->nk,
                         .dk = s->dk,
                         .dv = s->dv,
                         .q_row = s->one ? width + 1 : s->heads * s->dk + 3,
                         .kv_row = width + 1,
                         .scale = 1.3f / sqrtf((float)s->dk),
                         .mask = s->mask == NO_MASK ? NULL : &o->mask,
                         .out_row = s->heads * s->dv + 5};
    at->q_image = s->shared ? 0 : s->nq * at->q_row;
    at->kv_image = s->nk * at->kv_row + 2;
    if (s->one) {
        at->q_image = at->kv_image;
    }
    at->out_image = s->nq * at->out_row + 1;
    o->q_count = (s->shared ? 0 : (s->batch - 1) * at->q_image) + s->nq * at->q_row;
    o->kv_count = s->batch * at->kv_image;
    o->out_count = s->batch * at->out_image;
    o->dq_row = s->heads * s->dk + 2;
    o->dkv_row = width + 3;
    o->dq_count = s->batch * s->nq * o->dq_row;
    o->dkv_count = s->batch * s->nk * o->dkv_row;
    o->k = numbers(o->kv_count, true);
    o->q = s->one ? o->k : numbers(o->q_count, true);
    o->v = s->one ? o->k : numbers(o->kv_count, true);
    o->dout = numbers(o->out_count, true);
    o->out = numbers(o->out_count, false);
    o->dq = numbers(o->dq_count, false);
    o->dk = numbers(o->dkv_count, false);
    o->dv = numbers(o->dkv_count, false);
    at->q = o->q;
    at->k = o->k;
    at->v = o->v;
    at->out = o->out;
}

static void drop(operands *o)
{
    if (o->q != o->k) {
        vp_free(o->q);
        vp_free(o->v);
    }
    vp_free(o->k);
    vp_free(o->dout);
    vp_free(o->bias);
    vp_free(o->allowed);
    vp_free(o->out);
    vp_free(o->dq);
    vp_free(o->dk);
    vp_free(o->dv);
    vp_free(o->numbers);
    vp_free(o->edges);
    vp_free(o->drelative);
}

/* The bias of head h, query i and key j, and where its gradient is in drelative, of image b. */
static float relative_of(const operands *o, size_t b, size_t h, size_t i, size_t j,
                         size_t *place)
{
    const vp_relative *r = &o->relative;
    const size_t gw = r->grid[1], rows = 2 * r->grid[0] - 1, columns = 2 * gw - 1;
    *place = (b * o->at.heads + h) * vp_relative_size(r);
    if (i < r->prefix || j < r->prefix) {
        const size_t edge = j >= r->prefix ? 0 : i >= r->prefix ? 1 : 2;
        *place += rows * columns + edge;
        return r->edges[3 * h + edge];
    }
    const size_t query = i - r->prefix, key = j - r->prefix;
    const size_t at = (query / gw + r->grid[0] - 1 - key / gw) * columns + gw - 1 +
                      key % gw - query % gw;
    *place += at;
    return r->bias[h * rows * columns + at];
}

static void run(const operands *o, const shape *s, size_t threads)
{
    const vp_attention *at = &o->at;
    vp_team team;
    vp_set_num_threads(threads);
    const size_t workers = vp_team_open(&team);
    CHECK(workers == threads, "%zu workers for %zu threads", workers, threads);
    vp_run with = {.team = &team,
                   .kernels = vp_kernels_for(ukr->target),
                   .ukr = ukr,
                   .limits = vp_limits_get(workers)};
    if (s->block_queries > 0) {
        with.limits.block_queries = s->block_queries;
    }
    vp_scratch_max(&with.per_worker,
                   vp_attention_gradient_scratch(&with, at->nk, at->dk, at->dv));
    check_memory scratch = check_memory_new(workers * with.per_worker, true);
    with.scratch = scratch.data;
    const vp_attention_gradient gradient = {.at = *at,
                                            .drop = o->drop,
                                            .dout = o->dout,
                                            .dq = o->dq,
                                            .dk = o->dk,
                                            .dv = o->dv,
                                            .dq_row = o->dq_row,
                                            .dq_image = s->nq * o->dq_row,
                                            .dkv_row = o->dkv_row,
                                            .dkv_image = s->nk * o->dkv_row,
                                            .drelative =
                                                s->grid_h > 0 ? o->drelative : NULL};
    vp_attention_gradient_run(&with, &gradient);
    vp_attention_dropped_run(&with, at, &o->drop);
    check_memory_free(&scratch, "attention's gradient");
    vp_team_close(&team);
}

/* The same in plain loops, in double and in float: out, and unless dq is NULL gradients. Arrays
 * are those of `operands`, without columns between rows: q[batch][nq][heads][dk], and so on. */
#define REFERENCE(real, exp)                                                           \
    typedef struct {                                                                   \
        real *q, *k, *v, *dout, *out, *dq, *dk, *dv, *drelative;                       \
    } arrays_##real;                                                                   \
    static void plain_##real(const operands *o, const arrays_##real *x)                \
    {                                                                                  \
        const vp_attention *at = &o->at;                                               \
        const size_t nq = at->nq, nk = at->nk, dk = at->dk, dv = at->dv;               \
        const size_t group = vp_max(at->kv_group, 1), key_heads = at->heads / group;   \
        real *p = vp_alloc(nk * sizeof(real)), *f = vp_alloc(nk * sizeof(real));       \
        real *ds = vp_alloc(nk * sizeof(real));                                        \
        for (size_t b = 0; b < at->batch; b++) {                                       \
            const uint64_t key = vp_drop_key(&o->drop, b);                             \
            for (size_t h = 0; h < at->heads; h++) {                                   \
                for (size_t i = 0; i < nq; i++) {                                      \
                    const size_t query = (b * nq + i) * at->heads + h;                 \
                    const real *q = x->q + query * dk, *dout = x->dout + query * dv;   \
                    real *out = x->out + query * dv;                                   \
                    real max = -(real)INFINITY, sum = 0;                               \
                    for (size_t j = 0; j < nk; j++) {                                  \
                        const real *k =                                                \
                            x->k + ((b * nk + j) * key_heads + h / group) * dk;        \
                        const vp_mask *mask = at->mask;                                \
                        real score = 0;                                                \
                        for (size_t d = 0; d < dk; d++) {                              \
                            score += q[d] * k[d];                                      \
                        }                                                              \
                        score *= at->scale;                                            \
                        size_t place;                                                  \
                        if (at->relative != NULL) {                                    \
                            score += relative_of(o, b, h, i, j, &place);               \
                        }                                                              \
                        if (mask != NULL) {                                            \
                            const size_t m =                                           \
                                b * mask->batch + h * mask->head + i * mask->row + j;  \
                            score += mask->bias != NULL ? mask->bias[m] : 0.0f;        \
                            if ((mask->allowed != NULL && !mask->allowed[m]) ||        \
                                (mask->causal && j > i)) {                             \
                                score = -(real)INFINITY;                               \
                            }                                                          \
                        }                                                              \
                        p[j] = score;                                                  \
                        max = score > max ? score : max;                               \
                        const size_t n = (h * nq + i) * nk + j;                        \
                        f[j] = vp_drop_bits(key, (uint32_t)n) <                        \
                                       (uint32_t)(o->drop.rate * 16777216.0f)          \
                                   ? 0                                                 \
                                   : 1 / (1 - (real)o->drop.rate);                     \
                    }                                                                  \
                    for (size_t j = 0; j < nk; j++) {                                  \
                        p[j] = isinf(max) ? 0 : exp(p[j] - max);                       \
                        sum += p[j];                                                   \
                    }                                                                  \
                    real dot = 0;                                                      \
                    for (size_t d = 0; d < dv; d++) {                                  \
                        out[d] = 0;                                                    \
                    }                                                                  \
                    for (size_t j = 0; j < nk; j++) {                                  \
                        const real *v =                                                \
                            x->v + ((b * nk + j) * key_heads + h / group) * dv;        \
                        p[j] = sum > 0 ? p[j] / sum : 0;                               \
                        ds[j] = 0;                                                     \
                        for (size_t d = 0; d < dv; d++) {                              \
                            out[d] += p[j] * f[j] * v[d];                              \
                            ds[j] += f[j] * dout[d] * v[d];                            \
                        }                                                              \
                        dot += p[j] * ds[j];                                           \
                    }                                                                  \
                    for (size_t j = 0; x->dq != NULL && j < nk; j++) {                 \
                        const size_t at_key = (b * nk + j) * key_heads + h / group;    \
                        const real *k = x->k + at_key * dk;                            \
                        real *to_k = x->dk + at_key * dk, *to_q = x->dq + query * dk;  \
                        size_t place;                                                  \
                        ds[j] = p[j] * (ds[j] - dot);                                  \
                        if (at->relative != NULL) {                                    \
                            (void)relative_of(o, b, h, i, j, &place);                  \
                            x->drelative[place] += ds[j];                              \
                        }                                                              \
                        ds[j] *= at->scale;                                            \
                        for (size_t d = 0; d < dk; d++) {                              \
                            to_q[d] += ds[j] * k[d];                                   \
                            to_k[d] += ds[j] * q[d];                                   \
                        }                                                              \
                        for (size_t d = 0; d < dv; d++) {                              \
                            x->dv[at_key * dv + d] += p[j] * f[j] * dout[d];           \
                        }                                                              \
                    }                                                                  \
                }                                                                      \
            }                                                                          \
        }                                                                              \
        vp_free(p);                                                                    \
        vp_free(f);                                                                    \
        vp_free(ds);                                                                   \
    }                                                                                  \
    static real *gather_##real(const float *x, size_t image, size_t row, size_t batch, \
                               size_t n, size_t width)                                 \
    {                                                                                  \
        real *y = vp_alloc(batch * n * width * sizeof(real));                          \
        for (size_t i = 0; i < batch * n * width; i++) {                               \
            y[i] = x == NULL                                                           \
                       ? 0                                                             \
                       : x[i / (n * width) * image + i / width % n * row + i % width]; \
        }                                                                              \
        return y;                                                                      \
    }                                                                                  \
    static arrays_##real arrays_of_##real(const operands *o)                           \
    {                                                                                  \
        const vp_attention *at = &o->at;                                               \
        const size_t b = at->batch, wk = at->heads * at->dk, wv = at->heads * at->dv;  \
        const size_t group = vp_max(at->kv_group, 1);                                  \
        const size_t kk = wk / group, kv = wv / group;                                 \
        arrays_##real x;                                                               \
        x.q = gather_##real(o->q, at->q_image, at->q_row, b, at->nq, wk);              \
        x.k = gather_##real(o->k, at->kv_image, at->kv_row, b, at->nk, kk);            \
        x.v = gather_##real(o->v, at->kv_image, at->kv_row, b, at->nk, kv);            \
        x.dout = gather_##real(o->dout, at->out_image, at->out_row, b, at->nq, wv);    \
        x.out = gather_##real(NULL, 0, 0, b, at->nq, wv);                              \
        x.dq = gather_##real(NULL, 0, 0, b, at->nq, wk);                               \
        x.dk = gather_##real(NULL, 0, 0, b, at->nk, kk);                               \
        x.dv = gather_##real(NULL, 0, 0, b, at->nk, kv);                               \
        x.drelative =                                                                  \
            gather_##real(NULL, 0, 0, b, at->heads, vp_relative_size(&o->relative));   \
        return x;                                                                      \
    }                                                                                  \
    static void drop_##real(arrays_##real *x)                                          \
    {                                                                                  \
        real *const all[] = {x->q,  x->k,  x->v,  x->dout,     x->out,                 \
                             x->dq, x->dk, x->dv, x->drelative};                       \
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {                        \
            vp_free(all[i]);                                                           \
        }                                                                              \
    }

REFERENCE(double, exp)
REFERENCE(float, expf)

static const char *const names[5] = {"out", "dq", "dk", "dv", "drelative"};

/* The largest errors so far of out, dq, dk, dv, drelative, in parts of the array's largest number; ours
 * and those of a loop in float. */
static double ours[5], loops[5];

/* Compares one output with the reference, and looks whether anything else was written. */
static void compare(const shape *s, int which, const float *got, size_t count,
                    size_t image, size_t row, size_t n, size_t width,
                    const double *want, const float *loop)
{
    double largest = 0.0, error = 0.0, loop_error = 0.0;
    size_t seen = 0;
    for (size_t i = 0; i < s->batch * n * width; i++) {
        largest = fmax(largest, fabs(want[i]));
        loop_error = fmax(loop_error, fabs(loop[i] - want[i]));
    }
    for (size_t i = 0; i < count; i++) {
        const size_t r = i % image / row, c = i % image % row;
        if (r >= n || c >= width) {
            CHECK(got[i] == UNTOUCHED, "%s: %s beside its rows", ukr->name,
                  names[which]);
            continue;
        }
        const double right = want[(i / image * n + r) * width + c];
        error = fmax(error, fabs(got[i] - right));
        seen++;
        CHECK(fabs(got[i] - right) <= 1e-5 * largest,
              "%s %s, %zu x %zu x (%zu, %zu) x (%zu, %zu) mask %d rate %g, at %zu: "
              "%.9g, not %.9g",
              ukr->name, names[which], s->batch, s->heads, s->nq, s->nk, s->dk, s->dv,
              (int)s->mask, (double)s->rate, i, (double)got[i], right);
    }
    CHECK(seen == s->batch * n * width, "%zu of %zu numbers", seen,
          s->batch * n * width);
    if (largest > 0.0) {
        ours[which] = fmax(ours[which], error / largest);
        loops[which] = fmax(loops[which], loop_error / largest);
    }
}

static void check_right(const shape *s, size_t threads)
{
    operands o;
    make(&o, s);
    run(&o, s, threads);
    arrays_double x = arrays_of_double(&o);
    arrays_float y = arrays_of_float(&o);
    plain_double(&o, &x);
    plain_float(&o, &y);
    const size_t wk = s->heads * s->dk, wv = s->heads * s->dv;
    compare(s, 0, o.out, o.out_count, o.at.out_image, o.at.out_row, s->nq, wv, x.out,
            y.out);
    compare(s, 1, o.dq, o.dq_count, s->nq * o.dq_row, o.dq_row, s->nq, wk, x.dq, y.dq);
    compare(s, 2, o.dk, o.dkv_count, s->nk * o.dkv_row, o.dkv_row, s->nk,
            wk / group_of(s), x.dk, y.dk);
    compare(s, 3, o.dv, o.dkv_count, s->nk * o.dkv_row, o.dkv_row, s->nk,
            wv / group_of(s), x.dv, y.dv);
    if (s->grid_h > 0) {
        const size_t size = vp_relative_size(&o.relative);
        compare(s, 4, o.drelative, s->batch * s->heads * size, s->heads * size, size,
                s->heads, size, x.drelative, y.drelative);
    }
    drop_double(&x);
    drop_float(&y);
    drop(&o);
}

/* sum of out dout */
static double loss(const operands *o, const arrays_double *x, size_t count)
{
    arrays_double forward = *x;
    forward.dq = NULL;
    plain_double(o, &forward);
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += x->out[i] * x->dout[i];
    }
    return sum;
}

/* Against the differences of the forward pass. */
static void check_differences(const shape *s)
{
    operands o;
    make(&o, s);
    run(&o, s, 2);
    arrays_double x = arrays_of_double(&o);
    const size_t wk = s->heads * s->dk, wv = s->heads * s->dv;
    double *const inputs[] = {x.q, x.k, x.v};
    const float *const gradients[] = {o.dq, o.dk, o.dv};
    const size_t rows[] = {o.dq_row, o.dkv_row, o.dkv_row};
    const size_t ns[] = {s->nq, s->nk, s->nk},
                 widths[] = {wk, wk / group_of(s), wv / group_of(s)};
    const double h = 1e-5;
    for (size_t w = 0; w < 3; w++) {
        for (size_t i = 0; i < s->batch * ns[w] * widths[w]; i++) {
            const double was = inputs[w][i];
            inputs[w][i] = was + h;
            const double up = loss(&o, &x, s->batch * s->nq * wv);
            inputs[w][i] = was - h;
            const double down = loss(&o, &x, s->batch * s->nq * wv);
            inputs[w][i] = was;
            const double got = gradients[w][i / widths[w] * rows[w] + i % widths[w]];
            CHECK(check_close(got, (up - down) / (2 * h), 1e-5),
                  "%s: %s[%zu] is %.9g, its difference %.9g (mask %d, rate %g)",
                  ukr->name, names[w + 1], i, got, (up - down) / (2 * h), (int)s->mask,
                  (double)s->rate);
        }
    }
    drop_double(&x);
    drop(&o);
}

static void check_bits(const shape *s)
{
    operands one, more;
    make(&one, s);
    run(&one, s, 1);
    for (size_t threads = 2; threads <= 3; threads++) {
        make(&more, s);
        run(&more, s, threads);
        const bool same =
            memcmp(one.out, more.out, one.out_count * sizeof(float)) == 0 &&
            memcmp(one.dq, more.dq, one.dq_count * sizeof(float)) == 0 &&
            memcmp(one.dk, more.dk, one.dkv_count * sizeof(float)) == 0 &&
            memcmp(one.dv, more.dv, one.dkv_count * sizeof(float)) == 0 &&
            memcmp(one.drelative, more.drelative,
                   s->batch * s->heads * vp_relative_size(&one.relative) *
                       sizeof(float)) == 0;
        CHECK(same, "%s: other bits with %zu threads", ukr->name, threads);
        drop(&more);
    }
    drop(&one);
}

/* Dropout keeps a weight with probability 1 - rate: the mean of its factors is 1. */
static void check_rate(float rate)
{
    const vp_drop drop = {.rate = rate, .seed = 1, .site = 2, .image = 0};
    const uint64_t key = vp_drop_key(&drop, 0);
    double kept = 0.0;
    for (uint32_t i = 0; i < 100000; i++) {
        kept += vp_drop_bits(key, i) >= vp_drop_limit(rate);
    }
    CHECK(fabs(kept / 1e5 - (1.0 - rate)) < 0.01, "of rate %g %g is kept", (double)rate,
          kept / 1e5);
}

/* Uniform in first..last */
static size_t between(size_t first, size_t last)
{
    const double x = (check_random() + 1.0) / 2;
    return first + (size_t)(x * (double)(last - first + 1));
}

static void check_ukr(void)
{
    memset(ours, 0, sizeof ours);
    memset(loops, 0, sizeof loops);
    for (size_t i = 0; i < 16; i++) {
        check_reseed(i);
        shape s = {.batch = between(1, 3), .heads = between(1, 3)};
        s.nq = i % 5 == 0 ? 1 : between(1, 300);
        s.nk = between(1, 300);
        s.dk = i % 4 == 0 ? 64 : between(1, 80);
        s.dv = i % 3 == 0 ? between(1, 80) : s.dk;
        s.mask = (mask_kind)(i % MASKS);
        s.per_head = i % 2 == 0;
        s.hidden = i % 3 == 0;
        s.rate = i % 4 == 1 ? 0.1f : i % 4 == 3 ? 0.6f : 0.0f;
        s.shared = i % 5 == 0 || i % 7 == 0;
        s.one = i % 6 == 4;
        if (s.one) {
            s.dv = s.dk;
            s.nq = s.nk;
            s.shared = false;
        }
        s.block_queries = i % 8 == 7 ? 7 : 0;
        check_right(&s, 1 + i % 3);
    }
    for (size_t i = 0; i < 12; i++) { /* heads that share keys, and a relative bias */
        check_reseed(i);
        shape s = {.batch = between(1, 3), .group = i % 3 + 1};
        s.heads = s.group * between(1, 2);
        s.dk = s.dv = between(1, 70);
        s.grid_h = i % 2 == 0 ? between(1, 12) : 0;
        s.grid_w = between(1, 12);
        s.prefix = s.grid_h > 0 ? between(0, 2) : 0;
        s.nk = s.prefix + vp_max(s.grid_h, 1) * s.grid_w;
        s.nq = i % 5 == 4 ? 1 : s.nk;
        s.mask = i % 4 == 3 ? CAUSAL : NO_MASK;
        s.rate = i % 4 == 1 ? 0.3f : 0.0f;
        s.block_queries = i % 3 == 2 ? 7 : 0;
        check_right(&s, 1 + i % 3);
    }
    for (int i = 0; i < 5; i++) {
        (void)printf("  %s: %.1e of the largest, loops in float32 %.1e\n", names[i],
                     ours[i], loops[i]);
        CHECK(ours[i] <= 2 * loops[i], "%s: %s is less exact than float32", ukr->name,
              names[i]);
    }
    shape s = {.batch = 2, .heads = 2, .nq = 4, .nk = 5, .dk = 3, .dv = 2};
    for (s.mask = NO_MASK; s.mask < MASKS; s.mask++) {
        for (int i = 0; i < 3; i++) {
            s.rate = i == 1 ? 0.4f : 0.0f;
            s.per_head = i == 2;
            s.hidden = i == 2;
            check_differences(&s);
        }
    }
    s = (shape){.batch = 2, .heads = 4, .nq = 5, .nk = 5, .dk = 3, .dv = 2, .group = 2};
    check_differences(&s);
    s = (shape){.batch = 3, .heads = 4, .nq = 65, .nk = 65, .dk = 16, .dv = 16};
    s.group = 2;
    s.grid_h = s.grid_w = 8;
    s.prefix = 1;
    check_bits(&s);
    s = (shape){.batch = 2, .heads = 3, .nq = 197, .nk = 197, .dk = 64, .dv = 64};
    check_bits(&s);
    s.rate = 0.2f;
    s.mask = BIAS_CAUSAL;
    check_bits(&s);
    s = (shape){.batch = 1, .heads = 1, .nq = 1, .nk = 300, .dk = 9, .dv = 70};
    check_bits(&s);
}

int main(void)
{
    check_rate(0.1f);
    check_rate(0.75f);
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        ukr = testable_ukr(vp_ukr_at(i));
        if (ukr != NULL && ukr->weight == VP_DTYPE_f32) {
            (void)printf("%s\n", ukr->name);
            check_ukr();
        }
    }
    return check_done();
}
