# SPDX-License-Identifier: Apache-2.0
"""A batch of cut patches for NaFlexVit: which rows are patches, and where they lie.

timm pads pictures of several shapes to one number of patches and masks the padding.
Here samples whose patches lie on the same grid go through the model together, without
padding; so what comes out for a row of padding is not computed, and zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config.naflex import MOST_SIDE
from ..text import some
from .parts import Float32, prefix_tokens_of

Ints = NDArray[np.intp]

_KEYS = ("patches", "patch_coord", "patch_valid", "attn_mask")
# What timm's collator puts beside them, for its loader.
_UNREAD = {"seq_len"}


class Group(NamedTuple):
    """Samples whose patches lie in the same places."""

    samples: Ints  # (b,), their places in the batch
    rows: Ints  # (b, n), the rows of patches of each
    grid: tuple[int, int]  # rows and columns that the coordinates span
    coord: Ints | None  # (n, 2); None: every place of the grid, line by line


def is_patches(x: Any, patch_coord: Any) -> bool:
    """Are these arguments of forward patches, and not images?"""
    return isinstance(x, Mapping) or patch_coord is not None


class Samples:
    """A batch, checked: samples of `count` patches behind `prefix` other tokens."""

    def __init__(
        self,
        prefix: int,
        valid: NDArray[np.bool_],
        coord: Ints | None,
        patches: Float32 | None = None,
        mask: NDArray[Any] | None = None,
    ) -> None:
        """valid (B, N); coord (B, N, 2), or None: it does not count where patches lie.

        The two classmethods check what a caller gives.
        """
        self.prefix = prefix
        self.batch, self.count = valid.shape
        self.valid = valid
        self._coord = coord
        self._patches = patches
        self._mask = mask
        self.groups = list(self._grouped())

    @classmethod
    def of_patches(
        cls,
        options: Mapping[str, Any],
        x: Any,
        patch_coord: Any,
        patch_valid: Any,
        attn_mask: Any,
    ) -> Samples:
        """x: patches, or a dict of `patches` and `patch_coord` with, if wanted,
        `patch_valid` and `attn_mask`, which count more than the other arguments.
        """
        if isinstance(x, Mapping):
            unknown = set(x) - set(_KEYS) - _UNREAD
            if unknown or "patches" not in x:
                raise ValueError(
                    f"a dict must have the keys {', '.join(map(repr, _KEYS))}, of "
                    f"which the last two may be missing, not "
                    f"{some(sorted(map(repr, x))) or 'none'}"
                )
            patch_coord = x.get("patch_coord", patch_coord)
            patch_valid = x.get("patch_valid", patch_valid)
            attn_mask = x.get("attn_mask", attn_mask)
            x = x["patches"]
        if patch_coord is None:
            raise ValueError("patch_coord must be given with patches")
        patches = _patches(options, x)
        batch, count = patches.shape[:2]
        prefix = prefix_tokens_of(options)
        valid = _valid(patch_valid, batch, count)
        return cls(
            prefix,
            valid,
            _coord(patch_coord, valid),
            patches,
            _mask(attn_mask, batch, prefix + count),
        )

    @classmethod
    def of_tokens(
        cls, options: Mapping[str, Any], tokens: Float32, patch_valid: Any
    ) -> Samples:
        """tokens (B, prefix + N, C), for what does not ask where patches lie."""
        prefix, width = prefix_tokens_of(options), options["embed_dim"]
        shape = tokens.shape
        if len(shape) != 3 or shape[1] <= prefix or shape[2] != width:
            raise ValueError(
                f"patches must have shape (B, N, {width}) with N, the tokens, at least "
                f"{prefix + 1}, not {shape}"
            )
        return cls(prefix, _valid(patch_valid, shape[0], shape[1] - prefix), None)

    def _grouped(self) -> Iterator[Group]:
        found: dict[Any, list[tuple[int, Ints]]] = {}
        for index, valid in enumerate(self.valid):
            rows = np.flatnonzero(valid)
            key: Any = (1, len(rows), None)
            if self._coord is not None:
                coord = self._coord[index, rows]
                height, width = (coord.max(0) + 1).tolist()
                whole = len(rows) == height * width and bool(
                    (coord[:, 0] * width + coord[:, 1] == np.arange(len(rows))).all()
                )
                key = (height, width, None if whole else coord.tobytes())
            found.setdefault(key, []).append((index, rows))
        if not found:  # no sample: the model says what comes out of it
            nothing = np.empty(0, np.intp), np.empty((0, self.count), np.intp)
            yield Group(*nothing, (1, self.count), None)
        for (height, width, places), members in found.items():
            samples = np.array([index for index, _ in members], np.intp)
            rows = np.stack([rows for _, rows in members])
            some_of = None
            if places is not None and self._coord is not None:
                some_of = self._coord[samples[0], rows[0]]
            yield Group(samples, rows, (height, width), some_of)

    def patches_of(self, group: Group) -> Float32:
        """(b, n, pixels) of a group, without padding."""
        assert self._patches is not None
        if len(group.samples) == self.batch and group.rows.shape[1] == self.count:
            return self._patches
        dense: Float32 = self._patches[group.samples[:, None], group.rows]
        return dense

    def tokens_in(self, group: Group, tokens: Float32) -> Float32:
        """(b, prefix + n, C) of tokens (B, prefix + N, C)."""
        dense: Float32 = tokens[group.samples[:, None], self.tokens_of(group)]
        return dense

    def tokens_of(self, group: Group) -> Ints:
        """(b, prefix + n): the tokens of each sample among its padded ones."""
        prefix = np.arange(self.prefix)
        prefix = np.broadcast_to(prefix, (len(group.samples), self.prefix))
        return np.concatenate([prefix, group.rows + self.prefix], 1)

    def mask_of(self, group: Group) -> NDArray[Any] | None:
        """The part of attn_mask that is between a group's own tokens."""
        if self._mask is None:
            return None
        tokens = self.tokens_of(group)
        parts = []
        for sample, own in zip(group.samples, tokens, strict=True):
            part = self._mask[sample % len(self._mask)]
            part = part if part.shape[1] == 1 else part[:, own]
            parts.append(part[:, :, own])
        return np.stack(parts)

    def put(self, group: Group, part: Float32, whole: Float32 | None) -> Float32:
        """Puts a group's rows (b, C), or tokens (b, prefix + n, C), among those of all,
        which are zeros until then."""
        axes = part.shape[2:]
        if part.ndim == 2:
            shape: tuple[int, ...] = (self.batch, part.shape[1])
        else:
            shape = (self.batch, self.prefix + self.count, *axes)
        if whole is None:
            whole = np.zeros(shape, np.float32)
        if part.ndim == 2:
            whole[group.samples] = part
        else:
            whole[group.samples[:, None], self.tokens_of(group)] = part
        return whole

    def put_weights(
        self, group: Group, part: Float32, whole: Float32 | None, pool: bool
    ) -> Float32:
        """The same of attention weights (b, H, n, n) or, of a pool, (b, H, 1, n)."""
        tokens = self.tokens_of(group)
        keys = tokens if part.shape[3] == tokens.shape[1] else group.rows
        if whole is None:
            size = self.count + keys.shape[1] - group.rows.shape[1]
            shape = (self.batch, part.shape[1], 1 if pool else size, size)
            whole = np.zeros(shape, np.float32)
        for sample, own, weights in zip(group.samples, keys, part, strict=True):
            queries = np.zeros(1, np.intp) if pool else own
            whole[sample][:, queries[:, None], own] = weights
        return whole


def patch_size_of(options: Mapping[str, Any], x: Any) -> tuple[int, int]:
    """The size of patches x, or of a dict's: their own where they have five axes and
    the model takes any, else the model's."""
    size: tuple[int, int] = options["patch_size"]
    patches = x.get("patches") if isinstance(x, Mapping) else x
    shape: Any = getattr(patches, "shape", ())
    if options["patch_interpolator"] and len(shape) == 5:
        height, width = shape[2:4] if options["patchify_channels_last"] else shape[3:5]
        size = int(height), int(width)
    return size


def _patches(options: Mapping[str, Any], x: Any) -> Float32:
    patches = _core.as_float32(x, "patches")
    height, width = options["patch_size"]
    pixels = height * width * options["in_chans"]
    shape = patches.shape
    flat = patches
    if len(shape) == 5:
        flat = patches.reshape(*shape[:2], math.prod(shape[2:]))
    if not options["embed_linear"]:
        raise ValueError(
            "patches go into a linear embedding: this model was built with "
            "embed_proj_type='conv'"
        )
    if flat.ndim != 3 or flat.shape[2] != pixels:
        channels = options["in_chans"]
        five = (
            f"{height}, {width}, {channels}"
            if options["patchify_channels_last"]
            else f"{channels}, {height}, {width}"
        )
        raise ValueError(
            f"patches must have shape (B, N, {pixels}) or (B, N, {five}), not {shape}"
        )
    if not shape[1]:
        raise ValueError(f"patches must be at least one of each sample, not {shape}")
    return flat


def _valid(patch_valid: Any, batch: int, count: int) -> NDArray[np.bool_]:
    if patch_valid is None:
        return np.ones((batch, count), bool)
    array = np.asarray(patch_valid)
    if array.dtype != bool and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"patch_valid must be bool, not {array.dtype}")
    if array.shape != (batch, count):
        raise ValueError(
            f"patch_valid must have shape ({batch}, {count}), not {array.shape}"
        )
    valid = array.astype(bool)
    empty = np.flatnonzero(~valid.any(1))
    if len(empty):
        raise ValueError(f"patch_valid leaves sample {empty[0]} without a patch")
    return valid


def _coord(patch_coord: Any, valid: NDArray[np.bool_]) -> Ints:
    """Of padding anything may stand there, as -1."""
    array = np.asarray(patch_coord)
    batch, count = valid.shape
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"patch_coord must be integers, not {array.dtype}")
    if array.shape != (batch, count, 2):
        raise ValueError(
            f"patch_coord must have shape ({batch}, {count}, 2), (y, x) of each patch, "
            f"not {array.shape}"
        )
    used = array[valid]
    if used.size and not 0 <= used.min() <= used.max() < MOST_SIDE:
        raise ValueError(
            f"patch_coord must be from 0 to {MOST_SIDE - 1}, not from {used.min()} to "
            f"{used.max()}"
        )
    return array.astype(np.intp)


def _mask(attn_mask: Any, batch: int, tokens: int) -> NDArray[Any] | None:
    """attn_mask with all four axes; those of batch, heads and queries may be 1."""
    if attn_mask is None:
        return None
    mask = np.asarray(attn_mask)
    if mask.dtype != bool:
        mask = _core.as_float32(attn_mask, "attn_mask")
    shape = mask.shape
    mask = mask.reshape((1,) * (4 - mask.ndim) + shape) if mask.ndim < 4 else mask
    fits = len(shape) in (2, 3, 4) and mask.shape[3] == tokens
    if not fits or mask.shape[0] not in (1, batch) or mask.shape[2] not in (1, tokens):
        raise ValueError(
            f"attn_mask must broadcast to ({batch}, H, {tokens}, {tokens}) with a "
            f"whole last axis, not shape {shape}"
        )
    return mask
