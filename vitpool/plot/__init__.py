# SPDX-License-Identifier: Apache-2.0
"""What a model looks at: attention of blocks and pools, as numbers and as pictures.

The numbers (`attention_maps`, `pool_weights`, `rollout`, `token_components`) need NumPy
alone, the plain pictures (`attention_grid`, `attention_row`, `token_pca`, `overlay`)
Pillow too. The functions named `*_figure` return matplotlib Figures (extra `viz`),
drawn without a display.

`write_report` tells how a training went and what came out of it, as a page of HTML.

A picture here is whatever `create_transform` takes; where a transform is asked for,
None stands for the model's own. A heat map is a number for each patch: (rows, columns).
It is drawn as a multiple of uniform attention, 1 / (rows * columns): every map of a row
to one scale, on which uniform is marked. A patch is seen as one square, unless the grid
has 16 patches a side or more.
"""

from __future__ import annotations

from .colours import colours, multiples, overlay, scale_top
from .figures import (
    attention_figure,
    grid_figure,
    layers_figure,
    pca_figure,
    pools_figure,
    rollout_figure,
)
from .layout import sheet
from .numbers import Heat as Heat
from .numbers import attention_maps, pool_weights, pools_of, rollout, token_components
from .pictures import attention_grid, attention_row, token_pca
from .report import Judged, Training, write_report
from .rows import Cell, Row, attention_rows, view
from .training import (
    class_scores,
    confusion,
    confusion_figure,
    curve_figure,
    most_confused,
)

__all__ = [
    "Cell",
    "Judged",
    "Row",
    "Training",
    "attention_figure",
    "attention_grid",
    "attention_maps",
    "attention_row",
    "attention_rows",
    "class_scores",
    "colours",
    "confusion",
    "confusion_figure",
    "curve_figure",
    "grid_figure",
    "layers_figure",
    "most_confused",
    "multiples",
    "overlay",
    "pca_figure",
    "pool_weights",
    "pools_figure",
    "pools_of",
    "rollout",
    "rollout_figure",
    "scale_top",
    "sheet",
    "token_components",
    "token_pca",
    "view",
    "write_report",
]
