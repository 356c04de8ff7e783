/* The training pass: its gradients are those of its losses, by finite differences, with
 * every part of a model that trains. SPDX-License-Identifier: Apache-2.0 */
#include "model/train.h"

#include <pthread.h>

#include "base/limits.h"
#include "base/parallel.h"
#include "check.h"
#include "tiny.h"

#define BATCH 3
#define CLASSES 6
#define PIXELS ((size_t)3 * 8 * 8)
#define PARAMS 128
#define MOST 2048 /* numbers of a parameter */

static float images[BATCH * PIXELS], tokens[BATCH * 8 * 8], targets[BATCH * CLASSES];
static float weights[CLASSES];

/* What a pass gives: losses, logits, every gradient. */
typedef struct {
    double losses[2];
    float logits[BATCH * CLASSES];
    float grads[PARAMS][MOST];
    float *slots[PARAMS];
} answer;

/* Asks for all parameters that the entry reaches. */
static void ask(const vp_vit *vit, vp_gradients *r, answer *a)
{
    memset(a, 0, sizeof *a);
    r->losses = a->losses;
    r->logits = a->logits;
    r->grads = a->slots;
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        vp_error err;
        size_t n;
        a->slots[i] = a->grads[i];
        if (vp_vit_check_gradients(vit, r, &n, &err) != VP_OK) {
            a->slots[i] = NULL;
        }
    }
}

static void run(const vp_vit *vit, vp_gradients *r, answer *a)
{
    vp_error err = {VP_OK, ""};
    vp_workspaces *workspaces = vp_workspaces_create();
    ask(vit, r, a);
    CHECK(vp_vit_gradients(vit, workspaces, r, &err) == VP_OK, "%s", err.message);
    vp_workspaces_unref(workspaces);
}

static vp_gradients request(const vp_config *c, vp_entry entry)
{
    (void)c;
    return (vp_gradients){.entry = entry,
                          .batch = BATCH,
                          .images = images,
                          .height = 8,
                          .width = 8,
                          .tokens = tokens,
                          .num_tokens = entry == VP_ENTRY_PRE_LOGITS ? 1 : 5,
                          .groups = 1,
                          .targets = targets,
                          .scale = 1.0f / BATCH,
                          .seed = 7,
                          .memory = 1 << 24};
}

static vp_config config_of(vp_pool pool)
{
    vp_config c = tiny_config();
    c.num_classes = CLASSES;
    tiny_pool(&c, pool);
    return c;
}

/* A model like tiny_create's, but none of its numbers are 0 or 1. */
static vp_vit *create(const vp_config *c, float (*numbers)[MOST])
{
    vp_error err = {VP_OK, ""};
    vp_vit *vit = NULL;
    CHECK(vp_vit_create(c, &vit, &err) == VP_OK, "%s", err.message);
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        const vp_param *param = vp_vit_param(vit, i);
        const size_t count = vp_param_count(param);
        const bool norm = strstr(param->name, "norm") != NULL;
        CHECK(i < PARAMS && count <= MOST, "%s is too large for this test",
              param->name);
        check_fill(numbers[i], count, 0.4f);
        for (size_t j = 0; norm && j < count; j++) {
            numbers[i][j] += 1.0f;
        }
        CHECK(vp_vit_set_param(vit, i, numbers[i], &err) == VP_OK, "%s", err.message);
    }
    CHECK(vp_vit_finish(vit, &err) == VP_OK, "%s", err.message);
    return vit;
}

/* The loss of the model whose parameter `which` is moved by step times direction. */
static double moved(const vp_vit *vit, float (*numbers)[MOST], size_t which,
                    const float *direction, float step, vp_gradients r)
{
    static float to[MOST];
    static answer a;
    vp_error err = {VP_OK, ""};
    vp_vit *next = NULL;
    CHECK(vp_vit_create(vp_vit_config(vit), &next, &err) == VP_OK, "%s", err.message);
    for (size_t j = 0; j < vp_param_count(vp_vit_param(vit, which)); j++) {
        to[j] = numbers[which][j] + step * direction[j];
    }
    CHECK(vp_vit_set_param(next, which, to, &err) == VP_OK, "%s", err.message);
    CHECK(vp_vit_share_rest(next, vit, &err) == VP_OK, "%s", err.message);
    CHECK(vp_vit_finish(next, &err) == VP_OK, "%s", err.message);
    run(next, &r, &a);
    vp_vit_unref(next);
    return a.losses[0] + a.losses[1];
}

/* Every gradient, along a random direction, is the slope of the loss. */
static void check_slopes(const vp_config *c, vp_gradients r, const char *what)
{
    static float numbers[PARAMS][MOST], direction[MOST];
    static answer a;
    vp_vit *vit = create(c, numbers);
    run(vit, &r, &a);
    size_t asked = 0;
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        if (a.slots[i] == NULL) {
            continue;
        }
        const vp_param *param = vp_vit_param(vit, i);
        const size_t count = vp_param_count(param);
        const float step = 4e-3f;
        double slope = 0.0, length = 0.0;
        check_fill(direction, count, 1.0f);
        for (size_t j = 0; j < count; j++) {
            slope += (double)a.grads[i][j] * direction[j];
            length += (double)direction[j] * direction[j];
        }
        /* The step has one length, whatever the parameter's size. */
        const double unit = 1.0 / sqrt(length);
        for (size_t j = 0; j < count; j++) {
            direction[j] *= (float)unit;
        }
        const double found = (moved(vit, numbers, i, direction, step, r) -
                              moved(vit, numbers, i, direction, -step, r)) /
                             (2.0 * step);
        CHECK(fabs(found - slope * unit) <= 4e-4 + 4e-3 * fabs(found),
              "%s: %s: the slope is %g, the gradient gives %g", what, param->name,
              found, slope * unit);
        asked++;
    }
    CHECK(asked > 0, "%s: nothing was asked for", what);
    vp_vit_unref(vit);
}

static void gradients_are_the_slopes_of_the_loss_for_every_pool_and_entry(void)
{
    for (int pool = VP_POOL_AVG; pool < VP_POOL_COUNT; pool++) {
        for (int entry = 0; entry < VP_ENTRY_COUNT; entry++) {
            vp_config c = config_of((vp_pool)pool);
            char what[64];
            (void)snprintf(what, sizeof what, "pool '%s', entry '%s'",
                           vp_pool_names[pool], vp_entry_names[entry]);
            check_slopes(&c, request(&c, (vp_entry)entry), what);
            c.norm = false;
            c.fc_norm = true;
            c.class_token = pool == VP_POOL_TOKEN;
            c.reg_tokens = pool == VP_POOL_PRR ? 0 : 2;
            vp_gradients r = request(&c, (vp_entry)entry);
            r.first = entry == VP_ENTRY_BLOCK ? 2 : 0;
            check_slopes(&c, r, what);
        }
    }
}

/* Heads, hidden width and activation of its own; Eva's reads the prefix tokens, too. */
static void gradients_are_the_slopes_of_a_pool_of_its_own_width(void)
{
    static const size_t heads[] = {1, 4, 8}, hidden[] = {5, 40};
    for (size_t i = 0; i < 3 * 2 * 2; i++) {
        vp_config c = config_of(VP_POOL_MAP);
        c.family = i % 2 == 0 ? VP_FAMILY_EVA : VP_FAMILY_VIT;
        c.attn_pool_heads = heads[i / 2 % 3];
        c.attn_pool_hidden = hidden[i / 6];
        c.attn_pool_act = VP_ACT_SILU;
        char what[32];
        (void)snprintf(what, sizeof what, "a pool of its own, %zu", i);
        check_slopes(&c, request(&c, VP_ENTRY_FEATURES), what);
        check_slopes(&c, request(&c, VP_ENTRY_IMAGES), what);
    }
}

/* ReLU aside: steps over its corners are no slopes (test_backward_ops.c has it). */
static void gradients_are_the_slopes_of_every_block(void)
{
    for (int mlp = VP_MLP_PLAIN; mlp <= VP_MLP_SWIGLU; mlp++) {
        for (int act = VP_ACT_NONE; act < VP_ACT_RELU; act++) {
            for (int options = 0; options < 2; options++) {
                const bool on = options == 1;
                vp_config c = config_of(VP_POOL_AVG);
                c.mlp = (vp_mlp_kind)mlp;
                c.act = (vp_act)act;
                c.norm_layer = on ? VP_NORM_RMS : VP_NORM_LAYER;
                c.qk_norm = c.pre_norm = c.scale_attn_norm = c.scale_mlp_norm = on;
                c.has_init_values = on;
                c.init_values = 0.3f;
                c.qkv_bias = c.proj_bias = c.class_token = !on;
                c.embed_norm_layer = on ? VP_NORM_LAYER : VP_NORM_NONE;
                char what[64];
                (void)snprintf(what, sizeof what, "mlp %d, act %d, options %d", mlp,
                               act, options);
                vp_gradients r = request(&c, VP_ENTRY_IMAGES);
                r.checkpointing = on;
                check_slopes(&c, r, what);
            }
        }
    }
}

static void gradients_are_the_slopes_with_every_rate(void)
{
    static const vp_rates rates[] = {{.drop = 0.3},           {.pos_drop = 0.3},
                                     {.patch_drop = 0.5},     {.proj_drop = 0.3},
                                     {.attn_drop = 0.3},      {.drop_path = 0.5},
                                     {.2, .2, .3, .2, .2, .4}};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        vp_config c = config_of(i % 2 == 0 ? VP_POOL_MAP : VP_POOL_AVG);
        c.has_init_values = c.pre_norm = i == 6;
        c.init_values = 0.3f;
        vp_gradients r = request(&c, VP_ENTRY_IMAGES);
        r.rates = rates[i];
        char what[32];
        (void)snprintf(what, sizeof what, "rates %zu", i);
        check_slopes(&c, r, what);
        r.checkpointing = true;
        r.memory = 1;
        check_slopes(&c, r, what);
    }
}

static void gradients_are_the_slopes_of_every_loss(void)
{
    for (int loss = 0; loss < VP_LOSS_COUNT; loss++) {
        for (size_t groups = 1; groups <= 2; groups++) {
            vp_config c = config_of(VP_POOL_TOKEN);
            vp_gradients r = request(&c, VP_ENTRY_FEATURES);
            r.loss = (vp_loss_kind)loss;
            r.groups = groups;
            r.weights = loss == VP_LOSS_CROSS_ENTROPY ? NULL : weights;
            check_slopes(&c, r, vp_loss_names[loss]);
        }
    }
}

static void gradients_are_the_slopes_under_a_mask(void)
{
    static float bias[BATCH * 5 * 5];
    static unsigned char allowed[5 * 5];
    check_fill(bias, BATCH * 25, 1.0f);
    for (size_t i = 0; i < 25; i++) {
        allowed[i] = i % 5 == 0 || check_random() > 0.0f;
    }
    const vp_mask masks[] = {{.bias = bias, .batch = 25, .row = 5},
                             {.allowed = allowed, .row = 5},
                             {.causal = true}};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        vp_config c = config_of(VP_POOL_AVG);
        vp_gradients r = request(&c, VP_ENTRY_BLOCK);
        r.mask = &masks[i];
        check_slopes(&c, r, "mask");
        static float numbers[PARAMS][MOST];
        static answer whole, chunks;
        vp_vit *vit = create(&c, numbers);
        run(vit, &r, &whole);
        r.memory = 1; /* an image at a time: each with its own mask */
        run(vit, &r, &chunks);
        CHECK(memcmp(whole.logits, chunks.logits, sizeof whole.logits) == 0,
              "mask %zu does not move with the chunk", i);
        vp_vit_unref(vit);
    }
}

static bool same(const answer *a, const answer *b)
{
    return memcmp(a->losses, b->losses, sizeof a->losses) == 0 &&
           memcmp(a->logits, b->logits, sizeof a->logits) == 0 &&
           memcmp(a->grads, b->grads, sizeof a->grads) == 0;
}

static void threads_and_checkpointing_do_not_change_a_bit(void)
{
    static float numbers[PARAMS][MOST];
    static answer one, many;
    for (int pool = VP_POOL_AVG; pool < VP_POOL_COUNT; pool++) {
        vp_config c = config_of((vp_pool)pool);
        c.has_init_values = c.qk_norm = true;
        c.init_values = 0.2f;
        vp_vit *vit = create(&c, numbers);
        vp_gradients r = request(&c, VP_ENTRY_IMAGES);
        r.rates = (vp_rates){.1, .1, .3, .1, .1, .1};
        const size_t threads = vp_get_num_threads();
        vp_set_num_threads(1);
        run(vit, &r, &one);
        for (size_t n = 2; n <= 3; n++) {
            vp_set_num_threads(n);
            run(vit, &r, &many);
            CHECK(same(&one, &many), "%zu threads, pool '%s'", n, vp_pool_names[pool]);
        }
        vp_set_num_threads(threads);
        r.checkpointing = true;
        run(vit, &r, &many);
        CHECK(same(&one, &many), "checkpointing, pool '%s'", vp_pool_names[pool]);
        /* Chunks change the order of sums, and no more than that. */
        r.memory = 1;
        run(vit, &r, &many);
        for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
            for (size_t j = 0; j < MOST; j++) {
                CHECK(check_close(many.grads[i][j], one.grads[i][j], 1e-5),
                      "chunks of one image, %s", vp_vit_param(vit, i)->name);
            }
        }
        vp_vit_unref(vit);
    }
}

static void gradients_are_added_and_unasked_ones_left_alone(void)
{
    static float numbers[PARAMS][MOST], head[MOST], twice[MOST];
    static answer a;
    vp_error err = {VP_OK, ""};
    vp_config c = config_of(VP_POOL_MAP);
    vp_vit *vit = create(&c, numbers);
    vp_gradients r = request(&c, VP_ENTRY_IMAGES);
    run(vit, &r, &a);
    const size_t at = vp_vit_find_param(vit, "head.weight", 0);
    float *slots[PARAMS] = {NULL};
    slots[at] = head;
    r.grads = slots;
    vp_workspaces *workspaces = vp_workspaces_create();
    CHECK(vp_vit_gradients(vit, workspaces, &r, &err) == VP_OK, "%s", err.message);
    CHECK(memcmp(head, a.grads[at], sizeof head) == 0,
          "the head alone, another gradient");
    slots[at] = twice;
    for (int i = 0; i < 2; i++) {
        CHECK(vp_vit_gradients(vit, workspaces, &r, &err) == VP_OK, "%s", err.message);
    }
    for (size_t j = 0; j < (size_t)CLASSES * 8; j++) {
        CHECK(check_close(twice[j], 2.0 * head[j], 1e-6), "%g is not twice %g",
              twice[j], head[j]);
    }
    vp_workspaces_unref(workspaces);
    vp_vit_unref(vit);
}

static void without_memory_nothing_is_written(void)
{
    static float numbers[PARAMS][MOST];
    static answer a, before;
    vp_error err = {VP_OK, ""};
    vp_config c = config_of(VP_POOL_MAP);
    vp_vit *vit = create(&c, numbers);
    vp_gradients r = request(&c, VP_ENTRY_IMAGES);
    for (long n = 0;; n++) {
        ask(vit, &r, &a);
        before = a;
        vp_workspaces *workspaces = vp_workspaces_create();
        vp_memory_fail_after(n);
        const vp_status status = vp_vit_gradients(vit, workspaces, &r, &err);
        vp_memory_fail_after(-1);
        vp_workspaces_unref(workspaces);
        if (status == VP_OK) {
            CHECK(n > 0, "no allocation failed");
            break;
        }
        CHECK(status == VP_ERR_MEMORY && memcmp(&a, &before, sizeof a) == 0,
              "allocation %ld: something was written", n);
    }
    vp_vit_unref(vit);
}

static void refused(const vp_config *c, const vp_gradients *r, const char *words)
{
    static float numbers[PARAMS][MOST];
    static answer a;
    vp_vit *vit = create(c, numbers);
    vp_gradients all = *r;
    vp_error err = {VP_OK, ""};
    memset(&a, 0, sizeof a);
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        a.slots[i] = a.grads[i];
    }
    all.grads = a.slots;
    all.losses = a.losses;
    all.logits = a.logits;
    vp_workspaces *workspaces = vp_workspaces_create();
    CHECK(vp_vit_gradients(vit, workspaces, &all, &err) == VP_ERR_VALUE, "%s", words);
    CHECK(strstr(err.message, words) != NULL, "'%s' lacks '%s'", err.message, words);
    vp_workspaces_unref(workspaces);
    vp_vit_unref(vit);
}

static void what_cannot_train_is_refused_by_name(void)
{
    vp_config c = config_of(VP_POOL_AVG);
    vp_gradients r = request(&c, VP_ENTRY_FEATURES);
    refused(&c, &r, "'cls_token'");
    r = request(&c, VP_ENTRY_IMAGES);
    r.rates.drop = 1.0;
    refused(&c, &r, "drop must be from 0 to below 1");
    r.rates.drop = NAN;
    refused(&c, &r, "drop must be from 0 to below 1");
    r = request(&c, VP_ENTRY_IMAGES);
    r.groups = 4;
    refused(&c, &r, "groups");
    c.dynamic_img_size = true;
    r = request(&c, VP_ENTRY_IMAGES);
    r.height = 4; /* as many patches, of another grid */
    r.width = 16;
    refused(&c, &r, "pos_embed must be given");
    r = request(&c, VP_ENTRY_BLOCK);
    r.first = 3;
    refused(&c, &r, "block must be from 0 to depth 2");
    c.block = VP_BLOCK_PARALLEL_THINGS;
    r = request(&c, VP_ENTRY_IMAGES);
    refused(&c, &r, "'ParallelThingsBlock'");
    c = config_of(VP_POOL_AVG);
    c.attn = VP_ATTN_DIFF;
    refused(&c, &r, "'diff'");
    c = config_of(VP_POOL_NONE);
    refused(&c, &r, "global_pool is ''");
    c = config_of(VP_POOL_AVG);
    c.num_classes = 0;
    refused(&c, &r, "num_classes is 0");
}

typedef struct {
    const vp_vit *vit;
    vp_workspaces *workspaces;
    answer *answer;
} thread_job;

static void *thread_task(void *ctx)
{
    thread_job *j = ctx;
    vp_error err = {VP_OK, ""};
    vp_gradients r = request(vp_vit_config(j->vit), VP_ENTRY_IMAGES);
    ask(j->vit, &r, j->answer);
    CHECK(vp_vit_gradients(j->vit, j->workspaces, &r, &err) == VP_OK, "%s",
          err.message);
    return NULL;
}

static void passes_run_side_by_side_on_one_model(void)
{
    static float numbers[PARAMS][MOST];
    static answer answers[2];
    vp_config c = config_of(VP_POOL_MAP);
    vp_vit *vit = create(&c, numbers);
    vp_workspaces *workspaces = vp_workspaces_create();
    for (int round = 0; round < 10; round++) {
        pthread_t thread;
        thread_job jobs[2] = {{vit, workspaces, &answers[0]},
                              {vit, workspaces, &answers[1]}};
        CHECK(pthread_create(&thread, NULL, thread_task, &jobs[0]) == 0, "no thread");
        (void)thread_task(&jobs[1]);
        (void)pthread_join(thread, NULL);
        CHECK(same(&answers[0], &answers[1]), "two passes at once differ");
    }
    vp_workspaces_unref(workspaces);
    vp_vit_unref(vit);
}

int main(void)
{
    check_fill(images, BATCH * PIXELS, 1.0f);
    check_fill(tokens, sizeof tokens / sizeof *tokens, 1.0f);
    for (size_t i = 0; i < CLASSES; i++) {
        weights[i] = 1.0f + 0.5f * check_random();
    }
    for (size_t i = 0; i < (size_t)BATCH * CLASSES; i++) {
        targets[i] = 0.5f + 0.5f * check_random();
    }
    gradients_are_the_slopes_of_the_loss_for_every_pool_and_entry();
    gradients_are_the_slopes_of_a_pool_of_its_own_width();
    gradients_are_the_slopes_of_every_block();
    gradients_are_the_slopes_with_every_rate();
    gradients_are_the_slopes_of_every_loss();
    gradients_are_the_slopes_under_a_mask();
    threads_and_checkpointing_do_not_change_a_bit();
    gradients_are_added_and_unasked_ones_left_alone();
    without_memory_nothing_is_written();
    what_cannot_train_is_refused_by_name();
    passes_run_side_by_side_on_one_model();
    return check_done();
}
