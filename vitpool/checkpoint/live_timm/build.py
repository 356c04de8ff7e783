# SPDX-License-Identifier: Apache-2.0
"""from_timm: a live timm model as ours, its weights converted one at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..drawn import drawn
from .options import read_options
from .reader import refuse

if TYPE_CHECKING:
    from ...model import VisionTransformer

# Two float32 computations of one function differ by less of their largest output.
_TOLERANCE = 1e-4


class _Weights(Mapping[str, NDArray[np.float32]]):
    """A module's state dict as float32 arrays, converted one at a time."""

    def __init__(self, module: Any) -> None:
        self._tensors: Mapping[str, Any] = module.state_dict()
        for key, tensor in self._tensors.items():
            if tensor.is_meta or not tensor.is_floating_point():
                kind = "a meta tensor" if tensor.is_meta else tensor.dtype
                refuse(key, f"{kind}; floating-point data is needed")

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        tensor = self._tensors[key]
        array: NDArray[np.float32] = tensor.detach().cpu().float().contiguous().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def check_alike(module: Any, options: Mapping[str, Any]) -> None:
    """Refuse a module that computes something else than our model of these options.

    Its own weights may hide a difference, behind a scale of 1e-5 or a head of zeros. So
    both are run on drawn weights as well, every one of which matters.
    """
    import torch

    from ...model import VisionTransformer

    rng = np.random.default_rng(0)
    size = options["img_size"]
    x = rng.standard_normal((2, options["in_chans"], *size), np.float32)
    theirs = copy.deepcopy(module).float().cpu().eval()
    for which in ("its own weights", "drawn weights"):
        if which == "drawn weights":
            _draw(theirs)
        ours = VisionTransformer(**options, weights=_Weights(theirs))
        with torch.inference_mode():
            want = theirs(torch.from_numpy(x))
        got = ours(x)
        if tuple(getattr(want, "shape", ())) != got.shape:
            shape = tuple(getattr(want, "shape", ())) or type(want).__name__
            refuse("", f"not timm's function: it gives {shape}, timm's {got.shape}")
        largest = max(float(want.abs().max()), 1e-30)
        off = float(np.abs(want.numpy() - got).max()) / largest
        if not off <= _TOLERANCE:
            refuse(
                "",
                f"not timm's function: with {which} an output is {off:.1e} of the "
                f"largest away from timm's, where {_TOLERANCE:g} is allowed",
            )


def _draw(module: Any) -> None:
    """Give every parameter numbers of a size at which it matters."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(drawn(name, tuple(parameter.shape))))


def from_timm(
    module: Any, dtype: Literal["float32"] = "float32", *, like_timm: bool = False
) -> VisionTransformer:
    """Our model with the weights and configuration of a live timm VisionTransformer.

    module: on any device, of any floating dtype (read as float32), in any mode: dropout
        is ignored. dtype: of our weights in memory.
    like_timm: take copies of timm's classes too, as a vendored vision_transformer.py
        has them, and subclasses: a copy of the module and our model are run on the same
        images, with its own weights and with drawn ones, and have to give the same.

    TypeError for anything but timm's own VisionTransformer; ValueError for a module in
    it that is not supported or was altered (hooks, replaced methods), naming its path,
    and for one like timm's that gives other outputs.
    """
    from ...model import VisionTransformer

    options = read_options(module, like_timm)
    weights = _Weights(module)
    if like_timm:
        check_alike(module, options)
    model = VisionTransformer(**options, dtype=dtype, weights=weights)
    cfg = getattr(module, "pretrained_cfg", None)
    if isinstance(cfg, Mapping):
        model.pretrained_cfg = model.default_cfg = dict(cfg)
    return model
