# SPDX-License-Identifier: Apache-2.0
"""The layers that blocks are made of: torch's, and timm's norms and scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _core
from ...config import all_arguments_of
from .module import Fact, Module, Weight
from .walk import Float32


class Linear(Module):
    """x W^T + b of rows (..., in_features): (..., out_features). torch.nn.Linear."""

    __slots__ = ()
    weight = Weight("(out_features, in_features)")
    bias = Weight("(out_features,), or None")

    def _shape(self) -> tuple[int, ...]:
        return self._now().param_shapes()[f"{self._path}.weight"]

    @Fact
    def in_features(self) -> int:
        """Numbers of a row that goes in."""
        return self._shape()[1]

    @Fact
    def out_features(self) -> int:
        """Numbers of a row that comes out."""
        return self._shape()[0]


class Conv2d(Module):
    """The convolution that embeds patches: images (B, in_channels, H, W) give (B,
    out_channels, rows, columns). torch.nn.Conv2d of kernel and stride patch_size."""

    __slots__ = ()
    weight = Weight("(out_channels, in_channels, rows, columns)")
    bias = Weight("(out_channels,), or None")

    @Fact
    def in_channels(self) -> int:
        """Channels that come in, of an image."""
        return self._shape()[1]

    @Fact
    def out_channels(self) -> int:
        """Channels that come out, the width of a token, C."""
        return self._shape()[0]

    @Fact
    def kernel_size(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        _, _, height, width = self._shape()
        return height, width

    @Fact
    def stride(self) -> tuple[int, int]:
        """The same: patches lie side by side."""
        return self.kernel_size

    def _shape(self) -> tuple[int, ...]:
        return self._now().param_shapes()[f"{self._path}.weight"]

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        if self._path.startswith("patch_embed.backbone."):
            return self._of_stem(now, x)
        x = _core.as_float32(x, "x")
        rows = super()._compute(now, x)  # which has checked x
        height, width = now._options()["patch_size"]
        grid = x.shape[2] // height, x.shape[3] // width
        maps = rows.reshape(len(x), *grid, -1).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(maps)

    def _of_stem(self, now: _core.VisionTransformer, x: Any) -> Float32:
        """One of ConvStem's, which the core runs together with the others."""
        weight = now.get_parameter(f"{self._path}.weight")
        outputs, channels, height, width = weight.shape
        maps = maps_of(x, channels)
        rows, columns = maps.shape[2] // height, maps.shape[3] // width
        whole = maps[:, :, : rows * height, : columns * width]
        patches = whole.reshape(len(maps), channels, rows, height, columns, width)
        patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(-1, weight[0].size)
        found = patches @ weight.reshape(outputs, -1).T
        found = found.reshape(len(maps), rows, columns, outputs).transpose(0, 3, 1, 2)
        bias = f"{self._path}.bias"
        if bias in now.param_shapes():
            found = found + now.get_parameter(bias)[:, None, None]
        return np.ascontiguousarray(found)


def maps_of(x: Any, channels: int) -> Float32:
    """x as maps (B, channels, height, width); ValueError: another shape."""
    maps = _core.as_float32(x, "x")
    if maps.ndim != 4 or maps.shape[1] != channels:
        raise ValueError(
            f"x must have shape (B, {channels}, height, width), not {maps.shape}"
        )
    return maps


class _Norm(Module):
    __slots__ = ()

    @Fact
    def normalized_shape(self) -> tuple[int, ...]:
        """(numbers of a row,)."""
        return self._now().param_shapes()[f"{self._path}.weight"]

    @Fact
    def eps(self) -> float:
        """What is added to the variance, or to the mean square."""
        if self._path.endswith(".sub_norm"):
            return 1e-5  # timm.layers.DiffAttention's own
        arguments = all_arguments_of(self._now()._options())
        embedding = self._path in ("patch_embed.norm", "embeds.norm")
        norm = arguments["embed_norm_layer" if embedding else "norm_layer"]
        return float(norm[1])

    @Fact
    def elementwise_affine(self) -> bool:
        """Are there weights? Always."""
        return True


class LayerNorm(_Norm):
    """Rows (..., n) with mean 0 and variance 1, times weight, plus bias.
    timm.layers.LayerNorm."""

    __slots__ = ()
    weight = Weight("(n,)")
    bias = Weight("(n,)")


class RmsNorm(_Norm):
    """Rows (..., n) divided by their root mean square, times weight.
    timm.layers.RmsNorm."""

    __slots__ = ()
    weight = Weight("(n,)")


class LayerScale(Module):
    """Rows (..., C) times gamma. timm.layers.LayerScale."""

    __slots__ = ()
    gamma = Weight("(C,)")

    @Fact
    def init_values(self) -> float:
        """What gamma began with."""
        return float(all_arguments_of(self._now()._options())["init_values"])


class Identity(Module):
    """x as it is: what stands where a model has no such part. torch.nn.Identity."""

    __slots__ = ()

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        return _core.as_float32(x, "x")


class Dropout(Identity):
    """x as it is: nothing is dropped at inference. torch.nn.Dropout."""

    __slots__ = ()

    @Fact
    def p(self) -> float:
        """0: drop rates are not kept; RelPosMlp's own is 0.125."""
        return 0.125 if self._path.endswith("rel_pos.mlp.drop1") else 0.0


class GELU(Module):
    """x / 2 (1 + erf(x / sqrt 2)) of each number. torch.nn.GELU."""

    __slots__ = ()


class GELUTanh(Module):
    """GELU with tanh in place of erf, of each number. timm.layers.GELUTanh."""

    __slots__ = ()


class QuickGELU(Module):
    """x sigmoid(1.702 x) of each number. timm.layers.QuickGELU."""

    __slots__ = ()


class SiLU(Module):
    """x sigmoid(x) of each number. torch.nn.SiLU."""

    __slots__ = ()


class ReLU(Module):
    """max(x, 0) of each number. torch.nn.ReLU."""

    __slots__ = ()


class Sigmoid(Module):
    """1 / (1 + exp(-x)) of each number. torch.nn.Sigmoid."""

    __slots__ = ()

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        # exp of a large number would be infinite, tanh is not
        half = np.tanh(_core.as_float32(x, "x") * np.float32(0.5))
        return np.asarray(np.float32(0.5) * half + np.float32(0.5))
