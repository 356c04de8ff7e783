/* Whole models: every allocation fails once, outputs stay inside their arrays, one model
 * from several threads, a reset beside a forward.
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "check.h"
#include "tiny.h"

#define BATCH 3
#define PIXELS (3 * 8 * 8)

static float images[BATCH * PIXELS];

static size_t output_size(const vp_config *c)
{
    const size_t tokens = vp_config_patches(c) + vp_config_prefix(c);
    return BATCH * c->num_classes * (c->global_pool == VP_POOL_NONE ? tokens : 1);
}

static vp_status run(const vp_vit *vit, vp_workspaces *workspaces, float *out,
                     vp_error *err)
{
    const vp_forward forward = {.images = images,
                                .batch = BATCH,
                                .height = 8,
                                .width = 8,
                                .depth = vp_vit_config(vit)->depth,
                                .output = VP_OUT_LOGITS,
                                .out = out};
    return vp_vit_forward(vit, workspaces, &forward, err);
}

/* Create, forward, reset, forward of the new one; every step's memory given back. */
static vp_status whole_life(const vp_config *c, float *out, vp_error *err)
{
    vp_vit *next = NULL;
    vp_workspaces *workspaces = vp_workspaces_create();
    if (workspaces == NULL) {
        return vp_fail_memory(err, "workspaces", 0);
    }
    vp_status status = VP_ERR_MEMORY;
    vp_vit *vit = tiny_create(c, err);
    if (vit == NULL) {
        goto done;
    }
    status = run(vit, workspaces, out, err);
    if (status == VP_OK) {
        vp_error none;
        const bool map =
            vp_config_check_pool(c, "global_pool", VP_POOL_MAP, &none) == VP_OK;
        const vp_pool pool = map ? VP_POOL_MAP : c->global_pool;
        status = vp_vit_reset_classifier(vit, 4, &pool, true, 1, &next, err);
    }
    vp_workspaces_release(workspaces);
    if (status == VP_OK) {
        status = run(next, workspaces, out, err);
    }
done:
    status = status == VP_OK ? VP_OK : err->code;
    vp_vit_unref(next);
    vp_vit_unref(vit);
    vp_workspaces_unref(workspaces);
    return status;
}

static void every_allocation_fails_once(void)
{
    for (size_t i = 0; i < TINY_VARIANTS; i += 37) {
        vp_config c;
        vp_error err;
        if (!tiny_variant(i, &c)) {
            continue;
        }
        float *out = malloc((output_size(&c) + BATCH * 4) * sizeof(float));
        vp_status status = VP_ERR_MEMORY;
        long n = 0;
        for (; status != VP_OK && n < 2000; n++) {
            err.code = VP_OK;
            vp_memory_fail_after(n);
            status = whole_life(&c, out, &err);
            vp_memory_fail_after(-1);
            CHECK(status == VP_OK || status == VP_ERR_MEMORY,
                  "variant %zu, allocation %ld: %s", i, n, err.message);
        }
        CHECK(status == VP_OK && n > 50, "variant %zu: %ld allocations", i, n);
        free(out);
    }
}

static void outputs_stay_inside_and_repeat_themselves(void)
{
    for (size_t i = 0; i < TINY_VARIANTS; i++) {
        vp_config c;
        vp_error err;
        if (!tiny_variant(i, &c)) {
            continue;
        }
        const size_t bytes = output_size(&c) * sizeof(float);
        vp_vit *vit = tiny_create(&c, &err);
        vp_workspaces *workspaces = vp_workspaces_create();
        check_memory out = check_memory_new(bytes, true);
        check_memory again = check_memory_new(bytes, false);
        vp_set_num_threads(1);
        CHECK(run(vit, workspaces, out.data, &err) == VP_OK, "%s", err.message);
        vp_set_num_threads(3);
        CHECK(run(vit, workspaces, again.data, &err) == VP_OK, "%s", err.message);
        CHECK(memcmp(out.data, again.data, bytes) == 0, "variant %zu: other bits", i);
        const float *numbers = out.data;
        for (size_t k = 0; k < output_size(&c); k++) {
            CHECK(isfinite(numbers[k]), "variant %zu: output %zu is %g", i, k,
                  (double)numbers[k]);
        }
        check_memory_free(&out, "forward");
        check_memory_free(&again, "forward");
        vp_workspaces_unref(workspaces);
        vp_vit_unref(vit);
    }
}

static void parameters_come_back_bit_for_bit(void)
{
    for (size_t i = 0; i < TINY_VARIANTS; i += 3) {
        vp_config c;
        vp_error err;
        vp_vit *vit = NULL;
        if (!tiny_variant(i, &c)) {
            continue;
        }
        CHECK(vp_vit_create(&c, &vit, &err) == VP_OK, "%s", err.message);
        for (size_t p = 0; p < vp_vit_num_params(vit); p++) {
            const vp_param *param = vp_vit_param(vit, p);
            const size_t count = vp_param_count(param);
            float *in = malloc(count * sizeof *in), *out = malloc(count * sizeof *out);
            check_fill(in, count, 1.0f);
            CHECK(vp_vit_set_param(vit, p, in, &err) == VP_OK, "%s", err.message);
            vp_weight_get(*param->slot, out);
            CHECK(memcmp(in, out, count * sizeof *in) == 0, "%s changed", param->name);
            free(in);
            free(out);
        }
        CHECK(vp_vit_finish(vit, &err) == VP_OK, "%s", err.message);
        vp_vit_unref(vit);
    }
}

static void a_parameter_is_random_until_it_is_set(void)
{
    vp_config c = tiny_config();
    vp_error err;
    vp_vit *vit = tiny_create(&c, &err), *next = NULL;
    const size_t head = vp_vit_find_param(vit, "head.weight", 0);
    const size_t count = vp_param_count(vp_vit_param(vit, head));
    float *numbers = malloc(count * sizeof *numbers);
    check_fill(numbers, count, 1.0f);
    for (size_t p = 0; p < vp_vit_num_params(vit); p++) {
        CHECK(vp_vit_param(vit, p)->random, "%s was drawn", vp_vit_param(vit, p)->name);
    }
    CHECK(vp_vit_set_param(vit, head, numbers, &err) == VP_OK, "%s", err.message);
    CHECK(!vp_vit_param(vit, head)->random, "a head that was set is random");
    CHECK(vp_vit_create(&c, &next, &err) == VP_OK &&
              vp_vit_share_rest(next, vit, &err) == VP_OK,
          "%s", err.message);
    for (size_t p = 0; p < vp_vit_num_params(vit); p++) {
        CHECK(vp_vit_param(next, p)->random == (p != head), "%s shared",
              vp_vit_param(vit, p)->name);
    }
    vp_vit_mark_random(next, head);
    CHECK(vp_vit_param(next, head)->random && !vp_vit_param(vit, head)->random,
          "a mark is one model's");
    vp_vit_unref(next);
    CHECK(vp_vit_reset_classifier(vit, 7, NULL, false, 1, &next, &err) == VP_OK, "%s",
          err.message);
    CHECK(vp_vit_param(next, vp_vit_find_param(next, "head.weight", 0))->random,
          "a new head is not random");
    free(numbers);
    vp_vit_unref(next);
    vp_vit_unref(vit);
}

static void a_reset_leaves_the_old_model_alone(void)
{
    vp_config c = tiny_config();
    vp_error err;
    float before[BATCH * 5], after[BATCH * 5], out[BATCH * 7];
    vp_vit *vit = tiny_create(&c, &err), *next = NULL;
    vp_workspaces *workspaces = vp_workspaces_create();
    (void)run(vit, workspaces, before, &err);
    const vp_pool map = VP_POOL_MAP, avg = VP_POOL_AVG;
    CHECK(vp_vit_reset_classifier(vit, 7, &map, false, 1, &next, &err) == VP_ERR_VALUE,
          "map without a pool");
    CHECK(next == NULL, "an output was written on failure");
    CHECK(vp_vit_reset_classifier(vit, 7, &avg, false, 1, &next, &err) == VP_OK, "%s",
          err.message);
    CHECK(vp_vit_serial(next) != vp_vit_serial(vit), "two models have one number");
    (void)run(next, workspaces, out, &err);
    vp_vit_unref(next);
    (void)run(vit, workspaces, after, &err);
    CHECK(memcmp(before, after, sizeof before) == 0, "the old model changed");
    vp_workspaces_unref(workspaces);
    vp_vit_unref(vit);
}

/* -- one model, several threads -- */

typedef struct {
    vp_vit *vit;
    vp_workspaces *workspaces;
    float want[BATCH * 5];
} shared;

static void *forwards(void *argument)
{
    shared *s = argument;
    for (int i = 0; i < 100; i++) {
        float out[BATCH * 5];
        vp_error err;
        CHECK(run(s->vit, s->workspaces, out, &err) == VP_OK, "%s", err.message);
        CHECK(memcmp(out, s->want, sizeof out) == 0, "other bits beside other threads");
        if (i % 16 == 0) {
            vp_workspaces_release(s->workspaces);
        }
    }
    return NULL;
}

static void *resets(void *argument)
{
    shared *s = argument;
    for (int i = 0; i < 100; i++) {
        vp_vit *next = NULL, *mine = vp_vit_ref(s->vit);
        vp_error err;
        const vp_pool pool = (vp_pool)(i % 4);
        CHECK(vp_vit_reset_classifier(mine, 3, &pool, false, 1, &next, &err) == VP_OK,
              "%s", err.message);
        vp_vit_unref(mine);
        vp_vit_unref(next);
    }
    return NULL;
}

static void several_threads_share_a_model(void)
{
    vp_config c = tiny_config();
    vp_error err;
    shared s = {tiny_create(&c, &err), vp_workspaces_create(), {0}};
    pthread_t threads[4];
    vp_set_num_threads(3);
    CHECK(run(s.vit, s.workspaces, s.want, &err) == VP_OK, "%s", err.message);
    for (int i = 0; i < 4; i++) {
        (void)pthread_create(&threads[i], NULL, i < 3 ? forwards : resets, &s);
    }
    for (int i = 0; i < 4; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    vp_workspaces_release(s.workspaces);
    CHECK(vp_workspaces_bytes(s.workspaces) == 0, "%zu bytes after release",
          vp_workspaces_bytes(s.workspaces));
    vp_workspaces_unref(s.workspaces);
    vp_vit_unref(s.vit);
}

int main(void)
{
    check_fill(images, BATCH * PIXELS, 2.0f);
    parameters_come_back_bit_for_bit();
    outputs_stay_inside_and_repeat_themselves();
    every_allocation_fails_once();
    a_parameter_is_random_until_it_is_set();
    a_reset_leaves_the_old_model_alone();
    several_threads_share_a_model();
    return check_done();
}
