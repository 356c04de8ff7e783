/* Dropout and stochastic depth: masks by their definition, whatever the chunks; branches and
 * their gradients. SPDX-License-Identifier: Apache-2.0 */
#include "backward.h"
#include "ops/dropout.h"

/* What a number of an image is multiplied by. */
static double factor(const vp_drop *drop, size_t image, size_t i)
{
    const uint32_t bits = vp_drop_bits(vp_drop_key(drop, image), (uint32_t)i);
    return bits < vp_drop_limit(drop->rate) ? 0.0 : 1.0 / (1.0 - (double)drop->rate);
}

static void masks_are_those_of_the_header(const vp_run *run, const char *target)
{
    for (size_t k = 0; k < 20; k++) {
        const size_t batch = 1 + below(4), tokens = 1 + below(30), n = 1 + below(300);
        const vp_drop drop = {k % 4 == 0 ? 0.0f : 0.25f * (float)(k % 4), k, 3 * k, k};
        matrix x = matrix_new(batch * tokens, n, 1.0f), other = matrix_copy(&x);
        matrix y = matrix_copy(&x);
        matrix *to = k % 2 ? &x : &other; /* in place */
        vp_dropout_run(run, &drop, batch, tokens, n, to->x, to->ld, x.x, x.ld);
        for (size_t i = 0; i < batch * tokens; i++) {
            for (size_t c = 0; c < n; c++) {
                const double want =
                    row(&y, i)[c] * factor(&drop, i / tokens, i % tokens * n + c);
                CHECK(fabs(row(to, i)[c] - want) <= 2e-7 * fabs(want),
                      "%s: row %zu, %zu: %g, not %g", target, i, c,
                      (double)row(to, i)[c], want);
            }
        }
        matrix_keep(to);
        matrix_free(&x);
        matrix_free(&other);
        matrix_free(&y);
    }
}

static void a_rate_of_the_numbers_is_dropped(const vp_run *run, const char *target)
{
    enum { COUNT = 200000 };
    static float x[COUNT], y[COUNT];
    static const float rates[] = {0.001f, 0.1f, 0.5f, 0.9f};
    for (size_t i = 0; i < COUNT; i++) {
        x[i] = 1.0f;
    }
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        const vp_drop drop = {rates[r], 11 + r, 5, 0};
        double dropped = 0.0, sum = 0.0;
        vp_dropout_run(run, &drop, 4, 50, COUNT / 200, y, COUNT / 200, x, COUNT / 200);
        for (size_t i = 0; i < COUNT; i++) {
            dropped += y[i] == 0.0f;
            sum += y[i];
        }
        const double rate = rates[r], n = COUNT, sigma = sqrt(rate * (1.0 - rate) / n);
        CHECK(fabs(dropped / n - rate) < 5.0 * sigma, "%s: %g dropped, not %g", target,
              dropped / n, rate);
        CHECK(fabs(sum / n - 1.0) < 5.0 * sigma / (1.0 - rate), "%s: a mean of %g",
              target, sum / n);
    }
}

static void chunks_seeds_sites_and_images(const vp_run *run, const char *target)
{
    enum { BATCH = 5, TOKENS = 3, N = 37, ROWS = BATCH * TOKENS };
    float x[ROWS * N], whole[ROWS * N], parts[ROWS * N];
    check_fill(x, ROWS * N, 1.0f);
    const vp_drop drop = {0.5f, 99, 8, 1000};
    vp_dropout_run(run, &drop, BATCH, TOKENS, N, whole, N, x, N);
    for (size_t first = 0; first < BATCH; first += 2) { /* two images at a time */
        vp_drop chunk = drop;
        chunk.image += first;
        const size_t at = first * TOKENS * N;
        vp_dropout_run(run, &chunk, vp_min(2, BATCH - first), TOKENS, N, parts + at, N,
                       x + at, N);
    }
    CHECK(memcmp(whole, parts, sizeof whole) == 0, "%s: chunks change a mask", target);
    const vp_drop others[] = {
        {0.5f, 98, 8, 1000}, {0.5f, 99, 9, 1000}, {0.5f, 99, 8, 1001}};
    for (size_t k = 0; k < 3; k++) {
        size_t same = 0;
        vp_dropout_run(run, &others[k], BATCH, TOKENS, N, parts, N, x, N);
        for (size_t i = 0; i < ROWS * N; i++) {
            same += (parts[i] == 0.0f) == (whole[i] == 0.0f);
        }
        CHECK(same > ROWS * N * 2 / 5 && same < ROWS * N * 3 / 5,
              "%s: another mask has %zu of %d numbers in common", target, same,
              ROWS * N);
    }
}

static void branches(const vp_run *run, const char *target, unsigned how)
{
    const size_t batch = 1 + below(6), tokens = 1 + below(20), n = 1 + below(300);
    const size_t rows = batch * tokens;
    static float gamma[300], dgamma[300], before[300];
    static double slope[300];
    check_fill(gamma, n, 1.0f);
    check_fill(dgamma, n, 1.0f);
    memcpy(before, dgamma, sizeof before);
    memset(slope, 0, sizeof slope);
    const vp_branch branch = {how & 1 ? gamma : NULL,
                              {how & 2 ? 0.3f : 0.0f, how, 3, how},
                              {how & 4 ? 0.5f : 0.0f, how, 5, how}};
    matrix x = matrix_new(rows, n, 1.0f), z = matrix_new(rows, n, 1.0f);
    matrix out = matrix_new(rows, n, 1.0f), x0 = matrix_copy(&x), z0 = matrix_copy(&z);
    matrix *to = how & 8 ? how & 16 ? &x : &z : &out;
    vp_branch_run(run, &branch, batch, tokens, n, to->x, to->ld, x.x, x.ld, z.x, z.ld);
    matrix dout = matrix_new(rows, n, 1.0f), dout0 = matrix_copy(&dout);
    matrix dz = matrix_new(rows, n, 1.0f);
    matrix *to_dz = how & 8 ? &dout : &dz;
    const bool wanted = how & 16;
    check_memory partial = check_memory_new(
        vp_branch_gradient_floats(batch, tokens, n) * sizeof(float), true);
    vp_branch_gradient_run(run, &branch, batch, tokens, n, to_dz->x, to_dz->ld, dout.x,
                           dout.ld, wanted ? z0.x : NULL, z0.ld, wanted ? dgamma : NULL,
                           partial.data);
    check_memory_free(&partial, "a branch's gradient");
    for (size_t i = 0; i < rows; i++) {
        const double path = factor(&branch.path, i / tokens, 0);
        for (size_t c = 0; c < n; c++) {
            const double drop = factor(&branch.drop, i / tokens, i % tokens * n + c);
            const double scale = (how & 1 ? (double)gamma[c] : 1.0) * drop * path;
            double want = row(&x0, i)[c] + scale * row(&z0, i)[c];
            CHECK(check_close(row(to, i)[c], want, 4e-7), "%s, %u: out %g, not %g",
                  target, how, (double)row(to, i)[c], want);
            want = scale * row(&dout0, i)[c];
            CHECK(check_close(row(to_dz, i)[c], want, 4e-7), "%s, %u: dz %g, not %g",
                  target, how, (double)row(to_dz, i)[c], want);
            slope[c] += path * drop * row(&dout0, i)[c] * row(&z0, i)[c];
        }
    }
    for (size_t c = 0; c < n; c++) {
        const double want = before[c] + (how & 1 && wanted ? slope[c] : 0.0);
        CHECK(fabs(dgamma[c] - want) <= 4e-7 * (4.0 + sqrt((double)rows)),
              "%s, %u: dgamma %g, not %g", target, how, (double)dgamma[c], want);
    }
    matrix_keep(to);
    matrix_keep(to_dz);
    keep(dgamma, n);
    matrix *all[] = {&x, &z, &out, &x0, &z0, &dout, &dout0, &dz};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        matrix_free(all[i]);
    }
}

static void test(const vp_run *run, const char *target)
{
    masks_are_those_of_the_header(run, target);
    a_rate_of_the_numbers_is_dropped(run, target);
    chunks_seeds_sites_and_images(run, target);
    for (unsigned how = 0; how < 32; how++) {
        branches(run, target, how);
    }
}

int main(void)
{
    on_every_target(test);
    return check_done();
}
