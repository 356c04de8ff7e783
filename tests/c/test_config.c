/* Pool names and the checks of a config. SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "tiny.h"

static void pools_are_known_by_their_exact_names(void)
{
    vp_error err;
    for (int p = 0; p < VP_POOL_COUNT; p++) {
        vp_pool pool = VP_POOL_COUNT;
        const char *name = vp_pool_names[p];
        CHECK(vp_pool_parse("x", name, strlen(name), &pool, &err) == VP_OK, "%s", name);
        CHECK((int)pool == p, "%s is %d", name, (int)pool);
    }
    static const struct {
        const char *name;
        size_t length;
        const char *says;
    } wrong[] = {
        {"Avg", 3, "did you mean 'avg'"},
        {" map\n", 5, "did you mean 'map'"},
        {"avg\0", 4, "avg\\x00"},
        {"mean", 4, "not 'mean'"},
        {" ", 1, "not ' '"},
        {"max\xff\xfe", 5, "must be one of"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        vp_pool pool = VP_POOL_PRR;
        const vp_status status =
            vp_pool_parse("global_pool", wrong[i].name, wrong[i].length, &pool, &err);
        CHECK(status == VP_ERR_VALUE, "'%s' was taken", wrong[i].name);
        CHECK(pool == VP_POOL_PRR, "'%s' changed the pool", wrong[i].name);
        CHECK(strstr(err.message, wrong[i].says) != NULL, "%s", err.message);
        CHECK(strstr(err.message, "global_pool") == err.message, "%s", err.message);
    }
    static char large[100000];
    memset(large, '\n', sizeof large);
    vp_pool pool;
    CHECK(vp_pool_parse("x", large, sizeof large, &pool, &err) == VP_ERR_VALUE,
          "large");
    CHECK(strlen(err.message) < 500, "a message of %zu bytes", strlen(err.message));
}

static vp_error err;

static bool refused(vp_config c, const char *says)
{
    vp_vit *vit = NULL;
    const bool check = vp_config_check(&c, &err) == VP_ERR_VALUE;
    const bool create = vp_vit_create(&c, &vit, &err) == VP_ERR_VALUE;
    return check && create && vit == NULL && strstr(err.message, says) != NULL;
}

#define REFUSED(says, ...)                          \
    do {                                            \
        vp_config c = tiny_config();                \
        __VA_ARGS__;                                \
        CHECK(refused(c, says), "%s", err.message); \
    } while (0)

static void what_does_not_fit_is_refused_by_name(void)
{
    const vp_config good = tiny_config();
    CHECK(vp_config_check(&good, &err) == VP_OK, "%s", err.message);
    REFUSED("img_size", c.img_size[0] = 0);
    REFUSED("img_size", c.img_size[1] = SIZE_MAX);
    REFUSED("img_size", c.img_size[0] = 3);
    REFUSED("patch_size", c.patch_size[1] = 0);
    REFUSED("in_chans", c.in_chans = 0);
    REFUSED("in_chans", c.in_chans = (size_t)1 << 40);
    REFUSED("num_classes", c.num_classes = SIZE_MAX);
    REFUSED("embed_dim", c.embed_dim = 0);
    REFUSED("num_heads", c.num_heads = 0);
    REFUSED("embed_dim", c.num_heads = 3);
    REFUSED("reg_tokens", c.reg_tokens = (size_t)1 << 25);
    REFUSED("hidden", c.mlp_hidden = 0);
    REFUSED("depth", c.depth = 4097);
    REFUSED("too large", c.img_size[0] = c.img_size[1] = (size_t)1 << 24,
            c.patch_size[0] = c.patch_size[1] = (size_t)1 << 13,
            c.in_chans = (size_t)1 << 24);
    REFUSED("too large", c.img_size[0] = c.img_size[1] = (size_t)1 << 24,
            c.patch_size[0] = c.patch_size[1] = 1);
    REFUSED("token", c.class_token = false);
    REFUSED("even", c.mlp = VP_MLP_GLU, c.mlp_hidden = 15);
    REFUSED("even", c.attn = VP_ATTN_DIFF, c.embed_dim = 6);
    REFUSED("scale_attn_norm", c.block = VP_BLOCK_PARALLEL_SCALING,
            c.scale_attn_norm = true);
}

static void image_sizes_are_checked(void)
{
    vp_config c = tiny_config();
    size_t grid[2];
    vp_vit *vit = tiny_create(&c, &err);
    CHECK(vp_vit_check_size(vit, 8, 8, grid, &err) == VP_OK && grid[0] == 2, "8 x 8");
    CHECK(vp_vit_check_size(vit, 8, 12, grid, &err) == VP_ERR_VALUE, "8 x 12");
    vp_vit_unref(vit);
    c.dynamic_img_size = true;
    vit = tiny_create(&c, &err);
    CHECK(vp_vit_check_size(vit, 8, 12, grid, &err) == VP_OK && grid[1] == 3, "8 x 12");
    CHECK(vp_vit_check_size(vit, 8, 13, grid, &err) == VP_ERR_VALUE, "8 x 13");
    CHECK(vp_vit_check_size(vit, 0, 8, grid, &err) == VP_ERR_VALUE, "0 x 8");
    CHECK(vp_vit_check_size(vit, SIZE_MAX - 3, 8, grid, &err) == VP_ERR_VALUE, "huge");
    vp_vit_unref(vit);
    c.dynamic_img_pad = true;
    vit = tiny_create(&c, &err);
    CHECK(vp_vit_check_size(vit, 9, 1, grid, &err) == VP_OK, "9 x 1");
    CHECK(grid[0] == 3 && grid[1] == 1, "%zu x %zu", grid[0], grid[1]);
    CHECK(vp_vit_check_size(vit, SIZE_MAX, 1, grid, &err) == VP_ERR_VALUE, "huge");
    vp_vit_unref(vit);
}

int main(void)
{
    pools_are_known_by_their_exact_names();
    what_does_not_fit_is_refused_by_name();
    image_sizes_are_checked();
    return check_done();
}
