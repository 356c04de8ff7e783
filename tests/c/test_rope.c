/* Rotary positions: tables beside timm's formulas, rows beside plain rotations, and models
 * whose q, k and v are kept in other ways but are the same.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/limits.h"
#include "base/parallel.h"
#include "check.h"
#include "ops/rope.h"
#include "tiny.h"

#define BATCH 3
#define PIXELS (3 * 8 * 8)
#define TOKENS 7 /* of tiny models: class token, two registers, 2 x 2 patches */
#define NUMBERS ((size_t)BATCH * TOKENS * 8)

static vp_error err = {VP_OK, ""};
static float images[BATCH * PIXELS];

/* -- tables -- */

/* The angle of frequency j at place (y, x), written down in double. */
static double angle(const vp_rope_of *of, const size_t grid[2], size_t j, size_t y,
                    size_t x)
{
    const size_t bands = of->width / 4;
    const size_t place[2] = {of->xy ? x : y, of->xy ? y : x};
    const size_t sides[2] = {grid[of->xy ? 1 : 0], grid[of->xy ? 0 : 1]};
    const size_t refs[2] = {of->ref[of->xy ? 1 : 0], of->ref[of->xy ? 0 : 1]};
    if (of->kind == VP_ROPE_TABLE_MIXED) {
        return (double)place[0] * of->freqs[j] +
               (double)place[1] * of->freqs[of->freqs_axis + j];
    }
    const size_t axis = j / bands;
    const double power =
        pow((double)of->temperature, (double)(j % bands) / (double)bands);
    double at = (double)place[axis] + of->grid_offset;
    if (of->kind == VP_ROPE_TABLE_DINOV3) {
        at = 2.0 * (at + 0.5) / (double)sides[axis] - 1.0;
        return 2.0 * 3.14159265358979323846 * at / power;
    }
    if (refs[axis] > 0) {
        at *= (double)refs[axis] / (double)sides[axis];
    }
    return at / power;
}

static void a_table_has_timms_angles(void)
{
    enum { WIDTH = 24, MOST_PATCHES = 35 };
    const size_t grids[][2] = {{1, 1}, {5, 7}, {7, 5}};
    float freqs[2 * WIDTH], table[MOST_PATCHES * 2 * WIDTH];
    check_fill(freqs, 2 * WIDTH, 1.0f);
    for (size_t i = 0; i < 3 * 3 * 16; i++) {
        const size_t *grid = grids[i / 16 % 3];
        const vp_rope_of of = {.kind = (vp_rope_table_kind)(i / 48),
                               .half = i & 1,
                               .xy = i & 2,
                               .temperature = 100.0f,
                               .grid_offset = i & 4 ? 1.0f : 0.0f,
                               .ref = {i & 8 ? 3 : 0, i & 8 ? 14 : 0},
                               .width = WIDTH,
                               .freqs = freqs,
                               .freqs_axis = WIDTH};
        vp_rope_table(&of, grid, table);
        for (size_t p = 0; p < grid[0] * grid[1]; p++) {
            const float *cosines = table + p * 2 * WIDTH, *sines = cosines + WIDTH;
            for (size_t j = 0; j < WIDTH / 2; j++) {
                const double turn = angle(&of, grid, j, p / grid[1], p % grid[1]);
                const size_t a = of.half ? j : 2 * j,
                             b = of.half ? j + WIDTH / 2 : a + 1;
                CHECK(fabs(cosines[a] - cos(turn)) < 2e-6 && cosines[b] == cosines[a],
                      "table %zu, place %zu, frequency %zu: %g and %g, not %g", i, p, j,
                      (double)cosines[a], (double)cosines[b], cos(turn));
                CHECK(fabs(sines[b] - sin(turn)) < 2e-6 && sines[a] == -sines[b],
                      "table %zu, place %zu, frequency %zu: %g and %g, not %g", i, p, j,
                      (double)sines[a], (double)sines[b], sin(turn));
            }
        }
    }
}

/* -- rows -- */

static void run_rope(const vp_rope *rope, bool inverse, float *x, size_t ldx)
{
    vp_team team;
    const vp_limits limits = vp_limits_get(vp_team_open(&team));
    const vp_run run = {.team = &team, .kernels = vp_kernels_get(), .limits = limits};
    vp_rope_run(&run, rope, inverse, x, ldx);
    vp_team_close(&team);
}

/* Patches of each image are turned by their own rows of the table, the prefix and what lies
 * between rows is not; back again gives what was there, and threads change no bit. */
static void rows_are_turned_by_their_place(void)
{
    enum { HEADS = 2, WIDTH = 8, LD = HEADS * WIDTH + 5, N = 40, PREFIX = 3 };
    enum { PATCHES = N - PREFIX, TABLE = PATCHES * 2 * WIDTH };
    static float x[BATCH * N * LD], before[BATCH * N * LD], again[BATCH * N * LD];
    static float table[HEADS * TABLE];
    const size_t grid[2] = {1, PATCHES};
    for (size_t i = 0; i < 4; i++) {
        const bool half = i & 1, own = i & 2;
        vp_rope_of of = {.half = half, .temperature = 50.0f, .width = WIDTH};
        vp_rope_table(&of, grid, table);
        of.grid_offset = 0.5f;
        vp_rope_table(&of, grid, table + TABLE);
        const vp_rope rope = {BATCH, N,    PREFIX, HEADS,
                              WIDTH, half, table,  own ? TABLE : 0};
        check_fill(x, BATCH * N * LD, 1.0f);
        memcpy(before, x, sizeof x);
        memcpy(again, x, sizeof x);
        vp_set_num_threads(1);
        run_rope(&rope, false, x, LD);
        vp_set_num_threads(3);
        run_rope(&rope, false, again, LD);
        CHECK(memcmp(x, again, sizeof x) == 0, "case %zu: threads change bits", i);
        for (size_t row = 0; row < BATCH * N; row++) {
            const float *was = before + row * LD, *is = x + row * LD;
            const bool patch = row % N >= PREFIX;
            const float *turn = table + (patch ? row % N - PREFIX : 0) * 2 * WIDTH;
            for (size_t c = 0; c < LD; c++) {
                const size_t h = c / WIDTH, k = c % WIDTH;
                const size_t other = half ? (k + WIDTH / 2) % WIDTH : k ^ 1;
                double want = was[c];
                if (patch && h < HEADS) {
                    const float *t = turn + (own ? h * TABLE : 0);
                    want = (double)was[c] * t[k] +
                           (double)was[h * WIDTH + other] * t[WIDTH + k];
                }
                CHECK(check_close((double)is[c], want, 1e-6),
                      "case %zu, row %zu, column %zu: %g, not %g", i, row, c,
                      (double)is[c], want);
            }
        }
        run_rope(&rope, true, x, LD);
        for (size_t k = 0; k < BATCH * N * LD; k++) {
            CHECK(check_close((double)x[k], (double)before[k], 1e-6), "back: %zu", k);
        }
    }
}

/* -- models -- */

static vp_config eva(void)
{
    vp_config c = tiny_config();
    c.family = VP_FAMILY_EVA;
    c.block = VP_BLOCK_EVA;
    c.rope = VP_ROPE_CAT;
    c.rope_temperature = 100.0f;
    c.reg_tokens = 2;
    return c;
}

/* The numbers of a parameter, by its name alone: of two models those of one name are equal. */
static void numbers_of(const char *name, float *x, size_t n)
{
    uint64_t seed = 5;
    for (const char *s = name; *s != '\0'; s++) {
        seed = seed * 31 + (unsigned char)*s;
    }
    check_reseed(seed);
    check_fill(x, n, 0.5f);
}

typedef void fill_param(const char *name, float *x, size_t n);

static vp_vit *model_of(const vp_config *c, fill_param *fill)
{
    vp_vit *vit = NULL;
    CHECK(vp_vit_create(c, &vit, &err) == VP_OK, "%s", err.message);
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        const vp_param *param = vp_vit_param(vit, i);
        float x[1024];
        fill(param->name, x, vp_param_count(param));
        CHECK(vp_vit_set_param(vit, i, x, &err) == VP_OK, "%s", err.message);
    }
    CHECK(vp_vit_finish(vit, &err) == VP_OK, "%s", err.message);
    return vit;
}

static vp_forward whole(const vp_vit *vit, vp_output output, float *out)
{
    return (vp_forward){.images = images,
                        .batch = BATCH,
                        .height = 8,
                        .width = 8,
                        .depth = vp_vit_config(vit)->depth,
                        .output = output,
                        .out = out};
}

static void run(const vp_vit *vit, const vp_forward *f)
{
    vp_workspaces *workspaces = vp_workspaces_create();
    CHECK(vp_vit_forward(vit, workspaces, f, &err) == VP_OK, "%s", err.message);
    vp_workspaces_unref(workspaces);
}

static void features(const vp_config *c, fill_param *fill, float *out)
{
    vp_vit *vit = model_of(c, fill);
    const vp_forward f = whole(vit, VP_OUT_FEATURES, out);
    run(vit, &f);
    vp_vit_unref(vit);
}

static void alike(const float *got, const float *want, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        CHECK(check_close((double)got[i], (double)want[i], 1e-5), "%s: %zu: %g, not %g",
              what, i, (double)got[i], (double)want[i]);
    }
}

static bool ends(const char *name, const char *end)
{
    const size_t n = strlen(name), e = strlen(end);
    return n >= e && strcmp(name + n - e, end) == 0;
}

/* The numbers of `part` in place of `name`'s own last word, of a name that ends in it. */
static void numbers_as(const char *name, const char *end, const char *part, float *x,
                       size_t n)
{
    char other[128];
    (void)snprintf(other, sizeof other, "%.*s%s", (int)(strlen(name) - strlen(end)),
                   name, part);
    numbers_of(other, x, n);
}

/* One matrix of the three: what three have, one below the other; the same of biases. */
static void one_of_three(const char *name, float *x, size_t n)
{
    if (ends(name, "qkv.weight")) {
        numbers_as(name, "qkv.weight", "q_proj.weight", x, n / 3);
        numbers_as(name, "qkv.weight", "k_proj.weight", x + n / 3, n / 3);
        numbers_as(name, "qkv.weight", "v_proj.weight", x + n / 3 * 2, n / 3);
    } else if (ends(name, "qkv.bias")) {
        numbers_as(name, "qkv.bias", "q_proj.bias", x, n / 3);
        memset(x + n / 3, 0, n / 3 * sizeof *x);
        numbers_as(name, "qkv.bias", "v_proj.bias", x + n / 3 * 2, n / 3);
    } else if (ends(name, "q_bias")) {
        numbers_as(name, "q_bias", "q_proj.bias", x, n);
    } else if (ends(name, "v_bias")) {
        numbers_as(name, "v_bias", "v_proj.bias", x, n);
    } else {
        numbers_of(name, x, n);
    }
}

/* q, k and v come of three matrices, of one with two biases, or of one with a whole bias, all
 * of the same numbers: the same features, whichever token is read. */
static void one_matrix_is_as_three(void)
{
    for (size_t i = 0; i < 4; i++) {
        static float three[NUMBERS], two[NUMBERS], one[NUMBERS];
        vp_config c = eva();
        c.block = i & 1 ? VP_BLOCK_EVA_POST_NORM : VP_BLOCK_EVA;
        c.qk_norm = i & 2;
        c.q_v_bias = c.qkv_split = true;
        features(&c, numbers_of, three);
        c.qkv_split = false;
        features(&c, one_of_three, two);
        c.q_v_bias = false;
        features(&c, one_of_three, one);
        alike(two, three, NUMBERS, "q_bias and v_bias");
        alike(one, two, NUMBERS, "a whole bias");
    }
}

/* What two query heads share, both have: of a model of two heads. */
static void shared_heads(const char *name, float *x, size_t n)
{
    numbers_of(name, x, n);
    if (strstr(name, "k_proj") != NULL || strstr(name, "v_proj") != NULL) {
        numbers_of(name, x, n / 2);
        memcpy(x + n / 2, x, n / 2 * sizeof *x);
    }
}

static void a_shared_key_head_is_as_its_copies(void)
{
    static float few[NUMBERS], many[NUMBERS];
    vp_config c = eva();
    c.qkv_split = c.q_v_bias = c.qk_norm = true;
    features(&c, shared_heads, many);
    c.num_kv_heads = 1;
    features(&c, numbers_of, few);
    alike(few, many, NUMBERS, "one key head");
    c.num_full_attn_blocks = c.num_full_attn_last =
        1; /* of both blocks: no other is left */
    features(&c, shared_heads, few);
    CHECK(memcmp(few, many, sizeof few) == 0, "full blocks at both ends");
}

/* With a token pool the last block leaves out what is not read: the numbers of a pass whose
 * last block is read whole. */
static void the_class_token_alone_is_as_among_all(void)
{
    for (size_t i = 0; i < 16; i++) {
        static float one[BATCH * 5], all[BATCH * 5], tap[NUMBERS];
        vp_config c = eva();
        c.rope = (vp_rope_kind)(i % 4);
        c.qkv_split = i & 4;
        c.q_v_bias = true;
        c.num_kv_heads = i & 8 && i & 4 && c.rope != VP_ROPE_MIXED ? 1 : 0;
        vp_vit *vit = model_of(&c, numbers_of);
        vp_forward f = whole(vit, VP_OUT_LOGITS, one);
        const vp_tap last = {1, VP_PLACE_OUT, false, tap};
        run(vit, &f);
        f.out = all;
        f.taps = &last;
        f.num_taps = 1;
        run(vit, &f);
        alike(one, all, BATCH * 5, "the class token alone");
        vp_vit_unref(vit);
    }
}

/* A given table is the one that turns: with no angle, that of a model without rope; with the
 * model's own, the same bits. */
static void a_given_table_is_taken(void)
{
    for (size_t mixed = 0; mixed < 2; mixed++) {
        static float own[NUMBERS], given[NUMBERS], none[NUMBERS], table[2 * 2 * 4 * 8];
        const size_t grid[2] = {2, 2};
        vp_config c = eva();
        c.rope = mixed ? VP_ROPE_MIXED : VP_ROPE_CAT;
        vp_vit *vit = model_of(&c, numbers_of);
        vp_forward f = whole(vit, VP_OUT_FEATURES, own);
        const size_t floats = vp_vit_rope_size(vit, grid);
        CHECK(floats == 4 * 8 * (mixed ? (size_t)4 : 1), "%zu floats", floats);
        vp_vit_rope(vit, grid, table);
        run(vit, &f);
        f.rope = table;
        f.out = given;
        run(vit, &f);
        CHECK(memcmp(own, given, sizeof own) == 0, "the model's own table, given");
        for (size_t i = 0; i < floats; i++) {
            table[i] = i % 8 < 4 ? 1.0f : 0.0f;
        }
        run(vit, &f);
        vp_vit_unref(vit);
        c.rope = VP_ROPE_NONE;
        features(&c, numbers_of, none);
        alike(given, none, NUMBERS, "no angle");
        CHECK(memcmp(own, given, sizeof own) != 0, "a table changes nothing");
    }
}

static void a_table_that_is_missing_is_an_error(void)
{
    static float out[BATCH * 32 * 8], table[6 * 8];
    vp_config c = eva();
    c.dynamic_img_size = true;
    c.pos_embed = false;
    vp_vit *vit = model_of(&c, numbers_of);
    size_t tokens;
    vp_forward f = whole(vit, VP_OUT_FEATURES, out);
    f.width = 12;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE &&
              strstr(err.message, "2 x 3") != NULL,
          "another grid: %s", err.message);
    f.height = 4;
    f.width = 16; /* as many patches, in another grid */
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE, "1 x 4");
    f.rope = table;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_OK, "%s", err.message);
    f.images = NULL;
    f.tokens = images;
    for (f.num_tokens = 1; f.num_tokens < 10; f.num_tokens++) {
        f.rope = NULL;
        CHECK((vp_vit_check_forward(vit, &f, &tokens, &err) == VP_OK) ==
                  (f.num_tokens == 7),
              "%zu tokens", f.num_tokens);
        f.rope = table;
        CHECK((vp_vit_check_forward(vit, &f, &tokens, &err) == VP_OK) ==
                  (f.num_tokens > 3),
              "%zu tokens and a table", f.num_tokens);
    }
    f.rope = NULL;
    f.num_tokens = 2;
    f.first = f.depth; /* no block runs, none is asked for */
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_OK, "%s", err.message);
    vp_vit_unref(vit);
    c.rope = VP_ROPE_NONE;
    vit = model_of(&c, numbers_of);
    f = whole(vit, VP_OUT_FEATURES, out);
    f.rope = table;
    CHECK(vp_vit_check_forward(vit, &f, &tokens, &err) == VP_ERR_VALUE, "no rope");
    vp_vit_unref(vit);
}

/* Attention alone is turned as in the model: of each block by the block's own table. */
static void attention_alone_is_turned_too(void)
{
    static float tokens[BATCH * TOKENS * 8], out[NUMBERS], still[NUMBERS];
    check_fill(tokens, BATCH * TOKENS * 8, 1.0f);
    static float table[2 * 2 * 4 * 8], second[NUMBERS];
    const size_t grid[2] = {2, 2};
    vp_config c = eva();
    c.rope = VP_ROPE_MIXED;
    c.qkv_split = true;
    vp_vit *vit = model_of(&c, numbers_of);
    vp_forward f = {.part = "blocks.1.attn",
                    .batch = BATCH,
                    .tokens = tokens,
                    .num_tokens = TOKENS,
                    .out = out};
    run(vit, &f);
    vp_vit_rope(vit, grid, table);
    for (size_t i = 0; i < 2 * 4 * 8; i++) { /* block 0's: not read */
        table[i] = NAN;
    }
    f.rope = table;
    f.out = second;
    run(vit, &f);
    CHECK(memcmp(out, second, sizeof out) == 0, "not by block 1's table");
    vp_vit_unref(vit);
    c.rope = VP_ROPE_NONE;
    vit = model_of(&c, numbers_of);
    f.rope = NULL;
    f.out = still;
    run(vit, &f);
    CHECK(memcmp(out, still, sizeof out) != 0, "not turned at all");
    vp_vit_unref(vit);
}

int main(void)
{
    check_fill(images, BATCH * PIXELS, 2.0f);
    a_table_has_timms_angles();
    rows_are_turned_by_their_place();
    one_matrix_is_as_three();
    a_shared_key_head_is_as_its_copies();
    the_class_token_alone_is_as_among_all();
    a_given_table_is_taken();
    a_table_that_is_missing_is_an_error();
    attention_alone_is_turned_too();
    return check_done();
}
