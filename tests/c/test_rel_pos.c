/* Relative position bias: attention beside one whose mask holds every pair's bias, the tables
 * beside timm's index, and what a model with one takes. And the distilled model's two heads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/parallel.h"
#include "check.h"
#include "model/modules.h"
#include "ops/attention_gradient.h"
#include "tiny.h"

static vp_error err = {VP_OK, ""};

/* -- attention -- */

#define HEADS ((size_t)2)
#define D ((size_t)4)
#define BATCH ((size_t)2)

typedef struct {
    size_t grid[2], prefix;
} place;

static const place places[] = {{{1, 1}, 0}, {{1, 1}, 1}, {{1, 5}, 1},  {{5, 1}, 0},
                               {{3, 4}, 0}, {{4, 3}, 1}, {{2, 19}, 2}, {{7, 6}, 1}};

/* The bias of query i and key j, by timm's index. */
static float bias_of(const vp_relative *r, size_t h, size_t i, size_t j)
{
    const size_t gh = r->grid[0], gw = r->grid[1], prefix = r->prefix;
    if (i < prefix || j < prefix) {
        return r->edges[3 * h + (i < prefix && j < prefix ? 2 : j < prefix ? 1 : 0)];
    }
    const size_t qy = (i - prefix) / gw, qx = (i - prefix) % gw;
    const size_t ky = (j - prefix) / gw, kx = (j - prefix) % gw;
    return r
        ->bias[(h * (2 * gh - 1) + qy + gh - 1 - ky) * (2 * gw - 1) + kx + gw - 1 - qx];
}

typedef struct {
    vp_attention at;
    vp_relative relative;
    vp_mask mask, given; /* `given` is the caller's own, beside the bias */
    float *q, *k, *v, *bias, *pairs, *extra;
    unsigned char *allowed;
    size_t n;
} operands;

static float *numbers(size_t n, float scale)
{
    float *x = vp_alloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        x[i] = scale * check_random();
    }
    return x;
}

/* own: which mask the caller gives beside the bias; 0: none. one: the first query alone. */
static operands make(const place *p, int own, bool one)
{
    const size_t gh = p->grid[0], gw = p->grid[1], n = gh * gw + p->prefix;
    const size_t area = (2 * gh - 1) * (2 * gw - 1);
    operands o = {.n = n};
    o.bias = numbers(HEADS * (area + 3), 3.0f);
    o.relative = (vp_relative){.bias = o.bias,
                               .edges = o.bias + HEADS * area,
                               .grid = {gh, gw},
                               .prefix = p->prefix};
    o.q = numbers(BATCH * n * HEADS * D, 2.0f);
    o.k = numbers(BATCH * n * HEADS * D, 2.0f);
    o.v = numbers(BATCH * n * HEADS * D, 1.0f);
    o.extra = numbers(n * n, 1.0f);
    o.allowed = vp_alloc(n * n);
    for (size_t i = 0; i < n * n; i++) {
        o.allowed[i] = i % n == 0 || check_random() < 0.5f;
    }
    /* what a mask of every pair's bias would be, with the caller's own in it */
    o.pairs = numbers(HEADS * n * n, 0.0f);
    for (size_t h = 0; h < HEADS; h++) {
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < n; j++) {
                float b = bias_of(&o.relative, h, i, j);
                b += own == 1 ? o.extra[i * n + j] : 0.0f;
                b = own == 2 && !o.allowed[i * n + j] ? -INFINITY : b;
                o.pairs[(h * n + i) * n + j] = own == 3 && j > i ? -INFINITY : b;
            }
        }
    }
    o.mask = (vp_mask){.bias = o.pairs, .head = n * n, .row = n};
    o.given = (vp_mask){.bias = own == 1 ? o.extra : NULL,
                        .allowed = own == 2 ? o.allowed : NULL,
                        .row = n,
                        .causal = own == 3};
    o.at = (vp_attention){.batch = BATCH,
                          .heads = HEADS,
                          .group = 1,
                          .nq = one ? 1 : n,
                          .nk = n,
                          .dk = D,
                          .dv = D,
                          .q = o.q,
                          .k = o.k,
                          .v = o.v,
                          .q_row = HEADS * D,
                          .kv_row = HEADS * D,
                          .q_image = n * HEADS * D,
                          .kv_image = n * HEADS * D,
                          .scale = 0.7f,
                          .out_row = HEADS * D};
    o.at.out_image = o.at.nq * o.at.out_row;
    return o;
}

static void drop(operands *o)
{
    vp_free(o->q);
    vp_free(o->k);
    vp_free(o->v);
    vp_free(o->bias);
    vp_free(o->pairs);
    vp_free(o->extra);
    vp_free(o->allowed);
}

/* Everything that attention gives, of `at`: out, weights, and three gradients. */
typedef struct {
    float *out, *weights, *dq, *dk, *dv;
} results;

static results run(const operands *o, vp_attention at, size_t block_keys)
{
    const size_t rows = BATCH * o->n * HEADS * D;
    results r = {numbers(rows, 0.0f), numbers(BATCH * HEADS * o->n * o->n, 0.0f),
                 numbers(rows, 0.0f), numbers(rows, 0.0f), numbers(rows, 0.0f)};
    at.out = r.out;
    vp_team team;
    vp_run with = {.team = &team,
                   .kernels = vp_kernels_get(),
                   .ukr = vp_ukr_for(VP_DTYPE_f32),
                   .limits = vp_limits_get(vp_team_open(&team))};
    with.limits.block_keys = block_keys;
    vp_scratch_max(&with.per_worker, vp_attention_scratch(&with, at.nk, D, D));
    vp_scratch_max(&with.per_worker, vp_attention_gradient_scratch(&with, at.nk, D, D));
    with.scratch = vp_alloc(team.workers * with.per_worker);
    vp_attention_run(&with, &at);
    vp_attention_weights(&with, &at, r.weights);
    const vp_attention_gradient gradient = {.at = at,
                                            .dout = o->v,
                                            .dq = r.dq,
                                            .dk = r.dk,
                                            .dv = r.dv,
                                            .dq_row = HEADS * D,
                                            .dq_image = at.nq * HEADS * D,
                                            .dkv_row = HEADS * D,
                                            .dkv_image = o->n * HEADS * D};
    vp_attention_gradient_run(&with, &gradient);
    vp_free(with.scratch);
    vp_team_close(&team);
    return r;
}

static void close_to(const float *got, const float *want, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        CHECK(fabsf(got[i] - want[i]) < 2e-5f, "%s: %g at %zu, not %g", what,
              (double)got[i], i, (double)want[i]);
    }
}

static void a_bias_is_the_mask_of_all_pairs(void)
{
    for (size_t i = 0; i < sizeof places / sizeof *places * 8; i++) {
        const place *p = &places[i / 8];
        check_reseed(i);
        operands o = make(p, (int)(i % 4), i / 4 % 2 == 1);
        vp_attention with = o.at, pairs = o.at;
        with.relative = &o.relative;
        with.mask = i % 4 > 0 ? &o.given : NULL;
        pairs.mask = &o.mask;
        const size_t blocks[] = {1024, 1, 3, 16};
        const results want = run(&o, pairs, 1024);
        for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++) {
            const results got = run(&o, with, blocks[b]);
            const size_t rows = BATCH * o.at.nq * HEADS * D;
            const size_t all = BATCH * o.n * HEADS * D;
            close_to(got.out, want.out, rows, "out");
            close_to(got.weights, want.weights, BATCH * HEADS * o.at.nq * o.n,
                     "weights");
            close_to(got.dq, want.dq, rows, "dq");
            close_to(got.dk, want.dk, all, "dk");
            close_to(got.dv, want.dv, all, "dv");
            vp_free(got.out);
            vp_free(got.weights);
            vp_free(got.dq);
            vp_free(got.dk);
            vp_free(got.dv);
        }
        vp_free(want.out);
        vp_free(want.weights);
        vp_free(want.dq);
        vp_free(want.dk);
        vp_free(want.dv);
        drop(&o);
    }
}

/* -- a model's tables -- */

static vp_config model_of(vp_rel_pos_kind kind, bool block, bool shared, bool prefix)
{
    vp_config c = tiny_config();
    c.img_size[1] = 12; /* a grid of 2 x 3 */
    c.family = VP_FAMILY_RELPOS;
    c.block = VP_BLOCK_REL_POS;
    c.rel_pos = kind;
    c.rel_pos_block = block;
    c.rel_pos_shared = shared;
    c.rel_pos_dim = 5;
    c.class_token = prefix;
    c.pos_embed = false;
    c.global_pool = VP_POOL_AVG;
    return c;
}

static const float *parameter(const vp_vit *vit, const char *name)
{
    const size_t i = vp_vit_find_param(vit, name, 0);
    CHECK(i < vp_vit_num_params(vit), "no %s", name);
    return (*vp_vit_param(vit, i)->slot)->plain;
}

/* timm's index of query i and key j of a 2 x 3 grid with or without a prefix token. */
static size_t index_of(size_t i, size_t j, size_t prefix)
{
    if (i < prefix || j < prefix) {
        return 15 + (i < prefix && j < prefix ? 2 : j < prefix ? 1 : 0);
    }
    i -= prefix;
    j -= prefix;
    return (i / 3 + 1 - j / 3) * 5 + i % 3 + 2 - j % 3;
}

static void a_models_table_is_read_by_timms_index(void)
{
    for (size_t v = 0; v < 6; v++) {
        const bool prefix = v % 2 == 1, block = v / 2 != 1, shared = v / 2 != 0;
        const vp_config c = model_of(VP_REL_POS_BIAS, block, shared, prefix);
        vp_vit *vit = tiny_create(&c, &err);
        CHECK(vit != NULL, "%s", err.message);
        const float *all =
            shared ? parameter(vit, "shared_rel_pos.relative_position_bias_table")
                   : NULL;
        for (size_t b = 0; b < 2; b++) {
            const float *own =
                !block ? NULL
                : b == 0
                    ? parameter(vit,
                                "blocks.0.attn.rel_pos.relative_position_bias_table")
                    : parameter(vit,
                                "blocks.1.attn.rel_pos.relative_position_bias_table");
            const vp_relative *r = &vit->blocks[b].attn[0].relative;
            CHECK(r->prefix == prefix && r->grid[0] == 2 && r->grid[1] == 3, "grid");
            for (size_t i = 0; i < 6 + r->prefix; i++) {
                for (size_t j = 0; j < 6 + r->prefix; j++) {
                    for (size_t h = 0; h < 2; h++) {
                        const size_t at = 2 * index_of(i, j, r->prefix) + h;
                        const float want =
                            (own ? own[at] : 0.0f) + (all ? all[at] : 0.0f);
                        const float got = bias_of(r, h, i, j);
                        CHECK(got == want, "%zu: head %zu of %zu and %zu: %g, not %g",
                              v, h, i, j, (double)got, (double)want);
                    }
                }
            }
        }
        CHECK(block || vit->blocks[0].attn[0].relative.bias ==
                           vit->blocks[1].attn[0].relative.bias,
              "a shared bias is copied");
        vp_vit_unref(vit);
    }
}

static void an_mlps_table_is_timms_of_the_distances(void)
{
    for (size_t v = 0; v < 4; v++) {
        const bool swin = v % 2 == 1, prefix = v / 2 == 1;
        const vp_config c =
            model_of(swin ? VP_REL_POS_MLP_SWIN : VP_REL_POS_MLP, true, false, prefix);
        vp_vit *vit = tiny_create(&c, &err);
        const float *w1 = parameter(vit, "blocks.1.attn.rel_pos.mlp.fc1.weight");
        const float *b1 = parameter(vit, "blocks.1.attn.rel_pos.mlp.fc1.bias");
        const float *w2 = parameter(vit, "blocks.1.attn.rel_pos.mlp.fc2.weight");
        const float *b2 =
            swin ? NULL : parameter(vit, "blocks.1.attn.rel_pos.mlp.fc2.bias");
        const vp_relative *r = &vit->blocks[1].attn[0].relative;
        for (size_t i = 0; i < 6 * 6 * 2; i++) {
            const size_t q = i / 12, k = i / 2 % 6, h = i % 2;
            double at[2] = {(double)(q / 3) - (double)(k / 3),
                            (double)(q % 3) - (double)(k % 3)};
            double want = b2 != NULL ? b2[h] : 0.0;
            for (size_t axis = 0; axis < 2; axis++) {
                const double most = axis == 0 ? 1.0 : 2.0;
                const double x = fabs(at[axis]);
                const double far = swin ? log2(1.0 + 8.0 * x / most) / 3.0 : log1p(x);
                at[axis] = at[axis] < 0 ? -far : far;
            }
            for (size_t j = 0; j < 5; j++) {
                const double hidden = w1[2 * j] * at[0] + w1[2 * j + 1] * at[1] + b1[j];
                want += hidden > 0.0 ? hidden * w2[5 * h + j] : 0.0;
            }
            want = swin ? 16.0 / (1.0 + exp(-want)) : want;
            const float got = bias_of(r, h, q + r->prefix, k + r->prefix);
            CHECK(fabs(got - want) < 1e-6 * (1.0 + fabs(want)),
                  "head %zu of %zu and %zu: %g, not %g", h, q, k, (double)got, want);
        }
        for (size_t i = 0; prefix && i < 6; i++) {
            CHECK(r->edges[i] == 0.0f, "a prefix token has a bias");
        }
        vp_vit_unref(vit);
    }
}

static vp_status tokens_run(const vp_vit *vit, size_t n, size_t first, const char *part)
{
    static float tokens[16 * 8], out[16 * 8];
    vp_workspaces *workspaces = vp_workspaces_create();
    const vp_forward f = {.batch = 1,
                          .tokens = tokens,
                          .num_tokens = n,
                          .first = first,
                          .depth = 2,
                          .output = VP_OUT_FEATURES,
                          .part = part,
                          .out = out};
    const vp_status status = vp_vit_forward(vit, workspaces, &f, &err);
    vp_workspaces_unref(workspaces);
    return status;
}

static void other_tokens_than_the_grids_are_refused(void)
{
    const vp_config c = model_of(VP_REL_POS_BIAS, true, false, true);
    vp_vit *vit = tiny_create(&c, &err);
    for (size_t n = 1; n < 12; n++) {
        const vp_status want = n == 7 ? VP_OK : VP_ERR_VALUE;
        CHECK(tokens_run(vit, n, 0, NULL) == want, "%zu tokens", n);
        CHECK(want == VP_OK || strstr(err.message, "its own grid: 1 + 2 x 3 tokens"),
              "%s", err.message);
        CHECK(tokens_run(vit, n, 1, NULL) == want, "%zu tokens before block 1", n);
        CHECK(tokens_run(vit, n, 0, "blocks.0.attn") == want, "%zu tokens alone", n);
        CHECK(tokens_run(vit, n, 2, NULL) == VP_OK, "%s", err.message);
        CHECK(tokens_run(vit, n, 0, "blocks.0.mlp") == VP_OK, "%s", err.message);
    }
    vp_vit_unref(vit);
}

/* -- the distilled model -- */

static vp_config distilled(size_t classes)
{
    vp_config c = tiny_config();
    c.family = VP_FAMILY_DISTILLED;
    c.dist_token = true;
    c.num_classes = classes;
    return c;
}

static void both_heads_are_averaged(void)
{
    enum { IMAGES = 3, N = 6, WIDTH = 8, CLASSES = 5 };
    static float tokens[IMAGES * N * WIDTH], out[IMAGES * WIDTH];
    check_fill(tokens, IMAGES * N * WIDTH, 1.0f);
    for (size_t classes = 0; classes <= CLASSES; classes += CLASSES) {
        const vp_config c = distilled(classes);
        vp_vit *vit = tiny_create(&c, &err);
        vp_workspaces *workspaces = vp_workspaces_create();
        float w[2][CLASSES * WIDTH];
        const char *const names[2] = {"head.weight", "head_dist.weight"};
        for (size_t i = 0; i < 2 && classes > 0; i++) {
            vp_weight_get(*vp_vit_param(vit, vp_vit_find_param(vit, names[i], 0))->slot,
                          w[i]);
        }
        for (int o = VP_OUT_PRE_LOGITS; o <= VP_OUT_LOGITS; o++) {
            const bool logits = o == VP_OUT_LOGITS && classes > 0;
            const size_t n = logits ? CLASSES : WIDTH;
            CHECK(vp_vit_forward_head(vit, workspaces, tokens, IMAGES, N, (vp_output)o,
                                      out, &err) == VP_OK,
                  "%s", err.message);
            for (size_t i = 0; i < IMAGES * n; i++) {
                const float *x = tokens + i / n * N * WIDTH;
                double want = 0.0;
                for (size_t t = 0; t < 2; t++) {
                    for (size_t j = 0; logits && j < WIDTH; j++) {
                        want += (double)w[t][i % n * WIDTH + j] * x[t * WIDTH + j];
                    }
                    want += logits ? 0.0 : (double)x[t * WIDTH + i % n];
                }
                CHECK(fabs(out[i] - want / 2) < 1e-6, "%d: %g, not %g", o,
                      (double)out[i], want / 2);
            }
        }
        CHECK(vp_vit_check_tokens(vit, VP_POOL_TOKEN, 1, &err) == VP_ERR_VALUE &&
                  vp_vit_check_tokens(vit, VP_POOL_TOKEN, 2, &err) == VP_OK,
              "two tokens are read");
        vp_workspaces_unref(workspaces);
        vp_vit_unref(vit);
    }
}

static bool same_parameter(const vp_vit *a, const vp_vit *b, const char *name)
{
    const size_t i = vp_vit_find_param(a, name, 0), j = vp_vit_find_param(b, name, 0);
    return *vp_vit_param(a, i)->slot == *vp_vit_param(b, j)->slot;
}

static void a_new_classifier_has_both_heads_anew(void)
{
    const vp_config c = distilled(5);
    vp_vit *vit = tiny_create(&c, &err), *next = NULL;
    const vp_pool token = VP_POOL_TOKEN, none = VP_POOL_NONE, avg = VP_POOL_AVG;
    CHECK(vp_vit_reset_classifier(vit, 5, &token, false, 9, &next, &err) == VP_OK, "%s",
          err.message);
    CHECK(!same_parameter(vit, next, "head.weight") &&
              !same_parameter(vit, next, "head_dist.weight"),
          "a head is the old one");
    CHECK(same_parameter(vit, next, "dist_token"), "more than the heads is new");
    vp_vit_unref(next);
    next = NULL;
    /* timm takes '' and goes on as before: so it does where no head is left */
    CHECK(vp_vit_reset_classifier(vit, 0, &none, false, 9, &next, &err) == VP_OK, "%s",
          err.message);
    CHECK(vp_vit_config(next)->global_pool == VP_POOL_TOKEN, "the pool changed");
    vp_vit_unref(next);
    next = NULL;
    CHECK(vp_vit_reset_classifier(vit, 3, &none, false, 9, &next, &err) ==
                  VP_ERR_VALUE &&
              strstr(err.message, "global_pool of VisionTransformerDistilled must be "
                                  "'token', not ''") != NULL,
          "%s", err.message);
    CHECK(vp_vit_reset_classifier(vit, 3, &avg, true, 9, &next, &err) == VP_ERR_VALUE,
          "avg");
    CHECK(next == NULL, "a model though it was refused");
    vp_vit_unref(vit);
}

int main(void)
{
    a_bias_is_the_mask_of_all_pairs();
    a_models_table_is_read_by_timms_index();
    an_mlps_table_is_timms_of_the_distances();
    other_tokens_than_the_grids_are_refused();
    both_heads_are_averaged();
    a_new_classifier_has_both_heads_anew();
    return check_done();
}
