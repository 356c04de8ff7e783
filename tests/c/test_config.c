/* Pool names and the checks of a config. SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "tiny.h"

static void pools_are_known_by_their_exact_names(void)
{
    vp_error err;
    for (int p = 0; p < VP_POOL_COUNT; p++) {
        vp_pool pool = VP_POOL_COUNT;
        const char *name = vp_pool_names[p];
        CHECK(vp_pool_parse(VP_FAMILY_VIT, "x", name, strlen(name), &pool, &err) ==
                  VP_OK,
              "%s", name);
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
        const vp_status status = vp_pool_parse(
            VP_FAMILY_VIT, "global_pool", wrong[i].name, wrong[i].length, &pool, &err);
        CHECK(status == VP_ERR_VALUE, "'%s' was taken", wrong[i].name);
        CHECK(pool == VP_POOL_PRR, "'%s' changed the pool", wrong[i].name);
        CHECK(strstr(err.message, wrong[i].says) != NULL, "%s", err.message);
        CHECK(strstr(err.message, "global_pool") == err.message, "%s", err.message);
    }
    static char large[100000];
    memset(large, '\n', sizeof large);
    vp_pool pool;
    CHECK(vp_pool_parse(VP_FAMILY_VIT, "x", large, sizeof large, &pool, &err) ==
              VP_ERR_VALUE,
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
    REFUSED("qkv_split", c.block = VP_BLOCK_PARALLEL_THINGS, c.qkv_split = true);
    REFUSED("q_v_bias", c.attn = VP_ATTN_DIFF, c.q_v_bias = true);
    REFUSED("qkv_split", c.block = VP_BLOCK_BEIT, c.qkv_split = true,
            c.rel_pos = VP_REL_POS_BIAS, c.rel_pos_block = true);
    REFUSED("num_kv_heads", c.num_kv_heads = 1);
    REFUSED("num_kv_heads", c.num_kv_heads = 3, c.qkv_split = true);
    REFUSED("num_kv_heads", c.num_kv_heads = SIZE_MAX, c.qkv_split = true);
    REFUSED("num_full_attn_blocks", c.num_full_attn_blocks = SIZE_MAX);
    REFUSED("num_full_attn_last", c.num_full_attn_last = SIZE_MAX);
    REFUSED("attn_only_layer_scale", c.attn_only_layer_scale = true);
}

static void relative_options_are_checked(void)
{
#define BIAS c.rel_pos = VP_REL_POS_BIAS, c.rel_pos_block = true
    REFUSED("rel_pos_block", c.rel_pos = VP_REL_POS_BIAS);
    REFUSED("rel_pos_shared", c.rel_pos_shared = true);
    REFUSED("dynamic_img_size", BIAS, c.dynamic_img_size = true);
    REFUSED("parallel blocks", BIAS, c.block = VP_BLOCK_PARALLEL_THINGS);
    REFUSED("parallel blocks", BIAS, c.block = VP_BLOCK_PARALLEL_SCALING);
    REFUSED("differential", BIAS, c.attn = VP_ATTN_DIFF);
    REFUSED("BeitBlock", BIAS, c.rel_pos = VP_REL_POS_MLP, c.rel_pos_dim = 4,
            c.block = VP_BLOCK_BEIT);
    REFUSED("rel_pos_dim", BIAS, c.rel_pos = VP_REL_POS_MLP);
    REFUSED("rel_pos_dim", BIAS, c.rel_pos = VP_REL_POS_MLP, c.rel_pos_dim = SIZE_MAX);
    REFUSED("not 1 x 2", BIAS, c.rel_pos = VP_REL_POS_MLP_SWIN, c.rel_pos_dim = 4,
            c.patch_size[0] = 8);
#undef BIAS
}

static void the_distilled_models_tokens_are_two(void)
{
#define DISTILLED c.family = VP_FAMILY_DISTILLED, c.dist_token = true
    REFUSED("dist_token", c.dist_token = true);
    REFUSED("dist_token", c.family = VP_FAMILY_DISTILLED);
    REFUSED("not False and 0", DISTILLED, c.class_token = false);
    REFUSED("not True and 2", DISTILLED, c.reg_tokens = 2);
    REFUSED("fc_norm", DISTILLED, c.fc_norm = true);
#undef DISTILLED
}

static void an_attention_pools_own_width_is_checked(void)
{
    REFUSED("attn_pool_num_heads, but 8 is not by 3", tiny_pool(&c, VP_POOL_MAP),
            c.attn_pool_heads = 3);
    REFUSED("pool's hidden width", c.attn_pool_hidden = SIZE_MAX);
}

/* Those of each class, by timm's asserts. */
static void a_class_has_its_own_pools(void)
{
    static const struct {
        vp_family family;
        bool has[VP_POOL_COUNT];
        const char *list;
    } classes[] = {
        {VP_FAMILY_VIT, {1, 1, 1, 1, 1, 1, 1}, NULL},
        {VP_FAMILY_DISTILLED,
         {0, 0, 0, 0, 1, 0, 0},
         "global_pool of VisionTransformerDistilled must be 'token', not '"},
        {VP_FAMILY_EVA,
         {1, 1, 1, 1, 1, 1, 0},
         "global_pool of Eva must be one of '', 'avg', 'avgmax', 'max', 'token', "
         "'map', not '"},
        {VP_FAMILY_BEIT,
         {1, 1, 0, 0, 1, 0, 0},
         "global_pool of Beit must be one of '', 'avg', 'token', not '"},
        {VP_FAMILY_RELPOS,
         {1, 1, 0, 0, 1, 0, 0},
         "global_pool of VisionTransformerRelPos must be one of '', 'avg', 'token', "
         "not '"},
        {VP_FAMILY_NAFLEX,
         {1, 1, 1, 1, 1, 1, 0},
         "global_pool of NaFlexVit must be one of '', 'avg', 'avgmax', 'max', 'token', "
         "'map', not '"},
    };
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        for (int p = 0; p < VP_POOL_COUNT; p++) {
            vp_config c = tiny_config();
            c.family = classes[i].family;
            const vp_status status =
                vp_config_check_pool(&c, "global_pool", (vp_pool)p, &err);
            CHECK((status == VP_OK) == classes[i].has[p], "class %zu, pool %d", i, p);
            CHECK(status == VP_OK || strncmp(err.message, classes[i].list,
                                             strlen(classes[i].list)) == 0,
                  "%s", err.message);
        }
    }
    vp_pool pool = VP_POOL_PRR;
    CHECK(vp_pool_parse(VP_FAMILY_BEIT, "pool_type", "Avg ", 4, &pool, &err) ==
                  VP_ERR_VALUE &&
              strstr(err.message, "did you mean 'avg'?") != NULL,
          "%s", err.message);
    CHECK(vp_pool_parse(VP_FAMILY_BEIT, "pool_type", "MAX", 3, &pool, &err) ==
                  VP_ERR_VALUE &&
              strstr(err.message, "mean") == NULL,
          "%s", err.message);
}

static void rotary_options_are_checked(void)
{
#define ROPE c.rope = VP_ROPE_CAT, c.rope_temperature = 100.0f
    REFUSED("divisible by 4", ROPE, c.embed_dim = 12);
    REFUSED("temperature", ROPE, c.rope_temperature = 0.0f);
    REFUSED("temperature", ROPE, c.rope_temperature = NAN);
    REFUSED("rope_ref", ROPE, c.rope_ref[0] = 14);
    REFUSED("rope_ref", ROPE, c.rope_ref[0] = 1, c.rope_ref[1] = SIZE_MAX);
    REFUSED("rope needs blocks", ROPE, c.block = VP_BLOCK_PARALLEL_SCALING);
    REFUSED("rotate_half", ROPE, c.rope = VP_ROPE_MIXED, c.rope_rotate_half = true);
    REFUSED("its own table", ROPE, c.rope = VP_ROPE_MIXED, c.qkv_split = true,
            c.num_kv_heads = 1);
#undef ROPE
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
    relative_options_are_checked();
    the_distilled_models_tokens_are_two();
    an_attention_pools_own_width_is_checked();
    a_class_has_its_own_pools();
    rotary_options_are_checked();
    image_sizes_are_checked();
    return check_done();
}
