# SPDX-License-Identifier: Apache-2.0
"""`from import_timm import timm`: also where torchvision does not load beside torch.

timm imports torchvision, which describes its operators nms and qnms to torch. Where its
compiled library does not load beside the installed torch, that fails with "operator
torchvision::nms does not exist". Declaring the two, which nothing calls, is enough.
"""

import sys

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # forgotten with this name
    for operator in ("nms", "qnms"):
        library.define(
            f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

import timm as timm
