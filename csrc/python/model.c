/* The type _core.VisionTransformer: life, snapshots, facts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "python/model.h"

#include <structmember.h>

/* -- the vp_vit inside -- */

vp_vit *vp_model_acquire(vp_model *self, vp_workspaces **workspaces)
{
    vp_vit *vit = vp_vit_acquire(&self->vit);
    if (vit == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the model has not been initialised");
    } else if (workspaces != NULL) {
        *workspaces = self->workspaces; /* set with the first vit, and never again */
    }
    return vit;
}

int vp_model_begin(vp_model *self, vp_vit *vit, bool again)
{
    /* Without the GIL two threads may begin at once: what one does not need it frees. */
    vp_workspaces *spare = vp_workspaces_create();
    if (spare == NULL) {
        vp_vit_unref(vit);
        (void)PyErr_NoMemory();
        return -1;
    }
    vp_vit *left = vit;
    vp_global_lock();
    const bool put = self->vit == NULL || again;
    if (put) {
        left = self->vit;
        self->vit = vit;
    }
    if (put && self->workspaces == NULL) {
        self->workspaces = spare;
        spare = NULL;
    }
    vp_global_unlock();
    vp_vit_unref(left);
    vp_workspaces_unref(spare);
    return put;
}

/* The options of `vit`, which is or was the object's: a new reference to a dict that is
 * nobody's to change. Made once for each vp_vit. */
static PyObject *options_of(vp_model *self, const vp_vit *vit)
{
    const unsigned long long serial = vp_vit_serial(vit);
    vp_global_lock();
    PyObject *dict = self->options_of == serial ? Py_NewRef(self->options) : NULL;
    vp_global_unlock();
    if (dict != NULL) {
        return dict;
    }
    dict = vp_config_to_dict(vp_vit_config(vit));
    if (dict != NULL) {
        vp_global_lock();
        PyObject *old = self->options;
        self->options = Py_NewRef(dict);
        self->options_of = serial;
        vp_global_unlock();
        Py_XDECREF(old);
    }
    return dict;
}

/* -- life -- */

static void model_dealloc(PyObject *object)
{
    vp_model *self = (vp_model *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    /* Without a look at self->weakrefs, which a reference that another thread frees empties
     * at this moment, under the interpreter's lock. */
    PyObject_ClearWeakRefs(object);
    vp_vit_unref(self->vit);
    vp_workspaces_unref(self->workspaces);
    Py_XDECREF(self->options);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static int model_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object)); /* the options hold numbers and names: no cycles */
    return 0;
}

/* The type that is ours, below subclasses. */
static PyTypeObject *core_type(PyObject *object)
{
    PyTypeObject *core = Py_TYPE(object);
    for (PyTypeObject *base = core; base != &PyBaseObject_Type;
         base = PyType_GetSlot(base, Py_tp_base)) {
        core = base;
    }
    return core;
}

int vp_check_model(PyObject *object, PyObject *other, const char *what)
{
    if (PyObject_TypeCheck(other, core_type(object))) {
        return 0;
    }
    (void)vp_raise_type(other, "%s must be a VisionTransformer", what);
    return -1;
}

PyDoc_STRVAR(
    adopt_doc,
    "_adopt($self, other, /)\n--\n\n"
    "Becomes a model of other's weights as they are now; they are shared, not\n"
    "copied. For a model fresh from __new__.");

static PyObject *model_adopt(PyObject *object, PyObject *other)
{
    if (vp_check_model(object, other, "other") < 0) {
        return NULL;
    }
    vp_vit *vit = vp_model_acquire((vp_model *)other, NULL);
    const int begun = vit != NULL ? vp_model_begin((vp_model *)object, vit, false) : -1;
    if (begun == 0) {
        PyErr_SetString(PyExc_RuntimeError, "the model is already initialised");
    }
    return begun == 1 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(
    snapshot_doc,
    "_snapshot($self)\n--\n\n"
    "The model as it is now, which no later change reaches: a _core.VisionTransformer\n"
    "that shares weights, scratch memory and serials. What needs several answers of\n"
    "one state asks a snapshot; it costs less than a microsecond.");

static PyObject *model_snapshot(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_model *self = (vp_model *)object;
    vp_workspaces *workspaces;
    vp_vit *vit = vp_model_acquire(self, &workspaces);
    PyObject *options = vit != NULL ? options_of(self, vit) : NULL;
    PyObject *copy = options != NULL ? PyType_GenericAlloc(core_type(object), 0) : NULL;
    if (copy == NULL) {
        vp_vit_unref(vit);
        Py_XDECREF(options);
        return NULL;
    }
    vp_model *snapshot = (vp_model *)copy;
    snapshot->vit = vit;
    snapshot->workspaces = vp_workspaces_ref(workspaces);
    snapshot->options = options;
    snapshot->options_of = vp_vit_serial(vit);
    return copy;
}

/* -- facts -- */

PyDoc_STRVAR(options_doc, "_options($self)\n--\n\n"
                          "The resolved options as a dict of the caller's own.");

static PyObject *model_options(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_model *self = (vp_model *)object;
    vp_vit *vit = vp_model_acquire(self, NULL);
    PyObject *options = vit != NULL ? options_of(self, vit) : NULL;
    PyObject *dict = options != NULL ? PyDict_Copy(options) : NULL;
    Py_XDECREF(options);
    vp_vit_unref(vit);
    return dict;
}

PyDoc_STRVAR(
    lambdas_doc,
    "_lambdas($self)\n--\n\n"
    "The factors of differential attention: for each block that of its attention and\n"
    "of ParallelThingsBlock's second. No block where attention is another.");

static PyObject *model_lambdas(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_vit *vit = vp_model_acquire((vp_model *)object, NULL);
    if (vit == NULL) {
        return NULL;
    }
    const vp_config *c = vp_vit_config(vit);
    const size_t blocks = vp_config_is_diff(c) ? c->depth : 0;
    PyObject *list = PyList_New((Py_ssize_t)blocks);
    for (size_t i = 0; list != NULL && i < blocks; i++) {
        PyObject *pair = Py_BuildValue("(dd)", (double)vp_vit_lambda(vit, i, 0),
                                       (double)vp_vit_lambda(vit, i, 1));
        if (pair == NULL || PyList_SetItem(list, (Py_ssize_t)i, pair) < 0) {
            Py_CLEAR(list);
        }
    }
    vp_vit_unref(vit);
    return list;
}

PyDoc_STRVAR(memory_bytes_doc, "memory_bytes($self)\n--\n\n"
                               "Bytes held: a dict of 'weights' and 'workspace'.");

static PyObject *model_memory_bytes(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_workspaces *workspaces;
    vp_vit *vit = vp_model_acquire((vp_model *)object, &workspaces);
    if (vit == NULL) {
        return NULL;
    }
    const size_t weights = vp_vit_weight_bytes(vit);
    vp_vit_unref(vit);
    return Py_BuildValue("{s:n,s:n}", "weights", (Py_ssize_t)weights, "workspace",
                         (Py_ssize_t)vp_workspaces_bytes(workspaces));
}

PyDoc_STRVAR(
    release_workspace_doc,
    "release_workspace($self)\n--\n\nGives idle scratch memory back to the system.");

static PyObject *model_release_workspace(PyObject *object, PyObject *unused)
{
    (void)unused;
    vp_workspaces *workspaces;
    vp_vit *vit = vp_model_acquire((vp_model *)object, &workspaces);
    if (vit == NULL) {
        return NULL;
    }
    vp_vit_unref(vit);
    vp_workspaces_release(workspaces);
    Py_RETURN_NONE;
}

static PyObject *model_pool_serial(PyObject *object, void *unused)
{
    (void)unused;
    vp_vit *vit = vp_model_acquire((vp_model *)object, NULL);
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
    vp_vit *vit = vp_model_acquire((vp_model *)object, NULL);
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
    PyObject *height_object, *width_object;
    size_t grid[2];
    vp_error err;
    if (!PyArg_ParseTuple(args, "OO:_grid", &height_object, &width_object)) {
        return NULL;
    }
    const Py_ssize_t height = vp_count_from(height_object, "height");
    const Py_ssize_t width = height >= 0 ? vp_count_from(width_object, "width") : -1;
    vp_vit *vit = width >= 0 ? vp_model_acquire((vp_model *)object, NULL) : NULL;
    if (vit == NULL) {
        return NULL;
    }
    const vp_status status =
        vp_vit_check_size(vit, (size_t)height, (size_t)width, grid, &err);
    vp_vit_unref(vit);
    return status == VP_OK
               ? Py_BuildValue("(nn)", (Py_ssize_t)grid[0], (Py_ssize_t)grid[1])
               : vp_raise(&err);
}

PyDoc_STRVAR(
    rope_doc,
    "_rope($self, height, width, /)\n--\n\n"
    "The rotary table of a grid of height x width patches, what _run takes as rope: "
    "(patches,\n"
    "2 * head width), cosines and signed sines, or with mixed rope (depth, heads, "
    "patches, ...).\n"
    "ValueError: this model has none.");

static PyObject *model_rope(PyObject *object, PyObject *args)
{
    PyObject *height_object, *width_object;
    if (!PyArg_ParseTuple(args, "OO:_rope", &height_object, &width_object)) {
        return NULL;
    }
    const Py_ssize_t height = vp_count_from(height_object, "height");
    const Py_ssize_t width = height >= 0 ? vp_count_from(width_object, "width") : -1;
    vp_vit *vit = width >= 0 ? vp_model_acquire((vp_model *)object, NULL) : NULL;
    if (vit == NULL) {
        return NULL;
    }
    const size_t grid[2] = {(size_t)height, (size_t)width};
    const size_t most = (size_t)1 << 24;
    PyArrayObject *table = NULL;
    if (vp_vit_config(vit)->rope == VP_ROPE_NONE) {
        PyErr_SetString(PyExc_ValueError, "this model has no rotary embedding");
    } else if (height < 1 || width < 1 || grid[0] > most / grid[1]) {
        PyErr_Format(PyExc_ValueError,
                     "height and width must be at least 1, and give at most %zu "
                     "patches, not %zd x %zd",
                     most, height, width);
    } else {
        size_t shape[4];
        npy_intp dims[4];
        const int ndim = vp_vit_rope_shape(vit, grid[0] * grid[1], shape);
        for (int i = 0; i < ndim; i++) {
            dims[i] = (npy_intp)shape[i];
        }
        table = vp_array_new(ndim, dims);
    }
    if (table != NULL) {
        float *numbers = PyArray_DATA(table);
        Py_BEGIN_ALLOW_THREADS
        vp_vit_rope(vit, grid, numbers);
        Py_END_ALLOW_THREADS
    }
    vp_vit_unref(vit);
    return (PyObject *)table;
}

#define KEYWORDS(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef methods[] = {
    {"reset_classifier", KEYWORDS(vp_model_reset_classifier),
     METH_VARARGS | METH_KEYWORDS, vp_model_reset_classifier_doc},
    {"_replace", vp_model_replace, METH_VARARGS, vp_model_replace_doc},
    {"_commit", vp_model_commit, METH_VARARGS, vp_model_commit_doc},
    {"_options", model_options, METH_NOARGS, options_doc},
    {"param_shapes", vp_model_param_shapes, METH_NOARGS, vp_model_param_shapes_doc},
    {"get_parameter", vp_model_get_parameter, METH_O, vp_model_get_parameter_doc},
    {"_dtypes", vp_model_dtypes, METH_NOARGS, vp_model_dtypes_doc},
    {"_integers", vp_model_integers, METH_O, vp_model_integers_doc},
    {"untrained", vp_model_untrained, METH_NOARGS, vp_model_untrained_doc},
    {"_adopt", model_adopt, METH_O, adopt_doc},
    {"_snapshot", model_snapshot, METH_NOARGS, snapshot_doc},
    {"_lambdas", model_lambdas, METH_NOARGS, lambdas_doc},
    {"memory_bytes", model_memory_bytes, METH_NOARGS, memory_bytes_doc},
    {"release_workspace", model_release_workspace, METH_NOARGS, release_workspace_doc},
    {"_grid", model_grid, METH_VARARGS, check_size_doc},
    {"_rope", model_rope, METH_VARARGS, rope_doc},
    {"_run", KEYWORDS(vp_model_run), METH_VARARGS | METH_KEYWORDS, vp_model_run_doc},
    {"_gradients", KEYWORDS(vp_model_gradients), METH_VARARGS | METH_KEYWORDS,
     vp_model_gradients_doc},
    {"_run_part", vp_model_part, METH_VARARGS, vp_model_part_doc},
    {"forward_head", KEYWORDS(vp_model_forward_head), METH_VARARGS | METH_KEYWORDS,
     vp_model_forward_head_doc},
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
    {"__weaklistoffset__", T_PYSSIZET, offsetof(vp_model, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    model_doc,
    "VisionTransformer(options, weights=None, seed=0, weight_init='', "
    "fix_init=False,\n                  dtypes={})\n--\n\n"
    "The C core of every class, which the option 'family' names: resolved options in, "
    "float32 out.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)model_doc}, {Py_tp_init, vp_model_init},
    {Py_tp_dealloc, model_dealloc}, {Py_tp_traverse, model_traverse},
    {Py_tp_methods, methods},       {Py_tp_getset, getset},
    {Py_tp_members, members},       {0, NULL},
};

PyType_Spec vp_model_spec = {
    .name = "vitpool._core.VisionTransformer",
    .basicsize = sizeof(vp_model),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
