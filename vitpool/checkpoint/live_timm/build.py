# SPDX-License-Identifier: Apache-2.0
"""from_timm: a live timm model as ours, its weights converted one at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...config import Dtype
from ..drawn import drawn
from .options import class_of, read_options
from .reader import refuse
from .rope import check_table

if TYPE_CHECKING:
    from ...model.base import PlainViT

# Two float32 computations of one function differ by less of their largest output.
_TOLERANCE = 1e-4


class _Weights(Mapping[str, NDArray[np.float32]]):
    """A module's state dict as float32 arrays, converted one at a time.

    dtypes: of the matrices that are bfloat16 or float16.
    """

    def __init__(self, module: Any) -> None:
        # BatchNorm counts its batches, which nothing at inference reads.
        self._tensors: Mapping[str, Any] = {
            key: tensor
            for key, tensor in module.state_dict().items()
            if not key.endswith(".num_batches_tracked")
        }
        for key, tensor in self._tensors.items():
            if tensor.is_meta or not tensor.is_floating_point():
                kind = "a meta tensor" if tensor.is_meta else tensor.dtype
                refuse(key, f"{kind}; floating-point data is needed")
        from ...model import matrices

        names = matrices({k: tuple(t.shape) for k, t in self._tensors.items()})
        dtypes = {k: str(self._tensors[k].dtype).removeprefix("torch.") for k in names}
        self.dtypes = {k: d for k, d in dtypes.items() if d in ("bfloat16", "float16")}

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        tensor = self._tensors[key]
        array: NDArray[np.float32] = tensor.detach().cpu().float().contiguous().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _constructor(name: str) -> type[PlainViT]:
    """The class of ours that is called like this one of timm's."""
    from ...model import CLASSES

    return CLASSES[name]


def check_alike(module: Any, name: str, options: Mapping[str, Any]) -> None:
    """Refuse a module that computes something else than our `name` of these options.

    Its own weights may hide a difference, behind a scale of 1e-5 or a head of zeros. So
    both are run on drawn weights as well, every one of which matters.
    """
    import torch

    rng = np.random.default_rng(0)
    # NaFlexVit takes any size.
    size = options.get("img_size") or [3 * p for p in options["patch_size"]]
    x = rng.standard_normal((2, options["in_chans"], *size), np.float32)
    theirs = copy.deepcopy(module).float().cpu().eval()
    for which in ("its own weights", "drawn weights"):
        if which == "drawn weights":
            _draw(theirs)
        ours = _constructor(name)(**options, weights=_Weights(theirs))
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


def _grid(module: Any) -> tuple[int, int]:
    """Patches of an input as the module expects it: height, width."""
    if hasattr(module, "embeds"):
        return 3, 5  # any; not a square one, where a swap of axes would not show
    height, width = module.patch_embed.grid_size
    return height, width


def _draw(module: Any) -> None:
    """Give every parameter numbers of a size at which it matters."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(drawn(name, tuple(parameter.shape))))


def from_timm(
    module: Any, dtype: Dtype | None = None, *, like_timm: bool = False
) -> PlainViT:
    """Our model with the weights and configuration of a live timm model.

    module: timm's VisionTransformer, VisionTransformerDistilled, Eva, Beit,
        VisionTransformerRelPos or NaFlexVit, of which ours of that name is made; on any
        device, of any floating dtype, in any mode: dropout is ignored.
    dtype: as for model.to; None: each matrix is of the module's dtype where that is
        bfloat16 or float16, its numbers exactly, and else float32. What is no matrix is
        float32.
    like_timm: take copies of timm's classes too, as a vendored vision_transformer.py
        or eva.py has them, and subclasses: a copy of the module and our model are run
        on the same images, with its own weights and with drawn ones, and have to give
        the same.

    TypeError for anything but timm's own classes of these names; ValueError for a
    module in it that is not supported or was altered (hooks, replaced methods, other
    rotations than its attributes say), naming its path, and for one like timm's that
    gives other outputs.
    """
    name = class_of(module, like_timm)
    options = read_options(module, like_timm)
    weights = _Weights(module)
    if like_timm:
        check_alike(module, name, options)
    model = _constructor(name)(**options, dtype=dtype, weights=weights)
    if getattr(module, "rope", None) is not None:
        from ...model.parts.rope import as_embed

        grid, now = _grid(module), model._snapshot()
        check_table(module, grid, as_embed(now._rope(*grid), now._options()))
    cfg = getattr(module, "pretrained_cfg", None)
    if isinstance(cfg, Mapping):
        model.pretrained_cfg = model.default_cfg = dict(cfg)
    return model
