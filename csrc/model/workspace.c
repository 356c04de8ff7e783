/* Scratch memory that is kept from call to call. SPDX-License-Identifier: Apache-2.0 */
#include "model/workspace.h"

#include "base/memory.h"

struct vp_workspaces {
    atomic_size_t refs;
    vp_workspace *idle; /* under the global lock, like bytes */
    size_t bytes;       /* idle and in use */
};

static void workspace_free(vp_workspace *workspace)
{
    if (workspace != NULL) {
        vp_free(workspace->memory);
        vp_free(workspace);
    }
}

vp_workspaces *vp_workspaces_create(void)
{
    vp_workspaces *workspaces = vp_alloc_zero(sizeof *workspaces);
    return workspaces != NULL ? vp_workspaces_ref(workspaces) : NULL;
}

vp_workspaces *vp_workspaces_ref(vp_workspaces *workspaces)
{
    atomic_fetch_add(&workspaces->refs, 1);
    return workspaces;
}

void vp_workspaces_release(vp_workspaces *workspaces)
{
    vp_global_lock();
    vp_workspace *w = workspaces->idle;
    workspaces->idle = NULL;
    for (vp_workspace *each = w; each != NULL; each = each->next) {
        workspaces->bytes -= each->bytes;
    }
    vp_global_unlock();
    while (w != NULL) {
        vp_workspace *next = w->next;
        workspace_free(w);
        w = next;
    }
}

void vp_workspaces_unref(vp_workspaces *workspaces)
{
    if (workspaces != NULL && atomic_fetch_sub(&workspaces->refs, 1) == 1) {
        vp_workspaces_release(workspaces);
        vp_free(workspaces);
    }
}

size_t vp_workspaces_bytes(vp_workspaces *workspaces)
{
    vp_global_lock();
    const size_t bytes = workspaces->bytes;
    vp_global_unlock();
    return bytes;
}

vp_workspace *vp_workspace_take(vp_workspaces *workspaces, size_t bytes)
{
    /* The last one used, if it is large enough; else it is replaced, so that a model keeps
     * one workspace for each thread that calls it, of the largest size seen. */
    vp_global_lock();
    vp_workspace *w = workspaces->idle;
    if (w != NULL) {
        workspaces->idle = w->next;
        if (w->bytes < bytes) {
            workspaces->bytes -= w->bytes;
        }
    }
    vp_global_unlock();
    if (w != NULL && w->bytes >= bytes) {
        return w;
    }
    workspace_free(w);
    w = vp_alloc_zero(sizeof *w);
    if (w == NULL) {
        return NULL;
    }
    w->bytes = bytes;
    w->memory = vp_alloc(bytes);
    if (w->memory == NULL) {
        workspace_free(w);
        return NULL;
    }
    vp_global_lock();
    workspaces->bytes += bytes;
    vp_global_unlock();
    return w;
}

void vp_workspace_give(vp_workspaces *workspaces, vp_workspace *workspace)
{
    vp_global_lock();
    workspace->next = workspaces->idle;
    workspaces->idle = workspace;
    vp_global_unlock();
}
