/* What makes a model or another of it: __init__, reset_classifier, _replace.
 * SPDX-License-Identifier: Apache-2.0 */
#include "python/model.h"

typedef struct {
    PyObject *weights; /* a mapping, or NULL: random */
    PyObject *dtypes;  /* a mapping, or NULL: all float32 */
    vp_init init;
} source;

static PyObject *fetch(PyObject *weights, const vp_param *param)
{
    PyObject *value = PyMapping_GetItemString(weights, param->name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Format(PyExc_ValueError, "weights lacks the parameter '%s'", param->name);
    }
    return value;
}

/* Makes parameter i one of this dtype, before it has numbers. 0, or -1 with an exception. */
static int set_dtype(vp_vit *vit, size_t i, vp_dtype dtype)
{
    vp_error err;
    if (vp_vit_set_dtype(vit, i, dtype, &err) != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    return 0;
}

/* The dtypes that `mapping` or NULL asks for. 0, or -1 with an exception. */
static int set_dtypes(vp_vit *vit, PyObject *mapping)
{
    signed char *wanted = vp_dtypes_from(mapping, vit);
    int failed = wanted == NULL;
    for (size_t i = 0; !failed && i < vp_vit_num_params(vit); i++) {
        failed = wanted[i] >= 0 && set_dtype(vit, i, (vp_dtype)wanted[i]) < 0;
    }
    PyMem_Free(wanted);
    return failed ? -1 : 0;
}

static int fill(vp_vit *vit, const source *from)
{
    vp_error err;
    vp_status status = VP_OK;
    if (set_dtypes(vit, from->dtypes) < 0) {
        return -1;
    }
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        if (from->weights != NULL) {
            PyObject *value = fetch(from->weights, vp_vit_param(vit, i));
            const int failed = value == NULL || vp_param_from(vit, i, value) < 0;
            Py_XDECREF(value);
            if (failed) {
                return -1;
            }
        } else {
            Py_BEGIN_ALLOW_THREADS
            status = vp_vit_init_param(vit, i, &from->init, &err);
            Py_END_ALLOW_THREADS
        }
        if (status != VP_OK) {
            (void)vp_raise(&err);
            return -1;
        }
    }
    if (vp_vit_finish(vit, &err) != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    return 0;
}

int vp_model_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"options",  "weights", "seed", "weight_init",
                            "fix_init", "dtypes",  NULL};
    vp_model *self = (vp_model *)object;
    PyObject *options, *weights = Py_None, *seed = NULL;
    source from = {NULL, NULL, {"", false, 0}};
    int fix_init = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOspO:VisionTransformer", names,
                                     &options, &weights, &seed, &from.init.mode,
                                     &fix_init, &from.dtypes) ||
        (seed != NULL && vp_u64_from(seed, "seed", &from.init.seed) < 0) ||
        (weights != Py_None && vp_check_mapping(weights, "weights") < 0) ||
        (from.dtypes != NULL && vp_check_mapping(from.dtypes, "dtypes") < 0)) {
        return -1;
    }
    from.weights = weights != Py_None ? weights : NULL;
    from.init.fix_init = fix_init;
    vp_config config;
    vp_error err;
    vp_vit *vit = NULL;
    if (vp_config_from_dict(options, &config) < 0) {
        return -1;
    }
    if (vp_vit_create(&config, &vit, &err) != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    if (fill(vit, &from) < 0) {
        vp_vit_unref(vit);
        return -1;
    }
    return vp_model_begin(self, vit, true) < 0 ? -1 : 0;
}

const char vp_model_reset_classifier_doc[] =
    "reset_classifier($self, num_classes, global_pool=None, *, add_attn_pool=False,\n"
    "                 seed=0)\n--\n\n"
    "New classifier of num_classes outputs (0: none) and, unless None, another "
    "pool.\n\n"
    "The head is freshly initialised. An attention pool ('map', 'prr') is kept, the "
    "same\n"
    "weights bit for bit, as long as the pool stays; another pool drops it. A pool "
    "that\n"
    "needs an attention pool the model lacks is refused, unless add_attn_pool=True "
    "makes\n"
    "a fresh one. Norms stay where they are. A call that raises changes nothing.\n\n"
    "TypeError: num_classes is not an integer, global_pool not a str or None.\n"
    "ValueError: num_classes is negative, global_pool unknown or not possible here.\n"
    "Source: timm.models.VisionTransformer.reset_classifier.";

PyObject *vp_model_reset_classifier(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"num_classes", "global_pool", "add_attn_pool", "seed",
                            NULL};
    vp_model *self = (vp_model *)object;
    PyObject *classes_object, *pool_object = Py_None, *seed_object = NULL;
    int add_attn_pool = 0;
    unsigned long long seed = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$pO:reset_classifier", names,
                                     &classes_object, &pool_object, &add_attn_pool,
                                     &seed_object) ||
        (seed_object != NULL && vp_u64_from(seed_object, "seed", &seed) < 0)) {
        return NULL;
    }
    const Py_ssize_t classes = vp_count_from(classes_object, "num_classes");
    vp_vit *now = classes < 0 ? NULL : vp_model_acquire(self, NULL);
    if (now == NULL) {
        return NULL;
    }
    vp_pool pool = VP_POOL_NONE;
    const int given =
        vp_pool_from(pool_object, "global_pool", vp_vit_config(now)->family, &pool);
    vp_vit_unref(now);
    if (given < 0) {
        return NULL;
    }
    bool committed = false;
    while (!committed) {
        vp_vit *vit = vp_model_acquire(self, NULL), *next = NULL;
        vp_error err;
        vp_status status;
        if (vit == NULL) {
            return NULL;
        }
        Py_BEGIN_ALLOW_THREADS
        status = vp_vit_reset_classifier(vit, (size_t)classes, given ? &pool : NULL,
                                         add_attn_pool, seed, &next, &err);
        committed = status == VP_OK && vp_vit_commit(&self->vit, vit, next);
        vp_vit_unref(vit);
        Py_END_ALLOW_THREADS
        if (status != VP_OK) {
            return vp_raise(&err);
        }
    }
    Py_RETURN_NONE;
}

const char vp_model_replace_doc[] =
    "_replace($self, options, weights, untrained=(), dtypes={}, /)\n--\n\n"
    "Rebuilds the model from options: parameters in the mapping weights are taken\n"
    "from it (name to an array of floats, or to integers and their scale), all others\n"
    "shared with what the model has. Parameters named in untrained are known as "
    "random\n"
    "from then on; those in the mapping dtypes are kept as it says, all others as "
    "they\n"
    "were. Atomic.\n"
    "ValueError: a shape or a dtype does not fit, or a parameter is in neither.";

/* 1: `names` has the parameter's name; 0: not; -1 with an exception. */
static int names_it(PyObject *names, const vp_param *param)
{
    PyObject *name = PyUnicode_FromString(param->name);
    const int has = name != NULL ? PySequence_Contains(names, name) : -1;
    Py_XDECREF(name);
    return has;
}

/* What the next model is made of beside the current one. */
typedef struct {
    PyObject *weights;   /* a mapping */
    PyObject *untrained; /* a container of names, or NULL */
    PyObject *dtypes;    /* a mapping, or NULL */
} change;

/* Parameter i of the next model: from `weights`, as the dtype that is wanted, or, where that is
 * -1, as what vit keeps under its name; or vit's own numbers as the dtype that is wanted. What
 * is neither is left to vp_vit_share_rest. The search in vit begins at *start. 0, or -1 with
 * an exception. */
static int put_param(vp_vit *next, size_t i, const vp_vit *vit, PyObject *weights,
                     int wanted, size_t *start)
{
    const vp_param *param = vp_vit_param(next, i);
    const size_t at = vp_vit_find_param(vit, param->name, *start);
    const bool there = at < vp_vit_num_params(vit);
    const vp_dtype now = there ? vp_vit_param(vit, at)->dtype : VP_DTYPE_f32;
    const vp_dtype dtype = wanted >= 0 ? (vp_dtype)wanted : now;
    *start = there ? at + 1 : *start;
    const int has = names_it(weights, param);
    if (has > 0) {
        PyObject *value = PyMapping_GetItemString(weights, param->name);
        const int failed = value == NULL || set_dtype(next, i, dtype) < 0 ||
                           vp_param_from(next, i, value) < 0;
        Py_XDECREF(value);
        return failed ? -1 : 0;
    }
    if (has < 0 || dtype == now) {
        return has;
    }
    vp_error err;
    vp_status status;
    Py_BEGIN_ALLOW_THREADS
    status = vp_vit_convert_param(next, i, vit, dtype, &err);
    Py_END_ALLOW_THREADS
    if (status == VP_ERR_KEY) {
        PyErr_Format(PyExc_ValueError, "weights lacks the parameter '%s'", err.message);
    } else if (status != VP_OK) {
        (void)vp_raise(&err);
    }
    return status == VP_OK ? 0 : -1;
}

/* Every parameter of the next model, and the marks. 0, or -1 with an exception. */
static int fill_next(vp_vit *next, const vp_vit *vit, const change *with,
                     const signed char *wanted)
{
    vp_error err;
    size_t start = 0;
    for (size_t i = 0; i < vp_vit_num_params(next); i++) {
        if (put_param(next, i, vit, with->weights, wanted[i], &start) < 0) {
            return -1;
        }
    }
    const vp_status status = vp_vit_share_rest(next, vit, &err);
    if (status != VP_OK) {
        PyErr_Format(PyExc_ValueError, "weights lacks the parameter '%s'", err.message);
        return -1;
    }
    for (size_t i = 0; with->untrained != NULL && i < vp_vit_num_params(next); i++) {
        const int has = names_it(with->untrained, vp_vit_param(next, i));
        if (has < 0) {
            return -1;
        }
        if (has) {
            vp_vit_mark_random(next, i);
        }
    }
    if (vp_vit_finish(next, &err) != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    return 0;
}

/* The next model beside vit; NULL with an exception. */
static vp_vit *build_next(vp_vit *vit, const vp_config *config, const change *with)
{
    vp_vit *next = NULL;
    vp_error err;
    if (vp_vit_create(config, &next, &err) != VP_OK) {
        (void)vp_raise(&err);
        return NULL;
    }
    signed char *wanted = vp_dtypes_from(with->dtypes, next);
    if (wanted == NULL || fill_next(next, vit, with, wanted) < 0) {
        vp_vit_unref(next);
        next = NULL;
    }
    PyMem_Free(wanted);
    return next;
}

PyObject *vp_model_replace(PyObject *object, PyObject *args)
{
    vp_model *self = (vp_model *)object;
    PyObject *options;
    change with = {NULL, NULL, NULL};
    vp_config config;
    if (!PyArg_ParseTuple(args, "OO|OO:_replace", &options, &with.weights,
                          &with.untrained, &with.dtypes) ||
        vp_check_mapping(with.weights, "weights") < 0 ||
        (with.dtypes != NULL && vp_check_mapping(with.dtypes, "dtypes") < 0)) {
        return NULL;
    }
    if (options != Py_None && vp_config_from_dict(options, &config) < 0) {
        return NULL;
    }
    bool committed = false;
    while (!committed) {
        vp_vit *vit = vp_model_acquire(self, NULL);
        if (vit == NULL) {
            return NULL;
        }
        vp_vit *next =
            build_next(vit, options != Py_None ? &config : vp_vit_config(vit), &with);
        committed = next != NULL && vp_vit_commit(&self->vit, vit, next);
        vp_vit_unref(vit);
        if (next == NULL) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

const char vp_model_commit_doc[] =
    "_commit($self, before, after, /)\n--\n\n"
    "Puts the model of `after` in the place of this one, if that is still the model "
    "of\n"
    "`before`, and says whether it was. Both are snapshots; `after` has been changed.";

PyObject *vp_model_commit(PyObject *object, PyObject *args)
{
    vp_model *self = (vp_model *)object;
    PyObject *before, *after;
    if (!PyArg_ParseTuple(args, "OO:_commit", &before, &after) ||
        vp_check_model(object, before, "before") < 0 ||
        vp_check_model(object, after, "after") < 0) {
        return NULL;
    }
    vp_vit *here = vp_model_acquire(self, NULL);
    vp_vit *expected = here != NULL ? vp_model_acquire((vp_model *)before, NULL) : NULL;
    vp_vit *next = expected != NULL ? vp_model_acquire((vp_model *)after, NULL) : NULL;
    /* takes the reference to next */
    const bool committed = next != NULL && vp_vit_commit(&self->vit, expected, next);
    vp_vit_unref(expected);
    vp_vit_unref(here);
    return next != NULL ? PyBool_FromLong(committed) : NULL;
}
