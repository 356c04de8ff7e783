# SPDX-License-Identifier: Apache-2.0
"""What makes tokens of pictures of any size: the embeds of timm.models.naflexvit."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ... import _core
from ..tensors import like
from .layers import Dropout, LayerNorm, Linear
from .module import Child, Fact, Module, Option, Weight
from .sizes import grid_of, prefix_tokens_of
from .walk import Float32


class NaFlexEmbeds(Module):
    """Tokens of pictures of any size: proj, positions, class and register tokens.
    timm.models.naflexvit.NaFlexEmbeds."""

    __slots__ = ()
    cls_token = Weight("(1, 1, C), or None")
    reg_token = Weight("(1, reg_tokens, C), or None")
    pos_embed = Weight("(1, rows, columns, C), or None")
    pos_embed_y = Weight("(1, rows, C), or None")
    pos_embed_x = Weight("(1, columns, C), or None")
    proj = Child[Linear]()
    patch_interpolator = Option["PatchEmbedInterpolator"]()
    norm = Child[LayerNorm]()
    pos_drop = Child[Dropout]()

    @Fact
    def patch_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._option("patch_size")
        return size

    @Fact
    def in_chans(self) -> int:
        """Channels of an image."""
        return int(self._option("in_chans"))

    @Fact
    def embed_dim(self) -> int:
        """Width of a token, C."""
        return int(self._option("embed_dim"))

    @Fact
    def is_linear(self) -> bool:
        """Is proj a Linear, which takes patches that were cut before?"""
        return bool(self._option("embed_linear"))

    @Fact
    def has_class_token(self) -> bool:
        """Is there a class token?"""
        return bool(self._option("class_token"))

    @Fact
    def num_reg_tokens(self) -> int:
        """Register tokens."""
        return int(self._option("reg_tokens"))

    @Fact
    def num_prefix_tokens(self) -> int:
        """Class and register tokens."""
        return prefix_tokens_of(self._now()._options())

    @Fact
    def pos_embed_grid_size(self) -> tuple[int, int]:
        """(rows, columns) of the positions that are kept."""
        return grid_of(self._now()._options())

    @Fact
    def pos_embed_type(self) -> str:
        """'learned', 'factorized' or 'none'."""
        options = self._now()._options()
        return str(options["pos_kind"]) if options["pos_embed"] else "none"

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels a patch: the larger side's, or both."""
        size: tuple[int, int] = self._option("patch_size")
        return max(size) if as_scalar else size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches in an image of (height, width) pixels.

        ValueError: a size that this model does not take.
        """
        return self._now()._grid(*img_size)

    def __call__(  # type: ignore[override] # as timm's, with the grid
        self, x: Any
    ) -> tuple[Float32, tuple[int, int]]:
        """Tokens (B, N, C) of images x, and their (rows, columns) of patches.

        Of patches that were cut before model.forward_features takes more. Errors as
        Module's.
        """
        return self.forward(x)

    def forward(  # type: ignore[override]
        self, x: Any
    ) -> tuple[Float32, tuple[int, int]]:
        """The same as calling it."""
        from ..naflex_positions import positions_on  # which knows the parts

        now = self._now()
        options = now._options()
        images = _core.as_float32(x, "x")
        tokens = now._run_part(self._path, images)  # which has checked them
        grid = now._grid(*images.shape[2:])
        if options["pos_embed"]:
            tokens = tokens + positions_on(now, grid, False)
        shapes = now.param_shapes()
        names = [f"{self._path}.{n}" for n in ("cls_token", "reg_token")]
        prefix = [
            np.repeat(now.get_parameter(name), len(tokens), 0)
            for name in names
            if name in shapes
        ]
        return like(x, np.concatenate([*prefix, tokens], 1)), grid


class _PatchResampler(Module):
    __slots__ = ()

    def forward(self, x: Any) -> NoReturn:
        """NotImplementedError: it is for patches of another size."""
        raise NotImplementedError(
            f"{self._path} does not compute by itself: the model takes patches of any "
            "size, (B, N, rows, columns, channels)"
        )


class PatchEmbedResamplerFixedOrigSize(_PatchResampler):
    """What resamples for one size of patch.
    timm.layers.PatchEmbedResamplerFixedOrigSize."""

    __slots__ = ()


class PatchEmbedInterpolator(_PatchResampler):
    """What lets proj take patches of another size.
    timm.layers.PatchEmbedInterpolator."""

    __slots__ = ()
    resampler = Child[PatchEmbedResamplerFixedOrigSize]()
