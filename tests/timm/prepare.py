# SPDX-License-Identifier: Apache-2.0
"""Makes `import timm` work, or fail plainly: import this before timm."""

from __future__ import annotations

import sys

import torch

TIMM = "1.0.31"

# Where torchvision's compiled operators do not load beside torch, `import timm` fails
# with "operator torchvision::nms does not exist": declaring the two schemas is enough.
try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(
            f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

import timm  # noqa: E402

# This folder is called timm too: without the package it would be found in its place.
if getattr(timm, "__version__", None) != TIMM:
    found = getattr(timm, "__version__", "none")
    raise ImportError(f"these tests compare with timm {TIMM}; found {found}")
