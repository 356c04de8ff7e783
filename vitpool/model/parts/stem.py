# SPDX-License-Identifier: Apache-2.0
"""The parts of vit_base_mci_224's embedding. Sources: timm.layers.HybridEmbed,
ConvNormAct and BatchNormAct2d, timm.models.vision_transformer_hybrid.ConvStem (timm
1.0.31)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _core
from ..tensors import like
from .blocks import Embedding, Sequential
from .layers import Conv2d, Identity, maps_of
from .module import Child, Fact, Module, Weight
from .sizes import grid_of
from .walk import Float32


class HybridEmbed(Embedding):
    """proj(backbone(x)) of images (B, in_chans, H, W): (B, patches, C), or (B, rows,
    columns, C) with dynamic_img_size. timm.layers.HybridEmbed."""

    __slots__ = ()
    backbone = Child["ConvStem"]()
    proj = Child[Identity]()

    @Fact
    def patch_size(self) -> tuple[int, int]:
        """(1, 1): every pixel of what the backbone gives is a patch."""
        return 1, 1

    @Fact
    def in_chans(self) -> int:
        """Channels of an image."""
        return int(self._option("in_chans"))

    @Fact
    def feature_size(self) -> tuple[int, int]:
        """(rows, columns) of what the backbone gives."""
        return grid_of(self._now()._options())

    @Fact
    def feature_ratio(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels of the image."""
        size: tuple[int, int] = self._option("patch_size")
        return size

    @Fact
    def feature_dim(self) -> int:
        """Channels of what the backbone gives, C."""
        return int(self._option("embed_dim"))


class ConvStem(Sequential[Module]):
    """Three convolutions, by index, whose kernels are their strides: images (B,
    in_chans, H, W) give (B, C, rows, columns). timm's ConvStem."""

    __slots__ = ()

    def forward(self, x: Any) -> Float32:
        """The same as calling it."""
        now, images = self._now(), _core.as_float32(x, "x")
        rows = now._run_part("patch_embed", images)  # which has checked them
        grid = now._grid(images.shape[2], images.shape[3])
        maps = rows.reshape(len(images), *grid, -1).transpose(0, 3, 1, 2)
        return like(x, np.ascontiguousarray(maps))


class ConvNormAct(Module):
    """A convolution, BatchNorm and an activation; the last of a stem has the first
    alone. timm.layers.ConvNormAct."""

    __slots__ = ()
    conv = Child[Conv2d]()
    bn = Child["BatchNormAct2d"]()

    @Fact
    def in_channels(self) -> int:
        """Channels that come in."""
        return self._now().param_shapes()[f"{self._path}.conv.weight"][1]

    @Fact
    def out_channels(self) -> int:
        """Channels that come out."""
        return self._now().param_shapes()[f"{self._path}.conv.weight"][0]

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        y = self.conv._compute(now, x)
        norm = self.bn  # of the last an empty Sequential
        return norm._compute(now, y) if isinstance(norm, BatchNormAct2d) else y


class BatchNormAct2d(Module):
    """Channels normed by statistics that were gathered in training, times weight, plus
    bias; then the activation. timm.layers.BatchNormAct2d, in evaluation."""

    __slots__ = ()
    weight = Weight("(channels,)")
    bias = Weight("(channels,)")
    running_mean = Weight("(channels,)")
    running_var = Weight("(channels,)")
    drop = Child[Identity]()
    act = Child[Module]()

    @Fact
    def num_features(self) -> int:
        """Channels."""
        return self._now().param_shapes()[f"{self._path}.weight"][0]

    @Fact
    def eps(self) -> float:
        """What is added to the variance."""
        return 1e-5

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        maps = maps_of(x, now.param_shapes()[f"{self._path}.weight"][0])
        weight, bias, mean, var = (
            now.get_parameter(f"{self._path}.{name}")[:, None, None]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / np.sqrt(var + np.float32(1e-5))
        return now._run_part(f"{self._path}.act", (maps - mean) * scale + bias)
