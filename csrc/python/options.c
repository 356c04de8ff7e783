/* A model's options as a dict of resolved names and numbers, both ways; and the shapes that
 * follow from them.
 *
 * vitpool/config/ turns timm's constructor arguments into this dict; here its values are
 * checked once more, since nothing unvalidated may reach the core.
 * SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* One line an option: kind, key, field. */
#define OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)         \
    PAIR("img_size", img_size)                        \
    PAIR("patch_size", patch_size)                    \
    SIZE("in_chans", in_chans)                        \
    SIZE("num_classes", num_classes)                  \
    SIZE("embed_dim", embed_dim)                      \
    SIZE("depth", depth)                              \
    SIZE("num_heads", num_heads)                      \
    SIZE("mlp_hidden", mlp_hidden)                    \
    SIZE("reg_tokens", reg_tokens)                    \
    ENUM("block_fn", block, blocks)                   \
    ENUM("mlp_layer", mlp, mlps)                      \
    ENUM("attn_layer", attn, attns)                   \
    ENUM("act_layer", act, acts)                      \
    ENUM("norm_layer", norm_layer, norms)             \
    ENUM("embed_norm_layer", embed_norm_layer, norms) \
    REAL("norm_eps", norm_eps)                        \
    REAL("embed_norm_eps", embed_norm_eps)            \
    REAL("init_values", init_values)                  \
    BOOL("has_init_values", has_init_values)          \
    BOOL("qkv_bias", qkv_bias)                        \
    BOOL("qk_norm", qk_norm)                          \
    BOOL("scale_attn_norm", scale_attn_norm)          \
    BOOL("scale_mlp_norm", scale_mlp_norm)            \
    BOOL("proj_bias", proj_bias)                      \
    BOOL("class_token", class_token)                  \
    BOOL("pos_embed", pos_embed)                      \
    BOOL("no_embed_class", no_embed_class)            \
    BOOL("pre_norm", pre_norm)                        \
    BOOL("norm", norm)                                \
    BOOL("fc_norm", fc_norm)                          \
    BOOL("pool_include_prefix", pool_include_prefix)  \
    BOOL("dynamic_img_size", dynamic_img_size)        \
    BOOL("dynamic_img_pad", dynamic_img_pad)

/* What timm's other classes have beside that: may be missing, which is 0, False or the first
 * name, as in VisionTransformer. */
#define CLASS_OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)      \
    ENUM("family", family, vp_family_names)              \
    BOOL("dist_token", dist_token)                       \
    BOOL("qkv_split", qkv_split)                         \
    BOOL("q_v_bias", q_v_bias)                           \
    SIZE("num_kv_heads", num_kv_heads)                   \
    SIZE("num_full_attn_blocks", num_full_attn_blocks)   \
    SIZE("num_full_attn_last", num_full_attn_last)       \
    BOOL("attn_only_layer_scale", attn_only_layer_scale) \
    ENUM("rope", rope, ropes)                            \
    BOOL("rope_rotate_half", rope_rotate_half)           \
    BOOL("rope_xy", rope_xy)                             \
    REAL("rope_temperature", rope_temperature)           \
    REAL("rope_grid_offset", rope_grid_offset)           \
    PAIR("rope_ref", rope_ref)                           \
    ENUM("rel_pos", rel_pos, rel_positions)              \
    BOOL("rel_pos_block", rel_pos_block)                 \
    BOOL("rel_pos_shared", rel_pos_shared)               \
    SIZE("rel_pos_dim", rel_pos_dim)                     \
    SIZE("attn_pool_heads", attn_pool_heads)             \
    SIZE("attn_pool_hidden", attn_pool_hidden)           \
    ENUM("attn_pool_act", attn_pool_act, acts)           \
    REAL("head_init_scale", head_init_scale)             \
    ENUM("embed_layer", embed, embeds)

/* What NaFlexVit alone has. */
#define NAFLEX_OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)       \
    BOOL("embed_linear", embed_linear)                     \
    BOOL("patchify_channels_last", patchify_channels_last) \
    BOOL("patch_interpolator", patch_interpolator)         \
    ENUM("pos_kind", pos_kind, positions)                  \
    ENUM("pos_interp", pos_interp, interpolations)         \
    BOOL("pos_ar_preserving", pos_ar_preserving)           \
    BOOL("pos_antialias", pos_antialias)                   \
    BOOL("pos_align_corners", pos_align_corners)           \
    BOOL("pos_grid_sample", pos_grid_sample)

/* By what stands for it in the core; vitpool/config.py's names. */
static const char *const ropes[] = {
    [VP_ROPE_NONE] = "none",
    [VP_ROPE_CAT] = "cat",
    [VP_ROPE_MIXED] = "mixed",
    [VP_ROPE_DINOV3] = "dinov3",
};
static const char *const rel_positions[] = {
    [VP_REL_POS_NONE] = "none",
    [VP_REL_POS_BIAS] = "bias",
    [VP_REL_POS_MLP] = "mlp",
    [VP_REL_POS_MLP_SWIN] = "mlpswin",
};
static const char *const positions[] = {
    [VP_POS_LEARNED] = "learned",
    [VP_POS_FACTORIZED] = "factorized",
};
static const char *const interpolations[] = {
    [VP_POS_BICUBIC] = "bicubic",
    [VP_POS_BILINEAR] = "bilinear",
};
static const char *const blocks[] = {
    [VP_BLOCK_PLAIN] = "Block",
    [VP_BLOCK_RES_POST] = "ResPostBlock",
    [VP_BLOCK_PARALLEL_SCALING] = "ParallelScalingBlock",
    [VP_BLOCK_PARALLEL_THINGS] = "ParallelThingsBlock",
    [VP_BLOCK_DIFF_PARALLEL_SCALING] = "DiffParallelScalingBlock",
    [VP_BLOCK_EVA] = "EvaBlock",
    [VP_BLOCK_EVA_POST_NORM] = "EvaBlockPostNorm",
    [VP_BLOCK_BEIT] = "BeitBlock",
    [VP_BLOCK_REL_POS] = "RelPosBlock",
    [VP_BLOCK_RES_POST_REL_POS] = "ResPostRelPosBlock",
};
static const char *const mlps[] = {
    [VP_MLP_PLAIN] = "Mlp",
    [VP_MLP_GLU] = "GluMlp",
    [VP_MLP_SWIGLU_PACKED] = "SwiGLUPacked",
    [VP_MLP_SWIGLU] = "SwiGLU",
};
static const char *const embeds[] = {
    [VP_EMBED_PATCH] = "PatchEmbed",
    [VP_EMBED_CONV_STEM] = "ConvStem",
};
static const char *const attns[] = {
    [VP_ATTN_PLAIN] = "attn",
    [VP_ATTN_DIFF] = "diff",
};
static const char *const acts[] = {
    [VP_ACT_NONE] = "identity",       [VP_ACT_GELU] = "gelu",
    [VP_ACT_GELU_TANH] = "gelu_tanh", [VP_ACT_QUICK_GELU] = "quick_gelu",
    [VP_ACT_SILU] = "silu",           [VP_ACT_RELU] = "relu",
};
static const char *const norms[] = {
    [VP_NORM_NONE] = "identity",
    [VP_NORM_LAYER] = "layernorm",
    [VP_NORM_RMS] = "rmsnorm",
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static PyObject *item(PyObject *options, const char *key)
{
    PyObject *value = PyDict_GetItemString(options, key); /* borrowed */
    if (value == NULL) {
        PyErr_Format(PyExc_TypeError, "option '%s' is missing", key);
    }
    return value;
}

static int get_size(PyObject *options, const char *key, size_t *out)
{
    PyObject *value = item(options, key);
    const Py_ssize_t n = value != NULL ? vp_count_from(value, key) : -1;
    *out = (size_t)n;
    return n < 0 ? -1 : 0;
}

static int get_pair(PyObject *options, const char *key, size_t out[2])
{
    PyObject *value = item(options, key);
    if (value == NULL) {
        return -1;
    }
    if (!PyTuple_Check(value) || PyTuple_Size(value) != 2) {
        PyErr_Format(PyExc_TypeError, "%s must be a pair of integers, not %R", key,
                     value);
        return -1;
    }
    for (Py_ssize_t i = 0; i < 2; i++) {
        const Py_ssize_t n = vp_count_from(PyTuple_GetItem(value, i), key);
        if (n < 0) {
            return -1;
        }
        out[i] = (size_t)n;
    }
    return 0;
}

static int get_bool(PyObject *options, const char *key, bool *out)
{
    PyObject *value = item(options, key);
    const int truth = value != NULL ? PyObject_IsTrue(value) : -1;
    *out = truth > 0;
    return truth < 0 ? -1 : 0;
}

static int get_real(PyObject *options, const char *key, float *out)
{
    PyObject *value = item(options, key);
    if (value == NULL) {
        return -1;
    }
    double x = PyFloat_AsDouble(value);
    if (x == -1.0 && PyErr_Occurred()) {
        const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError);
        if (!too_large && !PyErr_ExceptionMatches(PyExc_TypeError)) {
            return -1;
        }
        PyErr_Clear();
        if (!too_large) {
            (void)vp_raise_type(value, "%s must be a number", key);
            return -1;
        }
        x = INFINITY;
    }
    if (!(fabs(x) <= (double)FLT_MAX)) {
        PyErr_Format(PyExc_ValueError, "%s must be a finite float32, not %R", key,
                     value);
        return -1;
    }
    *out = (float)x;
    return 0;
}

/* The index of a name among `count`. */
static int get_enum(PyObject *options, const char *key, const char *const *names,
                    size_t count)
{
    PyObject *value = item(options, key);
    if (value == NULL) {
        return -1;
    }
    if (!PyUnicode_Check(value)) {
        (void)vp_raise_type(value, "%s must be a str", key);
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        if (PyUnicode_CompareWithASCIIString(value, names[i]) == 0) {
            return (int)i;
        }
    }
    char list[256] = "";
    for (size_t i = 0, used = 0; i < count && used < sizeof list; i++) {
        used += (size_t)snprintf(list + used, sizeof list - used, "%s'%s'",
                                 i > 0 ? ", " : "", names[i]);
    }
    PyErr_Format(PyExc_ValueError, "%s must be one of %s, not %A", key, list, value);
    return -1;
}

/* Every key is an option's? */
static int check_keys(PyObject *options)
{
#define KEY(key, ...) key,
    static const char *const keys[] = {OPTIONS(KEY, KEY, KEY, KEY, KEY) CLASS_OPTIONS(
        KEY, KEY, KEY, KEY, KEY) NAFLEX_OPTIONS(KEY, KEY, KEY, KEY, KEY) "global_pool"};
#undef KEY
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(options, &position, &key, &value)) {
        bool known = false;
        for (size_t i = 0; PyUnicode_Check(key) && !known && i < COUNT(keys); i++) {
            known = PyUnicode_CompareWithASCIIString(key, keys[i]) == 0;
        }
        if (!known) {
            PyErr_Format(PyExc_TypeError, "%R is no option", key);
            return -1;
        }
    }
    return 0;
}

int vp_pool_from(PyObject *object, const char *what, vp_family family, vp_pool *pool)
{
    if (object == Py_None) {
        return 0;
    }
    if (!PyUnicode_Check(object)) {
        (void)vp_raise_type(object, "%s must be a str (%s) or None", what,
                            vp_pool_list(family));
        return -1;
    }
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(object, &length);
    vp_error err;
    if (name == NULL) { /* lone surrogates: no pool's name */
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s must be one of %s, not %A", what,
                     vp_pool_list(family), object);
        return -1;
    }
    if (vp_pool_parse(family, what, name, (size_t)length, pool, &err) != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    return 1;
}

/* The same of a dict that nobody else changes: what it gives is borrowed. */
static int read_config(PyObject *options, vp_config *config)
{
    memset(config, 0, sizeof *config);
    if (check_keys(options) < 0) {
        return -1;
    }
    bool optional = false;
#define READ(key, call)                                                            \
    if (!(optional && PyDict_GetItemString(options, key) == NULL) && (call) < 0) { \
        return -1;                                                                 \
    }
#define SIZE(key, field) READ(key, get_size(options, key, &config->field))
#define PAIR(key, field) READ(key, get_pair(options, key, config->field))
#define BOOL(key, field) READ(key, get_bool(options, key, &config->field))
#define REAL(key, field) READ(key, get_real(options, key, &config->field))
#define ENUM(key, field, names)                                          \
    {                                                                    \
        int choice = 0;                                                  \
        READ(key, choice = get_enum(options, key, names, COUNT(names))); \
        config->field = (__typeof__(config->field))choice;               \
    }
    OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)
    optional = true;
    CLASS_OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)
    NAFLEX_OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)
#undef READ
#undef SIZE
#undef PAIR
#undef BOOL
#undef REAL
#undef ENUM
    PyObject *pool = item(options, "global_pool");
    if (pool == NULL) {
        return -1;
    }
    if (pool == Py_None) {
        PyErr_SetString(PyExc_TypeError, "global_pool must be a str, not None");
        return -1;
    }
    if (vp_pool_from(pool, "global_pool", config->family, &config->global_pool) < 0) {
        return -1;
    }
    const bool module =
        config->global_pool == VP_POOL_MAP || config->global_pool == VP_POOL_PRR;
    config->attn_pool = module ? config->global_pool : VP_POOL_NONE;
    return 0;
}

int vp_config_from_dict(PyObject *given, vp_config *config)
{
    if (!PyDict_Check(given)) {
        (void)vp_raise_type(given, "options must be a dict");
        return -1;
    }
    /* Another thread, or an __index__ that is asked for a number, may change the caller's. */
    PyObject *options = PyDict_Copy(given);
    const int status = options != NULL ? read_config(options, config) : -1;
    Py_XDECREF(options);
    return status;
}

static int put(PyObject *dict, const char *key, PyObject *value)
{
    const int status = value != NULL ? PyDict_SetItemString(dict, key, value) : -1;
    Py_XDECREF(value);
    return status;
}

PyObject *vp_config_to_dict(const vp_config *config)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
#define SIZE(key, field)                                        \
    if (put(dict, key, PyLong_FromSize_t(config->field)) < 0) { \
        goto fail;                                              \
    }
#define PAIR(key, field)                                        \
    if (put(dict, key,                                          \
            Py_BuildValue("(nn)", (Py_ssize_t)config->field[0], \
                          (Py_ssize_t)config->field[1])) < 0) { \
        goto fail;                                              \
    }
#define BOOL(key, field)                                      \
    if (put(dict, key, PyBool_FromLong(config->field)) < 0) { \
        goto fail;                                            \
    }
#define REAL(key, field)                                                 \
    if (put(dict, key, PyFloat_FromDouble((double)config->field)) < 0) { \
        goto fail;                                                       \
    }
#define ENUM(key, field, names)                                           \
    if (put(dict, key, PyUnicode_FromString(names[config->field])) < 0) { \
        goto fail;                                                        \
    }
    OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)
    CLASS_OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)
    NAFLEX_OPTIONS(SIZE, PAIR, BOOL, ENUM, REAL)
#undef SIZE
#undef PAIR
#undef BOOL
#undef REAL
#undef ENUM
    if (put(dict, "global_pool",
            PyUnicode_FromString(vp_pool_names[config->global_pool])) < 0) {
        goto fail;
    }
    return dict;
fail:
    Py_DECREF(dict);
    return NULL;
}
