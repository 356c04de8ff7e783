# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding: timm's modules, and what blocks are given of it.

timm's embedding of a grid is (N, 2 D): the sines of each place's D angles, then the
cosines. The core's table is (N, 2 D) as well: cosines, then the sines, each with the
sign that the other number of its pair has in the rotation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ...config import as_int, as_pair
from ..tensors import like
from .module import Fact, Module, Weight
from .sizes import grid_of, prefix_tokens_of
from .walk import Float32


def signs(options: Mapping[str, Any]) -> Float32:
    """(D,): -1 where rot(x) is minus the other number of a pair, else 1.

    rot(x) is (-x1, x0, -x3, x2, ...), or of the half layout (-second half, first).
    """
    width = head_width(options)
    sign = np.ones(width, np.float32)
    sign[slice(width // 2) if options["rope_rotate_half"] else slice(0, None, 2)] = -1
    return sign


def head_width(options: Mapping[str, Any]) -> int:
    """Numbers of a head's query, D."""
    return int(options["embed_dim"]) // int(options["num_heads"])


def table_of(
    now: _core.VisionTransformer, rope: Any, index: int, tokens: int
) -> Float32 | None:
    """What a block's or its attention's rope= means to the core; None: its own table.

    rope: "own"; None: no rotation; or timm's embedding of another grid, (N, 2 D), of
    mixed models (H, N, 2 D). tokens: those of x. ValueError: another shape.
    """
    if isinstance(rope, str) and rope == "own":
        return None
    options = now._options()
    if options["rope"] == "none":
        if rope is None:
            return None
        raise ValueError("rope must be None: this model has no rotary embedding")
    width, heads = head_width(options), int(options["num_heads"])
    patches = max(tokens - prefix_tokens_of(options), 0)
    mixed, shape = options["rope"] == "mixed", (patches, 2 * width)
    if rope is None:  # turned by an angle of 0
        table = np.zeros(shape, np.float32)
        table[:, :width] = 1
    else:
        given = _core.as_float32(rope, "rope")
        allowed = [shape, (heads, *shape)] if mixed else [shape]
        if given.shape not in allowed:
            raise ValueError(
                f"rope must be 'own', None or sines and cosines of {patches} patches, "
                f"{allowed[-1]}, not {given.shape}"
            )
        table = as_table(given, options)
    if not mixed:
        return table
    of_all = np.zeros((int(options["depth"]), heads, *shape), np.float32)
    of_all[index] = table
    return of_all


def as_table(given: Float32, options: Mapping[str, Any]) -> Float32:
    """timm's sines and cosines (..., 2 D) as the core's cosines and signed sines."""
    sine, cosine = np.split(given, 2, axis=-1)
    return np.concatenate([cosine, sine * signs(options)], axis=-1)


def as_embed(table: Float32, options: Mapping[str, Any]) -> Float32:
    """The core's cosines and signed sines (..., 2 D) as timm's sines and cosines."""
    cosine, sine = np.split(table, 2, axis=-1)
    return np.concatenate([sine * signs(options), cosine], axis=-1)


class _Rotary(Module):
    __slots__ = ()

    @Fact
    def dim(self) -> int:
        """Numbers that are turned together: a head's, D."""
        return head_width(self._now()._options())

    @Fact
    def temperature(self) -> float:
        """The base of the frequencies."""
        return float(self._option("rope_temperature"))

    @Fact
    def feat_shape(self) -> tuple[int, int] | None:
        """(rows, columns) of the model's own grid; None with dynamic_img_size."""
        options = self._now()._options()
        return None if options["dynamic_img_size"] else grid_of(options)

    @Fact
    def grid_indexing(self) -> str:
        """'ij' or 'xy': which of a place's coordinates comes first."""
        return "xy" if self._option("rope_xy") else "ij"

    @Fact
    def rotate_half(self) -> bool:
        """Are pairs half a head apart, or neighbours?"""
        return bool(self._option("rope_rotate_half"))

    def get_embed(self, shape: Sequence[int] | None = None) -> Float32:
        """(N, 2 D): the sines of each place's D angles, then the cosines.

        shape: (rows, columns) of patches; None: the model's own grid. What rope= of a
        block and of its attention takes. ValueError: no such grid.
        """
        return as_embed(*self._table(self._now(), shape))

    def _table(
        self, now: _core.VisionTransformer, shape: Sequence[int] | None
    ) -> tuple[Float32, Mapping[str, Any]]:
        options = now._options()
        if shape is None:
            shape = grid_of(options)
        rows, columns = as_pair(tuple(shape), "shape")
        return now._rope(rows, columns), options

    def forward(self, x: Any) -> Float32:
        """Maps (B, D, rows, columns), each place turned by its angles."""
        return like(x, self._turned(x, 0))

    def _turned(self, x: Any, block_index: int) -> Float32:
        maps = _core.as_float32(x, "x")
        width = self.dim
        if maps.ndim != 4 or maps.shape[1] != width:
            raise ValueError(
                f"x must have shape (B, {width}, rows, columns), not {maps.shape}"
            )
        table, options = self._table(self._now(), maps.shape[2:])
        heads = table[block_index] if table.ndim == 4 else table[None]
        rows = maps.reshape(len(maps), len(heads), -1, maps.shape[2] * maps.shape[3])
        rows = rows.swapaxes(-1, -2)
        cosine, sine = np.split(heads, 2, axis=-1)
        turned = rows * cosine + rows[..., _partners(options)] * sine
        return np.ascontiguousarray(turned.swapaxes(-1, -2)).reshape(maps.shape)


def _partners(options: Mapping[str, Any]) -> NDArray[np.intp]:
    """(D,): which other number is the second of each one's pair."""
    place = np.arange(head_width(options))
    if options["rope_rotate_half"]:
        return np.roll(place, len(place) // 2)
    return place ^ 1


class RotaryEmbeddingCat(_Rotary):
    """Angles of rows for one half of the frequencies, of columns for the other.
    timm.layers.RotaryEmbeddingCat."""

    __slots__ = ()

    @Fact
    def grid_offset(self) -> float:
        """What is added to rows' and columns' numbers."""
        return float(self._option("rope_grid_offset"))

    @Fact
    def ref_feat_shape(self) -> tuple[int, int] | None:
        """(rows, columns) to which a grid is scaled, or None: it is not."""
        rows, columns = self._option("rope_ref")
        return (rows, columns) if rows else None


class RotaryEmbeddingDinoV3(_Rotary):
    """Angles of places between -1 and 1. timm.layers.RotaryEmbeddingDinoV3."""

    __slots__ = ()

    @Fact
    def grid_offset(self) -> float:
        """What is added to rows' and columns' numbers."""
        return float(self._option("rope_grid_offset"))


class RotaryEmbeddingMixed(_Rotary):
    """Angles of rows and columns together, of learned frequencies of each block and
    head. timm.layers.RotaryEmbeddingMixed."""

    __slots__ = ()
    freqs = Weight("(2, depth, H, D / 2)")

    @Fact
    def dim(self) -> int:
        """Numbers that are turned together: all heads', C."""
        return int(self._option("embed_dim"))

    @Fact
    def depth(self) -> int:
        """Blocks that have frequencies of their own."""
        return int(self._option("depth"))

    @Fact
    def num_heads(self) -> int:
        """Heads, H."""
        return int(self._option("num_heads"))

    def get_embed(self, shape: Sequence[int] | None = None) -> Float32:
        """(depth, H, N, 2 D): as RotaryEmbeddingCat's, of each block and head.

        A block takes its own, [i], as rope=.
        """
        return super().get_embed(shape)

    def __call__(self, x: Any, block_index: int = 0) -> Float32:
        """Maps (B, C, rows, columns), each place turned by a block's angles."""
        return self.forward(x, block_index)

    def forward(self, x: Any, block_index: int = 0) -> Float32:
        """The same as calling it."""
        index = as_int(block_index, "block_index")
        if index >= self.depth:
            raise ValueError(
                f"block_index must be from 0 to {self.depth - 1}, not {index}"
            )
        return like(x, self._turned(x, index))
