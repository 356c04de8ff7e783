/* The stack of the core's own threads is as large wherever the C library's default is small.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <pthread.h>

#include "base/os.h"
#include "check.h"

static vp_mutex lock = VP_MUTEX_INIT;
static vp_condition told = VP_CONDITION_INIT;
static size_t bytes;
static bool done;

static void *tell(void *unused)
{
    (void)unused;
    size_t size = 0;
#if defined(__linux__)
    pthread_attr_t own;
    if (pthread_getattr_np(pthread_self(), &own) == 0) {
        pthread_attr_getstacksize(&own, &size);
        pthread_attr_destroy(&own);
    }
#elif defined(__APPLE__)
    size = pthread_get_stacksize_np(pthread_self());
#endif
    vp_mutex_lock(&lock);
    bytes = size;
    done = true;
    vp_condition_wake_all(&told);
    vp_mutex_unlock(&lock);
    return NULL;
}

int main(void)
{
#if defined(__linux__)
    pthread_attr_t small; /* musl's default */
    pthread_attr_init(&small);
    CHECK(pthread_attr_setstacksize(&small, 128 << 10) == 0, "no such stack");
    CHECK(pthread_setattr_default_np(&small) == 0, "no such default");
    pthread_attr_destroy(&small);
#endif
    CHECK(vp_thread_start(tell, NULL), "no thread");
    vp_mutex_lock(&lock);
    while (!done) {
        vp_condition_wait(&told, &lock);
    }
    vp_mutex_unlock(&lock);
    CHECK(bytes >= (size_t)1 << 20, "%zu bytes", bytes);
    return check_done();
}
