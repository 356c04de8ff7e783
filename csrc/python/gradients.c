/* _core.VisionTransformer._gradients: a training pass. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/train.h"
#include "python/model.h"

const char vp_model_gradients_doc[] =
    "_gradients($self, x, targets, grads, /, *, entry='images', block=0,\n"
    "           loss='cross_entropy', weights=None, scale=1.0, groups=1, rates=None,\n"
    "           seed=0, image=0, checkpointing=False, memory=536870912, mask=None,\n"
    "           pos_embed=None, rope=None)\n"
    "--\n\n"
    "Adds the gradients of a batch's loss to grads, a dict of parameters' names and\n"
    "float32 arrays of their shapes; gives (losses, float64 (groups,); logits, "
    "float32\n"
    "(batch, num_classes)).\n"
    "entry: 'images'; 'block', tokens before block `block`; 'features', tokens after "
    "the\n"
    "final norm; 'pre_logits', (batch, embed_dim). targets: float32 (batch, "
    "num_classes /\n"
    "groups). pos_embed: resampled to the images' grid; its gradient has its shape.\n"
    "rope: the rotary table of the images' or tokens' grid.\n"
    "rates: a dict of timm's drop rates. See csrc/model/train.h.";

typedef struct {
    vp_vit *vit;
    PyArrayObject *x, *pos_embed, *rope, *targets, *weights, *losses, *logits;
    vp_py_mask mask;
    PyObject *arrays; /* a copy of grads, so that what is written stays alive */
    float **grads;
    vp_gradients gradients;
} request;

static void request_free(request *r)
{
    vp_vit_unref(r->vit);
    Py_XDECREF(r->x);
    Py_XDECREF(r->pos_embed);
    Py_XDECREF(r->rope);
    Py_XDECREF(r->targets);
    Py_XDECREF(r->weights);
    Py_XDECREF(r->losses);
    Py_XDECREF(r->logits);
    vp_py_mask_free(&r->mask);
    Py_XDECREF(r->arrays);
    PyMem_Free(r->grads);
}

/* The index of a str in a list of names; -1 with an exception. */
static int choice_from(PyObject *object, const char *what, const char *const *names,
                       int count)
{
    if (!PyUnicode_Check(object)) {
        (void)vp_raise_type(object, "%s must be a str", what);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        if (PyUnicode_CompareWithASCIIString(object, names[i]) == 0) {
            return i;
        }
    }
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < count; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL || PyList_Append(list, name) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(name);
    }
    if (list != NULL) {
        PyErr_Format(PyExc_ValueError, "%s must be one of %R, not %R", what, list,
                     object);
    }
    Py_XDECREF(list);
    return -1;
}

static int take_x(request *r, PyObject *x)
{
    vp_gradients *g = &r->gradients;
    const int ndim = g->entry == VP_ENTRY_PRE_LOGITS ? 2 : 3;
    r->x = g->entry == VP_ENTRY_IMAGES
               ? vp_images_from(r->vit, x, vp_vit_config(r->vit)->dynamic_img_size)
               : vp_rows_from(r->vit, x, ndim);
    if (r->x == NULL) {
        return -1;
    }
    const npy_intp *shape = PyArray_DIMS(r->x);
    g->batch = (size_t)shape[0];
    if (g->entry == VP_ENTRY_IMAGES) {
        g->images = PyArray_DATA(r->x);
        g->height = (size_t)shape[2];
        g->width = (size_t)shape[3];
    } else {
        g->tokens = PyArray_DATA(r->x);
        g->num_tokens = ndim == 2 ? 1 : (size_t)shape[1];
    }
    return 0;
}

static int take_targets(request *r, PyObject *targets, PyObject *weights)
{
    vp_gradients *g = &r->gradients;
    const size_t classes = vp_vit_config(r->vit)->num_classes / g->groups;
    r->targets = vp_array_from(targets, "targets", 2, "(batch, num_classes / groups)");
    if (r->targets == NULL) {
        return -1;
    }
    const npy_intp *shape = PyArray_DIMS(r->targets);
    if ((size_t)shape[0] != g->batch || (size_t)shape[1] != classes) {
        PyErr_Format(PyExc_ValueError,
                     "targets must have shape (%zu, %zu), not (%zd, %zd)", g->batch,
                     classes, (Py_ssize_t)shape[0], (Py_ssize_t)shape[1]);
        return -1;
    }
    g->targets = PyArray_DATA(r->targets);
    if (weights == Py_None) {
        return 0;
    }
    if (g->loss == VP_LOSS_CROSS_ENTROPY) {
        PyErr_SetString(PyExc_ValueError,
                        "weights must be None with cross_entropy, whose "
                        "targets hold them");
        return -1;
    }
    r->weights = vp_array_from(weights, "weights", 1, "(num_classes / groups)");
    if (r->weights == NULL) {
        return -1;
    }
    if ((size_t)PyArray_DIM(r->weights, 0) != classes) {
        PyErr_Format(PyExc_ValueError, "weights must have shape (%zu,), not (%zd,)",
                     classes, (Py_ssize_t)PyArray_DIM(r->weights, 0));
        return -1;
    }
    g->weights = PyArray_DATA(r->weights);
    return 0;
}

/* The position embedding of the images' grid, where it is not the model's own. */
static int take_pos_embed(request *r, PyObject *pos_embed)
{
    vp_gradients *g = &r->gradients;
    const vp_config *c = vp_vit_config(r->vit);
    vp_error err;
    size_t grid[2];
    if (pos_embed == Py_None) {
        return 0;
    }
    if (g->entry != VP_ENTRY_IMAGES || !c->pos_embed) {
        PyErr_SetString(PyExc_ValueError, "pos_embed must be None: it is not added");
        return -1;
    }
    if (vp_vit_check_size(r->vit, g->height, g->width, grid, &err) != VP_OK) {
        (void)vp_raise(&err);
        return -1;
    }
    const size_t rows =
        grid[0] * grid[1] + (c->no_embed_class ? 0 : vp_config_prefix(c));
    r->pos_embed = vp_pos_embed_from(r->vit, pos_embed, rows);
    if (r->pos_embed == NULL) {
        return -1;
    }
    g->pos_embed = PyArray_DATA(r->pos_embed);
    return 0;
}

/* The rotary table of the inputs' grid; its shape is checked when tokens are known. */
static int take_rope(request *r, PyObject *rope)
{
    if (rope == Py_None) {
        return 0;
    }
    r->rope = vp_rope_from(rope);
    if (r->rope == NULL) {
        return -1;
    }
    r->gradients.rope = PyArray_DATA(r->rope);
    return 0;
}

/* Does the array have the parameter's shape, and can gradients be added in place? */
static bool takes_gradient(PyArrayObject *array, const vp_param *param,
                           PyArrayObject *pos_embed)
{
    const bool resampled = pos_embed != NULL && strcmp(param->name, "pos_embed") == 0;
    bool fits = PyArray_TYPE(array) == NPY_FLOAT && PyArray_ISCARRAY(array) &&
                (size_t)PyArray_NDIM(array) == param->ndim;
    for (size_t i = 0; fits && i < param->ndim; i++) {
        fits = (size_t)PyArray_DIM(array, (int)i) ==
               (resampled ? (size_t)PyArray_DIM(pos_embed, (int)i) : param->shape[i]);
    }
    return fits;
}

static int take_grads(request *r, PyObject *grads)
{
    const size_t count = vp_vit_num_params(r->vit);
    r->grads = PyMem_Calloc(count > 0 ? count : 1, sizeof *r->grads);
    if (r->grads == NULL) {
        (void)PyErr_NoMemory();
        return -1;
    }
    r->gradients.grads = r->grads;
    if (!PyDict_Check(grads)) {
        (void)vp_raise_type(grads, "grads must be a dict");
        return -1;
    }
    r->arrays = PyDict_Copy(grads);
    PyObject *key, *value;
    Py_ssize_t at = 0;
    size_t i = 0;
    while (r->arrays != NULL && PyDict_Next(r->arrays, &at, &key, &value)) {
        Py_ssize_t length = 0;
        const char *name =
            PyUnicode_Check(key) ? PyUnicode_AsUTF8AndSize(key, &length) : NULL;
        const bool whole = name != NULL && strlen(name) == (size_t)length;
        i = whole ? vp_vit_find_param(r->vit, name, i) : count;
        if (i == count) {
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_ValueError, "grads must name parameters, not %R",
                             key);
            }
            return -1;
        }
        if (!PyArray_Check(value) ||
            !takes_gradient((PyArrayObject *)value, vp_vit_param(r->vit, i),
                            r->pos_embed)) {
            PyErr_Format(
                PyExc_ValueError,
                "grads['%s'] must be a float32 array of the parameter's shape, "
                "contiguous and writable",
                name);
            return -1;
        }
        r->grads[i] = PyArray_DATA((PyArrayObject *)value);
    }
    return r->arrays != NULL ? 0 : -1;
}

/* The rates that a dict names, read from a copy: another thread, or a value's __float__, may
 * change the caller's. */
static int take_rates(vp_rates *rates, PyObject *object)
{
    static const char *const names[] = {
#define NAME(name) #name,
        VP_RATES(NAME)
#undef NAME
    };
    double *const fields[] = {
#define FIELD(name) &rates->name,
        VP_RATES(FIELD)
#undef FIELD
    };
    if (object == Py_None) {
        return 0;
    }
    if (!PyDict_Check(object)) {
        (void)vp_raise_type(object, "rates must be a dict or None");
        return -1;
    }
    PyObject *own = PyDict_Copy(object), *key, *value;
    Py_ssize_t at = 0;
    bool ok = own != NULL;
    while (ok && PyDict_Next(own, &at, &key, &value)) {
        const int i = choice_from(key, "a name in rates", names,
                                  (int)(sizeof names / sizeof *names));
        const double rate = i >= 0 ? PyFloat_AsDouble(value) : -1.0;
        ok = i >= 0 && !(rate == -1.0 && PyErr_Occurred());
        if (ok) {
            *fields[i] = rate;
        }
    }
    Py_XDECREF(own);
    return ok ? 0 : -1;
}

/* (losses, logits), made before anything is computed. */
static int new_arrays(request *r)
{
    const npy_intp groups[1] = {(npy_intp)r->gradients.groups};
    const npy_intp logits[2] = {(npy_intp)r->gradients.batch,
                                (npy_intp)vp_vit_config(r->vit)->num_classes};
    r->losses = (PyArrayObject *)PyArray_SimpleNew(1, groups, NPY_DOUBLE);
    r->logits = vp_array_new(2, logits);
    if (r->losses == NULL || r->logits == NULL) {
        return -1;
    }
    r->gradients.losses = PyArray_DATA(r->losses);
    r->gradients.logits = PyArray_DATA(r->logits);
    return 0;
}

/* The arguments that are no arrays. */
typedef struct {
    PyObject *entry, *block, *loss, *groups, *rates, *seed, *image, *memory;
} options;

static int take_options(request *r, const options *o)
{
    vp_gradients *g = &r->gradients;
    int entry = VP_ENTRY_IMAGES, loss = VP_LOSS_CROSS_ENTROPY;
    Py_ssize_t block = 0, groups = 1, image = 0;
    unsigned long long seed = 0, memory = 1ull << 29;
    if ((o->entry != NULL && (entry = choice_from(o->entry, "entry", vp_entry_names,
                                                  VP_ENTRY_COUNT)) < 0) ||
        (o->loss != NULL &&
         (loss = choice_from(o->loss, "loss", vp_loss_names, VP_LOSS_COUNT)) < 0) ||
        (o->block != NULL && vp_int_from(o->block, "block", 0, &block) < 0) ||
        (o->groups != NULL && vp_int_from(o->groups, "groups", 1, &groups) < 0) ||
        (o->image != NULL && vp_int_from(o->image, "image", 0, &image) < 0) ||
        (o->seed != NULL && vp_u64_from(o->seed, "seed", &seed) < 0) ||
        (o->memory != NULL && vp_u64_from(o->memory, "memory", &memory) < 0) ||
        (o->rates != NULL && take_rates(&g->rates, o->rates) < 0)) {
        return -1;
    }
    g->entry = (vp_entry)entry;
    g->loss = (vp_loss_kind)loss;
    g->first = (size_t)block;
    g->groups = (size_t)groups;
    g->image = (size_t)image;
    g->seed = seed;
    g->memory = (size_t)memory;
    return 0;
}

PyObject *vp_model_gradients(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "",      "",          "",      "entry", "block", "loss",          "weights",
        "scale", "groups",    "rates", "seed",  "image", "checkpointing", "memory",
        "mask",  "pos_embed", "rope",  NULL};
    PyObject *x, *targets, *grads, *weights = Py_None, *attn_mask = Py_None;
    PyObject *pos_embed = Py_None, *rope = Py_None;
    PyObject *result = NULL;
    options o = {0};
    double scale = 1.0;
    int checkpointing = 0;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOO|$OOOOdOOOOpOOOO:_gradients", names, &x, &targets, &grads,
            &o.entry, &o.block, &o.loss, &weights, &scale, &o.groups, &o.rates, &o.seed,
            &o.image, &checkpointing, &o.memory, &attn_mask, &pos_embed, &rope)) {
        return NULL;
    }
    request r = {0};
    vp_workspaces *workspaces;
    vp_error err;
    size_t tokens;
    if (take_options(&r, &o) < 0) {
        return NULL;
    }
    r.vit = vp_model_acquire((vp_model *)object, &workspaces);
    if (r.vit == NULL) {
        return NULL;
    }
    r.gradients.scale = (float)scale;
    r.gradients.checkpointing = checkpointing;
    if (take_x(&r, x) < 0 || take_pos_embed(&r, pos_embed) < 0 ||
        take_rope(&r, rope) < 0 || take_grads(&r, grads) < 0) {
        goto done;
    }
    if (vp_vit_check_gradients(r.vit, &r.gradients, &tokens, &err) != VP_OK) {
        (void)vp_raise(&err);
        goto done;
    }
    if ((r.rope != NULL && vp_check_rope(r.vit, r.rope, tokens) < 0) ||
        take_targets(&r, targets, weights) < 0 ||
        vp_py_mask_init(&r.mask, attn_mask, 0, r.gradients.batch,
                        vp_vit_config(r.vit)->num_heads, tokens) < 0 ||
        new_arrays(&r) < 0) {
        goto done;
    }
    r.gradients.mask = r.mask.array != NULL ? &r.mask.mask : NULL;
    if (r.gradients.mask != NULL &&
        vp_vit_check_gradients(r.vit, &r.gradients, &tokens, &err) != VP_OK) {
        (void)vp_raise(&err);
        goto done;
    }
    vp_status status;
    Py_BEGIN_ALLOW_THREADS
    status = vp_vit_gradients(r.vit, workspaces, &r.gradients, &err);
    Py_END_ALLOW_THREADS
    result = status == VP_OK
                 ? PyTuple_Pack(2, (PyObject *)r.losses, (PyObject *)r.logits)
                 : vp_raise(&err);
done:
    request_free(&r);
    return result;
}
