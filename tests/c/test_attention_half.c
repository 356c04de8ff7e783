/* Attention whose two products are in bfloat16, with every micro-kernel that multiplies it: the
 * numbers of float32 as far as rounding q, k, v and the weights allows; the same bits for every
 * number of threads; a query, a key and an image for itself. SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "check.h"
#include "emulated.h"
#include "ops/attention.h"

typedef struct {
    size_t batch, heads, nq, nk, dk, dv;
    bool causal;
} shape;

static float *attend(const vp_ukr *ukr, const shape *s, const float *q, const float *k,
                     const float *v, size_t threads, float *weights)
{
    vp_team team;
    vp_set_num_threads(threads);
    const size_t workers = vp_team_open(&team);
    const vp_mask mask = {.causal = s->causal};
    vp_run run = {.team = &team,
                  .kernels = vp_kernels_for(ukr->target),
                  .ukr = ukr,
                  .limits = vp_limits_get(workers)};
    const size_t rows = s->batch * s->nq, width = s->heads * s->dv;
    float *out = vp_alloc(rows * width * sizeof(float));
    vp_attention at = {.batch = s->batch,
                       .heads = s->heads,
                       .group = 1,
                       .nq = s->nq,
                       .nk = s->nk,
                       .dk = s->dk,
                       .dv = s->dv,
                       .q = q,
                       .k = k,
                       .v = v,
                       .q_row = s->heads * s->dk,
                       .q_image = s->nq * s->heads * s->dk,
                       .kv_row = s->heads * s->dk,
                       .kv_image = s->nk * s->heads * s->dk,
                       .scale = 1.0f / sqrtf((float)s->dk),
                       .mask = s->causal ? &mask : NULL,
                       .out = out,
                       .out_row = width,
                       .out_image = s->nq * width};
    vp_scratch_max(&run.per_worker, vp_attention_scratch(&run, s->nk, s->dk, s->dv));
    run.scratch = vp_alloc(workers * run.per_worker);
    vp_attention_run(&run, &at);
    if (weights != NULL) {
        vp_attention_weights(&run, &at, weights);
    }
    vp_free(run.scratch);
    vp_team_close(&team);
    return out;
}

/* As bfloat16 has it. */
static void round_all(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        vp_kernels_reference.to_bf16(&half, x + i, 1);
        const uint32_t bits = (uint32_t)half << 16;
        memcpy(x + i, &bits, sizeof bits);
    }
}

static void check_shape(const vp_ukr *ukr, const shape *s)
{
    const size_t wide = s->heads * (s->dk > s->dv ? s->dk : s->dv);
    const size_t queries = s->batch * s->nq, keys = s->batch * s->nk;
    const size_t count = queries * s->heads * s->dv, maps = queries * s->heads * s->nk;
    float *q = vp_alloc(queries * wide * sizeof(float));
    float *k = vp_alloc(keys * wide * sizeof(float));
    float *v = vp_alloc(keys * wide * sizeof(float));
    float *weights = vp_alloc(maps * sizeof(float));
    float *exact = vp_alloc(maps * sizeof(float));
    check_reseed(s->nq * 1000 + s->nk);
    check_fill(q, queries * wide, 2.0f);
    check_fill(k, keys * wide, 2.0f);
    check_fill(v, keys * wide, 1.0f);
    round_all(q, queries * wide);
    round_all(k, keys * wide);
    round_all(v, keys * wide);
    float *want = attend(vp_ukr_for(VP_DTYPE_f32), s, q, k, v, 1, exact);
    float *got = attend(ukr, s, q, k, v, 1, weights);
    float *more = attend(ukr, s, q, k, v, 3, NULL);
    CHECK(memcmp(got, more, count * sizeof(float)) == 0, "%s: other bits of 3 threads",
          ukr->name);
    for (size_t i = 0; i < count; i++) {
        /* weights that add up to 1, each rounded to 9 bits, of values up to 1 */
        CHECK(fabsf(got[i] - want[i]) <= 0x1p-9f,
              "%s (%zu, %zu) x (%zu, %zu): %g, not %g", ukr->name, s->nq, s->nk, s->dk,
              s->dv, (double)got[i], (double)want[i]);
    }
    for (size_t i = 0; i < maps; i++) {
        CHECK(fabsf(weights[i] - exact[i]) <= 1e-5f, "%s: weight %g, not %g", ukr->name,
              (double)weights[i], (double)exact[i]);
    }
    /* A key that is not a number is seen by its image's queries alone; those that may not see
     * it (causal) do not. */
    const size_t bad = s->nk - 1;
    k[bad * s->heads * s->dk] = NAN;
    float *spoilt = attend(ukr, s, q, k, v, 2, NULL);
    for (size_t i = 0; i < count; i++) {
        const size_t row = i / (s->heads * s->dv), head = i / s->dv % s->heads;
        const bool sees =
            row < s->nq && head == 0 && (!s->causal || row % s->nq >= bad);
        CHECK(sees ? isnan(spoilt[i]) : spoilt[i] == got[i],
              "%s: %g at row %zu, head %zu", ukr->name, (double)spoilt[i], row, head);
    }
    float *const all[] = {q, k, v, weights, exact, want, got, more, spoilt};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        vp_free(all[i]);
    }
}

int main(void)
{
    static const shape shapes[] = {
        {1, 1, 1, 1, 1, 1, false},      {2, 3, 5, 7, 3, 3, false},
        {1, 2, 14, 32, 64, 64, false},  {2, 2, 33, 33, 8, 8, true},
        {1, 3, 50, 197, 64, 64, false}, {1, 1, 211, 211, 59, 59, true},
        {1, 2, 3, 700, 64, 64, false},
    };
    vp_limits_set((vp_limits){.block_keys = 128, .block_queries = 40});
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = testable_ukr(vp_ukr_at(i));
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++) {
            if (ukr != NULL && ukr->rows == VP_ROWS_bf16) {
                check_shape(ukr, &shapes[j]);
            }
        }
    }
    return check_done();
}
