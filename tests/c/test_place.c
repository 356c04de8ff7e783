/* A model's place: read by some threads while others replace what is there. What goes wrong
 * here does so once in thousands of times, but ThreadSanitizer (`make tsan`) sees it always.
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "tiny.h"

static vp_vit *place;
static atomic_bool stop;
static atomic_long committed;

static void *readers(void *argument)
{
    (void)argument;
    while (!atomic_load(&stop)) {
        vp_vit *vit = vp_vit_acquire(&place);
        CHECK(vp_vit_config(vit)->embed_dim == 8, "what is there is no model");
        vp_vit_unref(vit);
    }
    return NULL;
}

static void *writers(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < 15000; i++) {
        vp_vit *now = vp_vit_acquire(&place), *next = NULL;
        vp_error err;
        const size_t classes = vp_vit_config(now)->num_classes;
        const vp_status status =
            vp_vit_reset_classifier(now, classes % 99 + 1, NULL, false, 1, &next, &err);
        CHECK(status == VP_OK, "%s", err.message);
        if (status == VP_OK && vp_vit_commit(&place, now, next)) {
            atomic_fetch_add(&committed, 1);
        }
        vp_vit_unref(now);
    }
    return NULL;
}

int main(void)
{
    vp_config c = tiny_config();
    vp_error err;
    c.depth = 0; /* quickly made */
    c.num_classes = 1;
    vp_vit *none = NULL;
    CHECK(vp_vit_acquire(&none) == NULL, "a model from nowhere");
    place = tiny_create(&c, &err);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        (void)pthread_create(&threads[i], NULL, i < 2 ? readers : writers, NULL);
    }
    for (int i = 3; i >= 0; i--) {
        (void)pthread_join(threads[i], NULL);
        atomic_store(&stop, i <= 2); /* the writers have ended */
    }
    const size_t classes = vp_vit_config(place)->num_classes;
    CHECK((classes - 1) % 99 == (size_t)committed % 99, "%ld commits, %zu classes",
          committed, classes);
    vp_vit_unref(place);
    return check_done();
}
