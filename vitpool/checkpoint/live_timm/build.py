# SPDX-License-Identifier: Apache-2.0
"""from_timm: a live timm model as ours, its weights converted one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .options import read_options
from .reader import refuse

if TYPE_CHECKING:
    from ...model import VisionTransformer


class _Weights(Mapping[str, NDArray[np.float32]]):
    """A module's state dict as float32 arrays, converted one at a time."""

    def __init__(self, module: Any) -> None:
        self._tensors: Mapping[str, Any] = module.state_dict()

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        tensor = self._tensors[key]
        if tensor.is_meta or not tensor.is_floating_point():
            kind = "a meta tensor" if tensor.is_meta else tensor.dtype
            refuse(key, f"{kind}; floating-point data is needed")
        array: NDArray[np.float32] = tensor.detach().cpu().float().contiguous().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def from_timm(module: Any, dtype: Literal["float32"] = "float32") -> VisionTransformer:
    """Our model with the weights and configuration of a live timm VisionTransformer.

    module: on any device, of any floating dtype (read as float32), in any mode: dropout
        is ignored. dtype: of our weights in memory.

    TypeError for anything but timm's own VisionTransformer; ValueError for a module in
    it that is not supported or was altered (hooks, replaced methods), naming its path.
    """
    from ...model import VisionTransformer

    options = read_options(module)
    model = VisionTransformer(**options, dtype=dtype, weights=_Weights(module))
    cfg = getattr(module, "pretrained_cfg", None)
    if isinstance(cfg, Mapping):
        model.pretrained_cfg = model.default_cfg = dict(cfg)
    return model
