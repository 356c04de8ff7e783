/* The list of micro-kernels: names, the choice, and that each weight goes with its own: two
 * micro-kernels in one sequence of products, and in one model.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "check.h"
#include "emulated.h"
#include "gemm/operand.h"
#include "model/modules.h"
#include "tiny.h"

/* vp_gemm_<rows><weight>_<MR>x<NR>x<KR>__<target>, from what the kernel says of itself. */
static void check_name(const vp_ukr *ukr, const char *listed)
{
    static const char *const dtypes[] = {
#define NAME(name, bytes, title) #name,
        VP_DTYPES(NAME)
#undef NAME
    };
    static const char *const rows[] = {
#define NAME(name, bytes) #name,
        VP_ROW_TYPES(NAME)
#undef NAME
    };
    char name[80], tile[40];
    (void)snprintf(tile, sizeof tile, "%zux%zux%zu", ukr->mr, ukr->nr, ukr->kr);
    const bool blis = strstr(listed, "_blis__") != NULL;
    (void)snprintf(name, sizeof name, "vp_gemm_%s%s_%s__%s", rows[ukr->rows],
                   dtypes[ukr->weight], blis ? "blis" : tile,
                   vp_target_name(ukr->target));
    CHECK(strcmp(listed, name) == 0, "%s is listed as %s", name, listed);
    CHECK(strcmp(ukr->name, name) == 0, "%s calls itself %s", name, ukr->name);
}

/* What vp_packed, the loops around a micro-kernel and who makes its rows take for granted. */
static void check_facts(const vp_ukr *ukr)
{
    CHECK(ukr->kc % ukr->kr == 0 && ukr->sum_piece % ukr->kr == 0,
          "%s: blocks or pieces of k end within its %zu", ukr->name, ukr->kr);
    CHECK((ukr->enter == NULL) == (ukr->leave == NULL), "%s", ukr->name);
    CHECK(ukr->pack_strip != NULL || ukr->strip_bytes == vp_rows_bytes(ukr->rows), "%s",
          ukr->name);
    CHECK(ukr->split_panel != NULL ||
              ukr->panel_bytes == ukr->nr * vp_dtype_bytes(ukr->weight),
          "%s", ukr->name);
    CHECK(ukr->group > 0 && ukr->kr % ukr->group == 0,
          "%s: groups of %zu in steps of %zu", ukr->name, ukr->group, ukr->kr);
    if (ukr->rows != VP_ROWS_f32) {
        CHECK(ukr->kr * vp_rows_bytes(ukr->rows) % 4 == 0,
              "%s: %zu of k do not fill 4 bytes of a row", ukr->name, ukr->kr);
        CHECK(ukr->pack_strip == NULL && ukr->split_panel == NULL,
              "%s packs what is packed", ukr->name);
    }
    if (vp_dtype_is_int(ukr->weight)) { /* a sum that is made float32 is whole */
        CHECK(ukr->kc >= VP_MOST_INT_INPUTS && ukr->sum_piece == ukr->kc,
              "%s cuts the sums of integers", ukr->name);
    }
}

/* A chain of products whose weights take turns between two micro-kernels gives at each step
 * what that micro-kernel gives alone, in the scratch of the larger. */
static void check_sequence(const vp_ukr *first, const vp_ukr *second)
{
    enum { ROWS = 37, WIDTH = 150, STEPS = 5 };
    const vp_ukr *const turn[2] = {first, second};
    vp_team team;
    vp_set_num_threads(3);
    const size_t workers = vp_team_open(&team);
    vp_run run = {.team = &team, .kernels = vp_kernels_for(VP_TARGET_baseline)};
    vp_packed w[STEPS];
    float *numbers = vp_alloc(WIDTH * WIDTH * sizeof(float));
    for (size_t i = 0; i < STEPS; i++) {
        check_fill(numbers, WIDTH * WIDTH, 0.2f);
        CHECK(vp_packed_init(&w[i], turn[i % 2], WIDTH, WIDTH) == 0, "no memory");
        vp_pack(&w[i], numbers);
        vp_scratch_max(&run.per_worker, vp_gemm_scratch(&w[i], ROWS, false));
        vp_scratch_max(&run.operand_bytes, vp_operand_bytes(&w[i], ROWS));
    }
    run.operand = vp_alloc(run.operand_bytes);
    run.scratch = vp_alloc(workers * run.per_worker);
    float *x[2] = {vp_alloc(ROWS * WIDTH * sizeof(float)),
                   vp_alloc(ROWS * WIDTH * sizeof(float))};
    float *alone = vp_alloc(ROWS * WIDTH * sizeof(float));
    check_fill(x[0], ROWS * WIDTH, 1.0f);
    for (size_t i = 0; i < STEPS; i++) {
        vp_gemm gemm = {.m = ROWS, .a = x[i % 2], .lda = WIDTH, .w = &w[i]};
        gemm.finish = (vp_finish){.out = x[(i + 1) % 2], .out_stride = WIDTH};
        vp_gemm_run(&run, &gemm);
        vp_run own = run;
        own.per_worker = 0;
        vp_scratch_max(&own.per_worker, vp_gemm_scratch(&w[i], ROWS, false));
        own.scratch = vp_alloc(workers * own.per_worker);
        gemm.finish.out = alone;
        vp_gemm_run(&own, &gemm);
        CHECK(memcmp(alone, x[(i + 1) % 2], ROWS * WIDTH * sizeof(float)) == 0,
              "%s and %s in turns: step %zu has other bits than alone", first->name,
              second->name, i);
        vp_free(own.scratch);
    }
    for (size_t i = 0; i < STEPS; i++) {
        vp_packed_free(&w[i]);
    }
    vp_free(numbers);
    vp_free(run.operand);
    vp_free(run.scratch);
    vp_free(x[0]);
    vp_free(x[1]);
    vp_free(alone);
    vp_team_close(&team);
}

enum { BATCH = 3, PIXELS = 3 * 8 * 8, CLASSES = 5 };

static void forward(const vp_vit *vit, size_t batch, const float *images, float *out)
{
    vp_error err;
    vp_workspaces *workspaces = vp_workspaces_create();
    const vp_forward what = {.images = images,
                             .batch = batch,
                             .height = 8,
                             .width = 8,
                             .depth = vp_vit_config(vit)->depth,
                             .output = VP_OUT_LOGITS,
                             .out = out};
    CHECK(vp_vit_forward(vit, workspaces, &what, &err) == VP_OK, "%s", err.message);
    vp_workspaces_unref(workspaces);
}

/* Packs every `every`-th matrix of a model anew, for another micro-kernel; the products with
 * a gate, whose two matrices go together, all or none. */
static void repack(vp_vit *vit, const vp_ukr *ukr, size_t every)
{
    for (size_t i = 0, matrix = 0; i < vp_vit_num_params(vit); i++) {
        const vp_param *param = vp_vit_param(vit, i);
        if (!param->matrix || matrix++ % every != 0) {
            continue;
        }
        vp_weight *weight = *param->slot;
        float *numbers = vp_alloc(weight->count * sizeof(float));
        vp_weight_get(weight, numbers);
        weight->dtype = ukr->weight;
        for (size_t p = 0; p < weight->parts; p++) {
            vp_packed *packed = &weight->packed[p];
            const size_t n = packed->n, k = packed->k;
            vp_packed_free(packed);
            CHECK(vp_packed_init(packed, ukr, n, k) == 0, "no memory");
        }
        vp_weight_set(weight, numbers);
        vp_free(numbers);
    }
}

/* How far a tiny model's logits may be from float32's, where half of its matrices are of that
 * type. */
static double tolerance(vp_dtype dtype)
{
    return dtype == VP_DTYPE_f32 ? 1e-5 : dtype == VP_DTYPE_f16 ? 2e-3 : 3e-2;
}

/* A model with matrices for two micro-kernels: the same numbers up to rounding, and the same
 * bits for every batch and number of threads. */
static void check_model(const vp_ukr *other, vp_pool pool, vp_mlp_kind mlp)
{
    static float images[BATCH * PIXELS];
    float want[BATCH * CLASSES], got[BATCH * CLASSES], one[CLASSES];
    check_fill(images, BATCH * PIXELS, 2.0f);
    vp_config config = tiny_config();
    tiny_pool(&config, pool);
    config.mlp = mlp;
    /* Several blocks of k, and more scratch than attention's. */
    config.mlp_hidden = 16000;
    vp_error err;
    vp_vit *vit = tiny_create(&config, &err);
    CHECK(vit != NULL, "%s", err.message);
    if (vit == NULL) {
        return;
    }
    vp_set_num_threads(1);
    forward(vit, BATCH, images, want);
    repack(vit, other, 2);
    forward(vit, BATCH, images, got);
    for (size_t i = 0; i < BATCH * CLASSES; i++) {
        CHECK(check_close(got[i], want[i], tolerance(other->weight)),
              "%s in a model: %g, not %g", other->name, (double)got[i],
              (double)want[i]);
    }
    for (size_t threads = 1; threads <= 3; threads++) {
        vp_set_num_threads(threads);
        for (size_t b = 0; b < BATCH; b++) {
            forward(vit, 1, images + b * PIXELS, one);
            CHECK(memcmp(one, got + b * CLASSES, sizeof one) == 0,
                  "%s in a model: image %zu alone has other bits", other->name, b);
        }
    }
    vp_vit_unref(vit);
}

int main(void)
{
    static const char *const listed[] = {
#define LISTED(name, arch) VP_ON_##arch(#name, )
        VP_UKRS(LISTED)
#undef LISTED
    };
    const char *wish = getenv("VITPOOL_UKR");
    size_t last[VP_DTYPE_COUNT] = {0};
    for (size_t i = 0; i < VP_UKR_COUNT; i++) {
        const vp_ukr *ukr = vp_ukr_at(i), *tested = testable_ukr(ukr);
        check_name(ukr, listed[i]);
        check_facts(ukr);
        if (vp_target_enable(ukr->target) && ukr->target <= vp_target_current()) {
            last[ukr->weight] = i;
        }
        /* In the runs for another target or wish, those alone that are then chosen. */
        const bool again = getenv("VITPOOL_TARGET") != NULL || wish != NULL;
        if (tested == NULL || (again && vp_ukr_for(ukr->weight) != ukr)) {
            continue;
        }
        const vp_ukr *next = testable_ukr(vp_ukr_at((i + 1) % VP_UKR_COUNT));
        if (next != NULL) { /* of another tile, target or type */
            check_sequence(tested, next);
        }
        check_sequence(tested, vp_ukr_for(VP_DTYPE_f32));
        check_model(tested, VP_POOL_TOKEN, VP_MLP_PLAIN);
        check_model(tested, VP_POOL_MAP, VP_MLP_GLU);
    }
    bool met = wish == NULL;
    for (int t = 0; t < VP_DTYPE_COUNT; t++) {
        const vp_ukr *chosen = vp_ukr_for((vp_dtype)t), *best = vp_ukr_at(last[t]);
        CHECK(chosen != NULL && chosen->weight == (vp_dtype)t, "no micro-kernel for %s",
              vp_dtype_title((vp_dtype)t));
        if (wish != NULL && strstr(chosen->name, wish) != NULL) {
            met = true;
        } else {
            CHECK(chosen == best, "%s is not the last that may run", chosen->name);
        }
    }
    CHECK(vp_ukr_wish_met() == met, "a wish that is %smet", met ? "" : "not ");
    return check_done();
}
