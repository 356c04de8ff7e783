# SPDX-License-Identifier: Apache-2.0
"""What a model looks at: attention of blocks and pools, as numbers and as pictures.

The numbers and the plain pictures (`attention_maps`, `pool_weights`, `rollout`,
`overlay`) need NumPy and Pillow alone. The functions named `*_figure` return matplotlib
Figures (extra `viz`), drawn without a display.

A picture here is whatever `create_transform` takes; where a transform is asked for,
None stands for the model's own. A heat map is a number for each patch: (rows, columns).
"""

from __future__ import annotations

from .figures import attention_figure, layers_figure, pools_figure, rollout_figure
from .numbers import Heat as Heat
from .numbers import attention_maps, pool_weights, pools_of, rollout
from .pictures import attention_row, colours, overlay, stack_rows, view

__all__ = [
    "attention_figure",
    "attention_maps",
    "attention_row",
    "colours",
    "layers_figure",
    "overlay",
    "pool_weights",
    "pools_figure",
    "pools_of",
    "rollout",
    "rollout_figure",
    "stack_rows",
    "view",
]
