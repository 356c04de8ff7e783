# SPDX-License-Identifier: Apache-2.0
"""A model for its feature maps alone: what create_model gives with features_only=True.

Source: timm.models._features.FeatureInfo and FeatureGetterNet (timm 1.0.31).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from .intermediates import check_format, take_indices
from .parts.walk import Walk

if TYPE_CHECKING:
    from .base import PlainViT


class FeatureInfo:
    """What the feature maps of a model are.

    info: of each block 'module', 'num_chs', 'reduction' and 'index'. out_indices: the
    blocks whose outputs are given; an integer is for the last so many.

    In the methods idx None is for the outputs, in their order, an integer for the block
    of this number, a sequence for several blocks.
    """

    def __init__(
        self, feature_info: Sequence[dict[str, Any]], out_indices: int | Sequence[int]
    ) -> None:
        self.info = [{**block, "index": i} for i, block in enumerate(feature_info)]
        taken, _ = take_indices(len(self.info), out_indices)
        self.out_indices = tuple(taken)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """The value of a key, or a list of several blocks'."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> Any:
        """As `get` the values of several keys, or of all, in dicts."""
        if isinstance(idx, int):
            return {k: self.info[idx][k] for k in keys or self.info[idx]}
        wanted = self.out_indices if idx is None else idx
        return [self.get_dicts(keys, i) for i in wanted]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of a map."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Pixels of an image for one of a map."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """The path of the block whose output a map is."""
        return self.get("module", idx)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.info[item]

    def __len__(self) -> int:
        """The blocks of the model, whichever are given."""
        return len(self.info)

    def __repr__(self) -> str:
        return f"FeatureInfo(out_indices={self.out_indices}, blocks={len(self)})"


class FeatureGetterNet(Walk):
    """A model whose call gives the outputs of some blocks, as maps.

    out_indices: these blocks, or the last so many. output_fmt: 'NCHW' for maps (B, C,
    rows, columns), 'NLC' for patches (B, N, C). norm: apply the final norm to each.
    prune: leave out what no output needs: later blocks, the head, and without norm the
    final norm. The model that is given stays as it is.

    model, feature_info, out_indices, output_fmt, norm: as they are here. TypeError,
    ValueError: blocks that the model has not.
    """

    def __init__(
        self,
        model: PlainViT,
        out_indices: int | Sequence[int] = 4,
        *,
        output_fmt: str = "NCHW",
        norm: bool = False,
        prune: bool = True,
    ) -> None:
        check_format(output_fmt)
        self.feature_info = FeatureInfo(model.feature_info, out_indices)
        self.out_indices = list(self.feature_info.out_indices)
        self.output_fmt, self.norm = output_fmt, norm
        self.model = copy.copy(model)  # which shares the weights
        if prune:
            self.model.prune_intermediate_layers(self.out_indices, prune_norm=not norm)
        self.pretrained_cfg = self.default_cfg = {
            key: value
            for key, value in model.pretrained_cfg.items()
            if key not in ("num_classes", "classifier", "global_pool")
        }

    def forward(self, x: Any) -> list[Any]:
        """The maps of images x (B, in_chans, height, width), an array an index."""
        maps: list[Any] = self.model.forward_intermediates(
            x,
            self.out_indices,
            norm=self.norm,
            output_fmt=self.output_fmt,
            intermediates_only=True,
        )
        return maps

    __call__ = forward

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self.model.in_chans

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        return self.model.img_size

    @property
    def dynamic_img_size(self) -> bool:
        """Does the model take any image size?"""
        return self.model.dynamic_img_size

    def _roots(self) -> list[tuple[str, _core.VisionTransformer, str]]:
        return [("model", self.model._snapshot(), "")]

    def _at(self, name: str) -> Any:
        _, _, path = name.partition(".")
        return self.model.get_submodule(path)
