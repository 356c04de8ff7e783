/* _core.VisionTransformer: a model that holds one immutable vp_vit and swaps it whole.
 *
 * Every reader takes a reference under the global lock and works on that; every writer
 * builds the next vp_vit beside the current one and swaps if nobody else did meanwhile,
 * else starts over. The GIL is released while the core computes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "python/core.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    vp_vit *vit; /* swapped under the global lock; never NULL after __init__ */
    vp_workspaces *workspaces;
    PyObject *weakrefs;
} model_object;

/* A reference to the current model, or NULL with an exception before __init__. */
static vp_vit *acquire(model_object *self)
{
    vp_global_lock();
    vp_vit *vit = self->vit != NULL ? vp_vit_ref(self->vit) : NULL;
    vp_global_unlock();
    if (vit == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the model has not been initialised");
    }
    return vit;
}

/* Puts `next` in the place of `expected` and drops both references; false, and `next` is
 * dropped, where another writer was faster. */
static bool commit(model_object *self, vp_vit *expected, vp_vit *next)
{
    vp_global_lock();
    const bool current = self->vit == expected;
    if (current) {
        self->vit = next;
    }
    vp_global_unlock();
    vp_vit_unref(current ? expected : next); /* the model's reference, or ours */
    return current;
}

/* -- building -- */

typedef struct {
    PyObject *weights; /* a mapping, or NULL: random */
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

/* Sets parameter i from an array; shape and dtype are checked. */
static int set_from_array(vp_vit *vit, size_t i, PyObject *value)
{
    const vp_param *param = vp_vit_param(vit, i);
    PyArrayObject *array = vp_array_from(value, param->name, -1, "");
    if (array == NULL) {
        return -1;
    }
    bool same = PyArray_NDIM(array) == (int)param->ndim;
    for (size_t d = 0; same && d < param->ndim; d++) {
        same = (size_t)PyArray_DIM(array, (int)d) == param->shape[d];
    }
    if (!same) {
        PyObject *got = PyObject_GetAttrString((PyObject *)array, "shape");
        PyObject *want = vp_param_shape(param);
        PyErr_Format(PyExc_ValueError, "%s must have shape %S, not %S", param->name,
                     want, got);
        Py_XDECREF(got);
        Py_XDECREF(want);
        Py_DECREF(array);
        return -1;
    }
    vp_error err;
    vp_status status;
    Py_BEGIN_ALLOW_THREADS
    status = vp_vit_set_param(vit, i, PyArray_DATA(array), &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(array);
    if (status != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    return 0;
}

static int fill(vp_vit *vit, const source *from)
{
    vp_error err;
    vp_status status = VP_OK;
    for (size_t i = 0; i < vp_vit_num_params(vit); i++) {
        if (from->weights != NULL) {
            PyObject *value = fetch(from->weights, vp_vit_param(vit, i));
            const int failed = value == NULL || set_from_array(vit, i, value) < 0;
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

static int model_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"options",     "weights",  "seed",
                            "weight_init", "fix_init", NULL};
    model_object *self = (model_object *)object;
    PyObject *options, *weights = Py_None;
    source from = {NULL, {"", false, 0}};
    int fix_init = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OKsp:VisionTransformer", names,
                                     &options, &weights, &from.init.seed,
                                     &from.init.mode, &fix_init)) {
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
    vp_workspaces *workspaces =
        self->workspaces != NULL ? self->workspaces : vp_workspaces_create();
    if (workspaces == NULL) {
        vp_vit_unref(vit);
        PyErr_NoMemory();
        return -1;
    }
    vp_global_lock();
    vp_vit *old = self->vit;
    self->vit = vit;
    self->workspaces = workspaces;
    vp_global_unlock();
    vp_vit_unref(old);
    return 0;
}

static void model_dealloc(PyObject *object)
{
    model_object *self = (model_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(object);
    }
    vp_vit_unref(self->vit);
    vp_workspaces_free(self->workspaces);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static int model_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    return 0;
}

/* -- changes -- */

PyDoc_STRVAR(
    reset_classifier_doc,
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
    "Source: timm.models.VisionTransformer.reset_classifier.");

static PyObject *model_reset_classifier(PyObject *object, PyObject *args,
                                        PyObject *kwargs)
{
    static char *names[] = {"num_classes", "global_pool", "add_attn_pool", "seed",
                            NULL};
    model_object *self = (model_object *)object;
    PyObject *classes_object, *pool_object = Py_None;
    int add_attn_pool = 0;
    unsigned long long seed = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$pK:reset_classifier", names,
                                     &classes_object, &pool_object, &add_attn_pool,
                                     &seed)) {
        return NULL;
    }
    const Py_ssize_t classes = vp_count_from(classes_object, "num_classes");
    vp_pool pool = VP_POOL_NONE;
    const int given =
        classes < 0 ? -1 : vp_pool_from(pool_object, "global_pool", &pool);
    if (given < 0) {
        return NULL;
    }
    bool committed = false;
    while (!committed) {
        vp_vit *vit = acquire(self), *next = NULL;
        vp_error err;
        vp_status status;
        if (vit == NULL) {
            return NULL;
        }
        Py_BEGIN_ALLOW_THREADS
        status = vp_vit_reset_classifier(vit, (size_t)classes, given ? &pool : NULL,
                                         add_attn_pool, seed, &next, &err);
        committed = status == VP_OK && commit(self, vit, next);
        vp_vit_unref(vit);
        Py_END_ALLOW_THREADS
        if (status != VP_OK) {
            return vp_raise(&err);
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    replace_doc,
    "_replace($self, options, weights, serial=0, /)\n--\n\n"
    "Rebuilds the model from options: parameters in the mapping weights are taken\n"
    "from it (name to array), all others shared with what the model has. Atomic.\n"
    "False, and nothing happens, where serial is not 0 and not the model's _serial: "
    "it\n"
    "has changed. ValueError: a shape does not fit, or a parameter is in neither.");

/* The next model: `weights` first, the rest shared with `vit`. */
static vp_vit *build_next(vp_vit *vit, const vp_config *config, PyObject *weights)
{
    vp_vit *next = NULL;
    vp_error err;
    if (vp_vit_create(config, &next, &err) != VP_OK) {
        (void)vp_raise(&err);
        return NULL;
    }
    for (size_t i = 0; i < vp_vit_num_params(next); i++) {
        PyObject *key = PyUnicode_FromString(vp_vit_param(next, i)->name);
        const int has = key != NULL ? PySequence_Contains(weights, key) : -1;
        PyObject *value = has > 0 ? PyObject_GetItem(weights, key) : NULL;
        Py_XDECREF(key);
        const int failed =
            has < 0 ||
            (has > 0 && (value == NULL || set_from_array(next, i, value) < 0));
        Py_XDECREF(value);
        if (failed) {
            vp_vit_unref(next);
            return NULL;
        }
    }
    vp_status status = vp_vit_share_rest(next, vit, &err);
    if (status == VP_ERR_KEY) {
        PyErr_Format(PyExc_ValueError, "weights lacks the parameter '%s'", err.message);
    } else if (status == VP_OK && vp_vit_finish(next, &err) == VP_OK) {
        return next;
    } else {
        (void)vp_raise(&err);
    }
    vp_vit_unref(next);
    return NULL;
}

static PyObject *model_replace(PyObject *object, PyObject *args)
{
    model_object *self = (model_object *)object;
    PyObject *options, *weights;
    unsigned long long serial = 0;
    vp_config config;
    if (!PyArg_ParseTuple(args, "OO|K:_replace", &options, &weights, &serial)) {
        return NULL;
    }
    if (options != Py_None && vp_config_from_dict(options, &config) < 0) {
        return NULL;
    }
    bool committed = false;
    while (!committed) {
        vp_vit *vit = acquire(self);
        if (vit == NULL) {
            return NULL;
        }
        if (serial != 0 && serial != vp_vit_serial(vit)) {
            vp_vit_unref(vit);
            Py_RETURN_FALSE;
        }
        vp_vit *next =
            build_next(vit, options != Py_None ? &config : vp_vit_config(vit), weights);
        committed = next != NULL && commit(self, vit, next);
        vp_vit_unref(vit);
        if (next == NULL) {
            return NULL;
        }
    }
    Py_RETURN_TRUE;
}

/* -- reading -- */

PyDoc_STRVAR(options_doc, "_options($self)\n--\n\nThe resolved options as a dict.");

static PyObject *model_options(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_vit *vit = acquire((model_object *)object);
    PyObject *dict = vit != NULL ? vp_config_to_dict(vp_vit_config(vit)) : NULL;
    vp_vit_unref(vit);
    return dict;
}

PyDoc_STRVAR(param_shapes_doc,
             "param_shapes($self)\n--\n\n"
             "Every parameter's shape by its name in the state dict, in timm's order.");

static PyObject *model_param_shapes(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_vit *vit = acquire((model_object *)object);
    PyObject *dict = vit != NULL ? vp_param_shapes(vit) : NULL;
    vp_vit_unref(vit);
    return dict;
}

PyDoc_STRVAR(
    get_parameter_doc,
    "get_parameter($self, target, /)\n--\n\n"
    "The parameter of this dotted name, e.g. 'blocks.0.attn.qkv.weight', as a new\n"
    "read-only float32 array. KeyError: there is none of that name.");

static PyObject *model_get_parameter(PyObject *object, PyObject *target)
{
    if (!PyUnicode_Check(target)) {
        return vp_raise_type(target, "target must be a str");
    }
    vp_vit *vit = acquire((model_object *)object);
    if (vit == NULL) {
        return NULL;
    }
    const vp_param *param = NULL;
    for (size_t i = 0; param == NULL && i < vp_vit_num_params(vit); i++) {
        if (PyUnicode_CompareWithASCIIString(target, vp_vit_param(vit, i)->name) == 0) {
            param = vp_vit_param(vit, i);
        }
    }
    PyArrayObject *array = NULL;
    if (param == NULL) {
        PyErr_SetObject(PyExc_KeyError, target);
    } else {
        npy_intp shape[4] = {0};
        for (size_t d = 0; d < param->ndim; d++) {
            shape[d] = (npy_intp)param->shape[d];
        }
        array = vp_array_new((int)param->ndim, shape);
    }
    if (array != NULL) {
        Py_BEGIN_ALLOW_THREADS
        vp_weight_get(*param->slot, PyArray_DATA(array));
        Py_END_ALLOW_THREADS
        PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE);
    }
    vp_vit_unref(vit);
    return (PyObject *)array;
}

PyDoc_STRVAR(
    adopt_doc,
    "_adopt($self, other, /)\n--\n\n"
    "Becomes a model of other's weights as they are now; they are shared, not\n"
    "copied. For a model fresh from __new__.");

static PyObject *model_adopt(PyObject *object, PyObject *other)
{
    model_object *self = (model_object *)object;
    PyTypeObject *core = Py_TYPE(object); /* the type that is ours, below subclasses */
    for (PyTypeObject *base = core; base != &PyBaseObject_Type;
         base = PyType_GetSlot(base, Py_tp_base)) {
        core = base;
    }
    if (!PyObject_TypeCheck(other, core)) {
        return vp_raise_type(other, "other must be a VisionTransformer");
    }
    vp_workspaces *workspaces = vp_workspaces_create();
    vp_vit *vit = workspaces != NULL ? acquire((model_object *)other) : NULL;
    if (vit == NULL) {
        vp_workspaces_free(workspaces);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    vp_global_lock();
    const bool fresh = self->vit == NULL;
    if (fresh) {
        self->vit = vit;
        self->workspaces = workspaces;
    }
    vp_global_unlock();
    if (!fresh) {
        vp_vit_unref(vit);
        vp_workspaces_free(workspaces);
        PyErr_SetString(PyExc_RuntimeError, "the model is already initialised");
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(memory_bytes_doc, "memory_bytes($self)\n--\n\n"
                               "Bytes held: a dict of 'weights' and 'workspace'.");

static PyObject *model_memory_bytes(PyObject *object, PyObject *unused)
{
    (void)unused;
    model_object *self = (model_object *)object;
    vp_vit *vit = acquire(self);
    if (vit == NULL) {
        return NULL;
    }
    const size_t weights = vp_vit_weight_bytes(vit);
    vp_vit_unref(vit);
    return Py_BuildValue("{s:n,s:n}", "weights", (Py_ssize_t)weights, "workspace",
                         (Py_ssize_t)vp_workspaces_bytes(self->workspaces));
}

PyDoc_STRVAR(
    release_workspace_doc,
    "release_workspace($self)\n--\n\nGives idle scratch memory back to the system.");

static PyObject *model_release_workspace(PyObject *object, PyObject *unused)
{
    (void)unused;
    model_object *self = (model_object *)object;
    if (self->workspaces != NULL) {
        vp_workspaces_release(self->workspaces);
    }
    Py_RETURN_NONE;
}

static PyObject *model_pool_serial(PyObject *object, void *unused)
{
    (void)unused;
    vp_vit *vit = acquire((model_object *)object);
    if (vit == NULL) {
        return NULL;
    }
    const unsigned long long serial = vp_vit_pool_serial(vit);
    vp_vit_unref(vit);
    return PyLong_FromUnsignedLongLong(serial);
}

static PyObject *model_serial(PyObject *object, void *unused)
{
    (void)unused;
    vp_vit *vit = acquire((model_object *)object);
    if (vit == NULL) {
        return NULL;
    }
    const unsigned long long serial = vp_vit_serial(vit);
    vp_vit_unref(vit);
    return PyLong_FromUnsignedLongLong(serial);
}

PyDoc_STRVAR(check_size_doc,
             "_grid($self, height, width, /)\n--\n\n"
             "The grid of patches of such an image. ValueError says which sizes fit.");

static PyObject *model_grid(PyObject *object, PyObject *args)
{
    Py_ssize_t height, width;
    size_t grid[2];
    vp_error err;
    if (!PyArg_ParseTuple(args, "nn:_grid", &height, &width)) {
        return NULL;
    }
    vp_vit *vit = acquire((model_object *)object);
    if (vit == NULL) {
        return NULL;
    }
    const vp_status status =
        vp_vit_check_size(vit, height > 0 ? (size_t)height : 0,
                          width > 0 ? (size_t)width : 0, grid, &err);
    vp_vit_unref(vit);
    return status == VP_OK
               ? Py_BuildValue("(nn)", (Py_ssize_t)grid[0], (Py_ssize_t)grid[1])
               : vp_raise(&err);
}

vp_vit *vp_model_acquire(PyObject *object, vp_workspaces **workspaces)
{
    model_object *self = (model_object *)object;
    vp_vit *vit = acquire(self);
    *workspaces = self->workspaces;
    return vit;
}

#define KEYWORDS(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef methods[] = {
    {"reset_classifier", KEYWORDS(model_reset_classifier), METH_VARARGS | METH_KEYWORDS,
     reset_classifier_doc},
    {"_replace", model_replace, METH_VARARGS, replace_doc},
    {"_options", model_options, METH_NOARGS, options_doc},
    {"param_shapes", model_param_shapes, METH_NOARGS, param_shapes_doc},
    {"get_parameter", model_get_parameter, METH_O, get_parameter_doc},
    {"_adopt", model_adopt, METH_O, adopt_doc},
    {"memory_bytes", model_memory_bytes, METH_NOARGS, memory_bytes_doc},
    {"release_workspace", model_release_workspace, METH_NOARGS, release_workspace_doc},
    {"_grid", model_grid, METH_VARARGS, check_size_doc},
    {"_run", KEYWORDS(vp_model_run), METH_VARARGS | METH_KEYWORDS, vp_model_run_doc},
    {"forward_head", KEYWORDS(vp_model_forward_head), METH_VARARGS | METH_KEYWORDS,
     vp_model_forward_head_doc},
    {"fc_norm", vp_model_fc_norm, METH_O, vp_model_fc_norm_doc},
    {"pool", KEYWORDS(vp_model_pool), METH_VARARGS | METH_KEYWORDS, vp_model_pool_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"_pool_serial", model_pool_serial, NULL,
     "A number that stays as long as the attention pool does; 0: none.", NULL},
    {"_serial", model_serial, NULL, "A number that changes whenever the model does.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(model_object, weakrefs), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    model_doc,
    "VisionTransformer(options, weights=None, seed=0, weight_init='', "
    "fix_init=False)\n--\n\n"
    "The C core of vitpool.VisionTransformer: resolved options in, float32 out.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)model_doc}, {Py_tp_init, model_init},
    {Py_tp_dealloc, model_dealloc}, {Py_tp_traverse, model_traverse},
    {Py_tp_methods, methods},       {Py_tp_getset, getset},
    {Py_tp_members, members},       {0, NULL},
};

PyType_Spec vp_model_spec = {
    .name = "vitpool._core.VisionTransformer",
    .basicsize = sizeof(model_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
