/* One block of scratch memory out of vp_workspaces. Internal to model/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef VP_MODEL_WORKSPACE_H
#define VP_MODEL_WORKSPACE_H

#include "model/vit.h"

typedef struct vp_workspace {
    struct vp_workspace *next;
    void *memory;
    size_t bytes;
} vp_workspace;

/* An idle workspace of at least `bytes`, or a new one; NULL without memory. */
vp_workspace *vp_workspace_take(vp_workspaces *workspaces, size_t bytes);
void vp_workspace_give(vp_workspaces *workspaces, vp_workspace *workspace);

#endif
