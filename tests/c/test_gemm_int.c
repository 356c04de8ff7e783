/* Products of integers: the same bits with every micro-kernel of a type, whatever the target, as
 * exact arithmetic has; each row for itself, whatever stands in another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "check.h"
#include "emulated.h"
#include "gemm/gemm.h"
#include "gemm/operand.h"

enum { MOST = 40 };

static void run(const vp_ukr *ukr, size_t m, size_t n, size_t k, const float *a,
                const float *w, const float *bias, float *out)
{
    vp_team team;
    vp_packed packed;
    const size_t workers = vp_team_open(&team);
    vp_run with = {.team = &team, .kernels = vp_kernels_for(ukr->target)};
    CHECK(vp_packed_init(&packed, ukr, n, k) == 0, "no memory");
    vp_pack(&packed, w);
    vp_scratch_max(&with.per_worker, vp_gemm_scratch(&packed, m, false));
    with.scratch = vp_alloc(workers * with.per_worker);
    with.operand_bytes = vp_operand_bytes(&packed, m);
    with.operand = vp_alloc(with.operand_bytes);
    vp_gemm gemm = {.m = m, .a = a, .lda = k, .w = &packed};
    gemm.finish = (vp_finish){.bias = bias, .out = out, .out_stride = n};
    vp_gemm_run(&with, &gemm);
    vp_packed_free(&packed);
    vp_free(with.scratch);
    vp_free(with.operand);
    vp_team_close(&team);
}

/* The definition, in 64-bit integers. */
static void reference(vp_dtype dtype, size_t m, size_t n, size_t k, const float *a,
                      const float *w, const float *bias, float *out)
{
    int16_t *q = vp_alloc(k * sizeof *q);
    for (size_t i = 0; i < m; i++) {
        float scale;
        int32_t zero;
        vp_kernels_reference.quantize_s16(q, a + i * k, k, vp_levels(dtype, k), &scale,
                                          &zero);
        for (size_t j = 0; j < n; j++) {
            const float *row = w + j * k;
            float most = 0.0f;
            for (size_t x = 0; x < k; x++) {
                most = fmaxf(most, fabsf(row[x]));
            }
            const float each = most / 127.0f, inverse = 127.0f / most;
            int64_t sum = 0;
            for (size_t x = 0; x < k && isfinite(inverse); x++) {
                const float scaled = row[x] * inverse;
                sum += (q[x] - zero) * (int64_t)lrintf(scaled);
            }
            CHECK(sum >= INT32_MIN && sum <= INT32_MAX, "a sum of %zu is too large", k);
            const float both = scale * (isfinite(inverse) ? each : 0.0f);
            volatile float product = (float)sum * both; /* rounded on its own */
            out[i * n + j] = product + bias[j];
        }
    }
    vp_free(q);
}

typedef enum { PLAIN, EXTREME, ONE_SIDED, ZEROS, DENORMAL, KINDS } kind;

static void fill(float *x, size_t count, kind what)
{
    check_fill(x, count, 1.0f);
    for (size_t i = 0; i < count; i++) {
        switch (what) {
        case EXTREME: /* every sum as large as it can be */
            x[i] = i % 97 == 96 ? -1.0f : 1.0f;
            break;
        case ONE_SIDED: /* as after GELU */
            x[i] = x[i] > 0.0f ? 5.0f * x[i] : 0.17f * x[i];
            break;
        case ZEROS:
            x[i] = i % 3 == 0 ? x[i] : 0.0f;
            break;
        case DENORMAL:
            x[i] *= 1e-40f;
            break;
        case PLAIN:
        case KINDS:
            break;
        }
    }
}

static void check_product(vp_dtype dtype, size_t m, size_t n, size_t k, kind what)
{
    float *a = vp_alloc(m * k * sizeof(float)), *w = vp_alloc(n * k * sizeof(float));
    float *bias = vp_alloc(n * sizeof(float)), *want = vp_alloc(m * n * sizeof(float));
    float *got = vp_alloc(m * n * sizeof(float));
    check_reseed(n * 1000 + k + (size_t)what);
    fill(a, m * k, what);
    fill(w, n * k, what == EXTREME ? EXTREME : what == ZEROS ? ZEROS : PLAIN);
    check_fill(bias, n, 1.0f);
    for (size_t i = 0; i < k; i++) {
        w[i] = what == ZEROS ? 0.0f : w[i]; /* an output without weights */
    }
    reference(dtype, m, n, k, a, w, bias, want);
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = testable_ukr(vp_ukr_at(i));
        if (ukr == NULL || ukr->weight != dtype) {
            continue;
        }
        run(ukr, m, n, k, a, w, bias, got);
        CHECK(memcmp(got, want, m * n * sizeof(float)) == 0,
              "%s: %zu x %zu x %zu of kind %d has other bits than its definition",
              ukr->name, m, n, k, (int)what);
    }
    vp_free(a);
    vp_free(w);
    vp_free(bias);
    vp_free(want);
    vp_free(got);
}

/* A row with a NaN, an infinity or too wide a range gives NaN; its neighbours have the bits that
 * they have without it. An output with such a weight is NaN for every row, and no other is. */
static void check_not_finite(const vp_ukr *ukr)
{
    enum { M = 9, N = 35, K = 70 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float a[M * K], w[N * K], bias[N], clean[M * N], got[M * N];
    check_fill(a, M * K, 1.0f);
    check_fill(w, N * K, 1.0f);
    check_fill(bias, N, 1.0f);
    run(ukr, M, N, K, a, w, bias, clean);
    for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
        const float before = a[4 * K + 33], of_w = w[20 * K + 5];
        a[4 * K + 33] = bad[b];
        run(ukr, M, N, K, a, w, bias, got);
        for (size_t i = 0; i < M * N; i++) {
            CHECK(i / N == 4 ? isnan(got[i]) : got[i] == clean[i],
                  "%s: (%zu, %zu) is %g beside a row with %g", ukr->name, i / N, i % N,
                  (double)got[i], (double)bad[b]);
        }
        a[4 * K + 33] = before;
        w[20 * K + 5] = bad[b];
        run(ukr, M, N, K, a, w, bias, got);
        for (size_t i = 0; i < M * N; i++) {
            CHECK(i % N == 20 ? isnan(got[i]) : got[i] == clean[i],
                  "%s: (%zu, %zu) is %g beside a weight of %g", ukr->name, i / N, i % N,
                  (double)got[i], (double)bad[b]);
        }
        w[20 * K + 5] = of_w;
    }
}

/* Numbers of some width, the same everywhere: neither a seed nor a machine's rounding is in them. */
static void fill_fixed(float *x, size_t count, uint32_t state)
{
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)((int32_t)(state >> 8) - (1 << 23)) * 0x1p-23f;
    }
}

/* The bits of a product, as they were on x86 when this was written: the same on every machine. */
static void check_pinned(vp_dtype dtype, uint64_t want)
{
    enum { M = 37, N = 83, K = 301 };
    static float a[M * K], w[N * K], bias[N], out[M * N];
    fill_fixed(a, M * K, 1);
    fill_fixed(w, N * K, 2);
    fill_fixed(bias, N, 3);
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = testable_ukr(vp_ukr_at(i));
        if (ukr == NULL || ukr->weight != dtype) {
            continue;
        }
        run(ukr, M, N, K, a, w, bias, out);
        uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a, of words */
        for (size_t j = 0; j < M * N; j++) {
            uint32_t bits;
            memcpy(&bits, out + j, sizeof bits);
            hash = (hash ^ bits) * 0x100000001b3u;
        }
        CHECK(hash == want, "%s: the hash of a product is %016llx, not %016llx",
              ukr->name, (unsigned long long)hash, (unsigned long long)want);
    }
}

int main(void)
{
    check_pinned(VP_DTYPE_s8, 0x775542cf6924c67au);
    check_pinned(VP_DTYPE_s8a16, 0x6f70cf11b0fdb8a4u);
    static const size_t ms[] = {1, 13, 14, 15, MOST}, ks[] = {1, 3, 4, 63, 64, 65, 768};
    static const vp_dtype dtypes[] = {VP_DTYPE_s8, VP_DTYPE_s8a16};
    for (size_t d = 0; d < 2; d++) {
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
            for (size_t j = 0; j < sizeof ks / sizeof *ks; j++) {
                vp_set_num_threads(1 + (i + j) % 3);
                for (int what = 0; what < KINDS; what++) {
                    check_product(dtypes[d], ms[i], 1 + ks[j] % 70, ks[j], (kind)what);
                }
            }
        }
        for (int what = 0; what < KINDS; what++) {
            check_product(dtypes[d], 17, 33, 3072, (kind)what);
            check_product(dtypes[d], 3, 17, 8200, (kind)what);
        }
        check_product(dtypes[d], 1, 16, VP_MOST_INT_INPUTS, EXTREME);
    }
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = testable_ukr(vp_ukr_at(i));
        if (ukr != NULL && vp_dtype_is_int(ukr->weight)) {
            check_not_finite(ukr);
        }
    }
    return check_done();
}
