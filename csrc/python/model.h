/* The object behind _core.VisionTransformer, for the files that implement its methods.
 *
 * It holds one immutable vp_vit and swaps it whole: every reader takes a reference under the
 * global lock and works on that; every writer builds the next vp_vit beside the current one
 * and swaps if nobody else did meanwhile, else starts over. The GIL is released while the
 * core computes. SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_PYTHON_MODEL_H
#define VP_PYTHON_MODEL_H

#include "python/core.h"

typedef struct {
    PyObject_HEAD
    vp_vit *vit;               /* swapped under the global lock; NULL before __init__ */
    vp_workspaces *workspaces; /* set once, under it; may be shared with snapshots */
    PyObject *options;         /* a dict nobody else sees, of the vp_vit `options_of` */
    unsigned long long options_of;
    atomic_size_t next_param; /* where get_parameter looks first */
    PyObject *weakrefs;
} vp_model;

/* 0 where `other` is a model as `object` is, else -1 with a TypeError that names `what`. */
int vp_check_model(PyObject *object, PyObject *other, const char *what);

/* A reference to the current model, or NULL with an exception before __init__; with
 * `workspaces`, they are borrowed from the object. */
vp_vit *vp_model_acquire(vp_model *self, vp_workspaces **workspaces);

/* Makes `vit`, whose reference is taken over, the model; where there is one already, only
 * with `again`. 1: done; 0: there is one; -1 with an exception: no memory. */
int vp_model_begin(vp_model *self, vp_vit *vit, bool again);

/* -- parameters.c -- */

/* Sets parameter i from an array; shape and dtype are checked. 0, or -1 with an exception. */
int vp_param_from(vp_vit *vit, size_t i, PyObject *value);

PyObject *vp_model_param_shapes(PyObject *object, PyObject *unused);
PyObject *vp_model_get_parameter(PyObject *object, PyObject *target);
PyObject *vp_model_untrained(PyObject *object, PyObject *unused);
extern const char vp_model_param_shapes_doc[], vp_model_get_parameter_doc[],
    vp_model_untrained_doc[];

/* -- change.c -- */

int vp_model_init(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_reset_classifier(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_replace(PyObject *object, PyObject *args);
PyObject *vp_model_commit(PyObject *object, PyObject *args);
extern const char vp_model_reset_classifier_doc[], vp_model_replace_doc[],
    vp_model_commit_doc[];

/* -- forward.c, forward_head.c -- */

PyObject *vp_model_run(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_forward_head(PyObject *object, PyObject *args, PyObject *kwargs);
PyObject *vp_model_pool(PyObject *object, PyObject *args, PyObject *kwargs);
extern const char vp_model_run_doc[], vp_model_forward_head_doc[], vp_model_pool_doc[];

/* -- forward_part.c -- */

PyObject *vp_model_part(PyObject *object, PyObject *args);
extern const char vp_model_part_doc[];

/* x as images: four dimensions, the model's channels. Which sizes fit is for
 * vp_vit_check_forward; any_size is for the message. (forward.c) */
PyArrayObject *vp_images_from(const vp_vit *vit, PyObject *x, bool any_size);

/* x as rows of the model's width: (B, C), or (B, N, C) with ndim 3. */
PyArrayObject *vp_rows_from(const vp_vit *vit, PyObject *x, int ndim);

/* A new array for what `output` gives of a batch. */
PyArrayObject *vp_output_new(const vp_config *config, vp_output output, size_t batch,
                             size_t tokens);

#endif
